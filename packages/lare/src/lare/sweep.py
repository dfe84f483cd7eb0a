"""Many training runs, over processes of this machine or a Ray cluster."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lare._kit import ENGINES, SweepError, run_all
from lare.algos.mpe import MPESettings
from lare.algos.mpe import train as train_mpe
from lare.errors import ConfigError, LareError, MissingExtraError
from lare.training import Settings, train


def run(
    settings: Sequence[Settings | MPESettings],
    out: str | Path,
    *,
    jobs: int = 1,
    engine: str = "local",
    tensorboard: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train all of them; what is finished in ``out`` is kept.

    Args:
        settings: one run each.
        out: a folder per run is made in it. Over a Ray cluster every node has to see it.
        jobs: processes at a time; over Ray its cores say how many.
        engine: ``"local"``, or ``"ray"`` over a Ray cluster that runs or one on this machine.
        tensorboard: write event files into the folders too.
        progress: called with a line for each finished run.

    Returns:
        The results, in the order of ``settings``.

    Raises:
        ConfigError: if the engine is unknown, or two runs would share a folder.
        LareError: if a process ended in the midst of a run.
        MissingExtraError: without Ray, if that was asked for.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}: give one of {', '.join(ENGINES)}")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise MissingExtraError('engine="ray" needs Ray: pip install "lare-rl[ray]"')
    # On the nodes of a cluster a relative path starts from other folders.
    out = Path(out).absolute() if engine == "ray" else Path(out)
    folders = [out / folder_name(one) for one in settings]
    if len(set(folders)) < len(folders):
        raise ConfigError("two of the runs share a folder: give each task, method and seed once")
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}: give at least 1")
    todo = [(one, folder, tensorboard) for one, folder in zip(settings, folders, strict=True)]

    def done(index: int, results: dict[str, Any]) -> None:
        progress(line(settings[index], results))

    try:
        return run_all(
            work,
            todo,
            engine=engine,
            processes=jobs,
            names=[str(folder) for folder in folders],
            gpus=[float(getattr(one, "device", "cpu").startswith("cuda")) for one in settings],
            done=done,
        )
    except SweepError as error:
        raise LareError(str(error)) from error


def work(settings: Settings | MPESettings, folder: Path, tensorboard: bool) -> dict[str, Any]:
    """One run on one thread."""
    import torch

    torch.set_num_threads(1)
    if isinstance(settings, MPESettings):
        return train_mpe(settings, folder, tensorboard=tensorboard)
    return train(settings, folder, tensorboard=tensorboard)


def folder_name(settings: Settings | MPESettings) -> str:
    """A folder for a run, telling from others what a sweep varies."""
    task = re.sub(r"[^\w.,=+/-]+", "_", str(settings.task))  # not every system takes a colon
    return f"{task}/{settings.algorithm}/{settings.method}/seed-{settings.seed}"


def line(settings: Settings | MPESettings, results: dict[str, Any]) -> str:
    """What is said of a finished run."""
    step, score = list(results["scores"].items())[-1]
    return f"{settings.method} seed {settings.seed}: {score:.1f} after {step} steps"
