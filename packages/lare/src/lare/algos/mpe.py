"""Training runs on the particle tasks, each role with a policy and a reward model of its own."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lare import runs
from lare._kit import RunFolder
from lare.algos._checkpoint import Checkpoint, load_tensors, save_tensors
from lare.algos._seeds import Purpose, number, torch_generator
from lare.algos.credit import (
    IRCR,
    Credit,
    Decomposed,
    DecompositionSettings,
    Dense,
    Episodic,
)
from lare.algos.policy import Activation, ActorCritic
from lare.algos.ppo import PPO, PPOSettings
from lare.algos.rollout import Actor, Steps, play
from lare.decomposition import correlation
from lare.envs import MPETask, VectorizedMPE, get_task
from lare.errors import ConfigError
from lare.features import Features, RawFeatures
from lare.latent_reward import LatentReward
from lare.methods import MULTI_AGENT, PLAIN

POLICIES = "policies.pt"
_EVALUATION_SEED = 10_000  # the same episodes for every run, method and seed


@dataclass(frozen=True)
class MPESettings:
    """One run.

    Attributes:
        task: id of a particle task, or a task of your own.
        method: one of :func:`method_names`.
        steps: environment steps, rounded up to whole rollouts.
        seed: of everything but the evaluation.
        copies: of the task, played side by side. 82 episodes of 25 steps are the 2048 steps per
            rollout that are published.
        episodes: per copy and rollout.
        hidden: width of the two hidden layers of actor and critic.
        activation: of these.
        critic_sees_time: see :class:`ActorCritic`.
        evaluate_every: environment steps between evaluations, rounded up to whole rollouts; the
            last rollout is always followed by one.
        evaluation_episodes: with fixed starts and sampled actions, scored by the true return.
        function: of the methods that read a latent reward: path of a saved one or of a ``.py``
            file, by role where there are several; None takes the shipped one.
        ppo: hyper-parameters of the policies.
        decomposition: hyper-parameters of the reward models.

    Raises:
        ConfigError: if the task or the method is unknown, or a number is not positive.
    """

    task: str | MPETask
    method: str = "lare"
    steps: int = 2_050_000
    seed: int = 0
    copies: int = 82
    episodes: int = 1
    hidden: int = 64
    activation: Activation = "relu"
    critic_sees_time: bool = True
    evaluate_every: int = 20_500
    evaluation_episodes: int = 50
    function: str | dict[str, str] | None = None
    ppo: PPOSettings = field(default_factory=PPOSettings)
    decomposition: DecompositionSettings = field(default_factory=DecompositionSettings)

    def __post_init__(self) -> None:
        get_task(self.task)
        if self.method not in method_names():
            raise ConfigError(f"method is {self.method!r}: choose from {', '.join(method_names())}")
        for name in ("steps", "copies", "episodes", "evaluate_every", "evaluation_episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}: give 0 or more")

    @property
    def algorithm(self) -> str:
        """``"ppo"``, as in the settings of runs with one agent."""
        return "ppo"

    @property
    def rollout_steps(self) -> int:
        """Environment steps per rollout."""
        return self.copies * self.episodes * get_task(self.task).horizon

    @property
    def iterations(self) -> int:
        """Number of rollouts."""
        return math.ceil(self.steps / self.rollout_steps)


def method_names() -> list[str]:
    """All methods: reward models, IRCR, and the environment's own rewards."""
    return [*MULTI_AGENT, "ircr", *PLAIN]


