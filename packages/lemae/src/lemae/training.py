"""Training runs: any task, any learner, with or without key states, and with the same aids."""

from __future__ import annotations

import hashlib
import importlib
import math
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch

from lemae import _foreign, baselines, runs
from lemae._kit import RunFolder
from lemae._seeds import Purpose, number
from lemae._values import alike, array, flag, reading, real, whole
from lemae.algos.evaluation import evaluate, validate
from lemae.algos.ippo import IPPO, IPPOSettings
from lemae.algos.qmix import QLearner, QSettings
from lemae.algos.rollout import Collector, Episodes, Explorer, FixedEpsilon, VectorEnvLike
from lemae.errors import ConfigError, KeyStateError, LemaeError, LemaeWarning, TaskError
from lemae.explore import RandomActions
from lemae.generation import requery
from lemae.guidance import Guidance, load_key_states, shipped
from lemae.key_states import KeyStateSet
from lemae.labels import Labeler
from lemae.settings import GUIDED_METHODS, OWN_METHODS, Settings, check_choice, check_fields

if TYPE_CHECKING:
    from lemae.language_models import LLM

__all__ = ["Settings", "build_learner", "load_policy", "make_env", "train"]

#: Training episodes that the running win rate is taken over.
WINDOW = 100
#: Rollouts in a row of which nothing is left before a run gives up.
_BROKEN_ROLLOUTS = 10

Learner: TypeAlias = "IPPO | QLearner | baselines.CMAE"


