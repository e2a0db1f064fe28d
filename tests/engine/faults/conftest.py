"""One process that has imported everything forks the trainings of these tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sosr_det.analysis.bench_faults.drill import Outcome


class DrillGround:
    """What a test asks the zygote for; ``folder`` holds its runs."""

    def __init__(self, process: subprocess.Popen, folder: Path) -> None:
        self.process, self.folder = process, folder
        self.module = ""
        self.counts = 0

    def train(self, name, *arguments, before=None, workers=0, cfg_options=(), config=None, timeout_s=100):
        """`sosr-det train` in ``folder / name``; ``before`` names a function of the test's module, with arguments."""
        return self._ask(
            do="train", name=name, arguments=arguments, before=before, workers=workers,
            cfg_options=cfg_options, config=config, timeout_s=timeout_s,
        )  # fmt: skip

    def call(self, function, *arguments) -> Outcome:
        """A function of the test's module in a forked process."""
        return self._ask(do="call", call=[function, *arguments])

    def until_done(self, name, *arguments, faults=(), **options) -> list[Outcome]:
        """Start the run, and again with --auto-resume each time it ends otherwise than well; one fault each."""
        outcomes = []
        for fault in [*faults, None]:
            outcomes.append(self.train(name, "--auto-resume", *arguments, before=fault, **options))
            if outcomes[-1].code == 0:
                break
        return outcomes

    def variant(self, name: str, **changes) -> str:
        """A config file with other parts than the drill's own, such as ``train_cfg={...}``, merged one deep."""
        config = json.loads((self.folder / "drill.json").read_text())
        for key, value in changes.items():
            known = config.get(key)
            merged = isinstance(known, dict) and isinstance(value, dict) and key != "train_cfg"
            config[key] = {**known, **value} if merged else value
        (self.folder / name).write_text(json.dumps(config))
        return name

    def copy(self, source: Path, word: str) -> str:
        """A new run that is a copy of another."""
        name = self.new(word)
        shutil.copytree(source, self.folder / name)
        return name

    def new(self, word: str) -> str:
        """Name of a new run."""
        self.counts += 1
        return f"{word}-{self.counts}"

    def _ask(self, **wish) -> Outcome:
        self.process.stdin.write(json.dumps({"module": self.module, **wish}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the zygote died"
        return Outcome(**json.loads(line))


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "zygote.py"), str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    yield DrillGround(process, folder)
    process.stdin.close()
    process.stdout.close()
    assert process.wait(30) == 0


@pytest.fixture
def drill(zygote, request):
    zygote.module = str(request.path)
    return zygote


@pytest.fixture(scope="session")
def undisturbed(zygote) -> Path:
    """Folder of the run that nothing happened to."""
    zygote.module = str(Path(__file__).parent / "zygote.py")
    outcome = zygote.train("undisturbed")
    assert outcome.code == 0, outcome.text
    return zygote.folder / "undisturbed"
