"""When a model is asked again."""

import numpy as np
import pytest

from lemae.errors import ConfigError, StateError
from lemae.ksmt import KSMT
from lemae.stagnation import Stagnation


def asked(watch, *orders, new=False, success=False):
    """Whether it is time to ask after each episode; what is asked is put at once."""
    due = []
    for order in orders:
        watch.observe(order, new=new, success=success)
        due.append(watch.is_due)
        if watch.is_due:
            watch.asked(len(watch.hits))
    return due


def test_it_asks_after_episodes_without_a_new_node():
    watch = Stagnation(3, after=3)
    for order in [(0,), (0, 2), ()]:
        assert not watch.is_due
        watch.observe(order, new=False, success=False)
    assert watch.is_due
    assert (watch.hits.tolist(), watch.total) == ([2, 0, 1], 3)
    watch.asked(3)
    assert not watch.is_due
    assert watch.queries == 1


def test_a_new_node_begins_the_count_anew():
    watch = Stagnation(1, after=2)
    asked(watch, ())
    asked(watch, (0,), new=True)
    assert asked(watch, (), ()) == [False, True]


def test_after_a_success_it_never_asks():
    watch = Stagnation(1, after=1)
    watch.observe((), new=False, success=False)
    watch.observe((0,), new=False, success=True)
    assert not watch.is_due
    assert not any(asked(watch, *[()] * 10))


def test_the_questions_are_bounded():
    watch = Stagnation(1, after=2, max_requery=2)
    assert np.flatnonzero(asked(watch, *[()] * 20)).tolist() == [1, 3]


def test_by_default_it_never_asks():
    assert not any(asked(Stagnation(1), *[()] * 50))


def test_other_key_states_are_counted_anew_but_questions_are_not():
    watch = Stagnation(2, after=2, max_requery=1)
    for order in [(0, 1), (1,)]:
        watch.observe(order, new=False, success=False)
    watch.asked(3)
    assert (watch.hits.tolist(), watch.total) == ([0, 0, 0], 0)
    assert not any(asked(watch, *[(2,)] * 5))
    assert (watch.hits.tolist(), watch.total) == ([0, 0, 5], 5)


def test_it_works_beside_a_tree():
    watch, tree = Stagnation(2, after=2), KSMT(2)
    due = []
    for order in [(0,), (0,), (0, 1), (0,), (0, 1)]:
        due += asked(watch, order, new=tree.insert(order, success=False))
    assert due == [False, False, False, False, True]


@pytest.mark.parametrize("cut", [0, 1, 3, 12])
def test_a_saved_watch_goes_on_the_same(cut):
    news = np.random.default_rng(0).random(30) < 0.2
    one, other = (Stagnation(2, after=3, max_requery=3) for _ in range(2))
    for new in news[:cut]:
        asked(one, (0,), new=bool(new))
    other.load_state_dict(one.state_dict())
    for new in news[cut:]:
        assert asked(one, (1,), new=bool(new)) == asked(other, (1,), new=bool(new))
    assert one.state_dict()["hits"].tolist() == other.state_dict()["hits"].tolist()
    assert one.total == other.total
    assert one.queries == other.queries > 0


def test_a_saved_success_still_ends_the_watch():
    one, other = Stagnation(1, after=1), Stagnation(1, after=1)
    one.observe((), new=False, success=True)
    other.load_state_dict(one.state_dict())
    assert asked(other, ()) == [False]


def test_wrong_arguments_say_what_to_give():
    with pytest.raises(ConfigError, match="after is 0"):
        Stagnation(1, after=0)
    with pytest.raises(ConfigError, match="max_requery is -1"):
        Stagnation(1, max_requery=-1)
    with pytest.raises(StateError, match="counts 2 key states, this one 1"):
        Stagnation(1).load_state_dict(Stagnation(2).state_dict())
