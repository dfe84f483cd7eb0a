"""Runs with Stable-Baselines3: interrupted, watched, on another device."""

from dataclasses import replace

import numpy as np
import pytest

from lare import training
from lare._kit import read_metrics
from lare._sb3_checkpoint import Checkpoint
from lare.errors import ConfigError
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


def interrupt(monkeypatch, settings, folder, after):
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
            train(settings, folder)


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
    assert (tmp_path / "checkpoint").is_dir()
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
    assert not (tmp_path / "checkpoint").exists()
    assert [record["step"] for record in read_metrics(tmp_path)] == list(results["scores"])
    assert train(settings, tmp_path)["scores"] == results["scores"]


def test_a_checkpoint_brings_back_networks_episodes_and_counts(tmp_path):
    model, relabeler = training.build(SHORT)
    model.learn(300)
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    checkpoint.save(model, relabeler, {"scores": {}})
    other, fresh = training.build(SHORT)
    brought, progress = checkpoint.load(other, fresh)
    assert progress == {"scores": {}}
    assert other.num_timesteps == 300
    assert other._n_updates == model._n_updates > 0
    observation = np.zeros((1, 3), dtype=np.float32)
    assert np.array_equal(other.predict(observation)[0], model.predict(observation)[0])
    assert len(brought.store) == len(relabeler.store) == 6
    rows, envs = np.arange(300), np.zeros(300, dtype=int)
    ours, theirs = (one.relabel_rows(rows, envs).numpy() for one in (brought, relabeler))
    assert np.array_equal(ours, theirs)
    assert brought is other.replay_buffer.relabeler


def test_other_settings_are_refused(tmp_path, monkeypatch):
    interrupt(monkeypatch, SHORT, tmp_path, after=1)
    with pytest.raises(ConfigError, match="interrupted run with other settings"):
        train(replace(SHORT, learning_rate=0.5), tmp_path)


def test_a_killed_save_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / ".checkpoint.123").mkdir()
    assert train(replace(SHORT, steps=200), tmp_path)["scores"]


def test_event_files(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    results = train(SHORT, tmp_path, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    seen = {event.step: event.value for event in events.Scalars("return")}
    assert seen == pytest.approx(results["scores"])


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
    assert np.corrcoef(paid, factors)[0, 1] == pytest.approx(1)
    with pytest.raises(ConfigError, match="returns the reward alone"):
        training.build(replace(SHORT, method="direct", function=str(factor_file())))


def factor_file():
    """A function with several factors, for what wants one."""
    from pathlib import Path

    import lare

    return Path(lare.__file__).parent / "functions" / "Pendulum-v1" / "latent_reward.py"
