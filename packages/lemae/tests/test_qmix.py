"""QMIX, VDN and independent Q-learning: values, targets, and what they learn."""

import copy
import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemae._seeds import Purpose, generator
from lemae.algos.qmix import MIXERS, Agents, Mixer, QLearner, QSettings, td_lambda_targets
from lemae.algos.rollout import Collector, Episodes
from lemae.errors import ConfigError, ShapeError

N, A, D = 2, 3, 2
N_VALUES = (4, 3)


def some_episodes(seed=0, count=6, limit=5, *, observed=False, restricted=True):
    """Random episodes; what stands behind their ends is no state."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, limit + 1, count)
    steps = int(lengths.max())
    shape = (steps, count, N)
    states = rng.integers(N_VALUES, size=(steps + 1, count, D)).astype(np.float32)
    states[np.arange(steps + 1)[:, None] > lengths] = -1e6
    available = rng.random((steps + 1, count, N, A)) < 0.5
    available[..., 0] |= ~available.any(-1)  # one at least
    return Episodes(
        states=states,
        actions=rng.integers(A, size=shape),
        rewards=rng.normal(size=(steps, count)),
        log_probs=np.zeros(shape, np.float32),
        random=np.zeros(shape, bool),
        epsilon=np.zeros((steps, count), np.float32),
        lengths=lengths,
        success=np.zeros(count, bool),
        terminated=rng.random(count) < 0.5,
        chains=[()] * count,
        observations=rng.normal(size=(steps + 1, count, N, 4)) if observed else None,
        available=available if restricted else None,
    )


def learner(seed=0, *, observed=False, one_hot=True, limit=5, **settings):
    chosen = {"batch_size": 6, "hidden": 8, "embedding": 4, "target_every": 10**6} | settings
    return QLearner(
        N,
        A,
        D,
        limit,
        n_values=N_VALUES if one_hot else None,
        n_observed=4 if observed else None,
        settings=QSettings.published(**chosen),
        seed=seed,
    )


def same(one, other):
    """Whether two nested states are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return np.array_equal(one, other)


# --- mixers -------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), n_ones=st.sampled_from([0, 2]), agents=st.integers(1, 4))
def test_no_agents_value_ever_lowers_the_mixed_one(seed, n_ones, agents):
    random = torch.Generator().manual_seed(seed)
    mixer = Mixer(5, n_ones, agents, QSettings(hidden=8, embedding=4))
    for weight in mixer.parameters():
        torch.nn.init.normal_(weight, std=2.0, generator=random)
    values = (10 * torch.randn(16, agents, generator=random)).requires_grad_()
    if n_ones:
        state = torch.randint(5, (16, n_ones), generator=random)
    else:
        state = torch.randn(16, 5, generator=random)
    mixed = mixer(values, state)
    assert mixed.shape == (16, 1)
    (slopes,) = torch.autograd.grad(mixed.sum(), values)
    assert (slopes >= 0).all()
    assert (slopes > 0).any()


