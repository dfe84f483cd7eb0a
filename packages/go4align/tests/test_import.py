"""Importing the package: cheap, lazy, and without its optional libraries."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import go4align

HEAVY = ("sklearn", "torchjd", "matplotlib", "rdkit", "chemicals", "pandas", "lightning")

MEASURE = """
import json, sys, time
import torch
before, start = set(sys.modules), time.perf_counter()
import go4align
go4align.GO4Align, go4align.kmeans_1d
milliseconds = 1e3 * (time.perf_counter() - start)
print(json.dumps([milliseconds, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def run(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    return result.stdout


def test_it_adds_little_to_torch_and_loads_no_optional_library():
    fastest = 1e9
    for _ in range(5):  # other processes may be in the way of one
        milliseconds, modules = json.loads(run(MEASURE))
        assert not set(modules) & set(HEAVY)
        fastest = min(fastest, milliseconds)
        if fastest < 150:
            return
    pytest.fail(f"importing go4align took {fastest:.0f} ms on top of torch")


def test_the_package_alone_does_not_load_torch():
    """The command line answers --help from it."""
    assert run("import sys, go4align; print('torch' in sys.modules, go4align.__version__)") == (
        f"False {go4align.__version__}\n"
    )


def test_public_names():
    for name in go4align.__all__:
        assert getattr(go4align, name) is not None
        assert name in dir(go4align)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = go4align.no_such_name
