"""What key states add to somebody else's learner: labels, a memory, and other rewards."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lemae._arrays import as_array
from lemae._values import reading
from lemae.errors import ConfigError
from lemae.key_states import KeyStateSet
from lemae.ksmt import Memory, make_memory
from lemae.labels import Chain, label, order
from lemae.shir import Relabeled, ShirRelabeler


class Shaping:
    """Key states at work beside a learner that is not ours.

    Every episode is shown once to :meth:`observe`, and rewarded by :meth:`relabel` as often as it
    is learned from. Both take whole episodes, all of one length T with a length each; the adapters
    (:mod:`~lemae.integrations.epymarl`, :mod:`~lemae.integrations.torchrl`,
    :mod:`~lemae.integrations.benchmarl`) cut them out of what their library passes around.

    Args:
        key_states: K key states.
        memory: ``"tree"``, ``"chain"``, ``"dag"``, or a memory, which may know something already.
        edge: ignore a key state that is true at reset until it has been false once.
        **options: of :class:`lemae.ShirRelabeler`, such as ``alpha`` and ``beta``.

    Attributes:
        key_states: as given.
        memory: in which orders they were met; it is pruned at the first success.
        relabeler: has the states in which they were met.

    Raises:
        ConfigError: if a memory is for another number of key states, or an option has no such
            value.

    Example:
        >>> shaping = Shaping(key_states, alpha=10, beta=0.1)
        >>> shaping.observe(states, lengths, success)  # [T + 1, B, d], [B], [B]
        >>> rewards = shaping.relabel(states, raw, lengths, success).rewards
    """

    def __init__(
        self,
        key_states: KeyStateSet,
        memory: Literal["tree", "chain", "dag"] | Memory = "tree",
        *,
        edge: bool = True,
        **options: Any,
    ) -> None:
        self.key_states = key_states
        self.edge = edge
        self.memory = make_memory(memory, len(key_states)) if isinstance(memory, str) else memory
        if self.memory.n_key_states != len(key_states):
            raise ConfigError(
                f"the memory is for {self.memory.n_key_states} key states and there are "
                f"{len(key_states)}: give one for as many"
            )
        self.relabeler = ShirRelabeler(key_states, **options)

    def label(self, states: Any, lengths: Any) -> list[Chain]:
        """Which key states episodes met, and when; see :func:`lemae.label`."""
        return label(self.key_states, states, lengths, edge=self.edge)

    def observe(
        self,
        states: Any,
        lengths: Any,
        success: Any,
        chains: Sequence[Chain] | None = None,
        *,
        step: int | None = None,
    ) -> Sequence[Chain]:
        """Take in new episodes; prune the memory at the first success.

        Args:
            states: ``[T + 1, B, d]``.
            lengths: int ``[B]``, steps of each episode.
            success: bool ``[B]``.
            chains: one per episode; None labels them.
            step: environment steps so far, for the record of when something was first met.

        Returns:
            The chains.

        Raises:
            ShapeError: if the shapes do not fit each other.
        """
        if chains is None:
            chains = self.label(states, lengths)
        for chain, won in zip(chains, as_array(success, bool).tolist(), strict=True):
            self.remember(chain, success=won, step=step)
        self.relabeler.observe(states, chains)
        return chains

    def remember(self, chain: Chain, *, success: bool, step: int | None = None) -> None:
        """Count an episode that is over, whose states were shown already or are lost.

        Args:
            chain: of its firings; only their order matters.
            success: whether it succeeded.
            step: environment steps so far.
        """
        self.memory.insert(order(chain), success=success, step=step)
        self.memory.prune()  # nothing before a success

    def relabel(
        self,
        states: Any,
        rewards: Any,
        lengths: Any,
        success: Any,
        chains: Sequence[Chain] | None = None,
    ) -> Relabeled:
        """What episodes, new or replayed, pay by what is known now; no argument is changed.

        Args:
            states: ``[T + 1, B, d]``.
            rewards: ``[T, B]``, the environment's own.
            lengths: int ``[B]``, steps of each episode.
            success: bool ``[B]``.
            chains: one per episode; None labels them anew, at the cost of one evaluation.

        Raises:
            ShapeError: if the shapes do not fit each other.
        """
        if chains is None:
            chains = self.label(states, lengths)
        return self.relabeler.relabel(states, rewards, lengths, success, chains, self.memory)

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learned of the task."""
        return {"memory": self.memory.state_dict(), "relabeler": self.relabeler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it was taken with another memory or other key states, or is not what that
                method returns; nothing is changed then.
        """
        with reading("this shaping"):
            # Tried on a copy: what is refused after it must not have changed the memory.
            copy.copy(self.memory).load_state_dict(state["memory"])
            self.relabeler.load_state_dict(state["relabeler"])
        self.memory.load_state_dict(state["memory"])
