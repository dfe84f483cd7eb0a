"""Training runs with Stable-Baselines3 on an environment that pays at the end of an episode."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lare import runs
from lare._sb3_checkpoint import Checkpoint
from lare.decomposition import correlation
from lare.envs import EpisodicReward
from lare.errors import ConfigError, MissingExtraError, TaskError
from lare.latent_reward import LatentReward
from lare.methods import METHODS, create, names
from lare.relabel import Relabeler
from lare.transitions import collect

Algorithm = Literal["td3", "sac", "ddpg", "ppo"]


@dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        task: id of a Gymnasium environment.
        method: one of :func:`lare.methods.names`.
        algorithm: of Stable-Baselines3.
        steps: environment steps.
        seed: of everything.
        max_episode_steps: cuts episodes, None leaves them.
        width: of the two hidden layers of actor and critic.
        learning_rate: of actor and critic.
        batch_size: transitions per gradient step.
        warmup: random steps before the first gradient step.
        decoder_updates: updates of the decoder per rollout, with PPO; off-policy it gets one per
            gradient step.
        evaluate_every: steps between evaluations.
        evaluation_episodes: with fixed seeds and the deterministic policy, scored by true reward.
        function: path of a saved latent reward or a ``.py`` file; None takes the shipped one.
        options: of the relabeler.
        device: of actor, critic and decoder, ``"cpu"`` or ``"cuda"`` with or without a number.
    """

    task: str
    method: str = "lare"
    algorithm: Algorithm = "td3"
    steps: int = 5000
    seed: int = 0
    max_episode_steps: int | None = None
    width: int = 64
    learning_rate: float = 1e-3
    batch_size: int = 128
    warmup: int = 500
    decoder_updates: int = 200
    evaluate_every: int = 1000
    evaluation_episodes: int = 10
    function: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"


