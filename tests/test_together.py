"""examples/together: the task that pays late, lare's part of the loop, the tables of the README."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lemae.algos import IPPO, Collector

for library in ("mpe2", "pettingzoo"):
    pytest.importorskip(library)

FOLDER = Path(__file__).parent.parent / "examples" / "together"


def part(name):
    spec = importlib.util.spec_from_file_location(f"together_{name}", FOLDER / f"parts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


credit, landmarks, tables = map(part, ("credit", "landmarks", "tables"))


def test_paid_is_the_share_of_steps_on_both_landmarks_and_only_at_the_end():
    env = landmarks.make(1).copies[0]
    env.reset(seed=0)
    one, two = env.world.agents
    paid = []
    for step in range(landmarks.LIMIT):
        env.world.landmarks[0].state.p_pos = one.state.p_pos.copy()
        env.world.landmarks[1].state.p_pos = two.state.p_pos + (0.0 if step < 20 else 1.0)
        _, rewards, ends, cuts, _ = env.step(dict.fromkeys(env.agents, 0))
        paid.append(rewards)
    assert set(paid[-1].values()) == {20 / landmarks.LIMIT}
    assert not any(any(rewards.values()) for rewards in paid[:-1])
    assert all(ends.values())
    assert not any(cuts.values())


def test_each_agent_sees_its_own_landmark_first():
    env = landmarks.make(1).copies[0]
    seen, _ = env.reset(seed=3)
    state = env.state().astype(np.float32)
    assert (seen["agent_0"][2:6] == state).all()
    assert (seen["agent_1"][2:6] == state[[2, 3, 0, 1]]).all()


def test_credit_finds_what_each_step_earned_from_returns_alone():
    env = landmarks.make(8)
    learner = IPPO(env.n_agents, env.n_actions, landmarks.SEEN, seed=0)
    earned = credit.Credit(landmarks.FACTORS, env, landmarks.SEEN)
    for seed in range(4):
        played = Collector(env).collect(learner, seed=seed)
        # A return that is a sum over steps and agents of what one factor says: the distances.
        true = -np.abs(played.states[1:].reshape(landmarks.LIMIT, 8, 2, 2)).max(-1).sum(-1)
        late = np.zeros_like(played.rewards)
        late[-1] = true.sum(0)
        found = earned.rewards(replace(played, rewards=late))
    assert np.abs(found - true).max() < 0.02 * np.abs(true).max()


@pytest.mark.parametrize(
    ("name", "table"),
    [("multitask_trainer", tables.multitask), ("credit_and_exploration", tables.exploration)],
)
def test_the_readme_shows_the_results(name, table):
    summary = json.loads((FOLDER / "results" / name / "summary.json").read_text(encoding="utf-8"))
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = [*table(summary["results"]["rows"]), "", tables.measured(summary)]
    assert "\n".join(shown) in text
