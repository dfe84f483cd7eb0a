"""Proximal policy optimization on whole episodes of many agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from lare.algos.policy import ActorCritic, chosen
from lare.algos.rollout import Steps
from lare.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class PPOSettings:
    """Hyper-parameters, as published unless said otherwise.

    Attributes:
        learning_rate: of Adam; falls linearly to 0 over the run.
        clip: the ratio of probabilities counts up to 1 +- this; falls linearly to 0 as well.
        epochs: passes over a rollout.
        minibatch: environment steps per gradient step, each with all agents of the role. Where the
            rollout is no multiple of it, all minibatches are a little larger or smaller.
        gamma: discount.
        gae_lambda: of generalized advantage estimation.
        entropy: weight of the entropy.
        value: weight of the value loss.
        huber: where the value loss turns from square to linear.
        max_gradient: largest norm of a gradient.
        normalize_advantages: shift and scale those of a rollout to mean 0 and deviation 1.
        normalize_returns: the critic predicts returns in units of their running deviation, from
            their running mean. Ours: rewards of different methods differ in scale by a factor of
            1000, and the learning rate of the critic is fixed.

    Raises:
        ConfigError: if a number is outside its range.

    Reference: arXiv 2412.11120, particle tasks; arXiv 1707.06347; arXiv 1506.02438.
    """

    learning_rate: float = 1e-4
    clip: float = 0.5
    epochs: int = 10
    minibatch: int = 128
    gamma: float = 1.0
    gae_lambda: float = 0.95
    entropy: float = 0.01
    value: float = 0.5
    huber: float = 10.0
    max_gradient: float = 10.0
    normalize_advantages: bool = True
    normalize_returns: bool = True

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip", "epochs", "minibatch", "huber", "max_gradient"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: give a number from 0 to 1")


@torch.no_grad()
def advantages(rewards: Tensor, values: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Generalized advantage estimates of whole episodes, after which nothing is earned.

    Args:
        rewards: float ``[T, ...]``, time first.
        values: float ``[T, ...]``, before each step.
        gamma: discount.
        gae_lambda: weight of the longer estimates.

    Returns:
        float ``[T, ...]``.

    Raises:
        ShapeError: if the shapes differ.

    Reference: arXiv 1506.02438, equation 16.
    """
    if rewards.shape != values.shape:
        raise ShapeError(
            f"rewards have shape {tuple(rewards.shape)} and values {tuple(values.shape)}: give one "
            "value per reward"
        )
    estimates = torch.empty_like(values)
    following = torch.zeros_like(values[0])
    running = torch.zeros_like(values[0])
    for step in range(len(values) - 1, -1, -1):
        surprise = rewards[step] + gamma * following - values[step]
        running = surprise + gamma * gae_lambda * running
        estimates[step] = running
        following = values[step]
    return estimates


def normalize(values: Tensor) -> Tensor:
    """Shift and scale to mean 0 and deviation 1; all zero where the values are equal."""
    return (values - values.mean()) / (values.std(correction=0) + 1e-8)


class ReturnScale(nn.Module):
    """Running mean and deviation of returns.

    Args:
        rate: weight of a new rollout, once as many were seen as make it smaller than an equal one.
    """

    seen: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, rate: float = 0.05) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("square", torch.ones((), dtype=torch.float64))

    def observe(self, returns: Tensor) -> None:
        """Take the returns ``[...]`` of a rollout into the statistics."""
        self.seen += 1
        weight = max(self.rate, 1 / float(self.seen))
        self.mean += weight * (returns.double().mean() - self.mean)
        self.square += weight * (returns.double().square().mean() - self.square)

    @property
    def deviation(self) -> Tensor:
        """The deviation, not below 1e-4."""
        return (self.square - self.mean.square()).clamp(min=1e-8).sqrt()

    def shrink(self, returns: Tensor) -> Tensor:
        """From returns to what the critic predicts; keeps shape and dtype."""
        return ((returns - self.mean) / self.deviation).to(returns.dtype)

    def grow(self, predicted: Tensor) -> Tensor:
        """The reverse of :meth:`shrink`."""
        return (predicted * self.deviation + self.mean).to(predicted.dtype)


