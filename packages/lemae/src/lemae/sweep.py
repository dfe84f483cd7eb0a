"""Many training runs, over processes of this machine or a Ray cluster."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lemae.errors import ConfigError, LemaeError, MissingExtraError
from lemae.settings import Settings

if TYPE_CHECKING:
    from lemae.language_models import LLM

#: Makes a client in the process of a run: connections do not travel.
MakeLLM = Callable[[], "LLM"]
Job = tuple[Settings, Path, bool, MakeLLM | None]

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
    folders = [Path(out) / folder_name(one) for one in settings]
    if len(set(folders)) < len(folders):
        raise ConfigError("two of the runs are the same: give each seed and setting once")
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}: give at least 1")
    todo = [(one, folder, tensorboard, llm) for one, folder in zip(settings, folders, strict=True)]
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
            raise LemaeError(
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


def _over_ray(todo: Sequence[Job], progress: Callable[[str], None]) -> list[dict[str, Any]]:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError('engine="ray" needs Ray: pip install "lemae[ray]"') from error
    started = not ray.is_initialized()
    if started:
        # An address in RAY_ADDRESS is a running cluster; without one, this machine is.
        ray.init(include_dashboard=False, log_to_driver=False, num_cpus=None)
    try:
        remote = ray.remote(num_cpus=1, max_calls=1)(_work_in)
        waiting = {
            remote.remote(Path.cwd(), (one, folder.absolute(), *more)): index
            for index, (one, folder, *more) in enumerate(todo)
        }
        results: dict[int, dict[str, Any]] = {}
        pending = list(waiting)
        while pending:
            (done,), pending = ray.wait(pending, num_returns=1)
            index = waiting[done]
            results[index] = ray.get(done)
            progress(line(todo[index][0], results[index]))
    finally:
        if started:
            ray.shutdown()
    return [results[index] for index in range(len(todo))]
