"""Errors of go4align. Each says what was given, what was expected and what to do."""

from __future__ import annotations


class Go4AlignError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(Go4AlignError, ValueError):
    """An argument has a value that the call does not accept."""


class LossError(Go4AlignError, ValueError):
    """Losses, or a mask, that cannot be weighted: shape, dtype, names, negative, not finite."""


class StateError(Go4AlignError, RuntimeError):
    """A saved state belongs to other tasks than the module it is loaded into."""


class DataError(Go4AlignError, FileNotFoundError):
    """A data set is not where it was looked for, or is not what it should be."""


class MissingExtraError(Go4AlignError, ImportError):
    """A feature needs an optional dependency that is not installed."""


class GivenUpWarning(UserWarning):
    """Accumulated losses leave a task next to nothing of the weight."""


class SkippedLossWarning(UserWarning):
    """Losses were left out on an accelerator, where raising would have stopped every step."""
