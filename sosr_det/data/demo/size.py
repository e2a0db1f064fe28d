"""How many images the demo data has."""

from dataclasses import dataclass, fields

from sosr_det.data.demo.kinds import KINDS

# Below this some object kind would have no image, and a class without ground truth drops out of the mean AP.
MIN_VOC_IMAGES = len(KINDS)
# VOC2007's test images are numbered from one past this, so that their ids don't hang on how many trainval images exist.
MAX_VOC_IMAGES = 5000


@dataclass(frozen=True)
class DemoSize:
    """Image counts of the demo data; the defaults take about 20 seconds and 22 MB of disk.

    Args:
        imagenet_train_per_class: 1 or more, for each of 20 classes.
        imagenet_val_per_class: 1 or more.
        cub_train_per_class: 1 or more, for each of 16 classes.
        cub_test_per_class: 1 or more.
        voc2007_trainval: 20 (one image for each class) to 5000.
        voc2007_test: 20 to 5000.
        voc2012_trainval: 20 to 5000.

    Raises:
        ValueError: a count is out of its range or not an integer.
    """

    imagenet_train_per_class: int = 60
    imagenet_val_per_class: int = 15
    cub_train_per_class: int = 30
    cub_test_per_class: int = 15
    voc2007_trainval: int = 200
    voc2007_test: int = 120
    voc2012_trainval: int = 200

    def __post_init__(self) -> None:
        for field in fields(self):
            count, is_voc = getattr(self, field.name), field.name.startswith("voc")
            low, high = (MIN_VOC_IMAGES, MAX_VOC_IMAGES) if is_voc else (1, None)
            if isinstance(count, bool) or not isinstance(count, int):
                raise ValueError(f"{field.name} must be an integer, got {count!r}")
            if count < low or (high is not None and count > high):
                allowed = f"{low} or more" if high is None else f"{low} to {high}"
                raise ValueError(f"{field.name} must be {allowed}, got {count}")
