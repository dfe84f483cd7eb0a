"""Tree, graph and chain against plain counts over all episodes."""

import json
import math
import pickle
import warnings
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemae import ksmt
from lemae.errors import ConfigError, IntegrityError, LemaeWarning, StateError
from lemae.ksmt import KSMT, ChainMemory, DagMemory, load_memory, make_memory

K = 4
KINDS = ["tree", "dag", "chain"]

ORDERS = st.lists(st.integers(0, K - 1), unique=True, max_size=K).map(tuple)
#: Episodes: (order, success, step).
EPISODES = st.lists(st.tuples(ORDERS, st.booleans(), st.integers(0, 99)), max_size=12)


def remembered(episodes, kind="tree", **options):
    memory = make_memory(kind, K, **options)
    for order, success, step in episodes:
        memory.insert(order, success=success, step=step)
    return memory


def tree(*orders, success=()):
    """A tree of failed and of successful orders."""
    memory = KSMT(K)
    for order in orders:
        memory.insert(order, success=False)
    for order in success:
        memory.insert(order, success=True)
    return memory


def merged(*memories):
    def add(one, other):
        one.merge(other)
        return one

    return reduce(add, memories)


def copy(memory):
    return type(memory).from_json(memory.to_json())


# --- the tree ------------------------------------------------------------------------------------


@given(episodes=EPISODES, query=ORDERS)
def test_a_node_counts_the_orders_that_begin_with_it(episodes, query):
    memory = remembered(episodes)
    there = [e for e in episodes if e[0][: len(query)] == query]
    assert memory.contains(query) == (bool(there) or query == ())
    visits, successes, first_step, total = memory.info(query)
    assert (visits, successes) == (len(there), sum(e[1] for e in there))
    assert first_step == min((e[2] for e in there), default=None)
    assert total == len(episodes)
    following = {e[0][len(query)] for e in there if len(e[0]) > len(query)}
    assert memory.children(query) == tuple(sorted(following))
    assert memory.degree(query) == len(following)
    prefixes = {e[0][:depth] for e in episodes for depth in range(K + 1)} | {()}
    assert [order for order, _ in memory.walk()] == sorted(prefixes, key=lambda p: (len(p), p))
    assert len(memory) == len(prefixes) - 1


@given(episodes=EPISODES, query=ORDERS)
def test_a_node_of_the_graph_counts_sets(episodes, query):
    memory = remembered(episodes, "dag")
    depth = len(query)
    there = [e for e in episodes if set(e[0][:depth]) == set(query) and len(e[0]) >= depth]
    assert memory.contains(query) == (bool(there) or query == ())
    assert memory.info(query)[:2] == (len(there), sum(e[1] for e in there))
    assert memory.children(query) == tuple(
        sorted({e[0][depth] for e in there if len(e[0]) > depth})
    )


def test_insert_tells_whether_a_node_is_new():
    memory = KSMT(K)
    assert memory.insert((0, 1), success=False)
    assert not memory.insert((0,), success=False)
    assert not memory.insert((), success=True)
    assert memory.insert((1, 0), success=False)
    graph = DagMemory(K)
    assert graph.insert((0, 1), success=False)
    assert graph.insert((1,), success=False)
    assert not graph.insert((1, 0), success=False)


def test_solved_is_any_success():
    memory = tree((0,))
    assert not memory.solved
    memory.insert((), success=True)
    assert memory.solved


# --- what to plan --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "goals"),
    [
        ((), (0, 1)),  # children of the root
        ((0,), (1, 2)),
        ((1,), (2,)),
        ((0, 1), (2,)),  # a leaf: everything in the tree that was not met
        ((1, 2), (0,)),
        ((0, 2, 1), ()),  # nothing is left
        ((0, 1, 2), ()),  # off the tree below a leaf: nothing is left
        ((1, 0), (2,)),  # off the tree below (1,): what follows there
        ((2,), (0, 1)),  # off the tree at once: what follows the root
        ((2, 0), (1,)),  # but not what was met
        ((3, 2), (0, 1)),
        ((1, 2, 3), (0,)),  # the deepest node is a leaf
    ],
)
def test_goals_after_an_order(order, goals):
    memory = tree((0, 1), (0, 2, 1), (1, 2))
    assert memory.candidates(order) == goals


