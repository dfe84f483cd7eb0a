"""What an interrupted run goes on from."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from lare import runs
from lare._kit import RunFolder
from lare.errors import ConfigError

CHECKPOINT = "checkpoint.pt"


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
            ConfigError: if it was saved with other settings, or is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            saved = load_tensors(self.path)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ConfigError(
                f"{self.path} is damaged ({error}): remove it to begin the run again"
            ) from error
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

    def open_log(self, steps: int, *, tensorboard: bool = False) -> RunFolder:
        """Open the folder for a run that goes on at ``steps``; what was logged later is dropped."""
        if not self.path.is_file():
            return runs.start(self.folder, tensorboard=tensorboard)
        return runs.go_on(self.folder, steps, tensorboard=tensorboard)

    def remove(self) -> None:
        """Delete it; a finished run needs none."""
        self.path.unlink(missing_ok=True)


def save_tensors(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values, replacing the file in one move."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote; no code of a file is run."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state
