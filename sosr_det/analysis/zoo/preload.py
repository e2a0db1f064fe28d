"""Imported by the process that trials are forked from: everything that every trial needs, without its chatter."""

import contextlib
import importlib
import io
import warnings

# By its name, as a config would: it gives mmcv its ops, and has to come before mmdet is imported.
_MODULES = (
    "sosr_det.register",
    "mmdet.models",
    "mmdet.datasets",
    "mmdet.evaluation",
    "sosr_det.analysis.zoo.trial",
)

with (
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
    warnings.catch_warnings(),
    # What cannot be imported here cannot be in a trial either, and there it is reported.
    contextlib.suppress(Exception),
):
    warnings.simplefilter("ignore")
    for _name in _MODULES:
        importlib.import_module(_name)
