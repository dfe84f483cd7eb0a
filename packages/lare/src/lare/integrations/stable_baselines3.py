"""Stable-Baselines3: a replay buffer for TD3, SAC, DDPG and DQN, an environment wrapper for PPO.

Needs the extra ``sb3``: ``pip install "lare-rl[sb3]"``.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from lare.errors import ConfigError, LareWarning, StateError
from lare.relabel import Relabeler

#: Calls of ``step`` since an episode first ended, after which a decoder that was never trained is
#: taken for forgotten. No rollout is that long.
_UNTRAINED_STEPS = 100_000


class LatentRewardReplayBuffer(ReplayBuffer):  # type: ignore[misc]
    """Stores what the environment pays, and samples what the relabeler says it was worth.

    Pass it as ``replay_buffer_class``, with ``replay_buffer_kwargs={"relabeler": relabeler}``. The
    relabeler's store takes the buffer's size, so that a sampled row finds its factors by number.
    Each ``sample`` is preceded by ``updates_per_sample`` steps of the decoder, so that it learns as
    often as the critic, whatever ``train_freq`` and ``gradient_steps`` are.

    ``save_replay_buffer`` takes the relabeler along. Loading it forgets the episode that was
    running, since the environment starts anew.

    Args:
        relabeler: a :class:`lare.Relabeler`, one per model.
        updates_per_sample: decoder steps per sampled batch. All other arguments are those of
            ``ReplayBuffer``.

    Raises:
        ConfigError: if no relabeler is given, or its spaces are not those of the environment.

    ``NStepReplayBuffer`` and ``HerReplayBuffer`` read stored rewards and cannot be combined with
    this; for n-step returns see :meth:`rewrite`.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        relabeler: Relabeler | None = None,
        updates_per_sample: int = 1,
    ) -> None:
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
        )
        if relabeler is None:
            raise ConfigError(
                'no relabeler: pass replay_buffer_kwargs={"relabeler": Relabeler.for_env(env)}'
            )
        _same_spaces(relabeler, observation_space, action_space)
        relabeler.attach(self.buffer_size, n_envs)
        self.relabeler = relabeler
        self._store = relabeler.store
        self.updates_per_sample = updates_per_sample

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every environment, as ``ReplayBuffer.add``; observations are raw."""
        limit = np.array([info.get("TimeLimit.truncated", False) for info in infos], dtype=bool)
        terminated = np.asarray(done, dtype=bool) & ~limit
        actions = self._unscaled(action)
        if self.relabeler.store is not self._store:
            raise StateError(
                "another model has taken over the relabeler of this replay buffer: build one for "
                "each model"
            )
        super().add(obs, next_obs, action, reward, done, infos)
        self.relabeler.observe(obs, actions, next_obs, reward, terminated, limit)

    def reset(self) -> None:
        """Empty the buffer, and the relabeler's store with it."""
        super().reset()
        self.relabeler.attach(self.buffer_size, self.n_envs)
        self._store = self.relabeler.store

    def _unscaled(self, action: np.ndarray) -> np.ndarray:
        """Actions in the environment's units: off-policy algorithms store them in [-1, 1]."""
        if not isinstance(self.action_space, spaces.Box):
            return action
        low, high = self.action_space.low, self.action_space.high
        unscaled: np.ndarray = low + 0.5 * (action + 1.0) * (high - low)
        return unscaled

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Train the decoder, then sample transitions with its rewards."""
        self.relabeler.update(self.updates_per_sample)
        return super().sample(batch_size, env)

    def _get_samples(
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        # The base class draws the environments inside, so that it cannot be asked which they were.
        env_inds = np.random.randint(0, self.n_envs, size=len(batch_inds))  # noqa: NPY002  as there
        batch_inds, env_inds = self.relabeler.redraw(batch_inds, env_inds)
        if self.optimize_memory_usage:
            following = self.observations[(batch_inds + 1) % self.buffer_size, env_inds]
        else:
            following = self.next_observations[batch_inds, env_inds]
        timeouts = self.timeouts[batch_inds, env_inds]
        data = (
            self._normalize_obs(self.observations[batch_inds, env_inds], env),
            self.actions[batch_inds, env_inds],
            self._normalize_obs(following, env),
            (self.dones[batch_inds, env_inds] * (1 - timeouts)).reshape(-1, 1),
        )
        rewards = self.relabeler.relabel_rows(batch_inds, env_inds).reshape(-1, 1)
        return ReplayBufferSamples(*map(self.to_torch, data), rewards.to(self.device))

    def rewrite(self) -> None:
        """Write the present rewards over the stored ones, for code that reads ``rewards``."""
        filled = self.buffer_size if self.full else self.pos
        rows = np.arange(filled)
        for env in range(self.n_envs):
            rewards = self.relabeler.relabel_rows(rows, np.full(filled, env))
            self.rewards[:filled, env] = rewards.cpu().numpy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a pickled buffer; the episode that was running will not be finished."""
        self.__dict__.update(state)
        self.relabeler.reset()


