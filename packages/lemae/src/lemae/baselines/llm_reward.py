"""A reward written by a language model: code again, but for the reward itself."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lemae._codegen import Policy, UnsafeCodeError, check, load_function
from lemae._kit.files import write_text_atomic
from lemae._values import real
from lemae.algos.rollout import Episodes
from lemae.baselines.fixed import FixedBonus
from lemae.errors import ConfigError, IntegrityError, LemaeWarning, ShapeError

POLICY = Policy(entry="reward", signatures=(("state", "next_state"),))
SOURCE_FILE, META_FILE = "reward.py", "meta.json"
#: Steps per call; checks try as many.
LARGEST_BATCH = 4096


class RewardFunction:
    """The reward of steps, computed by checked source code in a guarded namespace.

    A reward that is not finite becomes 0, with one warning, and is counted in ``n_repaired``.

    Args:
        source: Python source that defines ``reward(state, next_state)`` of ``[M, d]`` arrays and
            returns ``[M]``.
        meta: what is known of its making; saved along with it.

    Attributes:
        source, meta: as given.
        sha256: of the source.
        n_repaired: rewards that were not finite.

    Raises:
        ConfigError: if the source is not allowed; the message lists every problem.
    """

    def __init__(self, source: str, *, meta: Mapping[str, Any] | None = None) -> None:
        try:
            code = check(source, POLICY)
        except UnsafeCodeError as error:
            raise ConfigError(f"this reward function is not allowed: {error}") from error
        self.source = source
        self.meta = dict(meta or {})
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        self.n_repaired = 0
        self._function = load_function(code, POLICY)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> RewardFunction:
        """Read a saved folder, or a ``.py`` file.

        Raises:
            ConfigError: if there is none, or the source is not allowed.
            IntegrityError: if a folder is damaged, or its source is not the one saved.
        """
        path = Path(path)
        source_path = path / SOURCE_FILE if path.is_dir() else path
        try:
            source = source_path.read_text(encoding="utf-8-sig")
            meta = {} if source_path == path else json.loads((path / META_FILE).read_text("utf-8"))
            made = cls(source, meta=meta)
        except FileNotFoundError as error:
            raise ConfigError(
                f"{error.filename} is missing: give a .py file, or a folder with {SOURCE_FILE} and "
                f"{META_FILE}"
            ) from error
        except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
            raise IntegrityError(f"{path} is damaged ({error}): save it again") from error
        if path.is_dir() and made.meta.get("sha256") != made.sha256:
            raise IntegrityError(
                f"{source_path} has SHA-256 {made.sha256}, {META_FILE} says "
                f"{made.meta.get('sha256')}: it was changed after it was checked. Check and save "
                "it again"
            )
        return made

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``reward.py`` and ``meta.json``, with the hash, to a folder; returns it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        meta = {**self.meta, "sha256": self.sha256}
        write_text_atomic(folder / SOURCE_FILE, self.source)
        write_text_atomic(folder / META_FILE, json.dumps(meta, indent=2) + "\n")
        return folder

    def __call__(self, states: ArrayLike, next_states: ArrayLike) -> np.ndarray:
        """Rewards of steps.

        Args:
            states: ``[M, d]``, before each step.
            next_states: ``[M, d]``, after it.

        Returns:
            float64 ``[M]``, finite.

        Raises:
            ShapeError: if the function does not return one reward per step.
            LimitError: if it would compute too much.
        """
        before, after = np.asarray(states, np.float64), np.asarray(next_states, np.float64)
        found = np.zeros(len(before))
        for start in range(0, len(before), LARGEST_BATCH):
            rows = slice(start, start + LARGEST_BATCH)
            piece = np.asarray(self._function(before[rows], after[rows]), np.float64)
            if piece.shape != found[rows].shape:
                raise ShapeError(
                    f"reward returned an array of shape {piece.shape} for {len(found[rows])} "
                    "steps: it has to return one reward per step"
                )
            found[rows] = piece
        finite = np.isfinite(found)
        if not finite.all():
            self._repair(found, finite)
        return found

    def _repair(self, rewards: np.ndarray, finite: np.ndarray) -> None:
        if not self.n_repaired:
            warnings.warn(
                "a reward function returned rewards that are not finite; they count as 0. Further "
                "ones are counted in n_repaired without a warning",
                LemaeWarning,
                stacklevel=3,
            )
        self.n_repaired += int((~finite).sum())
        rewards[~finite] = 0


class RewardBonus(FixedBonus):
    """Adds what a reward function pays.

    Args:
        function: of the state before and after a step.
        scale: of its reward, of any sign.

    Raises:
        ConfigError: if the scale is not finite.

    Reference: arXiv 2310.12931 (Eureka), without its evolution over training runs; in arXiv
    2410.02511 the baseline Eureka-si.
    """

    def __init__(self, function: RewardFunction, scale: float = 1.0) -> None:
        self.function = function
        self.scale = real("scale", scale, -math.inf)

    def bonus(self, episodes: Episodes) -> np.ndarray:
        """What to add to the rewards of episodes: float64 ``[T, B]``, 0 behind their ends."""
        found = np.zeros(episodes.rewards.shape)
        valid = episodes.valid
        paid = self.function(episodes.states[:-1][valid], episodes.states[1:][valid])
        found[valid] = self.scale * paid
        return found
