"""What ``go4align bench`` runs: methods side by side, on the same data, seed by seed.

Settings are chosen on the validation part of seeds that are not reported; results come from the
test part of fresh ones.
"""

from __future__ import annotations

import importlib.resources
import itertools
import json
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from go4align import runs
from go4align.errors import ConfigError
from go4align.metrics import delta_m
from go4align.tasks import problem
from go4align.training import STL, Result, Settings, train

if TYPE_CHECKING:
    from typing_extensions import Self

#: Learning rates that are tried first; beyond them as long as the best one is at an end.
LEARNING_RATES: dict[str, dict[str, tuple[float, ...]]] = {
    "molecules": {
        "adam": (2e-3, 4e-3, 8e-3),
        "adamw": (2e-3, 4e-3, 8e-3),
        "sgd": (5e-3, 1e-2, 2e-2),
    },
    "multimnist": {"adam": (2e-3, 4e-3), "adamw": (2e-3, 4e-3), "sgd": (1e-2, 2e-2)},
}
OPTIMIZERS = ("adam", "adamw", "sgd")
#: Learning rates tried beyond the first ones, at most, each twice or half of the last.
EXTENSIONS = 6
#: Seeds that settings are chosen on; results are never reported on them.
TUNING_SEEDS = (100, 101)


