"""Functions and methods that discriminators call, on symbols."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lemae._codegen.policy import NUMPY_RULES
from lemae.discriminators.algebra import (
    COMPARISONS,
    Algebra,
    Array,
    Filtered,
    View,
    is_array,
    is_boolean,
    is_scalar,
    kind_of,
)
from lemae.discriminators.graph import Node

_NUMPY_OPERATORS = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mult",
    "divide": "Div",
    "mod": "Mod",
    "power": "Pow",
}
_NUMPY_COMPARISONS = {name: operator for operator, name in COMPARISONS.items()}
# Where two names mean one operation, the node's.
_ALIASES = {"abs": "absolute", "fabs": "absolute", "atan2": "arctan2", "pow": "power"}
_WHOLE = ("floor", "ceil")  # of math: they give integers
_REDUCTIONS = ("sum", "mean", "min", "max", "amin", "amax", "prod", "any", "all", "count_nonzero")


class Functions(Algebra):
    """The algebra with what can be called by name."""

    def named(self, dotted: str) -> Any:
        """What a name below ``np`` or ``math`` stands for."""
        module, *parts = dotted.split(".")
        value: Any = self.math if module == "math" else self.numpy
        for part in parts:
            value = getattr(value, part)
        return value

    def call_builtin(self, name: str, args: list[Any], keywords: dict[str, Any]) -> Any:
        """A call of a built-in function."""
        if name == "range":
            args = self.concrete(args)
        if not self.is_symbolic([*args, *keywords.values()]):
            return self.guards.builtin(name)(*args, **keywords)
        if keywords and name != "enumerate":
            raise self.unresolved(f"{name} with named arguments cannot be followed")
        method = getattr(self, f"_builtin_{name}", None)
        if method is None:
            raise self.unresolved(f"{name} cannot be followed")
        return method(*args, **keywords)

    def _builtin_abs(self, value: Any) -> Any:
        return self.broadcast(self._absolute, value)

    def _absolute(self, value: Any) -> Any:
        whole = kind_of(value) != "float"
        return self.node("absolute", self.number(value), kind="int" if whole else "float")

    def _builtin_all(self, values: Any) -> Any:
        if isinstance(values, Filtered):
            return self.all_of(
                [self.either(self.negate(c), self.truth(v)) for c, v in values.items]
            )
        return self.all_of([self.truth(value) for value in self.items(values)])

    def _builtin_any(self, values: Any) -> Any:
        if isinstance(values, Filtered):
            return self.any_of([self.both(c, self.truth(value)) for c, value in values.items])
        return self.any_of([self.truth(value) for value in self.items(values)])

    def _builtin_bool(self, value: Any = False) -> Any:
        return self.truth(value)

    def _builtin_enumerate(self, values: Any, start: int = 0) -> Any:
        return list(enumerate(self.items(values), start))

    def _builtin_zip(self, *values: Any) -> Any:
        return list(zip(*(self.items(value) for value in values), strict=False))

    def _builtin_list(self, values: Any) -> Any:
        return self.items(values)

    def _builtin_tuple(self, values: Any) -> Any:
        return tuple(self.items(values))

    def _builtin_float(self, value: Any) -> Any:
        return self.number(value)

    def _builtin_int(self, value: Any) -> Any:
        value = self.number(value)
        return value if kind_of(value) == "int" else self.node("trunc", value, kind="int")

    def _builtin_round(self, value: Any, digits: Any = None) -> Any:
        value = self.number(value)
        if digits is None:
            return self.node("rint", value, kind="int")
        return self.node("round", value, int(self.concrete(digits)))

    def _builtin_len(self, values: Any) -> Any:
        if isinstance(values, Filtered):
            return self._builtin_sum([self.number(condition) for condition, _ in values.items])
        return len(self.items(values))

    def _builtin_sum(self, values: Any) -> Any:
        if isinstance(values, Filtered):
            values = [self.select(c, self.number(v), 0.0) for c, v in values.items]
        total: Any = 0
        for value in self.items(values):
            if is_boolean(value):
                value = self.number(value)
            is_first = total == 0 and is_scalar(value)
            total = value if is_first else self.binary("Add", total, value)
        return total

    def _builtin_max(self, *values: Any) -> Any:
        return self._extreme("greater", values)

    def _builtin_min(self, *values: Any) -> Any:
        return self._extreme("less", values)

    def _extreme(self, op: str, values: tuple[Any, ...]) -> Any:
        """The largest or smallest of numbers: by NumPy's ``op``, or by a comparison as in Python.

        They differ where something is not a number: NumPy returns that, and Python compares, which
        leaves the earlier value, whichever of the two it is.
        """
        items = self.items(values[0]) if len(values) == 1 else list(values)
        whole = all(kind_of(item) != "float" for item in items)
        numbers = [self.number(item) for item in items]
        kind = "int" if whole else "float"

        def further(best: Any, number: Any) -> Any:
            if op in ("maximum", "minimum"):
                return self.node(op, best, number, kind=kind)
            return self.node("where", self.node(op, number, best), number, best, kind=kind)

        return functools.reduce(further, numbers)

    def call_named(self, dotted: str, args: list[Any], keywords: dict[str, Any]) -> Any:
        """A call of a function of NumPy or ``math``."""
        module, _, name = dotted.partition(".")
        kind = NUMPY_RULES.get(name, ("",))[0] if module != "math" else "math"
        if kind == "dtype":
            return self._cast(name, *args)
        if not self.is_symbolic([*args, *keywords.values()]):
            return self.named(dotted)(*args, **keywords)
        if module == "math":
            return self._elementwise(name, args, "int" if name in _WHOLE else "")
        if name in ("array", "asarray") and len(args) == 1 and keywords.keys() <= {"dtype"}:
            array = self._array(args[0])
            return self._cast(_dtype_name(keywords["dtype"]), array) if keywords else array
        if name in _REDUCTIONS or name == "linalg.norm":
            return self._reduced(name, args, keywords)
        if name == "dot" and not keywords:
            return self._dot(*args)
        if name == "isclose":
            args += [keywords.pop("rtol", 1e-5), keywords.pop("atol", 1e-8)][len(args) - 2 :]
        if keywords or kind != "map":
            return self.opaque(args, tuple(keywords.values()))
        return self._elementwise(name, args, "")

    def _elementwise(self, name: str, args: list[Any], kind: str) -> Any:
        name = _ALIASES.get(name, name)
        if name in _NUMPY_OPERATORS:
            return self.broadcast(functools.partial(self.arithmetic, _NUMPY_OPERATORS[name]), *args)
        if name in _NUMPY_COMPARISONS:
            comparison = functools.partial(self.compare_scalars, _NUMPY_COMPARISONS[name])
            return self.broadcast(comparison, *args)
        if name == "where":
            return self.broadcast(lambda c, a, b: self.select(self.truth(c), a, b), *args)
        if name == "clip":
            return self.broadcast(self._clip, *args)
        if name.startswith("logical_"):
            return self.broadcast(functools.partial(self._logical, name), *args)

        wanted = 4 if name == "isclose" else getattr(getattr(np, name, None), "nin", 0)
        if len(args) != wanted:
            raise self.unresolved(f"{name} of {len(args)} values cannot be followed")

        def call(*values: Any) -> Any:
            return self.node(name, *(self.number(value) for value in values), kind=kind)

        return self.broadcast(call, *args)

    def _logical(self, name: str, *values: Any) -> Any:
        truths = [self.truth(value) for value in values]
        forms: dict[str, Callable[..., Any]] = {
            "logical_and": self.both,
            "logical_or": self.either,
            "logical_not": self.negate,
        }
        return forms[name](*truths)

    def _clip(self, value: Any, low: Any, high: Any) -> Any:
        value = self.number(value)
        if low is not None:
            value = self.node("maximum", value, self.number(low))
        return value if high is None else self.node("minimum", value, self.number(high))

    def _array(self, value: Any) -> Any:
        if isinstance(value, View | Array):
            return value
        items = self.items(value)
        if not all(is_scalar(item) for item in items):
            raise self.unresolved("arrays with several axes cannot be followed")
        return Array(tuple(items), (len(items),))

    def _cast(self, name: str, value: Any = 0) -> Any:
        forms: dict[str, Callable[[Any], Any]] = {
            "float64": self.number,
            "float": self.number,
            "int64": self._builtin_int,
            "int": self._builtin_int,
            "bool_": self.truth,
            "bool": self.truth,
        }
        if name not in forms:
            raise self.unresolved(f"the dtype {name} cannot be followed")
        return self.broadcast(forms[name], value)

    def _dot(self, left: Any, right: Any) -> Any:
        """A product with a vector, of whole numbers: their sum is the same in every order."""
        if not (is_array(left) and is_array(right)):
            return self.opaque(left, right)
        rows, vector = self.elements(left), self.elements(right)
        kinds = {kind_of(item) for item in (*rows.flat, *vector.flat)}
        fit = vector.ndim == 1 and rows.shape[-1:] == vector.shape
        if not fit or "float" in kinds or "int" not in kinds:
            return self.opaque(left, right)
        return self._reduced("sum", [self.binary("Mult", left, right), -1], {})

    def _reduced(self, name: str, args: list[Any], keywords: dict[str, Any]) -> Any:
        """A reduction of an array, or along one of its axes."""
        axis = keywords.get("axis")
        if len(args) == 2 and not keywords and name != "linalg.norm":
            args, axis = args[:1], args[1]
        is_known = axis is None or isinstance(axis, int)
        if len(args) != 1 or not is_known or not keywords.keys() <= {"axis"}:
            return self.opaque(args, tuple(keywords.values()))
        if isinstance(args[0], Node) and args[0].op == "opaque":
            return self.opaque(args)
        elements = self.elements(self._array(args[0]))
        if not elements.size:
            raise self.unresolved("this reduction cannot be followed")
        if axis is None or elements.ndim == 1:
            return self._reduced_to_one(name, list(elements.flat))
        lines = np.moveaxis(elements, axis, -1)
        found = [
            self._reduced_to_one(name, list(line)) for line in lines.reshape(-1, lines.shape[-1])
        ]
        return Array(tuple(found), lines.shape[:-1])

    def _reduced_to_one(self, name: str, items: list[Any]) -> Any:
        if name in ("any", "all"):
            return self._builtin_any(items) if name == "any" else self._builtin_all(items)
        if name == "count_nonzero":
            return self._builtin_sum([self.number(self.truth(item)) for item in items])
        if name in ("min", "max", "amin", "amax"):
            return self._extreme("minimum" if name.endswith("min") else "maximum", (items,))
        if name == "linalg.norm":
            squares = [self.arithmetic("Mult", item, item) for item in map(self.number, items)]
            return self.node("sqrt", self._builtin_sum(squares))
        if name == "prod":
            return functools.reduce(functools.partial(self.arithmetic, "Mult"), items)
        total = self._total([self.number(i) if is_boolean(i) else i for i in items])
        return self.arithmetic("Div", total, len(items)) if name == "mean" else total

    def _total(self, numbers: list[Any]) -> Any:
        """The sum, added in NumPy's order: another one may differ in the last digit."""
        add = functools.partial(self.arithmetic, "Add")
        if len(numbers) < 8:
            return functools.reduce(add, numbers)
        if len(numbers) > 128:
            half = len(numbers) // 2 - len(numbers) // 2 % 8
            return add(self._total(numbers[:half]), self._total(numbers[half:]))
        whole = len(numbers) - len(numbers) % 8
        parts = [functools.reduce(add, numbers[start:whole:8]) for start in range(8)]
        while len(parts) > 1:
            parts = [add(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        return functools.reduce(add, numbers[whole:], parts[0])

    def call_method(self, value: Any, name: str, args: list[Any], keywords: dict[str, Any]) -> Any:
        """A call of a method."""
        if not self.is_symbolic([value, *args, *keywords.values()]):
            return self.guards.method(value, name, *args, **keywords)
        if name in ("copy", "item") and not args and not keywords:
            return value if name == "copy" else self._one(value)
        if name == "astype" and len(args) == 1 and not keywords:
            return self._cast(_dtype_name(args[0]), value)
        if name in _REDUCTIONS and (isinstance(value, Node) or is_array(value)):
            return self._reduced(name, [value, *args], keywords)
        if name == "round" and not keywords:
            return self.broadcast(self._builtin_round, value, *(args or [0]))
        return self.opaque(value, args, tuple(keywords.values()))

    def _one(self, value: Any) -> Any:
        if isinstance(value, Node):
            return value
        (item,) = self.elements(value).flat
        return item


def _dtype_name(dtype: Any) -> str:
    return str(getattr(dtype, "__name__", dtype))
