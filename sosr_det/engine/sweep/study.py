"""The sweep as an optuna study, which optuna's plots and dashboard can open.

optuna's GridSampler is not what chooses the points: it counts a failed trial as done, runs enqueued points twice and
stops in the middle of a shared grid (its own documentation, and issues 4721 and 6073 of optuna/optuna). Here the
run folders say what is done, and the study keeps every attempt: finished ones with their value, failed ones with
their error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sosr_det.engine.sweep.grid import Point, plain_value

FILE_NAME = "study.journal"


def open_study(folder: Path, name: str, direction: str) -> Any:
    """The study of a grid and metric inside a sweep's folder, new or as it was left."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / FILE_NAME)))
    return optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)


def add_attempt(
    study: Any, grid: dict[str, tuple[str, ...]], point: Point, value: float | None, **notes: Any
) -> None:
    """File one attempt at a point: with its metric's value, or as failed where that is None."""
    from optuna.distributions import CategoricalDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    distributions: dict[str, Any] = {
        key: CategoricalDistribution([plain_value(text) for text in values]) for key, values in grid.items()
    }
    distributions["seed"] = IntDistribution(0, 2**31 - 1)
    study.add_trial(
        create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            params=point.parameters,
            distributions=distributions,
            user_attrs={"trial": point.name, **notes},
        )
    )


def attempts(study: Any) -> dict[str, list[dict]]:
    """The attempts so far by the point's name, oldest first: ``completed`` and the notes of :func:`add_attempt`."""
    from optuna.trial import TrialState

    found: dict[str, list[dict]] = {}
    for trial in study.get_trials(deepcopy=False):
        notes = dict(trial.user_attrs)
        notes["completed"] = trial.state == TrialState.COMPLETE
        found.setdefault(notes["trial"], []).append(notes)
    return found
