"""Every way to reward a step, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gymnasium.spaces import Space
from torch import nn

from lare._kit import seeded
from lare.baselines import (
    AREL,
    STAS,
    Diaster,
    DirectReward,
    InformationBottleneck,
    ReturnGuidance,
)
from lare.decoder import RewardDecoder
from lare.errors import ConfigError
from lare.features import Features, RawFeatures
from lare.models import Decomposition, Loss
from lare.relabel import Relabeler


@dataclass(frozen=True)
class Method:
    """One way.

    Attributes:
        text: what it does, in a line.
        latent: whether it reads a function of a language model; raw numbers otherwise.
        options: of the :class:`Relabeler`.
        features: what it reads of a step, without a latent reward.
    """

    text: str
    latent: bool
    options: Mapping[str, Any]
    features: RawFeatures = field(default_factory=RawFeatures)


_AS_PUBLISHED = {"normalize": False}
#: ``"episodic"`` and ``"dense"`` are the environment's own rewards and have no relabeler.
METHODS = {
    "lare": Method("latent reward, sparse linear decoder in closed form", True, {}),
    "lare-rrd-unbiased": Method(
        "latent reward, network, random steps without bias: as published",
        True,
        {"loss": "rrd-unbiased", **_AS_PUBLISHED},
    ),
    "lare-rrd": Method(
        "latent reward, network, random steps", True, {"loss": "rrd", **_AS_PUBLISHED}
    ),
    "lare-rd": Method(
        "latent reward, network, whole episodes", True, {"loss": "rd", **_AS_PUBLISHED}
    ),
    "rd": Method("raw numbers, whole episodes", False, {"loss": "rd", **_AS_PUBLISHED}),
    "rrd": Method("raw numbers, random steps", False, {"loss": "rrd", **_AS_PUBLISHED}),
    "rrd-unbiased": Method(
        "raw numbers, random steps without bias", False, {"loss": "rrd-unbiased", **_AS_PUBLISHED}
    ),
    "vib": Method(
        "raw numbers, bottleneck", False, {"model": InformationBottleneck, **_AS_PUBLISHED}
    ),
    "diaster": Method(
        "raw numbers, differences of sub-trajectories",
        False,
        # Published: per 1000 calls as many updates as an episode has steps, 200 say, on 64 of them.
        {
            "model": Diaster,
            "weighting": "length",
            "episodes": 64,
            "update_every": 5,
            **_AS_PUBLISHED,
        },
        RawFeatures(("observation", "action")),
    ),
    "ircr": Method(
        "returns, at every step of their episode; half a batch from the best",
        False,
        {"model": lambda _: ReturnGuidance(), **_AS_PUBLISHED},
    ),
    "direct": Method(
        "a function that returns the reward itself, nothing learned",
        True,
        {"model": DirectReward, **_AS_PUBLISHED},
    ),
}
PLAIN = ("episodic", "dense")


def names() -> list[str]:
    """All methods, the environment's own rewards included."""
    return [*METHODS, *PLAIN]


def create(
    name: str,
    features: Features | None,
    observation_space: Space[Any],
    action_space: Space[Any],
    **options: Any,
) -> Relabeler | None:
    """Build a method.

    Args:
        name: one of :func:`names`.
        features: the latent reward, for the methods that read one.
        observation_space: of one environment.
        action_space: of one environment.
        options: of :class:`Relabeler`, in place of the method's own.

    Returns:
        A relabeler, or None for the environment's own rewards.

    Raises:
        ConfigError: if the name is unknown, or a latent reward is missing.
    """
    if name in PLAIN:
        return None
    if name not in METHODS:
        raise ConfigError(f"method is {name!r}: choose from {', '.join(names())}")
    method = METHODS[name]
    if method.latent and features is None:
        raise ConfigError(f"{name} reads a latent reward: pass features=LatentReward...")
    chosen = features if method.latent and features is not None else method.features
    return Relabeler(chosen, observation_space, action_space, **{**method.options, **options})


# --- several agents ------------------------------------------------------------------------------


@dataclass(frozen=True)
class MultiAgentMethod:
    """One way to reward every agent at every step.

    Attributes:
        text: what it does, in a line.
        latent: whether it reads a latent reward; raw numbers otherwise.
        build: from ``n_features``, ``n_agents`` and options to the model.
    """

    text: str
    latent: bool
    build: Callable[..., nn.Module]


def _decomposition(
    n_features: int, n_agents: int, *, loss: Loss = "rd-sum", k: int = 10, **decoder: Any
) -> Decomposition:
    """One decoder for all agents, whatever their number."""
    return Decomposition(
        RewardDecoder(n_features, **{"hidden": 64, "layers": 5, **decoder}), loss, k
    )


def _bottleneck(n_features: int, n_agents: int, **options: Any) -> InformationBottleneck:
    """One bottleneck for all agents, as narrow as the other networks for several agents."""
    published = {"latent": 4, "beta": 1.0, "k": 10, "hidden": 64, "normalize": False}
    return InformationBottleneck(n_features, **{**published, **options})


def _direct(n_features: int, n_agents: int) -> DirectReward:
    return DirectReward(n_features)


MULTI_AGENT = {
    "lare": MultiAgentMethod(
        "latent reward, sparse linear decoder in closed form",
        True,
        partial(_decomposition, kind="sparse"),
    ),
    "lare-rd": MultiAgentMethod(
        "latent reward, network, whole episodes: as published", True, _decomposition
    ),
    "rd": MultiAgentMethod("raw numbers, whole episodes", False, _decomposition),
    "rrd": MultiAgentMethod(
        "raw numbers, random steps", False, partial(_decomposition, loss="rrd")
    ),
    "rrd-unbiased": MultiAgentMethod(
        "raw numbers, random steps without bias",
        False,
        partial(_decomposition, loss="rrd-unbiased"),
    ),
    "vib": MultiAgentMethod("raw numbers, bottleneck", False, _bottleneck),
    "arel": MultiAgentMethod("raw numbers, attention, equal parts", False, AREL),
    "stas": MultiAgentMethod("raw numbers, attention, coalitions", False, STAS),
    "direct": MultiAgentMethod(
        "a function that returns the reward itself, nothing learned", True, _direct
    ),
}


def multi_agent_model(
    name: str, n_features: int, n_agents: int, seed: int = 0, **options: Any
) -> nn.Module:
    """Build the reward model of a method for several agents, with the published sizes.

    Args:
        name: one of :data:`MULTI_AGENT`.
        n_features: numbers per agent and step.
        n_agents: of the team.
        seed: of the first weights; torch's own generator stays as it is.
        options: of the model, in place of the published ones: of :class:`InformationBottleneck`,
            :class:`AREL` or :class:`STAS`; for the others ``loss``, ``k`` and those of
            :class:`RewardDecoder`.

    Returns:
        A :class:`lare.models.RewardModel` that reads ``[E, T, n_agents, n_features]`` and rewards
        each agent, ``[E, T, n_agents]``.

    Raises:
        ConfigError: if the name is unknown.
    """
    if name not in MULTI_AGENT:
        raise ConfigError(f"method is {name!r}: choose from {', '.join(MULTI_AGENT)}")
    with seeded(seed):
        return MULTI_AGENT[name].build(n_features, n_agents, **options)