def test_the_weights_of_the_mixer_depend_on_the_state():
    mixer = Mixer(5, 0, 2, QSettings())
    values = torch.ones(2, 2, requires_grad=True)
    mixed = mixer(values, torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    (slopes,) = torch.autograd.grad(mixed.sum(), values)
    assert not torch.allclose(slopes[0], slopes[1])


def test_vdn_adds_and_iql_leaves_apart():
    values = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    state = torch.zeros(7, 5)
    added = Mixer(5, 0, 3, QSettings(mixer="vdn"))
    apart = Mixer(5, 0, 3, QSettings(mixer="iql"))
    assert torch.allclose(added(values, state)[:, 0], values[:, 0] + values[:, 1] + values[:, 2])
    assert torch.equal(apart(values, state), values)
    assert not list(added.parameters()) + list(apart.parameters())


def test_agents_differ_though_they_see_the_same_and_share_their_layers():
    agents = Agents(7, 2, N, A, QSettings(hidden=8))
    utilities, _ = agents(torch.tensor([[0, 4], [3, 6]]))
    assert utilities.shape == (2, N, A)
    assert not torch.allclose(utilities[:, 0], utilities[:, 1])
    with torch.no_grad():
        agents.own[1] = agents.own[0]
    utilities, _ = agents(torch.tensor([[0, 4], [3, 6]]))
    assert torch.allclose(utilities[:, 0], utilities[:, 1])


def test_positions_of_ones_are_read_like_the_one_hot_vector():
    agents = Agents(7, 2, N, A, QSettings(hidden=8))
    plain = Agents(7, 0, N, A, QSettings(hidden=8))
    weights = agents.state_dict()
    weights["first.weight"] = weights["first.weight"].T
    plain.load_state_dict(weights | {"first.bias": torch.zeros(8)})
    vector = torch.zeros(1, 7)
    vector[0, [1, 5]] = 1
    assert torch.allclose(agents(torch.tensor([[1, 5]]))[0], plain(vector)[0], atol=1e-6)


# --- targets ------------------------------------------------------------------------------------


def slow_targets(rewards, values, length, terminated, gamma, td_lambda):
    """The definition: a weighted mean of all n-step returns, for one episode and one value."""
    targets = []
    for t in range(length):
        returns = []
        for end in range(t + 1, length + 1):
            earned = sum(gamma ** (i - t) * rewards[i] for i in range(t, end))
            goes_on = not (end == length and terminated)
            returns.append(earned + goes_on * gamma ** (end - t) * values[end])
        *short, whole = returns
        mixture = sum((1 - td_lambda) * td_lambda**n * g for n, g in enumerate(short))
        targets.append(mixture + td_lambda ** len(short) * whole)
    return targets


@given(
    seed=st.integers(0, 10**6),
    gamma=st.floats(0, 1),
    td_lambda=st.floats(0, 1),
    width=st.integers(1, 3),
)
def test_targets_are_mixtures_of_n_step_returns(seed, gamma, td_lambda, width):
    rng = np.random.default_rng(seed)
    steps, count = 6, 5
    lengths = rng.integers(1, steps + 1, count)
    terminated = rng.random(count) < 0.5
    rewards, values = rng.normal(size=(steps, count)), rng.normal(size=(steps + 1, count, width))
    found = td_lambda_targets(
        *map(torch.from_numpy, (rewards, values, lengths, terminated)),
        QSettings(gamma=gamma, td_lambda=td_lambda),
    )
    assert found.shape == (steps, count, width)
    for b, length in enumerate(lengths):
        for m in range(width):
            wanted = slow_targets(
                rewards[:, b], values[:, b, m], length, terminated[b], gamma, td_lambda
            )
            assert np.allclose(found[:length, b, m], wanted)


def test_a_cut_episode_has_a_future_and_a_terminated_one_has_none():
    rewards, values = torch.ones(2, 2), torch.full((3, 2, 1), 10.0)
    lengths, terminated = torch.tensor([2, 2]), torch.tensor([True, False])
    found = td_lambda_targets(
        rewards, values, lengths, terminated, QSettings(gamma=0.5, td_lambda=1.0)
    )
    assert found[:, 0, 0].tolist() == [1.5, 1.0]
    assert found[:, 1, 0].tolist() == [1.5 + 0.25 * 10, 1 + 0.5 * 10]


def slow_update(made, older, episodes, *, one_hot):
    """Mean loss, value and target by the equations, one state after the other."""
    settings = made.settings
    offsets = np.array([0, *np.cumsum(N_VALUES)[:-1]])

    def read(state):
        if one_hot:
            return torch.from_numpy((state + offsets).astype(np.int64))[None]
        return torch.from_numpy(state)[None]

    def rate(networks, b):
        memory, rated = None, []
        for t in range(episodes.lengths[b] + 1):
            seen = read(episodes.states[t, b])
            if episodes.observations is not None:
                seen = torch.from_numpy(episodes.observations[t, b].astype(np.float32))[None]
            if not settings.recurrent:
                memory = None
            utilities, memory = networks["agents"](seen, memory)
            rated.append(utilities[0])
        return rated

    losses, values, targets = [], [], []
    for b, length in enumerate(episodes.lengths):
        mine, old = rate(made.networks, b), rate(older, b)
        following = []
        for t in range(length + 1):
            actions = []
            for i in range(N):
                ratings = (mine if settings.double else old)[t][i].tolist()
                can = range(A)
                if episodes.available is not None:
                    can = [a for a in can if episodes.available[t, b, i, a]]
                actions.append(max(can, key=lambda a: ratings[a]))
            best = torch.stack([old[t][i, a] for i, a in enumerate(actions)])[None]
            following.append(older["mixer"](best, read(episodes.states[t, b]))[0])
        for m in range(len(following[0])):
            wanted = slow_targets(
                episodes.rewards[:, b].tolist(),
                [float(value[m]) for value in following],
                length,
                episodes.terminated[b],
                settings.gamma,
                settings.td_lambda,
            )
            for t in range(length):
                taken = torch.stack([mine[t][i, episodes.actions[t, b, i]] for i in range(N)])
                value = float(
                    made.networks["mixer"](taken[None], read(episodes.states[t, b]))[0, m]
                )
                values.append(value)
                targets.append(wanted[t])
                losses.append((value - wanted[t]) ** 2)
    return {"loss": np.mean(losses), "value": np.mean(values), "target": np.mean(targets)}


@pytest.mark.parametrize("restricted", [True, False], ids=["masked", "all-actions"])
@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize(
    ("recurrent", "observed", "one_hot"),
    [(False, False, True), (False, True, False), (True, True, True), (True, False, False)],
    ids=["state", "observations", "gru-observations", "gru-state"],
)
@pytest.mark.parametrize("mixer", MIXERS)
@torch.no_grad()
def test_an_update_follows_the_equations(mixer, recurrent, observed, one_hot, double, restricted):
    made = learner(
        observed=observed, one_hot=one_hot, mixer=mixer, recurrent=recurrent, double=double
    )
    older = copy.deepcopy(made.networks)
    made.observe(some_episodes(count=9, observed=observed, restricted=restricted))
    with torch.enable_grad():
        for _ in range(5):  # so that the two networks differ
            made.update()
    drawn = made.replay.sample(6, generator(Purpose.REPLAY, made.seed, made.updates))
    wanted = slow_update(made, older, drawn, one_hot=one_hot)
    with torch.enable_grad():
        found = made.update()
    assert found["gradient"] > 0
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_an_independent_learner_is_taught_by_its_own_actions_only():
    """The utilities of agent 1 must not move when only agent 0's targets differ from its values."""
    made = learner(mixer="iql", td_lambda=0.0, gamma=0.0)
    episodes = some_episodes(restricted=False)
    made.observe(episodes)
    state = torch.from_numpy(episodes.states[0]).long() + torch.tensor([0, N_VALUES[0]])
    values = []
    for i in range(N):
        utilities, _ = made.networks["agents"](state)
        made.networks.zero_grad()
        made.networks["mixer"](utilities[:, :, 0], state)[:, i].sum().backward()
        values.append(made.networks["agents"].own.grad.abs().sum(1))
    assert values[0][0] > 0
    assert values[0][1] == 0
    assert values[1][1] > 0
    assert values[1][0] == 0


def test_the_older_network_follows_after_so_many_episodes():
    made = learner(target_every=12)
    first = copy.deepcopy(made.state_dict()["older"])
    made.observe(some_episodes(0))
    made.update()
    assert same(first, made.state_dict()["older"])
    made.observe(some_episodes(1))
    made.update()
    assert same(made.state_dict()["networks"], made.state_dict()["older"])
    made.update()
    assert not same(made.state_dict()["networks"], made.state_dict()["older"])


def test_the_older_network_moves_by_a_share_at_every_gradient_step():
    made = learner(target_rate=0.25, target_every=200)
    older = copy.deepcopy(made.state_dict()["older"])
    made.observe(some_episodes(0))
    for _ in range(3):
        made.update()
        state = made.state_dict()
        for name, weight in older.items():
            older[name] = 0.75 * weight + 0.25 * state["networks"][name]
            torch.testing.assert_close(older[name], state["older"][name])


def test_the_published_settings_are_those_of_the_paper():
    made = QSettings.published(hidden=8)
    assert (made.td_lambda, made.batch_size, made.gradient_steps) == (0.6, 128, 1)
    assert made.target_rate is None
    assert made.hidden == 8


# --- acting -------------------------------------------------------------------------------------


def acting(**settings):
    return learner(**({"epsilon_start": 0.3, "epsilon_finish": 0.3} | settings))


def test_what_cannot_be_done_is_never_done():
    made = acting()
    rng = np.random.default_rng(0)
    for _ in range(20):
        available = rng.random((50, N, A)) < 0.4
        available[..., 2] |= ~available.any(-1)
        states = rng.integers(N_VALUES, size=(50, D)).astype(np.float32)
        for greedy in (True, False):
            actions, _ = made.act(states, None, available, greedy)
            assert np.take_along_axis(available, actions[..., None], -1).all()


def test_probabilities_are_those_of_the_draws():
    made = acting()
    states = np.tile(np.float32([1, 2]), (20_000, 1))
    available = np.ones((20_000, N, A), bool)
    available[:, 1, 0] = False
    best, certain = made.act(states, None, available, greedy=True)
    assert (certain == 0).all()
    actions, log_probs = made.act(states, None, available)
    assert actions.dtype == np.int64
    assert log_probs.dtype == np.float32
    for i, choices in ((0, 3), (1, 2)):
        assert best[0, i] in np.flatnonzero(available[0, i])
        for action in np.flatnonzero(available[0, i]):
            wanted = 0.3 / choices + 0.7 * (action == best[0, i])
            chosen = actions[:, i] == action
            assert np.exp(log_probs[chosen, i]) == pytest.approx(wanted, rel=1e-5)
            assert abs(chosen.mean() - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 20_000)


def test_random_actions_become_fewer_with_the_steps_observed():
    made = learner(epsilon_start=1.0, epsilon_finish=0.1, epsilon_steps=100)
    assert made.epsilon == 1.0
    episodes = some_episodes()
    made.observe(episodes)
    assert made.epsilon == pytest.approx(1 - 0.9 * episodes.steps / 100)
    for _ in range(20):
        made.observe(episodes)
    assert made.epsilon == pytest.approx(0.1)
    assert made.steps == 21 * episodes.steps
    assert made.episodes == 21 * 6


def test_actions_repeat_with_the_seed():
    made = acting()
    states = np.random.default_rng(0).integers(N_VALUES, size=(30, D)).astype(np.float32)
    drawn = []
    for seed in (1, 1, 2):
        made.reseed(seed)
        drawn.append([made.act(states, None, None)[0] for _ in range(3)])
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_memory_goes_from_step_to_step_and_ends_with_the_rollout():
    made = acting(recurrent=True)
    agents = made.networks["agents"]
    rng = np.random.default_rng(0)
    states = rng.integers(N_VALUES, size=(200, D)).astype(np.float32)
    positions = torch.from_numpy(states).long() + torch.tensor([0, N_VALUES[0]])
    memory = None
    actions = []
    for _ in range(3):
        with torch.no_grad():
            utilities, memory = agents(positions, memory)
        actions.append(made.act(states, None, None, greedy=True)[0])
        assert np.array_equal(actions[-1], utilities.argmax(-1).numpy())
    made.reseed(0)
    assert np.array_equal(made.act(states, None, None, greedy=True)[0], actions[0])
    made.reseed(0)  # another number of copies
    assert made.act(states[:3], None, None)[0].shape == (3, N)


# --- updates ------------------------------------------------------------------------------------


def test_there_is_no_update_before_a_batch_of_episodes():
    made = learner(batch_size=7)
    assert made.update() == {}
    made.observe(some_episodes())
    assert made.update() == {}
    made.observe(some_episodes(count=1))
    assert set(made.update()) == {"loss", "value", "target", "gradient"}


def test_an_update_takes_as_many_gradient_steps_as_are_set():
    one, three = learner(), learner(gradient_steps=3)
    for made in (one, three):
        made.observe(some_episodes(count=9))
    single = [one.update()["loss"] for _ in range(3)]
    assert three.update()["loss"] == pytest.approx(np.mean(single))
    assert one.updates == three.updates == 3
    assert same(one.state_dict()["networks"], three.state_dict()["networks"])


def test_no_episodes_are_nothing_to_observe():
    made = learner()
    made.observe(some_episodes().select(np.zeros(6, bool)))
    assert (made.episodes, len(made.replay)) == (0, 0)


def test_rewards_are_relabelled_anew_and_never_stored():
    made, plain = learner(), learner()
    episodes = some_episodes()
    for one in (made, plain):
        one.observe(episodes)
    seen = []

    def relabel(drawn):
        seen.append(drawn)
        return drawn.rewards + 5.0

    relabelled = [made.update(relabel)["target"] for _ in range(3)]
    raw = [plain.update()["target"] for _ in range(3)]
    assert all(one > other + 4 for one, other in zip(relabelled, raw, strict=True))
    stored = made.replay.sample(6, np.random.default_rng(0)).rewards
    assert np.isin(stored[stored != 0], episodes.rewards).all()
    assert len(seen) == 3
    assert all(set(one.lengths) <= set(episodes.lengths) for one in seen)
    with pytest.raises(ShapeError, match=re.escape("give one per step, [T, B]")):
        made.update(lambda drawn: drawn.rewards[:-1])


def test_what_stands_behind_the_end_of_an_episode_changes_nothing():
    noisy = some_episodes(observed=True)
    clean = dataclasses.replace(
        noisy, **{name: getattr(noisy, name).copy() for name in ("states", "rewards", "actions")}
    )
    behind = np.arange(len(clean.actions))[:, None] >= clean.lengths
    assert behind.any()
    clean.rewards[behind] = 1e6
    clean.actions[behind] = 0
    clean.states[1:][behind] = clean.states[0, 0]
    results = []
    for episodes in (noisy, clean):
        made = learner(observed=True)
        made.observe(episodes)
        results.append([made.update() for _ in range(3)])
    assert results[0] == results[1]


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_restored_learner_goes_on_bit_for_bit(recurrent):
    def go_on(made, rounds):
        for number in rounds:
            made.reseed(number)
            episodes = some_episodes(number)
            made.act(episodes.states[0], None, None)
            made.observe(episodes)
            made.update(lambda drawn: 2 * drawn.rewards)

    whole = learner(target_every=15, recurrent=recurrent)
    go_on(whole, range(8))
    first, second = (learner(target_every=15, recurrent=recurrent) for _ in range(2))
    go_on(first, range(4))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    go_on(second, range(4, 8))
    assert same(whole.state_dict(), second.state_dict())


def test_the_saved_state_is_tensors_arrays_and_plain_values():
    made = learner()
    made.observe(some_episodes())
    made.update()

    def kinds(value):
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        if isinstance(value, list | tuple):
            return set().union(*map(kinds, value))
        return {type(value)}

    plain = {torch.Tensor, np.ndarray, int, float, bool, type(None)}
    assert kinds(dict(made.state_dict())) <= plain


def test_seeds_make_weights_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, again, other = learner(0), learner(0), learner(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(one.state_dict()["networks"], again.state_dict()["networks"])
    assert not same(one.state_dict()["networks"], other.state_dict()["networks"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixer": "qmx"}, "mixer is 'qmx': choose from qmix, vdn, iql"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"td_lambda": -0.1}, "td_lambda is -0.1"),
        ({"epsilon_finish": 2}, "epsilon_finish is 2"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: give a finite number above 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf: give a finite number above 0"),
        ({"max_gradient": float("nan")}, "max_gradient is nan: give a finite number above 0"),
        ({"hidden": 0}, "hidden is 0"),
        ({"gradient_steps": 2.5}, "gradient_steps is 2.5: give a whole number"),
        ({"target_rate": 0.0}, "target_rate is 0.0: give a finite number above 0 and at most 1"),
        ({"target_every": 50}, "target_every is 50 and target_rate 0.01, beside which it has no"),
        ({"batch_size": 9, "capacity": 8}, "batch_size is 9 and capacity 8"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        QSettings(**settings)


def test_sizes_are_checked():
    with pytest.raises(ConfigError, match=re.escape("are (0, 3, 2, 1): each must be positive")):
        QLearner(0, A, D, 5)
    with pytest.raises(ConfigError, match=re.escape("n_observed are (2, 3, 2, 0)")):
        QLearner(N, A, D, 5, n_observed=0)


# --- what they learn ----------------------------------------------------------------------------


class TwoSteps:
    """The game by which QMIX was introduced (arXiv 1803.11485, section 6.1).

    The first action of agent 0 leads to a game that always pays 7, or to one that pays 8 if both
    dare the second action, and 0 or 1 otherwise. A sum of values cannot say the latter.
    """

    num_envs, n_agents, n_actions, d, episode_limit = 16, 2, 2, 1, 2
    n_values = (3,)

    def reset(self, *, seed=None):
        self.state = np.zeros(self.num_envs, np.int64)
        return self._seen(), {}

    def step(self, actions):
        first = self.state == 0
        daring = actions.sum(1)
        paid = np.where(self.state == 1, 7.0, np.array([0.0, 1.0, 8.0])[daring])
        reward = np.where(first, 0.0, paid)
        self.state = np.where(first, 1 + actions[:, 0], self.state)
        return self._seen(), reward, ~first, np.zeros_like(first), {"success": reward == 8}

    def _seen(self):
        return self.state[:, None].astype(np.float32)


def play_and_learn(env, made, rounds, updates=1):
    collector = Collector(env)
    for number in range(rounds):
        made.reseed(number)
        made.observe(collector.collect(made, seed=number))
        for _ in range(updates):
            made.update()
    made.reseed(0)
    return collector.collect(made, seed=0, greedy=True)


@pytest.mark.parametrize(("mixer", "paid"), [("qmix", 8), ("vdn", 7)])
def test_qmix_finds_what_a_sum_cannot_express(mixer, paid):
    settings = QSettings.published(
        mixer=mixer,
        epsilon_finish=1.0,
        td_lambda=0.0,
        gamma=1.0,
        batch_size=48,
        target_every=48,
        learning_rate=1e-2,
        hidden=32,
    )
    env = TwoSteps()
    made = QLearner(2, 2, 1, 2, n_values=env.n_values, settings=settings)
    played = play_and_learn(env, made, 120)
    assert (played.rewards.sum(0) == paid).all()


class Corridor:
    """Two agents in a corridor of five cells win when both stand at the right end."""

    num_envs, n_agents, n_actions, d, episode_limit = 16, 2, 2, 2, 10
    n_values = (5, 5)

    def reset(self, *, seed=None):
        self.cells = np.zeros((self.num_envs, 2), np.int64)
        self.left = np.full(self.num_envs, self.episode_limit)
        return self.cells.astype(np.float32), {}

    def step(self, actions):
        self.cells = np.clip(self.cells + 2 * actions - 1, 0, 4)
        self.left -= 1
        won = (self.cells == 4).all(1)
        return self.cells.astype(np.float32), won.astype(float), won, (self.left == 0) & ~won, {}


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_tiny_grid_is_learned(mixer):
    settings = QSettings.published(
        mixer=mixer,
        epsilon_steps=3000,
        batch_size=32,
        target_every=64,
        learning_rate=5e-3,
        hidden=32,
    )
    env = Corridor()
    made = QLearner(2, 2, 2, 10, n_values=env.n_values, settings=settings)
    played = play_and_learn(env, made, 60, updates=3)
    assert played.success.all()
    assert (played.lengths == 4).all()


@pytest.mark.parametrize("observed", [False, True])
def test_whole_numbers_without_their_range_are_read_as_numbers(observed):
    made = [learner(observed=observed, one_hot=False) for _ in range(2)]
    episodes = some_episodes(observed=observed, restricted=False)
    if observed:
        whole = episodes.observations.round().astype(np.int64)
        episodes = dataclasses.replace(episodes, observations=whole)
    counted = dataclasses.replace(episodes, states=episodes.states.astype(np.int64))
    for one, played in zip(made, (episodes, counted), strict=True):
        one.observe(played)
        one.update()
        seen = None if played.observations is None else played.observations[0]
        one.act(played.states[0], seen, None)
    assert same(made[0].networks.state_dict(), made[1].networks.state_dict())


class Reminder:
    """One agent sees a sign in the first of three steps, and has to follow it in the last."""

    num_envs, n_agents, n_actions, d, episode_limit = 32, 1, 2, 1, 3

    def reset(self, *, seed=None):
        self.sign = np.random.default_rng(seed).integers(2, size=self.num_envs)
        self.time = 0
        return np.zeros((self.num_envs, 1), np.float32), {}

    def observations(self, states):
        seen = np.zeros((self.num_envs, 1, 3), np.float32)
        seen[:, 0, 0] = (2 * self.sign - 1) * (self.time == 0)
        seen[:, 0, 1] = self.time == 2
        return seen

    def step(self, actions):
        self.time += 1
        over = np.full(self.num_envs, self.time == 3)
        won = over & (actions[:, 0] == self.sign)
        return np.zeros((self.num_envs, 1), np.float32), won.astype(float), over, ~over & over, {}


@pytest.mark.parametrize("recurrent", [True, False], ids=["gru", "feed-forward"])
def test_only_a_memory_follows_a_sign_that_is_gone(recurrent):
    settings = QSettings.published(
        mixer="iql",
        recurrent=recurrent,
        epsilon_finish=0.3,
        epsilon_steps=3000,
        batch_size=64,
        target_every=128,
        learning_rate=5e-3,
        hidden=16,
    )
    made = QLearner(1, 2, 1, 3, n_observed=3, settings=settings)
    played = play_and_learn(Reminder(), made, 120)
    assert played.success.all() == recurrent
