"""The list of faults, one after the other: what happened, how much work was lost, and whether the same was learned."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sosr_det.analysis.bench_faults.arrange import import_what_trainings_import
from sosr_det.analysis.bench_faults.cases import Case, cases
from sosr_det.analysis.bench_faults.drill import EPOCHS, STEPS, Drill, Main, Outcome, differences, losses
from sosr_det.errors import CheckpointError

_RESUMED = re.compile(r"resuming from (\S+): (\d+) epochs?, (\d+) steps?")


@dataclass
class Row:
    """What became of one fault.

    Attributes:
        fault: what was done.
        happened: exit codes and what was said.
        lost_steps: training steps that had to be made again; None where nothing was to be resumed.
        as_it_should: exit code, message and what was learned are those that :mod:`.cases` asks for.
        problems: what is not.
    """

    fault: str
    happened: str = ""
    lost_steps: int | None = None
    as_it_should: bool = True
    problems: list[str] = field(default_factory=list)


def bench_faults(
    folder: Path, main: Main, *, only: str = "", say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Try every fault whose name contains ``only``.

    Args:
        folder: new or empty; on the file system to be tried. The runs stay there.
        main: the command line.
        only: part of a name.
        say: gets a line for each fault when it is done.

    Returns:
        one :class:`Row` each, as a dict.

    Raises:
        CheckpointError: the training fails without any fault.
    """
    import_what_trainings_import()
    drill = Drill(folder, main)
    whole = _whole(drill, "undisturbed")
    rows = []
    for number, case in enumerate(cases()):
        if only in case.name:
            rows.append(
                _try(drill, case, f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', case.name.lower())}", whole)
            )
            say(_line(rows[-1]))
    return [asdict(row) for row in rows]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """As Markdown: ``fault | what happened | lost work``."""
    lines = ["| fault | what happened | lost work |", "| --- | --- | --- |"]
    return "\n".join(
        [*lines, *(f"| {row['fault']} | {row['happened']} | {_lost(row['lost_steps'])} |" for row in rows)]
    )


def _line(row: Row) -> str:
    mark = "ok " if row.as_it_should else "BAD"
    return f"{mark} {row.fault}: {row.happened}; lost: {_lost(row.lost_steps)}{_problems(row.problems)}"


def _problems(problems: Sequence[str]) -> str:
    return f" [{'; '.join(problems)}]" if problems else ""


def _lost(steps: int | None) -> str:
    return "-" if steps is None else "nothing" if steps == 0 else f"{steps} step{'s' if steps > 1 else ''}"


def _whole(drill: Drill, name: str, *arguments: str) -> Path:
    """A run that nothing happens to."""
    outcome = drill.train(name, *arguments)
    if outcome.code:
        raise CheckpointError(
            f"the training fails without any fault: {outcome.last_line} See {drill.folder / name}.log."
        )
    return drill.folder / name


def _try(drill: Drill, case: Case, name: str, whole: Path) -> Row:
    row, folder = Row(case.name), drill.folder / name
    if case.arguments:
        whole = _whole(drill, f"{name}-undisturbed", *case.arguments)
    if case.begins_with_a_whole_run:
        shutil.copytree(whole, folder)
    happened: list[str] = []
    made, lost = STEPS if case.begins_with_a_whole_run else 0, None
    for outcome, code, words in _runs(drill, case, name):
        if outcome.code != code:
            row.problems.append(f"exit code {outcome.code} instead of {code}: {outcome.last_line[:200]}")
        if not all(word in outcome.text for word in words):
            row.problems.append(f"said {outcome.last_line[:200]!r} and not {words}")
        found = _RESUMED.search(outcome.text)
        if found:
            lost = (lost or 0) + max(made, int(found[3])) - int(found[3])
            happened.append(f"resumed from {found[1]}")
        elif made and lost is None and outcome.code == 0:
            lost = made
            happened.append("began again")
        happened.append(_ended(outcome, words))
        made = max(losses(folder), default=0) if (folder / "metrics.jsonl").is_file() else 0
    if case.ends_whole and not (folder / f"epoch_{EPOCHS}.pth").is_file():
        row.problems.append("the run did not come to its end")
    elif case.ends_whole:
        different = differences(whole / f"epoch_{EPOCHS}.pth", folder / f"epoch_{EPOCHS}.pth")
        if different or losses(folder) != losses(whole):
            row.problems.append(f"learned something else: {', '.join(sorted(different)[:3]) or 'losses'}")
        else:
            happened.append("same bits as undisturbed")
    if case.forbidden and (folder / case.forbidden).exists():
        row.problems.append(f"{case.forbidden} is there")
    row.happened = "; ".join(filter(None, happened))
    row.lost_steps = lost if lost is not None else (0 if case.ends_whole else None)
    row.as_it_should = not row.problems
    return row


def _runs(drill: Drill, case: Case, name: str) -> Iterator[tuple[Outcome, int, tuple[str, ...]]]:
    """Each run of the case, with the exit code and the words that are right."""
    for run in case.runs:
        if run.damage is not None:
            run.damage(drill.folder / name)
        options = [*case.arguments, *run.arguments]
        yield drill.train(name, *options, before=run.before, workers=run.workers), run.code, run.words


def _ended(outcome: Outcome, words: tuple[str, ...]) -> str:
    if outcome.code == -9:
        return "killed"
    if outcome.code:
        return f"exit code {outcome.code}" + (f", told: {words[0]}" if words else "")
    return f"told: {words[0]}" if words else ""