@dataclass(frozen=True)
class Entry:
    """A row of the tables: a method, what is fixed about it, and what is chosen on validation."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def candidates(self, n_tasks: int) -> list[dict[str, Any]]:
        """Every combination of the grid; numbers of groups beyond the tasks are left out.

        A number of groups of None stands for as many as tasks.
        """
        names = list(self.grid)
        found = []
        for values in itertools.product(*self.grid.values()):
            options = {**self.options, **dict(zip(names, values, strict=True))}
            if "n_groups" in options and options["n_groups"] is None:
                options["n_groups"] = n_tasks
            if isinstance(options.get("n_groups"), int) and options["n_groups"] > n_tasks:
                continue
            found.append(options)
        return found


_GROUPS = (2, 3, 5)
#: Rows by label. Methods have their published settings; the grid is what is chosen on validation.
ENTRIES: dict[str, Entry] = {
    STL: Entry(STL),
    "ls": Entry("ls"),
    "si": Entry("si"),
    "rlw": Entry("rlw"),
    "dwa": Entry("dwa"),
    "uw": Entry("uw", grid={"method_lr": (0.025, 0.0025)}),
    "famo": Entry("famo", grid={"weight_decay": (1e-3, 1e-2)}),
    "stch": Entry("stch", grid={"mu": (0.1, 1.0)}),
    "mgda": Entry("mgda"),
    "pcgrad": Entry("pcgrad"),
    "cagrad": Entry("cagrad", grid={"c": (0.4, 0.2, 0.8)}),
    "imtl-g": Entry("imtl-g"),
    "nash-mtl": Entry("nash-mtl"),
    "aligned-mtl": Entry("aligned-mtl"),
    "fairgrad": Entry("fairgrad"),
    "upgrad": Entry("upgrad"),
    "graddrop": Entry("graddrop"),
    "go4align": Entry("go4align", grid={"n_groups": _GROUPS}),
    "go4align-published": Entry("go4align-published", grid={"n_groups": _GROUPS}),
    # Between the two: one change at a time.
    "go4align-sum-log": Entry("go4align-published", {"space": "log"}, {"n_groups": _GROUPS}),
    "go4align-none-linear": Entry("go4align-published", {"scale": "none"}, {"n_groups": _GROUPS}),
    "go4align-ungrouped": Entry("go4align", {"n_groups": None}),
    "go4align-auto": Entry("go4align", {"n_groups": "auto"}),
    "go4align-decay": Entry("go4align", {"n_groups": 3, "decay": 0.99}, {"beta": (1e-3, 1e-2)}),
}


def entry(label: str) -> Entry:
    """The row of a label.

    Raises:
        ConfigError: if there is none.
    """
    if label not in ENTRIES:
        raise ConfigError(f"unknown method {label!r}: known are {', '.join(ENTRIES)}")
    return ENTRIES[label]


# --- one job in a worker ----------------------------------------------------------------------

_problems: dict[str, Any] = {}


def _job(name: str, settings: Settings, seed: int, folder: str | None, label: str) -> Result:
    import torch

    torch.set_num_threads(1)
    if name not in _problems:
        _problems[name] = problem(name)
    here = _problems[name]
    if folder is None:
        return train(here, settings, seed)
    run = runs.Run(
        folder,
        benchmark=name,
        method=label,
        tasks=here.tasks,
        seed=seed,
        settings=asdict(settings),
        overwrite=True,  # what is there did not finish
    )
    result = train(here, settings, seed, run)
    run.finish(
        result.test,
        {metric.name: metric.higher_is_better for metric in here.metrics},
        result.seconds_per_step,
        {"validation": result.validation, "steps": result.steps},
    )
    return result


def _settings(
    name: str, label: str, lr: float, optimizer: str, options: Mapping[str, Any]
) -> Settings:
    chosen = dict(options)
    more = {"method_lr": chosen.pop("method_lr")} if "method_lr" in chosen else {}
    return Settings(entry(label).method, chosen, optimizer, lr, **more)


class Workers:
    """Runs jobs in ``jobs`` processes, or here for one; results come in the order of the jobs."""

    def __init__(self, jobs: int) -> None:
        self._pool: Any = None
        if jobs > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = context.Pool(jobs, initializer=_ignore_interrupts)

    def map(self, arguments: Sequence[tuple[Any, ...]]) -> Iterable[Result]:
        """Yield the result of every job."""
        if self._pool is None:
            return (_job(*each) for each in arguments)
        results: Iterable[Result] = self._pool.imap(_unpacked, arguments)
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.terminate()  # after an interrupt too: no job is left behind
            self._pool.join()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's affair


def _unpacked(arguments: tuple[Any, ...]) -> Result:
    return _job(*arguments)


# --- choosing settings ------------------------------------------------------------------------


def tune(
    name: str,
    labels: Sequence[str],
    optimizer: str = "adam",
    seeds: Sequence[int] = TUNING_SEEDS,
    jobs: int = 1,
    known: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda chosen: None,
) -> dict[str, Any]:
    """Choose learning rate and options of every method by Δm on the validation part.

    Args:
        name: Of the problem.
        labels: Methods; single-task training is always chosen first, by its own mean change.
        optimizer: One of ``OPTIMIZERS``.
        seeds: To average over.
        jobs: Processes.
        known: What an earlier call returned: its candidates are not run again.
        progress: Called with a line per candidate.
        save: Called with all choices after each method.

    Returns:
        By label: ``lr``, ``options``, ``score`` (Δm in percent) and all ``candidates``.
    """
    here = problem(name)
    directions = [metric.higher_is_better for metric in here.metrics]
    names = [metric.name for metric in here.metrics]
    # What else shapes a candidate's score: without a match it is run again.
    stamp = {
        "benchmark": name,
        "optimizer": optimizer,
        "seeds": list(seeds),
        "epochs": here.epochs,
        "schedule": here.schedule,
    }
    chosen: dict[str, Any] = {}
    with Workers(jobs) as workers:

        def run(label: str, lr: float, options: dict[str, Any]) -> dict[str, Any]:
            for old in (known or {}).get(label, {}).get("candidates", []):
                wanted = {**stamp, "lr": lr, "options": options}
                if all(old.get(key) == value for key, value in wanted.items()):
                    return dict(old)
            settings = _settings(name, label, lr, optimizer, options)
            results = workers.map([(name, settings, seed, None, label) for seed in seeds])
            rows = [[result.validation[metric] for metric in names] for result in results]
            progress(f"{label} {options or ''} lr {lr:g}")
            return {"lr": lr, "options": options, "rows": rows, **stamp}

        base: list[list[float]] = []
        for label in dict.fromkeys([STL, *labels]):
            rates = sorted(LEARNING_RATES[name][optimizer])
            candidates: list[dict[str, Any]] = []
            todo = list(rates)
            for _ in range(EXTENSIONS + 1):
                for lr, options in itertools.product(
                    todo, entry(label).candidates(len(here.tasks))
                ):
                    candidates.append(run(label, lr, options))
                reference = base or candidates[0]["rows"]
                for candidate in candidates:
                    candidate["score"] = _mean_delta(candidate["rows"], reference, directions)
                best = min(candidates, key=lambda candidate: float(candidate["score"]))
                if rates[0] < best["lr"] < rates[-1]:
                    break
                todo = [rates[0] / 2 if best["lr"] == rates[0] else 2 * rates[-1]]
                rates = sorted([*rates, *todo])
            if label == STL:
                base = best["rows"]
            chosen[label] = {
                "lr": best["lr"],
                "options": best["options"],
                "score": best["score"],
                "candidates": candidates,
            }
            progress(f"{label}: lr {best['lr']:g} {best['options'] or ''}, {best['score']:.2f}")
            save({**(known or {}), **chosen})
    return chosen


def _mean_delta(
    rows: Sequence[Sequence[float]], base: Sequence[Sequence[float]], directions: Sequence[bool]
) -> float:
    if not all(math.isfinite(value) for row in rows for value in row):
        return math.inf  # diverged on a seed
    pairs = zip(rows, base, strict=True)
    return sum(float(delta_m(row, reference, directions)) for row, reference in pairs) / len(rows)


def tuned_on(chosen: Mapping[str, Any]) -> set[int]:
    """The seeds that choices were made on."""
    rows = [row for choice in chosen.values() for row in choice.get("candidates", [])]
    return {seed for row in rows for seed in row.get("seeds", [])}


def chosen_settings(name: str, optimizer: str) -> dict[str, Any]:
    """The choices that come with the package: by label, ``lr`` and ``options``."""
    resource = importlib.resources.files("go4align.tasks") / "chosen.json"
    if not resource.is_file():
        return {}
    table: dict[str, Any] = json.loads(resource.read_text(encoding="utf-8"))
    found: dict[str, Any] = table.get(f"{name}/{optimizer}", {})
    return found


# --- running ----------------------------------------------------------------------------------


def bench(
    name: str,
    labels: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    chosen: Mapping[str, Any],
    optimizer: str = "adam",
    jobs: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Train every method on every seed; runs that are finished are kept.

    Args:
        name: Of the problem.
        labels: Methods.
        seeds: One paired run of every method for each.
        out: Folder for ``<label>/seed-<n>/``.
        chosen: ``lr`` and ``options`` by label; 1e-3 and the first of the grid where missing.
        optimizer: One of ``OPTIMIZERS``.
        jobs: Processes.
        progress: Called with a line per run.

    Returns:
        The run folders.

    Raises:
        ConfigError: if a seed is one that settings were chosen on.
    """
    overlap = sorted({*seeds} & {*tuned_on(chosen)})
    if overlap:
        raise ConfigError(f"settings were chosen on seeds {overlap}: report other ones")
    n_tasks = len(problem(name).tasks)
    arguments, folders = [], []
    for seed in seeds:
        for label in labels:
            choice = chosen.get(label, {})
            options = choice.get("options", entry(label).candidates(n_tasks)[0])
            settings = _settings(name, label, choice.get("lr", 1e-3), optimizer, options)
            folder = out / label / f"seed-{seed}"
            folders.append(folder)
            if not runs.finished(folder, asdict(settings)):
                arguments.append((name, settings, seed, str(folder), label))
    with Workers(jobs) as workers:
        for argument, result in zip(arguments, workers.map(arguments), strict=True):
            shown = ", ".join(f"{k} {v:.4g}" for k, v in result.test.items())
            progress(f"{argument[4]} seed {argument[2]}: {shown}")
    return folders
