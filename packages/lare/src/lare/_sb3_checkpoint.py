"""What an interrupted run with Stable-Baselines3 goes on from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lare.errors import ConfigError
from lare.relabel import Relabeler

FOLDER = "checkpoint"
_MODEL, _BUFFER, _RELABELER, _PROGRESS = "model.zip", "replay.pkl", "relabeler.pt", "progress.json"


class Checkpoint:
    """The checkpoint in a run's folder.

    A replay buffer is pickled, as Stable-Baselines3 does it, with the relabeler in it: resume only
    runs of your own.

    Args:
        folder: of the run.
        settings: of the run.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path = folder / FOLDER
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))

    def save(self, model: Any, relabeler: Relabeler | None, progress: dict[str, Any]) -> None:
        """Replace what was saved; a run that is killed meanwhile keeps the old one.

        Args:
            model: of Stable-Baselines3.
            relabeler: of the run, None for plain rewards.
            progress: of JSON's types, given back by :meth:`load`.
        """
        scratch = self.path.with_name(f".{FOLDER}.{os.getpid()}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            model.save(scratch / _MODEL, exclude=["replay_buffer_kwargs"])  # holds the relabeler
            if _has_replay_buffer(model):
                model.save_replay_buffer(scratch / _BUFFER)
            elif relabeler is not None:
                torch.save(relabeler.state_dict(), scratch / _RELABELER)
            counts = {"steps": model.num_timesteps, "updates": model._n_updates}
            text = json.dumps({"settings": self.settings, "counts": counts, "progress": progress})
            (scratch / _PROGRESS).write_text(text, encoding="utf-8")
            shutil.rmtree(self.path, ignore_errors=True)
            scratch.rename(self.path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def load(
        self, model: Any, relabeler: Relabeler | None
    ) -> tuple[Relabeler | None, dict[str, Any]] | None:
        """Bring a new model to where the run was saved.

        Args:
            model: as built for a new run.
            relabeler: as built for a new run.

        Returns:
            The relabeler to go on with, and the progress; None if nothing was saved.

        Raises:
            ConfigError: if it was saved with other settings.
        """
        try:
            saved = json.loads((self.path / _PROGRESS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if saved["settings"] != self.settings:
            raise ConfigError(
                f"{self.path.parent} holds an interrupted run with other settings: name another "
                "folder, or remove that one"
            )
        model.set_parameters(self.path / _MODEL, device=model.device)
        if _has_replay_buffer(model):
            model.load_replay_buffer(self.path / _BUFFER)
            relabeler = getattr(model.replay_buffer, "relabeler", None)
        elif relabeler is not None:
            state = torch.load(self.path / _RELABELER, weights_only=True)
            relabeler.load_state_dict(state)
            relabeler.reset()
        model.num_timesteps, model._n_updates = saved["counts"]["steps"], saved["counts"]["updates"]
        # Not the numbers that the run began with once more.
        seeds = np.random.SeedSequence([self.settings["seed"], model.num_timesteps])
        model.set_random_seed(int(seeds.generate_state(1)[0]))
        return relabeler, saved["progress"]

    def remove(self) -> None:
        """Delete it; a finished run needs none."""
        shutil.rmtree(self.path, ignore_errors=True)


def _has_replay_buffer(model: Any) -> bool:
    return getattr(model, "replay_buffer", None) is not None
