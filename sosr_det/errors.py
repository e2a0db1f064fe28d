"""Errors meant for the user: each message says what was wrong, what was expected and what to do.

The command line prints such an error alone, without a traceback, and exits with ``exit_code``.
Anything that is not a :class:`SosrError` is a bug or a failure of a dependency.
Every class takes one string, so that errors survive pickling out of data-loader workers.
"""


class SosrError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 1


class ConfigError(SosrError):
    """A config file, a config key or an option's value cannot be used."""


class DataError(SosrError):
    """A data set is missing, incomplete or damaged."""


class UnreadableImageError(DataError):
    """One image is missing or cannot be decoded; the data set is in order otherwise."""


class CheckpointError(SosrError):
    """A checkpoint file is missing, damaged, unsafe or not what the stage needs."""


class RegistryError(SosrError):
    """The registry cannot do what was asked (bad name, unknown entry, lock, disk)."""


class CorruptEntryError(RegistryError):
    """A stored file does not have the content that its digest promises."""


class BackboneMismatchError(SosrError):
    """The live backbone is not what the checkpoint or registry entry holds."""


class TrainingDivergedError(SosrError):
    """The loss became NaN or infinite."""


class InstallationError(SosrError):
    """The Python environment cannot run SOSR-Det (conflicting or missing packages)."""


class CompiledOpMissingError(InstallationError, NotImplementedError):
    """An mmcv op without a fallback was called and mmcv has no compiled ops."""