def train(
    settings: Settings,
    out: str | Path | None = None,
    *,
    checkpoint_every_s: float | None = 60.0,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train once, and evaluate by the true reward along the way.

    Args:
        settings: what to run.
        out: a folder for ``metrics.jsonl``, ``summary.json``, and a checkpoint until the run is
            finished. A finished run of the same settings is read back and not repeated; an
            interrupted one goes on from its checkpoint with fresh random numbers and an environment
            that starts anew, so not to the same bits.
        checkpoint_every_s: checkpoints are written after an evaluation, if the last one is so many
            seconds old; one holds the replay buffer. None for none.
        tensorboard: write event files to ``out`` too.

    Returns:
        ``scores`` by step, ``seconds``, ``steps_per_second``, ``correlation`` of the last rewards
        with the true ones, and what the episode return is of zero and of random actions.

    Raises:
        MissingExtraError: without Stable-Baselines3.
        ConfigError: if a setting is unknown, or ``out`` holds a run with other settings or a
            damaged one.
        StateError: if the latent reward of an interrupted run has changed.
    """
    _check_device(settings.device)
    if settings.method not in names():
        raise ConfigError(f"method is {settings.method!r}: choose from {', '.join(names())}")
    folder = None if out is None else Path(out)
    if folder is not None and (done := runs.finished(folder, asdict(settings))) is not None:
        return done
    model, relabeler = build(settings)
    scores: dict[int, float] = {}
    seconds = trained_s = 0.0
    done_steps = 0
    run, checkpoint = None, None
    if folder is not None:
        checkpoint = Checkpoint(folder, asdict(settings), checkpoint_every_s)
        if (saved := checkpoint.load(model, relabeler)) is None:
            run = runs.start(folder, tensorboard=tensorboard)
        else:
            relabeler, progress = saved
            scores = {int(step): score for step, score in progress["scores"].items()}
            seconds, trained_s = progress["seconds"], progress["trained_s"]
            done_steps = model.num_timesteps
            run = runs.go_on(folder, done_steps, tensorboard=tensorboard)
    start = time.perf_counter() - seconds
    while done_steps < settings.steps:
        begin = time.perf_counter()
        chunk = min(settings.evaluate_every, settings.steps - done_steps)
        model.learn(chunk, reset_num_timesteps=False, callback=_callback(settings, relabeler))
        trained_s += time.perf_counter() - begin
        done_steps = model.num_timesteps
        scores[done_steps] = evaluate(settings, model)
        if run is not None and checkpoint is not None:
            run.log(done_steps, "return", scores[done_steps])
            progress = {
                "scores": scores,
                "seconds": time.perf_counter() - start,
                "trained_s": trained_s,
            }
            checkpoint.save(model, relabeler, progress)
    results = {
        "scores": scores,
        "seconds": time.perf_counter() - start,
        "steps_per_second": done_steps / trained_s,
        "correlation": _correlation(settings, relabeler),
        "zero_actions": evaluate(settings, None),
        "random_actions": evaluate(settings, "random"),
    }
    if run is not None and checkpoint is not None:
        run.write_summary(
            results, settings=asdict(settings), seed=settings.seed, device=settings.device
        )
        checkpoint.remove()
    return results


def _check_device(name: str) -> None:
    """Refuse a device that is not there; Stable-Baselines3 would take the CPU in its place."""
    import torch

    try:
        device = torch.device(name)
        known = device.type in ("cpu", "cuda")
        torch.empty(0, device=device if known else "cpu")
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device is {name!r}, which cannot be used here: {error}") from error
    if not known:
        raise ConfigError(f'device is {name!r}: give "cpu", "cuda" or "cuda:1"')


def build(settings: Settings) -> tuple[Any, Relabeler | None]:
    """Model and relabeler, the latter None for plain rewards."""
    try:
        import stable_baselines3 as sb3
    except ImportError as error:
        raise MissingExtraError(
            'training needs Stable-Baselines3: pip install "lare-rl[sb3]"'
        ) from error
    from gymnasium.spaces import Box
    from stable_baselines3.common.vec_env import DummyVecEnv

    from lare.integrations.stable_baselines3 import LatentRewardReplayBuffer, LatentRewardVecEnv

    env = make_env(settings)
    features = None
    if settings.method in METHODS and METHODS[settings.method].latent:
        features = latent_reward(settings)
    relabeler = create(
        settings.method,
        features,
        env.observation_space,
        env.action_space,
        **{"seed": settings.seed, "device": settings.device, **settings.options},
    )
    if settings.method != "dense":
        env = EpisodicReward(env)
    common = {
        "policy_kwargs": {"net_arch": [settings.width, settings.width]},
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "device": settings.device,
    }
    if settings.algorithm == "ppo":
        venv: Any = DummyVecEnv([lambda: env])
        if relabeler is not None:
            venv = LatentRewardVecEnv(venv, relabeler)
        return sb3.PPO("MlpPolicy", venv, **common), relabeler
    classes = {"td3": sb3.TD3, "sac": sb3.SAC, "ddpg": sb3.DDPG}
    if settings.algorithm not in classes:
        raise ConfigError(
            f"algorithm is {settings.algorithm!r}: choose from {', '.join([*classes, 'ppo'])}"
        )
    if not isinstance(env.action_space, Box):
        raise ConfigError(
            f"{settings.algorithm} acts in continuous spaces, {settings.task} has "
            f"{env.action_space}: take --algo ppo"
        )
    if settings.algorithm in ("td3", "ddpg"):
        from stable_baselines3.common.noise import NormalActionNoise

        size = env.action_space.shape[0]
        common["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
    if relabeler is not None:
        common["replay_buffer_class"] = LatentRewardReplayBuffer
        common["replay_buffer_kwargs"] = {"relabeler": relabeler}
    model = classes[settings.algorithm](
        "MlpPolicy",
        env,
        buffer_size=max(settings.steps, 1000),
        learning_starts=settings.warmup,
        train_freq=1,
        gradient_steps=1,
        **common,
    )
    return model, relabeler


def make_env(settings: Settings) -> Any:
    """The environment with its true reward."""
    import gymnasium

    try:
        return gymnasium.make(settings.task, max_episode_steps=settings.max_episode_steps)
    except (gymnasium.error.Error, ImportError) as error:
        raise TaskError(f"{settings.task!r} cannot be made here: {error}") from error


def latent_reward(settings: Settings) -> LatentReward:
    """The function of a run."""
    if settings.function is None:
        return LatentReward.shipped(settings.task, direct=settings.method == "direct")
    return LatentReward.from_path(settings.function)


def _callback(settings: Settings, relabeler: Relabeler | None) -> Any:
    if relabeler is None or settings.algorithm != "ppo":
        return None
    from lare.integrations.stable_baselines3 import TrainDecoder

    return TrainDecoder(relabeler, updates=settings.decoder_updates)


def _correlation(settings: Settings, relabeler: Relabeler | None) -> float:
    """Of the last rewards with the true ones, on random steps; NaN without a relabeler."""
    if relabeler is None:
        return float("nan")
    steps = collect(make_env(settings), 1000, seed=20_000)
    return correlation(relabeler.model_rewards(steps), steps.reward)


def evaluate(settings: Settings, model: Any) -> float:
    """Mean true return of the deterministic policy; None is zero actions, "random" random ones."""
    env = make_env(settings)
    env.action_space.seed(settings.seed)
    totals = []
    for episode in range(settings.evaluation_episodes):
        observation, _ = env.reset(seed=10_000 + episode)
        total, over = 0.0, False
        while not over:
            if model is None:
                action = np.zeros(env.action_space.shape, env.action_space.dtype)
            elif model == "random":
                action = env.action_space.sample()
            else:
                action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            over = terminated or truncated
        totals.append(total)
    env.close()
    return float(np.mean(totals))
