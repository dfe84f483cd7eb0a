"""IPPO: its networks, its advantages, what it makes of random actions, and what it learns."""

import copy
import dataclasses
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lemae.algos.ippo as ippo
from lemae.algos.evaluation import evaluate
from lemae.algos.ippo import IPPO, IPPOSettings, advantages, clipped
from lemae.algos.networks import OneHot, Perceptrons
from lemae.algos.rollout import Collector, Episodes, FixedEpsilon
from lemae.errors import ConfigError, ShapeError
from lemae.explore import RandomActions

TESTS = Path(__file__).parent
Line = runpy.run_path(str(TESTS / "line_task.py"))["Line"]


def team(env, seed=0, **options):
    """An IPPO for copies of the line."""
    observed = hasattr(env, "observations")
    return IPPO(
        env.n_agents,
        env.n_actions,
        1 if observed else env.d,
        n_values=None if observed else env.n_values,
        settings=IPPOSettings(**{"hidden": 16, **options}),
        seed=seed,
    )


def rollout(learner, env, seed=0, epsilon=0.0, sticky=None):
    mixer = RandomActions(env.num_envs, env.n_agents, env.n_actions, sticky=sticky, seed=seed)
    explorer = FixedEpsilon(env.num_envs, epsilon)
    return Collector(env).collect(learner, seed=seed, explorer=explorer, mixer=mixer)


def weights(learner):
    values = [*learner.actor.parameters(), *learner.critic.parameters()]
    return torch.cat([value.detach().flatten() for value in values])


# --- networks ------------------------------------------------------------------------------------


def test_positions_of_ones():
    encode = OneHot((3, 2))
    assert encode.size == 5
    assert encode(np.array([[0.0, 0.0], [2.0, 1.0]])).tolist() == [[0, 3], [2, 4]]
    for bad in ([3.0, 0.0], [0.0, -1.0], [1.5, 0.0], [0.0, -0.5], [0.0, 1.001], [np.inf, 0.0]):
        with (
            np.errstate(invalid="ignore"),
            pytest.raises(ShapeError, match=r"a fraction, or a number outside 0\.\.n_values - 1"),
        ):
            encode(np.array([bad], np.float32))
    with pytest.raises(ShapeError, match="states have length 3, n_values 2"):
        encode(np.zeros((4, 3)))
    for bad in (0, 1.5, np.nan):
        with pytest.raises(ConfigError, match=rf"n_values\[1\] is {bad}: give a whole number"):
            OneHot((3, bad))
    with pytest.raises(ConfigError, match="n_values is empty"):
        OneHot(())


def separately(stack, inputs):
    """Outputs of the networks, one after the other, by plain products; ``[M, B, inputs]``."""
    outputs = []
    hidden = stack.second.shape[1]
    for i, numbers in enumerate(inputs):
        if stack.one_hot:
            first = stack.first[:, i * hidden : (i + 1) * hidden]
            layer = numbers @ first
        else:
            layer = numbers @ stack.first[i] + stack.first_bias[i]
        layer = layer.tanh() @ stack.second[i] + stack.second_bias[i]
        outputs.append(layer.tanh() @ stack.last[i] + stack.last_bias[i])
    return torch.stack(outputs)


