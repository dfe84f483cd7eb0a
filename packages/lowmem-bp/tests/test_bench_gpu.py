"""The benchmark for GPUs, as far as a machine without one can tell."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowmem_bp.backends import resolve

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "bench_gpu.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="outside the repository")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_nothing_is_measured_or_written_without_a_gpu(tmp_path):
    command = [sys.executable, SCRIPT, "--out", tmp_path / "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "not measured: no CUDA device\n"
    assert not (tmp_path / "gpu").exists()


def test_kernels_move_the_bytes_of_their_tensors(script):
    n = 8 * 256
    found = {
        name: script.moved(kernel)
        for name, kernel in script.kernels(resolve("torch"), (8, 256), "cpu").items()
    }
    assert found["copy"] == 4 * n
    assert found["activation and codes"] == 4 * n + n // 4
    assert found["derivative from codes"] == 4 * n + n // 4
    assert found["gated"] == 6 * n
    assert found["gated, backward"] == 10 * n
    assert found["to int8"] == found["from int8"] == 3 * n + 2 * n // 128
    assert found["normalise"] == 4 * n + 8 * 4


def test_training_reports_what_it_holds(script, monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    for case in script.TRAININGS:
        small = replace(case, features=24, heads=2, batch=2, length=8, layers=2)
        stock, exact = (script.training(small, name) for name in ("stock", "exact"))
        assert exact["activation_bytes"] < stock["activation_bytes"]
        assert (stock["static_bytes"], stock["peak_bytes"]) == (1, 2)
