"""A discriminator of one state, made into a function of many.

:mod:`~lemae.discriminators.symbolic` runs the source on symbols; the graph that it leaves is
written out here as straight-line code, one line per operation, and compiled: in NumPy over all
states, and in Python's own operators, row by row, which is quicker for a handful of states. All key
states of a set share one graph, so that what several of them ask is computed once.

Why this code needs no guards: not a character of it comes from the source. It is made of the names
``v0, v1, ...``, of operators and elementwise functions from fixed tables, and of numbers; its
length is bounded, every operation costs one pass over as many rows as there are states, and nothing
it calls keeps a reference, opens a file or returns another shape. The source itself has passed the
allow-list before. Branches that a state does not take are computed all the same and then dropped,
with warnings about them silenced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemae.discriminators.graph import Graph, Node, UnresolvedError, operation, reachable
from lemae.discriminators.source import checked
from lemae.discriminators.symbolic import execute

Array = NDArray[Any]

#: Operations per set; beyond it, a loop over the states is not slower.
MAX_OPERATIONS = 2048
_CHUNK = 8192  # rows at a time: what is between two operations stays in the cache
_FEW = 16  # rows up to which Python's own operators are quicker
# Operations in Python's words, where these mean the same for floats.
_PYTHON = {
    "absolute": "abs({})",
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "equal": "{} == {}",
    "not_equal": "{} != {}",
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "greater": "{} > {}",
    "greater_equal": "{} >= {}",
    "logical_and": "{} and {}",
    "logical_or": "{} or {}",
    "logical_not": "not {}",
    "maximum": "{0} if {0} > {1} or {0} != {0} else {1}",
    "minimum": "{0} if {0} < {1} or {0} != {0} else {1}",
    "where": "{1} if {0} else {2}",
}
_SILENT = (
    *("load", "absolute", "maximum", "minimum", "where", "logical_and", "logical_or"),
    *("logical_not", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
)


class ArrayFunction:
    """Truth values of several key states on many states at once.

    Args:
        roots: one for each key state.
        d: length of a state, None if it is not known.
    """

    def __init__(self, roots: Sequence[Node | bool], d: int | None) -> None:
        nodes = reachable(roots)
        if len(nodes) > MAX_OPERATIONS:
            raise UnresolvedError(f"it takes more than {MAX_OPERATIONS} operations")
        if any(node.op == "opaque" for node in nodes):
            raise UnresolvedError("it uses operations that have no elementwise form")
        self._count = len(roots)
        indices = [node.args[0] for node in nodes if node.op == "load"]
        # All columns of a short state are quicker than some.
        self._chosen = None if d is not None and d <= max(8, 2 * len(indices)) else indices
        places = {index: index if self._chosen is None else n for n, index in enumerate(indices)}
        self._may_warn = any(node.op not in _SILENT for node in nodes)
        self._columns = _columns_function(roots, nodes, places)
        self._row = _row_function(roots, nodes, places)

    def __call__(self, states: Array) -> Array:
        """Evaluate.

        Args:
            states: numbers ``[N, d]``; they count as float64.

        Returns:
            bool ``[N, K]``.
        """
        if self._row is not None and len(states) <= _FEW:
            return self._by_row(self._row, states)
        found = np.empty((self._count, len(states)), bool)
        if not self._may_warn:
            self._by_column(states, found)
        else:
            with np.errstate(all="ignore"):
                self._by_column(states, found)
        return found.T

    def _by_row(self, row_function: Callable[..., Any], states: Array) -> Array:
        if states.dtype.kind != "f":
            states = states.astype(np.float64)
        if self._chosen is not None:
            states = states[:, self._chosen]
        found: list[bool] = []
        for row in states.tolist():
            found += row_function(row)
        return np.frombuffer(bytearray(found), bool).reshape(len(states), self._count)

    def _by_column(self, states: Array, found: Array) -> None:
        for start in range(0, len(states), _CHUNK):
            part = slice(start, start + _CHUNK)
            columns = states[part].T
            if self._chosen is not None:
                columns = columns[self._chosen]
            self._columns(columns.astype(np.float64, order="C"), *found[:, part])


def vectorize(entries: Sequence[tuple[str, str]], d: int | None) -> ArrayFunction:
    """Make one function of arrays for several key states.

    Args:
        entries: source and name of each.
        d: length of the state, None if it is not known.

    Raises:
        UnsafeCodeError: if a source does not pass the allow-list.
        UnresolvedError: if one has no elementwise form; the text says why.
    """
    graph = Graph()
    roots = [
        execute(checked(source, name).source, name, d, graph=graph).root for source, name in entries
    ]
    return ArrayFunction(roots, d)


def _columns_function(
    roots: Sequence[Node | bool], nodes: list[Node], places: dict[int, int]
) -> Callable[..., Any]:
    """A function ``(columns, out0, out1, ...)`` that fills the rows ``out``."""
    names: dict[str, Any] = {}
    lines = []
    outputs: dict[Node, str] = {}  # rows that an operation can write to directly
    for number, root in enumerate(roots):
        if isinstance(root, Node):
            outputs.setdefault(root, f"out{number}")
    for node in nodes:
        if node.op == "load":
            lines.append(f"v{node.number} = columns[{places[node.args[0]]}]")
            continue
        # An array of no axis is taken over quicker than a number of Python's.
        as_constant = int if node.op == "round" else np.asarray
        arguments = ", ".join(_arguments(node, names, as_constant))
        names[f"do_{node.op}"] = function = operation(node.op)
        output = outputs.get(node)
        if output is not None and isinstance(function, np.ufunc):
            arguments, output = f"{arguments}, {output}", None
        lines.append(f"v{node.number} = do_{node.op}({arguments})")
        if output is not None:
            lines.append(f"{output}[:] = v{node.number}")
    for number, root in enumerate(roots):
        if not isinstance(root, Node):
            lines.append(f"out{number}.fill({bool(root)})")
        elif outputs[root] != f"out{number}":
            lines.append(f"out{number}[:] = v{root.number}")
    return _compiled(["columns", *(f"out{number}" for number in range(len(roots)))], lines, names)


def _row_function(
    roots: Sequence[Node | bool], nodes: list[Node], places: dict[int, int]
) -> Callable[..., Any] | None:
    """A function ``(row)`` that gives all truth values; None where Python means other things."""
    names: dict[str, Any] = {"abs": abs}
    lines = []
    for node in nodes:
        if node.op == "load":
            lines.append(f"v{node.number} = row[{places[node.args[0]]}]")
        elif node.op in _PYTHON:
            expression = _PYTHON[node.op].format(*_arguments(node, names, float))
            lines.append(f"v{node.number} = {expression}")
        else:
            return None
    results = (f"v{root.number}" if isinstance(root, Node) else str(bool(root)) for root in roots)
    return _compiled(["row"], [*lines, f"return [{', '.join(results)}]"], names)


def _arguments(node: Node, names: dict[str, Any], as_constant: Callable[[Any], Any]) -> list[str]:
    """Names of the arguments of an operation; those of constants are new."""
    found = []
    for place, arg in enumerate(node.args):
        if isinstance(arg, Node):
            found.append(f"v{arg.number}")
        else:
            found.append(f"c{node.number}_{place}")
            names[found[-1]] = as_constant(arg)
    return found


def _compiled(arguments: list[str], lines: list[str], names: dict[str, Any]) -> Callable[..., Any]:
    body = "\n    ".join(lines or ["pass"])
    text = f"def function({', '.join(arguments)}):\n    {body}\n"
    exec(compile(text, "<vectorized>", "exec"), names)
    function: Callable[..., Any] = names["function"]
    return function
