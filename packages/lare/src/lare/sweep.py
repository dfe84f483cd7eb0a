"""Many training runs, over processes of this machine or a Ray cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from lare.algos.mpe import MPESettings
from lare.algos.mpe import train as train_mpe
from lare.errors import ConfigError, LareError, MissingExtraError
from lare.training import Settings, train

Job = tuple[Settings | MPESettings, Path, bool]


def run(
    settings: Sequence[Settings | MPESettings],
    out: Path,
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
        ConfigError: if the engine is unknown.
        LareError: if a process ended in the midst of a run.
        MissingExtraError: without Ray, if that was asked for.
    """
    todo = [(one, out / folder_name(one), tensorboard) for one in settings]
    if engine == "ray":
        return _over_ray(todo, progress)
    if engine != "local":
        raise ConfigError(f'engine is {engine!r}: give "local" or "ray"')
    if jobs > 1 and len(settings) > 1:
        return _over_processes(todo, jobs, progress)
    found = []
    for job in todo:
        found.append(work(*job))
        progress(line(job[0], found[-1]))
    return found


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's affair


def _over_processes(
    todo: Sequence[Job], jobs: int, progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    results: dict[int, dict[str, Any]] = {}
    waiting = list(range(len(todo)))
    running: dict[Future[dict[str, Any]], int] = {}
    of_others = set(active_children())
    workers = min(jobs, len(todo))
    with ProcessPoolExecutor(workers, get_context("spawn"), _ignore_interrupts) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < workers:  # so that what runs can be named
                    index = waiting.pop(0)
                    running[pool.submit(work, *todo[index])] = index
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    results[running[future]] = future.result()
                    index = running.pop(future)
                    progress(line(todo[index][0], results[index]))
        except BrokenProcessPool as error:  # which has ended the other processes
            lost = ", ".join(str(todo[index][1]) for index in running.values())
            raise LareError(
                f"a process died while these runs went on: {lost}. It was killed, perhaps for lack "
                'of memory, or a script starts runs outside of `if __name__ == "__main__":`. '
                "Finished runs are kept: run the same again, with fewer jobs if memory is short"
            ) from error
        except BaseException:  # an interrupt, too: nobody waits for what is under way
            for process in set(active_children()) - of_others:
                process.terminate()
            raise
    return [results[index] for index in range(len(todo))]


def _work_in(folder: Path, job: Job) -> dict[str, Any]:
    os.chdir(folder)  # what a path in the settings starts from
    return work(*job)


def work(settings: Settings | MPESettings, folder: Path, tensorboard: bool) -> dict[str, Any]:
    """One run on one thread."""
    import torch

    torch.set_num_threads(1)
    if isinstance(settings, MPESettings):
        return train_mpe(settings, folder, tensorboard=tensorboard)
    return train(settings, folder, tensorboard=tensorboard)


def folder_name(settings: Settings | MPESettings) -> str:
    """A folder for a run, telling from others what a sweep varies."""
    return f"{settings.task}/{settings.algorithm}/{settings.method}/seed-{settings.seed}"


def line(settings: Settings | MPESettings, results: dict[str, Any]) -> str:
    """What is said of a finished run."""
    step, score = list(results["scores"].items())[-1]
    return f"{settings.method} seed {settings.seed}: {score:.1f} after {step} steps"


def _over_ray(jobs: Sequence[Job], progress: Callable[[str], None]) -> list[dict[str, Any]]:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError('engine="ray" needs Ray: pip install "lare-rl[ray]"') from error
    started = not ray.is_initialized()
    if started:
        # An address in RAY_ADDRESS is a running cluster; without one, this machine is.
        ray.init(include_dashboard=False, log_to_driver=False, num_cpus=None)
    try:
        remote = ray.remote(num_cpus=1, max_calls=1)(_work_in)
        waiting = {}
        for index, (settings, folder, tensorboard) in enumerate(jobs):
            on_gpu = getattr(settings, "device", "cpu").startswith("cuda")
            task = remote.options(num_gpus=1 if on_gpu else None)
            job = settings, folder.absolute(), tensorboard
            waiting[task.remote(Path.cwd(), job)] = index
        results: dict[int, dict[str, Any]] = {}
        pending = list(waiting)
        while pending:
            (done,), pending = ray.wait(pending, num_returns=1)
            index = waiting[done]
            results[index] = ray.get(done)
            progress(line(jobs[index][0], results[index]))
    finally:
        if started:
            ray.shutdown()
    return [results[index] for index in range(len(jobs))]
