"""Who earned the return of an episode, and when: rewards to learn from, by method."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from lare.algos._seeds import Purpose, number, numpy_generator, torch_generator
from lare.algos.rollout import Steps
from lare.episodes import EpisodeStore
from lare.errors import ConfigError, StateError
from lare.features import Features
from lare.methods import multi_agent_model
from lare.models import RewardModel


class Credit(Protocol):
    """Rewards every step of a rollout; may learn from it first."""

    def rewards(self, steps: Steps, iteration: int) -> Tensor:
        """Take in a rollout and reward it: float32 ``[T, E, n]``."""

    def state_dict(self) -> dict[str, Any]:
        """Everything learned and stored."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""


class Dense:
    """What each agent earned. The other methods are not shown this."""

    def rewards(self, steps: Steps, iteration: int) -> Tensor:
        """The true rewards, float32 ``[T, E, n]``."""
        return steps.true_rewards

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""


class Episodic(Dense):
    """Nothing until the last step, where every agent gets the return of its role."""

    def rewards(self, steps: Steps, iteration: int) -> Tensor:
        """float32 ``[T, E, n]``, zero but for the last step."""
        rewards = torch.zeros_like(steps.true_rewards)
        rewards[-1] = steps.returns[:, None]
        return rewards


class IRCR:
    """Every step gets its episode's return, from 0 for the worst stored one to 1 for the best.

    Args:
        episodes: how many returns are stored; older ones are forgotten.

    Reference: arXiv 2111.05024 and 2412.11120 (baseline); the former's off-policy form also draws
    half of a batch from the best episodes, which on-policy learning has no place for.
    """

    def __init__(self, episodes: int) -> None:
        self._returns: deque[float] = deque(maxlen=episodes)

    def rewards(self, steps: Steps, iteration: int) -> Tensor:
        """float32 ``[T, E, n]``, from 0 to 1 while the store is not full; 0 if all are equal."""
        self._returns.extend(steps.returns.tolist())
        low, high = min(self._returns), max(self._returns)
        share = (steps.returns - low) / (high - low) if high > low else steps.returns * 0
        return share[None, :, None].expand(steps.true_rewards.shape)

    def state_dict(self) -> dict[str, Any]:
        """The stored returns."""
        return {"returns": list(self._returns)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self._returns = deque(state["returns"], maxlen=self._returns.maxlen)


@dataclass(frozen=True)
class DecompositionSettings:
    """How a reward model learns from episodes.

    Attributes:
        buffer: episodes that are stored.
        batch: episodes per gradient step, drawn with replacement.
        updates: gradient steps at a time.
        every: iterations from one such time to the next; the first is the first iteration, so that
            no reward comes from an untrained model.
        learning_rate: of Adam.
        weight_decay: of Adam.
        scale: multiply the rewards by the number of steps and agents, as published. It changes
            nothing where advantages and returns are normalized.
        agent_id: add the agent's number, one-hot, to the factors of a latent reward. None: where
            the observations have it too, as published.
        model: options of :func:`lare.methods.multi_agent_model`.

    Raises:
        ConfigError: if a number is outside its range.

    Reference: arXiv 2412.11120, particle tasks.
    """

    buffer: int = 15_000
    batch: int = 256
    updates: int = 50
    every: int = 10
    learning_rate: float = 5e-4
    weight_decay: float = 1e-5
    scale: bool = True
    agent_id: bool | None = None
    model: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("buffer", "batch", "updates", "every", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}: give at least 0")


class Decomposed:
    """Rewards from a model that learns how the returns of a role are made up.

    Factors are computed once, when a rollout comes in, for all its steps and agents in one call.

    Args:
        method: one of :data:`lare.methods.MULTI_AGENT`.
        features: from a step of one agent to its factors.
        role: an index, so that no two roles draw the same numbers.
        shape: T, E, n and S of every rollout.
        n_actions: A.
        settings: how the model learns.
        agent_id: whether the agent's number is added to the factors.
        seed: of weights and draws.

    Raises:
        ConfigError: if the buffer is smaller than a rollout.
    """

    def __init__(
        self,
        method: str,
        features: Features,
        role: int,
        shape: tuple[int, int, int, int],
        n_actions: int,
        settings: DecompositionSettings,
        *,
        agent_id: bool,
        seed: int,
    ) -> None:
        self.features, self.settings, self.agent_id = features, settings, agent_id
        self.n_actions, self._key = n_actions, (seed, role)
        horizon, episodes, agents, size = shape
        if settings.buffer < episodes:
            raise ConfigError(
                f"buffer is {settings.buffer} episodes, and a rollout has {episodes}: store more"
            )
        blank = np.zeros((1, size)), np.eye(1, n_actions), np.zeros((1, size))
        n_factors = int(features(*blank).shape[1]) + agents * agent_id
        weights_seed = number(Purpose.WEIGHTS, seed, role)
        model = multi_agent_model(method, n_factors, agents, seed=weights_seed, **settings.model)
        self._module: nn.Module = model
        self.model = cast(RewardModel, model)
        self._optimizer = torch.optim.Adam(
            # As a group: a bare empty list, of a model without parameters, would be refused.
            [{"params": list(model.parameters())}],
            settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        rows = settings.buffer // episodes * horizon
        self.store = EpisodeStore(rows, (agents, n_factors), episodes)

    def rewards(self, steps: Steps, iteration: int) -> Tensor:
        """Store a rollout, learn if it is time, and reward the rollout.

        Args:
            steps: of the shape given to the class.
            iteration: from 0.

        Returns:
            float32 ``[T, E, n]``.
        """
        factors = self.factors(steps)
        self._observe(factors, steps.team_rewards)
        if iteration % self.settings.every == 0:
            self._learn(iteration)
        rewards = self._predict(factors)
        return rewards * (rewards.shape[0] * rewards.shape[2]) if self.settings.scale else rewards

    def factors(self, steps: Steps) -> Tensor:
        """Factors of every step and agent, float32 ``[T, E, n, D]``."""
        shape, size = steps.actions.shape, steps.observations.shape[-1]
        one_hot = np.eye(self.n_actions)[steps.actions.flatten().numpy()]
        before = steps.observations.reshape(-1, size).numpy()
        after = steps.next_observations.reshape(-1, size).numpy()
        factors = torch.from_numpy(self.features(before, one_hot, after)).reshape(*shape, -1)
        if not self.agent_id:
            return factors
        numbers = torch.eye(shape[2]).expand(*shape, shape[2])
        return torch.cat([factors, numbers], -1)

    def _observe(self, factors: Tensor, team_rewards: Tensor) -> None:
        self.model.observe(factors)
        last = len(factors) - 1
        for step, row in enumerate(factors):
            self.store.add(row, team_rewards[step].numpy(), np.full(row.shape[0], step == last))

    def _learn(self, iteration: int) -> None:
        if getattr(self.model, "closed_form", False):
            self._module.solve(self.store)  # type: ignore[operator]  # of models in closed form
            return
        episodes = numpy_generator(Purpose.EPISODES, *self._key, iteration)
        steps = torch_generator(Purpose.STEPS, *self._key, iteration)
        for _ in range(self.settings.updates):
            batch = self.store.sample(self.settings.batch, episodes)
            loss = self.model.loss(batch, steps)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()

    @torch.no_grad()
    def _predict(self, factors: Tensor) -> Tensor:
        """Rewards ``[T, E, n]``; the models want the episode first."""
        mask = torch.ones(factors.shape[1], factors.shape[0], dtype=torch.bool)
        training = self._module.training
        self._module.eval()
        rewards = self.model.rewards(factors.transpose(0, 1), mask)
        self._module.train(training)
        return rewards.transpose(0, 1).contiguous()

    def state_dict(self) -> dict[str, Any]:
        """The model, its optimizer, the stored episodes and the hash of the latent reward."""
        return {
            "features": getattr(self.features, "sha256", None),
            "model": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "store": self.store.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, bit for bit.

        Raises:
            StateError: if the state was saved with another latent reward.
        """
        mine = getattr(self.features, "sha256", None)
        if state["features"] != mine:
            raise StateError(
                f"the run was begun with the latent reward {state['features']}, this one is "
                f"{mine}: give that function, or name another folder"
            )
        self._module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.store.load_state_dict(state["store"])
