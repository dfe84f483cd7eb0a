"""Errors of lowmem-bp. Each says what was given, what was expected and what to do."""

from __future__ import annotations


class LowmemBPError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(LowmemBPError, ValueError):
    """An argument has a value that the call does not accept."""


class ShapeError(LowmemBPError, ValueError):
    """A tensor has the wrong shape or number of elements."""


class DTypeError(LowmemBPError, TypeError):
    """A tensor has a dtype that the operation is not defined for."""


class BackendError(LowmemBPError, RuntimeError):
    """The requested kernel backend is not available on this machine."""


class ConvertError(LowmemBPError, RuntimeError):
    """A model could not be converted, merged or reverted; it was left as it was."""


class MissingExtraError(LowmemBPError, ImportError):
    """A feature needs an optional dependency that is not installed."""
