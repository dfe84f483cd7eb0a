"""What an interrupted run with Stable-Baselines3 goes on from."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import zipfile
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lare._kit.run import _plain
from lare.errors import ConfigError, StateError
from lare.relabel import Relabeler

FOLDER = "lare-checkpoint"
_MODEL, _BUFFER, _RELABELER, _PROGRESS = "model.zip", "replay.pkl", "relabeler.pt", "progress.json"


class Checkpoint:
    """The checkpoint in a run's folder, a folder itself, by the number of environment steps.

    A replay buffer is pickled, as Stable-Baselines3 does it, with the relabeler in it: resume only
    runs of your own.

    Args:
        folder: of the run.
        settings: of the run.
        every_s: least time between two, in seconds; None saves nothing.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], every_s: float | None = 60.0
    ) -> None:
        self.path = folder / FOLDER
        self.settings: dict[str, Any] = json.loads(json.dumps(_plain(settings)))
        self.every_s = every_s
        self._saved_s = -float("inf")

    def save(self, model: Any, relabeler: Relabeler | None, progress: dict[str, Any]) -> None:
        """Save, if it is time to; a run that is killed meanwhile keeps what was saved before.

        Args:
            model: of Stable-Baselines3.
            relabeler: of the run, None for plain rewards.
            progress: of JSON's types, given back by :meth:`load`.
        """
        if self.every_s is None or time.monotonic() - self._saved_s < self.every_s:
            return
        done = self.path / str(model.num_timesteps)
        scratch = self.path / f".{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        model.save(scratch / _MODEL, exclude=["replay_buffer_kwargs"])  # holds the relabeler
        if _has_replay_buffer(model):
            model.save_replay_buffer(scratch / _BUFFER)
        elif relabeler is not None:
            torch.save(relabeler.state_dict(), scratch / _RELABELER)
        saved = {
            "settings": self.settings,
            "features": _hash(relabeler),
            "steps": model.num_timesteps,
            "updates": model._n_updates,
            "progress": progress,
        }
        (scratch / _PROGRESS).write_text(json.dumps(saved), encoding="utf-8")
        scratch.rename(done)  # complete from here on; only then the older ones go
        for other in self.path.iterdir():
            if other != done:
                shutil.rmtree(other, ignore_errors=True)
        self._saved_s = time.monotonic()

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
            ConfigError: if it was saved with other settings, or is damaged.
            StateError: if it was saved with another latent reward.
        """
        complete = [path for path in self.path.glob("*") if path.name.isdecimal()]
        if not complete:
            return None
        newest = max(complete, key=lambda path: int(path.name))
        try:
            return self._loaded(newest, model, relabeler)
        except (
            *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError),
            *(RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile),
        ) as error:
            if isinstance(error, ConfigError | StateError):
                raise
            raise ConfigError(
                f"{newest} is damaged ({error}): remove it to begin the run again"
            ) from error

    def _loaded(
        self, folder: Path, model: Any, relabeler: Relabeler | None
    ) -> tuple[Relabeler | None, dict[str, Any]]:
        from stable_baselines3.common.save_util import load_from_zip_file

        saved = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        if saved["settings"] != self.settings:
            raise ConfigError(
                f"{self.path.parent} holds an interrupted run with other settings: name another "
                "folder, or remove that one"
            )
        if saved["features"] != _hash(relabeler):
            raise StateError(
                f"{self.path.parent} holds a run that was begun with the latent reward "
                f"{saved['features']}, this one is {_hash(relabeler)}: put that function back, or "
                "name another folder"
            )
        _, parameters, variables = load_from_zip_file(folder / _MODEL, device=model.device)
        model.set_parameters(parameters, device=model.device)
        for name, value in (variables or {}).items():  # SAC's temperature is no parameter
            attrgetter(name)(model).data.copy_(value)
        if _has_replay_buffer(model):
            with (folder / _BUFFER).open("rb") as stream:
                model.load_replay_buffer(stream)
            relabeler = getattr(model.replay_buffer, "relabeler", None)
        elif relabeler is not None:
            relabeler.load_state_dict(torch.load(folder / _RELABELER, weights_only=True))
            relabeler.reset()
        model.num_timesteps, model._n_updates = saved["steps"], saved["updates"]
        # Not the numbers that the run began with once more.
        seeds = np.random.SeedSequence([self.settings["seed"], model.num_timesteps])
        model.set_random_seed(int(seeds.generate_state(1)[0]))
        progress: dict[str, Any] = saved["progress"]
        return relabeler, progress

    def remove(self) -> None:
        """Delete it; a finished run needs none."""
        shutil.rmtree(self.path, ignore_errors=True)


def _hash(relabeler: Relabeler | None) -> str | None:
    return None if relabeler is None else getattr(relabeler.features, "sha256", None)


def _has_replay_buffer(model: Any) -> bool:
    return getattr(model, "replay_buffer", None) is not None
