"""A function from one step to a few interpretable factors, written once and then fixed."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lare._codegen import CheckedCode, Policy, check, load_function
from lare._kit.files import write_text_atomic
from lare.errors import ArtefactError, ConfigError, LareWarning, ShapeError

ENTRY = "evaluation_func"
#: What a function may take, by the number of its arguments.
SIGNATURES = (
    ("observation",),
    ("observation", "action"),
    ("observation", "action", "next_observation"),
)
POLICY = Policy(entry=ENTRY, signatures=SIGNATURES)
#: Rows per call; verification tries as many.
LARGEST_BATCH = 16_384
SOURCE_FILE, META_FILE = "latent_reward.py", "meta.json"
_FUNCTIONS = "functions"


class LatentReward:
    """The factors phi(s, a, s') of a step, computed by checked source code.

    The source passes the allow-list before anything of it runs, here as well as in the child
    process of :func:`lare.verify`. It is compiled once. Inputs are handed over read-only; a factor
    that is not finite becomes 0, with one warning, and is counted in :attr:`n_repaired`.

    Args:
        source: Python source that defines ``evaluation_func(observation, action)`` or
            ``(observation, action, next_observation)``, each ``[batch, size]``, and returns a list
            of arrays ``[batch, 1]``. A function of ``observation`` alone, as published for several
            agents, gets the observation after the step.
        keep: which of the returned factors are used, None for all. Duplicates are left out so.
        meta: what is known of its making; saved along with it.

    Attributes:
        source: as given, without a byte order mark.
        sha256: of the source's bytes.
        meta: as given.

    Raises:
        UnsafeCodeError: if the source is not allowed; the message lists every problem.

    Reference: arXiv 2412.11120, latent reward.
    """

    def __init__(
        self,
        source: str,
        *,
        keep: Sequence[int] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(source, str):
            raise ConfigError(
                f"source is {source!r}: give the text of a function evaluation_func, which is "
                "checked before it runs; of a file take LatentReward.from_source(path)"
            )
        if source.endswith(".py") and "\n" not in source:
            raise ConfigError(
                f"source is {source!r}, which looks like a path: LatentReward.from_source(path) "
                "reads it"
            )
        self.source = source = source.removeprefix("\ufeff")  # the mark that some editors put there
        self._code = check(source, POLICY)
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        self.keep = None if keep is None else tuple(keep)
        self.meta: dict[str, Any] = dict(meta or {})
        self.n_repaired = 0
        self._function = load_function(self._code, POLICY)
        self._names = returned_names(self._code.source)

    @classmethod
    def from_source(cls, source: str | os.PathLike[str], **options: Any) -> LatentReward:
        """Take source text, or the path of a ``.py`` file.

        Raises:
            FileNotFoundError: if a path does not exist.
            UnsafeCodeError: if the source is not allowed.
        """
        if isinstance(source, os.PathLike) or (source.endswith(".py") and "\n" not in source):
            try:
                source = Path(source).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ArtefactError(f"{source} is no text in UTF-8 ({error})") from error
        return cls(source, **options)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> LatentReward:
        """Read a saved folder, or a ``.py`` file; errors are those of :meth:`load` and the like."""
        path = Path(path)
        return cls.load(path) if path.is_dir() else cls.from_source(path)

    @classmethod
    def shipped(cls, name: str, *, direct: bool = False) -> LatentReward:
        """Load the function that comes with the package for a task.

        Args:
            name: of the task.
            direct: the one that returns the reward itself, for the ablation without a decoder.

        Raises:
            ConfigError: if there is none for that task.
        """
        found = shipped_functions(direct=direct)
        if name not in found:
            what = "directly generated reward" if direct else "latent reward"
            option = " --direct" if direct else ""
            raise ConfigError(
                f"no {what} is shipped for {name!r}; there is one for {', '.join(found)}. Write "
                f"one with `lare generate{option}` and pass it with --function or function=, or "
                "write it by hand and take LatentReward.from_source"
            )
        return cls.load(_functions(direct) / name)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> LatentReward:
        """Read a saved function.

        Args:
            folder: holds ``latent_reward.py`` and ``meta.json``.

        Raises:
            ArtefactError: if a file is missing or damaged, or the source is not the one saved.
            UnsafeCodeError: if the source is not allowed.
        """
        folder = Path(folder)
        if folder.is_file():
            raise ArtefactError(
                f"{folder} is a file, and saved functions are folders: take from_source(path) for "
                "Python source"
            )
        try:
            raw = (folder / SOURCE_FILE).read_bytes()
            meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            wanted, keep = meta["sha256"], _indices(meta.get("keep"))
            source = raw.decode()
        except FileNotFoundError as error:
            raise ArtefactError(
                f"{error.filename} is missing: a saved latent reward is a folder with "
                f"{SOURCE_FILE} and {META_FILE}"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArtefactError(
                f"{folder / META_FILE} or {SOURCE_FILE} is damaged ({error}): save it again"
            ) from error
        found = hashlib.sha256(raw).hexdigest()
        if found != wanted:
            raise ArtefactError(
                f"{folder / SOURCE_FILE} has SHA-256 {found}, {META_FILE} says {wanted}: it was "
                "changed after it was verified. Take changed source through `lare verify` and "
                "LatentReward.from_source, and save that"
            )
        return cls(source, keep=keep, meta=meta)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``latent_reward.py`` and ``meta.json`` (with the hash) to a folder.

        Args:
            folder: made where it is missing; what another function left there is replaced.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        meta = {**self.meta, "sha256": self.sha256, "keep": self.keep}
        # The source first: with a new meta.json and an old source, loading would rightly refuse.
        write_text_atomic(folder / SOURCE_FILE, self.source)
        write_text_atomic(folder / META_FILE, json.dumps(meta, indent=2) + "\n")
        return folder

    @property
    def code(self) -> CheckedCode:
        """The source as it passed the allow-list."""
        return self._code

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments, one of :data:`SIGNATURES`."""
        return self._code.signature

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the factors as the source returns them; None where it returns no plain names."""
        if self._names is None or self.keep is None:
            return self._names
        return tuple(self._names[index] for index in self.keep)

    def select(
        self,
        observation: np.ndarray,
        action: np.ndarray | None,
        next_observation: np.ndarray | None,
    ) -> tuple[np.ndarray, ...]:
        """Choose from a step what this function takes, in the order of its arguments."""
        if self.arguments == ("observation",):
            return (observation if next_observation is None else next_observation,)
        given = (observation, action, next_observation)[: len(self.arguments)]
        for name, value in zip(self.arguments, given, strict=True):
            if value is None:
                raise ConfigError(f"this latent reward function reads {name}, which was not given")
        return tuple(value for value in given if value is not None)

    def __call__(
        self,
        observation: np.ndarray,
        action: np.ndarray | None = None,
        next_observation: np.ndarray | None = None,
    ) -> np.ndarray:
        """Compute the factors.

        Args:
            observation: float ``[B, S]``, raw: neither normalized nor scaled.
            action: float ``[B, A]``, in the environment's own units; discrete ones as 1 at the
                chosen place.
            next_observation: float ``[B, S]``, before an automatic reset.

        Returns:
            float32 ``[B, D]``.

        Raises:
            ConfigError: if an argument that the function reads is missing.
            ShapeError: if what it returned is not a list of ``[B, 1]``.
        """
        inputs = [_read_only(value) for value in self.select(observation, action, next_observation)]
        # In pieces: the limits on what a call may compute were tried with this many rows.
        starts = range(0, max(1, len(inputs[0])), LARGEST_BATCH)
        pieces = [[values[start : start + LARGEST_BATCH] for values in inputs] for start in starts]
        factors = np.concatenate([stack(self._function(*piece), len(piece[0])) for piece in pieces])
        if self.keep is not None:
            if max(self.keep) >= factors.shape[1]:
                raise ConfigError(
                    f"keep is {self.keep}, but the function returns {factors.shape[1]} factors"
                )
            factors = factors[:, self.keep]
        finite = np.isfinite(factors)
        if not finite.all():
            self._repair(factors, finite)
        return factors

    def _repair(self, factors: np.ndarray, finite: np.ndarray) -> None:
        if not self.n_repaired:
            warnings.warn(
                "a latent reward function returned factors that are not finite; they count as 0. "
                "Further ones are counted in n_repaired without a warning",
                LareWarning,
                stacklevel=3,
            )
        self.n_repaired += int((~finite).sum())
        factors[~finite] = 0

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: what was given, not the compiled function."""
        return {"source": self.source, "keep": self.keep, "meta": self.meta}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Check and compile again."""
        LatentReward.__init__(self, state["source"], keep=state["keep"], meta=state["meta"])

    def __repr__(self) -> str:
        """Arguments, names of the factors and the hash."""
        names = "" if self.names is None else f" -> {', '.join(self.names)}"
        return f"LatentReward({', '.join(self.arguments)}{names}; sha256 {self.sha256[:12]})"


def stack(returned: Any, batch: int) -> np.ndarray:
    """Put the arrays that a function returned side by side: float32 ``[B, D]``.

    Raises:
        ShapeError: if it is not a list or tuple of arrays ``[batch, 1]``, at least one.
    """
    if not isinstance(returned, list | tuple) or not returned:
        raise ShapeError(
            f"the function returned {type(returned).__name__}: it has to return a list of arrays, "
            "one per factor, each of shape (batch, 1)"
        )
    columns = [np.asarray(column) for column in returned]
    for index, column in enumerate(columns):
        if column.shape != (batch, 1):
            raise ShapeError(
                f"factor {index} has shape {column.shape} for a batch of {batch}: each factor has "
                f"to be ({batch}, 1)"
            )
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the caller handles
        return np.concatenate([column.astype(np.float32) for column in columns], axis=1)


def returned_names(source: str) -> tuple[str, ...] | None:
    """Names in the list that ``evaluation_func`` returns last; None if one is not a plain name."""
    functions = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == ENTRY
    ]
    returns = [node for node in ast.walk(functions[-1]) if isinstance(node, ast.Return)]
    if len(returns) != 1 or not isinstance(returns[0].value, ast.List | ast.Tuple):
        return None
    elements = returns[0].value.elts
    names = tuple(element.id for element in elements if isinstance(element, ast.Name))
    return names if len(names) == len(elements) else None


def shipped_functions(*, direct: bool = False) -> list[str]:
    """Tasks for which a function comes with the package; ``direct``: for that ablation."""
    folders = _functions(direct).iterdir()
    return sorted(p.name for p in folders if p.is_dir() and not p.name.startswith("_"))


def _functions(direct: bool) -> Path:
    folder = Path(str(resources.files("lare") / _FUNCTIONS))
    return folder / "_direct" if direct else folder


def _indices(keep: Any) -> list[int] | None:
    """Factors to keep, out of a file.

    Raises:
        ValueError: if it is no list of a few different indices.
    """
    if keep is None:
        return None
    good = isinstance(keep, list) and all(type(i) is int and 0 <= i < 64 for i in keep)
    if not good or not keep or len(set(keep)) < len(keep):
        raise ValueError('"keep" is no list of different indices')
    return list(keep)


def _read_only(values: np.ndarray) -> np.ndarray:
    view = np.asarray(values, dtype=np.float64).view()
    view.flags.writeable = False
    return view
