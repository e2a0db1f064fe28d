"""What a trial found, as plain data that goes into a JSON file and comes back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# In their order. `load` reads the config, `swap` puts the backbone in, `build` makes the model and initialises it,
# `transfer` compares every tensor of the live backbone with the entry's, `train` is one step, `predict` one image.
STAGES = ("load", "swap", "build", "transfer", "train", "predict")


@dataclass
class Trial:
    """One config's way through the stages."""

    family: str
    config: str
    seconds: dict[str, float] = field(default_factory=dict)  # of each stage that passed
    failed: str | None = None  # the stage that did not
    reason: str | None = None
    backbones: list[str] = field(default_factory=list)  # where the config has them: model.backbone
    tensors: int = 0  # that were compared bit for bit, over all live backbones
    extra: list[str] = field(default_factory=list)  # exceptions that the swap needed, by name
    adjusted: list[str] = field(default_factory=list)  # what was changed in the config besides the backbone
    loss: float | None = None
    updated: str | None = None  # "211 of 290 parameters"
    predicted: str | None = None  # "100 bboxes"

    @property
    def passed(self) -> bool:
        """Whether every stage passed."""
        return self.failed is None and set(self.seconds) == set(STAGES)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; see :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Trial:
        """Read what :meth:`to_dict` gave.

        Raises:
            TypeError: unknown or missing fields.
        """
        return cls(**data)