@pytest.mark.parametrize("one_hot", [True, False])
def test_networks_together_are_networks_apart(one_hot):
    stack = Perceptrons(3, 5, 4, one_hot=one_hot, hidden=6, seed=1)
    with torch.no_grad():
        for weight in stack.parameters():
            weight += 0.1 * torch.randn_like(weight)
    if one_hot:
        positions = np.array([[0, 3], [2, 4], [1, 3], [1, 4]])
        numbers = torch.zeros(4, 5).scatter_(1, torch.from_numpy(positions), 1.0).expand(3, 4, 5)
        given = torch.from_numpy(positions)
    else:
        given = numbers = torch.randn(3, 4, 5)
    wanted = separately(stack, numbers)
    torch.testing.assert_close(stack(given), wanted)
    np.testing.assert_allclose(stack.fast(given.numpy()), wanted.detach().numpy(), atol=1e-5)
    # And so are the gradients.
    target = torch.randn(3, 4, 4)
    found = torch.autograd.grad((stack(given) * target).sum(), list(stack.parameters()))
    apart = torch.autograd.grad(
        (separately(stack, numbers) * target).sum(), list(stack.parameters())
    )
    for one, other in zip(found, apart, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("one_hot", [True, False])
def test_the_gradient_of_each_network_is_shortened_on_its_own(one_hot):
    stack = Perceptrons(2, 4, 3, one_hot=one_hot, hidden=5)
    inputs = torch.tensor([[0, 2], [1, 3]]) if one_hot else torch.randn(2, 2, 4)
    (stack(inputs) * torch.tensor([1e-3, 1e3])[:, None, None]).sum().backward()

    def lengths():
        squares = torch.zeros(2)
        for name, weight in stack.named_parameters():
            gradient = weight.grad
            if one_hot and name == "first":
                gradient = gradient.view(4, 2, 5).transpose(0, 1)
            squares += gradient.flatten(1).square().sum(1)
        return squares.sqrt()

    before = lengths()
    assert before[0] < 1 < before[1]
    stack.clip_gradients(1.0)
    after = lengths()
    torch.testing.assert_close(after, torch.tensor([before[0], 1.0]))


def test_first_weights_are_orthogonal_and_differ():
    stack = Perceptrons(2, 7, 3, one_hot=False, hidden=5, last_gain=0.01, seed=0)
    for weight in stack.second.detach() * 3 / 5:
        torch.testing.assert_close(weight @ weight.T, torch.eye(5), atol=1e-5, rtol=0)
    assert not torch.equal(stack.second[0], stack.second[1])
    assert stack.last.abs().max() <= 0.01
    again = Perceptrons(2, 7, 3, one_hot=False, hidden=5, last_gain=0.01, seed=0)
    assert torch.equal(stack.first, again.first)
    assert not torch.equal(stack.first, Perceptrons(2, 7, 3, one_hot=False, hidden=5, seed=1).first)
    with pytest.raises(ConfigError, match="hidden is 0: give a whole number"):
        Perceptrons(2, 7, 3, one_hot=False, hidden=0)
    with pytest.raises(ConfigError, match="last_gain is nan: give a finite number"):
        Perceptrons(2, 7, 3, one_hot=False, last_gain=np.nan)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_acts_by_its_own_weights(clone):
    stack = Perceptrons(1, 2, 2, one_hot=False, hidden=3)
    inputs = np.ones((1, 1, 2), np.float32)
    before = stack.fast(inputs)
    other = clone(stack)
    assert stack._views  # seen
    assert not other._views  # to be seen anew
    with torch.no_grad():
        other.last_bias += 1
    np.testing.assert_array_equal(stack.fast(inputs), before)
    np.testing.assert_allclose(other.fast(inputs), before + 1, rtol=1e-6)
    other.load_state_dict(stack.state_dict())
    np.testing.assert_array_equal(other.fast(inputs), before)


def test_weights_that_moved_are_found():
    stack = Perceptrons(1, 2, 2, one_hot=False, hidden=3)
    inputs = np.ones((1, 1, 2), np.float32)
    before = stack.fast(inputs)
    stack.double()
    assert stack.fast(inputs).dtype == np.float64
    np.testing.assert_allclose(stack.fast(inputs), before, rtol=1e-5)


# --- advantages ----------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_advantages_are_discounted_sums_of_surprises(seed):
    rng = np.random.default_rng(seed)
    steps, count, n, gamma, lam = 7, 4, 2, 0.9, 0.8
    lengths = rng.integers(1, steps + 1, count)
    terminated = rng.random(count) < 0.5
    rewards, values = rng.normal(size=(steps, count)), rng.normal(size=(steps + 1, count, n))
    values[np.arange(steps + 1)[:, None] > lengths] = np.nan  # means nothing
    clean = np.nan_to_num(values)
    found = advantages(rewards, clean, lengths, terminated, gamma, lam)
    for b in range(count):
        for t in range(steps):
            total = np.zeros(n)
            for later in range(t, lengths[b]):
                last = later == lengths[b] - 1
                ahead = 0.0 if last and terminated[b] else values[later + 1, b]
                surprise = rewards[later, b] + gamma * ahead - values[later, b]
                total += (gamma * lam) ** (later - t) * surprise
            np.testing.assert_allclose(found[t, b], total, atol=1e-12)


def test_a_cut_episode_keeps_the_value_of_its_last_state():
    rewards, lengths = np.zeros((1, 2)), np.array([1, 1])
    values = np.array([[[0.0], [0.0]], [[5.0], [5.0]]])
    found = advantages(rewards, values, lengths, np.array([True, False]), 0.5, 0.9)
    assert found[0, :, 0].tolist() == [0.0, 2.5]
    with pytest.raises(ShapeError, match="one more than rewards"):
        advantages(rewards, values[:1], lengths, np.array([True, False]), 0.5, 0.9)


def test_the_clipped_objective():
    ratio = torch.tensor([0.5, 0.9, 1.5, 0.5, 1.5])
    estimates = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    found = clipped(ratio, estimates, 0.2)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.9, 1.2, -0.8, -1.5]))


