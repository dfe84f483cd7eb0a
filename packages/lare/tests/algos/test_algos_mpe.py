"""Whole runs on small tasks: they learn, repeat themselves, and go on where they were cut off."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from small_tasks import DISTANCE, chase, gather

import lare.algos.mpe as mpe
from lare import LareError
from lare._kit import read_metrics
from lare.algos import (
    MPESettings,
    PPOSettings,
    evaluate,
    load_policies,
    method_names,
    train,
)
from lare.algos.credit import DecompositionSettings
from lare.errors import ConfigError, StateError

PLAY = mpe.play
FAST = PPOSettings(learning_rate=3e-3, epochs=4, minibatch=64)
MODEL = DecompositionSettings(
    buffer=128, batch=32, updates=20, every=2, learning_rate=5e-3, model={"layers": 2, "hidden": 16}
)


def tiny(method="dense", iterations=6, task=None, **options):
    task = gather() if task is None else task
    return MPESettings(
        task,
        method,
        copies=16,
        steps=iterations * 16 * task.horizon,
        hidden=16,
        evaluate_every=2 * 16 * task.horizon,
        evaluation_episodes=20,
        ppo=FAST,
        decomposition=MODEL,
        **options,
    )


def bits(results):
    """Results without the times; NaN as a word, so that it equals itself."""
    kept = {key: value for key, value in results.items() if "second" not in key}
    return json.loads(json.dumps(kept))


def same(one, other):
    return json.dumps(bits(one)) == json.dumps(bits(other))


@pytest.mark.parametrize("method", ["dense", "lare", "ircr"])
def test_a_single_agent_learns_to_go_to_the_landmark(method, distance_file):
    settings = tiny(method, 25, gather(1), function=distance_file)
    settings = dataclasses.replace(settings, copies=32, steps=25 * 320, evaluate_every=8000)
    results = train(settings)
    start, end = results["random_actions"], results["scores"][8000]
    # IRCR shares a return out evenly, and learns slower.
    assert end > start + (0.1 if method == "ircr" else 0.2) * abs(start)
    assert end > results["zero_actions"]


def test_lare_finds_out_who_earned_what(distance_file):
    results = train(tiny("lare", 8, function=distance_file))
    assert results["correlation"] > 0.9
    assert math.isnan(train(tiny("episodic", 1))["correlation"])


@pytest.mark.parametrize("method", ["lare", "rrd", "ircr"])
def test_the_same_seed_gives_the_same_run(method, distance_file):
    settings = tiny(method, 3, function=distance_file)
    one, again = train(settings), train(settings)
    other = train(dataclasses.replace(settings, seed=1))
    assert same(one, again)
    assert one["scores"] != other["scores"]
    # The evaluation is the same for all seeds, and for all methods.
    assert one["random_actions"] == other["random_actions"]


def test_every_rollout_has_random_numbers_of_its_own(monkeypatch):
    seeds = []

    def watched(env, actors, generator, *, seed, episodes=1):
        if env.n_envs == 16:
            seeds.extend([generator.initial_seed(), seed])
        return PLAY(env, actors, generator, seed=seed, episodes=episodes)

    monkeypatch.setattr(mpe, "play", watched)
    for seed in (0, 1):
        train(tiny(iterations=3, seed=seed))
    assert len(set(seeds)) == len(seeds) == 12


@pytest.mark.parametrize("method", method_names())
def test_every_method_runs(method, distance_file, tmp_path):
    if method == "direct":
        path = tmp_path / "reward.py"
        path.write_text(DISTANCE.replace("[distance, speed]", "[-distance]"), encoding="utf-8")
        distance_file = str(path)
    settings = tiny(method, 1, function=distance_file)
    model = {} if method not in ("lare", "rd", "rrd") else MODEL.model
    results = train(
        dataclasses.replace(
            settings, decomposition=dataclasses.replace(MODEL, updates=2, model=model)
        )
    )
    assert all(math.isfinite(score) for score in results["scores"].values())


class Cut(Exception):
    pass


def cut_off(monkeypatch, after):
    """Break the run when it wants to play rollout number ``after``, from 0."""

    calls = iter(range(10**6))

    def broken(env, actors, generator, *, seed, episodes=1):
        if env.n_envs == 16 and next(calls) == after:
            raise Cut
        return PLAY(env, actors, generator, seed=seed, episodes=episodes)

    monkeypatch.setattr(mpe, "play", broken)


@pytest.mark.parametrize("method", ["dense", "lare", "rd", "ircr"])
def test_an_interrupted_run_goes_on_bit_for_bit(method, tmp_path, monkeypatch, distance_file):
    settings = tiny(method, 6, function=distance_file, episodes=1)
    whole = train(settings, tmp_path / "whole")
    cut_off(monkeypatch, after=5)
    with pytest.raises(Cut):
        train(settings, tmp_path / "cut", checkpoint_every=3)
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    assert not (tmp_path / "cut" / "summary.json").exists()
    cut_off(monkeypatch, after=3)  # two rollouts were lost, three are left to be played
    gone_on = train(settings, tmp_path / "cut", checkpoint_every=3)
    assert same(whole, gone_on)
    weights = [torch.load(tmp_path / name / "policies.pt") for name in ("whole", "cut")]
    for name, values in weights[0]["agent"].items():
        assert torch.equal(values, weights[1]["agent"][name]), name
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    records = [
        [(r["step"], r["name"], str(r["value"])) for r in read_metrics(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert records[0] == records[1]


def test_a_finished_run_is_read_back(tmp_path, monkeypatch):
    settings = tiny("episodic", 2)
    results = train(settings, tmp_path)
    monkeypatch.setattr(mpe, "play", None)  # nothing is played
    again = train(settings, tmp_path)
    assert same(results, again)
    assert again["seconds"] == results["seconds"]
    assert list(again["scores"]) == [320]
    assert list(again["roles"]["agent"]["scores"]) == [320]
    assert math.isnan(again["roles"]["agent"]["correlation"])


def test_saved_policies_score_what_the_run_did(tmp_path):
    settings = tiny(iterations=3)
    results = train(settings, tmp_path)
    assert list(results["scores"]) == [320, 480]  # every 320 steps, and at the end
    assert evaluate(settings, load_policies(settings, tmp_path)) == {
        "agent": results["scores"][480]
    }


def test_scores_are_logged_by_role(tmp_path):
    results = train(tiny(iterations=2, task=chase()), tmp_path)
    logged = {r["name"]: r["value"] for r in read_metrics(tmp_path)}
    for role in ("predator", "prey"):
        assert list(results["roles"][role]["scores"].values()) == [logged[f"return/{role}"]]
    assert results["scores"] == results["roles"]["predator"]["scores"]


def test_roles_learn_apart(distance_file):
    settings = tiny(
        "lare", task=chase(), function=dict.fromkeys(("predator", "prey"), distance_file)
    )
    run = mpe._Run(settings)
    policies = {role: learner.policy for role, learner in run.learners.items()}
    assert not torch.equal(policies["predator"].actor[0].weight, policies["prey"].actor[0].weight)
    steps = mpe.play(run.env, policies, torch.Generator(), seed=0)

    def everything(role):
        values = [*policies[role].parameters(), *run.credits[role].model.parameters()]
        return torch.cat([value.detach().flatten() for value in values])

    before = {role: everything(role) for role in policies}
    run._learn(0, "predator", steps["predator"])
    assert torch.equal(before["prey"], everything("prey"))
    assert not torch.equal(before["predator"], everything("predator"))
    before["predator"] = everything("predator")
    weight = policies["prey"].actor[0].weight.clone()
    run._learn(1, "prey", steps["prey"])
    assert not torch.equal(weight, policies["prey"].actor[0].weight)
    assert torch.equal(before["predator"], everything("predator"))
    # As published for roles that compete: the factors carry the agent's number.
    assert run.credits["prey"].agent_id


def test_both_roles_get_better_at_what_they_are_paid_for():
    task = chase()
    settings = dataclasses.replace(tiny(iterations=20, task=task), copies=32, steps=20 * 32 * 8)
    settings = dataclasses.replace(settings, evaluate_every=10**6)
    run = mpe._Run(settings)
    first = {role: learner.policy for role, learner in mpe._Run(settings).learners.items()}
    while run.iteration < settings.iterations:
        run.iterate(None)
    last = {role: learner.policy for role, learner in run.learners.items()}
    for role, other in (("predator", "prey"), ("prey", "predator")):
        base = evaluate(settings, first)[role]
        assert evaluate(settings, {role: last[role], other: first[other]})[role] > base + 0.3


def test_dense_beats_random_on_cooperative_navigation():
    settings = MPESettings(
        "cooperative-navigation-6",
        "dense",
        copies=32,
        steps=12 * 800,
        evaluate_every=10**6,
        evaluation_episodes=20,
        ppo=PPOSettings(learning_rate=2e-3, epochs=3, minibatch=100),
    )
    results = train(settings)
    assert results["scores"][9600] > results["random_actions"] + 15


def test_wrong_settings_are_named(tmp_path, distance_file):
    for options, words in (
        ({"task": "cooperative-navigation-7"}, "did you mean cooperative-navigation"),
        ({"method": "lear"}, "'lear'.*lare.*ircr.*episodic.*dense"),
        ({"copies": 0}, "copies is 0: it must be positive"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(ConfigError, match=words):
            dataclasses.replace(tiny(), **options)
    with pytest.raises(ConfigError, match="checkpoint_every is -1"):
        train(tiny(), checkpoint_every=-1)
    with pytest.raises(ConfigError, match=r"no latent reward is shipped for 'gather'.* Write one"):
        train(tiny("lare"))
    with pytest.raises(ConfigError, match=r"one path for each role of chase \(predator, prey\)"):
        train(tiny("lare", task=chase(), function=distance_file))
    with pytest.raises(ConfigError, match="holds no finished run: train first"):
        load_policies(tiny(), tmp_path)


def test_a_folder_of_another_run_is_refused(tmp_path, monkeypatch):
    train(tiny(iterations=1), tmp_path / "done")
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        train(tiny(iterations=2), tmp_path / "done")
    cut_off(monkeypatch, after=2)
    with pytest.raises(Cut):
        train(tiny(), tmp_path / "cut", checkpoint_every=1)
    with pytest.raises(ConfigError, match="holds an interrupted run with other settings"):
        train(tiny(seed=1), tmp_path / "cut")


def test_a_changed_function_is_not_taken_for_the_one_the_run_began_with(
    tmp_path, monkeypatch, distance_file
):
    settings = tiny("lare", function=distance_file)
    cut_off(monkeypatch, after=2)
    with pytest.raises(Cut):
        train(settings, tmp_path / "cut", checkpoint_every=1)
    Path(distance_file).write_text(f"{DISTANCE}\n# changed\n", encoding="utf-8")
    with pytest.raises(StateError, match="was begun with the latent reward") as caught:
        train(settings, tmp_path / "cut")
    assert isinstance(caught.value, LareError)
