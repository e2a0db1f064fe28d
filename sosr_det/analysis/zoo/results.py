"""The file of a sweep's results: read, added to as families end, and rendered as a table."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.analysis.zoo.families import Family
from sosr_det.analysis.zoo.result import Trial
from sosr_det.errors import ConfigError

SCHEMA = 1


@dataclass
class Results:
    """Everything a sweep found.

    Attributes:
        environment: versions, what provides mmcv's ops, the backbone and the image size: what results depend on.
        trials: by config.
        without: family -> why it has no config with such a ResNet.
    """

    environment: dict[str, Any]
    trials: dict[str, Trial] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)

    def add(self, trial: Trial) -> None:
        """Keep a trial; it replaces an older one of the same config."""
        self.trials[trial.config] = trial

    def note(self, families: list[Family]) -> None:
        """Keep which families have no config to try."""
        for family in families:
            if family.config is None:
                self.without[family.name] = family.why_none or "unknown"

    def passed(self) -> list[Trial]:
        """Trials that passed every stage, by config."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.passed]

    def failed(self) -> list[Trial]:
        """The others."""
        return [trial for _, trial in sorted(self.trials.items()) if not trial.passed]

    def passed_families(self) -> set[str]:
        """Families of which a config passed."""
        return {trial.family for trial in self.passed()}

    def write(self, path: str | Path) -> None:
        """Write the file whole or not at all."""
        path = Path(path)
        document = {
            "schema": SCHEMA,
            "environment": self.environment,
            "trials": [trial.to_dict() for _, trial in sorted(self.trials.items())],
            "without": dict(sorted(self.without.items())),
        }
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Read what :meth:`write` wrote.

        Raises:
            ConfigError: no such file, or not one of these.
        """
        try:
            document = json.loads(Path(path).read_text())
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']}, expected {SCHEMA}")
            trials = [Trial.from_dict(trial) for trial in document["trials"]]
            return cls(document["environment"], {t.config: t for t in trials}, dict(document["without"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} holds no results of `sosr-det zoo`: {error!r}") from error


def environment(uri: str, digest: str | None, arch: str | None, image_size: int) -> dict[str, Any]:
    """What results depend on.

    Args:
        uri: of the backbone.
        digest: of its tensors, where it is an entry.
        arch: its architecture, where known.
        image_size: pixels.
    """
    import platform
    from importlib import metadata

    from sosr_det.compat import mmcv_ops_provider

    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine", *OPTIONAL):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "backbone": {"uri": uri, "tensors_digest": digest, "arch": arch},
        "image_size": image_size,
        "mmcv_ops": mmcv_ops_provider(),
        "versions": versions,
    }


# Packages that some families need, and sosr-det does not.
OPTIONAL = ("scikit-learn", "scikit-image", "onedl-mmpretrain", "transformers")
