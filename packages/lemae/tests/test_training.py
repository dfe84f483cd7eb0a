"""Whole runs: they learn, repeat themselves, and go on where they were cut off."""

import dataclasses
import functools
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import lemae.training as training
from lemae import check, guidance, runs
from lemae._kit import read_metrics
from lemae.algos.evaluation import evaluate
from lemae.algos.rollout import Collector
from lemae.errors import (
    ConfigError,
    IntegrityError,
    KeyStateError,
    LemaeError,
    LemaeWarning,
    MissingExtraError,
    ShapeError,
    StateError,
    TaskError,
)
from lemae.ksmt import KSMT
from lemae.settings import check_fields
from lemae.training import Settings, load_policy, make_env, train

TESTS = Path(__file__).parent
COLLECT = Collector.collect


@pytest.fixture(autouse=True)
def line_task(monkeypatch):
    """Makes the module with the small task importable."""
    monkeypatch.syspath_prepend(str(TESTS))
    import line_task

    return line_task


@pytest.fixture
def key_states(tmp_path, line_task):
    """A saved folder, which is not checked again."""
    from lemae.key_states import KeyStateSet

    task = line_task.make(1).task_spec
    return str(KeyStateSet.from_source(line_task.KEY_STATES, task).save(tmp_path / "key_states"))


def tiny(method="plain", rollouts=6, **options):
    chosen = {
        "num_envs": 8,
        "steps": rollouts * 8 * 12 - 90,
        "evaluate_every": 2 * 8 * 12,
        "evaluation_episodes": 20,
        "learner": {"hidden": 8, "epochs": 2, "learning_rate": 3e-3},
    }
    return Settings("line_task:make", method, **{**chosen, **options})


def bits(results):
    """Results without the times, in a form that can be compared."""
    timed = ("seconds", "steps_per_second", "guidance_share")
    kept = {key: value for key, value in results.items() if key not in timed}
    return json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in kept.items()})


AIDS = {"sticky": 4.0, "self_imitation": 0.3, "count_bonus": 0.1}
Q = {"batch_size": 8, "gradient_steps": 1, "hidden": 8, "embedding": 4}


# --- what a run does -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lemae", "plain"])
def test_a_team_learns_with_and_without_key_states(method, key_states):
    settings = tiny(
        method,
        sticky=4.0,
        self_imitation=0.3,
        steps=3000,
        evaluate_every=10**9,
        key_states=key_states,
        learner={"hidden": 16, "learning_rate": 5e-3, "imitated_steps": 128},
    )
    results = train(settings)
    assert results["win_rate_sampled"] >= 0.9
    assert results["first_success_step"] < 3000


def test_rewards_for_key_states_are_what_a_policy_learns_from(key_states, tmp_path):
    """Where nobody ever succeeds there is nothing else."""

    def shares_that_get_there(**options):
        settings = tiny(
            "lemae",
            steps=4000,
            options={"size": 30},  # 12 steps do not reach the end of it
            explore="off",
            evaluate_every=10**9,
            key_states=key_states,
            learner={"hidden": 16, "learning_rate": 5e-3},
            **options,
        )
        out = tmp_path / str(options)
        assert train(settings, out)["successes"] == 0
        collector = Collector(make_env(settings, 200))
        states = collector.collect(load_policy(settings, out), seed=1).states
        first, both = states[..., 0] >= 3, (states >= 3).all(-1)
        return first.any(0).mean(), both.any(0).mean()

    assert min(shares_that_get_there()) >= 0.9
    assert shares_that_get_there(planning=False)[0] >= 0.9  # in hindsight, to the first of them
    assert max(shares_that_get_there(beta=0.0)) <= 0.1


@pytest.mark.slow
def test_lemae_solves_pass():
    settings = Settings(
        "pass",
        key_states=str(TESTS / "data" / "pass_key_states.py"),
        steps=200_000,
        sticky=6.0,
        self_imitation=0.3,
        stop_at=0.99,
        evaluate_every=10**9,
    )
    results = train(settings)
    assert results["first_success_step"] < 150_000
    assert results["win_rate_sampled"] >= 0.95


def test_results_say_what_happened(key_states):
    results = train(tiny("lemae", 4, key_states=key_states, eps_high=1.0, sticky=4.0))
    assert results["steps"] >= 4 * 8 * 12 - 90
    assert results["episodes"] % 8 == 0
    assert results["key_states"] == ["first_halfway", "both_halfway"]
    hits = results["hits"]
    assert hits["first_halfway"]["episodes"] >= hits["both_halfway"]["episodes"] > 0
    assert 0 < hits["first_halfway"]["first_step"] <= hits["both_halfway"]["first_step"]
    assert results["failure"] is None
    assert results["aborted"] == 0
    assert 0 < results["guidance_share"] < 1
    assert results["steps_per_second"] > 0
    last = results["curve"][-1]
    assert last["step"] == results["steps"]
    assert last["sampled"] == results["win_rate_sampled"]
    assert last["greedy"] == results["win_rate_greedy"]
    assert [one["step"] for one in results["curve"]] == sorted(
        {one["step"] for one in results["curve"]}
    )
    tree = KSMT.from_json(json.dumps(results["tree"]))
    assert tree.episodes == results["episodes"]
    assert tree.successes == results["successes"]
    length = len(results["example_rewards"])
    assert results["example_states"].shape == (length + 1, 2)
    assert len(results["example_intrinsic"]) == len(results["example_goals"]) == length


def test_the_tree_is_kept_before_it_is_pruned(key_states):
    results = train(tiny("lemae", 8, key_states=key_states, sticky=4.0))
    assert results["successes"] > 0
    before = KSMT.from_json(json.dumps(results["tree_before"]))
    after = KSMT.from_json(json.dumps(results["tree"]))
    assert not before.pruned
    assert before.successes > 0
    assert after.pruned
    assert before.episodes < after.episodes
    assert results["example_rewards"].sum() == 1  # a successful episode


def test_the_first_success_is_counted_to_the_step(monkeypatch):
    played = []

    def watched(self, *args, **options):
        played.append(COLLECT(self, *args, **options))
        return played[-1]

    monkeypatch.setattr(Collector, "collect", watched)
    results = train(tiny(rollouts=6, sticky=4.0, evaluate_every=10**9))
    steps, found = 0, None
    for episodes in played:
        if found is None and episodes.success.any():
            found = steps + episodes.steps_to_success()
        steps += episodes.steps
        if steps == results["steps"]:
            break
    assert results["first_success_step"] == found


