# A network for 32 px images with a linear head. Mean and std are those of CIFAR-100's training pixels, RGB, 0-255.
model = dict(
    type="BackboneClassifier",
    backbone=dict(arch="resnet56"),
    num_classes=100,
    loss=dict(type="CrossEntropyLoss"),
    data_preprocessor=dict(
        type="ClassificationPreprocessor",
        mean=[129.3, 124.1, 112.4],
        std=[68.2, 65.4, 70.4],
    ),
)
