"""CMAE: tables of values, and goals in the corners of small parts of the state space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lemae._seeds import Purpose, generator
from lemae._values import alike, array, reading, real, whole
from lemae.algos.rollout import Actor, Episodes
from lemae.errors import ConfigError, ShapeError

_MOST_CELLS = 2**62  # states are numbered in 64 bits


@dataclass(frozen=True)
class CMAESettings:
    """Hyper-parameters, as in the published code.

    Attributes:
        gamma: discount.
        explore_rate: learning rate of the tables that lead to a goal.
        target_rate: of the tables that are learned from the rewards.
        planned_episodes: over these, acting goes over from the former tables to the latter.
        capacity: steps that are kept.
        batch_size: random steps that the latter learn from after each episode.
        successes: successful episodes, at random, that they go through backwards after each
            episode. The published code goes through all.
        select_every: episodes between choices of the part of the state space.
        considered: parts with the lowest entropy, among which it is drawn.
        sharpness: parts are drawn in proportion to ``exp(-sharpness * entropy)``.
        candidates: steps that a goal is chosen among.
        largest_part: counters of one part; larger parts are left out. Ours, for memory.

    Raises:
        ConfigError: if a number is outside its range.
    """

    gamma: float = 0.95
    explore_rate: float = 0.1
    target_rate: float = 0.05
    planned_episodes: int = 15_000
    capacity: int = 400_000
    batch_size: int = 512
    successes: int = 16
    select_every: int = 20
    considered: int = 10
    sharpness: float = 50.0
    candidates: int = 1024
    largest_part: int = 2**22

    def __post_init__(self) -> None:
        shares = ("gamma", "explore_rate", "target_rate")
        for name in shares:
            real(name, getattr(self, name), highest=1, above=True)
        real("sharpness", self.sharpness, above=True)
        for name in self.__dataclass_fields__.keys() - {*shares, "sharpness"}:
            whole(name, getattr(self, name))


class CMAE:
    """Cooperative exploration with tables, for states of a few whole numbers.

    Every agent has a table of values of its actions in the whole state, learned from the rewards.
    To find rewards, each copy gets a goal before every episode: a step (state and actions of all)
    that was rare in a small part of the state space. It repeats the way on which this state was
    met, takes the actions, and goes on at random. The parts grow from single indices of the state:
    one whose visits are least even (lowest normalized entropy) is chosen, and opens the parts that
    have one index more.

    Plays as an :class:`~lemae.algos.rollout.Actor`: copies with a goal explore, further ones and
    ``greedy`` ones follow the values. It needs no other exploration; :attr:`policy` plays without.

    Args:
        n_agents: n.
        n_actions: A, of each agent.
        n_values: values that each index of the state takes, from 0 up.
        episode_limit: steps of the longest episode.
        settings: hyper-parameters.
        seed: of all draws but those of actions.

    Attributes:
        episodes: how many were learned from.
        part: indices of the state that goals are rare in; empty before the first choice.

    Raises:
        ConfigError: if a size is not positive, or there are too many states or joint actions.

    Where a rollout has several copies, each gets a goal of its own, and tables are updated after
    the rollout. The way to a goal is that of the drawn step, not the oldest one that is stored. An
    episode that was cut is continued in value.

    Example:
        >>> env = lemae.envs.make("pass", num_envs=8)
        >>> learner = CMAE(env.n_agents, env.n_actions, env.n_values, env.episode_limit)
        >>> episodes = Collector(env).collect(learner, seed=0)
        >>> learner.update(episodes, episodes.rewards)

    Reference: arXiv 2107.11444, with tables.
    """

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        n_values: Sequence[int],
        episode_limit: int,
        *,
        settings: CMAESettings | None = None,
        seed: int = 0,
    ) -> None:
        self.settings = settings or CMAESettings()
        n_agents, n_actions = whole("n_agents", n_agents), whole("n_actions", n_actions)
        episode_limit = whole("episode_limit", episode_limit)
        self.n_values = tuple(whole(f"n_values[{i}]", count) for i, count in enumerate(n_values))
        if not self.n_values:
            raise ConfigError("n_values is empty: give the number of values of each index")
        self._joint = n_actions**n_agents
        largest = self.settings.largest_part
        if math.prod(self.n_values) > _MOST_CELLS or max(self.n_values) * self._joint > largest:
            raise ConfigError(
                f"{math.prod(self.n_values)} states and {self._joint} joint actions are too many "
                "for tables: take a learner with networks"
            )
        self.seed = seed
        self.episodes = self.updates = 0
        self.part: tuple[int, ...] = ()
        self._numbers: dict[int, int] = {}  # row of each state that was met, by its code
        self._row_codes = np.zeros(0, np.int64)
        self._values = np.zeros((0, n_agents, n_actions))  # [row, agent, action]
        self._ways: list[dict[int, np.ndarray]] = []  # per copy: values [n, A] of rows
        self._counts: dict[tuple[int, ...], np.ndarray] = {}
        for index in range(len(self.n_values)):
            self._open((index,))
        slots = max(1, self.settings.capacity // episode_limit)
        self._replay: dict[str, np.ndarray] = {
            "rows": np.zeros((slots, episode_limit + 1), np.int32),
            "actions": np.zeros((slots, episode_limit, n_agents), np.int16),
            "rewards": np.zeros((slots, episode_limit), np.float32),
            "lengths": np.zeros(slots, np.int64),
            "success": np.zeros(slots, bool),
            "terminated": np.zeros(slots, bool),
        }
        self.reseed(seed)

    # --- acting ----------------------------------------------------------------------------------

    def reseed(self, seed: int) -> None:
        """Before a rollout: draw from the numbers of this seed from now on."""
        self._rng = generator(Purpose.ACTIONS, seed)

    @property
    def mix(self) -> float:
        """Weight of the values learned from rewards, against those that lead to a goal."""
        return min(1.0, self.episodes / self.settings.planned_episodes)

    @property
    def policy(self) -> Actor:
        """Plays by the values alone, in all copies; what is evaluated."""
        return _Policy(self)

    def act(
        self,
        states: np.ndarray,
        observations: np.ndarray | None,
        available: np.ndarray | None,
        greedy: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose the best actions as an :class:`~lemae.algos.rollout.Actor` does; ties at random.

        Observations are not read.
        """
        rows = [self._numbers.get(code, -1) for code in self._codes(states).tolist()]
        values = np.zeros((len(rows), *self._values.shape[1:]))
        known = np.array(rows) >= 0
        values[known] = self._values[np.array(rows)[known]]
        if not greedy:
            for copy, way in enumerate(self._ways[: len(rows)]):
                values[copy] *= self.mix
                if rows[copy] in way:
                    values[copy] += (1 - self.mix) * way[rows[copy]]
        if available is not None:
            values = np.where(available, values, -np.inf)
        best = values == values.max(-1, keepdims=True)
        actions = np.where(best, self._rng.random(best.shape), -1.0).argmax(-1)
        return actions, -np.log(best.sum(-1)).astype(np.float32)

    # --- learning --------------------------------------------------------------------------------

    def update(self, episodes: Episodes, rewards: np.ndarray) -> dict[str, float]:
        """Learn from new episodes, and choose the goals of the next ones.

        Args:
            episodes: new ones.
            rewards: ``[T, B]``, to learn from; they are stored.

        Returns:
            ``states`` met so far, ``parts`` of the state space that are open, ``dimensions`` of the
            chosen one, and ``mix``.
        """
        rng = generator(Purpose.BASELINE, self.seed, self.updates)
        self.updates += 1
        slots = (self.episodes + np.arange(len(episodes))) % len(self._replay["lengths"])
        self._store(slots, episodes, rewards)
        rows, joint = self._steps(slots)
        for part, counts in self._counts.items():
            np.add.at(counts, (self._project(part, rows), joint), 1)
        self._learn(len(episodes), rng)
        before, every = self.episodes, self.settings.select_every
        self.episodes += len(episodes)
        if not self.part or self.episodes // every > before // every:
            self._select(rng)
        self._ways = [self._way(*goal) for goal in self._goals(len(episodes), rng)]
        return {
            "states": float(len(self._numbers)),
            "parts": float(len(self._counts)),
            "dimensions": float(len(self.part)),
            "mix": self.mix,
        }

    def _store(self, slots: np.ndarray, episodes: Episodes, rewards: np.ndarray) -> None:
        time = np.arange(len(episodes.states))[:, None]
        real = (time <= episodes.lengths).T  # [B, T + 1]
        codes = self._codes(episodes.states.swapaxes(0, 1)[real])
        numbers = self._numbers
        known = [numbers.setdefault(code, len(numbers)) for code in codes.tolist()]
        new = list(numbers)[len(self._row_codes) :]
        self._row_codes = np.append(self._row_codes, np.array(new, np.int64))
        fresh = np.zeros((len(new), *self._values.shape[1:]))
        self._values = np.concatenate([self._values, fresh])
        rows = np.zeros(real.shape, np.int32)
        rows[real] = known
        replay, steps = self._replay, len(episodes.actions)
        replay["rows"][slots, : steps + 1] = rows
        replay["actions"][slots, :steps] = episodes.actions.swapaxes(0, 1)
        replay["rewards"][slots, :steps] = np.asarray(rewards).T
        for name in ("lengths", "success", "terminated"):
            replay[name][slots] = getattr(episodes, name)

    def _learn(self, count: int, rng: np.random.Generator) -> None:
        """Update the values by random steps, and backwards along successful episodes.

        ``count`` sweeps are made as one, at the rate at which they go together.
        """
        replay, settings = self._replay, self.settings
        self._back_up(*self._draw(count * settings.batch_size, rng), settings.target_rate)
        won = np.flatnonzero(replay["success"])
        if len(won):
            drawn = rng.choice(won, min(len(won), settings.successes), replace=False)
            rate = 1 - (1 - settings.target_rate) ** count
            for back in range(1, int(replay["lengths"][drawn].max()) + 1):
                t = replay["lengths"][drawn] - back
                self._back_up(drawn[t >= 0], t[t >= 0], rate)

    def _back_up(self, slots: np.ndarray, t: np.ndarray, rate: float) -> None:
        """Move the values of steps towards reward and value of what followed."""
        replay = self._replay
        last = replay["terminated"][slots] & (t + 1 == replay["lengths"][slots])
        following = self._values[replay["rows"][slots, t + 1]].max(-1) * ~last[:, None]
        wanted = replay["rewards"][slots, t][:, None] + self.settings.gamma * following
        places = (
            replay["rows"][slots, t][:, None],
            np.arange(self._values.shape[1]),
            replay["actions"][slots, t],
        )
        old = self._values[places]
        self._values[places] = old + rate * (wanted - old)

    # --- goals -----------------------------------------------------------------------------------

    def _select(self, rng: np.random.Generator) -> None:
        """Choose a part of the state space, and open the parts with one index more."""
        parts = list(self._counts)
        entropies = np.array([_entropy(counts) for counts in self._counts.values()])
        lowest = entropies.argsort(kind="stable")[: self.settings.considered]
        weights = np.exp(-self.settings.sharpness * (entropies[lowest] - entropies[lowest[0]]))
        self.part = parts[rng.choice(lowest, p=weights / weights.sum())]
        rows, joint = self._steps(np.flatnonzero(self._replay["lengths"]))
        for index in set(range(len(self.n_values))) - set(self.part):
            part = tuple(sorted((*self.part, index)))
            if self._open(part):
                np.add.at(self._counts[part], (self._project(part, rows), joint), 1)

    def _open(self, part: tuple[int, ...]) -> bool:
        """Begin to count in a part, unless that is done already or it is too large."""
        cells = math.prod(self.n_values[index] for index in part)
        if part in self._counts or cells * self._joint > self.settings.largest_part:
            return False
        self._counts[part] = np.zeros((cells, self._joint), np.int64)
        return True

    def _goals(self, count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
        """Slot, time and joint action of steps that are rarest in the part."""
        slots, t = self._draw(self.settings.candidates, rng)
        counts = self._counts[self.part][self._project(self.part, self._replay["rows"][slots, t])]
        rare, joint = np.nonzero(counts == counts.min())
        drawn = rng.integers(len(rare), size=count)
        goals = zip(slots[rare[drawn]], t[rare[drawn]], joint[drawn], strict=True)
        return [(int(slot), int(time), int(actions)) for slot, time, actions in goals]

    def _way(self, slot: int, end: int, joint: int) -> dict[int, np.ndarray]:
        """Values that lead along a stored episode to its state at ``end``, and to act there.

        The same as tables that start at 0 and are updated once per step, from the goal back.
        """
        settings, (_, n_agents, n_actions) = self.settings, self._values.shape
        rows = self._replay["rows"][slot, : end + 1].tolist()
        actions = self._replay["actions"][slot, :end]
        agents = np.arange(n_agents)
        way = {rows[end]: np.zeros((n_agents, n_actions))}
        goal = np.unravel_index(joint, (n_actions,) * n_agents)
        way[rows[end]][agents, goal] = settings.explore_rate
        for t in range(end - 1, -1, -1):
            following = way[rows[t + 1]].max(-1)
            values = way.setdefault(rows[t], np.zeros((n_agents, n_actions)))
            old = values[agents, actions[t]]
            wanted = settings.gamma * following
            values[agents, actions[t]] = old + settings.explore_rate * (wanted - old)
        return way

    # --- rows ------------------------------------------------------------------------------------

    def _codes(self, states: np.ndarray) -> np.ndarray:
        """One number per state: int64 ``[M]`` of ``[M, d]``."""
        given = np.asarray(states)
        digits = given.astype(np.int64)
        if np.count_nonzero((digits != given) | (digits < 0) | (digits >= self.n_values)):
            raise ShapeError(
                "a state holds a fraction, or a number outside its range: tables are for whole "
                f"numbers below {self.n_values}"
            )
        codes: np.ndarray = np.ravel_multi_index(tuple(digits.T), self.n_values)
        return codes

    def _project(self, part: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
        """Cells of rows in a part of the state space."""
        digits = np.unravel_index(self._row_codes[rows], self.n_values)
        cells: np.ndarray = np.ravel_multi_index(
            tuple(digits[index] for index in part), tuple(self.n_values[index] for index in part)
        )
        return cells

    def _steps(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and joint actions of all steps of episodes."""
        replay, n_actions = self._replay, self._values.shape[2]
        valid = np.arange(replay["rewards"].shape[1]) < replay["lengths"][slots][:, None]
        actions = replay["actions"][slots][valid].astype(np.int64)
        joint = np.ravel_multi_index(tuple(actions.T), (n_actions,) * actions.shape[1])
        return replay["rows"][slots, :-1][valid], joint

    def _draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Slots and times of stored steps, all equally likely, with repetition."""
        ends = np.cumsum(self._replay["lengths"])
        drawn = rng.integers(ends[-1], size=count)
        slots = np.searchsorted(ends, drawn, side="right")
        return slots, drawn - ends[slots] + self._replay["lengths"][slots]

    # --- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tables, counters, stored episodes and goals."""
        return {
            "progress": [self.episodes, self.updates, list(self.part)],
            "codes": self._row_codes.copy(),
            "values": self._values.copy(),
            "ways": [[list(way), np.array(list(way.values()))] for way in self._ways],
            "counts": [[list(part), counts.copy()] for part, counts in self._counts.items()],
            "replay": {name: column.copy() for name, column in self._replay.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit; :meth:`reseed` then as well.

        Raises:
            StateError: if it was taken of a learner of other sizes, or is not what that method
                returns; nothing is changed then.
        """
        _, *sizes = self._values.shape
        with reading("this learner"):
            episodes, updates, part = state["progress"]
            episodes = whole("episodes", episodes, lowest=0)
            updates = whole("updates", updates, lowest=0)
            last = math.prod(self.n_values) - 1
            codes = array("codes", state["codes"], (None,), np.int64, 0, last)
            numbers = {code: row for row, code in enumerate(codes.tolist())}
            if len(numbers) < len(codes):
                raise ConfigError("it holds a state twice")
            values = array("values", state["values"], (len(codes), *sizes), np.float64, -math.inf)
            ways = [self._saved_way(rows, of_rows, len(codes)) for rows, of_rows in state["ways"]]
            counts = dict(self._saved_counts(*saved) for saved in state["counts"])
            if {(index,) for index in range(len(self.n_values))} - counts.keys():
                raise ConfigError("it does not count in every index of the state")
            if tuple(part) not in {(), *counts}:
                raise ConfigError(f"its part is {part}, in which it does not count")
            replay = self._saved_replay(state["replay"], len(codes))
        self.episodes, self.updates, self.part = episodes, updates, tuple(part)
        self._row_codes, self._numbers, self._values = codes, numbers, values
        self._ways, self._counts, self._replay = ways, counts, replay

    def _saved_way(self, rows: Any, values: Any, known: int) -> dict[int, np.ndarray]:
        """A way through some of the known states."""
        numbers = [whole("a row", row, lowest=0, highest=known - 1) for row in rows]
        shape = (len(numbers), *self._values.shape[1:])
        return dict(zip(numbers, array("ways", values, shape, np.float64, -math.inf), strict=True))

    def _saved_counts(self, part: Any, counts: Any) -> tuple[tuple[int, ...], np.ndarray]:
        """A part of the state space, and what was counted there."""
        last = len(self.n_values) - 1
        indices = tuple(whole("an index", index, lowest=0, highest=last) for index in part)
        if not indices or indices != tuple(sorted(set(indices))):
            raise ConfigError(f"its part {indices} is none of the state")
        cells = math.prod(self.n_values[index] for index in indices)
        return indices, array("counts", counts, (cells, self._joint), np.int64, 0)

    def _saved_replay(self, saved: Any, known: int) -> dict[str, np.ndarray]:
        """Episodes through the known states."""
        alike("replay", saved, self._replay)
        steps, n_actions = saved["rewards"].shape[1], self._values.shape[2]
        highest = {"rows": max(known - 1, 0), "actions": n_actions - 1, "lengths": steps}
        for name, last in highest.items():
            array(name, saved[name], saved[name].shape, np.int64, 0, last)
        return {name: column.copy() for name, column in saved.items()}


class _Policy:
    """The values of a learner, without its ways to goals."""

    def __init__(self, learner: CMAE) -> None:
        self._learner = learner

    def reseed(self, seed: int) -> None:
        self._learner.reseed(seed)

    def act(
        self,
        states: np.ndarray,
        observations: np.ndarray | None,
        available: np.ndarray | None,
        greedy: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._learner.act(states, observations, available, greedy=True)


def _entropy(counts: np.ndarray) -> float:
    """Entropy of the shares, divided by its largest possible value."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(counts.size)) if counts.size > 1 else 1.0