def test_the_deepest_node_on_the_way_comes_before_the_root():
    memory = tree((0, 1), (2, 3))
    assert memory.candidates((0, 2)) == (1,)
    assert memory.candidates((2, 0, 1)) == (3,)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_memory_has_no_goals(kind):
    memory = make_memory(kind, K)
    assert memory.candidates(()) == memory.candidates((1,)) == memory.children(()) == ()
    assert memory.contains(())
    assert not memory.contains((1,))


@given(episodes=EPISODES, query=ORDERS, kind=st.sampled_from(KINDS), pruned=st.booleans())
def test_goals_are_known_allowed_and_not_met(episodes, query, kind, pruned):
    memory = remembered(episodes, kind)
    if pruned:
        memory.prune()
    known = {k for order, success, _ in episodes for k in order if success or not memory.pruned}
    goals = set(memory.candidates(query))
    assert goals <= known - set(query)
    assert bool(goals) == bool(known - set(query))


# --- pruning -------------------------------------------------------------------------------------


def test_pruning_hides_what_no_success_passed():
    memory = tree((0, 1), (2,), (1, 0), success=[(0, 3)])
    assert memory.allowed is None
    memory.prune()
    assert memory.allowed == {0, 3}
    assert [order for order, _ in memory.walk()] == [(), (0,), (0, 3)]
    assert memory.children(()) == (0,)
    assert not memory.contains((2, 1, 3))
    assert memory.info((3,)).visits == 0
    assert len(list(memory.walk(hidden=True))) == len(memory) + 1 == 7


def test_pruned_key_states_do_not_count_in_an_order():
    memory = tree((0, 1), (2,), success=[(0, 3)])
    memory.prune()
    assert memory.contains((1, 0, 2))
    assert memory.candidates((2, 0, 1)) == (3,)
    assert memory.info((2, 0)).successes == 1


def test_off_the_pruned_tree_the_deepest_node_says_what_to_plan():
    memory = tree((0, 3), success=[(0, 1), (2, 3)])
    memory.prune()
    assert memory.candidates((0, 3)) == (1,)  # not 2, which comes first elsewhere
    assert memory.candidates((0, 2)) == (1,)
    assert memory.candidates((1,)) == (0, 2)
    assert memory.candidates((2, 3, 1)) == (0,)


def test_before_a_success_nothing_is_pruned():
    memory = tree((0, 1))
    memory.prune()
    assert not memory.pruned
    assert memory.contains((0, 1))


def test_later_successes_come_to_light():
    memory = tree((1, 2), success=[(0,)])
    memory.prune()
    memory.insert((1, 2), success=True)
    assert memory.allowed == {0, 1, 2}
    assert memory.children(()) == (0, 1)
    assert memory.info((1, 2)) == (2, 1, None, 3)


@pytest.mark.parametrize("kind", ["dag", "chain"])
def test_the_relatives_prune_as_well(kind):
    memory = make_memory(kind, K)
    for order, success in [((0, 1), False), ((2, 0), True), ((0, 2), False)]:
        memory.insert(order, success=success)
    memory.prune()
    assert memory.allowed == {0, 2}
    assert memory.contains((2, 1, 0))
    assert memory.candidates((2,)) == (0,)
    assert memory.candidates((1, 0)) == (2,)
    assert memory.children((0, 2)) == ()


# --- the single branch ---------------------------------------------------------------------------


def test_the_branch_is_in_the_order_of_the_chains():
    memory = ChainMemory(K)
    for _ in range(3):
        memory.insert((2, 0), success=False)
    assert memory.ranking == (2, 0, 1, 3)
    assert memory.children(()) == memory.candidates(()) == (2,)
    assert memory.children((2,)) == (0,)
    assert memory.children((0,)) == (2,)
    assert memory.degree((0, 2)) == 0  # all that was ever met: a leaf
    assert memory.contains((0, 2))
    assert not memory.contains((1,))
    assert memory.info((2, 0)) == (3, 0, None, 3)


