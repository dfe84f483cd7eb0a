"""Many training runs, over processes of this machine or a Ray cluster."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lemae.errors import ConfigError, MissingExtraError
from lemae.settings import Settings

#: Settings that a folder's name does not tell again.
_TOLD = {"task", "algo", "method", "seed", "steps", "evaluate_every", "evaluation_episodes"}


def run(
    settings: Sequence[Settings],
    out: str | Path,
    *,
    jobs: int = 1,
    engine: str = "local",
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train all of them; what is finished in ``out`` is kept, what was interrupted goes on.

    Args:
        settings: one run each.
        out: a folder per run is made in it, see :func:`folder_name`.
        jobs: processes at a time; over Ray its cores say how many.
        engine: ``"local"``, or ``"ray"`` over a Ray cluster that runs or one on this machine.
        progress: called with a line for each finished run.

    Returns:
        The results, in the order of ``settings``.

    Raises:
        ConfigError: if the engine is unknown, or two runs would share a folder.
        MissingExtraError: without Ray, if that was asked for.
    """
    folders = [Path(out) / folder_name(one) for one in settings]
    if len(set(folders)) < len(folders):
        raise ConfigError("two of the runs are the same: give each seed and setting once")
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}: give at least 1")
    if engine == "ray":
        return _over_ray(settings, folders, progress)
    if engine != "local":
        raise ConfigError(f'engine is {engine!r}: give "local" or "ray"')
    found = []
    if jobs == 1 or len(settings) == 1:
        for one, folder in zip(settings, folders, strict=True):
            found.append(work(one, folder))
            progress(line(one, found[-1]))
        return found
    with get_context("spawn").Pool(jobs, initializer=_ignore_interrupts) as pool:
        # Leaving the block ends the processes, after an interrupt too.
        done = pool.imap(_unpacked, list(zip(settings, folders, strict=True)))
        for one, results in zip(settings, done, strict=True):
            found.append(results)
            progress(line(one, results))
    return found


def work(settings: Settings, folder: Path) -> dict[str, Any]:
    """One run on one thread, in this process."""
    import torch

    from lemae.training import train

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(settings, folder)
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
    return (
        f"{settings.task} {settings.method} seed {settings.seed}: {first}, wins "
        f"{results['win_rate_sampled']:.2f} after {results['steps']}"
    )


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's affair


def _unpacked(job: tuple[Settings, Path]) -> dict[str, Any]:
    return work(*job)


def _over_ray(
    settings: Sequence[Settings], folders: Sequence[Path], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError('engine="ray" needs Ray: pip install "lemae[ray]"') from error
    started = not ray.is_initialized()
    if started:
        # An address in RAY_ADDRESS is a running cluster; without one, this machine is.
        ray.init(include_dashboard=False, log_to_driver=False, num_cpus=None)
    try:
        remote = ray.remote(num_cpus=1, max_calls=1)(work)
        waiting = {
            remote.remote(one, folder.absolute()): index
            for index, (one, folder) in enumerate(zip(settings, folders, strict=True))
        }
        results: dict[int, dict[str, Any]] = {}
        pending = list(waiting)
        while pending:
            (done,), pending = ray.wait(pending, num_returns=1)
            index = waiting[done]
            results[index] = ray.get(done)
            progress(line(settings[index], results[index]))
    finally:
        if started:
            ray.shutdown()
    return [results[index] for index in range(len(settings))]
