# A CIFAR-style network on 64 px images. Mean and std are those of Tiny ImageNet's training pixels, RGB, 0-255.
model = dict(
    type="BackboneClassifier",
    backbone=dict(arch="resnet56"),
    num_classes=200,
    loss=dict(type="CrossEntropyLoss"),
    data_preprocessor=dict(
        type="ClassificationPreprocessor",
        mean=[122.5, 114.3, 101.4],
        std=[70.6, 68.6, 71.9],
    ),
)
