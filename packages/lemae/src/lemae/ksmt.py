"""The key-state memory tree: in which orders key states have been met, and what may come next.

Three memories of one interface (arXiv 2410.02511, Section 4.3; the relatives are only named there):

- :class:`KSMT`, the tree. A node is the order in which key states were met.
- :class:`DagMemory`, its smaller relative. A node is the set of key states met.
- :class:`ChainMemory`, the single branch. One order of all key states, kept up to date.

A memory counts whole episodes and nothing else, so that the sum of two memories (``merge``) is the
memory of the episodes of both. Where the published text says nothing:

- Pruning hides the nodes that no successful episode passed; their counts stay, for reports and so
  that merging stays a sum. Every later episode is counted too.
- :meth:`Memory.candidates` settles what to aim at where the tree has no answer.
- A tree or graph that is full (``max_nodes``) adds no node, warns once, and answers like a single
  branch for what it had no room for.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from lemae._kit.files import write_text_atomic
from lemae._values import array, flag, reading, real, whole
from lemae.errors import ConfigError, IntegrityError, LemaeWarning, ShapeError, StateError
from lemae.labels import Order, checked_order

if TYPE_CHECKING:
    from typing_extensions import Self

_FORMAT = 1


class NodeInfo(NamedTuple):
    """What a memory knows of a node.

    Attributes:
        visits: episodes that passed it or ended there; 0 off the tree.
        successes: successful ones of them.
        first_step: environment step at which an episode that reached it was first inserted, the
            smallest; None where no step was given.
        episodes: of the whole memory.
    """

    visits: int
    successes: int
    first_step: int | None
    episodes: int


class Memory(ABC):
    """What the three memories have in common.

    Args:
        n_key_states: K; key states are numbered 0 to K-1.

    Attributes:
        episodes: inserted so far.
        successes: successful ones of them.
        met: per key state, episodes that met it.
        succeeded: per key state, successful episodes that met it.
        pruned: whether only what led to success counts.

    Raises:
        ConfigError: if ``n_key_states`` is negative.
    """

    kind: ClassVar[str]

    def __init__(self, n_key_states: int) -> None:
        self.n_key_states = whole("n_key_states", n_key_states, lowest=0)
        self.episodes = 0
        self.successes = 0
        self.met = [0] * n_key_states
        self.succeeded = [0] * n_key_states
        self.pruned = False

    # --- writing ---------------------------------------------------------------------------------

    def insert(self, order: Iterable[int], *, success: bool, step: int | None = None) -> bool:
        """Count one episode that is over.

        Args:
            order: of the key states that it met, by number; see :func:`lemae.labels.order`.
            success: whether it succeeded.
            step: environment steps taken so far, for the record of when a node was first seen.

        Returns:
            Whether the episode brought something new: a node, or in a single branch a key state.

        Raises:
            ConfigError: if a number is no key state, or comes twice, or success is neither.
        """
        met = checked_order(order, self.n_key_states)
        won = int(flag("success", success))
        step = None if step is None else int(step)
        self.episodes += 1
        self.successes += won
        for k in met:
            self.met[k] += 1
            self.succeeded[k] += won
        return self._insert(met, won, step)

    def prune(self) -> None:
        """Hide whatever no successful episode passed, from now on; nothing before a success."""
        self.pruned = self.pruned or self.solved

    def add_key_states(self, count: int) -> None:
        """Make room for further key states, numbered after those there are; nothing is forgotten.

        Raises:
            ConfigError: if ``count`` is negative.
        """
        self.n_key_states += whole("count", count, lowest=0)
        self.met += [0] * count
        self.succeeded += [0] * count
        self._add_key_states(count)

    def merge(self, other: Self) -> None:
        """Add the episodes of another memory to this one, as if they were inserted after its own.

        Associative: workers may each count their own episodes in an empty memory, and the sum is
        that of one process that inserts them worker by worker. In a tree or graph the order of the
        workers does not matter; a :class:`ChainMemory` takes the episodes of the last one for the
        most recent. Two copies of one memory have the same episodes, which would count twice.

        Raises:
            ConfigError: if the other is of another kind, size or limit.
        """
        if type(other) is not type(self) or other._limits() != self._limits():
            raise ConfigError(
                f"cannot merge {type(other).__name__} {other._limits()} into "
                f"{type(self).__name__} {self._limits()}: make both alike"
            )
        self.episodes += other.episodes
        self.successes += other.successes
        self.met = [a + b for a, b in zip(self.met, other.met, strict=True)]
        self.succeeded = [a + b for a, b in zip(self.succeeded, other.succeeded, strict=True)]
        self.pruned = self.pruned or other.pruned
        self._merge(other)

    # --- reading ---------------------------------------------------------------------------------

    @property
    def solved(self) -> bool:
        """Whether any episode succeeded."""
        return self.successes > 0

    @property
    def allowed(self) -> frozenset[int] | None:
        """Key states that survived pruning; None before it."""
        if not self.pruned:
            return None
        return frozenset(k for k in range(self.n_key_states) if self.succeeded[k])

    @abstractmethod
    def contains(self, order: Iterable[int]) -> bool:
        """Whether there is a node for this order. Key states that were pruned are left out."""

    @abstractmethod
    def children(self, order: Iterable[int]) -> Order:
        """Key states known to have come next, ascending; none at a leaf and off the tree."""

    @abstractmethod
    def candidates(self, order: Iterable[int]) -> Order:
        """Key states to aim at after this order, ascending.

        The children of its node. Where there are none, because the order ends at a leaf or has left
        the tree, the children of the deepest node on the way that the order has not met; where
        there are none either, every key state of the tree that it has not met (Algorithm 1, line
        "else"). Key states that were pruned never come.
        """

    @abstractmethod
    def info(self, order: Iterable[int]) -> NodeInfo:
        """The counts of a node; zero off the tree."""

    def degree(self, order: Iterable[int]) -> int:
        """Number of children, d in the published 1/(d+1)."""
        return len(self.children(order))

    # --- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything, in the types of JSON."""
        return {
            "kind": self.kind,
            "limits": self._limits(),
            "episodes": self.episodes,
            "successes": self.successes,
            "met": list(self.met),
            "succeeded": list(self.succeeded),
            "pruned": self.pruned,
            **self._content(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the memory that :meth:`state_dict` was taken of.

        Raises:
            StateError: if that one is of another kind, size or limit, or the state is not what that
                method returns; nothing is changed then.
        """
        with reading(f"this {self.kind} memory"):
            if (state["kind"], state["limits"]) != (self.kind, self._limits()):
                raise StateError(
                    f"the state is of a {state['kind']} memory {state['limits']}, this is a "
                    f"{self.kind} memory {self._limits()}: make it like the saved one"
                )
            read = type(self)(**self._limits())
            read._load_counts(state)
            read._load_content(state)
        vars(self).update(vars(read))

    def _load_counts(self, state: dict[str, Any]) -> None:
        shape = (self.n_key_states,)
        self.episodes = whole("episodes", state["episodes"], lowest=0)
        self.successes = whole("successes", state["successes"], lowest=0, highest=self.episodes)
        self.met = array("met", state["met"], shape, np.int64, 0, self.episodes).tolist()
        succeeded = array("succeeded", state["succeeded"], shape, np.int64, 0, self.successes)
        self.succeeded = succeeded.tolist()
        self.pruned = flag("pruned", state["pruned"])
        if (succeeded > self.met).any() or (self.pruned and not self.successes):
            raise ConfigError("it knows of successes that it did not count")

    def to_json(self) -> str:
        """The memory and the SHA-256 of its content; equal memories give equal texts."""
        state = self.state_dict()
        return json.dumps({"format": _FORMAT, "sha256": _digest(state), "memory": state})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            IntegrityError: if the text is damaged or was changed.
            StateError: if it is a memory of another kind, or none.
        """
        return cls._from_state(_verified(text))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` to a file, which a reader never sees half of."""
        write_text_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote; errors as in :meth:`from_json`."""
        return cls.from_json(_read(path))

    @classmethod
    def _from_state(cls, state: dict[str, Any]) -> Self:
        with reading(f"any {cls.kind} memory"):
            kind = _KINDS[state["kind"]]
            if kind.kind != cls.kind:
                raise StateError(
                    f"this is a {kind.kind} memory, not a {cls.kind} memory: read it with "
                    f"{kind.__name__}, or with load_memory"
                )
            memory = cls(**state["limits"])
            memory.load_state_dict(state)
        return memory

    # --- for the kinds ---------------------------------------------------------------------------

    @abstractmethod
    def _insert(self, order: Order, won: int, step: int | None) -> bool:
        """Count the order; whether it is new."""

    @abstractmethod
    def _add_key_states(self, count: int) -> None:
        """Make room in what this class knows more than the base."""

    @abstractmethod
    def _merge(self, other: Any) -> None:
        """Add what this class knows more than the base."""

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """What this class knows more than the base, in the types of JSON."""

    @abstractmethod
    def _load_content(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`_content`."""

    def _limits(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"n_key_states": self.n_key_states}

    def _relevant(self, order: Iterable[int]) -> Order:
        """The order without key states that were pruned."""
        return tuple(k for k in order if not self.pruned or self.succeeded[k])

    def _open(self, order: Order) -> list[int]:
        """Key states of the memory that are not in the order."""
        counts = self.succeeded if self.pruned else self.met
        return [k for k in range(self.n_key_states) if counts[k] and k not in order]


@dataclass(slots=True)
class _Node:
    visits: int = 0
    successes: int = 0
    first_step: int | None = None
    children: set[int] = field(default_factory=set)

    def count(self, visits: int, successes: int, step: int | None) -> None:
        self.visits += visits
        self.successes += successes
        if step is not None and (self.first_step is None or step < self.first_step):
            self.first_step = step


class _Graph(Memory):
    """Nodes that are orders, or sets of the same key states."""

    def __init__(self, n_key_states: int, *, max_nodes: int = 10_000) -> None:
        super().__init__(n_key_states)
        self.max_nodes = whole("max_nodes", max_nodes)
        self.full = False
        self._ranks = [0] * n_key_states  # sum over episodes of the place in the order
        self._nodes: dict[Order, _Node] = {(): _Node()}

    def __len__(self) -> int:
        """Number of nodes besides the root, hidden ones included."""
        return len(self._nodes) - 1

    def walk(self, *, hidden: bool = False) -> Iterator[tuple[Order, NodeInfo]]:
        """The nodes, the root first, by depth and then by number.

        Args:
            hidden: also those that were pruned.
        """
        for key in self._sorted():
            if hidden or self._visible(key):
                yield key, self._info(self._nodes[key])

    def contains(self, order: Iterable[int]) -> bool:
        """Whether there is a node for this order."""
        return self._visible(self._key(self._relevant(order)))

    def children(self, order: Iterable[int]) -> Order:
        """Key states known to have come next, ascending."""
        met = self._relevant(order)
        found = self._children(met)
        if not found and self.full and (left := self._open(met)):
            return (min(left, key=lambda k: (self._ranks[k] / self.met[k], k)),)
        return found

    def candidates(self, order: Iterable[int]) -> Order:
        """Key states to aim at after this order, ascending."""
        met = self._relevant(order)
        if goals := self.children(met):
            return goals
        deepest = next(
            met[:depth]
            for depth in range(len(met), -1, -1)
            if self._visible(self._key(met[:depth]))
        )
        goals = tuple(k for k in self._children(deepest) if k not in met)
        return goals or tuple(self._open(met))

    def info(self, order: Iterable[int]) -> NodeInfo:
        """The counts of a node; zero off the tree."""
        key = self._key(self._relevant(order))
        return self._info(self._nodes[key] if self._visible(key) else _Node())

    def _info(self, node: _Node) -> NodeInfo:
        return NodeInfo(node.visits, node.successes, node.first_step, self.episodes)

    def _visible(self, key: Order) -> bool:
        node = self._nodes.get(key)
        return node is not None and (node.successes > 0 or not self.pruned)

    def _children(self, order: Order) -> Order:
        key = self._key(order)
        if not self._visible(key):
            return ()
        below = sorted(self._nodes[key].children)
        return tuple(k for k in below if self._visible(self._key((*key, k))))

    def _insert(self, order: Order, won: int, step: int | None) -> bool:
        for rank, k in enumerate(order):
            self._ranks[k] += rank
        new = False
        node: _Node | None = self._nodes[()]
        self._nodes[()].count(1, won, step)
        for depth, k in enumerate(order):
            key = self._key(order[: depth + 1])
            child = self._nodes.get(key)
            if child is None:
                if len(self) >= self.max_nodes:
                    # In a graph, deeper nodes may have been reached by another order.
                    self._fill()
                    node = None
                    continue
                child = self._nodes[key] = _Node()
                new = True
            if node is not None:
                node.children.add(k)
            child.count(1, won, step)
            node = child
        return new

    def _add_key_states(self, count: int) -> None:
        self._ranks += [0] * count

    def _merge(self, other: _Graph) -> None:
        self._ranks = [a + b for a, b in zip(self._ranks, other._ranks, strict=True)]
        for key, theirs in other._nodes.items():
            mine = self._nodes.setdefault(key, _Node())
            mine.count(theirs.visits, theirs.successes, theirs.first_step)
            mine.children |= theirs.children
        if len(self) > self.max_nodes:
            # The first in a fixed order, parents before children: whichever way many memories are
            # merged, the same nodes are left.
            kept = self._sorted()[: self.max_nodes + 1]
            self._nodes = {key: self._nodes[key] for key in kept}
            for key, node in self._nodes.items():
                node.children = {k for k in node.children if self._key((*key, k)) in self._nodes}
            self._fill()
        self.full = self.full or other.full

    def _fill(self) -> None:
        if not self.full:
            self.full = True
            warnings.warn(
                f"the {self.kind} memory has reached max_nodes={self.max_nodes}: orders beyond it "
                "are answered like a single branch. Use fewer key states, or memory='chain'",
                LemaeWarning,
                stacklevel=4,
            )

    def _sorted(self) -> list[Order]:
        return sorted(self._nodes, key=lambda key: (len(key), key))

    def _limits(self) -> dict[str, Any]:
        return {"n_key_states": self.n_key_states, "max_nodes": self.max_nodes}

    def _content(self) -> dict[str, Any]:
        nodes = [
            [list(key), node.visits, node.successes, node.first_step, sorted(node.children)]
            for key, node in ((key, self._nodes[key]) for key in self._sorted())
        ]
        return {"full": self.full, "ranks": list(self._ranks), "nodes": nodes}

    def _load_content(self, state: dict[str, Any]) -> None:
        self.full = flag("full", state["full"])
        ranks = array("ranks", state["ranks"], (self.n_key_states,), np.int64, 0)
        self._ranks = ranks.tolist()
        nodes: dict[Order, _Node] = {}
        for key, visits, successes, first_step, children in state["nodes"]:
            order = checked_order(key, self.n_key_states)
            visits = whole("visits", visits, lowest=0, highest=self.episodes)
            successes = whole("successes", successes, lowest=0, highest=visits)
            nodes[order] = _Node(visits, successes, _step(first_step), set(children))
        below = [
            self._key(checked_order((*order, k), self.n_key_states))
            for order, node in nodes.items()
            for k in node.children
        ]
        root = nodes[()]
        if (
            (root.visits, root.successes) != (self.episodes, self.successes)
            or not nodes.keys() >= {*below}
            or any(self._key(order) != order for order in nodes)
            or not len(nodes) == len(state["nodes"]) <= self.max_nodes + 1
        ):
            raise ConfigError("its nodes are no whole graph of its episodes")
        self._nodes = nodes

    @staticmethod
    @abstractmethod
    def _key(order: Order) -> Order:
        """The node of an order."""


class KSMT(_Graph):
    """The tree: a node per order in which key states were met.

    Args:
        n_key_states: K.
        max_nodes: besides the root. K key states can have as many as ``sum_k K! / (K-k)!`` nodes:
            64 for 4, ten million for 10.

    Attributes:
        full: whether ``max_nodes`` was too small for the episodes.

    Memory: about 0.5 kB per node.

    Raises:
        ConfigError: if a size is not positive.

    Example:
        >>> tree = KSMT(3)
        >>> tree.insert((0, 2), success=False)
        True
        >>> tree.children(()), tree.candidates((0, 2)), tree.candidates((2,))
        ((0,), (), (0,))

    Reference: arXiv 2410.02511, Section 4.3.
    """

    kind = "tree"

    @staticmethod
    def _key(order: Order) -> Order:
        return order


class DagMemory(_Graph):
    """A node per set of key states met, in whatever order; a child per key state that came next.

    Args:
        n_key_states: K.
        max_nodes: besides the root; K key states can have ``2**K``.

    Attributes:
        full: whether ``max_nodes`` was too small for the episodes.

    Raises:
        ConfigError: if a size is not positive.
    """

    kind = "dag"

    @staticmethod
    def _key(order: Order) -> Order:
        return tuple(sorted(order))


class ChainMemory(Memory):
    """The single branch: one order of all key states that were ever met.

    The published variant for large maps orders key states "by a priority" that it does not define.
    Ours is a moving average of a key state's place in the chains, in units of K, without the bias
    of its start. The next goal is the first key state in this order that the episode has not met; a
    leaf is where nothing that was ever met is left.

    A memory that is merged into this one counts as more recent: where it met a key state ``n``
    times, what was known here keeps the share ``(1 - rate)**n`` of its weight. Workers merged in
    order are one process, up to rounding.

    Args:
        n_key_states: K.
        rate: weight of the newest chain in the average.

    Raises:
        ConfigError: if ``rate`` is not in (0, 1].
    """

    kind = "chain"

    def __init__(self, n_key_states: int, *, rate: float = 0.05) -> None:
        super().__init__(n_key_states)
        self.rate = real("rate", rate, highest=1, above=True)
        # Average = total / weight: the weights fade as new chains come, and start at 0.
        self._totals = [0.0] * n_key_states
        self._weights = [0.0] * n_key_states
        self._first_steps: list[int | None] = [None] * n_key_states

    @property
    def ranking(self) -> Order:
        """All key states in the order of their priority; those never met come last."""
        return tuple(sorted(range(self.n_key_states), key=self._priority))

    def contains(self, order: Iterable[int]) -> bool:
        """Whether every key state of the order was met before."""
        return all(self.met[k] for k in self._relevant(order))

    def children(self, order: Iterable[int]) -> Order:
        """The key state that comes next, if any is left."""
        left = self._open(self._relevant(order))
        return (min(left, key=self._priority),) if left else ()

    def candidates(self, order: Iterable[int]) -> Order:
        """The key state that comes next, if any is left."""
        return self.children(order)

    def info(self, order: Iterable[int]) -> NodeInfo:
        """The counts of the last key state of the order."""
        met = self._relevant(order)
        if not met:
            return NodeInfo(self.episodes, self.successes, None, self.episodes)
        k = met[-1]
        return NodeInfo(self.met[k], self.succeeded[k], self._first_steps[k], self.episodes)

    def _priority(self, k: int) -> tuple[float, int]:
        weight = self._weights[k]
        return (self._totals[k] / weight if weight else float("inf"), k)

    def _insert(self, order: Order, won: int, step: int | None) -> bool:
        for rank, k in enumerate(order):
            self._totals[k] += self.rate * (rank / self.n_key_states - self._totals[k])
            self._weights[k] += self.rate * (1.0 - self._weights[k])
            self._first_steps[k] = _earlier(self._first_steps[k], step)
        return any(self.met[k] == 1 for k in order)

    def _add_key_states(self, count: int) -> None:
        # A place in the chain is in units of K.
        scale = (self.n_key_states - count) / self.n_key_states if self.n_key_states else 1.0
        self._totals = [total * scale for total in self._totals] + [0.0] * count
        self._weights += [0.0] * count
        self._first_steps += [None] * count

    def _merge(self, other: ChainMemory) -> None:
        for k, newer in enumerate(other.met):
            left = (1 - self.rate) ** newer
            self._totals[k] = left * self._totals[k] + other._totals[k]
            self._weights[k] = left * self._weights[k] + other._weights[k]
        pairs = zip(self._first_steps, other._first_steps, strict=True)
        self._first_steps = [_earlier(a, b) for a, b in pairs]

    def _limits(self) -> dict[str, Any]:
        return {"n_key_states": self.n_key_states, "rate": self.rate}

    def _content(self) -> dict[str, Any]:
        return {
            "totals": list(self._totals),
            "weights": list(self._weights),
            "first_steps": list(self._first_steps),
        }

    def _load_content(self, state: dict[str, Any]) -> None:
        shape = (self.n_key_states,)
        self._totals = array("totals", state["totals"], shape, np.float64, 0).tolist()
        self._weights = array("weights", state["weights"], shape, np.float64, 0).tolist()
        self._first_steps = [_step(step) for step in state["first_steps"]]
        if len(self._first_steps) != self.n_key_states:
            raise ShapeError(f"first_steps are {len(self._first_steps)}: give {self.n_key_states}")


_KINDS: dict[str, type[Memory]] = {kind.kind: kind for kind in (KSMT, DagMemory, ChainMemory)}


def make_memory(kind: str, n_key_states: int, max_nodes: int = 10_000) -> Memory:
    """An empty memory.

    Args:
        kind: ``tree``, ``dag`` or ``chain``.
        n_key_states: K.
        max_nodes: of a tree or graph; a chain never has more than K.

    Raises:
        ConfigError: if the kind is unknown, or a size is not positive.
    """
    if kind not in _KINDS:
        raise ConfigError(f"memory is {kind!r}: give one of {', '.join(sorted(_KINDS))}")
    if kind == ChainMemory.kind:
        return ChainMemory(n_key_states)
    return (
        KSMT(n_key_states, max_nodes=max_nodes)
        if kind == KSMT.kind
        else DagMemory(n_key_states, max_nodes=max_nodes)
    )


def load_memory(path: str | os.PathLike[str]) -> Memory:
    """Read a saved memory of any kind.

    Raises:
        IntegrityError: if the file is damaged or was changed.
        StateError: if it is no memory.
    """
    state = _verified(_read(path))
    with reading("any memory"):
        return _KINDS[state["kind"]]._from_state(state)


def _step(step: Any) -> int | None:
    return None if step is None else operator.index(step)


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((step for step in (one, other) if step is not None), default=None)


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path} is no text: restore it from a copy") from error


def _digest(state: dict[str, Any]) -> str:
    text = json.dumps(state, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _verified(text: str) -> dict[str, Any]:
    """The state in a saved memory, if it is what its hash says."""
    try:
        saved = json.loads(text)
        state: dict[str, Any] = saved["memory"]
        intact = saved["format"] == _FORMAT and saved["sha256"] == _digest(state)
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"this is no saved memory ({error}): it was cut off or damaged; restore it from a copy"
        ) from error
    if not intact:
        raise IntegrityError(
            "the saved memory is not what its SHA-256 says, or of another format: it was damaged "
            "or changed by hand; restore it from a copy"
        )
    return state
