"""Many runs: one after the other, over processes, over Ray."""

from dataclasses import replace
from multiprocessing import active_children

import pytest

from lare import sweep
from lare.algos.mpe import MPESettings
from lare.errors import ConfigError, LareError
from lare.training import Settings

SMALL = MPESettings(
    "cooperative-navigation-6", "dense", 100, copies=2, hidden=8, evaluation_episodes=2
)
SETTINGS = [replace(SMALL, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return sweep.run(SETTINGS, tmp_path_factory.mktemp("alone"))


def same(one, other):
    return [run["scores"] for run in one] == [run["scores"] for run in other]


@pytest.mark.slow
def test_processes_find_what_one_finds(alone, tmp_path):
    lines = []
    found = sweep.run(SETTINGS, tmp_path, jobs=2, progress=lines.append)
    assert same(found, alone)
    assert len(lines) == 3
    assert len(list(tmp_path.rglob("summary.json"))) == 3


def processes():
    return {process.pid for process in active_children()}


@pytest.mark.slow
def test_a_process_that_dies_ends_the_sweep_with_what_was_running(tmp_path, monkeypatch):
    pytest.importorskip("stable_baselines3")
    (tmp_path / "deadly_task.py").write_text("import os\nos._exit(7)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = processes()
    sweep.run(SETTINGS[:1], tmp_path)
    chosen = [SETTINGS[0], Settings("deadly_task:Any-v0", "dense", seed=1)]
    with pytest.raises(LareError, match=r"a process died while these runs went on: .*seed-1") as it:
        sweep.run(chosen, tmp_path, jobs=2)
    assert "Finished runs are kept" in str(it.value)
    assert processes() <= before
    assert len(list(tmp_path.rglob("summary.json"))) == 1


@pytest.mark.slow
def test_an_interrupt_ends_all_processes(tmp_path):
    before = processes()

    def interrupted(line):
        raise KeyboardInterrupt

    chosen = [SETTINGS[0], replace(SETTINGS[1], steps=10**9), SETTINGS[2]]
    with pytest.raises(KeyboardInterrupt):
        sweep.run(chosen, tmp_path, jobs=2, progress=interrupted)
    assert processes() <= before
    assert len(list(tmp_path.rglob("summary.json"))) == 1


@pytest.mark.slow  # starting Ray takes longer than all other tests of this file
def test_ray_spreads_runs_over_two_workers(alone, tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        lines = []
        found = sweep.run(SETTINGS, tmp_path, engine="ray", progress=lines.append)
        assert ray.is_initialized(), "a cluster that was there before is left alone"
    finally:
        ray.shutdown()
    assert same(found, alone)
    assert len(lines) == 3
    assert same(sweep.run(SETTINGS, tmp_path), alone)  # read back


def test_an_unknown_engine(tmp_path):
    with pytest.raises(ConfigError, match="give one of local, ray"):
        sweep.run(SETTINGS, tmp_path, engine="slurm")
