"""Folders of training runs: finished ones are read back, interrupted ones go on where they were."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lemae._kit import RunFolder
from lemae._kit.files import write_text_atomic
from lemae._kit.run import METRICS, SUMMARY
from lemae.errors import ConfigError, IntegrityError

CHECKPOINT = "checkpoint.pt"
POLICY = "policy.pt"
ARRAYS = "arrays.npz"
#: What a run writes.
OURS = {METRICS, SUMMARY, CHECKPOINT, POLICY, ARRAYS}


def finished(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Results of a run that was finished with these settings, None if there is none.

    Raises:
        ConfigError: if it had other settings, or its summary is damaged.
    """
    if not (folder / SUMMARY).is_file():
        return None
    summary = read(folder / SUMMARY)
    if summary["settings"] != json.loads(json.dumps(settings)):
        raise ConfigError(
            f"{folder} holds a run with other settings: name another folder, or remove that one"
        )
    results: dict[str, Any] = summary["results"]
    return {**results, **read_arrays(folder)}


def read(path: Path) -> dict[str, Any]:
    """Read the summary of a run.

    Raises:
        ConfigError: if it is damaged.
    """
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not summary["results"]["curve"] or not isinstance(summary["settings"], dict):
            raise ValueError("it has no curve")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged or not of a training run ({error}): move it away"
        ) from error
    return summary


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what is too long for the summary, by name."""
    with (folder / ARRAYS).open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote; no code of a file is run.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    path = folder / ARRAYS
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} is missing or damaged ({error}): move the run away") from error


class Checkpoint:
    """The checkpoint in a run's folder.

    Args:
        folder: made when the log is opened.
        settings: of the run, in JSON's types.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.path = folder / CHECKPOINT
        self.settings = settings

    def load(self) -> dict[str, Any] | None:
        """The state last saved; None if there is none.

        Raises:
            ConfigError: if it was saved with other settings.
            IntegrityError: if it is damaged.
        """
        if not self.path.is_file():
            return None
        saved = load_tensors(self.path)
        if saved["settings"] != self.settings:
            raise ConfigError(
                f"{self.folder} holds an interrupted run with other settings: name another folder, "
                "or remove that one"
            )
        state: dict[str, Any] = saved["state"]
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state in one move; a run that is killed meanwhile keeps the old one."""
        save_tensors({"settings": self.settings, "state": state}, self.path)

    def open_log(self, steps: int) -> RunFolder:
        """Open the folder for a run that goes on at ``steps``; what was logged later is dropped.

        Raises:
            ConfigError: if the folder holds files that no run writes.
        """
        if not self.path.is_file():
            return _start(self.folder)
        log = RunFolder(self.folder, resume=True)
        metrics = self.folder / METRICS
        if metrics.is_file():
            lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text_atomic(
                metrics, "".join(line for line in lines if json.loads(line)["step"] <= steps)
            )
        return log

    def remove(self) -> None:
        """Delete it; a finished run needs none."""
        self.path.unlink(missing_ok=True)


def _start(folder: Path) -> RunFolder:
    """Empty the folder of a run that has no checkpoint, unless it holds anything of others."""
    if folder.is_dir():
        strange = sorted({path.name for path in folder.iterdir()} - OURS)
        if strange:
            raise ConfigError(
                f"{folder} holds {', '.join(strange[:5])}, which no run wrote and which would be "
                "lost: name another folder, or move them away"
            )
    return RunFolder(folder, overwrite=True)


def save_tensors(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors, NumPy arrays and plain values, replacing the file in one move."""
    import torch

    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(_packed(state), scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote; no code of a file is run.

    Raises:
        IntegrityError: if the file is damaged.
    """
    import pickle

    import torch

    try:
        state: dict[str, Any] = _unpacked(torch.load(path, weights_only=True))
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise IntegrityError(
            f"{path} is damaged ({error}): remove it to begin the run anew"
        ) from error
    return state


def _packed(value: Any) -> Any:
    """``value`` with tensors, marked as such, in place of NumPy's arrays and numbers."""
    import torch

    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value).copy())}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_packed(item) for item in value)
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: _unpacked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(item) for item in value)
    return value


_ARRAY = "numpy array"