@pytest.mark.parametrize("algo", ["qmix", "vdn", "iql"])
@pytest.mark.parametrize("method", ["lemae", "plain"])
def test_learners_of_values_run(algo, method, key_states):
    results = train(tiny(method, 3, algo=algo, key_states=key_states, learner=Q))
    assert results["steps"] > 0
    assert 0 <= results["win_rate_greedy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["qmix", "vdn", "iql"])
def test_learners_of_values_learn_at_their_defaults(algo, key_states):
    settings = tiny(
        "lemae",
        algo=algo,
        sticky=4.0,
        steps=3000,
        evaluate_every=10**9,
        key_states=key_states,
        learner={},
    )
    results = train(settings)
    assert results["win_rate_sampled"] >= 0.9
    assert results["win_rate_greedy"] >= 0.9


def test_replayed_episodes_are_paid_by_what_is_known_now(key_states, monkeypatch):
    relabeled = []
    original = training.Guidance.relabel

    def watched(self, episodes):
        relabeled.append((episodes.rewards.copy(), self.memory.episodes))
        return original(self, episodes)

    monkeypatch.setattr(training.Guidance, "relabel", watched)
    train(tiny("lemae", 4, algo="qmix", key_states=key_states, learner=Q, sticky=4.0))
    assert [episodes for _, episodes in relabeled[:4]] == [8, 16, 24, 32]
    assert all(set(np.unique(rewards)) <= {0.0, 1.0} for rewards, _ in relabeled)  # as paid


def test_cmae_runs_too(line_task):
    results = train(tiny(algo="cmae", rollouts=3, learner={"capacity": 2000}))
    assert results["steps"] > 0
    env = line_task.make(2)
    del env.n_values
    with pytest.raises(ConfigError, match=r"cmae.*does not say n_values"):
        training.build_learner(tiny(algo="cmae", learner={}), env)


@pytest.mark.parametrize("method", ["count", "rnd", "her", "discriminator"])
def test_baselines_run_with_the_same_aids(method, key_states):
    results = train(tiny(method, 2, key_states=key_states, **AIDS))
    assert results["steps"] > 0
    assert results["tree"] is None
    assert len(results["key_states"]) == (2 if method == "discriminator" else 0)


def test_random_actions_end_with_the_first_success(monkeypatch):
    shares = []

    def watched(self, *args, **options):
        episodes = COLLECT(self, *args, **options)
        if options.get("explorer") is not None:
            shares.append((episodes.epsilon[0].mean(), bool(episodes.success.any())))
        return episodes

    monkeypatch.setattr(Collector, "collect", watched)
    train(tiny(rollouts=10, sticky=4.0))
    first = next(i for i, (_, won) in enumerate(shares) if won)
    assert all(epsilon == 1 for epsilon, _ in shares[: first + 1])
    assert all(epsilon == 0 for epsilon, _ in shares[first + 1 :])
    assert len(shares) > first + 1


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"method": "plain"}, {0.0}),
        ({"method": "lemae"}, {0.0, 1.0}),
        ({"method": "lemae", "explore": "off"}, {0.0}),
        ({"method": "lemae", "eps_low": 0.25, "eps_high": 0.5}, {0.25, 0.5}),
        ({"method": "plain", "explore": "constant", "eps_high": 0.5}, {0.0, 0.5}),
        ({"method": "plain", "sticky": 4.0, "explore_until": 10**6}, {1.0}),
        ({"method": "lemae", "eps_low": 0.25, "explore_until": 10**6}, {0.25, 1.0}),
        ({"method": "plain", "algo": "qmix", "learner": Q}, {0.0}),
    ],
)
def test_who_says_how_random_actions_are(options, shares, key_states, monkeypatch):
    found = set()

    def watched(self, *args, **given):
        episodes = COLLECT(self, *args, **given)
        if "explorer" in given:  # not an evaluation
            found.update(np.unique(episodes.epsilon).tolist())
        return episodes

    monkeypatch.setattr(Collector, "collect", watched)
    train(dataclasses.replace(tiny(rollouts=8), key_states=key_states, **options))
    assert found <= {float(np.float32(share)) for share in shares}
    assert max(found) == max(shares)


@pytest.mark.parametrize("method", ["lemae", "plain"])
def test_exploration_goes_on_until_so_many_successes(method, key_states, monkeypatch):
    shares, successes = [], [0]

    def watched(self, *args, **options):
        episodes = COLLECT(self, *args, **options)
        if "explorer" in options:
            shares.append((successes[-1], episodes.epsilon[0].max()))
            successes.append(successes[-1] + int(episodes.success.sum()))
        return episodes

    monkeypatch.setattr(Collector, "collect", watched)
    results = train(tiny(method, 20, sticky=4.0, explore_until=5, key_states=key_states))
    assert any(0 < before < 5 for before, _ in shares)
    assert successes[-1] >= 5
    assert all(epsilon == 0 for before, epsilon in shares if before >= 5)
    if method == "lemae":
        assert results["tree_before"]["memory"]["successes"] >= 5
    else:
        assert all(epsilon == 1 for before, epsilon in shares if before < 5)


def test_alpha_weighs_the_reward_of_every_method(key_states, monkeypatch):
    given = []
    original = training.IPPO.update

    def watched(self, episodes, rewards):
        given.append((episodes, rewards))
        return original(self, episodes, rewards)

    monkeypatch.setattr(training.IPPO, "update", watched)
    for method, options in (("plain", {}), ("lemae", {"shir": False, "planning": False})):
        given.clear()
        train(tiny(method, 8, alpha=3.0, sticky=4.0, key_states=key_states, **options))
        assert any(rewards.any() for _, rewards in given)
        assert all(np.array_equal(rewards, 3 * episodes.rewards) for episodes, rewards in given)
    given.clear()
    train(tiny("lemae", 2, alpha=3.0, beta=0.5, sticky=4.0, key_states=key_states))
    assert any(not np.array_equal(rewards, 3 * e.rewards) for e, rewards in given)