def train(
    settings: Settings,
    out: str | Path | None = None,
    *,
    llm: LLM | None = None,
    checkpoint_every_s: float | None = 60.0,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train once, and evaluate along the way.

    Results, by name:

    - ``first_success_step``: environment steps of all copies up to the first success in
      training, None without one.
    - ``win_rate_sampled``, ``win_rate_greedy``: of the last evaluation.
    - ``curve``: per evaluation ``step``, ``sampled``, ``greedy``, and ``training``, the win
      rate of the last 100 training episodes.
    - ``steps``, ``episodes``, ``successes`` in training; ``aborted``, episodes that broke off
      and were dropped.
    - ``seconds`` in all, and ``steps_per_second`` without evaluation; ``guidance_share``, the
      share of the latter time for labels, memory, rewards and explorer.
    - ``key_states``: their names; ``failure``: None, or why there are none and the base
      algorithm was trained instead.
    - ``requeries``: per question for further key states ``step``, ``episodes`` since the question
      before, ``hits`` among them by name, and the names that are ``new``.
    - ``hits``: with LEMAE, per key state ``episodes`` that met it, and ``first_step``.
    - ``inputs``: SHA-256 of the key states and of a baseline's file, by setting.
    - ``tree_before``, ``tree``: the memory when exploration ended, before pruning, and at the
      end; in the form of :meth:`lemae.ksmt.Memory.to_json`. None without any.
    - ``visits``, ``visits_before_success``: int64 ``[n, G, G]``, how often each agent was in
      each cell; on grid tasks only.
    - ``example_states``, ``example_rewards``, ``example_intrinsic``, ``example_goals``: the
      latest episode, if possible a successful one, and what it earned.

    Args:
        settings: what to run.
        out: a folder for ``metrics.jsonl``, ``summary.json``, ``arrays.npz``, the policy, and a
            checkpoint until the run is finished. A finished run of the same settings is read back
            and not repeated; an interrupted one goes on from its checkpoint to the same results,
            bit for bit.
        llm: a client, such as :class:`lemae.language_models.OpenAIChat`, for the setting
            ``requery_after``.
        checkpoint_every_s: seconds between checkpoints, which are written after a rollout; None for
            none but at an interrupt (Ctrl-C) in the main thread, which ends the run after its
            rollout. One holds the replay, if any.
        tensorboard: write event files to ``out`` too.

    Returns:
        What is listed above, by name.

    Raises:
        ConfigError: if a setting is unknown, ``out`` holds a run with other settings, or there is
            no model to be asked.
        LLMError: if the model's service failed; the run goes on from its checkpoint.
        IntegrityError: if the checkpoint or the log of an interrupted run is damaged.
        KeyStateError: without usable key states, if ``on_failure`` is ``"raise"``.
        LemaeError: if another process is writing to ``out``, or what is learned is not finite.
        MissingExtraError: without TensorBoard, if that was asked for.
        StateError: if key states or a baseline's file are not those of the run in ``out``, or its
            checkpoint is of another version or does not fit.
        TaskError: if the task is unknown, or all its episodes break off.

    Warns:
        LemaeWarning: if the base algorithm is trained for lack of key states.
    """
    if checkpoint_every_s is not None and not checkpoint_every_s >= 0:
        raise ConfigError(f"checkpoint_every_s is {checkpoint_every_s}: give 0 or more, or None")
    if out is None:
        run = _Run(settings, llm)
        while not run.is_finished():
            run.iterate(None)
        return {**run.results(), **run.arrays()}
    folder = Path(out)
    if (done := _read_back(settings, folder)) is not None:
        return done
    run = _Run(settings, llm)
    with runs.locked(folder):
        # Another process may have finished it in the meantime.
        if (done := _read_back(settings, folder)) is not None:
            return done
        checkpoint = runs.Checkpoint(folder, settings.as_dict(), run.inputs, checkpoint_every_s)
        if (state := checkpoint.load()) is not None:
            with runs.read_from(checkpoint.path):
                run.load_state_dict(state)
        log = checkpoint.open_log(run.steps, tensorboard=tensorboard)
        with runs.interrupts_noted() as interrupted:
            while not run.is_finished():
                asked = len(run.requeries)
                run.iterate(log)
                # What was paid for is kept at once.
                if checkpoint.is_due() or len(run.requeries) > asked or interrupted():
                    checkpoint.save(run.state_dict())
                if interrupted():
                    raise KeyboardInterrupt
        results, arrays = run.results(), run.arrays()
        runs.save_tensors(_policy(run.learner).state_dict(), folder / runs.POLICY)
        runs.write_arrays(folder, arrays)
        log.write_summary(
            results, settings=settings.as_dict(), seed=settings.seed, device=settings.device
        )
        checkpoint.remove()
        if interrupted():  # too late to matter to this run, but not to those that would follow
            raise KeyboardInterrupt
        return {**results, **arrays}


def _read_back(settings: Settings, folder: Path) -> dict[str, Any] | None:
    """Results of a run that is finished, and was of what files hold now; None if there is none."""
    done = runs.finished(folder, settings.as_dict())
    if done is not None:
        runs.check_inputs(folder, done.get("inputs", {}), inputs(settings))
    return done


def make_env(settings: Settings, num_envs: int) -> Any:
    """Copies of a run's task.

    Args:
        settings: of the run.
        num_envs: how many.

    Returns:
        The environment; that of another module checked, and its errors told as its own.

    Raises:
        ConfigError: if there are options that it does not take.
        MissingExtraError: if it needs an extra.
        TaskError: if the task is unknown, or what is in another module does not make it.
    """
    task, options = settings.task, settings.options
    if ":" in task:
        module, _, function = task.partition(":")
        try:
            made = getattr(importlib.import_module(module), function)
        except (Exception, SystemExit) as error:
            raise TaskError(
                f"task is {task!r}, which cannot be imported ({type(error).__name__}: {error}): "
                "give package.module:function of a module on Python's path"
            ) from error
        return _foreign.ForeignEnv(task, made, num_envs, options)
    with _taking(f"num_envs is {num_envs} and options", options, task):
        if task.startswith("smax-"):
            smax = importlib.import_module("lemae.integrations.smax")
            sparse = settings.method != "dense"
            return smax.make(task.removeprefix("smax-"), num_envs, **{"sparse": sparse, **options})
        from lemae import envs

        return envs.make(task, num_envs, **options)


@contextmanager
def _taking(what: str, given: Mapping[str, Any], taker: str) -> Iterator[None]:
    """Raise ConfigError where options of a wrong name, type or size raise anything else."""
    try:
        yield
    except LemaeError:
        raise
    except (TypeError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{what} is {dict(given)}, which {taker} does not take ({reason})"
        ) from error


def inputs(settings: Settings) -> dict[str, str]:
    """SHA-256 of what a run reads from files, by setting.

    Args:
        settings: of the run, which name files but do not tell what is in them.

    Raises:
        ConfigError: if a file is missing, or no key states are shipped for the task.
    """
    found = {}
    if settings.method in GUIDED_METHODS:
        given = settings.key_states
        found["key_states"] = (
            shipped(settings, make_env(settings, 1)).sha256
            if given is None
            else _digest("key_states", Path(given))
        )
    if "path" in settings.baseline:
        with _taking("baseline", settings.baseline, settings.method):
            path = Path(settings.baseline["path"])
        found["baseline.path"] = _digest("baseline.path", path)
    return found


def _digest(setting: str, path: Path) -> str:
    """SHA-256 of a file, or of the code and the description in a saved folder."""
    files = sorted([*path.glob("*.py"), *path.glob("*.json")]) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        try:
            digest.update(file.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{setting} is {str(path)!r}, which cannot be read ({error}): restore it, or give "
                "another"
            ) from error
    return digest.hexdigest()


def build_learner(settings: Settings, env: VectorEnvLike) -> Learner:
    """The untrained learner of a run.

    Args:
        settings: of the run.
        env: its environment, which is reset.

    Raises:
        ConfigError: if the learner has no such option, or does not suit the environment.
    """
    seed, device, n_values = settings.seed, settings.device, getattr(env, "n_values", None)
    n_observed = None
    if hasattr(env, "observations"):
        state, _ = env.reset(seed=0)
        n_observed = int(env.observations(state).shape[-1])
    _check_device(device)
    kinds = {"ippo": IPPOSettings, "cmae": baselines.CMAESettings}
    kind = kinds.get(settings.algo, QSettings)
    check_fields(settings.learner, kind, f"an option of {settings.algo}")
    with _taking("learner", settings.learner, settings.algo):
        if settings.algo == "ippo":
            return IPPO(
                env.n_agents,
                env.n_actions,
                n_observed or env.d,
                n_values=None if n_observed else n_values,
                settings=IPPOSettings(
                    random_actions=settings.random_actions,
                    self_imitation=settings.self_imitation,
                    **settings.learner,
                ),
                seed=seed,
                device=device,
            )
        if settings.algo == "cmae":
            if n_values is None:
                raise ConfigError(
                    f"algo is 'cmae', which needs states of whole numbers, and {settings.task} "
                    "does not say n_values: take another learner"
                )
            tables = baselines.CMAESettings(**settings.learner)
            sizes = (env.n_agents, env.n_actions, n_values, env.episode_limit)
            return baselines.CMAE(*sizes, settings=tables, seed=seed)
        options = settings.learner
        if settings.choices.explore != "off":  # an explorer brings random actions of its own
            options = {"epsilon_start": 0.0, "epsilon_finish": 0.0, **options}
        return QLearner(
            env.n_agents,
            env.n_actions,
            env.d,
            env.episode_limit,
            n_values=n_values,
            n_observed=n_observed,
            settings=QSettings(settings.algo, **options),
            seed=seed,
            device=device,
        )


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device is {device!r}, which cannot be used ({reason}): `lemae info` lists the devices"
        ) from error


def load_policy(settings: Settings, out: str | Path) -> Learner:
    """Read the trained policy of a finished run.

    Args:
        settings: of the run.
        out: its folder.

    Returns:
        The learner, to act with.

    Raises:
        ConfigError: if the folder holds no finished run of these settings.
        IntegrityError: if the file is damaged.
        StateError: if it does not fit what these settings make now.
    """
    folder = Path(out)
    if runs.finished(folder, settings.as_dict()) is None:
        raise ConfigError(f"{folder} holds no finished run: train first")
    learner = build_learner(settings, make_env(settings, 1))
    policy, saved = _policy(learner), runs.load_tensors(folder / runs.POLICY)
    with runs.read_from(folder / runs.POLICY), reading(f"this policy of {settings.algo}"):
        if isinstance(policy, torch.nn.Module):
            alike("the policy", saved, policy.state_dict())
        policy.load_state_dict(saved)
    return learner


def _policy(learner: Learner) -> Any:
    """What of a learner acts: networks, or tables."""
    if isinstance(learner, IPPO):
        return learner.actor
    return learner.networks if isinstance(learner, QLearner) else learner


class _Run:
    """Everything that changes while a run goes on."""

    def __init__(self, settings: Settings, llm: LLM | None = None) -> None:
        check_choice("method", settings.method, (*OWN_METHODS, *baselines.names()))
        self.llm = llm
        self.env = make_env(settings, settings.num_envs)
        if settings.requery_after is not None:
            self._check_question(settings.requery_after)
        self.key_states, self.failure = self._load_key_states(settings)
        self.inputs = inputs(settings)
        if self.failure is not None:
            settings = settings.without_key_states()
        self.settings = settings
        self.learner = build_learner(settings, self.env)
        self.guidance = self.baseline = self.count_bonus = None
        if settings.method == "lemae" and self.key_states is not None:
            with _taking("relabeling", settings.relabeling, "ShirRelabeler"):
                self.guidance = Guidance(
                    self.key_states, settings, getattr(self.env, "task_spec", None)
                )
        seed = number(Purpose.BASELINE, settings.seed)
        if settings.method not in OWN_METHODS:
            options = settings.baseline
            if settings.method == "her":
                options = {"beta": settings.choices.beta, **options}
            with _taking("baseline", options, settings.method):
                self.baseline = baselines.create(
                    settings.method, self.env, self.key_states, seed=seed, **options
                )
        if settings.count_bonus:
            self.count_bonus = baselines.create(
                "count", self.env, seed=seed, scale=settings.count_bonus, until_success=True
            )
        self.collector = Collector(self.env, self._labeler())
        self.visits = _Visits(self.env)
        self.counts = dict.fromkeys(
            ("rollouts", "steps", "episodes", "successes", "broken_rollouts"), 0
        )
        self.times = dict.fromkeys(("seconds", "trained_s", "guided_s"), 0.0)
        self.first_success_step: int | None = None
        self.wins: deque[bool] = deque(maxlen=WINDOW)
        self.mastered = False
        self.curve: list[dict[str, Any]] = []
        self.requeries: list[dict[str, Any]] = []
        self.example: Episodes | None = None
        self._evaluation_env: Any = None

    def _load_key_states(self, settings: Settings) -> tuple[KeyStateSet | None, str | None]:
        """Those of the run, if it needs any; or why it has to do without."""
        if settings.method not in GUIDED_METHODS:
            return None, None
        try:
            return load_key_states(settings, self.env), None
        except KeyStateError as error:
            if settings.on_failure == "raise":
                raise
            warnings.warn(
                f"the base algorithm is trained, without key states: {error}",
                LemaeWarning,
                stacklevel=4,
            )
            return None, str(error)

    def _check_question(self, after: int) -> None:
        if self.llm is None:
            raise ConfigError(
                f"requery_after is {after}, and there is no model to be asked: give train() one as "
                "llm=, `lemae train` its name as --model, or leave it out"
            )
        if getattr(self.env, "task_spec", None) is None:
            raise TaskError(
                f"requery_after is {after}, and the environment has no task_spec to be told to a "
                "model: give it one, or leave it out"
            )

    def _labeler(self) -> Labeler | None:
        if self.key_states is None:
            return None
        return Labeler(self.key_states, self.settings.num_envs)

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.counts["steps"]

    @property
    def rollouts(self) -> int:
        """Rollouts so far."""
        return self.counts["rollouts"]

    @property
    def win_rate(self) -> float:
        """Of the last training episodes; 0 before the first."""
        return sum(self.wins) / len(self.wins) if self.wins else 0.0

    def is_finished(self) -> bool:
        """Whether the steps are used up, or the team wins often enough."""
        return self.mastered or self.steps >= self.settings.steps

    def _is_mastered(self) -> bool:
        """Whether training episodes were won often enough, and others by the policy as it is now.

        The best of many windows flatters: of the policies that won 100 times in a row in training,
        some win 90 of the next 100.
        """
        stop_at = self.settings.stop_at
        if stop_at is None or len(self.wins) < WINDOW or self.win_rate < stop_at:
            return False
        return validate(self._evaluation(), self.learner, WINDOW) >= stop_at

    # --- one rollout -----------------------------------------------------------------------------

    def iterate(self, log: RunFolder | None) -> None:
        """Play, reward, learn; and evaluate if it is time."""
        start, before = time.perf_counter(), self.steps
        key = (self.settings.seed, self.rollouts)
        episodes = self.collector.collect(
            self.learner,
            seed=number(Purpose.START, *key),
            explorer=self._explorer(number(Purpose.EPSILON, *key)),
            mixer=RandomActions(
                self.settings.num_envs,
                self.env.n_agents,
                self.env.n_actions,
                sticky=self.settings.sticky,
                seed=number(Purpose.RANDOM_ACTIONS, *key),
            ),
        )
        self.counts["rollouts"] += 1
        losses = self._learn(episodes) if self._count(episodes) else {}
        self._check_learned(losses)
        self.times["trained_s"] += time.perf_counter() - start
        self.mastered = self._is_mastered()
        if log is not None and len(episodes):
            self._log(log, episodes, losses)
        if self.guidance is not None and self.guidance.stagnation.is_due:
            self._requery(self.guidance, log)
        if self.is_finished() or self._is_time_to_evaluate(before):
            self._evaluate(log)
        self.times["seconds"] += time.perf_counter() - start

    def _explorer(self, seed: int) -> Explorer:
        choices, copies = self.settings.choices, self.settings.num_envs
        if choices.explore == "ksmt" and self.guidance is not None:
            return self.guidance.explorer(seed)
        if choices.explore == "off":
            return FixedEpsilon(copies, 0.0)
        missing = self.settings.explore_until - self.counts["successes"]
        now = choices.eps_high if missing > 0 else choices.eps_low
        return FixedEpsilon(copies, now, after_success=choices.eps_low if missing <= 1 else None)

    def _count(self, episodes: Episodes) -> bool:
        """Keep count of new episodes; whether there are any."""
        if not len(episodes):
            self.counts["broken_rollouts"] += 1
            if self.counts["broken_rollouts"] == _BROKEN_ROLLOUTS:
                raise TaskError(
                    f"every episode of {_BROKEN_ROLLOUTS} rollouts in a row was aborted: look "
                    "after the environment"
                )
            return False
        self.counts["broken_rollouts"] = 0
        if self.first_success_step is None and (needed := episodes.steps_to_success()) is not None:
            self.first_success_step = self.steps + needed
        self.counts["steps"] += episodes.steps
        self.counts["episodes"] += len(episodes)
        self.counts["successes"] += int(episodes.success.sum())
        self.wins.extend(episodes.success.tolist())
        self.visits.add(episodes, before_success=self.first_success_step is None)
        return True

    def _learn(self, episodes: Episodes) -> dict[str, float]:
        if self.guidance is not None:
            begin = time.perf_counter()
            self.guidance.observe(episodes, self.steps)
            self.times["guided_s"] += time.perf_counter() - begin
        for bonus in (self.baseline, self.count_bonus):
            if bonus is not None:
                bonus.observe(episodes)
        if episodes.success.any() or not self.counts["successes"]:
            self.example = episodes.select(np.array([episodes.success.argmax()]))
        if isinstance(self.learner, QLearner):
            self.learner.observe(episodes)
            return self.learner.update(self._rewards)
        return self.learner.update(episodes, self._rewards(episodes))

    def _check_learned(self, losses: Mapping[str, float]) -> None:
        """End the run before numbers that are not finite are saved, or played with."""
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        policy = _policy(self.learner)
        if isinstance(policy, torch.nn.Module) and not all(
            bool(weight.isfinite().all()) for weight in policy.parameters()
        ):
            broken.append("weights of the policy")
        if broken:
            raise LemaeError(
                f"after {self.steps} steps of {self.settings.task} these are not finite: "
                f"{', '.join(broken)}. Look for huge rewards, states or weights of them, or give a "
                "smaller learning_rate"
            )

    def _requery(self, guidance: Guidance, log: RunFolder | None) -> None:
        """Have further key states named by what the old ones have met."""
        watch, known = guidance.stagnation, guidance.key_states
        made = requery(
            self.env.task_spec,
            cast("LLM", self.llm),
            self.env,
            known,
            watch.hits,
            watch.total,
            seed=self.settings.seed,
            out=None if log is None else log.path / f"requery-{watch.queries + 1}",
        )
        self.requeries.append(
            {
                "step": self.steps,
                "episodes": watch.total,
                "hits": dict(zip(known.names, watch.hits.tolist(), strict=True)),
                "new": list(made.names[len(known) :]),
            }
        )
        guidance.extend(made)
        watch.asked(len(made))
        self._take_key_states(made)

    def _take_key_states(self, key_states: KeyStateSet) -> None:
        self.key_states = key_states
        self.collector.labeler = self._labeler()

    def _rewards(self, episodes: Episodes) -> np.ndarray:
        """What episodes, new or replayed, pay by what is known now; float64 ``[T, B]``."""
        if self.guidance is not None:
            begin = time.perf_counter()
            rewards = self.guidance.relabel(episodes).rewards
            self.times["guided_s"] += time.perf_counter() - begin
        else:
            rewards = self.settings.choices.alpha * episodes.rewards
        for bonus in (self.baseline, self.count_bonus):
            if bonus is not None:
                rewards = rewards + bonus.bonus(episodes)
        return rewards

    # --- looking at it ---------------------------------------------------------------------------

    def _log(self, log: RunFolder, episodes: Episodes, losses: Mapping[str, float]) -> None:
        log.log(self.steps, "win_rate/training", self.win_rate)
        log.log(self.steps, "random_actions", episodes.random[episodes.valid].mean())
        for name, value in losses.items():
            log.log(self.steps, f"learner/{name}", value)
        if self.key_states is not None:
            for k, name in enumerate(self.key_states.names):
                met = sum(any(firing[1] == k for firing in chain) for chain in episodes.chains)
                log.log(self.steps, f"key_states/{name}", met / len(episodes))

    def _is_time_to_evaluate(self, before: int) -> bool:
        every = self.settings.evaluate_every
        return self.steps // every > before // every

    def _evaluate(self, log: RunFolder | None) -> None:
        rates = evaluate(self._evaluation(), self.learner, self.settings.evaluation_episodes)
        self.curve.append({"step": self.steps, **rates._asdict(), "training": self.win_rate})
        if log is not None:
            for name, value in rates._asdict().items():
                log.log(self.steps, f"win_rate/{name}", value)

    def _evaluation(self) -> Any:
        if self._evaluation_env is None:
            copies = self.settings.evaluation_episodes
            if ":" in self.settings.task:  # a copy of which may be a whole game in its own process
                copies = min(copies, self.settings.num_envs)
            self._evaluation_env = make_env(self.settings, copies)
        return self._evaluation_env

    def results(self) -> dict[str, Any]:
        """What :func:`train` returns, but for the arrays."""
        guided_s = self.times["guided_s"] + self.collector.labeling_s
        trained_s = self.times["trained_s"]
        nothing: dict[str, Any] = {"hits": {}, "tree_before": None, "tree": None}
        return {
            "first_success_step": self.first_success_step,
            "win_rate_sampled": self.curve[-1]["sampled"],
            "win_rate_greedy": self.curve[-1]["greedy"],
            "steps": self.steps,
            "episodes": self.counts["episodes"],
            "successes": self.counts["successes"],
            "aborted": self.collector.aborted,
            "seconds": self.times["seconds"],
            "steps_per_second": self.steps / trained_s,
            "guidance_share": guided_s / trained_s,
            "key_states": [] if self.key_states is None else list(self.key_states.names),
            "failure": self.failure,
            "inputs": self.inputs,
            "curve": self.curve,
            "requeries": self.requeries,
            **(nothing if self.guidance is None else self.guidance.results()),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What :func:`train` returns as arrays."""
        found = dict(self.visits.state_dict())
        if self.example is None:
            return found
        found["example_states"] = self.example.states[:, 0]
        found["example_rewards"] = self.example.rewards[:, 0]
        if self.guidance is not None:
            relabeled = self.guidance.relabel(self.example)
            found["example_intrinsic"] = relabeled.intrinsic[:, 0]
            found["example_goals"] = relabeled.goals[:, 0]
        return found

    # --- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything; random numbers depend on the seed and the number of rollouts alone."""
        parts = self._parts()
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "wins": list(self.wins),
            "example": None if self.example is None else vars(self.example),
            "collector": [self.collector.labeling_s, self.collector.aborted],
            "parts": {name: part.state_dict() for name, part in parts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it is of another run, or none; this one is then of no use any more.
        """
        with reading("this run"):
            for name in ("counts", "times", "mastered", "curve", "requeries"):
                alike(name, state[name], getattr(self, name))
            if state["first_success_step"] is not None:
                whole("first_success_step", state["first_success_step"])
            for point in state["curve"]:
                alike("a point of the curve", point, _POINT)
            for question in state["requeries"]:
                alike("a requery", {**question, "hits": {}}, _QUESTION)
            alike("wins", state["wins"], [])
            for name in _PLAIN:
                setattr(self, name, state[name])
            self.wins.extend(flag("wins", won) for won in state["wins"])
            if (example := state["example"]) is not None:
                sizes = (self.env.n_agents, self.env.n_actions)
                self.example = Episodes(**example).checked(*sizes)
            labeling_s, aborted = state["collector"]
            self.collector.labeling_s = real("labeling_s", labeling_s)
            self.collector.aborted = whole("aborted", aborted, lowest=0)
            parts = self._parts()
            if parts.keys() != state["parts"].keys():
                raise ConfigError(f"it has the parts {list(state['parts'])}, not {list(parts)}")
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
        if self.guidance is not None:
            self._take_key_states(self.guidance.key_states)

    def _parts(self) -> dict[str, Any]:
        names = ("learner", "guidance", "baseline", "count_bonus", "visits")
        return {name: part for name in names if (part := getattr(self, name)) is not None}


_PLAIN = ("counts", "times", "first_success_step", "mastered", "curve", "requeries")
_POINT = {"step": 0, "sampled": 0.0, "greedy": 0.0, "training": 0.0}
_QUESTION: dict[str, Any] = {"step": 0, "episodes": 0, "hits": {}, "new": []}


class _Visits:
    """How often each agent was in each cell; nothing where there are no cells."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._counts: dict[str, np.ndarray] = {}
        if hasattr(env, "grid_map"):
            shape = (env.n_agents, env.grid_map.size, env.grid_map.size)
            for name in ("visits", "visits_before_success"):
                self._counts[name] = np.zeros(shape, np.int64)

    def add(self, episodes: Episodes, *, before_success: bool) -> None:
        """Count the states after each step."""
        if not self._counts:
            return
        from lemae.envs import count_visits

        states = episodes.states[1:][episodes.valid]
        for agent in range(self._env.n_agents):
            counts = count_visits(self._env, states, agent=agent)
            self._counts["visits"][agent] += counts
            if before_success:
                self._counts["visits_before_success"][agent] += counts

    def state_dict(self) -> dict[str, np.ndarray]:
        """The counts by name."""
        return self._counts

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take them up.

        Raises:
            StateError: if they are of other agents or cells, or none; nothing is changed then.
        """
        with reading("these visits"):
            alike("visits", state, self._counts)
            counts = {
                name: array(name, state[name], own.shape, own.dtype, 0)
                for name, own in self._counts.items()
            }
        self._counts = counts
