"""Many runs of one function, over processes of this machine or over a Ray cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeVar

from .errors import SweepError

_Result = TypeVar("_Result")

#: Where runs may go: processes of this machine, or a Ray cluster.
ENGINES = ("local", "ray")


def run_all(
    work: Callable[..., _Result],
    jobs: Sequence[tuple[Any, ...]],
    *,
    engine: str,
    processes: int,
    names: Sequence[str],
    gpus: Sequence[float],
    done: Callable[[int, _Result], None],
) -> list[_Result]:
    """Run all jobs: in this process one after the other, in several, or over a Ray cluster.

    Args:
        work: does one job; a function of a module, unless all is done in this process.
        jobs: arguments of each.
        engine: one of ``ENGINES``.
        processes: how many at a time, 1 for none but this one; over Ray its cores say how many.
        names: of the jobs, for messages.
        gpus: that each job takes of a Ray cluster.
        done: called with the number of each job that is done and its result, in the order in which
            they end.

    Returns:
        The results, in the order of the jobs.

    Raises:
        ImportError: without Ray, if that was asked for.
        SweepError: if a process died.
        Exception: whatever ``work`` raised first.
    """
    if engine == "ray":
        return _over_ray(work, jobs, gpus=gpus, done=done)
    if processes > 1 and len(jobs) > 1:
        return _over_processes(work, jobs, processes, names=names, done=done)
    results = []
    for index, job in enumerate(jobs):
        results.append(work(*job))
        done(index, results[-1])
    return results


def _over_processes(
    work: Callable[..., _Result],
    jobs: Sequence[tuple[Any, ...]],
    processes: int,
    *,
    names: Sequence[str],
    done: Callable[[int, _Result], None],
) -> list[_Result]:
    """Run all jobs, each in one of several processes, which are started anew, not forked.

    An exception in one of them, or an interrupt, ends the others.
    """
    results: dict[int, _Result] = {}
    waiting = list(range(len(jobs)))
    running: dict[Future[_Result], int] = {}
    of_others = set(active_children())
    processes = min(processes, len(jobs))
    with ProcessPoolExecutor(processes, get_context("spawn"), _ignore_interrupts) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < processes:  # so that what runs can be named
                    index = waiting.pop(0)
                    running[pool.submit(work, *jobs[index])] = index
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    results[running[future]] = future.result()
                    index = running.pop(future)
                    done(index, results[index])
        except BrokenProcessPool as error:  # which has ended the other processes
            lost = ", ".join(names[index] for index in running.values())
            raise SweepError(
                f"a process died while these runs went on: {lost}. It was killed, perhaps for lack "
                'of memory, or a script starts runs outside of `if __name__ == "__main__":`. '
                "Finished runs are kept: run the same again, with fewer jobs if memory is short"
            ) from error
        except BaseException:  # an interrupt, too: nobody waits for what is under way
            for process in set(active_children()) - of_others:
                process.terminate()
            raise
    return [results[index] for index in range(len(jobs))]


def _over_ray(
    work: Callable[..., _Result],
    jobs: Sequence[tuple[Any, ...]],
    *,
    gpus: Sequence[float],
    done: Callable[[int, _Result], None],
) -> list[_Result]:
    """Run all jobs on the Ray cluster that ``RAY_ADDRESS`` names, or on this machine as one.

    Paths in jobs start from this process's folder on every node.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, num_cpus=None)
    try:
        remote = ray.remote(num_cpus=1, max_calls=1)(_work_in)
        waiting = {
            remote.options(num_gpus=share or None).remote(Path.cwd(), work, job): index
            for index, (job, share) in enumerate(zip(jobs, gpus, strict=True))
        }
        results: dict[int, _Result] = {}
        pending = list(waiting)
        while pending:
            (ended,), pending = ray.wait(pending, num_returns=1)
            index = waiting[ended]
            results[index] = ray.get(ended)
            done(index, results[index])
    finally:
        if started:
            ray.shutdown()
    return [results[index] for index in range(len(jobs))]


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's affair


def _work_in(folder: Path, work: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    os.chdir(folder)
    return work(*job)
