"""Errors of lemae. Each says what was given, what was expected and what to do."""

from __future__ import annotations


class LemaeError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(LemaeError, ValueError):
    """An argument has a value that the call does not accept."""


class ShapeError(LemaeError, ValueError):
    """An array has another shape than the call needs."""


class TaskError(LemaeError, ValueError):
    """A task is unknown, or its description does not fit the environment."""


class KeyStateError(LemaeError, ValueError):
    """Key states cannot be used; the message lists every reason."""


class IntegrityError(LemaeError, RuntimeError):
    """A saved file is damaged, or is not what its hash says."""


class StateError(LemaeError, RuntimeError):
    """A saved state belongs to something else than what it is loaded into."""


class MissingExtraError(LemaeError, ImportError):
    """A feature needs an optional dependency that is not installed."""


class LemaeWarning(UserWarning):
    """Something works, but not as it was probably meant."""
