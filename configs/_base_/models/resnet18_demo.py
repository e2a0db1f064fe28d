# The classifier of the demo: ResNet-18 at 64 px with the head sized to the demo data.
_base_ = "resnet50_classifier.py"
model = dict(backbone=dict(arch="resnet18"), num_classes=20)
