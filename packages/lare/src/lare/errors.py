"""Errors of lare. Each says what was given, what was expected and what to do."""

from __future__ import annotations


class LareError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(LareError, ValueError):
    """An argument has a value that the call does not accept."""


class ShapeError(LareError, ValueError):
    """An array has another shape than the call needs."""


class TaskError(LareError, ValueError):
    """A task description does not fit the environment, or the environment is not supported."""


class VerificationError(LareError, ValueError):
    """A latent reward function did not pass the checks; the message lists every reason."""


class ArtefactError(LareError, RuntimeError):
    """A saved latent reward is damaged, or is not what its hashes say."""


class StateError(LareError, RuntimeError):
    """A saved state belongs to something else than what it is loaded into."""


class MissingExtraError(LareError, ImportError):
    """A feature needs an optional dependency that is not installed."""


class LareWarning(UserWarning):
    """Something works, but not as it was probably meant."""