class PPO:
    """Learns the policy of one role.

    Args:
        policy: trained in place.
        settings: hyper-parameters.
    """

    def __init__(self, policy: ActorCritic, settings: PPOSettings | None = None) -> None:
        self.policy = policy
        self.settings = settings or PPOSettings()
        self.scale = ReturnScale()
        self._weights = list(policy.parameters())
        # On networks this small, a kernel per weight would cost more time than the numbers.
        self._optimizer = torch.optim.Adam(
            self._weights, self.settings.learning_rate, eps=1e-5, fused=True
        )

    def update(
        self, steps: Steps, rewards: Tensor, generator: torch.Generator, *, left: float = 1.0
    ) -> dict[str, float]:
        """Learn from one rollout.

        Args:
            steps: whole episodes, played by this policy as it is.
            rewards: float32 ``[T, E, n]``, to learn from.
            generator: of the minibatches.
            left: share of the run that is left, which scales learning rate and clip.

        Returns:
            Means over all gradient steps: ``policy_loss``, ``value_loss``, ``entropy``.

        Raises:
            ShapeError: if the rewards are not one per agent and step.
        """
        settings = self.settings
        estimates, targets, inputs = self._estimate(steps, rewards)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * left
        columns = [
            column.flatten(0, 1)
            for column in (
                steps.observations,
                inputs,
                steps.actions,
                steps.log_probabilities,
                estimates,
                targets,
            )
        ]
        count = len(columns[0])
        parts = max(1, round(count / settings.minibatch))
        sums = torch.zeros(3)
        for _ in range(settings.epochs):
            order = torch.randperm(count, generator=generator)
            for minibatch in zip(
                *(_split(column, order, parts) for column in columns), strict=True
            ):
                sums += self._step(minibatch, settings.clip * left)
        means = (sums / (settings.epochs * parts)).tolist()
        return dict(zip(("policy_loss", "value_loss", "entropy"), means, strict=True))

    @torch.no_grad()
    def _estimate(self, steps: Steps, rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Advantages and targets of the critic, both ``[T, E, n]``, and what the critic reads."""
        settings = self.settings
        inputs = self.policy.critic_inputs(steps.observations)
        values = self.policy.values(inputs)
        if settings.normalize_returns:
            # Before the first use, so that the unit of the rewards never matters.
            to_go = advantages(rewards, torch.zeros_like(values), settings.gamma, 1.0)
            self.scale.observe(to_go)
            values = self.scale.grow(values)
        estimates = advantages(rewards, values, settings.gamma, settings.gae_lambda)
        targets = estimates + values
        if settings.normalize_returns:
            targets = self.scale.shrink(targets)
        if settings.normalize_advantages:
            estimates = normalize(estimates)
        return estimates, targets, inputs

    def _step(self, minibatch: tuple[Tensor, ...], clip: float) -> Tensor:
        """One gradient step; returns the three parts of the loss, without gradient."""
        observations, inputs, actions, before, estimates, targets = minibatch
        settings = self.settings
        log_probabilities = self.policy.log_probabilities(observations)
        ratio = (chosen(log_probabilities, actions) - before).exp()
        policy_loss = -clipped(ratio, estimates, clip).mean()
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1).mean()
        value_loss = huber_loss(self.policy.values(inputs), targets, delta=settings.huber)
        loss = policy_loss + settings.value * value_loss - settings.entropy * entropy
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, settings.max_gradient)
        self._optimizer.step()
        return torch.stack([policy_loss, value_loss, entropy]).detach()

    def state_dict(self) -> dict[str, Any]:
        """Weights, state of Adam, and the scale of the returns."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scale": self.scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit."""
        self.policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.scale.load_state_dict(state["scale"])


def clipped(ratio: Tensor, estimates: Tensor, clip: float) -> Tensor:
    """The objective per action: no gain from moving the ratio further than ``clip`` from 1.

    Reference: arXiv 1707.06347, equation 7.
    """
    return torch.minimum(ratio * estimates, ratio.clamp(1 - clip, 1 + clip) * estimates)


def _split(column: Tensor, order: Tensor, parts: int) -> list[Tensor]:
    """Shuffle environment steps ``[B, n, ...]`` and cut them into ``[b * n, ...]``."""
    return [rows.flatten(0, 1) for rows in column[order].tensor_split(parts)]
