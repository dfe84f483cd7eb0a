"""Batches cut anywhere against the same episodes as a whole."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from lemae import KeyStateSet
from lemae.integrations._stream import Marks, Stream, intrinsic
from lemae.integrations.shaping import Shaping

line_task = runpy.run_path(str(Path(__file__).parent / "line_task.py"))
Line = line_task["Line"]
N, STEPS = 4, 60


@pytest.fixture(scope="module")
def key_states():
    return KeyStateSet.from_source(line_task["KEY_STATES"], 2)


def shaped(key_states, **options):
    return Shaping(key_states, **{"beta": 1, **options})


def play(seed=0, right=0.6):
    """Steps of N rows in which an episode begins whenever one ends: ``[N, T, ...]``."""
    rng = np.random.default_rng(seed)
    env = Line(N, limit=9)
    state, _ = env.reset()
    columns = [[], [], [], []]
    for _ in range(STEPS):
        actions = rng.choice([0, 1, 2], p=[0.2, right, 0.8 - right], size=(N, 2))
        following, reward, terminated, truncated, _ = env.step(actions)
        done = terminated | truncated
        for column, values in zip(columns, (state, following, done, reward > 0), strict=True):
            column.append(values)
        state, _ = env.reset(envs=done) if done.any() else (following, {})
    return tuple(np.stack(column, 1) for column in columns)


def part(columns, begin, end):
    return tuple(column[:, begin:end] for column in columns)


def observed(stream, columns, cuts):
    marks = [
        stream.observe(*part(columns, *cut)) for cut in zip([0, *cuts], [*cuts, STEPS], strict=True)
    ]
    return Marks(*(np.concatenate(column, 1) for column in zip(*marks, strict=True)))


def episodes(columns):
    """Whole episodes of all rows, in the order of their ends; each as row, begin, end."""
    done = columns[2]
    found = []
    for row in range(N):
        begin = 0
        for end in np.flatnonzero(done[row]) + 1:
            found.append((row, begin, end))
            begin = end
    return sorted(found, key=lambda episode: (episode[2], episode[0]))


def whole(shaping, columns, *, observe):
    """Intrinsic rewards of the finished episodes, each relabelled as a whole."""
    states, following, _, success = columns
    wanted = np.full(success.shape, np.nan)
    for row, begin, end in episodes(columns):
        path = np.concatenate([states[row, begin:end], following[row, end - 1 : end]])[:, None]
        length, won = [end - begin], [success[row, end - 1]]
        if observe:
            shaping.observe(path, length, won)
        rewards = np.zeros((end - begin, 1))
        wanted[row, begin:end] = shaping.relabel(path, rewards, length, won).intrinsic[:, 0]
    return wanted


def flat(columns, marks, cut):
    states, following, _, success = (c.reshape(-1, *c.shape[2:]) for c in part(columns, *cut))
    marks = Marks(*(c.reshape(-1, *c.shape[2:]) for c in part(marks, *cut)))
    starts = np.zeros(len(states), bool)
    starts[:: cut[1] - cut[0]] = True
    return states, following, success, marks, starts


@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 30], list(range(1, STEPS))])
def test_cuts_do_not_change_what_is_learned(key_states, cuts):
    columns = play()
    stream, reference = Stream(shaped(key_states)), shaped(key_states)
    marks = observed(stream, columns, cuts)
    wanted = whole(reference, columns, observe=True)
    memory = reference.memory
    assert stream.shaping.memory.to_json() == memory.to_json()
    assert memory.pruned
    for k in range(2):  # the stream saw key states of unfinished episodes as well
        assert stream.shaping.relabeler.bank.count(k) >= reference.relabeler.bank.count(k)
    for row, begin, end in episodes(columns):
        np.testing.assert_array_equal(marks.time[row, begin:end], np.arange(end - begin))
    # Hindsight is the same wherever the cuts are; planning draws an instance.
    stream.shaping.relabeler.planning = reference.relabeler.planning = False
    found = intrinsic(stream.shaping, *flat(columns, marks, (0, STEPS))).reshape(N, STEPS)
    wanted = whole(reference, columns, observe=False)
    finished = ~np.isnan(wanted)
    np.testing.assert_allclose(found[finished], wanted[finished])
    assert np.abs(wanted[finished]).sum() > 10


def test_marks_say_when_each_key_state_was_met(key_states):
    columns = play(seed=1)
    marks = observed(Stream(shaped(key_states)), columns, [13])
    for row, begin, end in episodes(columns):
        truth = key_states.evaluate(columns[1][row, begin:end])
        seen = np.logical_or.accumulate(truth, axis=0)
        np.testing.assert_array_equal(marks.met[row, begin:end] > 0, seen)
        for k in np.flatnonzero(seen[-1]):
            assert set(marks.met[row, begin:end, k]) - {0} == {int(truth[:, k].argmax()) + 1}


def test_the_rest_of_an_episode_is_planned_after_what_it_has_met(key_states):
    """A piece from the middle of an episode: no hindsight for what came before it."""
    shaping = shaped(key_states)
    # One row walks right with agent 0 first: key state 0 at time 3, never key state 1.
    path = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2]], float)
    states, following = path[None, :-1], path[None, 1:]
    no = np.zeros((1, 5), bool)
    marks = Stream(shaping).observe(states, following, no, no)
    shaping.memory.insert((0, 1), success=False)
    shaping.relabeler.bank.add(1, [5.0, 5.0], (0,))
    columns = (states, following, no, no)

    def found(begin, end):
        return intrinsic(shaping, *flat(columns, marks, (begin, end)))

    # Key state 0 reads index 0 and was met at (3, 0); key state 1 reads both and is at (5, 5).
    np.testing.assert_array_equal(found(0, 5), [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(found(3, 5), [1, 1])
    np.testing.assert_array_equal(found(2, 5), [1, 1, 1])
    # Before it is known that key state 0 will be met it is planned, at its only instance (3, 0).
    np.testing.assert_array_equal(found(0, 2), [1, 1])


def test_single_steps_in_any_order(key_states):
    columns = play(seed=2)
    stream = Stream(shaped(key_states))
    marks = observed(stream, columns, [20])
    stream.shaping.relabeler.planning = False
    states, following, success, (time, met), _ = flat(columns, marks, (0, STEPS))
    order = np.random.default_rng(0).permutation(len(states))
    starts = np.ones(len(states), bool)
    found = intrinsic(
        stream.shaping,
        states[order],
        following[order],
        success[order],
        Marks(time[order], met[order]),
        starts,
    )
    fired = (met == time[:, None] + 1)[order]
    assert ((found != 0) <= fired.any(1)).all()  # in hindsight, the step that met it
    assert found.any()


def test_an_episode_that_is_left_is_counted(key_states):
    shaping = shaped(key_states)
    stream = Stream(shaping)
    columns = play()
    begin = int(np.flatnonzero(columns[2].any(0))[0])  # up to the first end of an episode
    stream.observe(*part(columns, 0, begin))
    assert shaping.memory.episodes == 0
    stream.observe(*part(play(seed=5), 0, begin))  # the rows were reset
    assert shaping.memory.episodes == N
    stream.observe(*(column[:1, :begin] for column in columns))  # another number of rows
    assert shaping.memory.episodes == 2 * N
    assert not shaping.memory.solved