class LatentRewardVecEnv(VecEnvWrapper):  # type: ignore[misc]
    """Pays the relabeler's rewards in place of the environment's, for on-policy algorithms.

    Put it inside ``VecNormalize``, since functions read raw observations, and train the decoder by
    :class:`TrainDecoder` between rollouts: within one, rewards come from one decoder.

    Args:
        venv: environments whose reward is to be redistributed.
        relabeler: built with ``n_envs`` of ``venv``.

    Raises:
        ConfigError: if the numbers of environments differ.

    Warns:
        LareWarning: if the decoder was not trained within 100 000 calls of ``step``, though
            episodes ended: its rewards are those of its initial weights.
    """

    def __init__(self, venv: VecEnv, relabeler: Relabeler) -> None:
        super().__init__(venv)
        if relabeler.store.n_envs != venv.num_envs:
            raise ConfigError(
                f"the relabeler was built for n_envs={relabeler.store.n_envs}, there are "
                f"{venv.num_envs} environments: give Relabeler(..., n_envs={venv.num_envs})"
            )
        _same_spaces(relabeler, venv.observation_space, venv.action_space)
        self.relabeler = relabeler
        self._observations = np.zeros(0)
        self._actions = np.zeros(0)
        self._untrained = 0

    def reset(self) -> np.ndarray:
        """Reset all environments."""
        self._observations = _array(self.venv.reset())
        return self._observations

    def step_async(self, actions: np.ndarray) -> None:
        """Start a step."""
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Finish it; the environment's own reward is in ``infos[i]["lare/environment_reward"]``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        ends = _array(observations).copy()
        for index in np.flatnonzero(dones):
            ends[index] = infos[index]["terminal_observation"]
        limit = np.array([info.get("TimeLimit.truncated", False) for info in infos], dtype=bool)
        terminated = dones & ~limit
        start, actions = self._observations, self._actions
        row = self.relabeler.observe(start, actions, ends, rewards, terminated, limit)
        envs = np.arange(self.num_envs)
        paid = self.relabeler.relabel_rows(np.full_like(envs, row), envs).cpu().numpy()
        for info, reward in zip(infos, rewards, strict=True):
            info["lare/environment_reward"] = float(reward)
        self._observations = _array(observations)
        self._warn_if_untrained()
        return self._observations, paid, dones, infos

    def _warn_if_untrained(self) -> None:
        if self.relabeler.updates or not len(self.relabeler.store):
            return
        self._untrained += 1
        if self._untrained == _UNTRAINED_STEPS:
            warnings.warn(
                f"the decoder has not been trained in {self._untrained} steps, and what it pays "
                "means nothing: pass callback=TrainDecoder(relabeler) to learn(), or call "
                "relabeler.update()",
                LareWarning,
                stacklevel=2,
            )


class TrainDecoder(BaseCallback):  # type: ignore[misc]
    """Trains the decoder of a :class:`LatentRewardVecEnv` after each rollout.

    Args:
        relabeler: the wrapper's.
        updates: decoder steps per rollout.
        verbose: as of ``BaseCallback``.
    """

    def __init__(self, relabeler: Relabeler, updates: int = 100, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.relabeler = relabeler
        self.updates = updates

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        loss = self.relabeler.update(self.updates)
        self.logger.record("lare/decoder_loss", loss)


def _same_spaces(
    relabeler: Relabeler, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> None:
    mine = relabeler.observation_space, relabeler.action_space
    if mine != (observation_space, action_space):
        raise ConfigError(
            f"the relabeler was built for {mine[0]} and {mine[1]}, the model has "
            f"{observation_space} and {action_space}"
        )


def _array(observations: Any) -> np.ndarray:
    if not isinstance(observations, np.ndarray):
        raise ConfigError(
            f"observations are {type(observations).__name__}: a latent reward reads a "
            "one-dimensional Box; flatten Dict and Tuple observations first"
        )
    return observations
