"""Whole episodes of latent rewards, in a ring beside a replay buffer."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lare.errors import ConfigError, LareWarning, ShapeError, StateError

Weighting = Literal["uniform", "length"]
_ENV = 1 << 40  # more rows than any environment will ever write


class Episode(NamedTuple):
    """Where an episode lies: ``first`` counts the rows ever added, from 0, and does not wrap."""

    env: int
    first: int
    length: int
    total: float


class EpisodeBatch(NamedTuple):
    """Episodes side by side, padded at the end.

    Attributes:
        factors: ``[E, T, ...]``, zero where there is no step.
        mask: bool ``[E, T]``, True at steps.
        returns: float32 ``[E]``.
    """

    factors: Tensor
    mask: Tensor
    returns: Tensor


class EpisodeStore:
    """Keeps what the decoder learns from: the factors of every step, and the episodes' returns.

    One row holds one step of every environment. The rows are a ring of ``capacity``; an episode
    whose first step was overwritten is gone as a whole. Where a replay buffer of the same capacity
    gets the same steps, row numbers are the same in both, so that the factors of a sampled
    transition are looked up and not computed again.

    Args:
        capacity: rows.
        shape: of the factors of one step: ``(D,)``, or ``(agents, D)``.
        n_envs: environments that step together.

    Memory: ``4 * capacity * n_envs * prod(shape)`` bytes, taken when first written.

    Raises:
        ConfigError: if a size is not positive.
    """

    def __init__(self, capacity: int, shape: Sequence[int], n_envs: int = 1) -> None:
        if capacity < 1 or n_envs < 1 or not shape or min(shape) < 1:
            raise ConfigError(
                f"capacity={capacity}, shape={tuple(shape)}, n_envs={n_envs}: each must be positive"
            )
        self.capacity = capacity
        self.n_envs = n_envs
        self.shape = tuple(shape)
        # Zeros come from the system as untouched pages: rows cost memory when they are written.
        self.factors = torch.zeros(capacity, n_envs, *self.shape)
        self.added = 0  # rows ever written
        self.ended = 0  # episodes ever kept
        self._warned = False
        self._open_first = np.zeros(n_envs, dtype=np.int64)
        self._open_total = np.zeros(n_envs)
        self._steps = 0  # of all whole episodes
        self._sums: dict[tuple[int, int], Tensor] = {}  # of the factors, by (env, first)
        # One queue per environment, in the order of time, so that the oldest are found at once.
        self._episodes: list[deque[Episode]] = [deque() for _ in range(n_envs)]
        self._table: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # see _tabulate

    @property
    def position(self) -> int:
        """The row that is written next."""
        return self.added % self.capacity

    def __len__(self) -> int:
        """Number of whole episodes."""
        return sum(len(queue) for queue in self._episodes)

    @property
    def episodes(self) -> list[Episode]:
        """The whole episodes, environment by environment, oldest first."""
        return [episode for queue in self._episodes for episode in queue]

    @property
    def mean_length(self) -> float:
        """Mean number of steps of the whole episodes; NaN without one."""
        return self._steps / len(self) if len(self) else float("nan")

    def add(self, factors: Tensor, rewards: ArrayLike, done: ArrayLike) -> int:
        """Write one step of every environment.

        Args:
            factors: ``[n_envs, *shape]``.
            rewards: ``[n_envs]``, what the environment paid; only its sum over the episode counts.
            done: bool ``[n_envs]``, True at the last step of an episode, terminated or truncated.

        Returns:
            The row written.

        Raises:
            ShapeError: if a shape is another.
        """
        rewards = np.asarray(rewards, dtype=np.float64)
        done = np.asarray(done, dtype=bool)
        if factors.shape != (self.n_envs, *self.shape):
            raise ShapeError(
                f"factors have shape {tuple(factors.shape)}: give [n_envs, ...] = "
                f"{(self.n_envs, *self.shape)}"
            )
        if rewards.shape != (self.n_envs,) or done.shape != (self.n_envs,):
            raise ShapeError(
                f"rewards have shape {rewards.shape} and done {done.shape}: give one number per "
                f"environment, ({self.n_envs},)"
            )
        row = self.position
        self.factors[row] = factors
        self.added += 1
        self._drop_overwritten()
        self._open_total += rewards
        for env in np.flatnonzero(done):
            self._close(int(env))
        return row

    def _drop_overwritten(self) -> None:
        oldest = self.added - self.capacity
        for queue in self._episodes:
            while queue and queue[0].first < oldest:
                gone = queue.popleft()
                self._steps -= gone.length
                self._sums.pop((gone.env, gone.first), None)
                self._table = None

    def _close(self, env: int) -> None:
        first = int(self._open_first[env])
        episode = Episode(env, first, self.added - first, float(self._open_total[env]))
        if episode.length > self.capacity and not self._warned:
            self._warned = True
            warnings.warn(
                f"an episode of {episode.length} steps is longer than the store, {self.capacity} "
                f"rows for each of {self.n_envs} environment(s), and cannot be kept: give a larger "
                "capacity (with a replay buffer, a larger buffer_size)",
                LareWarning,
                stacklevel=4,
            )
        if episode.length <= self.capacity:
            self._episodes[env].append(episode)
            self._steps += episode.length
            self.ended += 1
            self._table = None
        self._open_first[env] = self.added
        self._open_total[env] = 0.0

    def abandon(self, env: int | None = None) -> None:
        """Forget the steps of running episodes, as after a reset in their midst.

        Args:
            env: index of the environment; None for all.
        """
        chosen = slice(None) if env is None else env
        self._open_first[chosen] = self.added
        self._open_total[chosen] = 0.0

    def sample(
        self, n: int, generator: np.random.Generator, *, weighting: Weighting = "uniform"
    ) -> EpisodeBatch:
        """Draw episodes, with replacement.

        Args:
            n: how many.
            generator: of the draws.
            weighting: ``"uniform"``, or ``"length"``: with probability proportional to the length,
                which makes every stored step as likely as any other.

        Returns:
            The episodes; time is as long as the longest one drawn.

        Raises:
            StateError: if no episode has ended yet.
            ConfigError: if ``n`` is not positive or ``weighting`` is unknown.
        """
        if not len(self):
            raise StateError("no episode has ended yet: wait until len(store) is positive")
        if n < 1:
            raise ConfigError(f"n is {n}: draw at least one episode")
        if weighting not in ("uniform", "length"):
            raise ConfigError(f'weighting is {weighting!r}: give "uniform" or "length"')
        if weighting == "length":
            episodes = self.episodes
            lengths = np.array([episode.length for episode in episodes], dtype=np.float64)
            indices = generator.choice(len(episodes), size=n, p=lengths / lengths.sum())
            return self.gather([episodes[index] for index in indices])
        # No list of all episodes here: this runs at every gradient step.
        ends = np.cumsum([len(queue) for queue in self._episodes])
        indices = generator.integers(ends[-1], size=n)
        envs = np.searchsorted(ends, indices, side="right")
        starts = ends - [len(queue) for queue in self._episodes]
        pairs = zip(envs.tolist(), (indices - starts[envs]).tolist(), strict=True)
        return self.gather([self._episodes[env][place] for env, place in pairs])

    def gather(self, episodes: Sequence[Episode]) -> EpisodeBatch:
        """Put episodes side by side; ``episodes`` are some of :attr:`episodes`."""
        lengths = torch.tensor([episode.length for episode in episodes])
        firsts = torch.tensor([episode.first for episode in episodes])
        envs = torch.tensor([episode.env for episode in episodes])
        steps = torch.arange(int(lengths.max()))
        mask = steps < lengths[:, None]
        rows = (firsts[:, None] + steps) % self.capacity
        factors = self.factors[rows, envs[:, None]]
        factors[~mask] = 0
        returns = torch.tensor([episode.total for episode in episodes], dtype=torch.float32)
        return EpisodeBatch(factors, mask, returns)

    def lookup(self, rows: ArrayLike, envs: ArrayLike) -> Tensor:
        """Factors of single steps.

        Args:
            rows: int ``[B]``, rows of the ring.
            envs: int ``[B]``.

        Returns:
            ``[B, *shape]``, a copy.

        Raises:
            ValueError: if there is no such row or environment.
        """
        # Four times faster than indexing the tensor with two others.
        places = np.ravel_multi_index(
            (np.asarray(rows), np.asarray(envs)), (self.capacity, self.n_envs)
        )
        flat = self.factors.numpy().reshape(-1, *self.shape)
        return torch.from_numpy(flat.take(places, axis=0))

    @property
    def returns(self) -> np.ndarray:
        """Returns of the whole episodes, float64 ``[E]``, in the order of :attr:`episodes`."""
        return self._tabulate()[2]

    def returns_of(self, rows: ArrayLike, envs: ArrayLike) -> Tensor:
        """Returns of the episodes that single steps belong to.

        Args:
            rows: int ``[B]``, rows of the ring.
            envs: int ``[B]``.

        Returns:
            float64 ``[B]``; NaN where the episode has not ended, or is not kept as a whole.
        """
        starts, ends, totals = self._tabulate()
        if not len(totals):
            return torch.full(np.shape(rows), torch.nan, dtype=torch.float64)
        newest = self.added - 1
        written = newest - (newest - np.asarray(rows)) % self.capacity
        places = np.asarray(envs) * _ENV + written
        found = np.searchsorted(starts, places, side="right") - 1
        inside = (starts[found] <= places) & (places < ends[found])
        return torch.from_numpy(np.where(inside, totals[found], np.nan))

    def best(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the whole episodes of the highest returns lie.

        Args:
            count: at most.

        Returns:
            Environment, first row ever and length, int64 ``[count or fewer]`` each.
        """
        starts, ends, totals = self._tabulate()
        chosen = np.arange(len(totals))
        if count < len(totals):
            chosen = np.argpartition(-totals, count)[:count]
        return starts[chosen] // _ENV, starts[chosen] % _ENV, ends[chosen] - starts[chosen]

    def _tabulate(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start, end and return of every whole episode; made anew after one came or went.

        Starts and ends are sorted numbers: the environment times :data:`_ENV`, plus the row.
        """
        if self._table is None:
            episodes = self.episodes
            starts = np.array([e.env * _ENV + e.first for e in episodes], dtype=np.int64)
            lengths = np.array([e.length for e in episodes], dtype=np.int64)
            totals = np.array([e.total for e in episodes], dtype=np.float64)
            self._table = starts, starts + lengths, totals
        return self._table

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per episode the sum of the factors ``[E, D]``, the return ``[E]``, the length ``[E]``.

        With several agents the factors are summed over these as well. Each episode is summed once,
        when it is first asked for.
        """
        episodes = self.episodes
        for env, first, length, _ in episodes:
            if (env, first) not in self._sums:
                rows = torch.arange(first, first + length) % self.capacity
                total = self.factors[rows, env].double().flatten(0, -2).sum(0)
                self._sums[env, first] = total
        sums = torch.stack([self._sums[episode.env, episode.first] for episode in episodes])
        returns = torch.tensor([episode.total for episode in episodes], dtype=torch.float64)
        lengths = torch.tensor([episode.length for episode in episodes], dtype=torch.float64)
        return sums, returns, lengths

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and numbers; only rows that were written are copied."""
        return {
            "capacity": self.capacity,
            "shape": list(self.shape),
            "n_envs": self.n_envs,
            "added": self.added,
            "ended": self.ended,
            "factors": self.factors[: min(self.added, self.capacity)].clone(),
            "open_first": self._open_first.tolist(),
            "open_total": self._open_total.tolist(),
            "episodes": [list(episode) for episode in self.episodes],
        }

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without the rows that were never written."""
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The reverse of ``__getstate__``."""
        EpisodeStore.__init__(self, state["capacity"], state["shape"], state["n_envs"])
        self.load_state_dict(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state.

        Raises:
            StateError: if it was saved from a store of other sizes; nothing is changed then.
        """
        saved = (state["capacity"], tuple(state["shape"]), state["n_envs"])
        if saved != (self.capacity, self.shape, self.n_envs):
            raise StateError(
                f"the state has capacity, shape and n_envs {saved}, the store "
                f"{(self.capacity, self.shape, self.n_envs)}: build the store with the same sizes"
            )
        self.added = state["added"]
        self.ended = state["ended"]
        self.factors[: len(state["factors"])] = state["factors"]
        self._open_first = np.array(state["open_first"], dtype=np.int64)
        self._open_total = np.array(state["open_total"], dtype=np.float64)
        self._episodes = [deque() for _ in range(self.n_envs)]
        for env, first, length, total in state["episodes"]:
            self._episodes[env].append(Episode(env, first, length, total))
        self._steps = sum(episode.length for episode in self.episodes)
        self._sums = {}
        self._table = None
