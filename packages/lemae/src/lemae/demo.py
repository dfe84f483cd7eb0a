"""The demo: Pass solved with key states, and plain IPPO beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lemae import report, runs, training
from lemae._kit import Report, RunFolder
from lemae._kit.run import SUMMARY
from lemae.checks import check
from lemae.errors import ConfigError
from lemae.key_states import KeyStateSet
from lemae.probes import probes
from lemae.settings import Settings

JOB = "lemae demo"
HEAD = ["method", "steps", "first success", "win rate, sampled", "greedy", "seconds"]
#: With the aids of the trainer; see the documentation for runs as published.
LEMAE = Settings(
    "pass",
    steps=400_000,
    evaluate_every=20_000,
    sticky=6.0,
    self_imitation=0.3,
    stop_at=0.99,
)
#: As it comes, and for part of the steps: it does not get anywhere.
PLAIN = replace(
    LEMAE, method="plain", steps=100_000, evaluate_every=50_000, sticky=None, self_imitation=0.0
)
WANTED = 0.9
_RUNS = ("lemae", "plain")
#: What the demo writes; with a dot and an ending, the half of a file of one that was killed.
_OURS = re.compile(r"\.?(?:summary\.json|report\.html)(?:\.\w+)?|lemae|plain")


def run(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Do all of it once.

    Args:
        out: folder for ``summary.json``, ``report.html`` and the two runs. It is emptied first if
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
    env = training.make_env(LEMAE, 16)
    checked = check(KeyStateSet.shipped("pass"), env.task_spec, probes(env, seed=seed))
    methods = {
        "lemae": replace(LEMAE, seed=seed, steps=steps or LEMAE.steps),
        "plain": replace(PLAIN, seed=seed),
    }
    results: dict[str, Any] = {"check": checked.as_dict()}
    for name, settings in methods.items():
        progress(f"Pass: training IPPO, {'with' if name == 'lemae' else 'without'} key states")
        found = training.train(settings, folder.path / name)
        results[name] = {key: found[key] for key in _KEPT}
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
    found = [run for name in ("lemae", "plain") for run in report.load(folder / name)]
    page.table(HEAD, rows(results), "Environment steps, and win rate over 100 episodes at the end")
    for summary in found:
        name = summary["folder"].name
        page.heading("With key states" if name == "lemae" else "Without key states")
        report.show(page, summary, name)
    return page


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
            and not any(runs.strangers(out / name) for name in _RUNS if (out / name).exists())
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The table, as text."""
    return [
        [
            {"lemae": "IPPO with key states", "plain": "IPPO"}[name],
            str(results[name]["steps"]),
            str(results[name]["first_success_step"] or "none"),
            f"{results[name]['win_rate_sampled']:.2f}",
            f"{results[name]['win_rate_greedy']:.2f}",
            f"{results[name]['seconds']:.0f}",
        ]
        for name in ("lemae", "plain")
    ]
