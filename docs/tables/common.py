"""What all tables need: result files, lines of Markdown, and the marked places of a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PLACE = re.compile(r"<!-- table: ([\w.-]+) -->\n.*?<!-- end -->", re.DOTALL)


def _path(package: str, name: str) -> Path:
    return ROOT / "packages" / package / "benchmarks" / "results" / name / "summary.json"


def measured(package: str, name: str) -> bool:
    """Whether there is a result file of that name."""
    return _path(package, name).exists()


@cache
def load(package: str, name: str) -> dict[str, Any]:
    """A result file."""
    return json.loads(_path(package, name).read_text(encoding="utf-8"))


def machine(run: dict[str, Any], where: str | None = None) -> str:
    """The sentence below a table; ``where`` is the processor unless given."""
    device, versions = run["device"], run["versions"]
    where = where or f"{device['cores']} {device['machine']} cores, 1 thread per process"
    return (
        f"Measured on {where}, torch {versions['torch']}, Python {versions['python']}, "
        f"{run['finished'][:10]}."
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], rest: str = "--:") -> str:
    """A table: the first column to the left, the others to the right unless ``rest`` differs."""
    lines = [head, ["---"] + [rest] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def filled(text: str, table: Callable[[str], str]) -> str:
    """A page with every marked place written anew by ``table``, which is told its name."""

    def replaced(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{table(match[1])}\n<!-- end -->"

    return _PLACE.sub(replaced, text)