def test_the_count_bonus_ends_with_success(monkeypatch):
    given = []
    original = training.IPPO.update

    def watched(self, episodes, rewards):
        given.append((bool(episodes.success.any()), rewards - 10 * episodes.rewards))
        return original(self, episodes, rewards)

    monkeypatch.setattr(training.IPPO, "update", watched)
    train(tiny(rollouts=10, sticky=4.0, count_bonus=0.2))
    first = next(i for i, (won, _) in enumerate(given) if won)
    assert all(bonus.max() > 0 for _, bonus in given[:first])
    assert not any(bonus.any() for _, bonus in given[first:])


def test_a_team_that_has_mastered_the_task_stops_early():
    settings = tiny(rollouts=1000, sticky=4.0, self_imitation=0.3, stop_at=0.9)
    settings = dataclasses.replace(settings, options={"size": 3}, learner={"learning_rate": 3e-3})
    results = train(settings)
    assert results["steps"] < settings.steps / 2
    assert results["curve"][-1]["training"] >= 0.9


def test_a_run_does_not_end_on_training_episodes_alone(monkeypatch):
    # The luckiest of many windows is no policy: other episodes have to be won as well.
    settings = tiny(rollouts=40, sticky=4.0, self_imitation=0.3, stop_at=0.9)
    settings = dataclasses.replace(settings, options={"size": 3}, learner={"learning_rate": 3e-3})
    answers, asked = [0.89, 0.5, 0.9], []

    def validated(env, actor, episodes):
        asked.append(episodes)
        return answers[len(asked) - 1]

    monkeypatch.setattr(training, "validate", validated)
    assert train(settings)["steps"] < settings.steps
    assert asked == [100, 100, 100]


def test_visits_are_counted_on_grids():
    settings = Settings(
        "pass",
        "plain",
        steps=300,
        num_envs=2,
        options={"size": 10, "episode_limit": 40},
        evaluation_episodes=2,
        learner={"hidden": 4, "epochs": 1},
    )
    results = train(settings)
    assert results["visits"].shape == (2, 10, 10)
    assert results["visits"].sum() == 2 * results["steps"]
    assert np.array_equal(results["visits"], results["visits_before_success"])


# --- key states that are missing or changed ------------------------------------------------------


