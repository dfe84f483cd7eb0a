"""Files from which an interrupted run goes on as if nothing had happened."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import ProtocolError

NAME = "checkpoint.pt"


def random_states() -> dict[str, Any]:
    """Return the states of torch's own generators, which methods and data loaders draw from.

    The order of the data and its augmentation need no state: they are functions of seed and
    epoch.
    """
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the generators back."""
    torch.set_rng_state(states["cpu"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def memory(method: nn.Module) -> dict[str, Any]:
    """Return what TorchJD's FAMO and DWA remember beside their ``state_dict``.

    These are FAMO's Adam moments and DWA's mean losses of the last two epochs. (Nash-MTL's last
    solution, from which the next search starts, is not saved: a resumed run may differ from an
    uninterrupted one in the last digits of its weights.)
    """
    function = getattr(method, "function", None)
    optimizer = getattr(function, "_optimizer", None)
    return {
        "adam": None if optimizer is None else optimizer.state_dict(),
        "means": getattr(function, "_previous_averages", None),
    }


def restore_memory(method: nn.Module, kept: dict[str, Any]) -> None:
    """Give back what :func:`memory` returned, after the method's ``load_state_dict``."""
    function = getattr(method, "function", None)
    if kept["adam"] is not None:
        function._optimizer = torch.optim.Adam(function.parameters())
        function._optimizer.load_state_dict(kept["adam"])  # with its rate and weight decay
    if kept["means"] is not None:
        device = next(method.buffers(), torch.empty(0)).device
        function._previous_averages = [mean.to(device) for mean in kept["means"]]


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` so that the old file stays whole until the new one is complete."""
    part = folder / f"{NAME}.part"
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / NAME)


def load(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`save` wrote, on the CPU.

    Args:
        folder: the run's folder.
        settings: those that shape the result; the interrupted run must have had the same.
    """
    path = folder / NAME
    if not path.is_file():
        raise ProtocolError(
            f"--resume: {path} is missing, as no epoch was finished there; leave out --resume, "
            "and give --overwrite if the folder has an unfinished run"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    before = state["settings"]
    for name, value in settings.items():
        if before.get(name) != value:
            raise ProtocolError(
                f"--resume: {path} was made with {name} = {before.get(name)!r}, now it is "
                f"{value!r}; give the same settings, or another --out"
            )
    return state
