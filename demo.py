"""Run the demo of every package and show the results together; ``nox -s demo`` calls this.

Each demo writes ``report/<package>/``, and ``report/index.html`` links them. Arguments go to every
demo. Ends with 1 if one of them failed or did not show what it promises.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

# Any of the four copies would do.
from lowmem_bp._kit.command import log, print_table
from lowmem_bp._kit.report import Report

ROOT = Path(__file__).resolve().parent
REPORT = ROOT / "report"
HEAD = ["package", "job", "before", "after", "seconds", "verdict"]
TEXT = ["job", "before", "after", "verdict"]


class Index(Report):
    """A page that leads to others."""

    def entry(self, name: str, sentence: str) -> None:
        """Add a package: what it is for, and its page with the first figure where there is one."""
        self.heading(name)
        self.paragraph(sentence)
        page = REPORT / name / "report.html"
        if page.is_file():
            figure = re.search(r"<figure.*?</figure>", page.read_text(encoding="utf-8"), re.DOTALL)
            self._add(figure[0] if figure else "")
            name = html.escape(name)
            self._add(f'<p><a href="{name}/report.html">The whole report of {name}</a></p>')
        else:
            self.paragraph("There is no report: the demo broke off.")


def run(name: str, arguments: list[str]) -> list[Any]:
    """Run one demo; returns its row of the table."""
    out = REPORT / name
    shutil.rmtree(out, ignore_errors=True)  # the last demo's; a run folder is never mixed
    log(f"\n{name} demo", "bold")
    start = time.monotonic()
    command = [sys.executable, "-m", name.replace("-", "_"), "demo", "--out", str(out)]
    code = subprocess.run([*command, *arguments]).returncode
    seconds = time.monotonic() - start
    try:
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        found = summary["results"]["headline"]
    except (OSError, KeyError):  # it broke off before there was anything to tell
        found = {"job": "", "before": "", "after": "", "missing": []}
    verdict = "as promised" if code == 0 else f"failed (exit code {code})"
    if found["missing"]:
        verdict = f"missing: {'; '.join(found['missing'])}"
    return [name, found["job"], found["before"], found["after"], round(seconds), verdict]


def main() -> None:
    """Run all of them, print the table and write the page."""
    projects = {}
    for path in sorted(ROOT.glob("packages/*/pyproject.toml")):
        projects[path.parent.name] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    rows = [run(name, sys.argv[1:]) for name in projects]
    total = sum(row[4] for row in rows)
    took = f"{total / 60:.1f} minutes on {os.cpu_count()} cores"
    page = Index("What the packages do: one demo each")
    whole = [[row[0].replace("-", "\N{NON-BREAKING HYPHEN}"), *row[1:]] for row in rows]
    page.table(HEAD, whole, f"Before and after, {took}")
    for name, project in projects.items():
        page.entry(name, f"{project['description']}.")
    log("")
    print_table(HEAD, [list(map(str, row)) for row in rows], f"All demos, {took}", left=TEXT)
    log(f"report: {page.write(REPORT / 'index.html')}")
    if any(row[-1] != "as promised" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
