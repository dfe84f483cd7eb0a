"""Whole episodes as they were played, for learners that look back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from lemae._values import reading, whole
from lemae.algos.rollout import Episodes
from lemae.errors import ConfigError, ShapeError, StateError

#: How an episode was explored: nobody who looks back at it asks.
_FORGOTTEN = ("log_probs", "random", "epsilon")


class EpisodeReplay:
    """A ring of the latest episodes, with their raw rewards and their chains.

    How they were explored (``log_probs``, ``random`` and ``epsilon``) is not kept: 0 in a sample.

    What a sampled episode pays is worked out anew each time, by the tree and the instances of that
    moment: relabelled rewards never get in here.

    Args:
        capacity: episodes.
        episode_limit: steps of the longest one.

    Raises:
        ConfigError: if a number is not positive.

    Cost: a copy of all other arrays of the episodes, ``capacity * episode_limit`` rows at most; the
    system hands out the memory as it fills.
    """

    def __init__(self, capacity: int, episode_limit: int) -> None:
        if min(capacity, episode_limit) < 1:
            raise ConfigError(
                f"capacity={capacity}, episode_limit={episode_limit}: each must be positive"
            )
        self.capacity = capacity
        self.episode_limit = episode_limit
        self._columns: dict[str, np.ndarray] = {}  # episode first, then time
        self._chains: list[tuple[tuple[int, int], ...]] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._chains)

    def add(self, episodes: Episodes) -> None:
        """Keep copies of episodes; when the ring is full they replace the oldest.

        Raises:
            ConfigError: if ``capacity`` episodes like these do not fit into memory.
            ShapeError: if they are longer than ``episode_limit``, or are laid out otherwise than
                those before.
        """
        steps, count = episodes.rewards.shape
        given = {
            field.name: np.asarray(value)
            for field in fields(episodes)
            if field.name not in ("chains", *_FORGOTTEN)
            and (value := getattr(episodes, field.name)) is not None
        }
        self._check(given, steps)
        slots = (self._next + np.arange(count)) % self.capacity
        for name, value in given.items():
            column = self._columns[name]
            if value.ndim == 1:
                column[slots] = value
            else:
                column[slots, : len(value)] = value.swapaxes(0, 1)
                column[slots, len(value) :] = 0
        for slot, chain in zip(slots.tolist(), episodes.chains, strict=True):
            self._chains[slot : slot + 1] = [chain]
        self._next = (self._next + count) % self.capacity

    def sample(self, count: int, rng: np.random.Generator) -> Episodes:
        """Draw different episodes, all equally likely.

        Args:
            count: how many; not more than there are.
            rng: of the draws.

        Returns:
            Copies, cut off after the longest of them.

        Raises:
            ConfigError: if there are not as many.
        """
        if not 1 <= count <= len(self):
            raise ConfigError(f"count is {count}: the replay holds {len(self)}, draw 1 to as many")
        drawn = rng.choice(len(self), count, replace=False)
        cut = self.episode_limit - int(self._columns["lengths"][drawn].max())
        found: dict[str, Any] = {}
        for name, column in self._columns.items():
            if column.ndim == 1:
                found[name] = column[drawn]
            else:
                rows = column[drawn, : column.shape[1] - cut]
                found[name] = np.ascontiguousarray(rows.swapaxes(0, 1))
        return _episodes(found, [self._chains[slot] for slot in drawn.tolist()])

    def state_dict(self) -> dict[str, Any]:
        """Everything stored, as arrays and plain values."""
        return {
            "capacity": self.capacity,
            "episode_limit": self.episode_limit,
            "columns": {name: column[: len(self)].copy() for name, column in self._columns.items()},
            "chains": [[list(firing) for firing in chain] for chain in self._chains],
            "next": self._next,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            StateError: if that replay had another size, or it is not what that method returns;
                nothing is changed then.
        """
        with reading("this replay"):
            for name in ("capacity", "episode_limit"):
                if state[name] != getattr(self, name):
                    raise StateError(
                        f"the saved replay has {name} {state[name]}, this one "
                        f"{getattr(self, name)}: make it with the same settings"
                    )
            saved = {name: np.asarray(rows) for name, rows in state["columns"].items()}
            chains = list(state["chains"])
            following = whole("next", state["next"], lowest=0, highest=self.capacity - 1)
            if saved or chains:
                chains = self._seen(saved, chains).chains
            if len(chains) != following and len(chains) != self.capacity:
                raise ConfigError(f"it holds {len(chains)} episodes, and {following} is next")
        columns = {}
        for name, rows in saved.items():
            columns[name] = np.zeros((self.capacity, *rows.shape[1:]), rows.dtype)
            columns[name][: len(rows)] = rows
        self._columns, self._chains, self._next = columns, chains, following

    def _seen(self, columns: Mapping[str, np.ndarray], chains: list[Any]) -> Episodes:
        """What saved columns hold, not copied, if it is episodes as they are kept here."""
        turned = {
            name: column if column.ndim == 1 else column.swapaxes(0, 1)
            for name, column in columns.items()
        }
        episodes = _episodes(turned, chains).checked()
        if len(episodes.actions) != self.episode_limit:
            raise ShapeError(f"its episodes have room for {len(episodes.actions)} steps")
        return episodes

    def _check(self, given: dict[str, np.ndarray], steps: int) -> None:
        """Compare with what is stored; the first episodes say how all are laid out."""
        if steps > self.episode_limit:
            raise ShapeError(
                f"the episodes have {steps} steps, and there is room for {self.episode_limit}: "
                "raise episode_limit"
            )
        missing = self.episode_limit - steps
        shapes = {
            name: value.shape[2:] if value.ndim == 1 else (len(value) + missing, *value.shape[2:])
            for name, value in given.items()
        }
        if not self._columns:
            try:
                self._columns = {
                    name: np.zeros((self.capacity, *shape), given[name].dtype)
                    for name, shape in shapes.items()
                }
            except (MemoryError, ValueError, OverflowError) as error:
                raise ConfigError(
                    f"capacity is {self.capacity}, and as many episodes do not fit into memory "
                    f"({error}): give less"
                ) from error
        stored = {name: column.shape[1:] for name, column in self._columns.items()}
        if shapes != stored:
            raise ShapeError(
                f"the episodes are laid out as {shapes}, those stored as {stored}: keep episodes "
                "of one task in a replay"
            )


def _episodes(found: Mapping[str, Any], chains: list[Any]) -> Episodes:
    """Episodes of which nobody knows any more how they were explored."""
    shape = found["actions"].shape
    return Episodes(
        **found,
        log_probs=np.zeros(shape, np.float32),
        random=np.zeros(shape, bool),
        epsilon=np.zeros(shape[:2], np.float32),
        chains=chains,
    )
