"""What the paper of lare claims, and what was measured."""

from __future__ import annotations

from functools import cache
from typing import Any

from . import written
from .claim import NOT_RUN, Case, Claim, Found, ahead, difference, interval
from .lare import load

PAPER = "lare, published decoder"
TASKS = ("Pendulum-v1", "Reacher-v5", "HalfCheetah-v5")
TEAM = "team-cooperative-navigation-6"
#: The paper's figures are curves, which could not be read: no case has a published number.
ARXIV = "arXiv 2412.11120"
POLICY = "lare/benchmarks.md#does-a-policy-learn-from-them"


def runs_of(name: str) -> dict[str, Any]:
    """The rows of a result file."""
    return load(name)["results"]["rows"]


@cache
def minus(name: str, method: str, other: str) -> dict[str, Any] | None:
    """Final true return of one method over another, in pairs; None if one of them was not run."""
    rows = runs_of(name)
    if not {method, other} <= rows.keys():
        return None
    first, second = (
        [list(run["scores"].values())[-1] for run in rows[label]["runs"]]
        for label in (method, other)
    )
    return difference(first, second)


def over(name: str, method: str, other: str) -> Found:
    """Whether a method is ahead of another."""
    found = minus(name, method, other)
    size = abs(runs_of(name)["dense"]["return"]["mean"])
    digits = 2 if size < 10 else 1 if size < 100 else 0
    return NOT_RUN if found is None else ahead(found, digits)


def learned(task: str) -> str:
    """The result file of a task for one agent."""
    return f"learning-{task}"


def against(others: tuple[str, ...], tasks: tuple[str, ...] = TASKS) -> tuple[Case, ...]:
    """One case per task and other method."""
    return tuple(
        Case(
            f"{task.partition('-v')[0]}: {other}",
            paper=over(learned(task), PAPER, other),
            ours=over(learned(task), "lare", other),
        )
        for task in tasks
        for other in others
    )


def budget() -> str:
    """Steps and seeds of the runs with one agent."""
    settings = [load(learned(task))["settings"] for task in TASKS]
    steps = ", ".join(
        f"{task.partition('-v')[0]} {found['steps']}"
        for task, found in zip(TASKS, settings, strict=True)
    )
    cut = settings[-1]["max_episode_steps"]
    return (
        f"TD3, at most so many steps: {steps} (episodes of HalfCheetah cut to {cut} steps); "
        f"{len(settings[0]['seeds'])} seeds each. The paper trains for a million"
    )


def team() -> str:
    """Steps and seeds of the runs with several agents."""
    settings = load(TEAM)["settings"]
    return f"PPO with shared parameters, {settings['steps']} steps, {len(settings['seeds'])} seeds"


AHEAD = "The 95 % interval of the difference in final true return, in pairs of seeds, is above 0."


def temporal() -> Claim:
    """Credit in time."""
    same = over(learned("Pendulum-v1"), "lare", "rrd, normalized")
    return Claim(
        "L1",
        "LaRe's credit for steps beats RD, RRD, VIB, IRCR and Diaster",
        f"{ARXIV}, curves on MuJoCo, not readable here",
        AHEAD,
        budget(),
        POLICY,
        tuple(map(learned, TASKS)),
        against(("rd", "rrd", "vib", "ircr", "diaster")),
        "Pendulum is not a task of the paper; Walker2d and HumanoidStandup were not run. Our form "
        "pays rewards of standard deviation 1, all others pay them as they are: not all of a "
        f"difference is due to the factors. Against `rrd` paid like it, it ends {same.text} on "
        "Pendulum.",
    )


#: What the paper has besides, and was not run.
OTHER_TEAMS = (Case("Cooperative Navigation, 15"), Case("Predator-Prey, 6"))


