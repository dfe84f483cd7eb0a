"""How often a team wins, with its own actions drawn and with the likeliest or best ones."""

from __future__ import annotations

from typing import NamedTuple

from lemae._seeds import Purpose, number
from lemae.algos.rollout import Actor, Collector, VectorEnvLike
from lemae.errors import ConfigError, TaskError

#: The same episodes for every run, method and seed: those reported, and those that decide whether a
#: run may end, apart so that no run ends because the reported ones happened to be won.
_REPORTED, _DECIDING = 10_000, 20_000


class WinRates(NamedTuple):
    """Shares of successful episodes.

    A policy without memory that passes the same place twice may need chance to get on: the greedy
    rate can be 0 where the sampled one is 1, and is reported apart.

    Attributes:
        sampled: with actions drawn as in training, but without an explorer.
        greedy: with the likeliest or best actions.
    """

    sampled: float
    greedy: float


def evaluate(env: VectorEnvLike, actor: Actor, episodes: int = 100) -> WinRates:
    """Play the evaluation's episodes, which are the same for everybody.

    Args:
        env: as many copies as episodes are played at a time.
        actor: reseeded. Where it has a ``policy``, as a learner that explores by itself, that plays
            in its place.
        episodes: rounded up to a multiple of the copies; aborted ones do not count.

    Returns:
        Both rates.

    Raises:
        ConfigError: if there are no episodes.
        TaskError: if all were aborted.

    Cost: twice as many episodes as asked for.
    """
    return WinRates(
        *(_win_rate(env, actor, episodes, _REPORTED, greedy=greedy) for greedy in (False, True))
    )


def validate(env: VectorEnvLike, actor: Actor, episodes: int = 100) -> float:
    """The sampled win rate in other episodes than :func:`evaluate`'s, with its arguments.

    Cost: as many episodes as asked for.
    """
    return _win_rate(env, actor, episodes, _DECIDING, greedy=False)


def _win_rate(
    env: VectorEnvLike, actor: Actor, episodes: int, start: int, *, greedy: bool
) -> float:
    if episodes < 1:
        raise ConfigError(f"episodes is {episodes}: play at least 1")
    actor = getattr(actor, "policy", actor)
    collector = Collector(env)
    wins = played = 0
    for part in range(-(-episodes // env.num_envs)):
        seed = number(Purpose.EVALUATION, start, part)
        rollout = collector.collect(actor, seed=seed, greedy=greedy)
        wins += int(rollout.success.sum())
        played += len(rollout)
    if not played:
        raise TaskError("every episode of the evaluation was aborted: look after the environment")
    return wins / played
