"""What key states add to a learner: labels, a memory, exploration and rewards."""

from __future__ import annotations

import functools
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemae._seeds import Purpose, number
from lemae._values import reading
from lemae.checks import CheckReport, check
from lemae.errors import ConfigError, KeyStateError, LemaeWarning, StateError
from lemae.explore import KsmtExplorer
from lemae.key_states import KeyState, KeyStateSet, shipped_for, shipped_key_states
from lemae.ksmt import make_memory
from lemae.labels import order
from lemae.probes import probes
from lemae.settings import Settings
from lemae.shir import Relabeled, ShirRelabeler
from lemae.stagnation import Stagnation

if TYPE_CHECKING:
    from lemae.algos.rollout import Episodes, VectorEnvLike
    from lemae.task import TaskSpec


class Guidance:
    """Key states at work in one run.

    Args:
        key_states: K of them.
        settings: of the run.
        task: whose ranges scale distances where the state holds real numbers; None scales nothing.

    Attributes:
        key_states: as given, and those that were added since.
        memory: in which orders they were met.
        first_steps: per key state, environment steps after the rollout that met it first.
        tree_before: the memory when exploration ended, before pruning, in JSON's types.
        stagnation: says when further key states are needed.
    """

    def __init__(
        self, key_states: KeyStateSet, settings: Settings, task: TaskSpec | None = None
    ) -> None:
        self.key_states = key_states
        choices = settings.choices
        self.memory = make_memory(choices.memory, len(key_states))
        self.first_steps: list[int | None] = [None] * len(key_states)
        self.tree_before: dict[str, Any] | None = None
        self.stagnation = Stagnation(len(key_states), settings.requery_after, settings.max_requery)
        self._begun = key_states
        self._settings = settings
        self._task = task
        self._relabeler = ShirRelabeler(
            key_states,
            alpha=choices.alpha,
            beta=choices.beta,
            hindsight=settings.shir,
            planning=settings.planning,
            subspace=settings.subspace,
            seed=number(Purpose.RELABELING, settings.seed),
            **{"scale": _scale(task), **settings.relabeling},
        )

    def explorer(self, seed: int) -> KsmtExplorer:
        """Who says how random each copy acts, for one rollout."""
        choices = self._settings.choices
        return KsmtExplorer(
            self.memory,
            self._settings.num_envs,
            eps_low=choices.eps_low,
            eps_high=choices.eps_high,
            rule=self._settings.rule,
            until=self._settings.explore_until,
            seed=seed,
        )

    def observe(self, episodes: Episodes, steps: int) -> None:
        """Take in new episodes; prune when exploration ends.

        Args:
            episodes: with their chains.
            steps: environment steps so far, these included.
        """
        for chain, success in zip(episodes.chains, episodes.success.tolist(), strict=True):
            new = self.memory.insert(order(chain), success=success, step=steps)
            self.stagnation.observe(order(chain), new=new, success=success)
            for _, k in chain:
                if self.first_steps[k] is None:
                    self.first_steps[k] = steps
        solved = self.memory.successes >= self._settings.explore_until
        if solved and self.tree_before is None:
            self.tree_before = json.loads(self.memory.to_json())
            self.memory.prune()
        if self._settings.shir or self._settings.planning:
            self._relabeler.observe(episodes.states, episodes.chains)

    def relabel(self, episodes: Episodes) -> Relabeled:
        """What episodes, new or replayed, pay by what is known now."""
        return self._relabeler.relabel(
            episodes.states,
            episodes.rewards,
            episodes.lengths,
            episodes.success,
            episodes.chains,
            self.memory,
        )

    def extend(self, key_states: KeyStateSet) -> None:
        """Take in further key states; what was learned of the others stays.

        Episodes that were played before keep the chains they have.

        Args:
            key_states: those there are, under their numbers, followed by the new ones.
        """
        count = len(key_states) - len(self.key_states)
        self.memory.add_key_states(count)
        self.key_states = key_states
        self.first_steps += [None] * count
        self._relabeler.add_key_states(key_states)

    def results(self) -> dict[str, Any]:
        """Which key states were met, and the memory before and after pruning."""
        met = zip(self.key_states.names, self.memory.met, self.first_steps, strict=True)
        return {
            "hits": {name: {"episodes": count, "first_step": step} for name, count, step in met},
            "tree_before": self.tree_before,
            "tree": json.loads(self.memory.to_json()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learned of the task."""
        return {
            "sha256": self._begun.sha256,
            "added": [asdict(one) for one in list(self.key_states)[len(self._begun) :]],
            "memory": self.memory.state_dict(),
            "first_steps": self.first_steps,
            "tree_before": self.tree_before,
            "relabeler": self._relabeler.state_dict(),
            "stagnation": self.stagnation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it was taken with other key states, or is not what that method returns;
                nothing is changed then.
        """
        begun = self._begun
        with reading("this guidance"):
            if state["sha256"] != begun.sha256:
                raise StateError(
                    f"the run was begun with the key states {state['sha256'][:12]}, these are "
                    f"{begun.sha256[:12]}: restore them, or begin the run anew"
                )
            added = [KeyState(**fields) for fields in state["added"]]
            known = KeyStateSet([*begun, *added], begun.d, meta=begun.meta) if added else begun
            read = Guidance(known, self._settings, self._task)
            read._begun = begun
            read.stagnation.load_state_dict(state["stagnation"])
            read.memory.load_state_dict(state["memory"])
            read.first_steps = [
                None if step is None else index(step) for step in state["first_steps"]
            ]
            if len(read.first_steps) != len(known):
                raise ConfigError(
                    f"it has {len(read.first_steps)} first_steps of {len(known)} key states"
                )
            read.tree_before = state["tree_before"]
            if read.tree_before is not None:
                type(read.memory).from_json(json.dumps(read.tree_before))
            read._relabeler.load_state_dict(state["relabeler"])
        vars(self).update(vars(read))


def _scale(task: TaskSpec | None) -> np.ndarray | None:
    """Weights ``[d]`` by which every number counts as a share of its range.

    The published weight of the intrinsic reward in battles is for SMAC, whose numbers are such
    shares. Whole numbers, as on grids, count as they are, as published.
    """
    if task is None or task.integers.all():
        return None
    widths = np.subtract(task.highs, task.lows, dtype=np.float64)
    scale = np.zeros(len(widths))
    np.divide(1.0, widths, out=scale, where=widths > 0)
    return scale


def shipped(settings: Settings, env: Any) -> KeyStateSet:
    """The key states that come with the package for what the agents of a run are told.

    Args:
        settings: of the run.
        env: of its task; one that does not describe it goes by the name.

    Raises:
        ConfigError: if there are none.
    """
    task = getattr(env, "task_spec", None)
    name = settings.task if task is None else shipped_for(task)
    if name is None:
        options = [f"{option}={value}" for option, value in settings.options.items()]
        given = f" with {', '.join(options)}" if options else ""
        command = " --option ".join([f"lemae generate --task {settings.task}", *options])
        command += " --model NAME --out FOLDER"
        raise ConfigError(
            f"no key states are shipped for {settings.task!r}{given}: there are the sets "
            f"{', '.join(shipped_key_states())}, each for one map, its rules and number of steps. "
            f"Have some made by `{command}`, or write them, and give the folder or file as "
            "key_states"
        )
    return KeyStateSet.shipped(name)


def load_key_states(settings: Settings, env: VectorEnvLike) -> KeyStateSet:
    """The key states of a run, reduced and distracted as its settings say.

    A file is checked first, function by function, and what is good is kept; a folder was checked
    when it was saved.

    Args:
        settings: of the run.
        env: to check on. It is reset.

    Raises:
        ConfigError: if none are given and none shipped, or there is no such file.
        IntegrityError: if a folder was changed.
        KeyStateError: if none can be used; the message lists every reason.

    Warns:
        LemaeWarning: if some functions of a file were rejected.
    """
    found = _found(settings, env)
    if found.d is not None and found.d != env.d:
        raise KeyStateError(
            f"the key states are for states of length {found.d}, those of {settings.task} have "
            f"length {env.d}: give key states of this task"
        )
    if settings.reduce:
        found = found.reduced(settings.reduce, settings.seed)
    if settings.distract:
        found = found.with_distractions(settings.distract, settings.seed)
    return found


def _found(settings: Settings, env: VectorEnvLike) -> KeyStateSet:
    if settings.key_states is None:
        return shipped(settings, env)
    path = Path(settings.key_states)
    if not path.exists():
        raise ConfigError(f"there is no file of key states {path}: give a .py file or a folder")
    if path.is_dir():
        return KeyStateSet.load(path)
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 ({error}): give Python source") from error
    report = _checked(source, pickle.dumps((getattr(env, "task_spec", None), probes(env))))
    if report.key_states is None:
        raise KeyStateError(f"no function of {path} can be used: {report}")
    if len(report.key_states) < len(report.functions):
        warnings.warn(
            f"some functions of {path} are left out: {report}", LemaeWarning, stacklevel=4
        )
    return report.key_states[:]  # each run counts failures of its own


@functools.lru_cache(maxsize=1)
def _checked(source: str, on: bytes) -> CheckReport:
    """One check for all runs of a process that read the same: each takes many child processes.

    The task and the states are given as bytes, which can be compared.
    """
    return check(source, *pickle.loads(on))
