# torchvision's ResNet-50 with a linear head. Mean and std are ImageNet's, RGB, 0-255.
model = dict(
    type="BackboneClassifier",
    backbone=dict(arch="resnet50"),
    num_classes=1000,
    loss=dict(type="CrossEntropyLoss"),
    data_preprocessor=dict(
        type="ClassificationPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
)