def test_the_priority_is_a_moving_average():
    rate, orders = 0.05, [(0, 1, 2), (1, 0), (2,), (1, 2, 0)]
    memory = ChainMemory(K, rate=rate)
    for order in orders:
        memory.insert(order, success=False)
    for k in range(3):
        places = [order.index(k) / K for order in orders if k in order]
        weights = [rate * (1 - rate) ** age for age in reversed(range(len(places)))]
        assert memory._priority(k)[0] == pytest.approx(np.average(places, weights=weights))


def test_the_order_follows_the_policy():
    memory = ChainMemory(2)
    for _ in range(100):
        memory.insert((0, 1), success=False)
    insertions = 0
    while memory.ranking == (0, 1):
        memory.insert((1, 0), success=False)
        insertions += 1
    # The weight of the old order, 0.95 ** n, falls below a half at n = 14.
    assert insertions == 14


def test_the_branch_tells_what_is_new():
    memory = ChainMemory(K)
    assert memory.insert((0, 1), success=False, step=7)
    assert not memory.insert((1, 0), success=True, step=3)
    assert memory.insert((0, 2), success=False, step=9)
    assert memory.info((0, 2)).first_step == 9
    assert memory.info((1,)) == (2, 1, 3, 3)
    assert memory.info(()) == (3, 1, None, 3)


# --- merging -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the .* memory has reached")
@pytest.mark.parametrize("kind", ["tree", "dag"])
@given(
    parts=st.lists(st.tuples(EPISODES, st.booleans()), min_size=3, max_size=3),
    max_nodes=st.sampled_from([2, 5, 1000]),
)
def test_merging_is_commutative_and_associative(kind, parts, max_nodes):
    def part(i):
        episodes, pruned = parts[i]
        memory = remembered(episodes, kind, max_nodes=max_nodes)
        if pruned:
            memory.prune()
        return memory

    left = merged(merged(part(0), part(1)), part(2)).to_json()
    assert merged(part(0), merged(part(1), part(2))).to_json() == left
    for path in [(2, 1, 0), (1, 2, 0), (2, 0, 1)]:
        assert merged(*map(part, path)).to_json() == left


@given(parts=st.lists(EPISODES, min_size=3, max_size=3))
def test_chains_merged_in_order_are_one_process_up_to_rounding(parts):
    one, two, three = (remembered(part, "chain") for part in parts)
    alone = remembered([episode for part in parts for episode in part], "chain").state_dict()
    left = merged(merged(copy(one), two), three).state_dict()
    right = merged(one, merged(two, three)).state_dict()
    for name, value in alone.items():
        wanted = pytest.approx(value) if name in ("totals", "weights") else value
        assert left[name] == wanted
        assert right[name] == wanted


def test_a_merged_chain_is_the_more_recent_one():
    def chain(order, count):
        return remembered([(order, False, 0)] * count, "chain")

    assert merged(chain((0, 1), 30), chain((1, 0), 20)).ranking[:2] == (1, 0)
    assert merged(chain((1, 0), 20), chain((0, 1), 30)).ranking[:2] == (0, 1)


@pytest.mark.parametrize("kind", ["tree", "dag"])
@given(episodes=EPISODES, workers=st.integers(1, 4))
def test_the_workers_memories_together_are_that_of_one_process(kind, episodes, workers):
    parts = [remembered(episodes[i::workers], kind) for i in range(workers)]
    assert merged(*parts).to_json() == remembered(episodes, kind).to_json()


def test_merging_changes_only_the_first():
    one, other = tree((0, 1)), tree((0, 2))
    before = other.to_json()
    one.merge(other)
    one.insert((0, 2, 3), success=True)
    assert other.to_json() == before
    assert one.children((0,)) == (1, 2)


def test_a_pruned_memory_prunes_what_it_is_merged_with():
    failed, won = tree((0, 1), (2,)), tree(success=[(0,)])
    won.prune()
    failed.merge(won)
    assert failed.children(()) == (0,)
    assert failed.info((0,)) == (2, 1, None, 3)


def test_only_like_is_merged():
    with pytest.raises(ConfigError, match=r"DagMemory .* into KSMT .*make both alike"):
        KSMT(K).merge(DagMemory(K))
    with pytest.raises(ConfigError, match="'n_key_states': 3"):
        KSMT(K).merge(KSMT(3))
    with pytest.raises(ConfigError, match="'max_nodes': 5"):
        KSMT(K).merge(KSMT(K, max_nodes=5))


