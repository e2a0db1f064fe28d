# Paper: Selective Output Smoothing Regularization (https://arxiv.org/abs/2103.15383), section 3.4 and Table 8:
#   RetinaNet on ResNet-50-FPN, VOC07+12 trainval, VOC2007 test: 70.17±0.02 mAP, and 71.14±0.06 from the SOSR backbone.
# Twins …-{tv,ce,sosr}-pre_…: torchvision's ImageNet weights, ours by cross-entropy, ours by SOSR. They differ in the
#   last line alone. Table 8's rows are ce (or tv: whose "pretrained model" it is, is not said) and sosr.
# Command: tools/train_det.sh detection/retinanet_r50-ce-pre_fpn_paper30e_voc0712
# Then: tools/test_det.sh detection/retinanet_r50-ce-pre_fpn_paper30e_voc0712
#   work_dirs/retinanet_r50-ce-pre_fpn_paper30e_voc0712
# Expected: Table 8 (its spread is of an unstated number of runs). Time: not measured. Not run on this project's
#   machines.
# Stated in the paper: RetinaNet on FPN with its own paper's anchors; 30 epochs; start lr 1e-5; "decrease it by 0.1
#   after the 3rd epoch if the loss still hasn't improved then", which is how PyTorch's documentation explains
#   ReduceLROnPlateau(patience=2).
# Not stated, taken from the public implementation that this wording fits (https://github.com/yhenon/pytorch-retinanet,
#   train.py: Adam 1e-5 and ReduceLROnPlateau on the epoch's mean training loss; there with patience=3, the 4th bad
#   epoch): the optimizer, Adam without weight decay; 2 images a step; gradients clipped at norm 0.1; at most 1024 x 608
#   px, flip as the only augmentation; batch norm statistics frozen, all layers trained; boxes of every size; which
#   loss: the training loss.
# Not stated, chosen here: patience=2, as the sentence says; losses and their weights are MMDetection's; difficult boxes
#   are neither objects nor background in training (there every box is an object); which epoch is reported (--select-on)
#   and which AP (both are: 11-point and area). "Fine-tuned ResNet-50" is read as "pretrained".
# With more images a step the rate stays 1e-5, and a line says so. Needs VOC under data/VOCdevkit (or --data-root,
#   $SOSR_DATA).
_base_ = [
    "../_base_/models/retinanet_r50_fpn.py",
    "../_base_/datasets/voc0712_608.py",
    "../_base_/schedules/voc0712_paper30e.py",
    "../_base_/runtime/detection.py",
]
model = dict(backbone=dict(frozen_stages=-1, init_cfg=dict(checkpoint="sosr://resnet50-in1k-ce")))
