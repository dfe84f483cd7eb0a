"""When a model is asked again."""

import numpy as np
import pytest

from lemae.errors import ConfigError, StateError
from lemae.ksmt import KSMT
from lemae.stagnation import Stagnation


def observe(watch, *orders, new=False, success=False):
    return [watch.observe(order, new=new, success=success) for order in orders]


def test_it_asks_after_episodes_without_a_new_node():
    watch = Stagnation(3, after=3)
    asked = observe(watch, (0,), (0, 2), (), (0,))
    assert [hits is not None for hits in asked] == [False, False, True, False]
    assert asked[2].tolist() == [2, 0, 1]
    assert watch.queries == 1


def test_a_new_node_begins_the_count_anew():
    watch = Stagnation(1, after=2)
    observe(watch, ())
    observe(watch, (0,), new=True)
    assert observe(watch, ()) == [None]
    assert observe(watch, ())[0].tolist() == [1]


def test_after_a_success_it_never_asks():
    watch = Stagnation(1, after=1)
    observe(watch, (0,), success=True)
    assert observe(watch, *[()] * 10) == [None] * 10


def test_the_questions_are_bounded():
    watch = Stagnation(1, after=2, max_requery=2)
    asked = observe(watch, *[()] * 20)
    assert [i for i, hits in enumerate(asked) if hits is not None] == [1, 3]


def test_by_default_it_never_asks():
    assert observe(Stagnation(1), *[()] * 50) == [None] * 50


def test_other_key_states_are_counted_anew_but_questions_are_not():
    watch = Stagnation(2, after=2, max_requery=1)
    observe(watch, (0, 1), (1,))
    watch.restart(3)
    assert watch.hits.tolist() == [0, 0, 0]
    assert observe(watch, *[(2,)] * 5) == [None] * 5
    assert watch.hits.tolist() == [0, 0, 5]


def test_the_hits_are_the_callers_own():
    watch = Stagnation(1, after=1)
    watch.observe((0,), new=False, success=False)[:] = 99
    assert watch.hits.tolist() == [1]


def test_it_works_beside_a_tree():
    watch, tree = Stagnation(2, after=2), KSMT(2)
    asked = []
    for order in [(0,), (0,), (0, 1), (0,), (0, 1)]:
        new = tree.insert(order, success=False)
        asked.append(watch.observe(order, new=new, success=False) is not None)
    assert asked == [False, False, False, False, True]


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_a_saved_watch_goes_on_the_same(cut):
    rng = np.random.default_rng(0)
    news = rng.random(30) < 0.2
    one, other = (Stagnation(2, after=3, max_requery=3) for _ in range(2))
    for new in news[:cut]:
        one.observe((0,), new=bool(new), success=False)
    other.load_state_dict(one.state_dict())
    for new in news[cut:]:
        asked = [watch.observe((1,), new=bool(new), success=False) for watch in (one, other)]
        assert (asked[0] is None) == (asked[1] is None)
    assert one.state_dict()["hits"].tolist() == other.state_dict()["hits"].tolist()
    assert one.queries == other.queries > 0


def test_a_saved_success_still_ends_the_watch():
    one, other = Stagnation(1, after=1), Stagnation(1, after=1)
    observe(one, (), success=True)
    other.load_state_dict(one.state_dict())
    assert observe(other, ()) == [None]


def test_wrong_arguments_say_what_to_give():
    with pytest.raises(ConfigError, match="after is 0"):
        Stagnation(1, after=0)
    with pytest.raises(ConfigError, match="max_requery is -1"):
        Stagnation(1, max_requery=-1)
    with pytest.raises(StateError, match="counts 2 key states, this one 1"):
        Stagnation(1).load_state_dict(Stagnation(2).state_dict())
