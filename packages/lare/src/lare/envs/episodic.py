"""Hide the reward until the end of the episode: for one environment, and for vectors of them."""

from __future__ import annotations

from typing import Any, Generic, SupportsFloat, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from lare.errors import ConfigError

Array = NDArray[Any]
Obs = TypeVar("Obs")
Act = TypeVar("Act")

TRUE_REWARD = "lare/true_reward"
REAL_STEP = "lare/real_step"


class EpisodicReward(gym.Wrapper[Obs, Act, Obs, Act], RecordConstructorArgs, Generic[Obs, Act]):
    """Reward 0 at every step, and at the last one the sum of the episode's rewards.

    The last step's own reward is part of the sum. The last step is one that terminates or
    truncates: put :class:`gymnasium.wrappers.TimeLimit` inside, which ``gymnasium.make`` does. An
    episode left by ``reset`` before its end counts nowhere. The reward that the step would have had
    is in ``info["lare/true_reward"]``.

    Args:
        env: The environment.

    Raises:
        ConfigError: at the first step, if the environment hides its rewards already.

    Example:
        >>> env = EpisodicReward(gym.make("Pendulum-v1", max_episode_steps=200))

    Reference: arXiv 2412.11120, the episodic setting.
    """

    def __init__(self, env: gym.Env[Obs, Act]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._return = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode; arguments and results are those of the environment."""
        self._return = 0.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Act) -> tuple[Obs, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and withhold its reward.

        Returns:
            As the environment does, but for the reward, and with ``info["lare/true_reward"]``.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        _refuse_second(info)
        self._return += float(reward)
        paid = 0.0
        if terminated or truncated:
            paid, self._return = self._return, 0.0
        return observation, paid, terminated, truncated, {**info, TRUE_REWARD: float(reward)}


class EpisodicRewardVector(VectorWrapper[Obs, Act, Obs, Act, Array], Generic[Obs, Act]):
    """:class:`EpisodicReward` for a vector environment, whatever its autoreset mode.

    Each step's ``infos`` gain three arrays of shape (n_envs,): ``"lare/true_reward"``, float64, the
    reward that the step would have had; ``"lare/real_step"``, bool, False where the step only reset
    the copy (the step after an end in next-step mode): it belongs to no episode, and neither its
    action nor its reward means anything; and ``"_lare/true_reward"``, the same mask under the name
    that gymnasium gives to the mask of an info.

    Next-step mode: the observation of the last step is the episode's last one. Same-step mode: it
    is the next episode's first one, and the last one is in ``infos["final_obs"]``; all steps are
    real, and a reward is that of the step just taken. Without autoreset: the copies that
    ``options["reset_mask"]`` names start anew, the others go on.

    Args:
        env: The vector environment.
        autoreset_mode: Its mode; by default what its metadata say.

    Raises:
        ConfigError: if ``env`` is no vector environment or does not name its autoreset mode; at a
            step, if it hides its rewards already, or a copy that ended was not reset where the mode
            leaves that to the caller.

    Example:
        >>> envs = EpisodicRewardVector(gym.make_vec("Pendulum-v1", num_envs=2))
        >>> _ = envs.reset(seed=0)
        >>> _, rewards, _, _, infos = envs.step(envs.action_space.sample())
        >>> rewards.tolist(), infos["lare/real_step"].tolist()
        ([0.0, 0.0], [True, True])
    """

    def __init__(
        self, env: VectorEnv[Obs, Act, Array], autoreset_mode: AutoresetMode | str | None = None
    ) -> None:
        if not isinstance(env, VectorEnv):
            raise ConfigError(
                f"env is a {type(env).__name__}: give a gymnasium.vector.VectorEnv, or use "
                "EpisodicReward for a single environment"
            )
        super().__init__(env)
        self._mode = _mode(env, autoreset_mode)
        self._returns = np.zeros(self.num_envs)
        self._ended = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start episodes in all copies, or in those of ``options["reset_mask"]``."""
        # Read before the call: gymnasium takes the mask out of the caller's dict.
        mask = (options or {}).get("reset_mask", slice(None))
        observations, infos = self.env.reset(seed=seed, options=options)
        self._returns[mask] = 0.0
        self._ended[mask] = False
        return observations, infos

    def step(self, actions: Act) -> tuple[Obs, Array, Array, Array, dict[str, Any]]:
        """Step all copies and withhold their rewards.

        Returns:
            As the environment does, but for the rewards (float64), and with the infos named above.
        """
        real = ~self._ended
        if self._mode is AutoresetMode.DISABLED and not real.all():
            raise ConfigError(
                f"copies {np.flatnonzero(~real).tolist()} have ended: reset them with "
                'options={"reset_mask": mask} before the next step'
            )
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        _refuse_second(infos)
        true_rewards = np.where(real, rewards, 0.0).astype(np.float64)
        done = (np.asarray(terminated) | np.asarray(truncated)) & real
        self._returns += true_rewards
        paid = np.where(done, self._returns, 0.0)
        self._returns[done] = 0.0
        restarted = self._mode is AutoresetMode.SAME_STEP
        self._ended = np.zeros_like(done) if restarted else done
        added = {TRUE_REWARD: true_rewards, f"_{TRUE_REWARD}": real, REAL_STEP: real.copy()}
        return observations, paid, terminated, truncated, {**infos, **added}


def _mode(env: Any, given: AutoresetMode | str | None) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode") if given is None else given
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        modes = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ConfigError(
            f"the autoreset mode is {mode!r}: pass autoreset_mode, one of {modes}"
        ) from error


def _refuse_second(info: dict[str, Any]) -> None:
    final = info.get("final_info")
    if TRUE_REWARD in info or (isinstance(final, dict) and TRUE_REWARD in final):
        raise ConfigError("the environment hides its rewards already: wrap it once")
