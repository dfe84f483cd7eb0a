"""Where to act at random: at the edge of what the memory knows.

Algorithm 2 of arXiv 2410.02511 (its body reconstructed from Section 4.3.2): actions are the
policy's, mixed with uniform ones with probability epsilon. Epsilon is drawn when an episode begins
and whenever it meets a key state, and holds until the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from lemae._copies import selected
from lemae._values import array, flag, random_state, reading, real, whole
from lemae.errors import ConfigError, ShapeError
from lemae.ksmt import Memory, NodeInfo
from lemae.labels import Order, checked_order

RuleName = Literal["degree", "leaf", "ucb", "thompson"]
#: From the number of children (at least 1) and the counts of a node to the probability of
#: exploring there.
Rule: TypeAlias = Callable[[int, NodeInfo], float]


class KsmtExplorer:
    """One epsilon per environment copy, from where its episode stands in the memory.

    At a leaf and off the tree epsilon is high. At a node with d children it is high with the
    probability that the rule gives, else low. After enough successes it is always low.

    The memory is read, not written: whoever collects episodes inserts them when they are over. Up
    to then a key state that is new to the tree counts as off the tree, which is treated like the
    leaf that it becomes; and a worker may go on with an old copy of the memory in the same way.

    Args:
        memory: may be replaced by assignment between steps.
        n_envs: N copies.
        eps_low: epsilon where the policy acts.
        eps_high: epsilon where the team explores.
        rule: the probability of exploring at a node with d children and n visits.
            ``degree``, 1/(d+1), as published. ``leaf``, 0. ``ucb``, the upper confidence bound
            ``d/n + sqrt(2 ln(episodes) / n)`` on the rate at which visits found a new child, at
            most 1. ``thompson``, a draw from that rate's posterior, Beta(1 + d, 1 + n - d). Or a
            function of d and a :class:`lemae.ksmt.NodeInfo`.
        until: successes after which epsilon is always low; 1, the first, as published. Those that
            are not in the memory yet do not count, but for the one that completes the number.
        seed: of the draws.

    Attributes:
        epsilon: float64 ``[N]``, changed in place; high before the first reset.
        orders: key states that each copy has met in its episode.

    Cost: about a microsecond per step where no key state fires.

    Raises:
        ConfigError: if the epsilons are no probabilities in order, the rule is unknown, or a number
            is too small.
    """

    def __init__(
        self,
        memory: Memory,
        n_envs: int,
        *,
        eps_low: float = 0.0,
        eps_high: float = 1.0,
        rule: RuleName | Rule = "degree",
        until: int = 1,
        seed: int | None = 0,
    ) -> None:
        if not 0 <= eps_low <= eps_high <= 1:
            raise ConfigError(
                f"eps_low={eps_low}, eps_high={eps_high}: give 0 <= eps_low <= eps_high <= 1"
            )
        if not callable(rule) and rule not in get_args(RuleName):
            raise ConfigError(
                f"rule is {rule!r}: give one of {', '.join(get_args(RuleName))}, or a function of "
                "the degree and the node"
            )
        self.memory = memory
        self.n_envs = n_envs = whole("n_envs", n_envs)
        self.eps_low = eps_low
        self.eps_high = eps_high
        self.rule = rule
        self.until = whole("until", until)
        self.epsilon = np.full(n_envs, eps_high, dtype=np.float64)
        self.orders: list[Order] = [()] * n_envs
        self._succeeded = False
        self._rng = np.random.default_rng(seed)

    @property
    def solved(self) -> bool:
        """Whether there were enough successes, here or in the memory."""
        return self._succeeded or self.memory.successes >= self.until

    def reset(self, envs: Any = None) -> None:
        """Begin new episodes: draw at the root.

        Args:
            envs: copies that begin: None for all, a bool mask ``[N]`` or numbers.
        """
        for env in selected(envs, self.n_envs).tolist():
            self.orders[env] = ()
            self._draw(env)

    def advance(self, events: np.ndarray) -> None:
        """Go down the tree and draw where key states fired.

        Args:
            events: int ``[E, 2]``, (copy, key state), from :meth:`lemae.Labeler.step`.
        """
        if not len(events):
            return
        for env, k in events.tolist():
            self.orders[env] = (*self.orders[env], k)
            self._draw(env)

    def success(self) -> None:
        """Take note of a success: if it completes the number, every epsilon is low from now on."""
        if self.memory.successes + 1 >= self.until:
            self._succeeded = True
            self.epsilon[:] = self.eps_low

    def state_dict(self) -> dict[str, Any]:
        """Epsilons, orders and the random generator; the memory is saved by itself."""
        return {
            "epsilon": self.epsilon.copy(),
            "orders": [list(order) for order in self.orders],
            "succeeded": self._succeeded,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it was taken of another number of copies or of key states, or is not
                what that method returns; nothing is changed then.
        """
        with reading(f"this explorer of {self.n_envs} copies"):
            epsilon = array("epsilon", state["epsilon"], (self.n_envs,), np.float64, 0, 1)
            orders = [checked_order(order, self.memory.n_key_states) for order in state["orders"]]
            if len(orders) != self.n_envs:
                raise ShapeError(f"orders are {len(orders)}: give one per copy")
            succeeded = flag("succeeded", state["succeeded"])
            rng = random_state(state["rng"])
        self.epsilon[:] = epsilon
        self.orders = orders
        self._succeeded = succeeded
        self._rng.bit_generator.state = rng

    def _draw(self, env: int) -> None:
        self.epsilon[env] = self.eps_high if self._explores(self.orders[env]) else self.eps_low

    def _explores(self, order: Order) -> bool:
        if self.solved:
            return False
        degree = self.memory.degree(order)
        if degree == 0:
            return True
        return bool(self._rng.random() < self._probability(degree, order))

    def _probability(self, degree: int, order: Order) -> float:
        if self.rule == "degree":
            return 1 / (degree + 1)
        if self.rule == "leaf":
            return 0.0
        node = self.memory.info(order)
        # A node that a full memory had no room for has children, but no visits of its own.
        visits = max(node.visits, degree)
        if self.rule == "ucb":
            return min(1.0, degree / visits + math.sqrt(2 * math.log(node.episodes) / visits))
        if self.rule == "thompson":
            return float(self._rng.beta(1 + degree, 1 + visits - degree))
        probability = self.rule(degree, node)
        if not 0 <= probability <= 1:
            raise ConfigError(
                f"the rule gave {probability} at {order}: it must give a number from 0 to 1"
            )
        return probability


