"""What README and documentation say of measurements is what the committed result files say."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *ROOT.glob("packages/*/README.md"), *ROOT.glob("docs/**/*.md"))
GENERATED = {
    page.relative_to(ROOT).as_posix()
    for page in PAGES
    if "<!-- table: " in page.read_text(encoding="utf-8")
}


def out_of_date(root):
    """The pages that the scripts under ``root`` would write otherwise than they are."""
    done = subprocess.run(
        [sys.executable, root / "docs" / "tables", "--check"], capture_output=True, text=True
    )
    if done.returncode == 0:
        return set()
    assert done.stderr.startswith("out of date"), done.stderr
    return set(done.stderr.strip().partition(": ")[2].split(", "))


def moved(value, key=None):
    """The same result with every score and time another: all numbers that are not whole."""
    if isinstance(value, dict):
        return {name: moved(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [moved(item, key) for item in value]
    return 1.25 * value + 1e-3 if isinstance(value, float) else value


def test_every_table_is_that_of_the_result_files():
    assert out_of_date(ROOT) == set()


@pytest.fixture
def copied(tmp_path):
    """The pages, their scripts, and what the scripts read, for a test to change."""
    for pattern in ("docs/tables", "packages/*/benchmarks/results", "packages/*/src/*/functions"):
        for folder in [*ROOT.glob(pattern)]:
            shutil.copytree(folder, tmp_path / folder.relative_to(ROOT))
    for folder in ROOT.glob("packages/*/src/*/key_state_sets"):
        shutil.copytree(folder, tmp_path / folder.relative_to(ROOT))
    for name in GENERATED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_other_results_make_every_page_old(copied):
    for path in copied.glob("packages/*/benchmarks/results/*/summary.json"):
        path.write_text(json.dumps(moved(json.loads(path.read_text(encoding="utf-8")))))
    assert out_of_date(copied) == GENERATED


@pytest.mark.parametrize(
    ("shown", "needed", "expected"),
    [
        ([True, True], None, "reproduced"),
        ([True, False], None, "partly"),
        ([True, None], None, "partly"),
        ([False, None], None, "not reproduced"),
        ([None, None], None, "not measured"),
        ([True, True, False], 2, "reproduced"),
        ([True, False, False], 2, "partly"),
    ],
)
def test_cases_that_were_not_run_do_not_show_a_claim(shown, needed, expected):
    rules = runpy.run_path(str(ROOT / "docs" / "tables" / "claim.py"))
    found = [rules["Found"]("", each) for each in shown]
    assert rules["verdict"](found, needed) == expected
