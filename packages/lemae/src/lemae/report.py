"""Tables and a page over finished training runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemae import runs
from lemae._kit import Report, Summary, summarize
from lemae._kit.run import SUMMARY
from lemae.errors import ConfigError, LemaeError
from lemae.ksmt import KSMT, ChainMemory, DagMemory
from lemae.labels import Order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD = [
    "task",
    "method",
    "seeds",
    "seeds with a success",
    "first success, k steps: median (range)",
    "win rate: mean, IQM [95 %]",
    "greedy",
    "minutes per seed",
]


@dataclass(frozen=True)
class Row:
    """One method on one task.

    Attributes:
        task: with its options and the length of the training.
        method: with the learner and the settings in which it differs from others.
        seeds: of the runs.
        first_success: environment steps by seed, None where there was none.
        sampled: win rates of the sampled policy.
        greedy: mean win rate of the greedy one.
        minutes: mean length of a run.
    """

    task: str
    method: str
    seeds: tuple[int, ...]
    first_success: tuple[int | None, ...]
    sampled: Summary
    greedy: float
    minutes: float


def load(folder: Path) -> list[dict[str, Any]]:
    """Read the summaries of all finished runs below a folder; those of something else do not count.

    Raises:
        ConfigError: if there is none, or one is damaged.
    """
    paths = sorted(Path(folder).rglob(SUMMARY))
    found = [
        {**summary, "settings": _settings_of(summary), "folder": path.parent}
        for path in paths
        if (summary := runs.read(path)) is not None
    ]
    for run in found:
        _check_memories(run)
    if not found:
        raise ConfigError(
            f"{folder} holds no finished run: `lemae train --out {folder}` makes them"
        )
    return found


def _check_memories(run: dict[str, Any]) -> None:
    """Read what is drawn of a run."""
    results = run["results"]
    try:
        for saved in filter(None, (results.get(key) for key in ("tree_before", "tree"))):
            met, names = _memory(saved).met, results["key_states"]
            if len(met) != len(names) or not all(isinstance(name, str) for name in names):
                raise ConfigError(f"{len(met)} key states are called {names}")
    except (LemaeError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{run['folder'] / SUMMARY} is damaged ({error!r}): move it away"
        ) from error


def _settings_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run; one that had to do without key states is no run of its method."""
    settings: dict[str, Any] = summary["settings"]
    if summary["results"].get("failure") is None:
        return settings
    return {**settings, "method": f"{settings['method']} without key states"}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The table, as JSON."""
    return [asdict(row) for row in table(load(folder))]


def table(found: list[dict[str, Any]]) -> list[Row]:
    """Put runs of the same settings but the seed in a row, the best first."""
    made = []
    for (task, method), group in _groups(found).items():
        by_seed = {run["settings"]["seed"]: run["results"] for run in group}
        results = [by_seed[seed] for seed in sorted(by_seed)]
        made.append(
            Row(
                task,
                method,
                tuple(sorted(by_seed)),
                tuple(result["first_success_step"] for result in results),
                summarize([result["win_rate_sampled"] for result in results]),
                statistics.fmean(result["win_rate_greedy"] for result in results),
                statistics.fmean(result["seconds"] for result in results) / 60,
            )
        )
    return sorted(made, key=lambda row: (row.task, -row.sampled.mean, _median(row.first_success)))


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text."""
    sampled, first = Summary(**row["sampled"]), row["first_success"]
    rate = f"{sampled.mean:.2f}"
    if sampled.runs > 1:
        rate += f", {sampled.iqm:.2f} [{sampled.low:.2f}, {sampled.high:.2f}]"
    return [
        row["task"],
        row["method"],
        str(len(row["seeds"])),
        str(sum(step is not None for step in first)),
        steps_text(first),
        rate,
        f"{row['greedy']:.2f}",
        f"{row['minutes']:.1f}",
    ]


def steps_text(first: tuple[int | None, ...]) -> str:
    """Median, lowest and highest of steps to the first success, in thousands; none stays none."""

    def shown(step: float) -> str:
        return "none" if step == np.inf else f"{step / 1000:.0f}"

    steps = sorted(np.inf if step is None else step for step in first)
    if steps[0] == steps[-1]:
        return shown(steps[0])
    return f"{shown(_median(first))} ({shown(steps[0])} to {shown(steps[-1])})"


def write(folder: Path) -> Path:
    """Write ``report.html`` into the folder of the runs."""
    from lemae import _charts

    found = load(folder)
    page = Report("Key states and sparse rewards")
    page.table(HEAD, [cells(asdict(row)) for row in table(found)], "Runs by method")
    groups = _groups(found)
    for task in dict.fromkeys(task for task, _ in groups):
        here = {method: group for (name, method), group in groups.items() if name == task}
        page.heading(task)
        lines = {method: [run["results"]["curve"] for run in g] for method, g in here.items()}
        page.figure(_charts.curves(lines), "Win rate over environment steps")
        for method, group in here.items():
            show(page, group[0], f"{method}, seed {group[0]['settings']['seed']}")
    return page.write(Path(folder) / "report.html")


