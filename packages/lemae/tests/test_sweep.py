"""Many runs: in order, over processes, and once only."""

import dataclasses
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from lemae import sweep
from lemae.errors import ConfigError, LemaeError, MissingExtraError
from lemae.settings import Settings

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def line_task(monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))


def tiny(seed=0, **options):
    return Settings(
        "line_task:make",
        "plain",
        steps=150,
        seed=seed,
        num_envs=4,
        evaluation_episodes=4,
        learner={"hidden": 4, "epochs": 1},
        **options,
    )


def numbers(results):
    return [(one["curve"], one["first_success_step"], one["successes"]) for one in results]


def test_results_come_in_order_and_are_kept(tmp_path):
    chosen = [tiny(seed) for seed in (2, 0, 1)]
    said = []
    found = sweep.run(chosen, tmp_path, progress=said.append)
    assert len(said) == 3
    assert all(f"seed {one.seed}: " in text for one, text in zip(chosen, said, strict=True))
    folders = {path.parent for path in tmp_path.rglob("summary.json")}
    assert folders == {tmp_path / sweep.folder_name(one) for one in chosen}
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("summary.json"))]
    again = sweep.run(chosen, tmp_path)
    assert numbers(again) == numbers(found)
    assert stamps == [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("summary.json"))]


@pytest.mark.slow
def test_processes_do_what_one_process_does(tmp_path):
    chosen = [tiny(seed) for seed in range(3)]
    alone = sweep.run(chosen, tmp_path / "alone")
    together = sweep.run(chosen, tmp_path / "together", jobs=2)
    assert numbers(alone) == numbers(together)


def processes():
    return {process.pid for process in active_children()}


@pytest.mark.slow
def test_a_process_that_dies_ends_the_sweep_with_what_was_running(tmp_path, monkeypatch):
    before = processes()
    chosen = [tiny(0), dataclasses.replace(tiny(1), task="worker_task:make_env_that_dies")]
    sweep.run(chosen[:1], tmp_path)
    with pytest.raises(
        LemaeError, match=r"a process died while these runs went on: .*seed-1"
    ) as caught:
        sweep.run(chosen, tmp_path, jobs=2)
    assert "Finished runs are kept" in str(caught.value)
    assert processes() <= before
    assert (tmp_path / sweep.folder_name(chosen[0]) / "summary.json").is_file()


@pytest.mark.slow
def test_an_interrupt_ends_all_processes(tmp_path):
    before = processes()

    def interrupted(line):
        raise KeyboardInterrupt

    chosen = [tiny(0), dataclasses.replace(tiny(1), steps=10**9), tiny(2)]
    with pytest.raises(KeyboardInterrupt):
        sweep.run(chosen, tmp_path, jobs=2, progress=interrupted)
    assert processes() <= before
    assert len(list(tmp_path.rglob("summary.json"))) == 1


@pytest.mark.slow
def test_ray_does_what_one_process_does(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    chosen = [tiny(seed) for seed in range(2)]
    alone = sweep.run(chosen, tmp_path / "alone")
    try:
        found = sweep.run(chosen, tmp_path / "ray", engine="ray")
    except ValueError as error:  # Ray's own, where the machine has no room for its store
        pytest.skip(str(error))
    assert numbers(alone) == numbers(found)


def test_ray_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lemae\[ray\]"'):
        sweep.run([tiny()], tmp_path, engine="ray")


def test_a_run_is_on_one_thread_and_leaves_the_others_their_threads(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lemae.training.train", lambda *job, **more: seen.append(torch.get_num_threads())
    )
    torch.set_num_threads(2)
    sweep.work(tiny(), tmp_path)
    assert seen == [1]
    assert torch.get_num_threads() == 2


def test_every_run_gets_a_client_of_its_own(tmp_path, monkeypatch):
    seen = []

    def train(settings, folder, *, llm, **more):
        seen.append(llm)
        return {"first_success_step": None, "win_rate_sampled": 0.0, "steps": 1}

    monkeypatch.setattr("lemae.training.train", train)
    clients = iter("ab")
    sweep.run([tiny(0), tiny(1)], tmp_path, llm=lambda: next(clients))
    sweep.run([tiny(0)], tmp_path)
    assert seen == ["a", "b", None]


def test_folders_tell_runs_apart():
    base = tiny()
    names = {
        sweep.folder_name(dataclasses.replace(base, **change))
        for change in (
            {},
            {"seed": 1},
            {"method": "count"},
            {"algo": "qmix"},
            {"sticky": 6.0},
            {"sticky": 15.0},
            {"explore": "constant"},
            {"options": {"size": 7}},
            {"learner": {"hidden": 8}},
        )
    }
    assert len(names) == 9
    assert sweep.folder_name(Settings("pass", sticky=6.0)) == "pass/ippo/lemae,sticky=6.0/seed-0"
    given = Settings("pass", key_states="../my sets/pass.py", options={"size": 50})
    assert (
        sweep.folder_name(given) == "pass/ippo/lemae,size=50,key_states=.._my_sets_pass.py/seed-0"
    )
    assert sweep.folder_name(base).startswith("line_task_make/ippo/plain,")


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ConfigError, match="two of the runs are the same"):
        sweep.run([tiny(), tiny()], tmp_path)
    with pytest.raises(ConfigError, match="engine is 'slurm'"):
        sweep.run([tiny()], tmp_path, engine="slurm")
    with pytest.raises(ConfigError, match="jobs is 0"):
        sweep.run([tiny()], tmp_path, jobs=0)


def test_what_is_said_of_a_run():
    results = {"first_success_step": 4711, "win_rate_sampled": 0.985, "steps": 10_000}
    assert sweep.line(tiny(3), results) == (
        "line_task:make plain seed 3: first success after 4711 steps, wins 0.98 after 10000"
    )
    assert "no success, wins" in sweep.line(tiny(), {**results, "first_success_step": None})