# --- the cap -------------------------------------------------------------------------------------


def test_a_full_tree_warns_once_and_goes_on_as_a_branch():
    memory = KSMT(K, max_nodes=2)
    memory.insert((2, 0), success=False)
    with pytest.warns(LemaeWarning, match="has reached max_nodes=2.*single branch") as caught:
        memory.insert((2, 1, 0), success=False)
    assert caught[0].filename == __file__
    memory.insert((3, 1), success=False)  # an error if it warned again
    assert memory.full
    assert len(memory) == 2
    assert memory.children(()) == (2,)  # what it has, it answers like a tree
    assert memory.children((2,)) == (0,)
    assert not memory.contains((2, 1))
    # Mean places: 2 and 3 come first, then 1 (1 of 0..2), then 0 (1.5).
    assert memory.children((2, 1)) == memory.candidates((2, 1)) == (3,)
    assert memory.children((2, 1, 3)) == (0,)
    assert memory.degree((1, 2)) == 1
    assert memory.children((3, 2)) == (1,)
    assert memory.candidates((0, 1, 2, 3)) == ()


def test_a_full_tree_still_counts_and_prunes():
    memory = KSMT(K, max_nodes=1)
    memory.insert((0,), success=False)
    with pytest.warns(LemaeWarning, match="max_nodes=1"):
        memory.insert((1, 2), success=True)
    memory.prune()
    assert memory.allowed == {1, 2}
    assert memory.candidates((0,)) == (1,)
    assert memory.candidates((1,)) == (2,)


def test_a_full_graph_counts_the_nodes_it_has_below_one_it_lacks():
    graph = DagMemory(K, max_nodes=3)
    graph.insert((0, 1, 2), success=False)
    with pytest.warns(LemaeWarning, match="has reached max_nodes=3"):
        graph.insert((1, 0, 2), success=True, step=5)  # (1,) finds no room
    assert len(graph) == 3
    assert graph.info((1,)).visits == 0
    assert graph.info((0, 1)) == (2, 1, 5, 2)
    assert graph.info((0, 1, 2)) == (2, 1, 5, 2)


def test_a_merged_tree_over_the_cap_keeps_the_shallow_nodes():
    one, other = KSMT(K, max_nodes=3), KSMT(K, max_nodes=3)
    one.insert((3, 2, 1), success=False)
    other.insert((1,), success=False)
    with pytest.warns(LemaeWarning, match="max_nodes=3"):
        one.merge(other)
    assert [order for order, _ in one.walk()] == [(), (1,), (3,), (3, 2)]
    assert one.children((3, 2)) == (1,)  # its child was cut: the branch answers
    saved = {tuple(key): children for key, *_, children in one.state_dict()["nodes"]}
    assert saved == {(): [1, 3], (1,): [], (3,): [2], (3, 2): []}