# --- acting --------------------------------------------------------------------------------------


def test_actions_are_drawn_from_the_policy():
    env = Line(1)
    learner = team(env)
    with torch.no_grad():
        learner.actor.last_bias[:, 0] = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.0, 3.0]])
        learner.actor.last.zero_()
    states = np.zeros((20_000, 2), np.float32)
    actions, log_probs = learner.act(states, None, None)
    wanted = learner.actor.last_bias[:, 0].log_softmax(-1).detach().numpy()
    for agent in range(2):
        shares = np.bincount(actions[:, agent], minlength=3) / len(actions)
        np.testing.assert_allclose(shares, np.exp(wanted[agent]), atol=0.015)
        np.testing.assert_allclose(log_probs[:, agent], wanted[agent][actions[:, agent]], atol=1e-5)
    assert actions.dtype == np.int64
    assert log_probs.dtype == np.float32
    greedy, _ = learner.act(states[:5], None, None, greedy=True)
    assert greedy.tolist() == [[0, 2]] * 5


def test_only_available_actions_are_drawn_or_likeliest():
    learner = team(Line(1))
    rng = np.random.default_rng(0)
    available = rng.random((500, 2, 3)) < 0.4
    available[..., 2] |= ~available.any(-1)
    states = rng.integers(6, size=(500, 2)).astype(np.float32)
    for greedy in (False, True):
        actions, log_probs = learner.act(states, None, available, greedy)
        assert np.take_along_axis(available, actions[..., None], -1).all()
        alone = available.sum(-1) == 1
        np.testing.assert_allclose(log_probs[alone], 0, atol=1e-6)


def test_the_seed_decides_what_is_drawn():
    learner = team(Line(1))
    states = np.zeros((50, 2), np.float32)
    learner.reseed(5)
    one = learner.act(states, None, None)[0]
    other = learner.act(states, None, None)[0]
    learner.reseed(5)
    assert np.array_equal(one, learner.act(states, None, None)[0])
    assert not np.array_equal(one, other)


def test_agents_that_see_apart_act_apart():
    env = Line(4, observed=True)
    learner = team(env)
    states, _ = env.reset()
    seen = env.observations(states)
    seen[:, 1] = 1.0
    first = learner.actor.fast(np.ascontiguousarray(seen.swapaxes(0, 1)))
    changed = seen.copy()
    changed[:, 1] = 0.0
    second = learner.actor.fast(np.ascontiguousarray(changed.swapaxes(0, 1)))
    assert np.array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"observed": True, "restricted": True}, {"n_agents": 1}])
