"""Chains, while episodes run and afterwards, against a loop over states."""

import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lemae.errors import ConfigError, LemaeWarning, ShapeError, StateError
from lemae.labels import Labeler, label, order

FakeKeyStates = runpy.run_path(str(Path(__file__).with_name("fake_key_states.py")))["FakeKeyStates"]
chains_of = runpy.run_path(str(Path(__file__).with_name("reference_shir.py")))["chains_of"]

#: Three of them are true together often, and each at reset sometimes.
KEYS = [(0, 1), (1, 1), (0, 0)]


def along(*values):
    """States [T+1, 1, 1] of one episode."""
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1)


@st.composite
def batches(draw):
    steps, episodes = draw(st.integers(0, 8)), draw(st.integers(1, 4))
    states = draw(hnp.arrays(np.float32, (steps + 1, episodes, 2), elements=st.integers(0, 2)))
    lengths = draw(hnp.arrays(np.int64, episodes, elements=st.integers(0, steps)))
    return states, lengths


@pytest.mark.filterwarnings("ignore:true at reset")
@given(batch=batches(), edge=st.booleans())
def test_chains_are_those_of_the_loop(batch, edge):
    keys = FakeKeyStates(*KEYS)
    assert label(keys, *batch, edge=edge) == chains_of(keys, *batch, edge=edge)


@pytest.mark.filterwarnings("ignore:true at reset")
@given(batch=batches(), edge=st.booleans())
def test_labels_on_the_way_are_those_afterwards(batch, edge):
    states, lengths = batch
    keys = FakeKeyStates(*KEYS)
    labeler = Labeler(keys, len(lengths), edge=edge)
    labeler.reset(states[0])
    for t in range(1, len(states)):
        # Copies that are through show whatever they like; it must not be seen.
        before = [labeler.chain(env) for env in range(len(lengths))]
        events = labeler.step(states[t], active=t <= lengths)
        for env, chain in enumerate(before):
            fired = [k for copy, k in events.tolist() if copy == env]
            assert labeler.chain(env) == chain + tuple((t, k) for k in fired)
    assert [labeler.chain(env) for env in range(len(lengths))] == label(
        keys, states, lengths, edge=edge
    )
    np.testing.assert_array_equal(labeler.t, lengths)


def test_key_states_that_fire_together_are_in_the_order_of_their_numbers():
    keys = FakeKeyStates((0, 3), (0, 1), (0, 1))
    assert label(keys, along(0, 1, 3), [2]) == [((1, 1), (1, 2), (2, 0))]
    labeler = Labeler(keys, 2)
    labeler.reset([[0.0], [0.0]])
    assert labeler.step([[1.0], [1.0]]).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert labeler.step([[3.0], [0.0]]).tolist() == [[0, 0]]
    assert order(labeler.chain(0)) == (1, 2, 0)


def test_a_key_state_fires_once_per_episode():
    keys = FakeKeyStates((0, 1))
    labeler = Labeler(keys, 1)
    for _ in range(2):
        labeler.reset([[0.0]])
        fired = [labeler.step([[value]]).tolist() for value in (1.0, 0.0, 1.0, 1.0)]
        assert fired == [[[0, 0]], [], [], []]


@pytest.mark.filterwarnings("ignore:true at reset")
def test_it_fires_once_too_if_it_was_true_at_reset():
    keys = FakeKeyStates((0, 1))
    labeler = Labeler(keys, 1)
    labeler.reset([[1.0]])
    for value in (0.0, 1.0, 0.0, 1.0):
        labeler.step([[value]])
    assert labeler.chain(0) == ((2, 0),) == label(keys, along(1, 0, 1, 0, 1), [4])[0]


@pytest.mark.filterwarnings("ignore:true at reset")
def test_what_a_copy_shows_while_it_pauses_is_not_seen():
    labeler = Labeler(FakeKeyStates((0, 1)), 1)
    labeler.reset([[1.0]])
    labeler.step([[0.0]], active=[False])  # would have been false once
    assert labeler.step([[1.0]]).size == 0


def test_a_key_state_of_the_first_state_waits_until_it_was_false():
    keys = FakeKeyStates((0, 1))
    with pytest.warns(LemaeWarning, match=r"true at reset: 'at 0 is 1'\..*narrower"):
        chains = label(keys, along(1, 1, 0, 1, 1), [4])
    assert chains == [((3, 0),)]
    assert label(keys, along(1, 1, 0, 1, 1), [4], edge=False) == [((1, 0),)]


def test_an_end_before_the_key_state_was_false_gives_no_chain():
    keys = FakeKeyStates((0, 1))
    with pytest.warns(LemaeWarning, match="true at reset"):
        assert label(keys, along(1, 1, 0, 1), [1]) == [()]


def test_the_warning_comes_once_per_key_state():
    keys = FakeKeyStates((0, 1), (1, 1))
    labeler = Labeler(keys, 2)
    with pytest.warns(LemaeWarning, match="'at 0 is 1'") as caught:
        labeler.reset([[1.0, 0.0], [1.0, 0.0]])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    labeler.reset([[1.0, 0.0], [0.0, 0.0]])  # an error if it warned
    with pytest.warns(LemaeWarning, match="true at reset: 'at 1 is 1'"):
        labeler.reset([[1.0, 1.0], [0.0, 0.0]])


