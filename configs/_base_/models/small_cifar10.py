# A network for 32 px images with a linear head. Mean and std are those of CIFAR-10's training pixels, RGB, 0-255.
model = dict(
    type="BackboneClassifier",
    backbone=dict(arch="resnet56"),
    num_classes=10,
    loss=dict(type="CrossEntropyLoss"),
    data_preprocessor=dict(
        type="ClassificationPreprocessor",
        mean=[125.3, 123.0, 113.9],
        std=[63.0, 62.1, 66.7],
    ),
)
