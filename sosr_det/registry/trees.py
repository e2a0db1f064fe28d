"""Family trees of registry entries as lines of text."""

from __future__ import annotations

from sosr_det.registry.lineage import Branch
from sosr_det.registry.metric_names import KEY_METRICS, metric_of, metric_text
from sosr_det.registry.plain_text import clean

_NOTES = {
    "absent": "not in this registry",
    "damaged": "DAMAGED: its manifest cannot be read",
    "outside": "not an entry of a registry",
}


def tree_lines(trees: list[Branch]) -> list[str]:
    """One line per place, children below their parent; the entry that was asked for is marked."""
    lines: list[str] = []
    for tree in trees:
        lines.append(_line(tree))
        _add_children(tree, "", lines)
    return lines


def _add_children(branch: Branch, indent: str, lines: list[str]) -> None:
    for child in branch.children:
        is_last = child is branch.children[-1]
        lines.append(f"{indent}{'└─' if is_last else '├─'} {_line(child)}")
        _add_children(child, indent + ("   " if is_last else "│  "), lines)


def _line(branch: Branch) -> str:
    """``[relation] name (kind and arch: metrics)``, and what else must be said."""
    label = branch.label
    if label == f"sha256:{branch.digest}":
        label = f"{label[:19]}… (no tag leads to it)"
    text = f"{branch.relation}: {label}" if branch.relation else label
    if branch.node is not None:
        summary = branch.node.summary
        parts = [summary.arch if summary.kind == "backbone" else f"{summary.kind} {summary.arch}"]
        for name in KEY_METRICS[summary.kind]:
            if name in summary.metrics:
                parts.append(f"{metric_of(name).title} {metric_text(name, summary.metrics[name])}")
        text += f"  ({', '.join(parts)})"
    if branch.state in _NOTES:
        text += f"  [{_NOTES[branch.state]}]"
    if branch.repeated:
        text += "  [shown above]"
    return clean(text) + ("  ◀ this entry" if branch.is_subject else "")
