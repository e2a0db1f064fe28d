"""How each data set of the paper is trained, and what each technique changes.

A setting is given with its source: the paper; its authors' public code, which came later and states what the paper
leaves to supplementary material that is not public; or a choice of this project.
"""

from __future__ import annotations

from dataclasses import dataclass, field

AUTHORS_CODE = "https://github.com/cs-xuancheng/SelectiveOutputSmoothing"

THRESHOLD = 0.99  # P: sections 3.1 and 3.2 state it for every table but ImageNet's, Table 3


class Expression(str):
    """Python source inside a config, such as a variable of the bases."""


@dataclass(frozen=True)
class Model:
    """A network of the paper: its name for :func:`sosr_det.models.build_backbone`, and what is uncertain about it."""

    arch: str
    note: str = ""


_BASIC_BLOCKS = (
    "{} of basic blocks, as He et al. published it for CIFAR (arXiv:1512.03385, section 4.2), where the authors' code "
    "has bottlenecks (model.backbone.arch={}_bottleneck)"
)

MODELS = {
    "resnet18": Model("resnet18"),
    "resnet50": Model("resnet50"),
    "resnet56": Model("resnet56", _BASIC_BLOCKS.format("ResNet-56", "resnet56")),
    "resnet110": Model("resnet110", _BASIC_BLOCKS.format("ResNet-110", "resnet110")),
    "vgg19-bn": Model(
        "vgg19_bn_32px", "VGG-19's three linear layers are replaced by one, as is usual at 32 px"
    ),
    "regnetx-200mf": Model("regnetx_200mf_32px", "strides of the 224 px network dropped to suit 32 px"),
    "densenet100-12": Model(
        "densenet100_k12_bc", "DenseNet-BC, whose published accuracy the baseline matches"
    ),
    "wrn28-10": Model("wrn28_10"),
    "pyramidnet110-48": Model("pyramidnet110_a48"),
    "pyramidnet110-84": Model("pyramidnet110_a84"),
    "mobilenet": Model("mobilenet_32px", "strides of the 224 px network dropped to suit 32 px"),
    "mobilenetv2": Model("mobilenetv2_32px", "strides of the 224 px network dropped to suit 32 px"),
    "seresnet110": Model("seresnet110", "basic blocks"),
}


@dataclass(frozen=True)
class Data:
    """A data set and the recipe that the paper's experiments on it share.

    Attributes:
        title: its name in prose.
        stage: ``pretrain`` or ``finetune``: folder and script of its configs.
        recipe: ``{gpus}xb{batch}-{epochs}e``, the recipe's part of a config name.
        publish: the data set's part of the published name.
        bases: what its configs inherit from, relative to their own folder.
        num_runs: how many runs the paper's accuracies are means of.
        beta: weight of the SOSR term.
        beta_stated_for: the tables for which the paper states beta.
        beta_reason: why this beta where the paper states none.
        threshold_reason: why this P where the paper states none: for the figures.
        batch_pipeline: whether whole batches are augmented (else image by image).
        fill: mean colour, RGB, 0-255.
        cutmix_probability: how many batches CutMix mixes, 0 none to 1 all.
        needs: the data to place, and where.
        stated, from_code, chosen: the settings by source, as phrases.
        hand_written: the configs are files; nothing is generated.
    """

    title: str
    stage: str
    recipe: str
    publish: str
    bases: tuple[str, ...] = ()
    num_runs: int = 4
    beta: float = 0.5
    beta_stated_for: tuple[int, ...] = ()
    beta_reason: str = ""
    threshold_reason: str = ""
    batch_pipeline: bool = True
    num_classes: int = 0
    fill: tuple[int, int, int] = (0, 0, 0)
    cutmix_probability: float = 0.5
    needs: str = ""
    stated: str = ""
    from_code: str = ""
    chosen: tuple[str, ...] = ()
    hand_written: bool = False


def _small_bases(model: str, data: str) -> tuple[str, ...]:
    return (
        f"../_base_/models/{model}.py",
        f"../_base_/datasets/{data}.py",
        "../_base_/schedules/small_images_300e.py",
        "../_base_/runtime/classification.py",
    )


_CIFAR_CODE = (
    "batch 128, SGD with momentum 0.9, lr 0.1 divided by 10 at epochs 150 and 225, weight decay 1e-4, 4 px of black "
    "padding before the crop"
)
_CIFAR_FILES = (
    "torchvision's files, or class folders {{train,test}}/<class>/; "
    "`sosr-det data prepare {} --root data` gets it"
)

_FIGURE_SCRIPT = "the default of the script for this figure in the authors' code"

