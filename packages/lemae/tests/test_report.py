"""Which runs are put in a row, and what is said of them."""

import json

import pytest

from lemae import _charts, report, runs
from lemae._kit import Report
from lemae.errors import ConfigError
from lemae.ksmt import KSMT, ChainMemory, DagMemory


def run(seed, first, win, **settings):
    return {
        "settings": {
            "task": "pass",
            "options": {},
            "steps": 1000,
            "method": "lemae",
            "algo": "ippo",
            "seed": seed,
            "sticky": None,
            **settings,
        },
        "results": {
            "first_success_step": first,
            "win_rate_sampled": win,
            "win_rate_greedy": 0.0,
            "seconds": 60.0,
            "steps": 1000,
        },
    }


def test_seeds_share_a_row_and_failures_count():
    (row,) = report.table([run(1, None, 0.0), run(0, 5000, 1.0), run(2, 9000, 0.5)])
    assert (row.task, row.method, row.seeds) == ("pass, 1k steps", "lemae-ippo", (0, 1, 2))
    assert row.first_success == (5000, None, 9000)
    assert (row.sampled.mean, row.minutes) == (0.5, 1.0)
    assert report.steps_text(row.first_success) == "9 (5 to none)"


def test_what_differs_is_told():
    rows = report.table(
        [run(0, 1, 1.0), run(0, 1, 0.5, sticky=6.0), run(0, 1, 0.2, options={"size": 50})]
    )
    assert [(row.task, row.method) for row in rows] == [
        ("pass, 1k steps", "lemae-ippo"),
        ("pass, 1k steps", "lemae-ippo, sticky 6.0"),
        ("pass, size=50, 1k steps", "lemae-ippo"),
    ]


def write(folder, summary):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def test_summaries_of_something_else_do_not_count(tmp_path):
    good = run(0, 5000, 1.0)
    good["results"]["curve"] = [{"step": 1000, "sampled": 1.0}]
    write(tmp_path / "run", good)
    for number, other in enumerate(
        ({"results": {"check": {}}, "settings": {"job": "demo"}}, [], 3)
    ):
        write(tmp_path / f"other-{number}", other)
    (found,) = report.load(tmp_path)
    assert found["folder"] == tmp_path / "run"
    assert found["settings"]["explore_until"] == 1  # of which that run did not know
    with pytest.raises(ConfigError, match=r"other-0 holds no finished run: `lemae train --out"):
        report.load(tmp_path / "other-0")
    (tmp_path / "run" / "summary.json").write_text('{"results"', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"summary\.json is damaged"):  # no seed is left out
        report.load(tmp_path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("settings", "seed", "0"),
        ("settings", "options", []),
        ("results", "win_rate_sampled", "high"),
        ("results", "seconds", None),
        ("results", "curve", [{"step": 1000}]),
        ("results", "curve", 3),
        ("results", "tree", {"memory": {"kind": "list"}}),
        ("results", "tree", {"memory": {"kind": "tree"}}),
        ("results", "tree", 3),
        ("results", "tree", json.loads(KSMT(2).to_json())),  # of other key states
    ],
)
def test_a_damaged_summary_is_named(part, name, value, tmp_path):
    one = run(0, 5000, 1.0)
    one["results"] |= {"curve": [{"step": 1000, "sampled": 1.0}], "key_states": ["door"]}
    one["results"]["tree"] = json.loads(KSMT(1).to_json())
    write(tmp_path / "good", one)
    assert len(report.load(tmp_path)) == 1
    one[part][name] = value
    write(tmp_path / "bad", one)
    with pytest.raises(ConfigError, match=r"bad/summary\.json is damaged .*: move it away"):
        report.load(tmp_path)


# --- pictures ------------------------------------------------------------------------------------

NAMES = ["door open", "one across", "both across"]


def memory(kind, *orders, success=False):
    made = kind(len(NAMES))
    for order in orders:
        made.insert(order, success=success)
    return made


def shown(tmp_path, made):
    """The texts of a picture of the memory, and the page around it."""
    pytest.importorskip("matplotlib")
    texts = []

    class Page(Report):
        def figure(self, figure, caption):
            axis = figure.axes[0]
            ticks = [label.get_text() for label in axis.get_yticklabels()]
            texts.append(([text.get_text() for text in axis.texts] + ticks, axis, caption))

    runs.write_arrays(tmp_path, {})
    one = run(0, 1, 1.0, memory=made.kind)
    one["results"].update(key_states=NAMES, tree=json.loads(made.to_json()))
    report.show(Page("page"), {**one, "folder": tmp_path}, "title")
    (found,) = texts
    return found


def test_a_graph_of_sets_is_drawn_with_all_its_nodes_and_edges(tmp_path):
    # (0, 2) is reached from 2 alone: its beginning, (0,), is no node.
    texts, axis, caption = shown(tmp_path, memory(DagMemory, (2, 0), (2, 0), (2, 1, 0)))
    drawn = {text.replace("\n", " ") for text in texts}
    assert drawn >= {
        "start 3",
        "both across 3",
        "door open + both across 2",
        "one across + both across 1",
        "door open + one across + both across 1",
    }
    assert len(axis.lines) == 5 - 1
    assert caption.startswith("title: orders in which key states were met, at the end; ")


def test_ways_that_meet_in_a_set_are_both_drawn(tmp_path):
    texts, axis, _ = shown(tmp_path, memory(DagMemory, (0, 1), (1, 0)))
    assert len(axis.lines) == 4
    assert "door open + one\nacross\n2" in texts
    places = {text.xy for text in axis.texts}
    assert len(places) == 4


def test_a_tree_has_an_edge_to_every_node(tmp_path):
    made = memory(KSMT, (0, 1, 2), (0, 2), (1,))
    made.insert((0, 1), success=True)
    texts, axis, caption = shown(tmp_path, made)
    assert len(axis.lines) == len(made)
    assert "one across\n2, 1 won" in texts
    assert "pruned" not in caption
    made.prune()
    texts, axis, caption = shown(tmp_path, made)
    assert len(axis.lines) == 2
    assert ", at the end, pruned; " in caption


def test_of_too_many_nodes_those_that_hang_together_are_drawn():
    pytest.importorskip("matplotlib")
    made = KSMT(40)
    for k in range(40):
        made.insert((k, (k + 1) % 40), success=False)
    nodes = dict(made.walk())
    figure = _charts.graph(nodes, report._edges(made), {node: str(node) for node in nodes})
    assert len(figure.axes[0].lines) == _charts.MOST_NODES - 1


def test_a_chain_is_drawn_as_ranks(tmp_path):
    made = memory(ChainMemory, (1, 0), (1, 0), success=True)
    texts, axis, caption = shown(tmp_path, made)
    assert texts == ["2, 2 won", "2, 2 won", "never met", "one across", "door open", "both across"]
    assert [bar.get_width() for bar in axis.patches] == [0, pytest.approx(1 / 3)]
    assert "mean place of each key state" in caption


def test_a_run_that_had_to_do_without_key_states_is_in_a_row_of_its_own(tmp_path):
    for seed, failure in ((0, None), (1, "no function can be used")):
        one = run(seed, 5000, 1.0)
        one["results"] |= {"curve": [{"step": 1000, "sampled": 1.0}], "failure": failure}
        write(tmp_path / f"seed-{seed}", one)
    found = {row["method"]: row["seeds"] for row in report.rows(tmp_path)}
    assert found == {"lemae-ippo": (0,), "lemae without key states-ippo": (1,)}
