"""Rewards for getting nearer to key states, given in hindsight and for what comes next.

Subspace-based hindsight intrinsic reward (SHIR) of arXiv 2410.02511, Section 4.2. On the way to key
state m, with g the coordinates in which it was met, seen in the subspace that its discriminator
reads,

    r_I(t) = |Phi_m(s_t) - g| - |Phi_m(s_{t+1}) - g|          (equation 1)
    r(t) = alpha * r_E(t) + beta * r_I(t)                     (equation 2)

Where Algorithm 1 is silent or inconsistent:

- Segments are half-open, ``[t_before, t)``. As printed, the step between two segments belongs to
  both, and its reward would be scaled by alpha twice.
- Rewards are computed into new arrays, from the memory and the instances of now. As printed, a
  replayed episode would be relabelled on top of its last relabelling.
- The episode met its key states in the states that it visited: in hindsight those are the goals.
  A planned goal borrows the state of another episode (:class:`lemae.InstanceBank`), and a key
  state that no episode met is not planned.
- At a leaf and off the tree, :meth:`lemae.ksmt.Memory.candidates` says what to plan. Without any
  candidate the tail earns ``alpha * r_E``.
- An episode that succeeded is not planned further, though the text would
  (``success_tail="none"``); or the state of success is the goal of its tail (``"hindsight"``).
- After pruning, key states that no successful episode met are dropped from chains, also those of
  episodes that were stored before.
- Equation 1 is no potential-based shaping: it has no discount, and the goal is known after the
  fact. ``shaping="gamma"`` gives ``d_t - gamma * d_{t+1}`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from lemae._arrays import as_array
from lemae._values import random_state, reading, real, whole
from lemae.errors import ConfigError, ShapeError
from lemae.instances import InstanceBank, PlanInstance, l1
from lemae.ksmt import Memory
from lemae.labels import Chain, Order, check_chain, check_episodes

MetricName = Literal["l1", "l2", "cosine"]
#: From coordinates and goals, ``[..., v]`` each, to distances ``[...]``.
Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]
Shaping = Literal["paper", "gamma"]
SuccessTail = Literal["none", "hindsight"]
Subspace = Literal["key", "full"]


class Located(Protocol):
    """What relabelling needs of a key state; :class:`lemae.KeyState` has it."""

    @property
    def subspace(self) -> Sequence[int]:
        """Indices of the state that say whether it is met."""


class Relabeled(NamedTuple):
    """What an episode batch earns.

    Attributes:
        rewards: float64 ``[T, B]``, equation 2; 0 after the end of an episode.
        intrinsic: float64 ``[T, B]``, equation 1, not scaled; 0 where there is no goal.
        goals: int64 ``[T, B]``, the key state aimed at; K for the state of success, -1 for none.
    """

    rewards: np.ndarray
    intrinsic: np.ndarray
    goals: np.ndarray


class _Segment(NamedTuple):
    env: int
    start: int
    end: int
    goal: int


class ShirRelabeler:
    """Computes the rewards that a learner is trained with.

    Args:
        key_states: K key states, each with its ``subspace``.
        alpha: weight of the environment's reward, above 0 and finite.
        beta: weight of the intrinsic reward, not negative and finite.
        metric: ``l1``, as published; ``l2``; ``cosine``, one minus the cosine of the angle at the
            origin (a zero vector is at distance 1 from any other); or a function of coordinates
            and goals ``[..., v]`` that gives distances ``[...]``.
        scale: weight per index of the state ``[d]``, by which both arguments of the metric are
            multiplied; None for ones.
        shaping: ``paper``, equation 1, or ``gamma``.
        gamma: discount, for ``shaping="gamma"``.
        success_tail: after the last key state of an episode that succeeded: ``none``, or
            ``hindsight``, the way to the last state in the union of all subspaces.
        planning: whether the tail of other episodes leads to a key state they did not meet.
        hindsight: whether the ways to key states that they met are rewarded.
        plan_instance: which state of that key state: ``uniform``, ``recent``, ``nearest`` to the
            beginning of the tail, or ``medoid``; see :meth:`lemae.InstanceBank.sample`.
        subspace: ``key``, that of the key state, or ``full``, the whole state.
        subspace_extra: indices that every subspace gets besides, such as the agents' positions.
        capacity: of the bank, per key state.
        seed: of the bank and of the choice of planned goals.

    Attributes:
        bank: states in which key states were met.

    Raises:
        ConfigError: if an argument has no such value.

    Example:
        >>> relabeler = ShirRelabeler(key_states, alpha=10, beta=0.1)
        >>> relabeler.observe(states, chains)
        >>> rewards = relabeler.relabel(states, raw, lengths, success, chains, tree).rewards
    """

    def __init__(
        self,
        key_states: Sequence[Located],
        *,
        alpha: float = 10.0,
        beta: float = 0.1,
        metric: MetricName | Metric = "l1",
        scale: Any = None,
        shaping: Shaping = "paper",
        gamma: float = 0.99,
        success_tail: SuccessTail = "none",
        planning: bool = True,
        hindsight: bool = True,
        plan_instance: PlanInstance = "uniform",
        subspace: Subspace = "key",
        subspace_extra: Sequence[int] = (),
        capacity: int = 1000,
        seed: int = 0,
    ) -> None:
        for name, value, names in (
            ("shaping", shaping, get_args(Shaping)),
            ("success_tail", success_tail, get_args(SuccessTail)),
            ("plan_instance", plan_instance, get_args(PlanInstance)),
            ("subspace", subspace, get_args(Subspace)),
        ):
            if value not in names:
                raise ConfigError(f"{name} is {value!r}: give one of {', '.join(names)}")
        if not callable(metric) and metric not in _METRICS:
            raise ConfigError(
                f"metric is {metric!r}: give one of {', '.join(_METRICS)}, or a function of "
                "coordinates and goals"
            )
        self.alpha = real("alpha", alpha, above=True)
        self.beta = real("beta", beta)
        self.metric: Metric = metric if callable(metric) else _METRICS[metric]
        self.scale = None if scale is None else np.asarray(scale).astype(np.float64)
        if self.scale is not None and not (
            self.scale.ndim == 1 and np.isfinite(self.scale).all() and (self.scale >= 0).all()
        ):
            raise ConfigError("scale must be finite weights, not negative, one per state index")
        discount = real("gamma", gamma, highest=1)
        self.discount = discount if shaping == "gamma" else 1.0
        self.success_tail = success_tail
        self.planning = planning
        self.hindsight = hindsight
        self.plan_instance: PlanInstance = plan_instance
        self.bank = InstanceBank(len(key_states), capacity, seed=seed)
        self._whole = subspace == "full"
        self._extra = frozenset(whole("subspace_extra", i, lowest=0) for i in subspace_extra)
        self._n_key_states = 0
        self._set_subspaces(key_states)
        self._rng = np.random.default_rng([1, seed])

    def add_key_states(self, key_states: Sequence[Located]) -> None:
        """Take in further key states; what was met of the others stays.

        Args:
            key_states: those there are, under their numbers, followed by the new ones.

        Raises:
            ConfigError: if there are fewer than before.
        """
        self.bank.add_key_states(len(key_states) - self._n_key_states)
        self._set_subspaces(key_states)

    def _set_subspaces(self, key_states: Sequence[Located]) -> None:
        self._n_key_states = len(key_states)
        own = [frozenset(key_state.subspace) for key_state in key_states]
        # One more, at K, for the state of success: the union.
        self._subspaces = [
            None if self._whole else np.array(sorted(indices | self._extra), dtype=np.int64)
            for indices in (*own, frozenset().union(*own))
        ]

    def observe(self, states: Any, chains: Sequence[Chain]) -> None:
        """Put the states in which key states were met into the bank, once per episode collected.

        Args:
            states: ``[T+1, B, d]``.
            chains: one per episode.

        Raises:
            ShapeError: if there is not one chain per episode.
            ConfigError: if a chain names a time or a key state that its episode does not have, or a
                key state twice.
        """
        states = as_array(states)
        self._check_states(states, chains)
        met: dict[int, list[tuple[int, int, Order]]] = {}
        for env, chain in enumerate(chains):
            check_chain(chain, len(states) - 1, self._n_key_states)
            before: Order = ()
            for t, k in chain:
                met.setdefault(k, []).append((t, env, before))
                before = (*before, k)
        for k, firings in met.items():
            times, envs, orders = zip(*firings, strict=True)
            self.bank.extend(k, states[list(times), list(envs)], orders)

    def relabel(
        self,
        states: Any,
        rewards: Any,
        lengths: Any,
        success: Any,
        chains: Sequence[Chain],
        memory: Memory | None = None,
    ) -> Relabeled:
        """Rewards of a batch of episodes, new or replayed; no argument is changed.

        Args:
            states: ``[T+1, B, d]``.
            rewards: ``[T, B]``, the environment's own.
            lengths: int ``[B]``, steps of each episode, whether it terminated or was truncated; 0
                for one that is to be left out.
            success: bool ``[B]``.
            chains: one per episode.
            memory: for planning and pruning; None for neither.

        Returns:
            New rewards, intrinsic rewards and goals.

        Cost: for ``T=300, B=64`` about two milliseconds on one core.

        Raises:
            ShapeError: if the shapes do not fit each other, or the subspaces the states.
            ConfigError: if a chain names a time or a key state that its episode does not have, or a
                key state twice; or the memory is of another number of key states.
        """
        states = as_array(states)
        raw = as_array(rewards, np.float64)
        lengths = as_array(lengths, np.int64)
        success = as_array(success, bool)
        self._check_states(states, chains)
        check_episodes(states, lengths)
        if raw.shape != (len(states) - 1, len(lengths)) or success.shape != lengths.shape:
            raise ShapeError(
                f"rewards have shape {raw.shape} and success {success.shape}: the states need "
                f"{(len(states) - 1, len(lengths))} and {lengths.shape}"
            )
        if memory is not None and memory.n_key_states != self._n_key_states:
            raise ConfigError(
                f"the memory is of {memory.n_key_states} key states and there are "
                f"{self._n_key_states}: give one of as many"
            )
        segments, goal_states = self._segments(states, lengths, success, chains, memory)
        intrinsic = np.zeros(raw.shape)
        goals = np.full(raw.shape, -1, dtype=np.int64)
        if segments:
            self._fill(states, np.array(segments), goal_states, intrinsic, goals)
        total = self.alpha * raw + self.beta * intrinsic
        total[np.arange(len(raw))[:, None] >= lengths] = 0.0
        return Relabeled(total, intrinsic, goals)

    def state_dict(self) -> dict[str, Any]:
        """The bank and the random generator."""
        return {"bank": self.bank.state_dict(), "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it was taken of other key states, or is not what that method returns;
                nothing is changed then.
        """
        with reading("this relabeler"):
            rng = random_state(state["rng"])
            self.bank.load_state_dict(state["bank"])
        self._rng.bit_generator.state = rng

    # --- which step aims at what -----------------------------------------------------------------

    def _segments(
        self,
        states: np.ndarray,
        lengths: np.ndarray,
        success: np.ndarray,
        chains: Sequence[Chain],
        memory: Memory | None,
    ) -> tuple[list[_Segment], np.ndarray]:
        """Segments that are not empty, and the state that each aims at, ``[S, d]``."""
        allowed = None if memory is None else memory.allowed
        segments: list[_Segment] = []
        tails: dict[Order, list[tuple[int, int]]] = {}  # to be planned: (env, start) by order
        for env, (chain, length, won) in enumerate(
            zip(chains, lengths.tolist(), success.tolist(), strict=True)
        ):
            if not length:
                continue
            check_chain(chain, length, self._n_key_states)
            met = [(t, k) for t, k in chain if allowed is None or k in allowed]
            start = 0
            for t, k in met:
                if self.hindsight and t > start:
                    segments.append(_Segment(env, start, t, k))
                start = t
            if start == length:
                continue
            if not won:
                tails.setdefault(tuple(k for _, k in met), []).append((env, start))
            elif self.success_tail == "hindsight":
                segments.append(_Segment(env, start, length, self._n_key_states))
        goal_states = [
            states[[segment.end for segment in segments], [segment.env for segment in segments]]
        ]
        if self.planning and memory is not None:
            for order, starts in tails.items():
                for goal, chosen in self._shares(memory.candidates(order), starts):
                    segments += [_Segment(env, t, int(lengths[env]), goal) for env, t in chosen]
                    goal_states.append(self._instances(goal, order, allowed, states, chosen))
        return segments, np.concatenate(goal_states)

    def _shares(
        self, candidates: Order, starts: list[tuple[int, int]]
    ) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Part tails evenly, at random, among the candidates of which there is an instance."""
        goals = [k for k in candidates if self.bank.count(k)]
        if not goals:
            return
        draws = self._rng.integers(len(goals), size=len(starts))
        for i, goal in enumerate(goals):
            chosen = [starts[j] for j in np.flatnonzero(draws == i)]
            if chosen:
                yield goal, chosen

    def _instances(
        self,
        goal: int,
        order: Order,
        allowed: frozenset[int] | None,
        states: np.ndarray,
        starts: list[tuple[int, int]],
    ) -> np.ndarray:
        """A state in which ``goal`` was met per tail, ``[len(starts), d]``."""
        return self.bank.sample(
            goal,
            self.plan_instance,
            order=order,
            allowed=allowed,
            near=states[[t for _, t in starts], [env for env, _ in starts]],
            size=len(starts),
            rng=self._rng,
            distance=lambda one, other: self._distance(
                self._project(goal, one), self._project(goal, other), goal
            ),
        )

    # --- distances -------------------------------------------------------------------------------

    def _fill(
        self,
        states: np.ndarray,
        segments: np.ndarray,
        goal_states: np.ndarray,
        intrinsic: np.ndarray,
        goals: np.ndarray,
    ) -> None:
        """Write the intrinsic rewards and goals of all segments, one key state after the other."""
        n_envs, d = states.shape[1:]
        flat = states.reshape(-1, d)
        for goal in np.unique(segments[:, 3]).tolist():
            chosen = segments[:, 3] == goal
            env, start, end, _ = segments[chosen].T
            # The states of all segments in one row, each from start to end inclusive.
            count = end - start + 1
            last = np.cumsum(count) - 1
            t = np.arange(last[-1] + 1) - np.repeat(last - end, count)
            rows = t * n_envs + np.repeat(env, count)
            # One coordinate after the other in memory: sums over a few of them are several times
            # faster so.
            subspace = self._subspaces[goal]
            taken = flat.T[:, rows] if subspace is None else flat.T[subspace[:, None], rows]
            targets = np.repeat(self._project(goal, goal_states[chosen]).T, count, axis=1)
            distance = self._distance(taken.T, targets.T, goal)
            nearer = distance[:-1] - self.discount * distance[1:]
            is_step = np.ones(len(rows), dtype=bool)
            is_step[last] = False
            steps = rows[is_step]
            intrinsic.reshape(-1)[steps] = nearer[is_step[:-1]]
            goals.reshape(-1)[steps] = goal

    def _project(self, goal: int, states: np.ndarray) -> np.ndarray:
        """Coordinates in the subspace of a goal."""
        subspace = self._subspaces[goal]
        return states if subspace is None else states[..., subspace]

    def _distance(self, coordinates: np.ndarray, targets: np.ndarray, goal: int) -> np.ndarray:
        """Distances in the subspace of a goal."""
        if self.scale is not None:
            weights = self._project(goal, self.scale)
            return self.metric(coordinates * weights, targets * weights)
        return self.metric(np.asarray(coordinates, dtype=np.float64), targets)

    # --- checks ----------------------------------------------------------------------------------

    def _check_states(self, states: np.ndarray, chains: Sequence[Chain]) -> None:
        if states.ndim != 3 or states.shape[1] != len(chains):
            raise ShapeError(
                f"states have shape {states.shape} and there are {len(chains)} chains: give "
                "[T+1, B, d] and one chain per episode"
            )
        d = states.shape[2]
        if self.scale is not None and len(self.scale) != d:
            raise ShapeError(f"scale has {len(self.scale)} weights, the states {d} numbers")
        for k, subspace in enumerate(self._subspaces):
            if subspace is not None and subspace.size and not -1 < subspace[0] <= subspace[-1] < d:
                raise ShapeError(
                    f"the subspace of key state {k} is {subspace.tolist()}, but states have "
                    f"indices 0 to {d - 1}"
                )


def _l2(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    distance: np.ndarray = np.sqrt(np.square(one - other).sum(axis=-1))
    return distance


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    product = (one * other).sum(axis=-1)
    lengths = np.sqrt(np.square(one).sum(axis=-1) * np.square(other).sum(axis=-1))
    cosine = np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0)
    distance: np.ndarray = np.where((one == other).all(axis=-1), 0.0, 1.0 - cosine)
    return distance


_METRICS: dict[str, Metric] = {"l1": l1, "l2": _l2, "cosine": _cosine}