def test_without_edge_nothing_is_said_of_the_first_state():
    labeler = Labeler(FakeKeyStates((0, 1)), 1, edge=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labeler.reset([[1.0]])
    assert labeler.step([[1.0]]).tolist() == [[0, 0]]


def test_copies_begin_new_episodes_apart():
    labeler = Labeler(FakeKeyStates((0, 1)), 3)
    labeler.reset(np.zeros((3, 1)))
    labeler.step(np.ones((3, 1)))
    labeler.reset(np.zeros((3, 1)), envs=[False, True, False])
    assert labeler.t.tolist() == [1, 0, 1]
    labeler.reset(np.zeros((3, 1)), envs=[2])
    assert labeler.step(np.ones((3, 1))).tolist() == [[1, 0], [2, 0]]
    assert [labeler.chain(env) for env in range(3)] == [((1, 0),)] * 3
    assert labeler.t.tolist() == [2, 1, 1]


def test_only_the_copies_that_begin_are_evaluated_at_reset():
    labeler = Labeler(FakeKeyStates((0, 1)), 2)
    labeler.reset(np.zeros((2, 1)))
    labeler.reset([[0.0], [1.0]], envs=[0])  # the other one is under way: no warning
    assert labeler.step([[0.0], [1.0]]).tolist() == [[1, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_are_taken_as_well(dtype):
    keys = FakeKeyStates((0, 1))
    states = torch.tensor([[[0.0]], [[1.0]]], dtype=dtype, requires_grad=True)
    assert label(keys, states, torch.tensor([1])) == [((1, 0),)]
    labeler = Labeler(keys, 1)
    labeler.reset(states[0])
    assert labeler.step(states[1], torch.tensor([True])).tolist() == [[0, 0]]


def test_no_key_state_gives_empty_chains():
    keys = FakeKeyStates()
    labeler = Labeler(keys, 2)
    labeler.reset(np.zeros((2, 3)))
    assert labeler.step(np.zeros((2, 3))).shape == (0, 2)
    assert label(keys, np.zeros((4, 2, 3)), [3, 1]) == [(), ()]


def test_a_batch_is_evaluated_in_one_call():
    keys = FakeKeyStates(*KEYS)
    label(keys, np.full((50, 8, 2), 2.0), np.full(8, 49))
    assert keys.calls == 1


@pytest.mark.filterwarnings("ignore:true at reset")
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_a_saved_labeler_goes_on_the_same(cut):
    rng = np.random.default_rng(0)
    states = rng.integers(0, 3, (20, 4, 2))
    one, other = Labeler(FakeKeyStates(*KEYS), 4), Labeler(FakeKeyStates(*KEYS), 4)
    one.reset(states[0])
    for state in states[1 : 1 + cut]:
        one.step(state)
    saved = one.state_dict()
    expected = [one.step(state).tolist() for state in states[1 + cut :]]
    other.load_state_dict(saved)
    assert [other.step(state).tolist() for state in states[1 + cut :]] == expected
    assert other.chains == one.chains
    np.testing.assert_array_equal(other.t, one.t)


def test_a_state_of_something_else_is_refused():
    labeler = Labeler(FakeKeyStates((0, 1)), 2)
    with pytest.raises(StateError, match=r"\(3, 1\).*\(2, 1\)"):
        labeler.load_state_dict(Labeler(FakeKeyStates((0, 1)), 3).state_dict())


@pytest.mark.parametrize(
    ("states", "lengths", "message"),
    [
        (np.zeros((3, 2)), [2, 2], r"states have shape \(3, 2\): give \[T\+1, B, d\]"),
        (np.zeros((3, 2, 1)), [2], r"one per episode, \(2,\)"),
        (np.zeros((3, 2, 1)), [2, 3], "3 states allow 0 to 2 steps"),
        (np.zeros((3, 2, 1)), [2, -1], "range from -1 to 2"),
    ],
)
def test_batches_that_do_not_fit_are_refused(states, lengths, message):
    with pytest.raises(ShapeError, match=message):
        label(FakeKeyStates((0, 1)), states, lengths)


def test_wrong_calls_say_what_to_do():
    with pytest.raises(ConfigError, match="n_envs is 0"):
        Labeler(FakeKeyStates((0, 1)), 0)
    labeler = Labeler(FakeKeyStates((0, 1)), 2)
    with pytest.raises(StateError, match="call reset"):
        labeler.step(np.zeros((2, 1)))
    with pytest.raises(ShapeError, match=r"\[2, d\]"):
        labeler.reset(np.zeros((3, 1)))
    for envs in ([True, True, False], [0.5]):
        with pytest.raises(ConfigError, match="a list of numbers, or a bool for each of the 2"):
            labeler.reset(np.zeros((2, 1)), envs=envs)
    labeler.reset(np.zeros((2, 1)))
    with pytest.raises(ShapeError, match=r"active has shape \(1,\): give one per copy, \(2,\)"):
        labeler.step(np.ones((2, 1)), [True])
    with pytest.raises(ConfigError, match="the copies are 0 to 1"):
        labeler.reset(np.zeros((2, 1)), envs=[2])