def test_the_base_algorithm_is_trained_without_usable_key_states(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def is_far(state):\n    return state[7] > 1\n", encoding="utf-8")
    settings = tiny("lemae", 2, key_states=str(path))
    with pytest.warns(LemaeWarning, match="the base algorithm is trained, without key states"):
        results = train(settings, tmp_path / "run")
    assert "far" in results["failure"]
    assert results["key_states"] == []
    plain = train(tiny("plain", 2))
    assert results["curve"] == plain["curve"]
    assert train(settings, tmp_path / "run")["failure"] == results["failure"]  # read back
    with pytest.raises(KeyStateError, match="far"):
        train(dataclasses.replace(settings, on_failure="raise"))


def test_options_of_key_states_do_not_stop_the_base_algorithm(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def is_far(state):\n    return state[7] > 1\n", encoding="utf-8")
    options = {"beta": 0.2, "memory": "chain", "rule": "ucb", "reduce": 0.5, "shir": False}
    with pytest.warns(LemaeWarning, match="the base algorithm is trained"):
        results = train(
            tiny("lemae", 1, key_states=str(path), relabeling={"metric": "l2"}, **options)
        )
    assert results["curve"] == train(tiny("plain", 1))["curve"]


def test_good_functions_of_a_file_are_kept(tmp_path, line_task):
    path = tmp_path / "mixed.py"
    bad = "\n\ndef is_far(state):\n    return state[7] > 1\n"
    path.write_text(line_task.KEY_STATES + bad, encoding="utf-8")
    with pytest.warns(LemaeWarning, match="some functions of .* are left out"):
        results = train(tiny("lemae", 1, key_states=str(path)))
    assert results["key_states"] == ["first_halfway", "both_halfway"]


def test_a_file_is_checked_once_for_all_runs_of_a_process(tmp_path, line_task, monkeypatch):
    checks = []

    def watched(*arguments):
        checks.append(arguments[0])
        return check(*arguments)

    monkeypatch.setattr(guidance, "check", watched)
    path = tmp_path / "key_states.py"
    path.write_text(line_task.KEY_STATES, encoding="utf-8")
    settings = [tiny("lemae", 1, key_states=str(path), seed=seed) for seed in (0, 1)]
    found = [guidance.load_key_states(one, make_env(one, 8)) for one in settings]
    assert len(checks) == 1
    assert found[0] == found[1]
    assert found[0] is not found[1]  # their failures are counted apart
    longer = dataclasses.replace(settings[0], options={"size": 7})
    guidance.load_key_states(longer, make_env(longer, 8))
    path.write_text(line_task.KEY_STATES.replace(">= 3", ">= 2"), encoding="utf-8")
    guidance.load_key_states(settings[0], make_env(settings[0], 8))
    assert len(checks) == 3


def test_missing_key_states_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no key states are shipped for 'line_task:make'"):
        train(tiny("lemae"))
    with pytest.raises(ConfigError, match="there is no file of key states"):
        train(tiny("lemae", key_states=str(tmp_path / "nothing.py")))
    binary = tmp_path / "binary.py"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no text in UTF-8"):
        train(tiny("lemae", key_states=str(binary)))


def test_fewer_and_meaningless_key_states(key_states):
    assert len(train(tiny("lemae", 1, key_states=key_states, reduce=0.5))["key_states"]) == 1
    with pytest.warns(LemaeWarning, match="true at reset: 'index_"):
        results = train(tiny("lemae", 1, key_states=key_states, distract=1.0))
    assert len(results["key_states"]) == 4


def test_key_states_of_another_task_cannot_be_used(tmp_path, key_states):
    settings = tiny("lemae", 1, key_states=key_states, on_failure="raise", options={"n_agents": 3})
    with pytest.raises(KeyStateError, match=r"of length 2, those of .* have length 3"):
        train(settings)


# --- repeating and going on ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"algo": "qmix", "learner": Q}])
def test_the_same_seed_gives_the_same_run(options, key_states):
    settings = dataclasses.replace(tiny("lemae", 4, key_states=key_states), **options)
    one, again = train(settings), train(settings)
    assert bits(one) == bits(again)
    assert bits(one) != bits(train(dataclasses.replace(settings, seed=1)))


def test_looking_more_often_changes_nothing_but_the_curve(key_states):
    often = tiny("lemae", 4, key_states=key_states, sticky=4.0)
    once = dataclasses.replace(often, evaluate_every=10**9)
    one, other = train(often), train(once)
    assert len(one["curve"]) > len(other["curve"]) == 1
    assert one["curve"][-1] == other["curve"][-1]
    assert one["hits"] == other["hits"]


def test_every_rollout_has_random_numbers_of_its_own(monkeypatch):
    seeds = []

    def watched(self, *args, **options):
        if "explorer" in options:  # not in evaluation, whose episodes are always the same
            seeds.append(options["seed"])
        return COLLECT(self, *args, **options)

    monkeypatch.setattr(Collector, "collect", watched)
    for seed in (0, 1):
        train(tiny(rollouts=3, seed=seed))
    assert len(seeds) >= 6
    assert len(set(seeds)) == len(seeds)


class Cut(Exception):
    pass


def cut_off(monkeypatch, after):
    """Break the run when it wants to play rollout number ``after``, from 0."""
    calls = iter(range(10**6))

    def broken(self, *args, **options):
        if options.get("explorer") is not None and next(calls) == after:
            raise Cut
        return COLLECT(self, *args, **options)

    monkeypatch.setattr(Collector, "collect", broken)


CASES = {
    "lemae with aids": {"method": "lemae", **AIDS},
    "plain": {"method": "plain"},
    "lemae qmix": {"method": "lemae", "algo": "qmix", "learner": Q},
    "cmae": {"method": "plain", "algo": "cmae", "learner": {"capacity": 2000}},
    "count": {"method": "count"},
    "rnd": {"method": "rnd"},
    "her": {"method": "her"},
    "discriminator": {"method": "discriminator"},
    "dag": {"method": "lemae", "memory": "dag", "sticky": 4.0},
    "chain": {"method": "lemae", "memory": "chain", "sticky": 4.0},
    "long exploration": {"method": "lemae", "explore_until": 3, "sticky": 4.0},
}


def save_every_second_time(monkeypatch):
    saves, save = iter(range(10**6)), runs.Checkpoint.save
    monkeypatch.setattr(
        runs.Checkpoint, "save", lambda self, state: next(saves) % 2 and save(self, state)
    )


def same(one, other):
    """Whether two nested states have the same types, shapes and bits."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_goes_on_bit_for_bit(case, tmp_path, monkeypatch, key_states):
    settings = dataclasses.replace(tiny(rollouts=5), key_states=key_states, **CASES[case])
    settings = dataclasses.replace(settings, options={"size": 5})
    whole = train(settings, tmp_path / "whole")
    played = whole["episodes"] // 8
    assert played >= 4
    cut_off(monkeypatch, after=3)
    save_every_second_time(monkeypatch)
    with pytest.raises(Cut):
        train(settings, tmp_path / "cut", checkpoint_every_s=0)
    assert (tmp_path / "cut" / "checkpoint.pt").is_file()
    assert not (tmp_path / "cut" / "summary.json").exists()
    cut_off(monkeypatch, after=played - 2)  # one rollout was lost, two are kept
    gone_on = train(settings, tmp_path / "cut")
    assert bits(whole) == bits(gone_on)
    assert gone_on["seconds"] > 0
    policies = [
        torch.load(tmp_path / name / "policy.pt", weights_only=True) for name in ("whole", "cut")
    ]
    assert same(*policies)
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    records = [
        [(r["step"], r["name"], str(r["value"])) for r in read_metrics(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert records[0] == records[1]


def test_a_finished_run_is_read_back(tmp_path, monkeypatch, key_states):
    settings = tiny("lemae", 2, key_states=key_states)
    results = train(settings, tmp_path / "run")
    monkeypatch.setattr(Collector, "collect", None)  # nothing is played
    again = train(settings, tmp_path / "run")
    assert bits(results) == bits(again)
    assert again["seconds"] == results["seconds"]
    assert again["example_states"].dtype == results["example_states"].dtype
    # Written out, the published values are the same settings.
    assert bits(train(dataclasses.replace(settings, alpha=10.0, memory="tree"), tmp_path / "run"))


def test_numbers_are_logged(tmp_path, key_states):
    results = train(tiny("lemae", 3, key_states=key_states), tmp_path / "run")
    logged = read_metrics(tmp_path / "run")
    names = {record["name"] for record in logged}
    assert names == {
        "win_rate/training",
        "win_rate/sampled",
        "win_rate/greedy",
        "random_actions",
        "learner/policy_loss",
        "learner/value_loss",
        "learner/entropy",
        "learner/imitation_loss",
        "key_states/first_halfway",
        "key_states/both_halfway",
    }
    sampled = [record["value"] for record in logged if record["name"] == "win_rate/sampled"]
    assert sampled == [one["sampled"] for one in results["curve"]]
    assert max(record["step"] for record in logged) == results["steps"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["results"]["win_rate_sampled"] == results["win_rate_sampled"]
    assert summary["settings"]["beta"] == 0.1
    assert summary["settings"]["explore"] == "ksmt"


@pytest.mark.parametrize("algo", ["ippo", "qmix", "cmae"])
def test_a_saved_policy_scores_what_the_run_did(algo, tmp_path):
    options = {"ippo": {"hidden": 8}, "qmix": Q, "cmae": {"capacity": 2000}}[algo]
    settings = tiny(algo=algo, rollouts=3, learner=options)
    results = train(settings, tmp_path)
    learner = load_policy(settings, tmp_path)
    rates = evaluate(make_env(settings, 8), learner, 20)
    assert rates.greedy == results["win_rate_greedy"]
    if algo != "qmix":  # whose share of random actions is not part of its policy
        assert rates.sampled == results["win_rate_sampled"]
    with pytest.raises(ConfigError, match="holds no finished run: train first"):
        load_policy(settings, tmp_path / "nowhere")


def test_an_interrupt_saves_what_was_learned(tmp_path, monkeypatch):
    settings = tiny(rollouts=6, sticky=4.0)
    whole = train(settings, tmp_path / "whole")
    played = []

    def watched(self, *args, **options):
        if options.get("explorer") is not None:
            played.append(1)
            if len(played) == 3:
                os.kill(os.getpid(), signal.SIGINT)
        return COLLECT(self, *args, **options)

    monkeypatch.setattr(Collector, "collect", watched)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background: ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "cut", checkpoint_every_s=None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(played) == 3
    assert bits(train(settings, tmp_path / "cut")) == bits(whole)
    assert len(played) == 6


def test_a_folder_of_another_run_is_refused(tmp_path, monkeypatch):
    train(tiny(rollouts=1), tmp_path / "done")
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        train(tiny(rollouts=2), tmp_path / "done")
    cut_off(monkeypatch, after=2)
    with pytest.raises(Cut):
        train(tiny(), tmp_path / "cut", checkpoint_every_s=0)
    with pytest.raises(ConfigError, match="holds an interrupted run with other settings"):
        train(tiny(seed=1), tmp_path / "cut")


def test_a_folder_with_files_of_others_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex, which no run wrote"):
        train(tiny(), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_damaged_files_are_refused(tmp_path, monkeypatch):
    train(tiny(rollouts=1), tmp_path / "run")
    (tmp_path / "run" / "arrays.npz").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"arrays\.npz is missing or damaged"):
        train(tiny(rollouts=1), tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"summary\.json is damaged"):
        train(tiny(rollouts=1), tmp_path / "run")
    half = {"settings": {"task": "line_task:make"}, "results": {"curve": [{"step": 1}]}}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(half), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"summary\.json is damaged \(KeyError\('win_rate"):
        train(tiny(rollouts=1), tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"summary\.json is not of a training run"):
        train(tiny(rollouts=1), tmp_path / "run")
    cut_off(monkeypatch, after=2)
    with pytest.raises(Cut):
        train(tiny(), tmp_path / "cut", checkpoint_every_s=0)
    saved = tmp_path / "cut" / "checkpoint.pt"
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=r"checkpoint\.pt is damaged"):
        train(tiny(), tmp_path / "cut")


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    path = tmp_path / "checkpoint.pt"
    runs.save_tensors({"settings": Harmful()}, path)
    with pytest.raises(IntegrityError, match="is damaged"):
        train(tiny(), tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_flipped_byte_is_noticed_wherever_it_is(tmp_path):
    path = tmp_path / "policy.pt"
    runs.save_tensors({"weights": torch.arange(5.0), "counts": np.arange(3)}, path)
    assert runs.load_tensors(path)["counts"].tolist() == [0, 1, 2]
    assert torch.load(path, weights_only=True)["weights"].tolist() == [0, 1, 2, 3, 4]
    saved = path.read_bytes()
    for place in range(0, len(saved), 13):
        path.write_bytes(saved[:place] + bytes([saved[place] ^ 1]) + saved[place + 1 :])
        with pytest.raises(IntegrityError, match=r"policy\.pt is damaged .*SHA-256.*: restore it"):
            runs.load_tensors(path)


def test_a_damaged_policy_is_not_played(tmp_path):
    settings = tiny(rollouts=1)
    train(settings, tmp_path)
    path = tmp_path / "policy.pt"
    saved = bytearray(path.read_bytes())
    saved[len(saved) // 2] ^= 1
    path.write_bytes(saved)
    with pytest.raises(IntegrityError, match=r"policy\.pt is damaged"):
        load_policy(settings, tmp_path)


@pytest.mark.parametrize(
    "damage", [b"\xff\xff\n", b"[]\n", b"{}\n", b"nothing\n", b"[" * 10**5 + b"\n"]
)
def test_a_damaged_log_is_refused(damage, tmp_path, monkeypatch):
    cut_off(monkeypatch, after=2)
    with pytest.raises(Cut):
        train(tiny(rollouts=3), tmp_path, checkpoint_every_s=0)
    monkeypatch.setattr(Collector, "collect", COLLECT)
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(damage + log.read_bytes())
    with pytest.raises(IntegrityError, match=r"metrics\.jsonl is damaged .*: move it away"):
        train(tiny(rollouts=3), tmp_path)
    log.unlink()
    assert train(tiny(rollouts=3), tmp_path)["steps"] > 0


def test_a_checkpoint_of_another_version_is_told(tmp_path, monkeypatch):
    cut_off(monkeypatch, after=2)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "__version__", "0.0.9")
        with pytest.raises(Cut):
            train(tiny(), tmp_path, checkpoint_every_s=0)
    words = (
        r"checkpoint\.pt was written by lemae 0\.0\.9, and this is .*: go on with lemae 0\.0\.9, "
    )
    with pytest.raises(StateError, match=words + r"or begin anew in another folder \(--out\)"):
        train(tiny(), tmp_path)


@pytest.mark.parametrize("algo", ["ippo", "qmix", "cmae"])
def test_a_task_that_has_changed_since_is_told(algo, tmp_path, monkeypatch, line_task):
    options = {"ippo": {"hidden": 8}, "qmix": Q, "cmae": {"capacity": 2000}}[algo]
    settings = tiny(algo=algo, rollouts=3, learner=options)
    train(settings, tmp_path / "whole")
    cut_off(monkeypatch, after=2)
    with pytest.raises(Cut):
        train(settings, tmp_path / "cut", checkpoint_every_s=0)
    changed = functools.partial(line_task.make, size=7)
    monkeypatch.setattr(line_task, "make", changed)
    words = r" cannot be used: the saved state does not fit this .* restore that, or begin anew in"
    with pytest.raises(StateError, match=r"checkpoint\.pt" + words):
        train(settings, tmp_path / "cut")
    with pytest.raises(StateError, match=r"policy\.pt" + words):
        load_policy(settings, tmp_path / "whole")


def test_a_policy_is_no_checkpoint(tmp_path):
    train(tiny(rollouts=1), tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "policy.pt").rename(tmp_path / "checkpoint.pt")
    with pytest.raises(IntegrityError, match=r"checkpoint\.pt is no checkpoint"):
        train(tiny(rollouts=1), tmp_path)


# --- two at once ---------------------------------------------------------------------------------


@pytest.fixture(params=["of this system", "as on Windows"])
def locks(request, monkeypatch, tmp_path):
    """Locks of this system, and those of Windows played by it."""
    if request.param == "of this system":
        return
    fcntl = pytest.importorskip("fcntl")

    class Msvcrt(ModuleType):
        LK_NBLCK = 2

        @staticmethod
        def locking(handle, mode, count):
            assert (mode, count) == (2, 1)
            assert stat.S_ISREG(os.fstat(handle).st_mode)  # no folder
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PermissionError(13, "Permission denied") from error

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt("msvcrt"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.mark.usefixtures("locks")
def test_two_runs_do_not_write_to_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with runs.locked(Path("run")):
        with pytest.raises(LemaeError, match=r"another process is writing to .*run: wait"):
            train(tiny(rollouts=1), tmp_path / "run")
        assert not any((tmp_path / "run").iterdir())
    results = train(tiny(rollouts=1), tmp_path / "run")
    with runs.locked(tmp_path / "run"):
        assert bits(train(tiny(rollouts=1), tmp_path / "run")) == bits(results)  # is only read


@pytest.mark.usefixtures("locks")
def test_a_folder_is_kept_while_a_run_goes_on(tmp_path, monkeypatch):
    tried, folder = [], tmp_path / "run"

    def watched(self, *args, **options):
        with pytest.raises(LemaeError, match="another process is writing"), runs.locked(folder):
            pass
        tried.append(True)
        return COLLECT(self, *args, **options)

    monkeypatch.setattr(Collector, "collect", watched)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("", encoding="utf-8")  # the folder is emptied
    train(tiny(rollouts=1), folder)
    assert tried
    with runs.locked(folder), runs.locked(tmp_path / "other"):
        assert not runs.strangers(folder)


def test_a_folder_is_free_when_its_process_was_killed(tmp_path):
    code = (
        "import pathlib, sys, time\n"
        "from lemae import runs\n"
        "with runs.locked(pathlib.Path(sys.argv[1])):\n"
        "    print('kept', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "kept\n"
        with pytest.raises(LemaeError, match="another process is writing"):
            train(tiny(rollouts=1), tmp_path)
        process.kill()
    assert train(tiny(rollouts=1), tmp_path)["steps"] > 0


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="run is a file: name a folder"):
        train(tiny(rollouts=1), tmp_path / "run")


def test_changed_key_states_are_not_taken_for_those_the_run_began_with(
    tmp_path, monkeypatch, key_states, line_task
):
    from lemae.key_states import KeyStateSet

    settings = tiny("lemae", key_states=key_states)
    cut_off(monkeypatch, after=2)
    with pytest.raises(Cut):
        train(settings, tmp_path / "cut", checkpoint_every_s=0)
    changed = line_task.KEY_STATES.replace(">= 3", ">= 2")
    KeyStateSet.from_source(changed, line_task.make(1).task_spec).save(key_states)
    with pytest.raises(StateError, match="was begun with other contents of key_states: restore"):
        train(settings, tmp_path / "cut")


@pytest.mark.parametrize("method", ["lemae", "discriminator", "llm-reward"])
def test_a_changed_file_is_not_taken_for_the_one_a_finished_run_read(method, tmp_path, line_task):
    path = tmp_path / "code.py"
    if method == "llm-reward":
        source = "def reward(state, next_state):\n    return next_state[..., 0] - state[..., 0]\n"
        settings, name = tiny(method, 1, baseline={"path": str(path)}), "baseline.path"
    else:
        source = line_task.KEY_STATES
        settings, name = tiny(method, 1, key_states=str(path)), "key_states"
    path.write_text(source, encoding="utf-8")
    results = train(settings, tmp_path / "run")
    assert set(results["inputs"]) == {name}
    assert bits(train(settings, tmp_path / "run")) == bits(results)
    path.write_text(source + "# new\n", encoding="utf-8")
    words = rf"run holds a run that was begun with other contents of {name}: restore them, or name"
    with pytest.raises(StateError, match=words):
        train(settings, tmp_path / "run")
    path.unlink()
    with pytest.raises(ConfigError, match=rf"{name} is .*code\.py', which cannot be read"):
        train(settings, tmp_path / "run")


def test_a_run_of_an_earlier_version_is_read_back(tmp_path):
    settings = tiny(rollouts=1)
    results = train(settings, tmp_path)
    path = tmp_path / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    del summary["settings"]["explore_until"], summary["results"]["inputs"]
    path.write_text(json.dumps(summary), encoding="utf-8")
    assert train(settings, tmp_path)["seconds"] == results["seconds"]
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        train(dataclasses.replace(settings, explore_until=2), tmp_path)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_that_was_killed_while_it_saved_goes_on(interrupted, tmp_path, monkeypatch):
    if interrupted:
        cut_off(monkeypatch, after=2)
        with pytest.raises(Cut):
            train(tiny(rollouts=3), tmp_path, checkpoint_every_s=0)
        monkeypatch.setattr(Collector, "collect", COLLECT)
    scratch = [tmp_path / name for name in (".checkpoint.pt.4711", ".metrics.jsonl.x1_a")]
    for path in scratch:
        path.write_bytes(b"half of it")
    results = train(tiny(rollouts=3), tmp_path)
    assert results["steps"] > 0
    assert not any(path.exists() for path in scratch)


def test_checkpoints_are_saved_as_often_as_was_asked_for(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(runs.Checkpoint, "save", lambda self, state: saved.append(state))
    counts = []
    for number, every_s in enumerate((0, 10**9, None)):
        saved.clear()
        train(tiny(rollouts=3), tmp_path / str(number), checkpoint_every_s=every_s)
        counts.append(len(saved))
    assert counts[0] >= 3
    assert counts[1:] == [0, 0]


def test_event_files_show_each_step_once(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = tiny(rollouts=5)
    cut_off(monkeypatch, after=3)
    save_every_second_time(monkeypatch)
    with pytest.raises(Cut):
        train(settings, tmp_path, checkpoint_every_s=0, tensorboard=True)
    monkeypatch.setattr(Collector, "collect", COLLECT)
    results = train(settings, tmp_path, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("win_rate/sampled")]
    assert seen == [(one["step"], pytest.approx(one["sampled"])) for one in results["curve"]]
    logged = [one["step"] for one in read_metrics(tmp_path) if one["name"] == "win_rate/training"]
    assert [event.step for event in events.Scalars("win_rate/training")] == logged


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lemae\[tensorboard\]"'):
        train(tiny(), tmp_path, tensorboard=True)


# --- environments that break off -----------------------------------------------------------------


def test_broken_off_episodes_are_counted_and_dropped():
    results = train(tiny(rollouts=3, options={"aborts": [1, 3]}))
    assert results["aborted"] > 0
    assert results["aborted"] * 3 == results["episodes"]  # two of eight copies


def test_an_environment_that_always_breaks_off_is_given_up():
    with pytest.raises(TaskError, match="every episode of 10 rollouts in a row was aborted"):
        train(tiny(options={"aborts": list(range(8))}))


# --- numbers that are none -----------------------------------------------------------------------


def test_a_broken_policy_is_not_saved(tmp_path, monkeypatch):
    """A reward that no float32 can hold, after some good rollouts."""
    rollouts = iter(range(100))

    def broken(self, *args, **options):
        episodes = COLLECT(self, *args, **options)
        if options.get("explorer") is not None and next(rollouts) == 2:
            episodes.rewards[0] = 1e200
        return episodes

    monkeypatch.setattr(Collector, "collect", broken)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(LemaeError, match=r"steps of line_task:make these are not finite: policy_l"),
    ):
        train(tiny(), tmp_path, checkpoint_every_s=0)
    saved = runs.load_tensors(tmp_path / "checkpoint.pt")["state"]
    assert saved["counts"]["rollouts"] == 2
    assert all(weight.isfinite().all() for weight in saved["parts"]["learner"]["actor"].values())


@pytest.mark.parametrize(("algo", "learner"), [("ippo", {"epochs": 1}), ("qmix", Q)])
def test_weights_that_the_last_step_broke_are_noticed(algo, learner):
    settings = tiny(rollouts=1, algo=algo, learner={**learner, "learning_rate": 1e39})
    with pytest.raises(LemaeError, match=r"not finite: weights of the policy\. .*learning_rate"):
        train(settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["learning_rate", "clip", "max_gradient", "entropy", "value"])
def test_options_of_the_learner_are_finite(name, value):
    with pytest.raises(ConfigError, match=rf"{name} is {value}: .* finite"):
        train(tiny(learner={name: value}))


# --- environments that do not keep their word ----------------------------------------------------


def broken_env(line_task, **changes):
    """A class of environments of which methods are replaced, or attributes of each."""

    class Env(line_task.Line):
        def __init__(self, num_envs):
            super().__init__(num_envs)
            for name, value in changes.items():
                setattr(self, name, value(self) if callable(value) else value)

    return Env


def steps(change):
    """A ``step`` whose five results are changed."""

    def make(env):
        step = env.step
        return lambda actions: change(*step(actions))

    return make


def raising(env):
    def method(*args, **options):
        raise ZeroDivisionError("no way")

    return method


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": raising}, r"failed in step: ZeroDivisionError: no way \(.*\.py, line \d+\)"),
        ({"reset": raising}, "failed in reset: ZeroDivisionError: no way"),
        ({"available": raising}, "failed in available: ZeroDivisionError: no way"),
        ({"step": lambda env: sys.exit}, "failed in step: SystemExit"),
        ({"step": None}, "has no method step"),
        ({"step": steps(lambda *five: None)}, "'NoneType' object is not iterable"),
        ({"step": steps(lambda *five: five[:4])}, "it returns 4 values, not 5"),
        ({"step": steps(lambda s, *four: (s[0], *four))}, r"states of shape \(2,\), not \(8, 2\)"),
        ({"step": steps(lambda s, *four: (s.astype(str), *four))}, "states of type <U.*numbers"),
        ({"step": steps(lambda s, r, *three: (s, 0.0, *three))}, r"rewards of shape \(\), not"),
        (
            {"step": steps(lambda s, r, t, *two: (s, r, 1.0 * t, *two))},
            "terminated of type float64",
        ),
        ({"step": steps(lambda *five: (*five[:4], None))}, "returns info None from step: give a"),
        (
            {"step": steps(lambda *five: (*five[:4], {"success": True}))},
            r"info\['success'\] of shape \(\), not \(8,\)",
        ),
        ({"observations": lambda env: np.mean}, r"observations of shape \(\), not \(8, 2\)"),
        ({"episode_limit": None}, "has episode_limit None: give a positive whole number"),
        ({"n_actions": 1.5}, "has n_actions 1.5"),
        ({"num_envs": 3}, "has 3 copies, and 8 were asked for"),
        ({"n_values": (6,)}, r"has n_values \(6,\): give one number for each of the 2 indices"),
        ({"task_spec": "go right"}, "has task_spec 'go right': give a lemae.TaskSpec or None"),
    ],
)
def test_environments_that_do_not_keep_their_word_are_told(changes, words, line_task, monkeypatch):
    monkeypatch.setattr(line_task, "make", broken_env(line_task, **changes))
    with pytest.raises(
        (TaskError, ShapeError), match=rf"environment of 'line_task:make' .*{words}"
    ):
        train(tiny(rollouts=1))


@pytest.mark.parametrize("task", ["os:system", "os:sep", "sys:exit", "builtins:str", "zlib:crc32"])
def test_what_makes_no_environment_is_told(task):
    with pytest.raises(TaskError, match=rf"environment of '{task}' (failed in the call|has num_)"):
        train(Settings(task, "plain"))


def test_a_module_that_raises_anything_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "raises.py").write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"cannot be imported \(ZeroDivisionError: division by"):
        make_env(Settings("raises:make", "plain"), 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "pass", "options": {"num_envs": 3}}, "options is .* which pass does not take"),
        ({"task": "pass", "num_envs": 10**30}, r"num_envs is 10+ and options is"),
        ({"device": "nope"}, "device is 'nope', which cannot be used"),
        ({"device": "meta"}, "device is 'meta', which cannot be used"),
        ({"method": "lemae", "relabeling": {"foo": 1}}, "relabeling is .*'foo'.* does not take"),
        ({"method": "lemae", "relabeling": {"alpha": 1}}, "relabeling is .*'alpha'.* not take"),
        ({"method": "rnd", "baseline": {"env": 1}}, "baseline is .*'env'.*which rnd does not take"),
        ({"method": "llm-reward", "baseline": {"path": 3}}, "baseline is .*'path': 3"),
        ({"learner": {"hidden": 1.5}}, "hidden is 1.5: give int"),
        ({"learner": {"hidden": 10**30}}, "learner is .*which ippo does not take"),
        ({"algo": "qmix", "learner": {"capacity": 10**18}}, r"capacity is 10+, .* fit into memory"),
    ],
)
def test_options_that_nothing_takes_are_told(options, words, key_states):
    with pytest.raises(ConfigError, match=words):
        train(dataclasses.replace(tiny(rollouts=1), key_states=key_states, **options))


# --- settings ------------------------------------------------------------------------------------


def test_published_values_stand_for_none():
    assert Settings("pass").choices.alpha == 10
    box = Settings("push-box").choices
    assert (box.beta, box.eps_high, box.memory) == (0.05, 0.2, "tree")
    battle = Settings("smax-5m_vs_6m", algo="qmix").choices
    assert (battle.alpha, battle.beta, battle.eps_low, battle.eps_high) == (1, 1, 0.05, 0.5)
    assert battle.memory == "chain"
    assert Settings("smax-3m").choices.memory == "tree"
    assert Settings("push-box", beta=0.3).choices.beta == 0.3
    assert Settings("push-box", "plain").choices.eps_high == 1, "of LEMAE's exploration alone"
    assert Settings("pass", "plain").choices.explore == "off"
    assert Settings("pass", "plain", sticky=6).choices.explore == "constant"
    assert Settings("pass", "lemae", sticky=6, explore="off").choices.explore == "off"


def test_wrong_settings_are_named():
    for options, words in (
        ({"algo": "qmx"}, "algo is 'qmx': did you mean qmix"),
        ({"memory": "list"}, "memory is 'list': choose from tree, chain, dag"),
        ({"num_envs": 2.5}, r"num_envs is 2\.5: give a whole number of at least 1"),
        ({"sticky": float("nan")}, "sticky is nan: give a finite number of at least 1"),
        ({"steps": 0}, "steps is 0: give a whole number of at least 1"),
        ({"seed": -1}, "seed is -1: give a whole number of at least 0"),
        ({"reduce": 1.0}, r"reduce is 1\.0: give a share"),
        ({"stop_at": 1.5}, r"stop_at is 1\.5: give a finite number above 0 and at most 1"),
        ({"explore": "ksmt"}, "needs the key states of LEMAE, and method is 'plain'"),
        ({"rule": "depth"}, "rule is 'depth': choose from degree, leaf, ucb, thompson"),
        ({"alpha": 0.0}, r"alpha is 0\.0: give a finite number above 0"),
        ({"alpha": float("inf")}, "alpha is inf: give a finite number above 0"),
        ({"beta": float("inf")}, "beta is inf: give a finite number of at least 0"),
        ({"beta": float("nan")}, "beta is nan: give a finite number of at least 0"),
        ({"count_bonus": float("inf")}, "count_bonus is inf: give a finite number of at least 0"),
        ({"eps_high": 1.5}, r"eps_low is 0\.0 and eps_high 1\.5: give 0 <= eps_low"),
        ({"eps_low": 0.5, "eps_high": 0.1}, r"eps_low is 0\.5 and eps_high 0\.1"),
        ({"explore_until": 0}, "explore_until is 0: give a whole number of at least 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            dataclasses.replace(tiny(), **options)
    with pytest.raises(ConfigError, match="method is 'lemea': did you mean lemae"):
        train(tiny("lemea"))
    with pytest.raises(ConfigError, match=r"the name of an option of ippo is 'depth': choose"):
        train(tiny(learner={"depth": 3}))
    with pytest.raises(TaskError, match="'no_such_module:make', which cannot be imported"):
        train(dataclasses.replace(tiny(), task="no_such_module:make"))
    with pytest.raises(TaskError, match="did you mean pass"):
        train(dataclasses.replace(tiny(), task="pas"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.2}, r"beta is 0\.2, which is for lemae and her, and method is 'plain'"),
        ({"method": "count", "shir": False}, "shir is False, which is for lemae"),
        ({"method": "discriminator", "planning": False}, "planning is False"),
        ({"subspace": "full"}, "subspace is 'full'"),
        ({"relabeling": {"metric": "l2"}}, "relabeling is {'metric': 'l2'}"),
        ({"memory": "dag"}, "memory is 'dag'"),
        ({"rule": "ucb"}, "rule is 'ucb'"),
        ({"reduce": 0.5}, r"reduce is 0\.5, which is for lemae and discriminator"),
        ({"distract": 0.5}, r"distract is 0\.5"),
        ({"algo": "qmix", "self_imitation": 0.3}, "self_imitation is for ippo"),
        ({"algo": "vdn", "random_actions": "ignore"}, "random_actions is 'ignore', which is for"),
        ({"random_actions": "mixture", "sticky": 6.0}, "is not that of the mixture"),
        ({"algo": "cmae", "method": "rnd"}, "'cmae', a method of its own, and method is 'rnd'"),
        ({"algo": "cmae", "sticky": 6.0}, r"sticky is 6\.0, and algo is 'cmae'"),
        ({"algo": "cmae", "count_bonus": 0.1}, r"count_bonus is 0\.1, and algo is 'cmae'"),
        ({"algo": "cmae", "explore": "constant"}, "explore is 'constant', and algo is 'cmae'"),
    ],
)
def test_options_without_effect_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Settings(**{"task": "pass", "method": "plain", **options})


@pytest.mark.parametrize("method", ["lemae", "plain", "discriminator"])
def test_written_out_settings_are_the_same_settings(method):
    given = Settings("push-box", method, algo="qmix")
    written = Settings(**given.as_dict())
    assert written.as_dict() == given.as_dict()


def test_fields_are_checked_by_name_and_type():
    good = {"shir": False, "eps_low": 1, "sticky": None, "learner": {"epochs": 2}, "rule": "ucb"}
    check_fields(good)
    for given, words in (
        ({"eps_lo": 0.1}, "'eps_lo': did you mean eps_low"),
        ({"shir": "no"}, "shir is 'no': give bool"),
        ({"sticky": "6"}, r"sticky is '6': give float \| None"),
        ({"steps": True}, "steps is True: give int"),
        ({"learner": 3}, "learner is 3: give dict"),
        ({"rule": 3}, "rule is 3: give "),
    ):
        with pytest.raises(ConfigError, match=words):
            check_fields(given)
