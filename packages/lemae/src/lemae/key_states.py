"""Key states: Boolean functions of the state that recognise a milestone, and sets of them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemae._arrays import as_array
from lemae._codegen import UnsafeCodeError
from lemae._kit.files import write_text_atomic
from lemae._seeds import Purpose, generator
from lemae._values import whole
from lemae.discriminators.algebra import TruthSumError
from lemae.discriminators.forms import Evaluator, array_form, call, trials
from lemae.discriminators.graph import UnresolvedError
from lemae.discriminators.source import PREFIX, Candidate, capped, checked, join, split
from lemae.discriminators.subspace import Mode, coordinates, find_subspace
from lemae.discriminators.symbolic import IndexProblemError, execute
from lemae.discriminators.vectorize import ArrayFunction
from lemae.errors import ConfigError, IntegrityError, KeyStateError, ShapeError
from lemae.probes import probes
from lemae.task import TaskSpec

Array = NDArray[Any]

SOURCE_FILE, META_FILE = "key_states.py", "meta.json"
_FORMAT = 1
_SHIPPED = "key_state_sets"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyState:
    """A milestone and the function that recognises it.

    The source passes the allow-list here, and nothing of it runs before the first call. A call goes
    through the guarded namespace of :mod:`lemae._codegen`; :func:`lemae.check` is what runs unknown
    code in a process of its own first.

    Attributes:
        name: without ``is_``.
        description: in words.
        source: defines ``is_<name>(state)`` and what it calls.
        subspace: indices of the state that it is about, ascending; distances are measured there.
        declared: the indices that its author names, None if there are none.
        d: length of the state, None if it is not known.
        vectorize: whether to look for a form that takes many states at once.

    Raises:
        KeyStateError: if the source is not allowed, or the subspace is none of the state.
    """

    name: str
    description: str
    source: str = field(repr=False)
    subspace: tuple[int, ...]
    declared: tuple[int, ...] | None = None
    d: int | None = None
    vectorize: bool = True

    def __post_init__(self) -> None:
        try:
            checked(self.source, self.name)
        except UnsafeCodeError as error:
            raise KeyStateError(f"{PREFIX}{self.name}: {error}") from error
        given = self.subspace
        bad = _not_whole(given) or _outside(given, self.d)
        if bad or not given or list(given) != sorted(set(given)):
            there = "" if self.d is None else f" up to {self.d - 1}"
            raise KeyStateError(
                f"the subspace of {self.name!r} is {list(given)}: give different whole numbers, "
                f"indices of the state{there}, ascending, at least one"
            )

    def __call__(self, state: ArrayLike) -> bool:
        """Whether ``state``, numbers ``[d]``, is at the milestone.

        Raises:
            ShapeError: for another shape.
            KeyStateError: if the function fails on this state.
        """
        row = _as_states(state, self.d)
        if row.ndim != 1:
            raise ShapeError(f"the state has shape {row.shape}: give one state, or call batch()")
        try:
            return call(self.source, self.name, row.astype(np.float64))
        except Exception as error:  # whatever the generated code raises
            raise KeyStateError(
                f"{PREFIX}{self.name} fails on {row.tolist()} ({type(error).__name__}: {error})"
            ) from error

    def batch(self, states: ArrayLike) -> Array:
        """Evaluate states ``[..., d]`` to bool ``[...]``; see :meth:`KeyStateSet.evaluate`."""
        array = _as_states(states, self.d)
        found = _evaluator(self)(array.reshape(-1, array.shape[-1]))
        return found[:, 0].reshape(array.shape[:-1])

    @property
    def vectorized(self) -> bool:
        """Whether :meth:`batch` takes all states at once; a loop calls the function on each else.

        The first look at it compares both forms on states around the constants of the code.
        """
        return self._form[0] is not None

    @property
    def why_not_vectorized(self) -> str:
        """What keeps the function from taking all states at once; empty if nothing does."""
        return self._form[1]

    @property
    def _form(self) -> tuple[ArrayFunction | None, str]:
        if not self.vectorize:
            return None, "it was found to differ from the function on single states"
        return array_form(self.source, self.name, self.d)


class KeyStateSet(Sequence[KeyState]):
    """Key states of one task, numbered from 0.

    Args:
        key_states: at least one, with different names.
        d: length of the state, None if it is not known.
        meta: what is known of their making, in JSON's types; saved along with them.

    Raises:
        KeyStateError: if there is none, or names or helper functions clash.
    """

    def __init__(
        self,
        key_states: Iterable[KeyState],
        d: int | None = None,
        *,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self._key_states = tuple(replace(key_state, d=d) for key_state in key_states)
        self.d = d
        self.meta: dict[str, Any] = dict(meta or {})
        if not self._key_states:
            raise KeyStateError("there is no key state: give at least one")
        if len(set(self.names)) < len(self.names):
            raise KeyStateError(f"key states share a name: {list(self.names)}; rename them")
        declared = {k.name: k.declared for k in self._key_states if k.declared is not None}
        self.source = join((key_state.source for key_state in self._key_states), declared)
        self._least = 1 + max(index for key_state in self for index in key_state.subspace)
        self._evaluators: dict[tuple[int, ...] | None, Evaluator] = {}

    # --- where they come from -------------------------------------------------------------------

    @classmethod
    def from_source(
        cls,
        text: str,
        task: TaskSpec | int | None = None,
        *,
        subspace: Mode = "auto",
        prune_inert: bool = False,
        meta: Mapping[str, Any] | None = None,
    ) -> KeyStateSet:
        """Take a file of functions ``is_<name>(state)`` that somebody trusts.

        Every function has to be good; :func:`lemae.check` keeps the good ones of many, and is the
        way for code that nobody has seen. Nothing is executed here.

        Args:
            text: the file. Each function returns a truth value, or 0 or 1; its docstring is the
                description. A constant ``SUBSPACES = {"<name>": [0, 4]}`` may declare what they
                are about. What else stands in the file is left out, with a log line.
            task: the task, or the length of its state; None if the code does not need it.
            subspace: how to find the subspaces, see
                :func:`~lemae.discriminators.subspace.find_subspace`.
            prune_inert: leave out indices that are read without a way to the result.
            meta: saved along with the set.

        Raises:
            KeyStateError: with every reason, by function.
        """
        file = split(text)
        for message in file.ignored:
            _log.warning("%s", message)
        d = task.d if isinstance(task, TaskSpec) else task
        made, problems = [], []
        for candidate in file.candidates:
            found = problems_of(candidate, d)
            problems += [f"{PREFIX}{candidate.name}: {problem}" for problem in found]
            if not found:
                made.append(_made(candidate, task, d, subspace, prune_inert))
        if problems or not made:
            problems = problems or [f"it holds no function {PREFIX}<name>(state)"]
            raise KeyStateError("\n- ".join(["the file cannot be used:", *problems, *file.ignored]))
        return cls(made, d, meta=meta)

    @classmethod
    def from_path(
        cls, path: str | os.PathLike[str], task: TaskSpec | int | None = None, **options: Any
    ) -> KeyStateSet:
        """Read a saved folder, or a ``.py`` file as :meth:`from_source` does.

        Raises:
            FileNotFoundError: if there is no such file.
            IntegrityError: if a folder is damaged, or a file is no text.
            KeyStateError: if the code cannot be used.
            ShapeError: if a folder was saved for another length of the state.
        """
        path = Path(path)
        if path.is_dir():
            found = cls.load(path)
            found._check_task(task)
            return found
        try:
            return cls.from_source(path.read_text(encoding="utf-8"), task, **options)
        except UnicodeDecodeError as error:
            raise IntegrityError(f"{path} is no text in UTF-8 ({error})") from error

    @classmethod
    def shipped(cls, name: str) -> KeyStateSet:
        """Load key states that come with the package, by the name of their folder.

        :func:`shipped_for` finds the name by what is told of a task.

        Raises:
            ConfigError: if there is no such set.
        """
        if name not in shipped_key_states():
            raise ConfigError(
                f"no key states are shipped for {name!r}; there are sets for "
                f"{', '.join(shipped_key_states())}. Write some with `lemae generate` or by hand "
                "and KeyStateSet.from_source"
            )
        return cls.load(_shipped_folder() / name)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> KeyStateSet:
        """Read what :meth:`save` wrote.

        Raises:
            IntegrityError: if a file is missing or damaged, or differs from what was saved.
            KeyStateError: if the source is not allowed.
        """
        folder = Path(folder)
        try:
            raw = (folder / SOURCE_FILE).read_bytes()
            saved = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            wanted = saved.pop("sha256")
            found = _digest({**saved, "source": hashlib.sha256(raw).hexdigest()})
            if found != wanted:
                raise IntegrityError(
                    f"{folder} has SHA-256 {found}, {META_FILE} says {wanted}: it was changed "
                    "after it was saved. Take changed source through `lemae check`, and save the "
                    "result"
                )
            if saved["format"] != _FORMAT:
                raise IntegrityError(
                    f"{folder} has format {saved['format']!r}, this version reads {_FORMAT}: "
                    "update lemae, or save it again"
                )
            return _restored(raw.decode(), saved)
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{error.filename} is missing: saved key states are a folder with {SOURCE_FILE} "
                f"and {META_FILE}"
            ) from error
        except KeyStateError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(
                f"{folder / META_FILE} or {SOURCE_FILE} is damaged ({error}): save it again"
            ) from error

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``key_states.py`` and ``meta.json`` to a folder.

        The second holds a hash of both. An interrupted call leaves what :meth:`load` refuses, or
        what was there before.

        Args:
            folder: made where it is missing; key states saved there before are replaced.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        entries = [
            {
                "name": key_state.name,
                "subspace": list(key_state.subspace),
                "vectorize": key_state.vectorize,
            }
            for key_state in self
        ]
        content = {
            "format": _FORMAT,
            "d": self.d,
            "key_states": entries,
            "meta": self.meta,
            "source": hashlib.sha256(self.source.encode()).hexdigest(),
        }
        text = json.dumps({**content, "sha256": _digest(content)}, indent=2) + "\n"
        write_text_atomic(folder / SOURCE_FILE, self.source)
        write_text_atomic(folder / META_FILE, text)
        return folder

    # --- what they say --------------------------------------------------------------------------

    def evaluate(self, states: ArrayLike, which: Sequence[int] | None = None) -> Array:
        """Which key states hold in which states.

        Args:
            states: numbers ``[..., d]``, an array or a CPU tensor. They count as float64.
            which: numbers of the key states, None for all.

        Returns:
            bool ``[..., K]``, a new array. A function that fails on a state counts as false there,
            with one warning, and is counted in :attr:`n_failed`.

        Raises:
            ShapeError: if the states have another length.

        Cost: some microseconds, plus about one pass over N numbers for each comparison in the code
        (N states in all). A key state that is not :attr:`KeyState.vectorized` adds some ten
        microseconds for every state.
        """
        array = as_array(states)
        if array.ndim != 2 or array.shape[1] != self.d or array.dtype.kind != "f":
            array = _as_states(array, self.d, self._least)
        key = None if which is None else tuple(which)
        evaluator = self._evaluators.get(key)
        if evaluator is None:
            chosen = self._key_states if key is None else tuple(self[index] for index in key)
            evaluator = self._evaluators[key] = Evaluator(chosen)
        if array.ndim == 2:
            return evaluator(array)
        found = evaluator(array.reshape(-1, array.shape[-1]))
        return found.reshape(*array.shape[:-1], found.shape[1])

    @property
    def n_failed(self) -> int:
        """How often a function failed on a state in :meth:`evaluate`."""
        return sum(evaluator.n_failed for evaluator in self._evaluators.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names by number."""
        return tuple(key_state.name for key_state in self._key_states)

    @functools.cached_property
    def sha256(self) -> str:
        """Of everything that decides what the set says: code, order, subspaces, length."""
        entries = [[k.name, k.subspace, k.vectorize] for k in self._key_states]
        return _digest([self.source, self.d, entries])

    # --- other sets -----------------------------------------------------------------------------

    def subset(self, indices: Iterable[int]) -> KeyStateSet:
        """These key states, in this order.

        Raises:
            KeyStateError: if there is none, or one twice.
            IndexError: if one does not exist.
        """
        return KeyStateSet([self[index] for index in indices], self.d, meta=self.meta)

    def reduced(self, fraction: float, seed: int) -> KeyStateSet:
        """Leave out a random part of the key states, rounded to whole ones; one always stays.

        Raises:
            ConfigError: if ``fraction`` is not from 0 to 1.

        Reference: arXiv 2410.02511, robustness to reduction (25 % and 50 %).
        """
        if not 0 <= fraction <= 1:
            raise ConfigError(f"fraction is {fraction}: give a part, from 0 to 1")
        count = max(len(self) - _share(fraction, len(self)), 1)
        rng = generator(Purpose.KEY_STATES, seed)
        return self.subset(sorted(rng.choice(len(self), count, replace=False).tolist()))

    def with_distractions(self, fraction: float, seed: int) -> KeyStateSet:
        """Add key states ``state[i] == 0`` for random indices, as a part of the present number.

        Raises:
            ConfigError: if ``fraction`` is negative, the length of the state is not known, or the
                state has too few indices.

        Reference: arXiv 2410.02511, robustness to distraction (50 % and 100 %).
        """
        taken = set(self.names)
        free = [i for i in range(self.d or 0) if f"index_{i}_zero" not in taken]
        count = _share(fraction, len(self)) if fraction >= 0 else -1
        if not 0 <= count <= len(free):
            raise ConfigError(
                f"fraction is {fraction} of {len(self)} key states, which is {count} more: the "
                f"state has {len(free)} indices for them; give the task when the set is made, and "
                "a fraction from 0"
            )
        rng = generator(Purpose.KEY_STATES, seed)
        chosen = rng.choice(len(free), count, replace=False).tolist()
        added = [_distraction(free[place], self.d) for place in chosen]
        return KeyStateSet([*self, *added], self.d, meta=self.meta)

    def with_subspaces(self, subspaces: Mapping[str, Sequence[int]]) -> KeyStateSet:
        """Replace subspaces, by the name of the key state.

        Args:
            subspaces: indices of the state, in any order.

        Raises:
            KeyStateError: if a name or an index does not exist, or an index is no whole number.
        """
        strange = sorted(set(subspaces) - set(self.names))
        if strange:
            raise KeyStateError(f"no key state is named {strange}: choose from {list(self.names)}")
        return KeyStateSet(
            [
                replace(key_state, subspace=_ascending(key_state.name, subspaces[key_state.name]))
                if key_state.name in subspaces
                else key_state
                for key_state in self
            ],
            self.d,
            meta=self.meta,
        )

    # --- as a sequence --------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._key_states)

    @overload
    def __getitem__(self, index: int) -> KeyState: ...

    @overload
    def __getitem__(self, index: slice) -> KeyStateSet: ...

    def __getitem__(self, index: int | slice) -> KeyState | KeyStateSet:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        return self._key_states[operator.index(index)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyStateSet) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        parts = ", ".join(f"{k.name} {list(k.subspace)}" for k in self)
        return f"KeyStateSet({parts}; d {self.d}, sha256 {self.sha256[:12]})"

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: the source, not the compiled functions."""
        return _unpickled, (list(self._key_states), self.d, self.meta)

    def _check_task(self, task: TaskSpec | int | None) -> None:
        d = task.d if isinstance(task, TaskSpec) else task
        if None not in (d, self.d) and d != self.d:
            raise ShapeError(
                f"the key states were saved for states of {self.d} numbers, the task has {d}"
            )


def shipped_key_states() -> list[str]:
    """Names of the sets that come with the package."""
    return sorted(
        p.name for p in _shipped_folder().iterdir() if p.is_dir() and not p.name.startswith("_")
    )


def shipped_for(task: TaskSpec) -> str | None:
    """Name of the shipped set that was made for what is told of a task; None if there is none.

    What the task is called does not count, and what is told to nobody, such as the target of
    Secret-Room, is not in it. Another size, rule or number of steps is another task.
    """
    for name in shipped_key_states():
        meta = json.loads((_shipped_folder() / name / META_FILE).read_text(encoding="utf-8"))
        told = TaskSpec.from_json(json.dumps(meta["meta"]["task"]))
        if replace(told, name=task.name) == task:
            return name
    return None


def _shipped_folder() -> Path:
    return Path(str(resources.files("lemae") / _SHIPPED))


def problems_of(candidate: Candidate, d: int | None) -> list[str]:
    """Why a function cannot be a key state, as far as reading it tells.

    Args:
        candidate: the function.
        d: length of the state, None if it is not known.
    """
    problems = list(candidate.problems)
    bad = _outside(candidate.declared or (), d)
    if bad:
        there = "not negative" if d is None else f"0 to {d - 1}"
        problems.append(f"SUBSPACES declares the indices {bad}, but indices are {there}")
    if not candidate.source:
        return capped(problems)
    try:
        code = checked(candidate.padded, candidate.name)
    except UnsafeCodeError as error:
        return capped([*problems, *map(str, error.problems)])
    try:
        trace = execute(code.source, candidate.name, d)
    except (IndexProblemError, TruthSumError) as error:
        problems.append(str(error))
    except UnresolvedError:
        pass
    else:
        if isinstance(trace.root, bool) or not trace.influences:
            problems.append("its result does not depend on the state: it is constant")
    return capped(problems)


def _made(
    candidate: Candidate, task: TaskSpec | int | None, d: int | None, mode: Mode, prune_inert: bool
) -> KeyState:
    """The key state of a function without problems."""

    def states() -> Array:
        if isinstance(task, TaskSpec):
            return probes(task).states
        return trials(candidate.source, candidate.name, d or 0)

    found = find_subspace(
        candidate.source,
        candidate.name,
        d,
        declared=candidate.declared,
        states=None if d is None else states,
        mode=mode,
        prune_inert=prune_inert,
    )
    for message in found.warnings:
        _log.warning("%s%s: %s", PREFIX, candidate.name, message)
    if isinstance(task, TaskSpec) and not set(found.indices) & set(coordinates(task)):
        _log.warning("%s%s: %s", PREFIX, candidate.name, without_place(found.indices))
    return KeyState(
        candidate.name,
        candidate.description,
        candidate.source,
        found.indices,
        candidate.declared,
        d,
    )


def without_place(subspace: Sequence[int]) -> str:
    """What to say of a subspace that holds no place."""
    return (
        f"its subspace {list(subspace)} holds no coordinate: the distance to it shows no way "
        "there. Say in the code where the agents are, or add indices with with_subspaces()"
    )


def _restored(source: str, saved: Mapping[str, Any]) -> KeyStateSet:
    """The set of two files whose hash is right; any error means that they are forged."""
    d, meta = saved["d"], saved["meta"]
    if not (d is None or type(d) is int) or not isinstance(meta, dict):
        raise TypeError("d or meta has a strange type")
    candidates = {candidate.name: candidate for candidate in split(source).candidates}
    made = []
    for entry in saved["key_states"]:
        candidate = candidates[entry["name"]]
        subspace = tuple(operator.index(index) for index in entry["subspace"])
        made.append(
            KeyState(
                candidate.name,
                candidate.description,
                candidate.source,
                subspace,
                candidate.declared,
                d,
                bool(entry["vectorize"]),
            )
        )
    return KeyStateSet(made, d, meta=meta)


def _distraction(index: int, d: int | None) -> KeyState:
    name = f"index_{index}_zero"
    text = f"Distraction: index {index} of the state is 0."
    source = f'def is_{name}(state):\n    """{text}"""\n    return state[{index}] == 0\n'
    return KeyState(name, text, source, (index,), None, d)


def _unpickled(key_states: list[KeyState], d: int | None, meta: dict[str, Any]) -> KeyStateSet:
    return KeyStateSet(key_states, d, meta=meta)


def _share(fraction: float, count: int) -> int:
    return int(fraction * count + 0.5)


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _outside(indices: Iterable[int], d: int | None) -> list[int]:
    """Those that are no index of the state."""
    return [index for index in indices if index < 0 or (d is not None and index >= d)]


def _ascending(name: str, subspace: Iterable[int]) -> tuple[int, ...]:
    """Indices of any integer type, each once."""
    try:
        return tuple(sorted({whole("an index", index, lowest=0) for index in subspace}))
    except (TypeError, ConfigError) as error:
        raise KeyStateError(
            f"the subspace of {name!r} is {subspace!r} ({error}): give indices of the state"
        ) from error


def _not_whole(indices: Iterable[Any]) -> bool:
    """Whether one is no integer; a truth value is none."""
    return any(isinstance(one, bool) or not isinstance(one, Integral) for one in indices)


def _as_states(states: ArrayLike, d: int | None, least: int = 1) -> Array:
    """``states`` as an array of numbers ``[..., d]``."""
    array = as_array(states)
    length = array.shape[-1] if array.ndim else 0
    if (length != d) if d is not None else (length < least):
        wanted = f"at least {least}" if d is None else str(d)
        raise ShapeError(
            f"states have shape {array.shape}: the key states read states of {wanted} numbers, "
            "[..., d]"
        )
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"states have dtype {array.dtype}: give numbers")
    return array


@functools.lru_cache(maxsize=256)
def _evaluator(key_state: KeyState) -> Evaluator:
    return Evaluator([key_state])
