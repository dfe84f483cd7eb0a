"""Chains: which key states an episode met, in which order, and when.

A key state *fires* once per episode, on the first state after a step in which it is true (arXiv
2410.02511, Algorithms 1 and 2). Where the published text is silent or inconsistent:

- A firing ``(t, k)`` counts states: key state ``k`` was first true in state ``t >= 1``, after step
  ``t - 1``. The steps that led there are ``[t_before, t)``, half-open, so that no step belongs to
  two segments.
- Key states that fire in the same state are in the order of their numbers.
- A key state that is true at reset leads nowhere. It is ignored until it has been false once
  (``edge=True``), and a warning names it.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from lemae._arrays import as_array
from lemae._copies import selected
from lemae._values import array, flag, reading, whole
from lemae.errors import ConfigError, LemaeWarning, ShapeError, StateError

#: Numbers of key states in the order in which they were met.
Order: TypeAlias = tuple[int, ...]
#: Firings ``(t, k)`` of one episode, in the order of time, then of number.
Chain: TypeAlias = tuple[tuple[int, int], ...]


class KeyStates(Protocol):
    """What labelling needs of key states; :class:`lemae.KeyStateSet` has it."""

    @property
    def names(self) -> Sequence[str]:
        """One per key state."""

    def __len__(self) -> int:
        """K, the number of key states."""

    def evaluate(self, states: Any, /) -> np.ndarray:
        """Which key states are true: bool ``[..., K]`` of ``[..., d]``."""


def order(chain: Iterable[tuple[int, int]]) -> Order:
    """The key states of a chain, without the times."""
    return tuple(k for _, k in chain)


class Labeler:
    """Labels running episodes, one chain per environment copy.

    Args:
        key_states: K key states.
        n_envs: N copies that step together.
        edge: ignore a key state that is true at reset until it has been false once. Otherwise it
            fires after the first step, if it is still true then.

    Attributes:
        chains: firings so far, one list ``[(t, k), ...]`` per copy.
        t: int64 ``[N]``, steps since the reset of each copy.

    Cost: one ``evaluate`` call per step, and a few microseconds where nothing fires.

    Raises:
        ConfigError: if there is no copy.

    Example:
        >>> labeler = Labeler(key_states, n_envs=8)
        >>> labeler.reset(states)
        >>> events = labeler.step(next_states)  # [[copy, key state], ...]
    """

    def __init__(self, key_states: KeyStates, n_envs: int, *, edge: bool = True) -> None:
        self.key_states = key_states
        self.n_envs = n_envs = whole("n_envs", n_envs)
        self.edge = edge
        self.chains: list[list[tuple[int, int]]] = [[] for _ in range(n_envs)]
        self.t = np.zeros(n_envs, dtype=np.int64)
        self._armed = np.zeros((n_envs, len(key_states)), dtype=bool)  # fires when true
        self._held = self._armed.copy()  # true ever since the reset
        self._any_held = False
        self._started = False
        self._warned = np.zeros(len(key_states), dtype=bool)

    def reset(self, states: Any, envs: Any = None) -> None:
        """Begin new episodes.

        Args:
            states: ``[N, d]``, all copies; only the rows of ``envs`` are looked at.
            envs: copies that begin: None for all, a bool mask ``[N]`` or numbers.

        Warns:
            LemaeWarning: once per key state that is true at reset.

        Raises:
            ShapeError: if there is not one state per copy.
        """
        chosen = selected(envs, self.n_envs)
        truth = self._evaluate(self._checked(states)[chosen])
        for env in chosen:
            self.chains[env] = []
        self.t[chosen] = 0
        held = truth if self.edge else np.zeros_like(truth)
        self._held[chosen] = held
        self._armed[chosen] = ~held
        self._any_held = bool(self._held.any())
        self._started = True
        new = held.any(axis=0) & ~self._warned
        if new.any():
            self._warned |= new
            _warn_true_at_reset(self.key_states, new)

    def step(self, states: Any, active: Any = None) -> np.ndarray:
        """Label the states after one step.

        Args:
            states: ``[N, d]``.
            active: bool ``[N]``, copies whose episode goes on; None for all. What the others show
                is ignored, and their ``t`` stands still.

        Returns:
            Firings, int64 ``[E, 2]``: (copy, key state), in the order of copies, then of numbers.

        Raises:
            ShapeError: if there is not one state, and one flag, per copy.
            StateError: before the first reset.
        """
        if not self._started:
            raise StateError("the labeler has seen no first state: call reset(states) before step")
        going = None if active is None else as_array(active, bool)
        if going is not None and going.shape != self.t.shape:
            raise ShapeError(f"active has shape {going.shape}: give one per copy, {self.t.shape}")
        truth = self._evaluate(self._checked(states))
        fired = truth & self._armed
        if going is None:
            self.t += 1
        else:
            self.t += going
            fired &= going[:, None]
        if self._any_held:
            released = self._held & ~truth
            if going is not None:
                released &= going[:, None]
            self._held ^= released
            self._armed |= released
            self._any_held = bool(self._held.any())
        if not fired.any():
            return np.empty((0, 2), dtype=np.int64)
        self._armed ^= fired
        events: np.ndarray = np.argwhere(fired)
        for env, k in events.tolist():
            self.chains[env].append((int(self.t[env]), k))
        return events

    def chain(self, env: int) -> Chain:
        """The chain of a copy so far."""
        return tuple(self.chains[env])

    def state_dict(self) -> dict[str, Any]:
        """Chains, clocks and what may still fire."""
        return {
            "chains": [[list(firing) for firing in chain] for chain in self.chains],
            "t": self.t.copy(),
            "armed": self._armed.copy(),
            "held": self._held.copy(),
            "warned": self._warned.copy(),
            "started": self._started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            StateError: if it was taken of another number of copies or of key states, or is not
                what that method returns; nothing is changed then.
        """
        n_envs, n_key_states = shape = self._armed.shape
        with reading(f"this labeler of {n_envs} copies and {n_key_states} key states"):
            armed = array("armed", state["armed"], shape, bool)
            held = array("held", state["held"], shape, bool)
            warned = array("warned", state["warned"], shape[1:], bool)
            t = array("t", state["t"], shape[:1], np.int64, 0)
            started = flag("started", state["started"])
            chains = [
                [(operator.index(t), operator.index(k)) for t, k in chain]
                for chain in state["chains"]
            ]
            for chain, length, waits in zip(chains, t.tolist(), armed | held, strict=True):
                check_chain(chain, length, n_key_states)
                if waits[[k for _, k in chain]].any():
                    raise ConfigError(f"what is in the chain {chain} may fire again")
            if (armed & held).any():
                raise ConfigError("a key state is held and fires all the same")
        self.chains, self.t, self._started = chains, t, started
        self._armed, self._held, self._warned = armed, held, warned
        self._any_held = bool(held.any())

    def _checked(self, states: Any) -> np.ndarray:
        given = as_array(states)
        if given.ndim != 2 or len(given) != self.n_envs:
            raise ShapeError(
                f"states have shape {given.shape}: give one per copy, [{self.n_envs}, d]"
            )
        return given

    def _evaluate(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(self.key_states.evaluate(states), dtype=bool)


def label(key_states: KeyStates, states: Any, lengths: Any, *, edge: bool = True) -> list[Chain]:
    """Chains of whole episodes, the same that a :class:`Labeler` makes while they run.

    Args:
        key_states: K key states.
        states: ``[T+1, B, d]``; what comes after the last state of an episode is ignored.
        lengths: int ``[B]``, steps of each episode, at most T.
        edge: as for :class:`Labeler`.

    Returns:
        One chain per episode.

    Cost: one ``evaluate`` call, and memory for a few arrays of ``(T+1) * B * K`` bytes.

    Warns:
        LemaeWarning: if key states are true at reset.

    Raises:
        ShapeError: if the shapes do not fit each other.
    """
    states = as_array(states)
    lengths = as_array(lengths, np.int64)
    check_episodes(states, lengths)
    truth = np.asarray(key_states.evaluate(states), dtype=bool)
    eligible = truth & (np.arange(len(states))[:, None] <= lengths)[:, :, None]
    if edge and truth[0].any():
        eligible &= np.logical_or.accumulate(~truth, axis=0)
        _warn_true_at_reset(key_states, truth[0].any(axis=0))
    eligible[0] = False
    first = eligible.argmax(axis=0)  # [B, K]; 0 where a key state never fired
    env, k = np.nonzero(first)
    t = first[env, k]
    chains: list[list[tuple[int, int]]] = [[] for _ in lengths]
    for i in np.lexsort((k, t, env)).tolist():
        chains[env[i]].append((int(t[i]), int(k[i])))
    return [tuple(chain) for chain in chains]


def check_episodes(states: np.ndarray, lengths: np.ndarray) -> None:
    """Refuse a batch of episodes whose shapes do not fit.

    Args:
        states: to be ``[T+1, B, d]``.
        lengths: to be ``[B]``, from 0 to T.

    Raises:
        ShapeError: if they are not.
    """
    if states.ndim != 3 or len(states) < 1:
        raise ShapeError(f"states have shape {states.shape}: give [T+1, B, d]")
    if lengths.shape != states.shape[1:2]:
        raise ShapeError(
            f"lengths have shape {lengths.shape}: give one per episode, ({states.shape[1]},)"
        )
    if lengths.size and not (lengths.min() >= 0 and lengths.max() < len(states)):
        raise ShapeError(
            f"lengths range from {lengths.min()} to {lengths.max()}: {len(states)} states allow "
            f"0 to {len(states) - 1} steps"
        )


def check_chain(chain: Sequence[tuple[int, int]], length: int, n_key_states: int) -> None:
    """Refuse a chain that is of no episode of so many steps.

    Raises:
        ConfigError: if it names a time or a key state that there is not, or a key state twice.
    """
    before = 1
    for t, k in chain:
        if not (before <= t <= length and 0 <= k < n_key_states):
            raise ConfigError(
                f"the chain {tuple(chain)} does not fit an episode of {length} steps and "
                f"{n_key_states} key states: label the episode it is given with"
            )
        before = t
    if len({k for _, k in chain}) < len(chain):
        raise ConfigError(
            f"the chain {tuple(chain)} names a key state twice: an episode meets each once, "
            "when it is first true"
        )


def checked_order(order: Iterable[int], n_key_states: int) -> Order:
    """An order of so many key states.

    Raises:
        ConfigError: if a number is no key state, or comes twice.
    """
    met = tuple(order)
    try:
        numbers = tuple(map(operator.index, met))
    except TypeError:
        numbers = (-1,)
    if len(set(numbers)) < len(met) or not all(0 <= k < n_key_states for k in numbers):
        raise ConfigError(
            f"the order is {met}: give different numbers from 0 to {n_key_states - 1}"
        )
    return numbers


def _warn_true_at_reset(key_states: KeyStates, which: np.ndarray) -> None:
    names = ", ".join(repr(key_states.names[k]) for k in np.flatnonzero(which).tolist())
    warnings.warn(
        f"true at reset: {names}. A key state that an episode begins in says nothing about "
        "progress; it is ignored until it has been false once. Make its condition narrower",
        LemaeWarning,
        stacklevel=3,
    )
