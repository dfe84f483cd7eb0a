"""One policy and one value function that all agents of a role share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lare._kit import seeded
from lare.errors import ConfigError

Activation = Literal["tanh", "relu"]
_GAINS: dict[str, float] = {"tanh": 5 / 3, "relu": 2**0.5}


class ActorCritic(nn.Module):
    """Two networks, one from an observation to logits of actions, one to the value.

    The weights start orthogonal, those of the last layer of the actor small, so that all actions
    are about equally likely at first.

    Args:
        n_observations: S.
        n_actions: A.
        hidden: width of the two hidden layers.
        activation: ``"relu"`` or ``"tanh"``.
        sees_time: the value also depends on the share of the episode that has passed. Without
            discount, a value is a sum over the steps left, and the observation does not tell how
            many these are. Published without.
        seed: of the first weights.

    Raises:
        ConfigError: if a size is not positive or the activation unknown.

    Reference: arXiv 2412.11120, its PPO for particle tasks (two layers of 64, orthogonal).
    """

    def __init__(
        self,
        n_observations: int,
        n_actions: int,
        *,
        hidden: int = 64,
        activation: Activation = "relu",
        sees_time: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n_observations, n_actions, hidden) < 1:
            raise ConfigError(
                f"n_observations={n_observations}, n_actions={n_actions}, hidden={hidden}: each "
                "must be positive"
            )
        if activation not in _GAINS:
            raise ConfigError(f'activation is {activation!r}: give "tanh" or "relu"')
        self.sees_time = sees_time
        with seeded(seed):
            self.actor = _mlp(n_observations, hidden, n_actions, activation, last_gain=0.01)
            self.critic = _mlp(n_observations + sees_time, hidden, 1, activation, last_gain=1.0)

    def log_probabilities(self, observations: Tensor) -> Tensor:
        """Log-probabilities ``[..., A]`` of all actions, for observations ``[..., S]``."""
        logits: Tensor = self.actor(observations)
        return logits.log_softmax(-1)

    def critic_inputs(self, observations: Tensor) -> Tensor:
        """What the critic reads: observations ``[T, ..., S]`` of whole episodes, and the time.

        Args:
            observations: float32 ``[T, ..., S]``, time first.

        Returns:
            float32 ``[T, ..., S + 1]``, the last entry rising from 0; unchanged if the critic does
            not see the time.
        """
        if not self.sees_time:
            return observations
        steps = len(observations)
        time = torch.arange(steps, dtype=observations.dtype) / steps
        column = time.reshape(-1, *[1] * (observations.ndim - 1))
        return torch.cat([observations, column.expand(*observations.shape[:-1], 1)], -1)

    def values(self, inputs: Tensor) -> Tensor:
        """Values ``[...]`` of :meth:`critic_inputs` ``[..., S + 1]``."""
        values: Tensor = self.critic(inputs)
        return values.squeeze(-1)

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw actions.

        Args:
            observations: float32 ``[..., S]``.
            generator: of the draws.

        Returns:
            Actions, int64 ``[...]``, and their log-probabilities, float32 ``[...]``.
        """
        log_probabilities = self.log_probabilities(observations)
        # The first of competing exponential clocks with these rates is a draw in proportion.
        clocks = torch.empty_like(log_probabilities).exponential_(generator=generator)
        actions = (log_probabilities - clocks.log()).argmax(-1)
        return actions, chosen(log_probabilities, actions)


def chosen(log_probabilities: Tensor, actions: Tensor) -> Tensor:
    """Entries ``[...]`` of ``[..., A]`` at the actions ``[...]``."""
    return log_probabilities.gather(-1, actions[..., None]).squeeze(-1)


def _mlp(
    n_inputs: int, hidden: int, n_outputs: int, activation: Activation, *, last_gain: float
) -> nn.Sequential:
    first, second = nn.Linear(n_inputs, hidden), nn.Linear(hidden, hidden)
    last = nn.Linear(hidden, n_outputs)
    gain = _GAINS[activation]
    for layer, size in ((first, gain), (second, gain), (last, last_gain)):
        nn.init.orthogonal_(layer.weight, size)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, _bend(activation), second, _bend(activation), last)


def _bend(activation: Activation) -> nn.Module:
    return nn.Tanh() if activation == "tanh" else nn.ReLU(inplace=True)
