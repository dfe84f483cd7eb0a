"""A claim of a paper, what was measured of it here, and the rule that judges it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowmem_bp._kit import paired_difference

REPRODUCED, PARTLY, NOT_REPRODUCED = "reproduced", "partly", "not reproduced"
NOT_MEASURED, NOT_MEASURABLE = "not measured", "not measurable here"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_MEASURED, NOT_MEASURABLE)


@dataclass(frozen=True)
class Found:
    """What a method reached in one case.

    Attributes:
        text: the figure.
        shown: whether it shows the claim; None if it says nothing about it.
        open: whether it does not show the contrary either.
    """

    text: str
    shown: bool | None = None
    open: bool = False

    def __str__(self) -> str:
        if self.shown is None:
            return self.text
        return f"{'✓' if self.shown else '≈' if self.open else '✗'} {self.text}"


NOT_RUN = Found("not run")


@dataclass(frozen=True)
class Case:
    """One task, block or comparison of a claim.

    Attributes:
        name: what it is.
        published: the paper's figure for it.
        paper: what the paper's form of the method reached here.
        ours: what this package's form reached.
    """

    name: str
    published: str = ""
    paper: Found = NOT_RUN
    ours: Found = NOT_RUN


@dataclass(frozen=True)
class Claim:
    """A claim and everything the page says about it.

    Attributes:
        key: its number.
        title: the claim.
        source: where it stands.
        rule: when a case shows it.
        ran: task, budget and seeds.
        section: where the benchmark pages have more, as a link.
        files: names of the result files.
        cases: the cases.
        note: what else a reader has to know.
        needed: how many cases have to show it; all of them if None.
        absent: the verdicts on the two forms where no case says anything; "–" if the claim is not
            about one of them.
    """

    key: str
    title: str
    source: str
    rule: str
    ran: str
    section: str
    files: tuple[str, ...]
    cases: tuple[Case, ...]
    note: str
    needed: int | None = None
    absent: tuple[str, str] = (NOT_MEASURED, NOT_MEASURED)

    @property
    def verdicts(self) -> tuple[str, str]:
        """On the paper's form, and on this package's."""
        return (
            verdict([case.paper for case in self.cases], self.needed, self.absent[0]),
            verdict([case.ours for case in self.cases], self.needed, self.absent[1]),
        )

    @property
    def judged(self) -> tuple[str, str]:
        """The same, with the number of cases that show the claim."""
        first, second = self.verdicts
        return (
            _counted(first, [case.paper for case in self.cases]),
            _counted(second, [case.ours for case in self.cases]),
        )


def verdict(found: Sequence[Found], needed: int | None = None, absent: str = NOT_MEASURED) -> str:
    """Judge a claim by its cases; one that was not run does not show it.

    Args:
        found: what was found in each case.
        needed: how many have to show the claim; all if None.
        absent: the verdict where no case says anything.
    """
    if all(each.shown is None for each in found):
        return absent
    shown = sum(each.shown is True for each in found)
    if shown >= (len(found) if needed is None else needed):
        return REPRODUCED
    return PARTLY if shown else NOT_REPRODUCED


def _counted(name: str, found: Sequence[Found]) -> str:
    if name not in (REPRODUCED, PARTLY, NOT_REPRODUCED):
        return name
    return f"{name}, {sum(each.shown is True for each in found)} of {len(found)}"


def interval(summary: dict[str, Any], digits: int, sign: str = "") -> str:
    """Interquartile mean and its 95 % interval."""
    middle, low, high = (f"{summary[key]:{sign}.{digits}f}" for key in ("iqm", "low", "high"))
    return f"{middle} [{low}, {high}]"


def difference(scores: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """What the first are above the second, seed by seed."""
    return vars(paired_difference(scores, others))


def ahead(summary: dict[str, Any], digits: int) -> Found:
    """A paired difference, which shows a claim if its interval is above 0."""
    low, high = summary["low"], summary["high"]
    return Found(interval(summary, digits, "+"), low > 0, low <= 0 <= high)
