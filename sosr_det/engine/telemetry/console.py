"""Keeps mmengine's log, hundreds of lines before the first step, in its file and off the terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

from mmengine.logging import MMLogger

from sosr_det.engine.runner import EngineRunner

# Warnings that mmengine's own code causes and users can do nothing about.
_OF_NO_USE = ("will be deprecated in future",)


class _Terminal(logging.Handler):
    """Warnings and errors, in one line each, to whatever ``sys.stderr`` is at the time: a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if not any(phrase in text for phrase in _OF_NO_USE):
                print(f"{record.levelname.lower()}: {text}", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def keep_off_terminal(logger: MMLogger) -> None:
    """Of a logger of mmengine only warnings and errors go to the terminal; its file gets all as before."""
    for place, handler in enumerate(logger.handlers):
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            terminal = _Terminal(max(handler.level, logging.WARNING))
            for each in handler.filters:
                terminal.addFilter(each)
            logger.handlers[place] = terminal


class LogsToFile:
    """Mixed into a Runner: its environment, config and list of hooks are logged to its file alone."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        keep_off_terminal(logger)
        return logger


class TrainingRunner(LogsToFile, EngineRunner):
    """mmengine's ``Runner`` for trainings."""
