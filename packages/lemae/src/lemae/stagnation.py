"""When to ask the language model for other key states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lemae._values import array, flag, reading, whole
from lemae.errors import ConfigError, StateError


class Stagnation:
    """Notices that exploration has stopped finding anything.

    It has after ``after`` episodes in a row without a new node and without success. ``hits`` and
    ``total``, and nothing the agents cannot know, are what a model may be told with the question.
    The first success ends the watch for good. Not in the published method.

    Args:
        n_key_states: K.
        after: episodes in a row; None never asks.
        max_requery: questions at most.

    Attributes:
        hits: int64 ``[K]``, episodes that met each key state, of ``total``.
        total: episodes since the start or the last question.
        episodes: of those, the latest ones without a new node.
        queries: asked so far.

    Raises:
        ConfigError: if a number is too small.
    """

    def __init__(self, n_key_states: int, after: int | None = None, max_requery: int = 1) -> None:
        if after is not None and after < 1:
            raise ConfigError(f"after is {after}: give at least 1 episode, or None for never")
        if max_requery < 0:
            raise ConfigError(f"max_requery is {max_requery}: give 0 or more questions")
        self.after = after
        self.max_requery = max_requery
        self.episodes = self.total = self.queries = 0
        self._solved = False
        self._begin(n_key_states)

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask."""
        if self._solved or self.after is None or self.queries >= self.max_requery:
            return False
        return self.episodes >= self.after

    def observe(self, order: Iterable[int], *, new: bool, success: bool) -> None:
        """Count one episode.

        Args:
            order: of the key states that it met.
            new: what :meth:`lemae.ksmt.Memory.insert` returned.
            success: whether it succeeded.
        """
        self.hits[list(order)] += 1
        self.total += 1
        self.episodes = 0 if new else self.episodes + 1
        self._solved = self._solved or success

    def asked(self, n_key_states: int) -> None:
        """A question was put: count it, and begin anew with the key states there are now."""
        self.queries += 1
        self._begin(n_key_states)

    def _begin(self, n_key_states: int) -> None:
        self.hits = np.zeros(n_key_states, dtype=np.int64)
        self.episodes = self.total = 0

    def state_dict(self) -> dict[str, Any]:
        """Counts so far."""
        return {
            "hits": self.hits.copy(),
            "total": self.total,
            "episodes": self.episodes,
            "queries": self.queries,
            "solved": self._solved,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            StateError: if it was taken of another number of key states, or is not what that method
                returns; nothing is changed then.
        """
        with reading("this watch"):
            total = whole("total", state["total"], lowest=0)
            hits = array("hits", state["hits"], (None,), np.int64, 0, total)
            if hits.shape != self.hits.shape:
                raise StateError(
                    f"the state counts {len(hits)} key states, this one {len(self.hits)}: make it "
                    "like the saved one"
                )
            episodes = whole("episodes", state["episodes"], lowest=0, highest=total)
            queries = whole("queries", state["queries"], lowest=0)
            solved = flag("solved", state["solved"])
        self.hits, self.total = hits, total
        self.episodes, self.queries, self._solved = episodes, queries, solved