def attention() -> Claim:
    """Credit among agents, against methods made for it."""
    reduced = load(TEAM)["settings"]["attention"]
    plain = " and ".join(over(TEAM, other, "episodic").text for other in ("arel", "stas"))

    def small(other: str) -> Found:
        # Methods that were not given what they need: being ahead of them shows nothing.
        return Found(f"{over(TEAM, 'lare', other).text}, but reduced in size")

    return Claim(
        "L2a",
        "LaRe shares credit among agents better than AREL and STAS",
        f"{ARXIV}, curves on MPE, not readable here",
        AHEAD,
        team(),
        POLICY,
        (TEAM,),
        (
            *(Case(f"Cooperative Navigation, 6: {m}", ours=small(m)) for m in ("arel", "stas")),
            *OTHER_TEAMS,
        ),
        f"AREL and STAS had a width of {reduced['model']['hidden']} and {reduced['updates']} "
        f"updates every {reduced['every']} rollouts, far below what is published. Against the "
        f"plain return they end {plain}: these rows say nothing about the methods.",
    )


def decomposition() -> Claim:
    """Credit among agents, against decomposition of raw numbers."""
    others = ("rd", "rrd", "ircr")
    return Claim(
        "L2b",
        "With several agents LaRe beats RD, RRD and IRCR",
        f"{ARXIV}, curves on MPE, not readable here",
        AHEAD,
        team(),
        POLICY,
        (TEAM,),
        (
            *(Case(f"Cooperative Navigation, 6: {m}", ours=over(TEAM, "lare", m)) for m in others),
            *OTHER_TEAMS,
        ),
        "The paper's decoder was not run with several agents.",
    )


def dense() -> Claim:
    """Against the true reward."""
    plain = minus(learned("Pendulum-v1"), "lare, not normalized", "dense")
    return Claim(
        "L3",
        "On some tasks LaRe beats the true step reward",
        f"{ARXIV}, curves, not readable here",
        f"{AHEAD} Some tasks are at least two.",
        f"{budget()}. Cooperative Navigation: {team()}",
        POLICY,
        (*map(learned, TASKS), TEAM),
        (
            *against(("dense",)),
            Case("Cooperative Navigation, 6: dense", ours=over(TEAM, "lare", "dense")),
        ),
        "The true reward is paid as it is, that of our form with standard deviation 1. Paid as it "
        f"is, our form ends {ahead(plain, 0).text} against the true reward on Pendulum.",
        needed=2,
    )


def direct() -> Claim:
    """Against a reward that the model wrote whole."""
    cases = (
        *against(("direct",)),
        Case("Cooperative Navigation, 6: direct", ours=over(TEAM, "lare", "direct")),
    )
    return Claim(
        "L4a",
        "A reward that the model writes whole is worse",
        f"{ARXIV}, ablation, not readable here",
        AHEAD,
        budget(),
        POLICY,
        tuple(map(learned, TASKS)),
        cases,
        "The whole rewards are recorded replies as well (last section); a model that knows these "
        "environments may know their rewards by heart.",
    )


def checked() -> Claim:
    """What self-prompting and verification are worth."""
    sets = [found for found in written.lare() if not found.direct]
    at_once = sum(found.verdicts[0] == "accepted" for found in sets)
    candidates = sorted({found.candidates for found in sets})
    return Claim(
        "L4b",
        "Self-prompting and pre-verification matter",
        f"{ARXIV}, ablation, not readable here",
        "Training without them is worse.",
        "Nothing was trained without them",
        "lare/method.md#the-shipped-functions",
        (),
        (Case("Without self-prompting"), Case("Without pre-verification")),
        f"{len(sets)} recorded dialogues of {', '.join(map(str, candidates))} candidates and a "
        f"summary each: {at_once} of {len(sets)} summaries were accepted at the first check, so "
        "that verification never had to repair one. No candidate was trained with by itself.",
    )


def both_sides() -> tuple[str, str]:
    """A case for the package and one against it, for the README."""

    def beside(task: str, digits: int) -> str:
        rows = runs_of(learned(task))
        shown = (interval(rows[label]["return"], digits) for label in ("lare", "rrd"))
        return "{} against {} of RRD on raw numbers".format(*shown)

    return (
        f"Reacher: return {beside('Reacher-v5', 1)}",
        f"HalfCheetah: {beside('HalfCheetah-v5', 0)}",
    )


def claims() -> tuple[Claim, ...]:
    """All of them."""
    return temporal(), attention(), decomposition(), dense(), direct(), checked()