def show(page: Report, run: dict[str, Any], title: str) -> None:
    """Add what one run looked like: memory, visits, and what an episode earned.

    Args:
        page: is added to.
        run: a summary, with its ``folder``.
        title: what to call it.
    """
    from lemae import _charts

    results = run["results"]
    names = results["key_states"]
    for key, when in (("tree_before", "when exploration ended"), ("tree", "at the end")):
        if not results.get(key):
            continue
        memory = _memory(results[key])
        text = (
            "mean place of each key state in the order, 0 for the first"
            if isinstance(memory, ChainMemory)
            else "orders in which key states were met"
        )
        when += ", pruned" if memory.pruned else ""
        caption = f"{title}: {text}, {when}; episodes, and how many won"
        page.figure(draw_memory(results[key], names), caption)
    arrays = runs.read_arrays(run["folder"])
    pictures = visit_maps(run["settings"], arrays)
    if pictures:
        page.figure(_charts.maps(pictures), f"{title}: where the agents were")
    if len(arrays.get("example_intrinsic", ())) and names:
        picture = _charts.episode(arrays["example_intrinsic"], arrays["example_goals"], names)
        page.figure(picture, f"{title}: what one episode earned on the way to its key states")


def draw_memory(saved: dict[str, Any], names: Sequence[str]) -> Figure:
    """Draw a memory of any kind.

    Args:
        saved: ``tree`` or ``tree_before`` of a run.
        names: of the key states.
    """
    from lemae import _charts

    memory = _memory(saved)
    if isinstance(memory, ChainMemory):
        return _charts.chain(memory, names)
    nodes = dict(memory.walk())
    labels = {node: _label(memory, node, names) for node in nodes}
    return _charts.graph(nodes, _edges(memory), labels)


def _memory(saved: dict[str, Any]) -> KSMT | DagMemory | ChainMemory:
    """The memory in a summary, of whichever kind."""
    kinds = {kind.kind: kind for kind in (KSMT, DagMemory, ChainMemory)}
    return kinds[saved["memory"]["kind"]].from_json(json.dumps(saved))


def _edges(memory: KSMT | DagMemory) -> list[tuple[Order, Order]]:
    """Pairs of a node and one that came next."""
    nodes = dict(memory.walk())
    below = [(node, (*node, k)) for node in nodes for k in memory.children(node)]
    if isinstance(memory, DagMemory):  # whose nodes are sets, written in ascending order
        below = [(node, tuple(sorted(child))) for node, child in below]
    return [(node, child) for node, child in below if child in nodes]


def _label(memory: KSMT | DagMemory, node: Order, names: Sequence[str]) -> str:
    """What a node is called: the key state met last, or the set."""
    if not node:
        return "start"
    last = node if isinstance(memory, DagMemory) else node[-1:]
    return " + ".join(names[k] for k in last)


def visit_maps(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pictures of the agents' visits, before the first success and in all; grid tasks only."""
    from lemae import envs
    from lemae.settings import Settings
    from lemae.training import make_env

    if "visits" not in arrays or settings["task"] not in envs.names():
        return {}
    env = make_env(Settings(settings["task"], options=settings["options"]), 1)
    titles = {"visits_before_success": "before the first success", "visits": "in all"}
    if np.array_equal(arrays["visits"], arrays["visits_before_success"]):  # there was no success
        del titles["visits_before_success"]
    return {
        title: envs.render(env, visits=arrays[key].sum(0), cell_px=8)
        for key, title in titles.items()
        if key in arrays
    }


def _groups(found: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Runs by task and method, in the order of the seeds."""
    name = _namer(found)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in sorted(found, key=lambda run: run["settings"]["seed"]):
        groups.setdefault(name(run["settings"]), []).append(run)
    return groups


#: Settings that say what is compared, or that are told anyway.
_TOLD = ("task", "options", "steps", "method", "algo", "seed", "evaluate_every", "stop_at")
#: Settings that follow from the method where they are not given: told if they differ within one.
_OF_METHOD = ("explore", "eps_low", "eps_high", "key_states", "baseline", "memory")


def _namer(found: list[dict[str, Any]]) -> Callable[[dict[str, Any]], tuple[str, str]]:
    """Names of task and method: the method has the settings in which runs on the task differ."""
    settings = [run["settings"] for run in found]

    def name(mine: dict[str, Any]) -> tuple[str, str]:
        same_task = [one for one in settings if _task(one) == _task(mine)]
        same = [o for o in same_task if (o["method"], o["algo"]) == (mine["method"], mine["algo"])]
        keys = [key for key in _differing(same_task) if key not in _OF_METHOD]
        keys += [key for key in _differing(same) if key in _OF_METHOD]
        told = [f"{key} {mine[key]}" for key in sorted(keys) if mine.get(key) is not None]
        return _task(mine), ", ".join([f"{mine['method']}-{mine['algo']}", *told])

    return name


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    """Names of settings that are not the same in all."""
    names = sorted({key for one in settings for key in one} - set(_TOLD))
    return [
        n for n in names if len({json.dumps(one.get(n), sort_keys=True) for one in settings}) > 1
    ]


def _task(settings: dict[str, Any]) -> str:
    options = [f"{key}={value}" for key, value in settings["options"].items()]
    return ", ".join([settings["task"], *options, f"{settings['steps'] // 1000}k steps"])


def _median(first: tuple[int | None, ...]) -> float:
    return statistics.median(np.inf if step is None else step for step in first)