def test_a_team_learns_to_walk(options):
    env = Line(16, size=4, limit=12, **options)
    learner = team(env, learning_rate=3e-3)
    for iteration in range(25):
        episodes = rollout(learner, env, iteration)
        learner.update(episodes, 10 * episodes.rewards)
    rates = evaluate(Line(50, size=4, limit=12, **options), learner, 50)
    assert rates.sampled >= 0.9
    # Seeing only where it is itself, an agent may be likeliest to wait for the other.
    assert rates.greedy == 1.0 or options


def test_losses_are_those_of_a_slow_reference():
    env = Line(3, restricted=True)
    learner = team(env, epochs=1, self_imitation=0.0)
    episodes = rollout(learner, env, epsilon=0.3)
    rewards = np.random.default_rng(0).normal(size=episodes.rewards.shape)
    settings, before = learner.settings, copy.deepcopy(learner)
    losses = learner.update(episodes, rewards)
    inputs = before._one_hot(episodes.states)
    values = np.stack([before.critic.fast(row)[..., 0].T for row in inputs])
    estimates = advantages(
        rewards, values, episodes.lengths, episodes.terminated, settings.gamma, settings.gae_lambda
    )
    policy = value = entropy = 0.0
    for agent in range(2):
        rows = [(t, b) for b in range(3) for t in range(episodes.lengths[b])]
        own = [(t, b) for t, b in rows if not episodes.random[t, b, agent]]
        chosen = np.array([estimates[t, b, agent] for t, b in own])
        normal = (chosen - chosen.mean()) / chosen.std()
        # With one epoch the ratio is 1 throughout.
        policy -= normal.mean() / 2
        value += np.mean([estimates[t, b, agent] ** 2 for t, b in rows]) / 2
        for t, b in rows:
            logits = before.actor.fast(inputs[t, b][None])[agent, 0]
            logits = logits[episodes.available[t, b, agent]]
            chances = np.exp(logits - np.logaddexp.reduce(logits))
            entropy -= (chances * np.log(chances)).sum() / len(rows) / 2
    assert losses["policy_loss"] == pytest.approx(policy, abs=1e-5)
    assert losses["value_loss"] == pytest.approx(value, rel=1e-4)
    assert losses["entropy"] == pytest.approx(entropy, rel=1e-4)
    assert losses["imitation_loss"] == 0


def only_random(episodes):
    return Episodes(**{**vars(episodes), "random": np.ones_like(episodes.random)})


def test_masked_actions_teach_the_values_and_not_the_policy():
    env = Line(8)
    learner = team(env, entropy=0.0)
    episodes = only_random(rollout(learner, env))
    rewards = np.random.default_rng(0).normal(size=episodes.rewards.shape)
    actor = [weight.clone() for weight in learner.actor.parameters()]
    critic = [weight.clone() for weight in learner.critic.parameters()]
    learner.update(episodes, rewards)
    assert all(torch.equal(a, b) for a, b in zip(actor, learner.actor.parameters(), strict=True))
    assert not any(
        torch.equal(a, b) for a, b in zip(critic, learner.critic.parameters(), strict=True)
    )


def test_entropy_is_paid_for_everywhere():
    env = Line(8)
    learner = team(env, entropy=0.5)
    with torch.no_grad():
        learner.actor.last_bias[..., 1] = 1.0
    episodes = only_random(rollout(learner, env))
    found = [learner.update(episodes, episodes.rewards)["entropy"] for _ in range(3)]
    assert found == sorted(found)
    assert found[2] > found[0] + 1e-3


