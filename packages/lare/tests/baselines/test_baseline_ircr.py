"""Return guidance, and the store's answer to which return a row belongs to."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare import EpisodeStore
from lare.baselines import ReturnGuidance
from lare.errors import ConfigError


def filled(ends, capacity=100, n_envs=1):
    """A store of steps that each earned 1, 2, 3, ... in the order of time."""
    store = EpisodeStore(capacity, (1,), n_envs)
    for step, end in enumerate(ends):
        store.add(torch.zeros(n_envs, 1), np.full(n_envs, step + 1.0), np.reshape(end, -1))
    return store


@pytest.mark.filterwarnings("ignore:an episode of")
@given(
    capacity=st.integers(1, 12),
    ends=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
    abandoned=st.sets(st.integers(0, 39)),
)
def test_every_row_finds_the_episode_it_was_written_in(capacity, ends, abandoned):
    store = EpisodeStore(capacity, (1,), 2)
    for step, end in enumerate(ends):
        store.add(torch.zeros(2, 1), [step + 1.0, step + 2.0], end)
        if step in abandoned:
            store.abandon(1)
        rows = np.arange(capacity)
        for env in range(2):
            wanted = np.full(capacity, np.nan)
            for episode in store.episodes:
                if episode.env == env:
                    places = np.arange(episode.first, episode.first + episode.length) % capacity
                    wanted[places] = episode.total
            np.testing.assert_array_equal(store.returns_of(rows, np.full(capacity, env)), wanted)
        assert store.returns.tolist() == [episode.total for episode in store.episodes]


def test_a_loaded_store_answers_for_its_own_episodes():
    one, other = filled([True, True]), filled([False, True])
    assert one.returns.tolist() == [1, 2]
    one.load_state_dict(other.state_dict())
    assert one.returns_of([0, 1], [0, 0]).tolist() == [3, 3]


def test_returns_are_scaled_over_the_stored_episodes():
    # Returns 1 + 2, 3 and 4 + 5; the last step is of an episode that has not ended.
    store = filled([False, True, True, False, True, False])
    rewards = ReturnGuidance().rewards_of_rows(store, np.arange(6), np.zeros(6, dtype=int))
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == pytest.approx([0, 0, 0, 1, 1, (3 + 3 + 9) / 3 / 6 - 3 / 6])


def test_the_range_is_that_of_now():
    store, model = filled([True, True, True]), ReturnGuidance()
    rows = np.arange(3), np.zeros(3, dtype=int)
    assert model.rewards_of_rows(store, *rows).tolist() == [0, 0.5, 1]
    store.add(torch.zeros(1, 1), [5.0], [True])
    assert model.rewards_of_rows(store, *rows).tolist() == [0, 0.25, 0.5]


def test_without_a_range_rewards_are_zero():
    model = ReturnGuidance()
    none = model.rewards_of_rows(filled([False, False]), np.arange(2), np.zeros(2, dtype=int))
    one = model.rewards_of_rows(filled([True]), np.arange(1), np.zeros(1, dtype=int))
    assert none.tolist() == [0, 0]
    assert one.tolist() == [0]


def test_returns_of_others_stay_within_the_range():
    model = ReturnGuidance()
    model.fit(torch.tensor([-1.0, 3.0]))
    assert model.normalized(torch.tensor([-9.0, 1.0, 9.0])).tolist() == [0, 0.5, 1]
    model.fit(torch.tensor([]))
    assert model.normalized(torch.tensor(1.0)) == 0.5


def test_steps_of_unknown_episodes_get_the_mean():
    model = ReturnGuidance()
    model.fit(torch.tensor([0.0, 1.0, 5.0]))
    rewards = model.rewards(torch.zeros(4, 2, 7))
    assert rewards.shape == (4, 2)
    assert rewards.flatten().tolist() == pytest.approx([0.4] * 8)


def test_the_range_is_saved():
    one, other = ReturnGuidance(), ReturnGuidance()
    one.fit(torch.tensor([2.0, 8.0]))
    other.load_state_dict(one.state_dict())
    assert other.normalized(torch.tensor([5.0])) == 0.5


def test_there_is_no_loss():
    with pytest.raises(ConfigError, match=r"fit\(\)"):
        ReturnGuidance().loss(None, torch.Generator())


def test_half_of_a_batch_is_drawn_from_the_best_episodes():
    store = EpisodeStore(64, (1,), n_envs=2)
    for episode in range(8):  # returns 0 to 7, in environment 0; the negative in environment 1
        for step in range(4):
            total = [episode / 4, -episode / 4]
            store.add(torch.zeros(2, 1), total, [step == 3, step == 3])
    rows = np.full(2000, 63)
    drawn, envs = ReturnGuidance(best=2).redraw(store, rows, rows * 0, np.random.default_rng(0))
    assert rows.tolist() == [63] * 2000  # the caller's are left alone
    assert (drawn[1000:] == 63).all()
    assert set(drawn[:1000].tolist()) == set(range(24, 32))  # the last two episodes
    assert (envs == 0).all()
    assert np.bincount(drawn[:1000])[24:].min() > 80  # uniform over their steps
    untouched, _ = ReturnGuidance(best=0).redraw(store, rows, rows * 0, np.random.default_rng(0))
    assert (untouched == 63).all()
