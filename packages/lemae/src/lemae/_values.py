"""Values from outside, checked: arguments that are numbers, and what saved states hold."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from lemae._arrays import as_array
from lemae.errors import ConfigError, LemaeError, ShapeError, StateError

_KINDS = {"b": "b", "i": "iu", "f": "fiu"}  # of NumPy, that are taken for those on the left
# What reading a state that is none may raise.
_GARBAGE = (
    LemaeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,  # of torch
    TypeError,
    ValueError,
)


def whole(name: str, value: Any, *, lowest: int = 1, highest: int | None = None) -> int:
    """``value`` if it is a whole number within bounds.

    Raises:
        ConfigError: if it is not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = lowest - 1
    if isinstance(value, bool) or number < lowest or (highest is not None and number > highest):
        bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ConfigError(f"{name} is {value!r}: give a whole number {bounds}")
    return number


def real(
    name: str, value: Any, lowest: float = 0, highest: float = math.inf, *, above: bool = False
) -> float:
    """``value`` if it is a finite number within bounds.

    Args:
        name: of the argument.
        value: as given.
        lowest: that is taken; with ``above``, the largest that is not.
        highest: that is taken.
        above: refuse ``lowest`` itself.

    Raises:
        ConfigError: if it is not.
    """
    try:
        fits = math.isfinite(value) and lowest <= value <= highest
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits or (above and value == lowest):
        bounds = f"{'above' if above else 'of at least'} {lowest:g}" if lowest > -math.inf else ""
        bounds += f" and at most {highest:g}" if highest < math.inf else ""
        raise ConfigError(f"{name} is {value!r}: give a finite number {bounds}".rstrip())
    return float(value)


def flag(name: str, value: Any) -> bool:
    """``value`` if it is true or false, of whatever type, 0 and 1 included.

    Raises:
        ConfigError: if it is anything else.
    """
    try:
        known = value in (0, 1)
    except (TypeError, ValueError, RuntimeError):  # of several numbers
        known = False
    if not known:
        raise ConfigError(f"{name} is {value!r}: give True or False")
    return bool(value)


def array(
    name: str,
    value: Any,
    shape: tuple[int | None, ...],
    dtype: Any,
    lowest: float | None = None,
    highest: float = math.inf,
    *,
    copy: bool = True,
) -> np.ndarray:
    """``value`` as an array.

    Args:
        name: of the argument.
        value: as given.
        shape: it must have; None for any length.
        dtype: of the result; numbers that it would cut are refused. None takes numbers as they are.
        lowest: that is taken; None takes all, also what is not finite.
        highest: that is taken.
        copy: also where the type is right.

    Raises:
        ShapeError: if it has another shape.
        ConfigError: if it is of another kind, or a number is outside the bounds or not finite.
    """
    given, wanted = as_array(value), np.dtype(np.float64 if dtype is None else dtype)
    if given.ndim != len(shape) or any(
        length not in (None, own) for own, length in zip(given.shape, shape, strict=True)
    ):
        shown = str(shape).replace("None", "any")
        raise ShapeError(f"{name} has shape {given.shape}: give {shown}")
    if given.size and given.dtype.kind not in _KINDS[wanted.kind]:
        raise ConfigError(f"{name} has type {given.dtype}: give {wanted}")
    if given.size and lowest is not None:
        fits = np.isfinite(given) & (given >= lowest) & (given <= highest)
        if not fits.all():
            raise ConfigError(
                f"{name} holds {given[~fits][0]}: give finite numbers from {lowest} to {highest}"
            )
    return given.astype(given.dtype if dtype is None else wanted, copy=copy)


def alike(name: str, value: Any, own: Any) -> None:
    """Refuse what is laid out otherwise than ``own``.

    Args:
        name: of the value.
        value: as given.
        own: mappings, at any depth, of arrays, tensors and plain values.

    Raises:
        ShapeError: if an array or a tensor has another shape.
        ConfigError: if anything is of another type, or there are other keys.
    """
    kind: Any = Mapping if isinstance(own, Mapping) else type(own)
    if not isinstance(value, kind) or isinstance(value, bool) is not isinstance(own, bool):
        raise ConfigError(f"{name} is of type {type(value).__name__}: give {kind.__name__}")
    if isinstance(own, Mapping):
        if value.keys() != own.keys():
            raise ConfigError(f"{name} has the keys {list(value)}: give {list(own)}")
        for key, one in own.items():
            alike(f"{name}.{key}", value[key], one)
    elif hasattr(own, "dtype"):
        if value.shape != own.shape:
            raise ShapeError(f"{name} has shape {tuple(value.shape)}: give {tuple(own.shape)}")
        if value.dtype != own.dtype:
            raise ConfigError(f"{name} has type {value.dtype}: give {own.dtype}")


def random_state(value: Any) -> Any:
    """``value`` if NumPy's generator can go on with it.

    Raises:
        ConfigError: if it takes only a part of it; else whatever NumPy raises.
    """
    generator = np.random.default_rng(0)
    generator.bit_generator.state = value
    if generator.bit_generator.state != value:
        raise ConfigError("its random state is none of NumPy's")
    return value


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise StateError for whatever garbage in a saved state raises.

    Args:
        what: reads it, as "this labeler", with its sizes.
    """
    try:
        yield
    except StateError:
        raise
    except _GARBAGE as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise StateError(
            f"the saved state does not fit {what} ({reason}): give what state_dict() returned, of "
            "one that was made with the same arguments"
        ) from error
