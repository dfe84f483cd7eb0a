"""Run folders, tables and reports, and choosing settings without a look at the test part."""

import json
from html.parser import HTMLParser

import pytest
import torch

from go4align import bench, group_costs, runs, toy_bench
from go4align import report as reports
from go4align._kit import RunFolderError
from go4align.errors import ConfigError, DataError
from go4align.tasks.multimnist import MultiMNIST
from go4align.training import STL, Result

NAMES = {"a": True, "b": False}


def write(folder, method, seed, metrics, seconds=0.1, losses=()):
    run = runs.Run(folder, benchmark="made", method=method, tasks=["x", "y"], seed=seed)
    for step, row in enumerate(losses):
        weights = torch.tensor([1.0, 2.0]) if method.startswith("go4align") else None
        groups = torch.tensor([0, 1]) if method.startswith("go4align") else None
        run.step(step, torch.tensor(row), weights, groups)
    run.finish(dict(zip(NAMES, metrics, strict=True)), NAMES, seconds)
    return run


@pytest.fixture
def results(tmp_path):
    losses = [(1.0, 4.0), (0.9, 3.0), (0.7, 2.5)]
    for seed, shift in enumerate((0.0, 0.1)):
        write(tmp_path / "stl" / f"{seed}", "stl", seed, (1.0 + shift, 2.0))
        write(tmp_path / "ls" / f"{seed}", "ls", seed, (0.5, 2.0), 0.1, losses)
        write(tmp_path / "go" / f"{seed}", "go4align", seed, (1.0, 1.0), 0.11, losses)
    return tmp_path


# --- run folders ------------------------------------------------------------------------------


def test_a_run_can_be_read_back(tmp_path):
    write(tmp_path / "r", "go4align", 3, (1.0, 2.0), losses=[(1.0, 2.0), (0.5, 1.5)])
    (summary,) = runs.load(tmp_path)
    assert summary["seed"] == 3
    assert summary["results"]["metrics"] == {"a": 1.0, "b": 2.0}
    assert runs.curves(tmp_path / "r", "loss") == {
        "x": ([0, 1], [1.0, 0.5]),
        "y": ([0, 1], [2.0, 1.5]),
    }
    assert runs.curves(tmp_path / "r", "group")["y"] == ([0, 1], [1.0, 1.0])


def test_runs_are_not_mixed_but_can_go_on(tmp_path):
    write(tmp_path, "ls", 0, (1.0, 2.0), losses=[(1.0, 2.0)])
    with pytest.raises(RunFolderError, match="not empty"):
        write(tmp_path, "ls", 0, (1.0, 2.0))
    again = runs.Run(tmp_path, benchmark="made", method="ls", tasks=["x", "y"], seed=0, resume=True)
    again.step(1, [torch.tensor(3.0), torch.tensor(4.0)])
    assert runs.curves(tmp_path, "loss")["x"] == ([0, 1], [1.0, 3.0])


def test_nothing_to_load(tmp_path):
    with pytest.raises(DataError, match="no finished run"):
        runs.load(tmp_path)


# --- tables -----------------------------------------------------------------------------------


def test_changes_are_taken_in_pairs_of_equal_seed(results):
    rows = {row.method: row for row in reports.table(runs.load(results))}
    assert list(rows) == ["go4align", "ls", STL]
    ls, ours = rows["ls"], rows["go4align"]
    # Against 1.0 and 1.1, higher is better: worse by 50 % and 54.5 %; b is level.
    assert ls.delta_m.mean == pytest.approx((25 + 600 / 11 / 2) / 2)
    assert ours.minus_ls.mean == pytest.approx(ours.delta_m.mean - ls.delta_m.mean)
    assert (ours.rank, ls.rank) == (1.0, 2.0)
    assert ours.cost == pytest.approx(1.1)
    assert rows[STL].delta_m is None
    assert rows[STL].rank is None


def test_a_diverged_run_is_counted_and_left_out(results):
    write(results / "ls" / "9", "ls", 9, (float("nan"), 1.0))
    rows = {row.method: row for row in reports.table(runs.load(results))}
    assert rows["ls"].diverged == 1
    assert rows["ls"].delta_m.runs == 2
    assert "1 of them diverged" in reports.cells(rows["ls"])[-1]