def test_what_was_masked_might_have_been_anything():
    env = Line(8)
    learner = team(env, entropy=0.0, value=0.0)
    episodes = rollout(learner, env, epsilon=0.5)
    changed = np.where(episodes.random, 2, episodes.actions)
    rewards = np.random.default_rng(0).normal(size=episodes.rewards.shape)
    twin = copy.deepcopy(learner)
    learner.update(episodes, rewards)
    twin.update(Episodes(**{**vars(episodes), "actions": changed}), rewards)
    assert torch.equal(weights(learner), weights(twin))


@pytest.mark.parametrize("treatment", ["mixture", "ignore"])
def test_other_treatments_take_old_probabilities_of_the_actions_taken(treatment):
    env = Line(6, restricted=True)
    learner = team(env, random_actions=treatment)
    with torch.no_grad():
        learner.actor.last *= 200
    episodes = rollout(learner, env, epsilon=0.4)
    valid = episodes.valid
    rows = learner._rows(episodes, valid)
    epsilon = learner._columns(episodes.epsilon[valid][:, None])
    found = learner._old_log_probs(rows, epsilon).T.numpy()
    logits = learner.actor.fast(learner._one_hot(episodes.states[:-1][valid])).swapaxes(0, 1)
    can = episodes.available[:-1][valid]
    chances = np.where(can, np.exp(logits), 0)
    chances /= chances.sum(-1, keepdims=True)
    if treatment == "mixture":
        chances = 0.6 * chances + 0.4 * can / can.sum(-1, keepdims=True)
    wanted = np.take_along_axis(chances, episodes.actions[valid][..., None], -1)[..., 0]
    np.testing.assert_allclose(np.exp(found), wanted, rtol=1e-4)


def test_old_probabilities_of_the_mixture_without_unavailable_actions():
    learner = team(Line(2), random_actions="mixture")
    episodes = rollout(learner, Line(2), epsilon=1.0)
    rows = learner._rows(episodes, episodes.valid)
    found = learner._old_log_probs(
        rows, learner._columns(episodes.epsilon[episodes.valid][:, None])
    )
    torch.testing.assert_close(found.exp(), torch.full_like(found, 1 / 3))


def test_the_treatments_differ():
    env = Line(8)
    found = []
    for treatment in ("mask", "mixture", "ignore"):
        learner = team(env, random_actions=treatment)
        episodes = rollout(learner, env, epsilon=0.5)
        learner.update(episodes, np.random.default_rng(0).normal(size=episodes.rewards.shape))
        found.append(weights(learner))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_agents_do_not_learn_from_each_other():
    env = Line(8)
    learner = team(env)
    twin = copy.deepcopy(learner)
    episodes = rollout(learner, env)
    rewards = np.random.default_rng(0).normal(size=episodes.rewards.shape)
    learner.update(episodes, rewards)
    others = episodes.actions.copy()
    others[..., 1] = 2 - others[..., 1]
    twin.update(Episodes(**{**vars(episodes), "actions": others}), rewards)
    assert torch.equal(learner.actor.second[0], twin.actor.second[0])
    assert not torch.equal(learner.actor.second[1], twin.actor.second[1])


# --- self-imitation ------------------------------------------------------------------------------


def lucky(env, seed=0):
    """Episodes of random actions, some of which succeed."""
    return rollout(team(env), env, seed, epsilon=1.0, sticky=4)


def test_rare_success_is_imitated():
    env = Line(32, size=4, limit=16)
    episodes = lucky(env)
    assert 0 < episodes.success.mean() < 0.9
    options = {"entropy": 0.0, "value": 0.0, "imitated_steps": 128}
    imitator, other = team(env, self_imitation=0.3, **options), team(env, **options)
    losses = [imitator.update(episodes, episodes.rewards)["imitation_loss"] for _ in range(15)]
    assert losses[-1] < losses[0] - 0.05
    # All of it was random, so that without imitation there is nothing to learn.
    before = weights(other)
    assert other.update(episodes, episodes.rewards)["imitation_loss"] == 0
    assert torch.equal(before, weights(other))


