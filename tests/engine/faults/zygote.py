"""Trains for the tests of this folder, in forked processes: one process imports everything, once.

    python zygote.py FOLDER

Reads a JSON object a line from stdin and answers each with a line: ``{"do": "train" | "call", "module": FILE, ...}``.
``before`` and ``call`` name functions of that module, with arguments.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import sosr_det.register  # noqa: F401
from sosr_det.analysis.bench_faults.arrange import import_what_trainings_import
from sosr_det.analysis.bench_faults.drill import Drill, forked
from sosr_det.cli.main import main


def load(path: str):
    """The module in a file, imported once."""
    name = f"faults_{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def answer(drill: Drill, wish: dict) -> dict:
    module = load(wish["module"])
    if wish["do"] == "call":
        function = getattr(module, wish["call"][0])
        return asdict(forked(lambda: function(*wish["call"][1:]), drill.folder / "call.log"))
    before = None
    if wish.get("before"):
        name, *arguments = wish["before"]

        def before():
            getattr(module, name)(*arguments)

    return asdict(
        drill.train(
            wish["name"], *wish["arguments"], before=before, workers=wish["workers"],
            cfg_options=wish["cfg_options"], config=wish["config"], timeout_s=wish["timeout_s"],
        )
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["SOSR_REGISTRY"] = str(Path(sys.argv[1]) / "registry")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    import_what_trainings_import()
    place = Drill(Path(sys.argv[1]), main)
    print("ready", file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(place, json.loads(line))), file=answers)