def test_a_method_that_always_diverged_has_no_numbers(results):
    write(results / "uw" / "0", "uw", 0, (float("nan"), float("inf")))
    rows = {row.method: row for row in reports.table(runs.load(results))}
    assert rows["uw"].delta_m is None
    assert rows["uw"].rank is None
    assert reports.cells(rows["uw"])


def test_without_single_task_runs_there_are_ranks_and_costs(results):
    summaries = [run for run in runs.load(results) if run["results"]["method"] != STL]
    rows = reports.table(summaries)
    assert all(row.delta_m is None and row.rank for row in rows)


def test_two_benchmarks_do_not_go_into_one_table(results):
    run = runs.Run(results / "o", benchmark="other", method="ls", tasks=["x"], seed=0)
    run.finish({"a": 1.0}, {"a": True}, 0.1)
    with pytest.raises(ConfigError, match="several benchmarks"):
        reports.table(runs.load(results))


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_report_has_tables_and_pictures_and_loads_nothing(results):
    pytest.importorskip("matplotlib")
    path = reports.write_report(results)
    page = Page(path.read_text(encoding="utf-8"))
    assert path == results / "report.html"
    assert page.tags.count("table") == 2
    assert page.tags.count("figure") == 3  # Δm, and the history of LS and of GO4Align
    assert "script" not in page.tags
    assert "go4align, seed 0" in page.text


# --- choosing K -------------------------------------------------------------------------------


def test_cost_of_every_number_of_groups(tmp_path):
    """Losses (1, 1, 4): beta 0 leaves two different logarithms, so that two groups explain all."""
    run = runs.Run(tmp_path, benchmark="made", method="ls", tasks=list("xyz"), seed=0)
    for step in range(3):
        run.step(step, [torch.tensor(value) for value in (1.0, 1.0, 4.0)])
    found = group_costs.over_run(tmp_path, beta=0.0)
    assert found["records"] == 3
    means = [row["mean"] for row in found["unexplained"].values()]
    assert means == pytest.approx([1, 0, 0], abs=1e-12)


def test_groups_needs_losses(tmp_path):
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        group_costs.over_run(tmp_path)
    run = runs.Run(tmp_path, benchmark="made", method="ls", tasks=["x"], seed=0)
    run.metric(0, "test/acc", 0.5)
    with pytest.raises(DataError, match="has no losses: write a line for each"):
        group_costs.over_run(tmp_path)
    run.step(1, [torch.tensor(-1.0)])
    with pytest.raises(ConfigError, match="not positive"):
        group_costs.over_run(tmp_path)
    with pytest.raises(ConfigError, match="space"):
        group_costs.over_run(tmp_path, space="cubic")


# --- choosing settings ------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch):
    """Training replaced by a formula: best at lr 1e-2 and two groups; the test part misleads."""
    calls = []

    def fake(here, settings, seed, run=None, **more):
        calls.append((settings, seed))
        names = ("left accuracy", "right accuracy", "ink MAE")
        if settings.lr == 0.1:
            nothing = dict.fromkeys(names, float("nan"))
            return Result(nothing, nothing, 0.1, 1)
        distance = abs(settings.lr - 1e-2) * 10 + 0.1 * abs(settings.options.get("n_groups", 2) - 2)
        validation = dict.fromkeys(names, 1 - distance) | {"ink MAE": 1.0}
        return Result(validation, dict.fromkeys(names, distance), 0.1, 1)

    class Here:
        tasks = ("left", "right", "ink")
        epochs, schedule = 1, "cosine"
        metrics = MultiMNIST.metrics

    monkeypatch.setattr(bench, "problem", lambda name: Here)
    monkeypatch.setattr(bench, "train", fake)
    bench._problems.clear()
    yield calls
    bench._problems.clear()


