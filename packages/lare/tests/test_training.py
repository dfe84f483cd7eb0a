"""Runs with Stable-Baselines3: interrupted, watched, on another device."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lare import training
from lare._kit import read_metrics
from lare._sb3_checkpoint import Checkpoint
from lare.errors import ConfigError, StateError
from lare.training import Settings, train

stable_baselines3 = pytest.importorskip("stable_baselines3")

SHORT = Settings(
    "Pendulum-v1",
    steps=600,
    max_episode_steps=50,
    width=8,
    warmup=50,
    batch_size=16,
    evaluate_every=200,
    evaluation_episodes=2,
)


class Stopped(Exception):
    """What interrupts a run in these tests."""


def interrupt(monkeypatch, settings, folder, after, **options):
    """Run until so many evaluations were done, then stop in the middle of the next stretch."""
    evaluate, done = training.evaluate, []

    def counted(*arguments):
        if len(done) == after:
            raise Stopped
        done.append(arguments)
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", counted)
        with pytest.raises(Stopped):
            train(settings, folder, checkpoint_every_s=0, **options)


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, SHORT, folder, after=1)
    return folder


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    """A folder of a run that was interrupted after its first evaluation."""
    return Path(shutil.copytree(interrupted_once, tmp_path / "run"))


@pytest.mark.parametrize(
    ("method", "algorithm"),
    [
        ("lare", "td3"),
        ("episodic", "td3"),
        pytest.param("lare", "ppo", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on(method, algorithm, tmp_path, monkeypatch):
    settings = replace(SHORT, method=method, algorithm=algorithm)
    if algorithm == "ppo":  # whose rollout has 2048 steps
        settings = replace(settings, steps=6000, evaluate_every=2048)
    interrupt(monkeypatch, settings, tmp_path, after=1)
    assert (tmp_path / "lare-checkpoint" / str(read_metrics(tmp_path)[0]["step"])).is_dir()
    first = read_metrics(tmp_path)

    learned = []
    algorithms = {"td3": stable_baselines3.TD3, "ppo": stable_baselines3.PPO}
    learn = algorithms[algorithm].learn

    def noting(model, *arguments, **options):
        learned.append(model.num_timesteps)
        return learn(model, *arguments, **options)

    monkeypatch.setattr(algorithms[algorithm], "learn", noting)
    results = train(settings, tmp_path)
    assert learned[0] == first[0]["step"], "it began again from the start"
    assert next(iter(results["scores"].values())) == first[0]["value"]
    assert len(results["scores"]) == 3
    assert not (tmp_path / "lare-checkpoint").exists()
    assert [record["step"] for record in read_metrics(tmp_path)] == list(results["scores"])
    assert train(settings, tmp_path)["scores"] == results["scores"]


@pytest.mark.parametrize("algorithm", ["td3", "sac", "ddpg"])
def test_a_checkpoint_brings_back_networks_episodes_and_counts(algorithm, tmp_path):
    settings = replace(SHORT, algorithm=algorithm)
    model, relabeler = training.build(settings)
    model.learn(300)
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    checkpoint.save(model, relabeler, {"scores": {}})
    other, fresh = training.build(settings)
    brought, progress = checkpoint.load(other, fresh)
    assert progress == {"scores": {}}
    assert other.num_timesteps == 300
    assert other._n_updates == model._n_updates > 0
    observation = np.zeros((1, 3), dtype=np.float32)
    acts = [one.predict(observation, deterministic=True)[0] for one in (other, model)]
    assert np.array_equal(*acts)
    if algorithm == "sac":
        assert other.log_ent_coef.item() == model.log_ent_coef.item() != 0
    assert len(brought.store) == len(relabeler.store) == 6
    rows, envs = np.arange(300), np.zeros(300, dtype=int)
    ours, theirs = (one.relabel_rows(rows, envs).numpy() for one in (brought, relabeler))
    assert np.array_equal(ours, theirs)
    assert brought is other.replay_buffer.relabeler


def test_other_settings_are_refused(interrupted):
    with pytest.raises(ConfigError, match="interrupted run with other settings"):
        train(replace(SHORT, learning_rate=0.5), interrupted)


def test_a_save_that_was_killed_changes_nothing(interrupted):
    (interrupted / "lare-checkpoint" / ".123").mkdir()  # the half of a second one
    (interrupted / "lare-checkpoint" / ".123" / "model.zip").write_text("half")
    assert len(train(SHORT, interrupted)["scores"]) == 3
    assert not (interrupted / "lare-checkpoint").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("progress.json", ""), ("progress.json", "{}"), ("model.zip", "half"), ("replay.pkl", "half")],
)
def test_a_damaged_checkpoint_is_named(name, content, interrupted):
    (path,) = interrupted.rglob(name)
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"is damaged.*remove it to begin the run again"):
        train(SHORT, interrupted)


def test_folders_of_others_are_not_deleted(tmp_path):
    for name in ("checkpoint", "tensorboard", ".checkpoints-backup"):
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match="which no run wrote"):
        train(SHORT, tmp_path)


@pytest.mark.parametrize("algorithm", ["td3", "ppo"])
def test_another_function_is_refused(algorithm, tmp_path):
    path = tmp_path / "f.py"
    path.write_text("def evaluation_func(observation, action):\n    return [observation[:, 0:1]]\n")
    settings = replace(SHORT, algorithm=algorithm, function=str(path))
    checkpoint = Checkpoint(tmp_path / "run", {"seed": 0})
    model, relabeler = training.build(settings)
    if algorithm == "td3":  # the other one learns 2048 steps or none
        model.learn(60)
    checkpoint.save(model, relabeler, {})
    path.write_text("def evaluation_func(observation, action):\n    return [observation[:, 1:2]]\n")
    with pytest.raises(StateError, match="put that function back"):
        checkpoint.load(*training.build(settings))


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(ConfigError, match="device is"):
        train(replace(SHORT, device=name))


def test_event_files(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    results = train(SHORT, tmp_path, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    seen = {event.step: event.value for event in events.Scalars("return")}
    assert seen == pytest.approx(results["scores"])


def test_event_files_of_a_resumed_run_show_each_step_once(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    save = Checkpoint.save
    with monkeypatch.context() as patch:  # stop after the second evaluation, before it is saved

        def saved_once(self, model, relabeler, progress):
            if len(progress["scores"]) == 2:
                raise Stopped
            save(self, model, relabeler, progress)

        patch.setattr(Checkpoint, "save", saved_once)
        with pytest.raises(Stopped):
            train(SHORT, tmp_path, checkpoint_every_s=0, tensorboard=True)
    results = train(SHORT, tmp_path, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("return")]
    assert seen == [(step, pytest.approx(score)) for step, score in results["scores"].items()]


def test_the_device_reaches_actor_and_decoder():
    settings = replace(SHORT, device="cpu:0", method="lare-rd")
    model, relabeler = training.build(settings)
    assert str(model.device) == str(relabeler.device) == "cpu:0"


def test_direct_generation_takes_its_own_function():
    model, relabeler = training.build(replace(SHORT, method="direct"))
    assert relabeler.n_factors == 1
    model.learn(120)
    rows, envs = np.arange(100), np.zeros(100, dtype=int)
    paid = relabeler.relabel_rows(rows, envs)
    factors = relabeler.store.lookup(rows, envs)[:, 0]
    np.testing.assert_array_equal(paid, factors)
    with pytest.raises(ConfigError, match="returns the reward alone"):
        training.build(replace(SHORT, method="direct", function=str(factor_file())))


def factor_file():
    """A function with several factors, for what wants one."""
    import lare

    return Path(lare.__file__).parent / "functions" / "Pendulum-v1" / "latent_reward.py"
