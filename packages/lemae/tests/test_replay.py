"""The replay gives whole episodes back as they were played."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemae.algos.replay import EpisodeReplay
from lemae.algos.rollout import Episodes
from lemae.errors import ConfigError, ShapeError, StateError

LIMIT = 6


def episodes(lengths, seed=0, *, observed=False):
    """Random episodes; what stands behind their ends is noise."""
    rng = np.random.default_rng(seed)
    count, steps = len(lengths), max(lengths)
    shape = (steps, count, 2)
    return Episodes(
        states=rng.normal(size=(steps + 1, count, 3)).astype(np.float32),
        actions=rng.integers(4, size=shape),
        rewards=rng.normal(size=(steps, count)),
        log_probs=rng.normal(size=shape).astype(np.float32),
        random=rng.random(shape) < 0.5,
        epsilon=rng.random((steps, count)).astype(np.float32),
        lengths=np.array(lengths),
        success=rng.random(count) < 0.5,
        terminated=rng.random(count) < 0.5,
        observations=rng.normal(size=(steps + 1, count, 2, 5)) if observed else None,
        available=rng.random((steps + 1, count, 2, 4)) < 0.5 if observed else None,
        chains=[((1, number),) for number in range(count)],
    )


def parts(one, episode):
    """Everything about an episode, cut at its end."""
    length = int(one.lengths[episode])
    found = {"chain": one.chains[episode]}
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        if isinstance(value, np.ndarray):
            extra = field.name in ("states", "observations", "available")
            found[field.name] = (
                value[episode] if value.ndim == 1 else value[: length + extra, episode]
            )
            if field.name in ("log_probs", "random", "epsilon"):  # which are not kept
                found[field.name] = np.zeros_like(found[field.name])
    return found


def key(one, episode):
    return one.states[0, episode].tobytes()


def equal(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(value, other[name])
        and np.asarray(value).dtype == np.asarray(other[name]).dtype
        for name, value in one.items()
    )


@given(
    batches=st.lists(
        st.lists(st.integers(1, LIMIT), min_size=1, max_size=4), min_size=1, max_size=6
    ),
    capacity=st.integers(1, 7),
    observed=st.booleans(),
)
def test_it_holds_the_latest_episodes_unchanged(batches, capacity, observed):
    replay = EpisodeReplay(capacity, LIMIT)
    added = []
    for number, lengths in enumerate(batches):
        batch = episodes(lengths, number, observed=observed)
        replay.add(batch)
        added += [(key(batch, i), parts(batch, i)) for i in range(len(lengths))]
    latest = dict(added[-capacity:])
    assert len(replay) == len(latest)
    drawn = replay.sample(len(replay), np.random.default_rng(0))
    assert {key(drawn, i) for i in range(len(drawn))} == latest.keys()
    for i in range(len(drawn)):
        assert equal(parts(drawn, i), latest[key(drawn, i)])


def test_a_sample_is_as_long_as_its_longest_episode():
    replay = EpisodeReplay(2, LIMIT)
    replay.add(episodes([6, 6]))
    replay.add(episodes([2, 4]))  # takes the places of longer ones
    drawn = replay.sample(2, np.random.default_rng(0))
    assert drawn.states.shape == (5, 2, 3)
    assert drawn.rewards.shape == (4, 2)
    assert all(array.flags.c_contiguous for array in (drawn.states, drawn.actions))
    alone = [replay.sample(1, np.random.default_rng(seed)).rewards.shape[0] for seed in range(20)]
    assert set(alone) == {2, 4}


def test_nothing_is_left_of_a_longer_episode_that_was_replaced():
    replay = EpisodeReplay(2, LIMIT)
    replay.add(episodes([6, 6]))
    replay.add(episodes([2], 1))
    drawn = replay.sample(2, np.random.default_rng(0))
    short = int(drawn.lengths.argmin())
    assert (drawn.states[3:, short] == 0).all()
    assert (drawn.rewards[2:, short] == 0).all()


def test_changing_a_sample_changes_nothing_that_is_stored():
    replay = EpisodeReplay(3, LIMIT)
    replay.add(episodes([3, 4, 5]))
    first = replay.sample(3, np.random.default_rng(1))
    first.rewards[:] = 100
    first.states[:] = 100
    again = replay.sample(3, np.random.default_rng(1))
    assert abs(again.rewards).max() < 100
    assert abs(again.states).max() < 100


def test_all_episodes_are_drawn_equally_often_and_once_per_sample():
    replay = EpisodeReplay(8, LIMIT)
    replay.add(episodes([3] * 8))
    rng = np.random.default_rng(0)
    counts = np.zeros(8)
    for _ in range(2000):
        drawn = [chain[0][1] for chain in replay.sample(3, rng).chains]
        assert len(set(drawn)) == 3
        counts[drawn] += 1
    assert abs(counts / 2000 - 3 / 8).max() < 5 * np.sqrt(3 / 8 * 5 / 8 / 2000)


def test_a_restored_replay_goes_on_as_the_first_would():
    whole, first = EpisodeReplay(5, LIMIT), EpisodeReplay(5, LIMIT)
    for replay in (whole, first):
        replay.add(episodes([3, 4, 2], 0, observed=True))
    second = EpisodeReplay(5, LIMIT)
    second.load_state_dict(first.state_dict())
    for replay in (whole, second):
        replay.add(episodes([5, 1, 6], 1, observed=True))
    one, other = (replay.sample(4, np.random.default_rng(3)) for replay in (whole, second))
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)) or (
            field.name == "chains" and one.chains == other.chains
        )


def test_a_saved_state_is_a_copy():
    replay = EpisodeReplay(2, LIMIT)
    replay.add(episodes([3, 4], 0))
    state = replay.state_dict()
    before = state["columns"]["rewards"].copy()
    replay.add(episodes([6, 6], 1))
    assert np.array_equal(state["columns"]["rewards"], before)


def test_refusals():
    with pytest.raises(ConfigError, match=re.escape("capacity=0")):
        EpisodeReplay(0, LIMIT)
    replay = EpisodeReplay(4, LIMIT)
    with pytest.raises(ConfigError, match="holds 0"):
        replay.sample(1, np.random.default_rng(0))
    with pytest.raises(ShapeError, match="raise episode_limit"):
        replay.add(episodes([7]))
    replay.add(episodes([3, 3]))
    with pytest.raises(ConfigError, match="count is 3: the replay holds 2"):
        replay.sample(3, np.random.default_rng(0))
    with pytest.raises(ShapeError, match="episodes of one task"):
        replay.add(episodes([3], observed=True))
    with pytest.raises(StateError, match="capacity 4, this one 5"):
        EpisodeReplay(5, LIMIT).load_state_dict(replay.state_dict())
