"""Elementwise operations as nodes of a graph: the common form of all key states."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

MAX_NODES = 20_000  # of a graph


class UnresolvedError(Exception):
    """A function cannot be followed; the text says where and why."""


class Node:
    """One elementwise operation.

    Attributes:
        op: ``"load"``, ``"int64"``, a function of NumPy, or ``"opaque"`` for what has no
            elementwise form.
        args: nodes and constants; of a load the index.
        kind: ``"bool"``, ``"int"`` (a float that is whole) or ``"float"``.
        number: of the nodes of a graph, in the order of their making.
        value: on the state of a trace; None where it is not known.
    """

    __slots__ = ("args", "kind", "number", "op", "value")

    def __init__(self, op: str, args: tuple[Any, ...], kind: str, number: int) -> None:
        self.op, self.args, self.kind, self.number = op, args, kind, number
        self.value: Any = None


class Graph:
    """Nodes, each operation once."""

    def __init__(self) -> None:
        self._nodes: dict[Any, Node] = {}

    def add(self, op: str, args: tuple[Any, ...], kind: str) -> Node:
        """Give the node of an operation.

        Raises:
            UnresolvedError: if there would be more than ``MAX_NODES``.
        """
        key = (op, kind, *(id(arg) if isinstance(arg, Node) else repr(arg) for arg in args))
        node = self._nodes.get(key)
        if node is None:
            if len(self._nodes) >= MAX_NODES:
                raise UnresolvedError(f"it takes more than {MAX_NODES} operations")
            node = self._nodes[key] = Node(op, args, kind, len(self._nodes))
        return node


def reachable(roots: Iterable[Any]) -> list[Node]:
    """All nodes that ``roots`` depend on, each after its arguments."""
    found: dict[int, Node] = {}
    new = [root for root in roots if isinstance(root, Node)]
    while new:
        node = new.pop()
        if node.number not in found:
            found[node.number] = node
            new += [arg for arg in node.args if isinstance(arg, Node)]
    return [found[number] for number in sorted(found)]


def operation(op: str) -> Callable[..., Any]:
    """The function that computes nodes of this kind, on arrays or numbers."""
    function: Callable[..., Any] = _int64 if op == "int64" else getattr(np, op)
    return function


def _int64(values: Any) -> Any:
    return np.asarray(values).astype(np.int64)
