"""The bank: a fair sample, whatever is merged first."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemae.errors import ConfigError, ShapeError, StateError
from lemae.instances import InstanceBank


def filled(values, capacity=1000, seed=0, order=()):
    """A bank with one key state, met in the states [value]."""
    bank = InstanceBank(3, capacity, seed=seed)
    bank.extend(0, np.reshape(values, (-1, 1)).astype(float), [order] * len(values))
    return bank


def content(bank):
    """What is in it and where, for comparison."""
    state = bank.state_dict()
    return [[array.tolist() for array in arrays] for arrays in state["shelves"]], bank.seen.tolist()


def sampled(bank, size=1, **options):
    """First coordinate of samples of key state 0."""
    rng = np.random.default_rng(0)
    return bank.sample(0, size=size, rng=rng, **options)[:, 0].tolist()


def test_up_to_its_capacity_it_keeps_all():
    bank = filled([1, 2, 3], capacity=3)
    assert bank.states(0).tolist() == [[1], [2], [3]]
    assert [bank.count(k) for k in range(3)] == [3, 0, 0]
    bank.add(0, [4.0])
    assert bank.count(0) == 3
    assert bank.seen.tolist() == [4, 0, 0]


@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_beyond_its_capacity_every_instance_is_as_likely(at_once):
    kept = np.zeros(50)
    for seed in range(300):
        bank = InstanceBank(1, 10, seed=seed)
        for first in range(0, 50, at_once):
            values = np.arange(first, min(first + at_once, 50), dtype=float)
            bank.extend(0, values[:, None], [()] * len(values))
        assert bank.count(0) == 10
        kept[bank.states(0)[:, 0].astype(int)] += 1
    # 60 of 300 each; the standard deviation is 7.
    assert 60 - 5 * 7 < kept.min() <= kept.max() < 60 + 5 * 7


def test_a_uniform_draw_takes_all_alike():
    counts = np.unique(sampled(filled([0, 1, 2, 3]), size=4000), return_counts=True)[1]
    assert np.abs(counts - 1000).max() < 5 * 28


def test_instances_after_the_same_order_come_first():
    bank = filled([1, 2], order=(1, 2))
    bank.add(0, [3.0], (2, 1))
    bank.add(0, [4.0], (1,))
    assert set(sampled(bank, size=50, order=(2, 1))) == {3}
    assert set(sampled(bank, size=50, order=(1, 2))) == {1, 2}
    assert set(sampled(bank, size=200, order=())) == {1, 2, 3, 4}
    assert set(sampled(bank, size=200, order=(2,))) == {1, 2, 3, 4}


def test_orders_of_many_key_states_are_told_apart():
    bank = InstanceBank(40)
    orders = [tuple(range(i, 40)) for i in range(30)]
    bank.extend(0, np.arange(30.0)[:, None], orders)
    for i, order in enumerate(orders):
        assert set(sampled(bank, size=20, order=order)) == {i}
    with pytest.raises(ConfigError, match="name each at most once"):
        bank.add(0, [0.0], (0,) * 41)


def test_the_ways_to_choose():
    bank = filled([0, 1, 2, 10, 50])
    assert sampled(bank, how="recent", size=2) == [50, 50]
    assert sampled(bank, how="medoid", size=2) == [2, 2]
    assert sampled(bank, how="nearest", near=[[7.0], [-3.0]], size=2) == [10, 0]


def test_the_distance_is_the_callers():
    bank = InstanceBank(1)
    bank.extend(0, [[0.0, 9.0], [5.0, 0.0]], [(), ()])

    def second_index(one, other):
        return abs(one - other)[..., 1]

    rng = np.random.default_rng(0)
    near = [[5.0, 6.0]]
    assert bank.sample(0, "nearest", near=near, rng=rng).tolist() == [[5.0, 0.0]]
    chosen = bank.sample(0, "nearest", near=near, rng=rng, distance=second_index)
    assert chosen.tolist() == [[0.0, 9.0]]


def test_recent_is_the_last_one_at_hand():
    bank = InstanceBank(1, 5, seed=3)
    for value in range(100):
        bank.add(0, [float(value)])
    assert sampled(bank, how="recent") == [bank.states(0).max()]
    again = InstanceBank(1, 5, seed=9)
    again.merge(bank)  # which sorts them by their random numbers
    assert sampled(again, how="recent") == [bank.states(0).max()]


def test_nobody_can_change_what_is_kept():
    bank = InstanceBank(1)
    state = np.array([1.0, 2.0])
    bank.add(0, state)
    state[:] = 9
    bank.states(0)[:] = 9
    bank.sample(0, rng=np.random.default_rng(0))[:] = 9
    assert bank.states(0).tolist() == [[1, 2]]


#: Banks of workers: (values added, seed). Equal seeds draw equal numbers, the worst case.
WORKERS = st.lists(
    st.tuples(st.lists(st.integers(0, 5), max_size=6), st.integers(0, 2)), min_size=3, max_size=3
)


@given(workers=WORKERS, capacity=st.integers(1, 8))
def test_merging_is_commutative_and_associative(workers, capacity):
    def bank(i):
        values, seed = workers[i]
        return filled(values, capacity, seed)

    def merged(one, other):
        one.merge(other)
        return one

    left = merged(merged(bank(0), bank(1)), bank(2))
    assert content(left) == content(merged(bank(0), merged(bank(1), bank(2))))
    for path in [(2, 1, 0), (1, 2, 0), (2, 0, 1)]:
        assert content(reduce(merged, map(bank, path))) == content(left)
    assert left.seen[0] == sum(len(values) for values, _ in workers)
    assert left.count(0) == min(capacity, left.seen[0])


def test_a_merged_bank_is_a_fair_sample_of_both():
    kept = 0
    for seed in range(400):
        bank = filled(np.zeros(90), 10, seed)
        bank.merge(filled(np.ones(10), 10, 1000 + seed))
        kept += bank.states(0).sum()
    # One in ten is of the smaller worker: 400, with a standard deviation of 18.
    assert abs(kept - 400) < 5 * 18


def test_a_saved_bank_goes_on_the_same():
    one, other = filled(range(30), 8, seed=1), InstanceBank(3, 8, seed=2)
    other.load_state_dict(one.state_dict())
    for bank in (one, other):
        bank.extend(0, np.arange(30, 60.0)[:, None], [(1,)] * 30)
        bank.add(2, [5.0], (0,))
    assert content(one) == content(other)


def test_a_saved_state_stays_as_it_was():
    bank = filled(range(5), 4)
    saved = bank.state_dict()
    before = [array.tolist() for array in saved["shelves"][0]]
    bank.extend(0, np.arange(50.0)[:, None], [()] * 50)
    assert [array.tolist() for array in saved["shelves"][0]] == before


def test_errors_say_what_to_do():
    rng = np.random.default_rng(0)
    bank = filled([1, 2])
    for capacity in (0, 1.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"capacity is {capacity}: give a whole number of"):
            InstanceBank(3, capacity)
    with pytest.raises(ConfigError, match="key state 3: there are 0 to 2"):
        bank.add(3, [1.0])
    with pytest.raises(ShapeError, match=r"2 orders.*\[m, d\]"):
        bank.extend(0, [[1.0]], [(), ()])
    with pytest.raises(ShapeError, match=r"length 2 were given.*length 1"):
        bank.add(1, [1.0, 2.0])
    with pytest.raises(ConfigError, match=r"ask count\(1\)"):
        bank.sample(1, rng=rng)
    with pytest.raises(ConfigError, match="uniform, recent, nearest, medoid"):
        bank.sample(0, "best", rng=rng)
    with pytest.raises(ConfigError, match="needs near"):
        bank.sample(0, "nearest", rng=rng)
    with pytest.raises(ConfigError, match="capacity 5 into one of 3 and 1000"):
        bank.merge(InstanceBank(3, 5))
    with pytest.raises(StateError, match="capacity 5, this bank of 3 and 1000"):
        bank.load_state_dict(InstanceBank(3, 5).state_dict())
    longer = InstanceBank(3)
    longer.add(0, [1.0, 2.0])
    with pytest.raises(ShapeError, match="one bank per task"):
        bank.merge(longer)
    assert bank.seen.tolist() == [2, 0, 0]  # the refusal changed nothing
