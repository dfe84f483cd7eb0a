"""States in which each key state was met: the goals that planning aims at.

A Boolean function has no coordinates. In hindsight the goal is the state in which the episode met
the key state; a key state that it has still to meet borrows the state of another episode, a choice
that the published text leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, get_args

import numpy as np

from lemae._arrays import as_array
from lemae._values import array, random_state, reading, whole
from lemae.errors import ConfigError, ShapeError, StateError
from lemae.labels import Order

PlanInstance = Literal["uniform", "recent", "nearest", "medoid"]
#: From two arrays of states that broadcast, ``[..., d]``, to distances ``[...]``.
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]

#: Instances that a medoid is chosen among, at most; the cost grows with the square.
MEDOID_AMONG = 128
_NONE = -1  # behind the end of an order


def l1(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Manhattan distance along the last axis."""
    distance: np.ndarray = np.abs(one - other).sum(axis=-1)
    return distance


class InstanceBank:
    """Keeps, per key state, a uniform sample of the states in which it was met.

    Every instance draws a random number, and the ``capacity`` smallest numbers stay. So the bank of
    two workers together is the union of theirs, cut to the capacity, whatever is merged first.

    Args:
        n_key_states: K.
        capacity: instances per key state.
        seed: of the numbers. Workers whose banks are to be merged need different ones.

    Attributes:
        seen: int64 ``[K]``, instances ever added.

    Memory: ``K * capacity * (8 d + 2 K + 16)`` bytes, taken as it is filled.

    Raises:
        ConfigError: if a size is no whole number, or the capacity 0.
    """

    def __init__(self, n_key_states: int, capacity: int = 1000, *, seed: int | None = 0) -> None:
        self.n_key_states = whole("n_key_states", n_key_states, lowest=0)
        self.capacity = whole("capacity", capacity)
        self.seen = np.zeros(n_key_states, dtype=np.int64)
        self._shelves = [_Shelf.empty(n_key_states) for _ in range(n_key_states)]
        self._rng = np.random.default_rng(seed)

    def count(self, k: int) -> int:
        """Instances of a key state at hand."""
        return len(self._shelves[k])

    def states(self, k: int) -> np.ndarray:
        """The instances of a key state, float64 ``[count(k), d]``."""
        return self._shelves[k].states.copy()

    def add(self, k: int, state: Any, order: Order = ()) -> None:
        """Add one instance.

        Args:
            k: the key state.
            state: ``[d]``, in which it was met.
            order: key states met before it in the same episode.

        Raises:
            ConfigError: if ``k`` is no key state, or the order holds more than there are.
            ShapeError: if the state has another length than those before.
        """
        self.extend(k, as_array(state)[None], [order])

    def extend(self, k: int, states: Any, orders: Sequence[Order]) -> None:
        """Add instances of one key state; the arguments are those of :meth:`add`, one per row."""
        states = as_array(states).astype(np.float64)  # a copy, which the caller cannot change
        if not 0 <= k < self.n_key_states:
            raise ConfigError(f"key state {k}: there are 0 to {self.n_key_states - 1}")
        if states.ndim != 2 or len(states) != len(orders):
            raise ShapeError(
                f"{len(orders)} orders and states of shape {states.shape}: give [m, d] and m"
            )
        self._check_length(states.shape[1])
        rows = [self._row(order) for order in orders]
        after = np.array(rows, np.int16).reshape(len(rows), self.n_key_states)
        numbers = self._rng.integers(2**63, size=len(states), dtype=np.int64)
        stamps = self.seen[k] + np.arange(len(states))
        self.seen[k] += len(states)
        new = _Shelf(numbers, stamps, after, states)
        shelf = self._shelves[k]
        if len(shelf) == self.capacity:
            new = new[numbers < shelf.numbers.max()]
            if not len(new):
                return
        both = shelf + new
        if len(both) > self.capacity:
            kept = np.argpartition(both.numbers, self.capacity - 1)[: self.capacity]
            both = both[np.sort(kept)]
        self._shelves[k] = both

    def sample(
        self,
        k: int,
        how: PlanInstance = "uniform",
        *,
        order: Order = (),
        allowed: Collection[int] | None = None,
        near: Any = None,
        size: int = 1,
        rng: np.random.Generator,
        distance: Distance = l1,
    ) -> np.ndarray:
        """Choose instances, of those met after the same order if there are any, else of all.

        Args:
            k: a key state of which there is an instance, see :meth:`count`.
            how: ``uniform``, with replacement; ``recent``, the last one added of those at hand;
                ``nearest`` to each of ``near``; ``medoid``, with the smallest sum of distances to
                the others (among at most ``MEDOID_AMONG``).
            order: key states met before.
            allowed: key states that count in an order, see :attr:`lemae.ksmt.Memory.allowed`; None
                for all.
            near: states ``[size, d]`` to be near to; only for ``nearest``.
            size: how many.
            rng: of the draw.
            distance: for ``nearest`` and ``medoid``.

        Returns:
            float64 ``[size, d]``.

        Raises:
            ConfigError: if ``how`` is unknown, there is no instance, or ``near`` is missing.
        """
        shelf = self._shelves[k]
        if not len(shelf):
            raise ConfigError(f"key state {k} was never met: ask count({k}) before sample")
        among = np.flatnonzero((self._orders(shelf, allowed) == self._row(order)).all(axis=1))
        if not among.size:
            among = np.arange(len(shelf))
        if how == "uniform":
            return shelf.states[among[rng.integers(among.size, size=size)]]
        if how == "recent":
            chosen = among[shelf.stamps[among].argmax()]
        elif how == "nearest":
            if near is None or len(near) != size:
                raise ConfigError("how='nearest' needs near, a state to be near to per instance")
            states = shelf.states[among]
            return states[[int(distance(states, state).argmin()) for state in as_array(near)]]
        elif how == "medoid":
            among = among[np.argsort(shelf.numbers[among])[:MEDOID_AMONG]]
            states = shelf.states[among]
            chosen = among[distance(states[:, None], states[None]).sum(axis=1).argmin()]
        else:
            raise ConfigError(f"how is {how!r}: give one of {', '.join(get_args(PlanInstance))}")
        return np.repeat(shelf.states[chosen][None], size, axis=0)

    def add_key_states(self, count: int) -> None:
        """Make room for further key states, numbered after those there are; nothing is forgotten.

        Raises:
            ConfigError: if ``count`` is negative.
        """
        self.n_key_states += whole("count", count, lowest=0)
        self.seen = np.append(self.seen, np.zeros(count, np.int64))
        for shelf in self._shelves:
            shelf.after = np.pad(shelf.after, [(0, 0), (0, count)], constant_values=_NONE)
        self._shelves += [_Shelf.empty(self.n_key_states) for _ in range(count)]

    def merge(self, other: InstanceBank) -> None:
        """Add another bank's instances; commutative and associative.

        Raises:
            ConfigError: if the other is of other sizes.
            ShapeError: if its states have another length.
        """
        if (other.n_key_states, other.capacity) != (self.n_key_states, self.capacity):
            raise ConfigError(
                f"cannot merge a bank of {other.n_key_states} key states and capacity "
                f"{other.capacity} into one of {self.n_key_states} and {self.capacity}"
            )
        for theirs in other._shelves:
            if len(theirs):
                self._check_length(theirs.states.shape[1])
        self.seen = self.seen + other.seen
        for k, (mine, theirs) in enumerate(zip(self._shelves, other._shelves, strict=True)):
            if len(theirs):
                both = mine + theirs
                self._shelves[k] = both[both.ranking()[: self.capacity]]
            else:
                self._shelves[k] = mine[mine.ranking()]

    def state_dict(self) -> dict[str, Any]:
        """Instances, counts and the random generator."""
        return {
            "capacity": self.capacity,
            "seen": self.seen.copy(),
            "shelves": [shelf.arrays() for shelf in self._shelves],
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it was taken of a bank of other sizes, or is not what that method
                returns; nothing is changed then.
        """
        n_key_states, capacity = self.n_key_states, self.capacity
        with reading("this bank"):
            sizes = (len(state["shelves"]), state["capacity"])
            if sizes != (n_key_states, capacity):
                raise StateError(
                    f"the state is of {sizes[0]} key states and capacity {sizes[1]}, this bank of "
                    f"{n_key_states} and {capacity}: make it like the saved one"
                )
            seen = array("seen", state["seen"], (n_key_states,), np.int64, 0)
            shelves = [
                _Shelf.checked(arrays, n_key_states, capacity, count)
                for arrays, count in zip(state["shelves"], seen.tolist(), strict=True)
            ]
            if len({shelf.states.shape[1] for shelf in shelves if len(shelf)}) > 1:
                raise ShapeError("it holds states of several lengths")
            rng = random_state(state["rng"])
        self.seen, self._shelves = seen, shelves
        self._rng.bit_generator.state = rng

    def _check_length(self, d: int) -> None:
        """Refuse states of another length than those at hand."""
        for shelf in self._shelves:
            if len(shelf) and shelf.states.shape[1] != d:
                raise ShapeError(
                    f"states of length {d} were given, but the bank holds states of length "
                    f"{shelf.states.shape[1]}: use one bank per task"
                )

    def _row(self, order: Order) -> np.ndarray:
        """An order as a shelf keeps it."""
        if len(order) > self.n_key_states:
            raise ConfigError(
                f"the order is {tuple(order)}, of {self.n_key_states} key states: name each at "
                "most once"
            )
        row = np.full(self.n_key_states, _NONE, np.int16)
        row[: len(order)] = order
        return row

    def _orders(self, shelf: _Shelf, allowed: Collection[int] | None) -> np.ndarray:
        """The orders of a shelf, without the key states that do not count."""
        if allowed is None or len(allowed) == self.n_key_states:
            return shelf.after
        counts = np.zeros(self.n_key_states + 1, bool)  # the last one is that of _NONE
        counts[list(allowed)] = True
        left = np.where(counts[shelf.after], shelf.after, _NONE)
        first = np.argsort(left == _NONE, axis=1, kind="stable")
        kept: np.ndarray = np.take_along_axis(left, first, axis=1)
        return kept


class _Shelf:
    """Instances of one key state, row by row.

    Attributes:
        numbers: int64 ``[m]``, random; the smallest stay.
        stamps: int64 ``[m]``, how many were added before.
        after: int16 ``[m, K]``, key states met before, in order, then ``_NONE``.
        states: float64 ``[m, d]``.
    """

    __slots__ = ("after", "numbers", "stamps", "states")

    def __init__(
        self, numbers: np.ndarray, stamps: np.ndarray, after: np.ndarray, states: np.ndarray
    ) -> None:
        self.numbers = numbers
        self.stamps = stamps
        self.after = after
        self.states = states

    @classmethod
    def empty(cls, n_key_states: int) -> _Shelf:
        """No instance."""
        none = np.empty(0, dtype=np.int64)
        return cls(none, none, np.empty((0, n_key_states), np.int16), np.empty((0, 0)))

    @classmethod
    def checked(cls, saved: Any, n_key_states: int, capacity: int, seen: int) -> _Shelf:
        """Copies of the arrays of a shelf of at most ``capacity`` of ``seen`` instances."""
        numbers, stamps, after, states = saved
        numbers = array("numbers", numbers, (None,), np.int64, 0)
        count = len(numbers)
        if count > min(capacity, seen):
            raise ShapeError(f"it holds {count} of {seen} instances, with room for {capacity}")
        shape = (count, n_key_states)
        return cls(
            numbers,
            array("stamps", stamps, (count,), np.int64, 0, seen - 1),
            array("after", after, shape, np.int16, _NONE, n_key_states - 1),
            array("states", states, (count, None), np.float64),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: np.ndarray) -> _Shelf:
        return _Shelf(*(array[rows] for array in self.arrays()))

    def __add__(self, other: _Shelf) -> _Shelf:
        if not len(self):
            return other
        pairs = zip(self.arrays(), other.arrays(), strict=True)
        return _Shelf(*(np.concatenate(pair) for pair in pairs))

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Everything, in the order of the constructor."""
        return self.numbers, self.stamps, self.after, self.states

    def ranking(self) -> np.ndarray:
        """Rows by number. Equal numbers, of workers with one seed, are told apart by content."""
        content = zip(
            self.numbers.tolist(),
            self.stamps.tolist(),
            self.after.tolist(),
            self.states.tolist(),
            strict=True,
        )
        rows = sorted((row, i) for i, row in enumerate(content))
        return np.array([i for _, i in rows], dtype=np.int64)
