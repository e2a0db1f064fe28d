"""What an import took, left out, changed and assumed, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_EXAMPLES = 3


@dataclass
class ImportReport:
    """Everything that happened between a file and an entry.

    Attributes:
        source: as it was asked for, in full (a torchvision or timm name with its version, or the file's name).
        file, file_sha256, file_bytes: what was read.
        project, project_why: who wrote it, and how that is known.
        key: where the tensors lay in the file, "." for the top level.
        prefix: what was stripped from their names.
        arch, arch_why: the network and how it was recognised.
        num_tensors, num_parameters: of the backbone.
        left_out: group -> count and examples of what was not taken, by full name.
        filled: names of counters that the file lacks and that are stored as 0.
        converted: dtype in the file -> how many tensors were converted from it, exactly.
        style, style_why; preprocessing, preprocessing_why; license, license_why: what, and from where.
        metrics, num_classes, data: what is said about the training.
        assumptions: what was decided or taken for granted, one sentence each.
    """

    source: str
    file: str
    file_sha256: str
    file_bytes: int
    project: str = "unknown"
    project_why: str = ""
    key: str = "."
    prefix: str = ""
    arch: str = ""
    arch_why: str = ""
    num_tensors: int = 0
    num_parameters: int = 0
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    filled: list[str] = field(default_factory=list)
    converted: dict[str, int] = field(default_factory=dict)
    style: str | None = None
    style_why: str = ""
    preprocessing: str = ""
    preprocessing_why: str = ""
    license: str | None = None
    license_why: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    num_classes: int = 0
    data: str | None = None
    assumptions: list[str] = field(default_factory=list)

    def leave_out(self, group: str, name: str) -> None:
        """Note a tensor that is not taken."""
        entry = self.left_out.setdefault(group, {"count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < _EXAMPLES:
            entry["examples"].append(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def describe(self) -> str:
        """The report as text, a title and a value per line."""
        return "\n".join(f"{title:<14}{value}" for title, value in self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        lines = [
            ("source", self.source),
            ("file", f"{self.file} ({self.file_bytes} bytes, sha256 {self.file_sha256[:16]}…)"),
            ("written by", f"{self.project} ({self.project_why})"),
            ("architecture", f"{self.arch} ({self.arch_why})"),
            ("taken", f"{self.num_tensors} tensors, {self.num_parameters / 1e6:.2f} M parameters"),
        ]
        place = "the top level" if self.key == "." else f"the key {self.key!r}"
        stripped = f"the prefix {self.prefix!r} stripped" if self.prefix else "no prefix to strip"
        lines.append(("", f"from {place}, {stripped}"))
        if self.filled:
            lines.append(("", f"{len(self.filled)} num_batches_tracked that the file lacks are stored as 0"))
        for dtype, count in sorted(self.converted.items()):
            lines.append(("", f"{count} tensors converted from {dtype}, exactly"))
        for index, (group, entry) in enumerate(sorted(self.left_out.items())):
            more = ", …" if entry["count"] > len(entry["examples"]) else ""
            text = f"{group}: {entry['count']} ({', '.join(entry['examples'])}{more})"
            lines.append(("left out" if index == 0 else "", text))
        if not self.left_out:
            lines.append(("left out", "nothing"))
        if self.style_why:
            lines.append(("style", f"{self.style} ({self.style_why})"))
        lines.append(("preprocessing", f"{self.preprocessing} ({self.preprocessing_why})"))
        if self.metrics:
            lines.append(("metrics", ", ".join(f"{name} {value:g}" for name, value in self.metrics.items())))
        if self.data or self.num_classes:
            known = f"{self.num_classes} classes" if self.num_classes else "classes not known"
            lines.append(("data", f"{self.data or 'not known'}, {known}"))
        why = f" ({self.license_why})" if self.license_why else ""
        lines.append(("license", f"{self.license or 'not known'}{why}"))
        lines += [
            ("assumed" if index == 0 else "", f"- {text}") for index, text in enumerate(self.assumptions)
        ]
        return lines
