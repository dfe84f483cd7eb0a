"""The evidence page: the claims of the four papers beside what was measured, and their verdicts."""

from __future__ import annotations

from collections import Counter
from functools import cache

from . import claims_go4align, claims_lare, claims_lemae, claims_lowmem_bp, lowmem_bp, written
from .claim import VERDICTS, Claim
from .common import markdown

PAGES = ("docs/evidence.md", "README.md")
MODULES = {
    "lowmem-bp": claims_lowmem_bp,
    "go4align": claims_go4align,
    "lare": claims_lare,
    "lemae": claims_lemae,
}
FORMS = ("the paper's form", "our form")


@cache
def claims(package: str) -> tuple[Claim, ...]:
    """The claims of a package's paper."""
    return MODULES[package].claims()


def counts() -> str:
    """How many claims got which verdict."""
    rows = []
    for package in MODULES:
        for i, form in enumerate(FORMS):
            found = Counter(claim.verdicts[i] for claim in claims(package))
            cells = [str(found[name] or "") for name in VERDICTS]
            rows.append(["" if i else f"[{package}](#{package})", form, *cells])
    return markdown(["claims about", "in", *VERDICTS], rows, "---")


def package(name: str) -> str:
    """The verdicts on a paper in one table, then every claim."""
    rows = [
        [f"[{claim.key}](#{claim.key.lower()})", claim.title, *claim.judged]
        for claim in claims(name)
    ]
    overview = markdown(["", "claim", *FORMS], rows, "---")
    return "\n\n".join([overview, *(card(name, claim) for claim in claims(name))])


def card(package: str, claim: Claim) -> str:
    """A claim, its cases and all that belongs to them."""
    with_published = any(case.published for case in claim.cases)
    with_ours = claim.verdicts[1] != "–"

    def line(name: str, published: str, *forms: str) -> list[str]:
        return [name, *([published] if with_published else []), *forms[: 1 + with_ours]]

    rows = [
        line(case.name, case.published, str(case.paper), str(case.ours)) for case in claim.cases
    ]
    rows.append(line("**verdict**", "", *(f"**{verdict}**" for verdict in claim.judged)))
    head = line("", "published", *(f"{form}, here" for form in FORMS))
    files = ", ".join(f"`{name}`" for name in claim.files)
    results = f" Results: {files}." if files else ""
    items = [
        f"- **Source:** {claim.source}.",
        f"- **Shown where:** {claim.rule}",
        f"- **Run here:** {claim.ran}. [More]({claim.section}).{results}",
        f"- **Note:** {claim.note}",
    ]
    return (
        f"### {claim.key}\n\n**{claim.title}.**\n\n{markdown(head, rows, '---')}\n\n"
        + "\n".join(items)
    )


def short() -> str:
    """The table of the README: a case for each package, one against it, and the verdicts."""
    rows = [
        [f"[{name}](docs/evidence.md#{name})", *MODULES[name].both_sides(), *tallies(name)]
        for name in MODULES
    ]
    head = ["package", "it helps", "it does not", *(f"claims, {form}" for form in FORMS)]
    return markdown(head, rows, "---")


def tallies(package: str) -> tuple[str, str]:
    """The verdicts on the two forms, counted."""

    def tally(i: int) -> str:
        found = Counter(claim.verdicts[i] for claim in claims(package))
        return ", ".join(f"{found[name]} {name}" for name in VERDICTS if found[name])

    return tally(0), tally(1)


def table(name: str) -> str:
    """The generated part of that name."""
    if name in MODULES:
        return package(name)
    made = {
        "counts": counts,
        "evidence": short,
        "lowmem-bp-front": lowmem_bp.front,
        "lare-functions": written.lare_table,
        "lemae-key-states": written.lemae_table,
    }
    return made[name]()
