"""How well do predicted step rewards agree with the true ones, which no method was shown?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lare.errors import ConfigError
from lare.relabel import Relabeler
from lare.transitions import Transitions, collect


@dataclass(frozen=True)
class Quality:
    """Agreement on episodes that were held out.

    Attributes:
        correlation: of predicted and true rewards over all steps; NaN if one is constant.
        return_error: mean squared error of the summed predictions, over the variance of the
            returns; 1 is as good as the mean.
    """

    correlation: float
    return_error: float


def episodes_of(env: Any, episodes: int, seed: int = 0) -> Transitions:
    """Collect whole episodes of random actions.

    Args:
        env: a Gymnasium environment with its true reward.
        episodes: how many.
        seed: of the resets and of the actions.

    Raises:
        ConfigError: if the environment has no time limit to count by, or ``episodes`` is below 2.
    """
    limit = env.spec.max_episode_steps if env.spec is not None else None
    if limit is None:
        raise ConfigError("the environment has no time limit: pass one made with max_episode_steps")
    if episodes < 2:
        raise ConfigError(f"episodes is {episodes}: at least 2, to learn from one and try another")
    found = collect(env, episodes * limit, seed)
    # Episodes that ended early leave room for more; the last one may be cut off.
    whole = found.episode < found.episode[-1] + _ends(found, limit)
    return Transitions(*(column[whole & (found.episode < episodes)] for column in found))


def _ends(found: Transitions, limit: int) -> int:
    """1 if the last episode is known to be whole, because it reached the limit."""
    return int((found.episode == found.episode[-1]).sum() == limit)


def measure(
    relabeler: Relabeler, data: Transitions, *, updates: int = 3000, held_out: float = 0.25
) -> Quality:
    """Train on the returns of some episodes, compare step by step on the others.

    Args:
        relabeler: a fresh one, for one environment.
        data: whole episodes, from :func:`episodes_of`.
        updates: decoder steps.
        held_out: share of the episodes to compare on, the last ones.

    Returns:
        The agreement.
    """
    learn, compare = split(data, held_out)
    observe(relabeler, learn)
    relabeler.update(updates)
    predicted = relabeler.model_rewards(compare).astype(np.float64)
    returns, sums = _sums(compare.reward, compare), _sums(predicted, compare)
    spread = float(np.var(returns))
    error = float(np.mean((sums - returns) ** 2)) / spread if spread else float("nan")
    return Quality(correlation(predicted, compare.reward), error)


def split(data: Transitions, held_out: float) -> tuple[Transitions, Transitions]:
    """Part episodes into those to learn from and those to compare on."""
    episodes = np.unique(data.episode)
    count = max(1, round(held_out * len(episodes)))
    if count >= len(episodes):
        raise ConfigError(f"held_out is {held_out}: no episode of {len(episodes)} is left to learn")
    last = np.isin(data.episode, episodes[-count:])
    return (
        Transitions(*(column[~last] for column in data)),
        Transitions(*(column[last] for column in data)),
    )


def observe(relabeler: Relabeler, data: Transitions) -> None:
    """Let a relabeler see recorded episodes."""
    ends = np.append(data.episode[1:] != data.episode[:-1], True)
    relabeler.observe_recorded(data, ends)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, NaN where one is constant."""
    if one.std() < 1e-12 or other.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _sums(values: np.ndarray, data: Transitions) -> np.ndarray:
    return np.array([values[data.episode == episode].sum() for episode in np.unique(data.episode)])
