"""Many training runs, over processes of this machine or a Ray cluster."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemae._kit import ENGINES, SweepError, run_all
from lemae.errors import ConfigError, LemaeError, MissingExtraError
from lemae.settings import Settings

if TYPE_CHECKING:
    from lemae.language_models import LLM

#: Makes a client in the process of a run: connections do not travel.
MakeLLM = Callable[[], "LLM"]

#: Settings that a folder's name does not tell again.
_TOLD = {"task", "algo", "method", "seed", "steps", "evaluate_every", "evaluation_episodes"}


def run(
    settings: Sequence[Settings],
    out: str | Path,
    *,
    jobs: int = 1,
    engine: str = "local",
    tensorboard: bool = False,
    llm: MakeLLM | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train all of them; what is finished in ``out`` is kept, what was interrupted goes on.

    Args:
        settings: one run each.
        out: a folder per run is made in it, see :func:`folder_name`. Over a Ray cluster every node
            has to see it at the same path, such as on a shared disk: each run writes its own.
        jobs: processes at a time; over Ray its cores say how many.
        engine: ``"local"``, or ``"ray"`` over a Ray cluster that runs or one on this machine.
        tensorboard: write event files into the folders too.
        llm: makes the client for the setting ``requery_after``; with several processes a function
            of a module, or a :func:`functools.partial` of one.
        progress: called with a line for each finished run.

    Returns:
        The results, in the order of ``settings``.

    Raises:
        ConfigError: if the engine is unknown, or two runs would share a folder.
        LemaeError: if a process ended in the midst of a run.
        MissingExtraError: without Ray or TensorBoard, if that was asked for.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}: give one of {', '.join(ENGINES)}")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise MissingExtraError('engine="ray" needs Ray: pip install "lemae[ray]"')
    # On the nodes of a cluster a relative path starts from other folders.
    out = Path(out).absolute() if engine == "ray" else Path(out)
    folders = [out / folder_name(one) for one in settings]
    if len(set(folders)) < len(folders):
        raise ConfigError("two of the runs are the same: give each seed and setting once")
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}: give at least 1")
    todo = [(one, folder, tensorboard, llm) for one, folder in zip(settings, folders, strict=True)]

    def done(index: int, results: dict[str, Any]) -> None:
        progress(line(settings[index], results))

    try:
        return run_all(
            work,
            todo,
            engine=engine,
            processes=jobs,
            names=[str(folder) for folder in folders],
            gpus=[float(one.device.startswith("cuda")) for one in settings],
            done=done,
        )
    except SweepError as error:
        raise LemaeError(str(error)) from error


def work(
    settings: Settings, folder: Path, tensorboard: bool = False, llm: MakeLLM | None = None
) -> dict[str, Any]:
    """One run on one thread, in this process."""
    import torch

    from lemae.training import train

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        client = None if llm is None else llm()
        return train(settings, folder, tensorboard=tensorboard, llm=client)
    finally:
        torch.set_num_threads(before)


def folder_name(settings: Settings) -> str:
    """A folder for a run, telling from others what a sweep varies.

    Returns:
        ``task/algo/variant/seed-0``, where the variant is the method and what differs from the
        defaults, such as ``lemae,sticky=6.0``.
    """
    parts = [settings.method]
    usual = Settings(settings.task)
    for name in (one.name for one in fields(settings) if one.name not in _TOLD):
        value = getattr(settings, name)
        if value != getattr(usual, name):
            given = value if isinstance(value, dict) else {name: value}
            parts += [f"{key}={given[key]}" for key in sorted(given)]
    names = (settings.task, settings.algo, ",".join(parts))
    safe = [re.sub(r"[^\w.,=+-]+", "_", name) for name in names]
    return "/".join([*safe, f"seed-{settings.seed}"])


def line(settings: Settings, results: dict[str, Any]) -> str:
    """What is said of a finished run."""
    step = results["first_success_step"]
    first = "no success" if step is None else f"first success after {step} steps"
    without = "" if results.get("failure") is None else " without key states"
    return (
        f"{settings.task} {settings.method}{without} seed {settings.seed}: {first}, wins "
        f"{results['win_rate_sampled']:.2f} after {results['steps']}"
    )
