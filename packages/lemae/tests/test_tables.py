"""The figures in README and documentation are those of the committed result files."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "tables.py"
PAGE = Path(__file__).parents[3] / "docs" / "lemae" / "benchmarks.md"


@pytest.mark.skipif(not (SCRIPT.exists() and PAGE.exists()), reason="outside the repository")
def test_tables_are_those_of_the_result_files():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
