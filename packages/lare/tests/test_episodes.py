"""The store against a plain list of episodes, whatever is overwritten."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare import EpisodeStore
from lare.errors import ConfigError, ShapeError, StateError


def fill(store, ends, seed=0, n_envs=1):
    """Random steps; returns every whole episode as (env, factors, return), in order of ending."""
    generator = np.random.default_rng(seed)
    running = [([], []) for _ in range(n_envs)]
    whole = []
    for end in ends:
        factors = torch.from_numpy(generator.normal(size=(n_envs, *store.shape))).float()
        rewards = generator.normal(size=n_envs)
        store.add(factors, rewards, end)
        for env in range(n_envs):
            running[env][0].append(factors[env])
            running[env][1].append(rewards[env])
            if end[env]:
                whole.append((env, torch.stack(running[env][0]), sum(running[env][1])))
                running[env] = ([], [])
    return whole


@pytest.mark.filterwarnings("ignore:an episode of")
@given(
    capacity=st.integers(1, 12),
    ends=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40),
)
def test_what_is_kept_are_the_newest_whole_episodes(capacity, ends):
    store = EpisodeStore(capacity, (2,), n_envs=2)
    whole = fill(store, ends, n_envs=2)
    oldest, kept = len(ends) - capacity, []
    for env in range(2):
        first = 0
        for step, end in enumerate(ends):
            if end[env]:
                kept.append((env, first)) if first >= oldest else None
                first = step + 1
    assert sorted((e.env, e.first) for e in store.episodes) == sorted(kept)
    for episode in store.episodes:
        wanted = next(
            w for w in whole if w[0] == episode.env and _starts(whole, w) == episode.first
        )
        batch = store.gather([episode])
        torch.testing.assert_close(batch.factors[0, : episode.length], wanted[1])
        assert batch.returns.item() == pytest.approx(wanted[2], rel=1e-5, abs=1e-5)
    if len(store):
        lengths = [episode.length for episode in store.episodes]
        assert store.mean_length == pytest.approx(np.mean(lengths))


def _starts(whole, one):
    before = [w for w in whole if w[0] == one[0]]
    position = next(i for i, w in enumerate(before) if w is one)
    return sum(len(w[1]) for w in before[:position])


def test_padding_is_zero_and_masked():
    store = EpisodeStore(20, (1,))
    fill(store, [[False], [True], [False], [False], [True]])
    batch = store.gather(store.episodes)
    assert batch.mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch.factors[0, 2] == 0


@pytest.mark.parametrize(("weighting", "share"), [("uniform", 0.5), ("length", 0.75)])
def test_how_episodes_are_drawn(weighting, share):
    store = EpisodeStore(20, (1,))
    fill(store, [[False], [False], [True], [True]])
    generator = np.random.default_rng(0)
    long = sum(
        store.sample(10, generator, weighting=weighting).mask.sum(1).eq(3).sum().item()
        for _ in range(300)
    )
    assert long / 3000 == pytest.approx(share, abs=0.03)


def test_sums_are_those_of_the_episodes():
    store = EpisodeStore(6, (2, 3))
    fill(store, [[False], [True], [False], [True], [False], [False], [True]])
    sums, returns, lengths = store.sums()
    for episode, total, length in zip(store.episodes, sums, lengths, strict=True):
        batch = store.gather([episode])
        torch.testing.assert_close(batch.factors.double().sum((0, 1, 2)), total)
        assert length == episode.length
    assert len(returns) == len(store)


def test_an_abandoned_episode_leaves_nothing():
    store = EpisodeStore(10, (1,))
    store.add(torch.ones(1, 1), [100.0], [False])
    store.abandon(0)
    store.add(torch.ones(1, 1), [1.0], [True])
    assert [(e.first, e.length, e.total) for e in store.episodes] == [(1, 1, 1.0)]


@pytest.mark.parametrize("cut", [0, 1, 5, 13])
def test_a_saved_store_goes_on_the_same(cut):
    generator = np.random.default_rng(3)
    ends = generator.random((30, 2)) < 0.3
    whole = EpisodeStore(7, (2,), 2)
    fill(whole, ends, n_envs=2)
    rows = np.random.default_rng(0)
    steps = [
        (torch.from_numpy(rows.normal(size=(2, 2))).float(), rows.normal(size=2), end)
        for end in ends
    ]
    one, other = EpisodeStore(7, (2,), 2), EpisodeStore(7, (2,), 2)
    for step in steps[:cut]:
        one.add(*step)
    other.load_state_dict(one.state_dict())
    for step in steps[cut:]:
        one.add(*step)
        other.add(*step)
    assert other.episodes == one.episodes
    assert torch.equal(other.factors, one.factors)
    assert other.mean_length == one.mean_length or not len(one)


def test_memory_is_the_factors_and_little_else():
    """One million steps keep D floats each."""
    store = EpisodeStore(1_000_000, (4,))
    assert store.factors.nbytes == 16_000_000


def test_bad_use():
    with pytest.raises(ConfigError, match="must be positive"):
        EpisodeStore(0, (3,))
    store = EpisodeStore(5, (3,), n_envs=2)
    with pytest.raises(StateError, match="no episode has ended"):
        store.sample(1, np.random.default_rng(0))
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        store.add(torch.zeros(3), [0.0, 0.0], [False, False])
    with pytest.raises(ShapeError, match="one number per environment"):
        store.add(torch.zeros(2, 3), [0.0], [False, False])
    store.add(torch.zeros(2, 3), [0.0, 0.0], [True, True])
    with pytest.raises(ConfigError, match='"uniform" or "length"'):
        store.sample(1, np.random.default_rng(0), weighting="best")
    with pytest.raises(StateError, match="same sizes"):
        EpisodeStore(6, (3,), 2).load_state_dict(store.state_dict())
