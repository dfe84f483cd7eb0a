"""TorchRL: a transform for replay buffers, and rewards for what a collector brings.

Needs the extra ``torchrl``: ``pip install "lare-rl[torchrl]"``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs.transforms import Transform

from lare.errors import ConfigError
from lare.relabel import Relabeler

#: Where the factors of a step are kept beside it.
FACTORS = "lare_factors"


class LatentRewardTransform(Transform):  # type: ignore[misc]
    """Keeps episodes as they enter a replay buffer, and rewards what is sampled from it.

    ``buffer.append_transform(LatentRewardTransform(relabeler))``. At ``extend`` each step gets its
    factors, under ``"lare_factors"``; at ``sample`` the decoder takes ``updates_per_sample`` steps
    and ``("next", "reward")`` is what it now says. No generated code runs at ``sample``.

    Args:
        relabeler: built with ``n_envs`` of the collector.
        updates_per_sample: decoder steps per sampled batch.
        observation: key of the observations.

    ``extend`` takes ``[time]`` of one environment, or ``[n_envs, time]`` as collectors return it;
    steps have to arrive in the order of time.
    """

    def __init__(
        self, relabeler: Relabeler, updates_per_sample: int = 1, observation: str = "observation"
    ) -> None:
        super().__init__(in_keys=[], out_keys=[("next", "reward")])
        self.relabeler = relabeler
        self.updates_per_sample = updates_per_sample
        self.observation = observation

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        return observe(self.relabeler, tensordict, self.observation)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Train the decoder, then write the rewards of the sampled steps."""
        self.relabeler.update(self.updates_per_sample)
        return _reward(self.relabeler, tensordict)


def relabel(
    relabeler: Relabeler, tensordict: TensorDictBase, observation: str = "observation"
) -> TensorDictBase:
    """Keep what a collector brought and reward it, to be called before advantages are computed.

    Args:
        relabeler: built with ``n_envs`` of the collector.
        tensordict: ``[time]`` of one environment or ``[n_envs, time]``; its rewards are replaced.
        observation: key of the observations.

    Returns:
        ``tensordict``.
    """
    return _reward(relabeler, observe(relabeler, tensordict, observation))


def observe(
    relabeler: Relabeler, tensordict: TensorDictBase, observation: str = "observation"
) -> TensorDictBase:
    """Let the relabeler see steps in the order of time, and keep their factors beside them.

    Raises:
        ConfigError: if the batch is neither ``[time]`` of one environment nor ``[n_envs, time]``.
    """
    shape, n_envs = tuple(tensordict.batch_size), relabeler.store.n_envs
    if not (len(shape) == 2 and shape[0] == n_envs) and not (len(shape) == 1 and n_envs == 1):
        raise ConfigError(
            f"the batch has shape {shape} and the relabeler {n_envs} environments: extend by "
            "[n_envs, time], unflattened, or [time] of a single environment"
        )
    steps = tensordict if len(shape) == 2 else tensordict[None]
    columns = [
        _numpy(steps, key).swapaxes(0, 1)
        for key in (observation, "action", ("next", observation), ("next", "reward"))
    ]
    ends = [_numpy(steps, ("next", key)).swapaxes(0, 1) for key in ("terminated", "truncated")]
    factors = []
    for start, action, end, reward, *over in zip(*columns, *ends, strict=True):
        terminated, truncated = (values.reshape(-1) for values in over)
        row = relabeler.observe(
            start, _choice(relabeler, action), end, reward.reshape(-1), terminated, truncated
        )
        factors.append(relabeler.store.factors[row])
    kept = torch.stack(factors, 1)
    tensordict.set(FACTORS, kept if len(shape) == 2 else kept[0])
    return tensordict


def _reward(relabeler: Relabeler, tensordict: TensorDictBase) -> TensorDictBase:
    old = tensordict.get(("next", "reward"))
    rewards = relabeler.relabel_factors(tensordict.get(FACTORS))
    return tensordict.set(("next", "reward"), rewards.reshape(old.shape).to(old))


def _numpy(steps: TensorDictBase, key: Any) -> np.ndarray:
    values: np.ndarray = steps.get(key).cpu().numpy()
    return values


def _choice(relabeler: Relabeler, action: np.ndarray) -> np.ndarray:
    """Discrete actions are one-hot in TorchRL by default."""
    from gymnasium.spaces import Discrete

    space = relabeler.action_space
    if isinstance(space, Discrete) and action.ndim == 2 and action.shape[1] == space.n:
        chosen: np.ndarray = action.argmax(1) + int(space.start)
        return chosen
    return action
