"""Run folder, statistics and report writer."""

import doctest
import importlib
import json
import os
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lowmem_bp
from lowmem_bp import _kit
from lowmem_bp._kit import files, report, run, seeded, stats
from lowmem_bp._kit.errors import KitError, ReportError, RunFolderError, ScoreError
from lowmem_bp._kit.invoke import invoke


@pytest.mark.parametrize("module", [run, report, stats], ids=lambda module: module.__name__)
def test_docstring_examples(module):
    assert doctest.testmod(module).failed == 0


def test_importing_the_kit_imports_no_plotting_and_no_torch():
    code = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('kit', {_kit.__file__!r},"
        f" submodule_search_locations={list(_kit.__path__)!r})\n"
        "module = u.module_from_spec(spec); sys.modules['kit'] = module\n"
        "spec.loader.exec_module(module)\n"
        "assert module.Report and not {'torch', 'matplotlib', 'scipy'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_command_called_within_this_process_leaves_nothing_behind(tmp_path):
    (tmp_path / "module_of_a_user.py").write_text("name = 'user'\n")
    found = []

    def main():
        sys.path.append(str(Path.cwd()))
        os.environ["LEFT_BEHIND"] = "1"
        warnings.simplefilter("error")
        found.append(importlib.import_module("module_of_a_user").name)
        print(*sys.argv[1:], os.environ["GIVEN"])
        print("wrong", file=sys.stderr)
        raise SystemExit(3)

    def state():
        return Path.cwd(), dict(os.environ), list(sys.path), sys.argv, list(warnings.filters)

    before = state()
    done = invoke(main, ["a", 1], folder=tmp_path, environment={"GIVEN": "2"})
    assert (done.code, done.stdout, done.stderr) == (3, "a 1 2\n", "wrong\n")
    assert found == ["user"]
    assert state() == before
    assert "module_of_a_user" not in sys.modules


def test_errors_are_also_the_built_in_kinds():
    assert issubclass(RunFolderError, KitError)
    assert issubclass(RunFolderError, FileExistsError)
    assert issubclass(ScoreError, ValueError)
    assert issubclass(ReportError, ValueError)


# --- run folder -------------------------------------------------------------------------------


def test_metrics_are_one_object_per_record(tmp_path):
    folder = _kit.RunFolder(tmp_path / "new" / "run")
    folder.log(0, "loss", 2.5)
    folder.log(1, "loss", torch.tensor(1.25))
    folder.log(1, "bytes", np.int64(7))
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [set(record) for record in records] == [{"step", "wall_s", "name", "value"}] * 3
    values = [(record["step"], record["name"], record["value"]) for record in records]
    assert values == [(0, "loss", 2.5), (1, "loss", 1.25), (1, "bytes", 7.0)]
    assert 0 <= records[0]["wall_s"] <= records[2]["wall_s"]


def test_metrics_that_are_not_finite_survive_as_valid_json(tmp_path):
    folder = _kit.RunFolder(tmp_path)
    for value in (float("nan"), float("inf"), -float("inf")):
        folder.log(0, "loss", value)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    values = [record["value"] for record in _kit.read_metrics(tmp_path)]
    np.testing.assert_array_equal(values, [np.nan, np.inf, -np.inf])


def test_a_record_that_was_cut_off_is_left_out(tmp_path):
    folder = _kit.RunFolder(tmp_path)
    folder.log(0, "loss", 1.0)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 1, "wa')
    assert [record["step"] for record in _kit.read_metrics(tmp_path)] == [0]


def test_a_resumed_run_goes_on_after_the_last_whole_record(tmp_path):
    _kit.RunFolder(tmp_path).log(0, "loss", 1.0)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 1, "wa')
    _kit.RunFolder(tmp_path, resume=True).log(1, "loss", 2.0)
    assert [record["value"] for record in _kit.read_metrics(tmp_path)] == [1.0, 2.0]


def test_summary_says_how_to_get_the_results_again(tmp_path):
    folder = _kit.RunFolder(tmp_path)
    results = {
        "ratio": np.float32(0.5),
        "curve": np.arange(3),
        "worst": float("nan"),
        "where": tmp_path,
        "nested": [{"ok": True, "tensor": torch.ones(2)}],
    }
    path = folder.write_summary(results, settings={"lr": 0.1}, seed=3)
    summary = json.loads(path.read_text())
    assert path == tmp_path / "summary.json"
    assert summary["results"] == {
        "ratio": 0.5,
        "curve": [0, 1, 2],
        "worst": "nan",
        "where": str(tmp_path),
        "nested": [{"ok": True, "tensor": [1.0, 1.0]}],
    }
    assert summary["seed"] == 3
    assert summary["settings"] == {"lr": 0.1}
    assert summary["versions"]["lowmem_bp"] == lowmem_bp.__version__
    assert summary["versions"]["torch"] == torch.__version__
    assert summary["versions"]["numpy"] == np.__version__
    assert summary["device"]["device"] == "cpu"
    assert summary["device"]["threads"] == torch.get_num_threads()
    assert summary["command"]
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")]


def test_summary_names_commit_and_changes(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=checkout, check=True)

    def state(name):
        path = _kit.RunFolder(tmp_path / name).write_summary({})
        return json.loads(path.read_text())["git"]

    checkout = tmp_path / "checkout"
    checkout.mkdir()
    try:
        git("init", "--quiet")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    # The folder for temporary files may itself lie in a checkout.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert state("outside") is None
    (checkout / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.chdir(checkout)
    clean = state("clean")
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    _kit.RunFolder(checkout / "results").write_summary({})
    assert state("beside results of its own") == clean
    git("add", "results")
    git("commit", "--quiet", "-m", "results")
    path = _kit.RunFolder(checkout / "results", overwrite=True).write_summary({})
    clean = json.loads(path.read_text())["git"]
    assert clean["dirty"] is False
    (checkout / "file").write_text("2")
    assert state("changed") == {"commit": clean["commit"], "dirty": True}


def test_a_folder_with_content_is_refused_and_left_alone(tmp_path):
    old = tmp_path / "metrics.jsonl"
    old.write_text("old")
    with pytest.raises(RunFolderError, match="not empty") as caught:
        _kit.RunFolder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert old.read_text() == "old"
    _kit.RunFolder(tmp_path, overwrite=True)
    assert not old.exists()


def test_a_file_in_the_place_of_the_folder_is_refused_even_when_overwriting(tmp_path):
    path = tmp_path / "file"
    path.write_text("keep")
    with pytest.raises(RunFolderError, match="is a file"):
        _kit.RunFolder(path, overwrite=True)
    assert path.read_text() == "keep"


def test_failed_write_keeps_the_old_file_and_no_scratch_file(tmp_path):
    path = files.write_text_atomic(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- statistics -------------------------------------------------------------------------------

scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def test_iqm_of_known_values():
    assert _kit.iqm([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    assert _kit.iqm([5.0]) == 5.0
    assert _kit.iqm([1, 2, 9]) == 4.0  # too few to leave out any


@given(scores)
def test_iqm_is_scipys_trimmed_mean(values):
    trim_mean = pytest.importorskip("scipy.stats").trim_mean
    assert _kit.iqm(values) == pytest.approx(trim_mean(values, 0.25), rel=1e-12, abs=1e-9)


@given(scores)
def test_iqm_lies_between_the_extremes_and_ignores_order(values):
    assert min(values) - 1e-9 <= _kit.iqm(values) <= max(values) + 1e-9
    assert _kit.iqm(values) == _kit.iqm(values[::-1])


def test_iqm_along_an_axis():
    table = np.random.default_rng(0).normal(size=(5, 9))
    np.testing.assert_allclose(_kit.iqm(table, axis=1), [_kit.iqm(row) for row in table])
    np.testing.assert_allclose(_kit.iqm(table, axis=0), [_kit.iqm(row) for row in table.T])


def test_interval_is_repeatable_and_takes_a_generator():
    values = np.random.default_rng(1).normal(size=10)
    first = _kit.bootstrap_interval(values, seed=3)
    assert first == _kit.bootstrap_interval(values, seed=3)
    assert first == _kit.bootstrap_interval(values, seed=np.random.default_rng(3))
    assert first != _kit.bootstrap_interval(values, seed=4)


def test_interval_of_the_mean_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = _kit.bootstrap_interval(
            generator.normal(size=30), statistic=_kit.mean, draws=400, seed=generator
        )
        inside += low <= 0 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_bootstrap_is_stratified_by_task():
    """Tasks far apart widen nothing: only the spread of the runs within a task counts."""
    values = np.random.default_rng(2).normal(size=(2, 10))
    low, high = _kit.bootstrap_interval(values, statistic=_kit.mean)
    shifted = _kit.bootstrap_interval(np.add(values, [[0], [1000]]), statistic=_kit.mean)
    assert shifted[1] - shifted[0] == pytest.approx(high - low, rel=1e-6)


def test_summary_of_one_task_and_of_one_run():
    summary = _kit.summarize([1.0, 2.0, 3.0, 4.0])
    assert (summary.mean, summary.iqm, summary.runs, summary.tasks) == (2.5, 2.5, 4, 1)
    assert 1 <= summary.low <= 2.5 <= summary.high <= 4
    text = str(summary)
    assert "mean 2.5" in text
    assert "IQM 2.5" in text
    assert "4 seeds" in text
    single = _kit.summarize([7.0])
    assert (single.mean, single.iqm) == (7.0, 7.0)
    assert np.isnan([single.low, single.high]).all()
    assert "no interval" in str(single)


def test_paired_difference_is_free_of_what_the_pairs_share():
    generator = np.random.default_rng(0)
    shared = generator.normal(scale=100, size=8)
    ours = shared + 1 + generator.normal(scale=0.1, size=8)
    difference = _kit.paired_difference(ours, shared)
    assert 0.8 < difference.low < 1 < difference.high + 0.2
    assert difference.low > 0
    assert difference.high - difference.low < 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "not empty"),
        (np.zeros((2, 2, 2)), "shape"),
        (1.0, "shape"),
        ([1.0, float("nan")], "diverged"),
    ],
    ids=["empty", "3d", "0d", "nan"],
)
def test_bad_scores_are_refused(bad, message):
    with pytest.raises(ScoreError, match=message):
        _kit.summarize(bad)


def test_bad_arguments_of_the_statistics_are_refused():
    with pytest.raises(ScoreError, match="confidence is 95"):
        _kit.bootstrap_interval([1, 2], confidence=95)
    with pytest.raises(ScoreError, match="draws is 0"):
        _kit.bootstrap_interval([1, 2], draws=0)
    with pytest.raises(ScoreError, match="same seeds"):
        _kit.paired_difference([1, 2], [1, 2, 3])


# --- report -----------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that elements are closed in order."""

    VOID = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], "", []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_text_is_escaped_everywhere():
    attack = '<script>alert("x")</script>'
    page = _kit.Report(attack).heading(attack).paragraph(attack).preformatted(attack)
    page.table([attack], [[attack]], attack)
    outline = Outline(page.html())
    assert "script" not in outline.tags
    assert outline.text.count(attack) == 8  # title twice, heading, two texts, caption, column, cell


def test_table_shows_numbers_for_people():
    page = _kit.Report("t").table(
        ["name", "value"], [["a", 0.123456], ["b", np.float32(123456.7)], ["c", 12], ["d", None]]
    )
    text = page.html()
    assert '<td class="number">0.1235</td>' in text
    assert '<td class="number">123457</td>' in text
    assert '<td class="number">12</td>' in text
    assert "<td></td>" in text
    assert "<th>name</th>" in text


def test_row_of_another_length_is_refused():
    with pytest.raises(ReportError, match="2 cells and the table 1 columns"):
        _kit.Report("t").table(["a"], [[1, 2]])


def test_empty_lines_separate_paragraphs():
    assert Outline(_kit.Report("t").paragraph("one\n\ntwo").html()).tags.count("p") == 2


def test_preformatted_text_keeps_its_lines():
    assert Outline(_kit.Report("t").preformatted("a  b\n  c").html()).text.count("a  b\n  c") == 1


def test_figures_are_inline_and_load_nothing(tmp_path):
    figure_module = pytest.importorskip("matplotlib.figure")
    figure = figure_module.Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [1, 0], label="a < b")
    axes.imshow(np.eye(3))
    axes.legend()
    page = _kit.Report("Curves").figure(figure, "loss & step").figure(figure, "again")
    text = page.write(tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.tags.count("svg") == 2
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    loading = {"src", "href", "xlink:href", "data", "action"}
    targets = [value for name, value in outline.attributes if name in loading]
    assert targets
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert "<?xml" not in text
    assert "loss & step" in outline.text
    # Two pictures on a page must not clip each other: the names they refer to differ.
    clips = [value for name, value in outline.attributes if name == "id" and value[0] == "p"]
    named = [clip for clip in clips if not clip.startswith("patch") and clip != "pane"]
    assert len(named) == len(set(named))


def test_report_is_the_same_each_time():
    figure_module = pytest.importorskip("matplotlib.figure")

    def make():
        figure = figure_module.Figure()
        figure.subplots().plot([1, 2, 3])
        return _kit.Report("r").figure(figure, "c").html()

    assert make() == make()


# --- seeds ---


def test_seeded_gives_the_same_draws_and_leaves_all_generators_alone(monkeypatch):
    moved = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", moved.append)
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with seeded(3):
        assert torch.equal(torch.rand(4), first)
    with seeded(4):
        assert not torch.equal(torch.rand(4), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not moved
