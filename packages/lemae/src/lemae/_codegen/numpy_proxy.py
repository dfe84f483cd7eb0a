"""What generated code sees as ``np`` and ``math``: chosen names, each call bounded."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from .errors import LimitError
from .guards import REMAINDER_COST, Guards, broadcast_extent, checked_dtype, extent
from .policy import NUMPY_RULES

_SORT_COST = 16  # elements that one sorted element counts for
_SORTS = ("sort", "argsort", "median")
_REMAINDERS = ("mod", "remainder", "fmod", "floor_divide")


def numpy_proxy(guards: Guards) -> SimpleNamespace:
    """A namespace with the NumPy names of the policy that this version of NumPy has."""
    proxy = SimpleNamespace(linalg=SimpleNamespace())
    for dotted in guards.policy.numpy_functions:
        value = _resolve(dotted)
        if value is None and dotted != "newaxis":
            continue  # this version of NumPy lacks it
        parent, _, name = dotted.rpartition(".")
        kind, most = NUMPY_RULES[dotted]
        if kind == "own":
            value = getattr(_Own(guards), name)
        elif kind in _CHARGES:
            value = _guarded(guards, dotted, value, most, _CHARGES[kind])
        setattr(getattr(proxy, parent) if parent else proxy, name, value)
    return proxy


def math_proxy(guards: Guards) -> SimpleNamespace:
    """A namespace with the names of ``math`` of the policy."""
    proxy = SimpleNamespace()
    for name in guards.policy.math_functions:
        value = getattr(math, name)
        setattr(proxy, name, _guarded_math(guards, value) if callable(value) else value)
    return proxy


def cast(guards: Guards, dtype: Any, value: Any = 0) -> Any:
    """``np.float32(value)`` and the like."""
    array = guards.array(value)
    guards.meter.charge(extent(np.shape(array)))
    return guards.admit(checked_dtype(dtype)(array))


def _resolve(dotted: str) -> Any:
    value: Any = np
    for part in dotted.split("."):
        value = getattr(value, part, None)
    return value


def _guarded(
    guards: Guards,
    name: str,
    function: Callable[..., Any],
    most: int,
    charge: Callable[..., tuple[Any, ...]],
) -> Callable[..., Any]:
    @functools.wraps(function, assigned=("__name__",), updated=())
    def call(*args: Any, **keywords: Any) -> Any:
        if len(args) > most:
            raise TypeError(f"np.{name} takes up to {most} positional argument(s) here")
        if keywords:
            keywords = guards.keywords(keywords)
        return guards.admit(function(*charge(guards, name, args, keywords), **keywords))

    del call.__wrapped__  # the bare function is not for anyone
    return call


def _charge_map(
    guards: Guards, name: str, args: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, ...]:
    if name == "where" and len(args) < 3:
        raise TypeError("np.where needs a condition and two values")
    args = tuple(arg if arg is None else guards.operand(arg) for arg in args)
    values = (*args, *keywords.values())
    shapes = [value.shape for value in values if type(value) is np.ndarray]
    guards.meter.charge(broadcast_extent(shapes), REMAINDER_COST if name in _REMAINDERS else 1)
    return args


def _charge_reduce(
    guards: Guards, name: str, args: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, ...]:
    if not args:
        raise TypeError(f"np.{name} needs the array as its first argument")
    array = guards.array(args[0])
    cost = extent(np.shape(array))
    guards.meter.charge(cost, _SORT_COST if name in _SORTS else 1)
    if name == "linalg.norm" and array.ndim > 1 and (len(args) > 1 or "ord" in keywords):
        axis = args[2] if len(args) > 2 else keywords.get("axis")
        if not isinstance(axis, int):  # a norm of matrices may need their singular values
            guards.meter.charge(cost, math.isqrt(cost))
    shapes = [value.shape for value in keywords.values() if type(value) is np.ndarray]
    if shapes:
        guards.meter.charge(broadcast_extent([array.shape, *shapes]))
    return (array, *(guards.plain(arg) for arg in args[1:]))


def _charge_join(
    guards: Guards, name: str, args: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, ...]:
    if not args:
        raise TypeError(f"np.{name} needs a list of arrays as its first argument")
    if type(args[0]) is not np.ndarray:
        args = ([guards.array(item) for item in guards.iterate(args[0])], *args[1:])
    guards.meter.charge(guards.count(args[0]))
    return (args[0], *(guards.plain(arg) for arg in args[1:]))


_CHARGES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "map": _charge_map,
    "reduce": _charge_reduce,
    "view": _charge_reduce,
    "join": _charge_join,
}


def _guarded_math(guards: Guards, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        guards.meter.charge(0)
        return guards.admit(function(*(float(arg) for arg in args)))

    return call


class _Own:
    """NumPy functions whose cost follows from the values of their arguments, not from shapes.

    Their arguments carry NumPy's names; those that would make other dtypes or write into a given
    array are missing.
    """

    def __init__(self, guards: Guards) -> None:
        self._guards = guards

    def _admit(self, value: Any) -> Any:
        return self._guards.admit(value)

    def _charge_shape(self, shape: Any) -> None:
        lengths = shape if type(shape) in (list, tuple) else (shape,)
        self._guards.meter.charge(extent([int(length) for length in lengths]))

    def array(self, values: Any, dtype: Any = None) -> Any:
        array = self._guards.array(values)
        self._guards.meter.charge(extent(np.shape(array)))
        return self._admit(np.array(array, dtype=_dtype(dtype)))

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        array = self._guards.array(values)
        self._guards.meter.charge(extent(np.shape(array)))
        return self._admit(np.asarray(array, dtype=_dtype(dtype)))

    def zeros(self, shape: Any, dtype: Any = None) -> Any:
        self._charge_shape(shape)
        return np.zeros(shape, dtype=_dtype(dtype))

    def ones(self, shape: Any, dtype: Any = None) -> Any:
        self._charge_shape(shape)
        return np.ones(shape, dtype=_dtype(dtype))

    def full(self, shape: Any, fill_value: Any, dtype: Any = None) -> Any:
        self._charge_shape(shape)
        return self._admit(np.full(shape, self._guards.array(fill_value), dtype=_dtype(dtype)))

    def zeros_like(self, values: Any, dtype: Any = None) -> Any:
        array = self._guards.array(values)
        self._guards.meter.charge(extent(np.shape(array)))
        return np.zeros_like(array, dtype=_dtype(dtype))

    def ones_like(self, values: Any, dtype: Any = None) -> Any:
        array = self._guards.array(values)
        self._guards.meter.charge(extent(np.shape(array)))
        return np.ones_like(array, dtype=_dtype(dtype))

    def full_like(self, values: Any, fill_value: Any, dtype: Any = None) -> Any:
        array = self._guards.array(values)
        self._guards.meter.charge(extent(np.shape(array)))
        return np.full_like(array, self._guards.array(fill_value), dtype=_dtype(dtype))

    def arange(self, start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Any:
        if stop is None:
            start, stop = 0, start
        count = (float(stop) - float(start)) / float(step)
        if not count < self._guards.meter.max_elements:  # not a number as well
            raise LimitError(f"np.arange would make {count:.3g} elements")
        self._guards.meter.charge(max(int(count) + 1, 1))
        return self._admit(np.arange(start, stop, step, dtype=_dtype(dtype)))

    def linspace(self, start: Any, stop: Any, num: Any = 50, endpoint: Any = True) -> Any:
        start, stop = self._guards.operand(start), self._guards.operand(stop)
        ends = broadcast_extent([np.shape(start), np.shape(stop)])
        self._guards.meter.charge(int(num) * ends)
        return self._admit(np.linspace(start, stop, int(num), endpoint=bool(endpoint)))

    def eye(self, rows: Any, columns: Any = None, dtype: Any = None) -> Any:
        shape = (rows, rows if columns is None else columns)
        self._charge_shape(shape)
        return np.eye(*shape, dtype=_dtype(dtype) or float)

    def tile(self, values: Any, reps: Any) -> Any:
        array = self._guards.array(values)
        counts = [int(n) for n in (reps if type(reps) in (list, tuple) else (reps,))]
        self._guards.meter.charge(extent(np.shape(array)) * extent(counts))
        return self._admit(np.tile(array, counts))

    def repeat(self, values: Any, repeats: Any, axis: Any = None) -> Any:
        array, repeats = self._guards.array(values), self._guards.operand(repeats)
        self._guards.charge_repeat(array, repeats)
        return self._admit(np.repeat(array, repeats, axis=axis))

    def dot(self, left: Any, right: Any) -> Any:
        left, right = self._guards.array(left), self._guards.array(right)
        self._guards.charge_product(left, right)
        return self._admit(np.dot(left, right))

    def matmul(self, left: Any, right: Any) -> Any:
        return self._guards.binary("MatMult", self._guards.array(left), self._guards.array(right))

    def outer(self, left: Any, right: Any) -> Any:
        left, right = self._guards.array(left), self._guards.array(right)
        self._guards.meter.charge(extent(np.shape(left)) * extent(np.shape(right)))
        return self._admit(np.outer(left, right))

    def select(self, condlist: Any, choicelist: Any, default: Any = 0) -> Any:
        conditions = [self._guards.array(item) for item in self._guards.iterate(condlist)]
        choices = [self._guards.array(item) for item in self._guards.iterate(choicelist)]
        default = self._guards.operand(default)
        shapes = [np.shape(array) for array in (*conditions, *choices, default)]
        for _ in (*conditions, *choices):
            self._guards.meter.charge(broadcast_extent(shapes))
        return self._admit(np.select(conditions, choices, default))

    def round(self, values: Any, decimals: Any = 0) -> Any:
        return self._guards.round(self._guards.array(values), decimals)

    def around(self, values: Any, decimals: Any = 0) -> Any:
        return self.round(values, decimals)

    def finfo(self, dtype: Any) -> Any:
        limits = np.finfo(checked_dtype(dtype))
        return SimpleNamespace(eps=limits.eps, tiny=limits.tiny, dtype=limits.dtype)


def _dtype(value: Any) -> Any:
    return None if value is None else checked_dtype(value)