def train(
    settings: MPESettings,
    out: str | Path | None = None,
    *,
    checkpoint_every: int = 50,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train once, and evaluate by the true return along the way.

    Args:
        settings: what to run.
        out: a folder for ``metrics.jsonl``, ``summary.json``, the policies, and a checkpoint until
            the run is finished. A finished run of the same settings is read back and not repeated;
            an interrupted one goes on from its checkpoint to the same results, bit for bit.
        checkpoint_every: iterations between checkpoints, 0 for none. One holds the stored episodes.
        tensorboard: write event files to ``out`` too.

    Returns:
        ``scores`` by step, ``seconds`` and ``steps_per_second`` (environment steps, without
        evaluation), ``correlation`` of the last rewards with the true ones of each agent (NaN for
        the environment's own), and the mean return of ``zero_actions`` (all stay) and
        ``random_actions``. ``roles`` has scores, correlation and both baselines by role; those
        beside it are of the first role. A return is the sum over the role's agents; a reward that
        they share counts once.

    Raises:
        ConfigError: if no latent reward is found, or ``out`` holds a run with other settings.
        StateError: if the latent reward of an interrupted run has changed.
    """
    if checkpoint_every < 0:
        raise ConfigError(f"checkpoint_every is {checkpoint_every}: give 0 or more")
    folder = None if out is None else Path(out)
    if folder is not None and (done := runs.finished(folder, _plain(settings))) is not None:
        return done
    run = _Run(settings)
    checkpoint = None if folder is None else Checkpoint(folder, _plain(settings))
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        run.load_state_dict(state)
    log = None if checkpoint is None else checkpoint.open_log(run.steps, tensorboard=tensorboard)
    while run.iteration < settings.iterations:
        run.iterate(log)
        if checkpoint is not None and checkpoint_every and run.iteration % checkpoint_every == 0:
            checkpoint.save(run.state_dict())
    results = run.results()
    if log is not None and checkpoint is not None:
        policies = {role: learner.policy.state_dict() for role, learner in run.learners.items()}
        save_tensors(policies, log.path / POLICIES)
        log.write_summary(results, settings=_plain(settings), seed=settings.seed)
        checkpoint.remove()
    return results


def evaluate(settings: MPESettings, actors: Mapping[str, Actor] | str) -> dict[str, float]:
    """Play the evaluation's episodes.

    Args:
        settings: of the run.
        actors: by role; or ``"stay"`` or ``"random"`` for everybody.

    Returns:
        Mean true return by role.
    """
    env = VectorizedMPE(settings.task, settings.evaluation_episodes)
    if isinstance(actors, str):
        actors = dict.fromkeys(env.roles, _Untrained(env.n_actions, stay=actors == "stay"))
    generator = torch_generator(Purpose.ACTIONS, _EVALUATION_SEED)
    played = play(env, actors, generator, seed=_EVALUATION_SEED)
    return {role: float(steps.returns.mean()) for role, steps in played.items()}


def load_policies(settings: MPESettings, out: str | Path) -> dict[str, ActorCritic]:
    """Read the policies of a finished run.

    Args:
        settings: of the run.
        out: its folder.

    Returns:
        One policy per role.

    Raises:
        ConfigError: if the folder holds no finished run of these settings.
    """
    folder = Path(out)
    if runs.finished(folder, _plain(settings)) is None:
        raise ConfigError(f"{folder} holds no finished run: train first")
    policies = _policies(settings)
    state = load_tensors(folder / POLICIES)
    for role, policy in policies.items():
        policy.load_state_dict(state[role])
    return policies


class _Untrained:
    """Stays where it is, or acts at random."""

    def __init__(self, n_actions: int, *, stay: bool) -> None:
        self.n_actions = n_actions
        self.stay = stay

    def act(self, observations: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape, high = observations.shape[:-1], 1 if self.stay else self.n_actions
        return torch.randint(high, shape, generator=generator), torch.zeros(shape)


class _Run:
    """Everything that changes while a run goes on."""

    def __init__(self, settings: MPESettings) -> None:
        self.settings = settings
        self.env = VectorizedMPE(settings.task, settings.copies)
        self.learners = {
            role: PPO(policy, settings.ppo) for role, policy in _policies(settings).items()
        }
        self.credits = {role: _credit(settings, self.env, role) for role in self.env.roles}
        self.iteration = 0
        self.trained_s = self.seconds = 0.0
        self.scores: dict[str, dict[int, float]] = {role: {} for role in self.env.roles}
        self.correlations = dict.fromkeys(self.env.roles, math.nan)

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.iteration * self.settings.rollout_steps

    def iterate(self, log: RunFolder | None) -> None:
        """Play, reward, learn; and evaluate if it is time."""
        settings, start = self.settings, time.perf_counter()
        key = (settings.seed, self.iteration)
        policies = {role: learner.policy for role, learner in self.learners.items()}
        played = play(
            self.env,
            policies,
            torch_generator(Purpose.ACTIONS, *key),
            seed=number(Purpose.START, *key),
            episodes=settings.episodes,
        )
        for index, (role, steps) in enumerate(played.items()):
            self._learn(index, role, steps)
        self.iteration += 1
        self.trained_s += time.perf_counter() - start
        if self._is_time_to_evaluate():
            self._evaluate(policies, log)
        self.seconds += time.perf_counter() - start

    def _learn(self, index: int, role: str, steps: Steps) -> None:
        credit = self.credits[role]
        rewards = credit.rewards(steps, self.iteration)
        if self.settings.method not in PLAIN:
            self.correlations[role] = correlation(
                rewards.numpy().ravel(), steps.true_rewards.numpy().ravel()
            )
        generator = torch_generator(Purpose.MINIBATCHES, self.settings.seed, self.iteration, index)
        left = 1 - self.iteration / self.settings.iterations
        self.learners[role].update(steps, rewards, generator, left=left)

    def _is_time_to_evaluate(self) -> bool:
        every = self.settings.evaluate_every
        before = self.steps - self.settings.rollout_steps
        last = self.iteration == self.settings.iterations
        return last or self.steps // every > before // every

    def _evaluate(self, policies: Mapping[str, Actor], log: RunFolder | None) -> None:
        for role, score in evaluate(self.settings, policies).items():
            self.scores[role][self.steps] = score
            if log is not None:
                log.log(self.steps, f"return/{role}", score)
                log.log(self.steps, f"correlation/{role}", self.correlations[role])

    def results(self) -> dict[str, Any]:
        """What :func:`train` returns."""
        stay, random = (evaluate(self.settings, name) for name in ("stay", "random"))
        roles = {
            role: {
                "scores": scores,
                "correlation": self.correlations[role],
                "zero_actions": stay[role],
                "random_actions": random[role],
            }
            for role, scores in self.scores.items()
        }
        return {
            **roles[next(iter(roles))],
            "seconds": self.seconds,
            "steps_per_second": self.steps / self.trained_s,
            "roles": roles,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything; random numbers depend on seed and iteration alone."""
        return {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "trained_s": self.trained_s,
            "scores": self.scores,
            "correlations": self.correlations,
            "learners": {role: learner.state_dict() for role, learner in self.learners.items()},
            "credits": {role: credit.state_dict() for role, credit in self.credits.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name in ("iteration", "seconds", "trained_s", "scores", "correlations"):
            setattr(self, name, state[name])
        for role in self.learners:
            self.learners[role].load_state_dict(state["learners"][role])
            self.credits[role].load_state_dict(state["credits"][role])


def _policies(settings: MPESettings) -> dict[str, ActorCritic]:
    task = get_task(settings.task)
    n_actions = VectorizedMPE(task, 1).n_actions
    return {
        role: ActorCritic(
            task.observation_size(role),
            n_actions,
            hidden=settings.hidden,
            activation=settings.activation,
            sees_time=settings.critic_sees_time,
            seed=number(Purpose.WEIGHTS, settings.seed, index, 1),
        )
        for index, role in enumerate(task.roles)
    }


def _credit(settings: MPESettings, env: VectorizedMPE, role: str) -> Credit:
    if settings.method == "dense":
        return Dense()
    if settings.method == "episodic":
        return Episodic()
    if settings.method == "ircr":
        return IRCR(settings.decomposition.buffer)
    latent = MULTI_AGENT[settings.method].latent
    features: Features = RawFeatures(("next_observation",))
    if latent:
        features = latent_reward(settings, role)
    agent_id = settings.decomposition.agent_id
    if agent_id is None:
        agent_id = env.task.agent_id
    agent_id = agent_id and latent and settings.method != "direct"
    episodes, agents = settings.copies * settings.episodes, len(env.roles[role])
    return Decomposed(
        settings.method,
        features,
        list(env.roles).index(role),
        (env.horizon, episodes, agents, env.observation_size),
        env.n_actions,
        settings.decomposition,
        agent_id=agent_id,
        seed=settings.seed,
    )


def latent_reward(settings: MPESettings, role: str) -> LatentReward:
    """The function that a role is rewarded by.

    Args:
        settings: of the run.
        role: of the task.

    Raises:
        ConfigError: if none is given and none shipped, or the roles do not fit the task's.
    """
    task, given = get_task(settings.task), settings.function
    if given is None:
        name = task.id if len(task.roles) == 1 else f"{task.id}-{role}"
        return LatentReward.shipped(name, direct=settings.method == "direct")
    if isinstance(given, str):
        given = dict.fromkeys(task.roles, given) if len(task.roles) == 1 else {}
    if set(given) != set(task.roles):
        raise ConfigError(
            f"function is {settings.function!r}: give one path for each role of {task.id} "
            f"({', '.join(task.roles)}), as a dict where there are several"
        )
    return LatentReward.from_path(given[role])


def _plain(settings: MPESettings) -> dict[str, Any]:
    """The settings in JSON's types, as a summary has them."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return plain
