"""Two gloo processes with different data: one set of weights, and errors in both or in none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import go4align

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run worker_distributed.py once under torchrun; what each process saw, by case.

    Once, because the start of two processes costs more than all they measure.
    """
    here, folder = Path(__file__), tmp_path_factory.mktemp("ranks")
    source = str(Path(go4align.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [source, inherited])),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = str(here.with_name("worker_distributed.py"))
    run = subprocess.run(
        [*torchrun, "--nproc-per-node=2", worker, str(folder)],
        env=environment,
        cwd=here.parent,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-6000:]
    found = [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    return {case: tuple(rank[case] for rank in found) for case in found[0]}


@pytest.mark.parametrize(
    "case", ["auto", "group", "masks", "masks of one", "windows", "options", "device"]
)
def test_all_processes_compute_the_same_bits(results, case):
    first, second = results[case]
    assert first == second
    assert len({tuple(weights) for weights in first}) > 3, "the weights never changed"


def test_the_default_group_is_the_one_of_all_processes(results):
    assert results["group"] == results["auto"]


def test_the_device_path_communicates_alike(results):
    def numbers(weights):
        return [[float.fromhex(x) for x in row] for row in weights]

    for rank in (0, 1):
        for found, expected in zip(
            numbers(results["device"][rank]), numbers(results["auto"][rank][:10]), strict=True
        ):
            assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("case", ["off", "group of one"])
def test_without_communication_they_differ(results, case):
    first, second = results[case]
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert results[case] == results["off"]


@pytest.mark.parametrize("case", ["mean", "mean, masked"])
def test_the_weights_follow_from_the_mean_losses(results, case):
    for rank in results[case]:
        assert rank["shared"] == pytest.approx(rank["alone"], rel=1e-12)


@pytest.mark.parametrize(
    ("case", "rank", "shown", "hint"),
    [
        ("negative", 0, "is -1", "lower_bounds="),
        ("nan", 1, "is nan", 'nonfinite="skip"'),
        ("inf", 0, "is inf", 'nonfinite="skip"'),
        # Even where NaN is skipped: had only one process raised, the other would wait for it.
        ("negative, skip", 1, "is -1", "lower_bounds="),
    ],
)
def test_a_bad_loss_in_one_process_is_an_error_in_all(results, case, rank, shown, hint):
    found = results[case]
    assert all("the loss of task '2'" in result["message"] for result in found)
    assert shown in found[rank]["message"]
    assert hint in found[rank]["message"]
    assert "in another process" in found[1 - rank]["message"]
    assert all(result["same"] for result in found), "the state changed"
    assert found[0]["after"] == found[1]["after"]


def test_a_skipped_loss_is_skipped_by_all(results):
    first, second = results["skipped"]
    assert first == second
    assert first["skipped"] == [2, 2, 1, 1]
    assert first["finite"]


def test_gradients_under_ddp_are_those_of_the_whole_batch(results):
    for distances in results["ddp"]:
        assert len(distances) == 5
        assert max(distances) < 1e-12


def test_a_run_under_ddp_resumes_bit_for_bit(results):
    assert results["resume"] == (True, True)


def test_evaluation_does_not_communicate(results):
    assert results["evaluating"] == (0, 0)
