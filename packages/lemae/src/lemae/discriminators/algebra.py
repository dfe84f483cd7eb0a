"""What can be done with symbols: the operations of discriminators, on nodes instead of numbers.

A value of a run on symbols is one of: a plain number, array or list, as in any call; a
:class:`Node`; the state or a slice of it (:class:`View`); an array of nodes (:class:`Array`); a
list of which some items are there under conditions only (:class:`Filtered`). Truth values are True,
False or a node of kind ``"bool"``. Operations on plain values alone are those of
:mod:`lemae._codegen`, which bound themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemae._codegen.guards import Guards
from lemae._codegen.numpy_proxy import math_proxy, numpy_proxy
from lemae.discriminators.graph import Graph, Node, UnresolvedError, operation
from lemae.discriminators.source import POLICY

ENDLESS = 2**31  # length of a state whose length is not known
_MAX_STEPS = 50_000  # expressions, items and operations of one run

_OPERATORS = {
    "Add": "add",
    "Sub": "subtract",
    "Mult": "multiply",
    "Div": "divide",
    "FloorDiv": "floor_divide",
    "Mod": "remainder",
    "Pow": "power",
}
_BITS = {
    "BitAnd": "bitwise_and",
    "BitOr": "bitwise_or",
    "BitXor": "bitwise_xor",
    "LShift": "left_shift",
    "RShift": "right_shift",
}
COMPARISONS = {
    "Eq": "equal",
    "NotEq": "not_equal",
    "Lt": "less",
    "LtE": "less_equal",
    "Gt": "greater",
    "GtE": "greater_equal",
}
_BOOLEAN = frozenset(
    [*COMPARISONS.values(), "logical_and", "logical_or", "logical_not", "isfinite", "isclose"]
)


class TruthSumError(UnresolvedError):
    """The source adds truth values, for which NumPy has another meaning than Python."""


@dataclass(frozen=True)
class View:
    """The state or a slice of it; nothing is read before an element is used."""

    indices: Sequence[int]


@dataclass(frozen=True)
class Array:
    """An array whose elements are nodes or numbers.

    Attributes:
        items: all elements, row by row.
        shape: of the array.
    """

    items: tuple[Any, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Filtered:
    """A list whose items are there under conditions."""

    items: tuple[tuple[Any, Any], ...]


class Unknown:
    """A value that differs between branches in a way that no node can hold."""


UNKNOWN = Unknown()


@functools.cache
def _tools() -> tuple[Guards, SimpleNamespace, SimpleNamespace]:
    guards = Guards(POLICY)
    return guards, numpy_proxy(guards), math_proxy(guards)


class Algebra:
    """Operations on values, plain or symbolic.

    Args:
        graph: takes the nodes.
        state: float64 ``[d]`` whose path is followed; None to follow all paths.

    Attributes:
        guards: what bounds operations on plain values.
        numpy: NumPy for plain values.
        math: ``math`` for plain values.
        used: nodes that some operation has taken.
        merging: whether new nodes only join the values of branches, which is no use of them.
        line: of the source, for messages.
    """

    def __init__(self, graph: Graph, state: np.ndarray | None) -> None:
        self.guards, self.numpy, self.math = _tools()
        self.guards.meter.reset()
        self.used: list[Node] = []
        self.merging = False
        self.line = 0
        self._graph, self._state = graph, state
        self._compared: set[Any] = set()  # truth values of NumPy's type for sure
        self._steps = 0

    def at(self, text: str) -> str:
        """``text`` with the line where the run stands."""
        return f"line {self.line}: {text}"

    def unresolved(self, text: str) -> UnresolvedError:
        """The error that says so, with the line."""
        return UnresolvedError(self.at(text))

    def count(self, steps: int) -> None:
        """Count steps, so that a run ends."""
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise self.unresolved(f"it takes more than {_MAX_STEPS} steps")

    # --- nodes ----------------------------------------------------------------------------------

    def is_symbolic(self, value: Any) -> bool:
        """Whether ``value`` holds a symbol; counts, because lists in lists may be of any size."""
        self.count(1)
        if isinstance(value, list | tuple):
            return any(self.is_symbolic(item) for item in value)
        return isinstance(value, Node | View | Array | Filtered | Unknown)

    def node(self, op: str, *args: Any, kind: str = "") -> Node:
        """The node of an operation, and a note that its arguments are used."""
        self.count(1)
        kind = kind or ("bool" if op in _BOOLEAN else "float")
        args = tuple(plain_number(arg) for arg in args)
        node = self._graph.add(op, args, kind)
        if not self.merging:
            self.used += [arg for arg in args if isinstance(arg, Node)]
        if self._state is not None and node.value is None:
            node.value = self._value(node)
        return node

    def _value(self, node: Node) -> Any:
        if node.op == "load":
            return np.float64(self._state[node.args[0]])  # type: ignore[index]
        values = [arg.value if isinstance(arg, Node) else arg for arg in node.args]
        if node.op == "opaque" or any(value is None for value in values):
            return None
        with np.errstate(all="ignore"):
            return operation(node.op)(*values)

    def load(self, index: int) -> Node:
        """One number of the state."""
        return self.node("load", index)

    def opaque(self, *values: Any) -> Node:
        """A value that depends on these in a way that has no elementwise form."""
        return self.node("opaque", self.line, *self._nodes_in(values))

    def _nodes_in(self, value: Any) -> list[Node]:
        self.count(1)
        if isinstance(value, Node):
            return [value]
        if isinstance(value, View | Array):
            value = list(self.elements(value).flat)
        if isinstance(value, Filtered):
            value = [part for pair in value.items for part in pair]
        if isinstance(value, list | tuple):
            return [node for item in value for node in self._nodes_in(item)]
        return []

    def concrete(self, value: Any) -> Any:
        """``value`` where a number has to be known: an index, the bound of a range."""
        self.count(1)
        if isinstance(value, list | tuple):
            return type(value)(self.concrete(item) for item in value)
        if not isinstance(value, Node):
            return value
        if value.value is None:
            raise self.unresolved("an index or a number of steps depends on the state")
        found = value.value.item()
        return int(found) if value.kind == "int" else found

    def number(self, value: Any) -> Any:
        """A scalar for arithmetic: truth values become 0 and 1."""
        if isinstance(value, Node):
            return self.node("multiply", value, 1.0, kind="int") if value.kind == "bool" else value
        if not isinstance(value, int | float | np.generic):
            raise self.unresolved(f"a number is needed, not a {type(value).__name__}")
        return float(value)

    def truth(self, value: Any) -> Any:
        """Whether ``value`` counts as true: True, False, or a node."""
        if isinstance(value, Node):
            return self._truth_of_node(value)
        if isinstance(value, Filtered):
            return self.any_of([condition for condition, _ in value.items])
        if isinstance(value, View | Array):
            items = self.elements(value)
            if items.size != 1:
                raise self.unresolved("the truth of several values: use np.any or np.all")
            return self.truth(items.item())
        if isinstance(value, Unknown):
            raise self.unresolved("a value is not the same kind of thing in all branches")
        return bool(value)

    def _truth_of_node(self, node: Node) -> Any:
        if self._state is not None:
            self.used.append(node)
            if node.value is None:
                raise self.unresolved("a condition has no elementwise form")
            return bool(node.value)
        if node.kind == "bool":
            return node
        if node.op == "where":
            return self.select(node.args[0], *(self.truth(arg) for arg in node.args[1:]))
        if node.op == "multiply" and node.args[1] == 1.0 and is_boolean(node.args[0]):
            return node.args[0]
        return self.node("not_equal", node, 0.0)

    def negate(self, value: Any) -> Any:
        """``not`` of a truth value."""
        if isinstance(value, bool):
            return not value
        return value.args[0] if value.op == "logical_not" else self.node("logical_not", value)

    def both(self, left: Any, right: Any) -> Any:
        """``and`` of truth values."""
        if left is False or right is False:
            return False
        if left is True or left is right:
            return right
        return left if right is True else self.node("logical_and", left, right)

    def either(self, left: Any, right: Any) -> Any:
        """``or`` of truth values."""
        if left is True or right is True:
            return True
        if left is False or left is right:
            return right
        return left if right is False else self.node("logical_or", left, right)

    def all_of(self, conditions: Iterable[Any]) -> Any:
        """``all`` of truth values."""
        return functools.reduce(self.both, conditions, True)

    def any_of(self, conditions: Iterable[Any]) -> Any:
        """``any`` of truth values."""
        return functools.reduce(self.either, conditions, False)

    def select(self, condition: Any, yes: Any, no: Any) -> Any:
        """``yes if condition else no`` for a condition that is a node, or already known."""
        self.count(1)
        if condition is True or yes is no:
            return yes
        if condition is False:
            return no
        if yes is None or no is None:
            return UNKNOWN
        if is_boolean(yes) and is_boolean(no):
            return self._select_truth(condition, yes, no)
        if is_scalar(yes) and is_scalar(no):
            if not isinstance(yes, Node) and not isinstance(no, Node) and repr(yes) == repr(no):
                return yes
            whole = {kind_of(yes), kind_of(no)} <= {"int", "bool"}
            yes, no = self.number(yes), self.number(no)
            return self.node("where", condition, yes, no, kind="int" if whole else "float")
        if isinstance(yes, list | tuple) and type(yes) is type(no) and len(yes) == len(no):
            pairs = zip(yes, no, strict=True)
            return type(yes)(self.select(condition, one, other) for one, other in pairs)
        if is_array(yes) and is_array(no):
            items, others = self.elements(yes), self.elements(no)
            if items.shape == others.shape:
                pairs = zip(items.flat, others.flat, strict=True)
                return Array(tuple(self.select(condition, *pair) for pair in pairs), items.shape)
        return UNKNOWN

    def _select_truth(self, condition: Any, yes: Any, no: Any) -> Any:
        if isinstance(yes, np.bool_ | bool):
            rest = self.either if yes else self.both
            return rest(condition if yes else self.negate(condition), as_bool(no))
        if isinstance(no, np.bool_ | bool):
            rest = self.either if no else self.both
            return rest(self.negate(condition) if no else condition, yes)
        if no is condition:
            return self.both(condition, yes)
        if yes is condition:
            return self.either(condition, no)
        return self.node("where", condition, yes, no, kind="bool")

    def binary(self, name: str, left: Any, right: Any) -> Any:
        """An operator, by the name of its class in :mod:`ast`."""
        if not self.is_symbolic(left) and not self.is_symbolic(right):
            return self.guards.binary(name, left, right)
        if isinstance(left, list | tuple) and type(left) is type(right) and name == "Add":
            self.count(len(left) + len(right))
            return type(left)([*left, *right])
        return self.broadcast(functools.partial(self.arithmetic, name), left, right)

    def arithmetic(self, name: str, left: Any, right: Any) -> Any:
        """An operator on two scalars."""
        if not isinstance(left, Node) and not isinstance(right, Node):
            return self.guards.binary(name, left, right)
        if is_boolean(left) and is_boolean(right):
            return self._boolean_arithmetic(name, left, right)
        whole = kind_of(left) != "float" and kind_of(right) != "float"
        left, right = self.number(left), self.number(right)
        if name in _BITS and whole:
            parts = [self.node("int64", side, kind="int") for side in (left, right)]
            bits = self.node(_BITS[name], *parts, kind="int")
            return self.node("multiply", bits, 1.0, kind="int")
        if name not in _OPERATORS:
            raise self.unresolved(f"the operator {name} cannot be followed")
        whole = whole and name not in ("Div", "Pow")
        return self.node(_OPERATORS[name], left, right, kind="int" if whole else "float")

    def _boolean_arithmetic(self, name: str, left: Any, right: Any) -> Any:
        if name == "Add" and {left, right} <= self._compared:
            raise TruthSumError(
                self.at(
                    "`+` between two comparisons gives True or False here, never 2: write "
                    "sum([..., ...]) or int(...) + int(...)"
                )
            )
        left, right = as_bool(left), as_bool(right)
        if name in ("Mult", "BitAnd"):
            return self.both(left, right)
        if name == "BitOr":
            return self.either(left, right)
        if name == "BitXor":
            return self.node("not_equal", left, right)
        raise self.unresolved(f"the operator {name} between truth values cannot be followed")

    def broadcast(self, function: Callable[..., Any], *values: Any) -> Any:
        """``function`` of scalars, or element by element where one of the values is an array."""
        if not any(is_array(value) for value in values):
            for value in values:
                if isinstance(value, Unknown):
                    raise self.unresolved("a value is not the same kind of thing in all branches")
                if not is_scalar(value):
                    raise self.unresolved(f"a {type(value).__name__.lower()} is no number")
            return function(*values)
        arrays = [self.elements([value] if is_scalar(value) else value) for value in values]
        try:
            together = np.broadcast(*arrays)
        except ValueError:
            shapes = " and ".join(str(array.shape) for array in arrays)
            raise self.unresolved(f"arrays of the shapes {shapes} do not fit") from None
        self.count(together.size)
        return Array(tuple(function(*items) for items in together), together.shape)

    def compare(self, name: str, left: Any, right: Any) -> Any:
        """A comparison, by the name of its class in :mod:`ast`."""
        if not self.is_symbolic(left) and not self.is_symbolic(right):
            return self.guards.compare((name,), left, right)
        if name in ("Is", "IsNot"):
            return (left is right) is (name == "Is")
        if name in ("In", "NotIn"):
            if not isinstance(right, list | tuple):
                raise self.unresolved("`in` needs a list or a tuple")
            found = self.any_of([self.truth(self.compare("Eq", left, item)) for item in right])
            return found if name == "In" else self.negate(found)
        if isinstance(left, list | tuple) and isinstance(right, list | tuple):
            return self._compare_sequences(name, left, right)
        return self.broadcast(functools.partial(self.compare_scalars, name), left, right)

    def _compare_sequences(self, name: str, left: Sequence[Any], right: Sequence[Any]) -> Any:
        if name not in ("Eq", "NotEq"):
            raise self.unresolved("lists and tuples can be compared by == and != only")
        same = type(left) is type(right) and len(left) == len(right)
        if same:
            pairs = zip(left, right, strict=True)
            same = self.all_of([self.truth(self.compare("Eq", *pair)) for pair in pairs])
        return same if name == "Eq" else self.negate(same)

    def compare_scalars(self, name: str, left: Any, right: Any) -> Any:
        """A comparison of two scalars by their values."""
        if not isinstance(left, Node) and not isinstance(right, Node):
            return self.guards.compare((name,), left, right)
        if left is None or right is None:
            raise self.unresolved("None compared with a number")
        node = self.node(COMPARISONS[name], self.number(left), self.number(right))
        self._compared.add(node)
        return node

    def element(self, indices: Sequence[int], place: int) -> Node:
        """The number at one of ``indices`` of the state."""
        index = int(indices[place])
        if index > ENDLESS // 2:
            raise self.unresolved("it counts from the end of a state whose length is not known")
        return self.load(index)

    def elements(self, value: Any) -> NDArray[np.object_]:
        """The elements of an array, or of what a loop may go over, in their shape."""
        is_plain = isinstance(value, np.ndarray)
        shape = value.shape if is_plain or isinstance(value, Array) else None
        items = list(value.flat) if is_plain else value.items if shape else self.items(value)
        self.count(len(items))
        found = np.empty(len(items), object)
        for place, item in enumerate(items):  # one by one: no item is taken for an array
            found[place] = item
        return found if shape is None else found.reshape(shape)

    def items(self, value: Any) -> list[Any]:
        """The items of what a loop may go over; of an array with several axes its rows."""
        if isinstance(value, View) and len(value.indices) > ENDLESS // 2:
            raise self.unresolved("it needs the length of the state, which is not known")
        items = self._items(value)
        self.count(len(items))
        return list(items)

    def _items(self, value: Any) -> Sequence[Any]:
        if isinstance(value, View):
            return [self.load(index) for index in value.indices]
        if isinstance(value, Array):
            return value.items if len(value.shape) == 1 else [*map(array_of, self.elements(value))]
        if isinstance(value, list | tuple | range):
            return value
        if isinstance(value, np.ndarray) and value.ndim > 0:
            return list(value)
        raise self.unresolved("how often this loop runs cannot be followed")


def array_of(elements: NDArray[np.object_]) -> Array:
    """The array of these elements."""
    return Array(tuple(elements.flat), elements.shape)


def plain_number(value: Any) -> Any:
    """A constant of a node as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def is_array(value: Any) -> bool:
    """Whether it is an array with elements."""
    return isinstance(value, View | Array) or (isinstance(value, np.ndarray) and value.ndim > 0)


def is_scalar(value: Any) -> bool:
    """Whether it is a number, a truth value or None."""
    return value is None or isinstance(value, Node | int | float | np.generic)


def is_boolean(value: Any) -> bool:
    """Whether it is a truth value."""
    return is_scalar(value) and value is not None and kind_of(value) == "bool"


def as_bool(value: Any) -> Any:
    """A plain truth value as Python's own."""
    return bool(value) if isinstance(value, np.bool_) else value


def kind_of(value: Any) -> str:
    """Of a scalar: ``"bool"``, ``"int"`` or ``"float"``."""
    if isinstance(value, Node):
        return value.kind
    if isinstance(value, bool | np.bool_):
        return "bool"
    return "int" if isinstance(value, int | np.integer) else "float"