class RandomActions:
    """Mixes a policy's actions with random ones: pi^epsilon, per agent and step.

    A random action is uniform over the available ones. With ``sticky`` an agent keeps its random
    action for some steps, which takes it far where single actions cancel each other out: it is
    drawn anew with probability ``1/sticky`` per step, and whenever it is no longer available. It is
    kept while epsilon lets the policy act in between, and forgotten where epsilon is 0 and at
    :meth:`reset`. Sticky actions are not in the paper.

    Args:
        n_envs: N copies.
        n_agents: n of a team.
        n_actions: A of each agent.
        sticky: mean number of steps, at least 1, between two draws; None for a draw per step.
        seed: of the draws.

    Raises:
        ConfigError: if a number is too small, or not finite.
    """

    def __init__(
        self,
        n_envs: int,
        n_agents: int,
        n_actions: int,
        *,
        sticky: float | None = None,
        seed: int | None = 0,
    ) -> None:
        self.n_envs = n_envs = whole("n_envs", n_envs)
        self.n_agents = n_agents = whole("n_agents", n_agents)
        self.n_actions = whole("n_actions", n_actions)
        self.sticky = None if sticky is None else real("sticky", sticky, 1)
        self._kept = np.full((n_envs, n_agents), -1, dtype=np.int64)  # -1: none
        self._everyone = np.ogrid[:n_envs, :n_agents]
        self._rng = np.random.default_rng(seed)

    def mix(
        self, actions: Any, epsilon: Any, available: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace some of the policy's actions.

        Args:
            actions: int ``[N, n]``, the policy's; not changed.
            epsilon: ``[N]``, probability of a random action per agent.
            available: bool ``[N, n, A]``; None where every action is. An agent without any keeps
                the policy's action.

        Returns:
            The actions taken, int64 ``[N, n]``, and which of them were drawn at random, bool
            ``[N, n]``; a random action may be the policy's own by chance.

        Raises:
            ShapeError: if a shape does not fit.
        """
        actions = np.asarray(actions).astype(np.int64)  # a copy
        epsilon = np.asarray(epsilon, dtype=np.float64)
        shape = (self.n_envs, self.n_agents)
        if actions.shape != shape or epsilon.shape != shape[:1]:
            raise ShapeError(
                f"actions have shape {actions.shape} and epsilon {epsilon.shape}: give {shape} and "
                f"{shape[:1]}"
            )
        if not epsilon.any():
            self._kept[:] = -1
            return actions, np.zeros(shape, dtype=bool)
        coins, again, choices = self._rng.random((3, *shape))
        random = coins < epsilon[:, None]
        redraw = (again < 1 / self.sticky) if self.sticky else np.ones(shape, dtype=bool)
        redraw |= self._kept < 0
        if available is None:
            drawn = (choices * self.n_actions).astype(np.int64)
        else:
            may = np.asarray(available, dtype=bool)
            if may.shape != (*shape, self.n_actions):
                raise ShapeError(
                    f"available has shape {may.shape}: give {(*shape, self.n_actions)}"
                )
            redraw |= ~may[(*self._everyone, self._kept)]
            # The action with as many available ones before it as the draw says.
            rank = may.cumsum(axis=2)
            count = rank[..., -1]
            drawn = (rank > (choices * count).astype(np.int64)[..., None]).argmax(axis=2)
            random &= count > 0
        self._kept[redraw] = drawn[redraw]
        actions[random] = self._kept[random]
        self._kept[epsilon == 0] = -1
        return actions, random

    def reset(self, envs: Any = None) -> None:
        """Forget the kept actions of copies that begin an episode.

        Args:
            envs: None for all, a bool mask ``[N]`` or numbers.
        """
        self._kept[selected(envs, self.n_envs)] = -1

    def state_dict(self) -> dict[str, Any]:
        """Kept actions and the random generator."""
        return {"kept": self._kept.copy(), "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it was taken of other sizes, or is not what that method returns; nothing
                is changed then.
        """
        with reading(f"these random actions of {self.n_envs} copies"):
            last = self.n_actions - 1
            kept = array("kept", state["kept"], self._kept.shape, np.int64, -1, last)
            rng = random_state(state["rng"])
        self._kept = kept
        self._rng.bit_generator.state = rng