def test_the_latest_successes_are_kept():
    env = Line(16, size=4, limit=16)
    learner = team(env, self_imitation=0.3, imitated_episodes=5)
    played = [lucky(env, seed) for seed in range(3)]
    for episodes in played:
        learner.update(episodes, episodes.rewards)
    wins = Episodes.concatenate([episodes.select(episodes.success) for episodes in played])
    assert len(wins) > 5
    assert learner._imitated.lengths.tolist() == wins.lengths[-5:].tolist()
    assert learner._imitated.success.all()


def test_often_successful_teams_imitate_no_more():
    env = Line(20, size=4, limit=16)
    learner = team(env, self_imitation=0.3, imitate_below=0.5)
    episodes = lucky(env)
    won = Episodes(**{**vars(episodes), "success": np.arange(20) < 11})
    assert learner.update(won, episodes.rewards)["imitation_loss"] == 0
    rarely = Episodes(**{**vars(episodes), "success": np.arange(20) < 5})
    assert learner.update(rarely, episodes.rewards)["imitation_loss"] > 0  # 16 of 40
    assert len(learner._wins) == 40


# --- settings and saving -------------------------------------------------------------------------


def test_going_on_from_a_saved_state_is_going_on():
    env = Line(8, size=4, limit=16)
    whole = team(env, self_imitation=0.3)
    parts = []
    for iteration in range(6):
        if iteration == 3:
            cut = team(env, seed=9, self_imitation=0.3)
            cut.load_state_dict(copy.deepcopy(whole.state_dict()))
            parts = [whole, cut]
        for learner in parts or [whole]:
            episodes = rollout(learner, env, iteration, epsilon=0.8, sticky=4)
            learner.update(episodes, episodes.rewards)
    assert torch.equal(weights(whole), weights(cut))
    assert list(whole._wins) == list(cut._wins)
    assert np.array_equal(whole._imitated.states, cut._imitated.states)


def test_two_runs_of_a_seed_are_one():
    env = Line(8)
    found = []
    for seed in (0, 0, 1):
        learner = team(env, seed)
        episodes = rollout(learner, env)
        learner.update(episodes, episodes.rewards)
        found.append(weights(learner))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_bad_settings_are_named():
    for options, words in (
        ({"epochs": 0}, "epochs is 0: give a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5: give a whole number"),
        ({"clip": float("nan")}, "clip is nan: give a finite number above 0"),
        ({"entropy": -0.1}, "entropy is -0.1: give a finite number of at least 0"),
        ({"gamma": 1.1}, "gamma is 1.1: give a finite number of at least 0 and at most 1"),
        ({"random_actions": "drop"}, "random_actions is 'drop': choose from mask, mixture, ignore"),
        ({"self_imitation": float("nan")}, "self_imitation is nan"),
    ):
        with pytest.raises(ConfigError, match=words):
            dataclasses.replace(IPPOSettings(), **options)


def test_rewards_must_fit_the_episodes():
    env = Line(4)
    learner = team(env)
    episodes = rollout(learner, env)
    with pytest.raises(ShapeError, match="give one per step, of at least one episode"):
        learner.update(episodes, episodes.rewards[1:])
    nobody = episodes.select(np.zeros(4, bool))
    with pytest.raises(ShapeError, match="of at least one episode"):
        learner.update(nobody, nobody.rewards)


def test_normalized_estimates_ignore_what_has_no_weight():
    values = torch.tensor([[1.0, 7.0, 100.0], [5.0, 5.0, 5.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    total = mask.sum(1, keepdim=True).clamp(min=1)
    found = ippo._normalize(values, mask, total)
    torch.testing.assert_close(found[0, :2], torch.tensor([-1.0, 1.0]))
    assert torch.isfinite(found[0]).all()