@pytest.mark.parametrize("kind", ["tree", "dag"])
def test_exactly_full_is_not_over_the_cap(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory = make_memory(kind, K, max_nodes=2)
        memory.insert((0, 1), success=False)
        memory.insert((0, 1), success=False)
    assert not memory.full


# --- saving --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the .* memory has reached")
@given(
    episodes=EPISODES,
    more=EPISODES,
    kind=st.sampled_from(KINDS),
    max_nodes=st.sampled_from([3, 1000]),
    pruned=st.booleans(),
)
def test_a_saved_memory_goes_on_the_same(episodes, more, kind, max_nodes, pruned):
    one = remembered(episodes, kind, max_nodes=max_nodes)
    if pruned:
        one.prune()
    other = copy(one)
    third = make_memory(kind, K, max_nodes)
    third.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for memory in (one, other, third):
        for order, success, step in more:
            memory.insert(order, success=success, step=step)
    assert one.to_json() == other.to_json() == third.to_json()
    assert {order: one.candidates(order) for order, _, _ in episodes} == {
        order: other.candidates(order) for order, _, _ in episodes
    }


def test_files_of_any_kind_are_read(tmp_path):
    for kind in KINDS:
        memory = remembered([((0, 1), True, 3)], kind)
        memory.save(tmp_path / "memory.json")
        again = load_memory(tmp_path / "memory.json")
        assert type(again) is type(memory)
        assert again.to_json() == memory.to_json()
        assert type(memory).load(tmp_path / "memory.json").to_json() == memory.to_json()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"episodes": 1', '"episodes": 2'),
        lambda text: text.replace('"pruned": false', '"pruned": true'),
        lambda text: text.replace('"format": 1', '"format": 2'),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "tree.json"
    tree((0, 1)).save(path)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    for load in (KSMT.load, load_memory):
        with pytest.raises(IntegrityError, match="restore it from a copy"):
            load(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "tree.json").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(IntegrityError, match="is no text"):
        KSMT.load(tmp_path / "tree.json")


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tree.json"
    old = tree((0,))
    old.save(path)

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        tree((1,)).save(path)
    monkeypatch.undo()
    assert KSMT.load(path).to_json() == old.to_json()
    assert [p.name for p in tmp_path.iterdir()] == ["tree.json"]


def test_numbers_of_numpy_are_saved_as_plain_ones():
    memory = KSMT(K)
    memory.insert(np.array([1, 2]), success=np.True_, step=np.int64(5))
    plain = KSMT(K)
    plain.insert((1, 2), success=True, step=5)
    assert memory.to_json() == plain.to_json()


def test_a_state_of_something_else_is_refused():
    saved = remembered([((0,), False, 0)], "dag")
    with pytest.raises(StateError, match=r"a dag memory.*DagMemory, or with load_memory"):
        KSMT.from_json(saved.to_json())
    with pytest.raises(StateError, match="this is a tree memory"):
        KSMT(K).load_state_dict(saved.state_dict())
    with pytest.raises(StateError, match="'max_nodes': 7"):
        KSMT(K, max_nodes=7).load_state_dict(KSMT(K).state_dict())


def test_a_whole_file_that_holds_no_memory(tmp_path):
    for state in ([], {"kind": "forest"}, {"kind": "tree", "limits": {"size": 3}}):
        text = json.dumps({"format": 1, "sha256": ksmt._digest(state), "memory": state})
        with pytest.raises(StateError, match="does not fit any tree memory"):
            KSMT.from_json(text)
        (tmp_path / "memory.json").write_text(text)
        with pytest.raises(StateError, match="does not fit any"):
            load_memory(tmp_path / "memory.json")
    with pytest.raises(IntegrityError, match="cut off or damaged"):
        KSMT.from_json("[" * 100_000)


def test_wrong_arguments_say_what_to_give():
    with pytest.raises(ConfigError, match="memory is 'forest': give one of chain, dag, tree"):
        make_memory("forest", K)
    for max_nodes in (0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"max_nodes is {max_nodes}"):
            KSMT(K, max_nodes=max_nodes)
    with pytest.raises(ConfigError, match="n_key_states is -1"):
        ChainMemory(-1)
    with pytest.raises(ConfigError, match="rate is 0"):
        ChainMemory(K, rate=0)
    memory = KSMT(K)
    for order in [(0, 0), (4,), (-1,), (0.5,), ("a",)]:
        with pytest.raises(ConfigError, match="different numbers from 0 to 3"):
            memory.insert(order, success=False)
    for success in (-1, 2, math.nan, "no", [True, False]):
        with pytest.raises(ConfigError, match=r"success is .*: give True or False"):
            memory.insert((0,), success=success)
    with pytest.raises(ValueError, match="soon"):
        memory.insert((0,), success=False, step="soon")
    assert memory.to_json() == KSMT(K).to_json()  # nothing was counted


# --- further key states --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(before=EPISODES, after=EPISODES)
def test_further_key_states_leave_what_is_known(kind, before, after):
    """As if there had been so many from the start."""
    grown = remembered(before, kind)
    grown.add_key_states(2)
    wide = make_memory(kind, K + 2)
    for order, success, step in before:
        wide.insert(order, success=success, step=step)
    for memory in (grown, wide):
        for order, success, step in after:
            memory.insert((*order, K + 1), success=success, step=step)
    found, wanted = grown.state_dict(), wide.state_dict()
    for name, value in wanted.items():
        assert found[name] == (pytest.approx(value) if name == "totals" else value)


def test_no_fewer_key_states():
    with pytest.raises(ConfigError, match="count is -1"):
        KSMT(K).add_key_states(-1)
