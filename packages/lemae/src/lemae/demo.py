"""The demo: Pass solved with key states; beside it IPPO with the same aids, and as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lemae import _charts, report, runs, training
from lemae._kit import Report, RunFolder
from lemae._kit.run import SUMMARY
from lemae.checks import check
from lemae.errors import ConfigError
from lemae.key_states import KeyStateSet
from lemae.probes import probes
from lemae.settings import Settings

JOB = "lemae demo"
HEAD = ["method", "steps", "first success", "win rate, sampled", "greedy", "seconds"]
_LEMAE = Settings(
    "pass",
    steps=400_000,
    evaluate_every=20_000,
    sticky=6.0,
    self_imitation=0.3,
    stop_at=0.99,
)
_AIDED = replace(_LEMAE, method="plain", steps=100_000, evaluate_every=50_000)
#: Folder of each run, what it is, and its settings: LEMAE with the trainer's aids, the same aids
#: without key states, and neither; the last two for part of the steps.
RUNS = {
    "lemae": ("IPPO with key states", _LEMAE),
    "aided": ("IPPO with the same aids", _AIDED),
    "plain": ("IPPO", replace(_AIDED, sticky=None, self_imitation=0.0)),
}
WANTED = 0.9
#: What the demo writes; with a dot and an ending, the half of a file of one that was killed.
_OURS = re.compile(rf"\.?(?:summary\.json|report\.html)(?:\.\w+)?|{'|'.join(RUNS)}")


def run(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Do all of it once.

    Args:
        out: folder for ``summary.json``, ``report.html`` and the runs. It is emptied first if
            this demo wrote it, to the end or not.
        seed: of everything.
        steps: at most, of the run with key states.
        progress: called before each part.

    Returns:
        What is in the summary.

    Raises:
        ConfigError: if ``out`` has content that the demo did not write.
        LemaeError: if another process is writing to it.
    """
    import torch

    torch.set_num_threads(1)  # the networks are small: more threads would wait for each other
    with runs.locked(out):
        if any(out.iterdir()) and not is_of_demo(out):
            raise ConfigError(
                f"{out} has content that the demo did not write: name another folder, or move it "
                "away"
            )
        runs.empty(out)
        return _run(RunFolder(out), seed, steps, progress)


def _run(
    folder: RunFolder, seed: int, steps: int | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    # Whose folder it is, should the demo be cut off.
    folder.write_summary({}, settings={"job": JOB}, seed=seed)
    progress("Pass: checking the shipped key states in a child process")
    env = training.make_env(_LEMAE, 16)
    checked = check(KeyStateSet.shipped("pass"), env.task_spec, probes(env, seed=seed))
    results: dict[str, Any] = {"check": checked.as_dict()}
    for name, (title, settings) in RUNS.items():
        progress(f"Pass: training {title}")
        most = steps if steps and name == "lemae" else settings.steps
        settings = replace(settings, seed=seed, steps=most)
        found = training.train(settings, folder.path / name)
        results[name] = {key: found[key] for key in _KEPT}
    results = {"headline": headline(results), **results}
    folder.write_summary(results, settings={"job": JOB}, seed=seed)
    _page(results, folder.path).write(folder.path / "report.html")
    return results


_KEPT = (
    "steps",
    "first_success_step",
    "win_rate_sampled",
    "win_rate_greedy",
    "seconds",
    "steps_per_second",
    "guidance_share",
    "key_states",
    "hits",
)


def _page(results: dict[str, Any], folder: Path) -> Report:
    page = Report("Pass: a reward on success alone")
    page.paragraph(
        "Two agents on a grid of 30 by 30. The door in the wall is open only while one of them "
        "stands near a switch, and both have to get to the other side. Nothing is paid before."
    )
    found = [run for name in RUNS for run in report.load(folder / name)]
    page.table(HEAD, rows(results), "Environment steps, and win rate over 100 episodes at the end")
    lines = {RUNS[run["folder"].name][0]: [run["results"]["curve"]] for run in found}
    page.figure(_charts.curves(lines), "Win rate over environment steps, one run each")
    page.paragraph(
        "The aids are random actions that are kept for six steps on average, and imitation of "
        "earlier successes. On a map of this size they find the first success without key states "
        "too, in most runs a little later; the lead of the key states grows with the map."
    )
    for summary in found:
        name = summary["folder"].name
        page.heading(RUNS[name][0])
        report.show(page, summary, name)
    return page


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The demo in one line: the job, before, after, and what is missing of its promises."""
    won = {name: results[name]["win_rate_sampled"] for name in RUNS}
    return {
        "job": "Pass, where success alone is rewarded: share of episodes won",
        "before": f"{won['plain']:.2f} plain IPPO, {won['aided']:.2f} with the same aids",
        "after": f"{won['lemae']:.2f} with key states",
        "missing": broken_promises(results),
    }


def broken_promises(results: dict[str, Any]) -> list[str]:
    """Effects that the demo promises and did not show."""
    missing = []
    if not results["check"]["accepted"]:
        missing.append("the shipped key states of Pass were rejected")
    ours, plain = results["lemae"]["win_rate_sampled"], results["plain"]["win_rate_sampled"]
    if not ours >= WANTED:
        missing.append(f"with key states {ours:.2f} of the episodes are won: {WANTED} was expected")
    if not plain < ours:
        missing.append(f"plain IPPO wins {plain:.2f}, with key states it is {ours:.2f}")
    return missing


def is_of_demo(out: Path) -> bool:
    """Whether a folder holds what this demo wrote, to the end or not, and nothing else."""
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        mine: bool = summary["settings"]["job"] == JOB
        return (
            mine
            and all(_OURS.fullmatch(path.name) for path in out.iterdir())
            and not any(runs.strangers(out / name) for name in RUNS if (out / name).exists())
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The table, as text."""
    return [
        [
            title,
            str(results[name]["steps"]),
            str(results[name]["first_success_step"] or "none"),
            f"{results[name]['win_rate_sampled']:.2f}",
            f"{results[name]['win_rate_greedy']:.2f}",
            f"{results[name]['seconds']:.0f}",
        ]
        for name, (title, _settings) in RUNS.items()
    ]