def test_settings_are_chosen_on_validation_and_diverged_ones_never(scripted):
    chosen = bench.tune("multimnist", ["ls", "go4align"], "sgd")
    assert chosen["ls"]["lr"] == chosen["go4align"]["lr"] == 1e-2
    assert chosen["go4align"]["options"] == {"n_groups": 2}
    # K beyond the number of tasks is not tried.
    tried = {c["options"]["n_groups"] for c in chosen["go4align"]["candidates"]}
    assert tried == {2, 3}
    assert {seed for _, seed in scripted} == set(bench.TUNING_SEEDS)


def test_candidates_of_an_earlier_call_are_not_run_again(scripted):
    first = bench.tune("multimnist", ["ls"], "sgd")
    count = len(scripted)
    again = bench.tune("multimnist", ["ls", "si"], "sgd", known=first)
    assert again["ls"] == first["ls"]
    assert {settings.method for settings, _ in scripted[count:]} == {"si"}
    # Of another optimizer, they are.
    bench.tune("multimnist", ["ls"], "adam", known=first)
    assert scripted[-1][0].method == "ls"
    assert scripted[-1][0].optimizer == "adam"


def test_results_are_not_reported_on_seeds_that_settings_were_chosen_on(scripted, tmp_path):
    chosen = bench.tune("multimnist", ["ls"], "sgd", seeds=[3])
    with pytest.raises(ConfigError, match=r"seeds \[3\]"):
        bench.bench("multimnist", ["ls"], [2, 3], tmp_path, chosen, "sgd")


def test_the_best_learning_rate_is_not_at_the_end_of_the_grid(scripted, monkeypatch):
    """The formula's best is 1e-2: a grid that ends below is extended until it is inside."""
    monkeypatch.setitem(bench.LEARNING_RATES["multimnist"], "sgd", (0.00125, 0.0025))
    chosen = bench.tune("multimnist", ["ls"], "sgd")
    assert chosen["ls"]["lr"] == 0.01
    assert max(c["lr"] for c in chosen["ls"]["candidates"]) == 0.02
    assert 0.1 not in {c["lr"] for c in chosen["ls"]["candidates"]}


def test_finished_runs_of_other_settings_are_run_again_and_strange_files_are_kept(tmp_path):
    write(tmp_path / "r", "ls", 0, (1.0, 2.0))
    assert runs.finished(tmp_path / "r", {})
    assert not runs.finished(tmp_path / "r", {"lr": 1.0})
    (tmp_path / "r" / "thesis.txt").write_text("years")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        runs.Run(tmp_path / "r", benchmark="made", method="ls", tasks="xy", seed=0, overwrite=True)
    assert (tmp_path / "r" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("text", ["{bad", "[]", '{"results": {"method": "ls"}}', '{"results": 1}'])
def test_a_damaged_summary_is_named(results, text):
    (results / "ls" / "0" / "summary.json").write_text(text)
    with pytest.raises(DataError, match=r"ls.0.summary\.json"):
        runs.load(results)


def test_names_are_not_read_as_formulas_or_markup(results):
    pytest.importorskip("matplotlib")
    write(results / "x" / "0", "go4align $\\frac$ <b>", 0, (1.0, 1.0), losses=[(1.0, 4.0)])
    assert "<b>" not in reports.write_report(results).read_text(encoding="utf-8")


def test_unknown_label():
    with pytest.raises(ConfigError, match="unknown method 'adagrad'"):
        bench.entry("adagrad")


def test_packaged_choices_are_of_known_methods_with_their_options():
    for name in ("molecules", "multimnist"):
        for label, choice in bench.chosen_settings(name, "adam").items():
            assert 0 < choice["lr"] < 1
            assert choice["options"] in bench.entry(label).candidates(7)


# --- the landscape ----------------------------------------------------------------------------


def test_toy_writes_rows_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    rows, page = toy_bench.run(["ls", "go4align"], 20, tmp_path / "toy")
    assert [row["label"] for row in rows] == ["ls", "go4align"]
    saved = json.loads((tmp_path / "toy" / "summary.json").read_text())
    assert len(saved["results"]["rows"][0]["ends"]) == 5
    assert "<svg" in page.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown method"):
        toy_bench.run(["newton"], 20, tmp_path / "other")
