"""The demo: a verified function, step rewards from returns, and a policy trained on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lare import decomposition, training
from lare._kit import Report, RunFolder
from lare._kit.run import SUMMARY
from lare.contributions import contributions
from lare.latent_reward import LatentReward
from lare.methods import create
from lare.verification import VerificationReport, verify

JOB = "lare demo"
#: Environment, its time limit, episodes of random actions, decoder steps.
ENVIRONMENTS = (("Pendulum-v1", 200, 60, 1500), ("HalfCheetah-v5", 200, 60, 1500))
#: What is compared in the table of step rewards.
REWARDS = ("lare", "lare-rrd-unbiased", "rrd-unbiased")
POLICY = training.Settings("Pendulum-v1", steps=5000, evaluate_every=1000)


def run(
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Do all of it once.

    Args:
        out: folder for ``summary.json`` and ``report.html``.
        seed: of everything.
        steps: environment steps of the two training runs; None is 5000.
        overwrite: empty ``out`` first.
        progress: called before each part.

    Returns:
        What is in the summary.

    Raises:
        RunFolderError: if ``out`` has content and ``overwrite`` is false.
    """
    import torch

    torch.set_num_threads(1)  # the networks are small: more threads would wait for each other
    folder = RunFolder(out, overwrite=overwrite)
    page = Report("Step rewards from returns")
    progress("Pendulum-v1: training TD3 with the return alone, and with lare")
    scores = {}
    settings = replace(POLICY, seed=seed, steps=steps or POLICY.steps)
    for method in ("episodic", "lare"):
        scores[method] = training.train(replace(settings, method=method))
    _training(page, scores)
    checked, tables = {}, []
    for name, limit, episodes, updates in ENVIRONMENTS:
        progress(f"{name}: verifying the shipped function in a child process")
        function = LatentReward.shipped(name)
        env = _env(name, limit)
        report = verify(function, env, seed=seed)
        checked[name] = report.as_dict()
        progress(f"{name}: step rewards from {episodes} episodes of random actions")
        rows = _qualities(name, function, env, episodes, updates, seed, page, report)
        tables += rows
    results = {"verification": checked, "step_rewards": tables, "training": scores}
    results = {"headline": headline(results), **results}
    folder.write_summary(results, settings={"job": JOB, "training": asdict(settings)}, seed=seed)
    page.write(folder.path / "report.html")
    return results


def _env(name: str, limit: int) -> Any:
    import gymnasium

    return gymnasium.make(name, max_episode_steps=limit)


def _qualities(
    name: str,
    function: LatentReward,
    env: Any,
    episodes: int,
    updates: int,
    seed: int,
    page: Report,
    report: VerificationReport,
) -> list[dict[str, Any]]:
    data = decomposition.episodes_of(env, episodes, seed)
    _, held_out = decomposition.split(data, 0.25)
    rows = []
    for method in REWARDS:
        relabeler = create(
            method,
            function,
            env.observation_space,
            env.action_space,
            capacity=len(data.reward),
            seed=seed,
        )
        assert relabeler is not None
        found = decomposition.measure(relabeler, data, updates=updates)
        rows.append({"environment": name, "method": method, **asdict(found)})
        if method == "lare":
            shown = relabeler
    page.heading(f"{name}, episodes of {env.spec.max_episode_steps} steps")
    page.paragraph(
        f"The shipped function was {'accepted' if report.accepted else 'rejected'} on "
        f"{report.transitions} steps; the child process was limited by "
        f"{', '.join(report.isolation) or 'its time alone'}."
    )
    page.table(
        ["factor", "mean", "standard deviation"],
        [[factor.name, factor.mean, factor.std] for factor in report.factors],
        "Factors on random actions",
    )
    page.table(
        ["method", "correlation with the true step reward", "error of the return"],
        [[row["method"], row["correlation"], row["return_error"]] for row in rows],
        "Learned from returns, compared on held-out episodes (error 1: as good as the mean)",
    )
    one = type(held_out)(*(c[held_out.episode == held_out.episode[0]] for c in held_out))
    shares = contributions(shown, one)
    predicted = shown.model_rewards(one)
    from lare import _charts

    page.figure(
        _charts.episode(one.reward, predicted, dict(list(shares.items())[:6])),
        f"{name}: one held-out episode. Above the reward of each step, below how far each factor "
        "moves it",
    )
    return rows


def _training(page: Report, scores: dict[str, dict[str, Any]]) -> None:
    from lare import _charts

    page.heading("TD3 on Pendulum-v1, which pays at the end of the episode")
    page.figure(
        _charts.curves({name: [run["scores"]] for name, run in scores.items()}),
        "True return of the deterministic policy, mean of 10 episodes, one seed. episodic: paid "
        "the return at the end; lare: paid at every step what was learned from such returns",
    )
    zero, random = (scores["lare"][key] for key in ("zero_actions", "random_actions"))
    page.paragraph(f"Zero actions score {zero:.0f}, random ones {random:.0f}.")


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The demo in one line: the job, before, after, and what is missing of its promises."""
    last = _last(results)
    return {
        "job": "Pendulum, paid at the end of an episode: true return",
        "before": f"{last['episodic']:.0f} from the return alone",
        "after": f"{last['lare']:.0f} with lare",
        "missing": broken_promises(results),
    }


def _last(results: dict[str, Any]) -> dict[str, float]:
    """The return at the end of the training, by method."""
    return {name: list(run["scores"].values())[-1] for name, run in results["training"].items()}


def broken_promises(results: dict[str, Any]) -> list[str]:
    """Effects that the demo promises and did not show."""
    missing = [
        f"the shipped function for {name} was rejected"
        for name, report in results["verification"].items()
        if not report["accepted"]
    ]
    found = {(row["environment"], row["method"]): row for row in results["step_rewards"]}
    for name, *_ in ENVIRONMENTS:
        ours, raw = (found[name, method]["correlation"] for method in ("lare", "rrd-unbiased"))
        if not ours > (0.0 if math.isnan(raw) else raw):
            missing.append(f"{name}: factors correlate {ours:.2f} with the reward, raw {raw:.2f}")
    last = _last(results)
    if not last["lare"] > last["episodic"] + 300:
        missing.append(
            f"TD3 reached {last['lare']:.0f} with lare and {last['episodic']:.0f} without: at "
            "least 300 more was expected"
        )
    return missing


def is_of_demo(out: Path) -> bool:
    """Whether a folder holds what this demo wrote and nothing else."""
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        names = {path.name for path in out.iterdir()}
    except (OSError, ValueError):
        return False
    mine: bool = summary.get("settings", {}).get("job") == JOB
    return mine and names <= {SUMMARY, "report.html"}


def rows(results: dict[str, Any]) -> list[list[str]]:
    """The table of step rewards, as text."""
    return [
        [
            row["environment"],
            row["method"],
            f"{row['correlation']:.3f}",
            f"{row['return_error']:.3f}",
        ]
        for row in results["step_rewards"]
    ]


def score_rows(results: dict[str, Any]) -> list[list[str]]:
    """The table of the training runs, as text."""
    runs = results["training"]
    steps = list(runs["lare"]["scores"])
    table = [[str(s), *(f"{run['scores'][s]:.0f}" for run in runs.values())] for s in steps]
    table += [
        [name.replace("_", " "), *(f"{run[name]:.0f}" for run in runs.values())]
        for name in ("zero_actions", "random_actions")
    ]
    return table
