"""What each factor adds to the predicted reward."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lare.latent_reward import LatentReward
from lare.relabel import Relabeler
from lare.transitions import Transitions


def contributions(relabeler: Relabeler, data: Transitions) -> dict[str, np.ndarray]:
    """How far each factor moves the reward of each step from what its mean would give.

    One factor at a time is replaced by its mean over ``data``; the difference of the predictions is
    its contribution. For a linear decoder these add up to the reward minus its mean.

    Args:
        relabeler: trained.
        data: steps.

    Returns:
        Float ``[B]`` by the factor's name, largest spread first.
    """
    factors = torch.from_numpy(relabeler.features(*data[:3])).to(relabeler.device)
    names = factor_names(relabeler, factors.shape[1])
    with torch.no_grad():
        whole: Tensor = relabeler.model.rewards(factors)
        found = {}
        for index, name in enumerate(names):
            without = factors.clone()
            without[:, index] = factors[:, index].mean()
            found[name] = (whole - relabeler.model.rewards(without)).cpu().numpy()
    return dict(sorted(found.items(), key=lambda item: -item[1].std()))


def factor_names(relabeler: Relabeler, count: int) -> tuple[str, ...]:
    """Names from the source, or "factor 0" and so on."""
    features = relabeler.features
    if isinstance(features, LatentReward) and features.names is not None:
        return features.names
    return tuple(f"factor {index}" for index in range(count))
