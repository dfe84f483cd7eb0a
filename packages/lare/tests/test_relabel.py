"""Steps in, rewards out: episodes, resets, learning, state."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from lare import LatentReward, RawFeatures, Relabeler, RewardDecoder
from lare.errors import ConfigError, LareWarning, ShapeError, StateError
from lare.models import Decomposition

#: Three factors of a step of Pendulum-v1.
PENDULUM = """
import numpy as np

def evaluation_func(observation, action, next_observation):
    angle = np.arctan2(observation[:, 1:2], observation[:, 0:1])
    angle_error = angle ** 2
    speed = observation[:, 2:3] ** 2
    effort = action[:, 0:1] ** 2
    return [angle_error, speed, effort]
"""

BOX = spaces.Box(-10, 10, (2,))
PUSH = spaces.Box(-1, 1, (1,))
#: The factors are the two numbers of the observation.
IDENTITY = """
def evaluation_func(observation, action):
    return [observation[:, 0:1], observation[:, 1:2]]
"""


def relabeler(**options):
    return Relabeler(
        LatentReward(IDENTITY), BOX, PUSH, **{"capacity": 1000, "normalize": False, **options}
    )


def walk(generator, steps, ends, n_envs=1):
    """Random steps that follow each other: (start, action, end, reward, done)."""
    start = generator.normal(size=(n_envs, 2))
    for step in range(steps):
        end = generator.normal(size=(n_envs, 2))
        reward = start @ [2.0, -1.0] + 0.5
        done = np.array([(step + 1) % ends == 0] * n_envs)
        yield start, np.zeros((n_envs, 1)), end, reward, done
        start = np.where(done[:, None], generator.normal(size=(n_envs, 2)), end)


def feed(learner, steps=200, ends=10, seed=0, n_envs=1):
    for start, action, end, reward, done in walk(np.random.default_rng(seed), steps, ends, n_envs):
        learner.observe(start, action, end, reward, np.zeros(n_envs, bool), done)


@pytest.mark.parametrize("loss", ["rd", "rd-sum", "rrd", "rrd-unbiased"])
def test_returns_alone_give_the_step_rewards(loss):
    learner = relabeler(loss=loss, k=5, lr=3e-2, decoder={"kind": "linear"}, batch_steps=64)
    feed(learner, 400)
    learner.update(400)
    rows = np.random.default_rng(5).normal(size=(50, 2))
    found = learner.relabel(rows, np.zeros((50, 1)), rows)
    wanted = rows @ [2.0, -1.0] + 0.5
    # The biased loss also pulls rewards together; their order stays.
    assert np.corrcoef(found, wanted)[0, 1] > 0.99
    if loss != "rrd":
        np.testing.assert_allclose(found, wanted, atol=0.3)


@pytest.mark.parametrize("kind", ["ridge", "sparse"])
def test_closed_form(kind):
    learner = relabeler(decoder={"kind": kind})
    feed(learner)
    learner.update()
    rows = np.random.default_rng(5).normal(size=(50, 2))
    np.testing.assert_allclose(
        learner.relabel(rows, np.zeros((50, 1)), rows), rows @ [2.0, -1.0] + 0.5, atol=1e-2
    )


@pytest.mark.parametrize("loss", [None, "rd"])
def test_stored_and_computed_rewards_agree_after_every_update(loss):
    learner = relabeler(n_envs=3, loss=loss, solve_every=3)
    seen = list(walk(np.random.default_rng(1), 40, 7, 3))
    for start, action, end, reward, done in seen:
        row = learner.observe(start, action, end, reward, done, np.zeros(3, bool))
        learner.update()
        fresh = learner.relabel(start, action, end)
        stored = learner.relabel_rows([row] * 3, [0, 1, 2]).numpy()
        np.testing.assert_allclose(stored, fresh, rtol=1e-4, atol=1e-5)
    starts = np.stack([step[0] for step in seen])
    rollout = learner.relabel_rollout(starts, np.zeros((40, 3, 1)), starts)
    np.testing.assert_allclose(rollout[-1], fresh, rtol=1e-4, atol=1e-5)
    assert rollout.shape == (40, 3)


def test_an_episode_cut_off_by_a_reset_is_forgotten():
    learner = relabeler()
    a, b, c, d = (np.full((1, 2), float(i)) for i in range(4))
    step = lambda start, end, reward, done: learner.observe(  # noqa: E731
        start, np.zeros((1, 1)), end, [reward], [done], [False]
    )
    step(a, b, 100.0, False)
    step(c, d, 1.0, False)  # does not start where the last one ended
    step(d, a, 2.0, True)
    assert [episode.total for episode in learner.store.episodes] == [3.0]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_vector_environments_of_gymnasium(mode):
    """Returns of the store are those of the same environments, one by one."""
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    def make(limit):
        return lambda: gymnasium.make("Pendulum-v1", max_episode_steps=limit)

    venv = SyncVectorEnv([make(5), make(7)], autoreset_mode=AutoresetMode(mode))
    learner = Relabeler(
        LatentReward(PENDULUM), venv.single_observation_space, venv.single_action_space, n_envs=2
    )
    totals, running, fresh = [[], []], [0.0, 0.0], [False, False]
    start, _ = venv.reset(seed=0)
    venv.action_space.seed(0)
    for _ in range(60):
        action = venv.action_space.sample()
        end, reward, terminated, truncated, info = venv.step(action)
        last = end.copy()
        for env in range(2):
            if mode == "SameStep" and truncated[env]:
                last[env] = info["final_obs"][env]
            if not fresh[env]:
                running[env] += reward[env]
            if truncated[env]:
                totals[env].append(running[env])
                running[env] = 0.0
            fresh[env] = mode == "NextStep" and bool(truncated[env])
        learner.observe(start, action, last, reward, terminated, truncated)
        start = end
    for env in range(2):
        found = [e for e in learner.store.episodes if e.env == env]
        assert {e.length for e in found} == {5 if env == 0 else 7}
        np.testing.assert_allclose([e.total for e in found], totals[env], rtol=1e-6)


def test_discrete_actions():
    source = "def evaluation_func(observation, action):\n    return [action[:, 1:2]]\n"
    learner = Relabeler(LatentReward(source), BOX, spaces.Discrete(3), capacity=10)
    learner.observe(np.zeros(2), 1, np.zeros(2), 0.0, True, False)
    assert learner.store.factors[0, 0, 0] == 1
    assert learner.relabel(np.zeros((4, 2)), np.array([0, 1, 2, 1]), np.zeros((4, 2))).shape == (4,)


@pytest.mark.parametrize("loss", [None, "rd", "rrd", "rrd-unbiased"])
def test_resumed_bit_for_bit(loss):
    whole, first, second = (relabeler(seed=3, capacity=64, loss=loss) for _ in range(3))
    steps = list(walk(np.random.default_rng(2), 120, 9))

    def go(learner, part):
        for start, action, end, reward, done in part:
            learner.observe(start, action, end, reward, done, [False])
            learner.update()

    go(whole, steps)
    go(first, steps[:50])
    second.load_state_dict(first.state_dict())
    go(second, steps[50:])
    rows = np.random.default_rng(0).normal(size=(20, 2))
    assert np.array_equal(
        whole.relabel(rows, np.zeros((20, 1)), rows), second.relabel(rows, np.zeros((20, 1)), rows)
    )


def test_state_survives_a_file_without_pickled_objects(tmp_path):
    learner = relabeler()
    feed(learner, 30)
    learner.update(3)
    torch.save(learner.state_dict(), tmp_path / "state.pt")
    other = relabeler()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.store.episodes == learner.store.episodes


def test_seeds():
    def weights(seed):
        learner = relabeler(seed=seed, loss="rd")
        return torch.cat([p.flatten() for p in learner.model.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), state)  # torch's own generator is left alone


def test_several_agents_add_up_to_the_return():
    """The solved loss is that of the rewards that are paid, summed over agents and steps."""
    from lare import EpisodeStore
    from lare.losses import rd
    from lare.models import team_rewards

    generator = torch.Generator().manual_seed(0)
    store = EpisodeStore(500, (3, 2))
    for step in range(400):
        factors = 2 + torch.randn(1, 3, 2, generator=generator)
        reward = (factors @ torch.tensor([2.0, -1.0]) + 1).sum()
        store.add(factors, [reward], [step % 10 == 9])
    for kind in ("ridge", "sparse"):
        model = Decomposition(RewardDecoder(2, kind))
        model.observe(store.factors[:400])
        loss = model.solve(store)
        batch = store.gather(store.episodes)
        found = rd(team_rewards(model.rewards(batch.factors)), batch.returns, batch.mask)
        assert found.item() == pytest.approx(loss, abs=1e-4)
        assert loss < 1e-2


def test_rewards_stay_while_nothing_is_learned():
    """Statistics of the inputs may move on; the weights that were solved do not."""
    learner = relabeler()
    feed(learner, 50)
    learner.update()
    rows = np.random.default_rng(3).normal(size=(9, 2))
    before = learner.relabel(rows, np.zeros((9, 1)), rows)
    feed(learner, 300, seed=7)
    np.testing.assert_array_equal(learner.relabel(rows, np.zeros((9, 1)), rows), before)


def test_one_update_per_episode_is_enough():
    learner = relabeler()
    for start, action, end, reward, done in walk(np.random.default_rng(1), 200, 10):
        learner.observe(start, action, end, reward, [False], done)
        if done[0]:
            learner.update()
    rows = np.random.default_rng(3).normal(size=(50, 2))
    found = learner.relabel(rows, np.zeros((50, 1)), rows)
    np.testing.assert_allclose(found, rows @ [2.0, -1.0] + 0.5, atol=0.05)


def test_nothing_is_paid_before_anything_is_known():
    learner = relabeler(normalize=True)
    rows = np.random.default_rng(3).normal(size=(9, 2))
    assert not learner.relabel(rows, np.zeros((9, 1)), rows).any()


def test_starts_in_another_dtype_are_not_resets():
    learner = relabeler()
    for start, action, end, reward, done in walk(np.random.default_rng(1), 40, 10):
        learner.observe(start.astype(np.float32), action, end, reward, [False], done)
    assert [episode.length for episode in learner.store.episodes] == [10] * 4


def test_an_observation_that_never_changes():
    learner = relabeler()
    for step in range(12):
        done = step % 3 == 2
        learner.observe(np.zeros(2), np.zeros(1), np.zeros(2), 1.0, False, done)
    assert [(e.length, e.total) for e in learner.store.episodes] == [(3, 3.0)] * 4


def test_inserted_steps_and_resets_that_are_told():
    learner = relabeler()
    step = lambda real, done: learner.observe(  # noqa: E731
        np.zeros(2), np.zeros(1), np.zeros(2), 1.0, False, done, real=[real]
    )
    step(True, True)
    step(False, False)
    step(True, False)
    learner.reset()
    step(True, False)
    step(True, True)
    assert [(e.length, e.total) for e in learner.store.episodes] == [(1, 1.0), (2, 2.0)]


def test_steps_that_never_follow_each_other_are_warned_of():
    learner = relabeler()
    random = np.random.default_rng(0)

    def steps():
        for _ in range(30):
            learner.observe(random.normal(size=2), np.zeros(1), random.normal(size=2), 1.0, 0, 0)

    with pytest.warns(LareWarning, match="forgotten"):
        steps()


def test_episodes_longer_than_the_store_are_warned_of():
    learner = relabeler(capacity=5)
    with pytest.warns(LareWarning, match="larger capacity"):
        feed(learner, 30, ends=10)


def test_a_refused_state_changes_nothing():
    learner, other = relabeler(), relabeler(normalize=True)
    feed(learner, 30)
    for wrong in ({}, learner.state_dict()):
        with pytest.raises(StateError):
            other.load_state_dict(wrong)
        assert other.store.added == 0


def test_nothing_happens_before_an_episode_has_ended():
    learner = relabeler(loss="rd")
    before = [p.clone() for p in learner.model.parameters()]
    assert np.isnan(learner.update(5))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))


def test_normalized_rewards_have_mean_zero_and_deviation_one():
    learner = relabeler(normalize=True)
    feed(learner, 400)
    learner.update()
    paid = learner.relabel_rows(np.arange(400), np.zeros(400, int))
    assert paid.mean().item() == pytest.approx(0, abs=0.05)
    assert paid.std().item() == pytest.approx(1, abs=0.05)
    rows = np.random.default_rng(5).normal(size=(50, 2))
    found = learner.relabel(rows, np.zeros((50, 1)), rows)
    assert np.corrcoef(found, rows @ [2.0, -1.0])[0, 1] > 0.999


def test_nothing_is_subtracted_where_episodes_terminate():
    """A constant per step would be paid for living longer."""
    for flag in (True, False):
        learner = relabeler(normalize=True)
        for start, action, end, _, done in walk(np.random.default_rng(0), 100, 10):
            learner.observe(start, action, end, [1.0], done & flag, done & (not flag))
        learner.update()
        assert learner.normalizer.shift == pytest.approx(0.0 if flag else 1.0)


def test_the_shift_stays_and_the_scale_settles():
    learner = relabeler(normalize=True, solve_every=1)
    seen = []
    for start, action, end, reward, done in walk(np.random.default_rng(1), 600, 10):
        learner.observe(start, action, end, reward + len(seen), done, [False])
        learner.update()
        seen.append((learner.normalizer.shift, learner.normalizer.scale))
    assert len({shift for shift, _ in seen[50:]}) == 1
    assert len({scale for _, scale in seen[50:]}) <= 5  # at doublings alone


def test_raw_numbers():
    learner = Relabeler(RawFeatures(), BOX, PUSH, capacity=10)
    assert learner.n_factors == 2 + 1 + 2
    rows = RawFeatures()(np.ones((1, 2)), np.full((1, 1), 5.0), np.zeros((1, 2)))
    assert rows.tolist() == [[1, 1, 5, 1, 1]]


def test_bad_use():
    with pytest.raises(ConfigError, match='"rd", "rd-sum", "rrd" or "rrd-unbiased"'):
        relabeler(loss="best")
    with pytest.raises(ConfigError, match="one of the two"):
        relabeler(loss="rd", decoder={"kind": "ridge"})
    with pytest.raises(ConfigError, match="2 for rrd-unbiased"):
        relabeler(loss="rrd-unbiased", k=1)
    with pytest.raises(ConfigError, match="not both"):
        relabeler(model=Decomposition(RewardDecoder(2)), decoder={})
    learner = relabeler(n_envs=2)
    with pytest.raises(ShapeError, match="n_envs=2"):
        learner.observe(
            np.zeros((1, 2)), np.zeros((1, 1)), np.zeros((1, 2)), [0.0], [False], [False]
        )
    with pytest.raises(ShapeError, match="one of each per step"):
        learner.relabel(np.zeros((3, 2)), np.zeros((2, 1)), np.zeros((3, 2)))
    feed(learner, 5, n_envs=2)
    with pytest.raises(ConfigError, match="has to be finite"):
        learner.observe(
            np.zeros((2, 2)), np.zeros((2, 1)), np.zeros((2, 2)), [0, np.nan], *[[0, 0]] * 2
        )
    with pytest.raises(ShapeError, match="last dimension"):
        learner.observe(np.zeros((2, 3)), np.zeros((2, 1)), np.zeros((2, 3)), [0, 0], *[[0, 0]] * 2)
    other = Relabeler(LatentReward(IDENTITY + "\n"), BOX, PUSH, capacity=1000, n_envs=2)
    with pytest.raises(StateError, match="load that function first"):
        other.load_state_dict(learner.state_dict())


def test_updates_can_be_seldom_and_large():
    learner = relabeler(loss="rd", episodes=7, update_every=4)
    feed(learner)
    drawn = []
    sample = learner.store.sample
    learner.store.sample = lambda n, *rest, **options: (
        drawn.append(n),
        sample(n, *rest, **options),
    )[1]
    losses = [learner.update() for _ in range(9)]
    assert drawn == [7, 7, 7]
    assert losses[0] == losses[3] != losses[4]
    with pytest.raises(ConfigError, match="update_every=0"):
        relabeler(update_every=0)


@pytest.mark.parametrize(
    ("features", "message"),
    [("function.py", r"give LatentReward\(source\)"), (lambda *_: [1.0], "one array")],
)
def test_features_of_another_kind_are_refused(features, message):
    with pytest.raises(ConfigError, match=message):
        Relabeler.for_env(gymnasium.make("Pendulum-v1"), features)