DATA = {
    "cifar10": Data(
        title="CIFAR-10",
        stage="pretrain",
        recipe="1xb128-300e",
        publish="cifar10",
        bases=_small_bases("small_cifar10", "cifar10_32"),
        num_classes=10,
        fill=(125, 123, 114),
        needs="CIFAR-10 under data/cifar10: " + _CIFAR_FILES.format("cifar10"),
        stated="the network, the data set and the 2-D features (section 3.3)",
        from_code=f"300 epochs, {_CIFAR_CODE}",
        beta=1.0,
        beta_reason=f"beta = 1, {_FIGURE_SCRIPT}",
        threshold_reason=f"P = {THRESHOLD}, {_FIGURE_SCRIPT}",
        chosen=("mean and std of CIFAR-10",),
    ),
    "cifar100": Data(
        title="CIFAR-100",
        stage="pretrain",
        recipe="1xb128-300e",
        publish="cifar100",
        bases=_small_bases("small_cifar100", "cifar100_32"),
        num_classes=100,
        fill=(129, 124, 112),
        needs="CIFAR-100 under data/cifar100: " + _CIFAR_FILES.format("cifar100"),
        stated="300 epochs (section 2.1), random crop and flip (section 3.1)",
        from_code=_CIFAR_CODE,
        beta_stated_for=(5,),
        beta_reason="beta = 0.5, which section 3.2 states for Table 5, where ResNet-56's 74.70 of Table 1 returns",
        threshold_reason=f"P = {THRESHOLD}, as for Table 1",
        chosen=("mean and std of CIFAR-100",),
    ),
    "tiny-imagenet": Data(
        title="Tiny ImageNet",
        stage="pretrain",
        recipe="1xb128-300e",
        publish="tin200",
        bases=_small_bases("small_tiny_imagenet", "tiny_imagenet_64_in_memory"),
        num_classes=200,
        fill=(122, 114, 101),
        needs="Tiny ImageNet under data/tiny-imagenet-200, in its original layout; "
        "`sosr-det data prepare tiny-imagenet --root data` gets it",
        stated="64 px",
        beta_stated_for=(6,),
        beta_reason="beta = 0.5, which section 3.2 states for Table 6",
        chosen=(
            "the recipe of CIFAR-100: 300 epochs, batch 128, SGD with momentum 0.9, lr 0.1 divided by 10 at epochs "
            "150 and 225, weight decay 1e-4",
            "crop after 8 px of padding, and flip",
        ),
    ),
    "in1k": Data(
        title="ImageNet", stage="pretrain", recipe="8xb32-90e", publish="in1k", num_runs=2, hand_written=True
    ),
    "cub200": Data(
        title="CUB-200-2011",
        stage="finetune",
        recipe="1xb32-95e",
        publish="cub200",
        beta=1.0,
        beta_stated_for=(7,),
        beta_reason="beta = 1, which section 3.2 states for Table 7, where ResNet-50's 85.94 of Table 4 returns",
        batch_pipeline=False,
        num_classes=200,
        fill=(124, 116, 104),
        cutmix_probability=1.0,
        needs="CUB-200-2011 under data/CUB_200_2011, and sosr://resnet50-in1k-ce in the registry (Table 3's baseline) "
        "or another --backbone",
        stated="95 epochs, lr 0.001 divided by 10 every 30 epochs (section 3.1), the start from an ImageNet backbone",
        chosen=("448 px input, batch size, optimizer (see the bases)",),
    ),
}


@dataclass(frozen=True)
class Technique:
    """A technique of section 3.2 that SOSR is combined with.

    Attributes:
        title: its name in prose.
        stated: what the paper says of it.
        stated_with_sosr: what the paper says of the combination.
        chosen: what this project chose, by data set; the empty key holds for all of them.
        base_loss: what replaces plain cross-entropy.
    """

    title: str
    stated: str = ""
    stated_with_sosr: str = ""
    chosen: dict[str, str] = field(default_factory=dict)
    base_loss: dict | None = None


_HALF = "CutMix with alpha 1 on half of the batches, as on CIFAR"
_ALL = "CutMix with alpha 1 on every batch, as on ImageNet"
_CUTMIX_CODE = "in its public code (https://github.com/clovaai/CutMix-PyTorch)"

TECHNIQUES = {
    "": Technique("plain cross-entropy"),
    "cutout": Technique(
        "Cutout",
        stated="Cutout of 8x8 px (section 3.2)",
        chosen={
            "": "one square in every image, filled with the mean colour",
            "cub200": "8 px taken literally, though at 448 px they are 0.03 % of the image",
        },
    ),
    "cutmix": Technique(
        "CutMix",
        stated_with_sosr="over-confident where the two labels' probabilities sum to more than P, both logits kept "
        "(section 3.2)",
        chosen={
            "cifar100": f"{_HALF} {_CUTMIX_CODE}",
            "tiny-imagenet": f"{_HALF} {_CUTMIX_CODE}",
            "cub200": f"{_ALL} {_CUTMIX_CODE}",
        },
    ),
    "autoaugment": Technique(
        "AutoAugment",
        chosen={
            "": "its CIFAR-10 policy after crop and flip, without its paper's Cutout: one technique a row"
        },
    ),
    "fast-autoaugment": Technique(
        "Fast AutoAugment",
        chosen={
            "": "its policy for reduced CIFAR-10 before crop and flip, as in its public code "
            "(https://github.com/kakaobrain/fast-autoaugment), without that code's Cutout: one technique a row"
        },
    ),
    "label-smoothing": Technique(
        "label smoothing",
        stated="label smoothing 0.1 (section 3.2)",
        base_loss={"type": "CrossEntropy", "label_smoothing": 0.1},
    ),
    "confidence-penalty": Technique(
        "confidence penalty",
        stated="confidence penalty of weight 0.1 (section 3.2)",
        base_loss={"type": "ConfidencePenalty", "weight": 0.1},
    ),
}
