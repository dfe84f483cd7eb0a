"""The command, in processes of its own."""

import json
import os
import subprocess
import sys

import pytest

GOOD = '''
def is_door_open(state):
    """The door is open while agent 0 is on the left."""
    return state[0] < 15 and state[1] >= 0 and state[4] == 1
'''


def run(*arguments, code=0, cwd=None, **env):
    done = subprocess.run(
        [sys.executable, "-m", "lemae", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **env},
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    return done


def test_help_does_not_load_torch():
    code = (
        "import sys, lemae.cli\n"
        "try: lemae.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout


def test_info_and_prompt():
    facts = json.loads(run("info", "--json").stdout)
    assert "secret-room" in facts["tasks"]
    assert "pass" in facts["key states"]
    assert "rnd" in facts["methods"]
    done = run("prompt", "--task", "pass", "--option", "size=40")
    assert "40 x 40" in done.stdout
    assert "tokens" in done.stderr


def test_check_accepts_and_rejects(tmp_path):
    path = tmp_path / "key_states.py"
    path.write_text(GOOD)
    done = run("check", path, "--task", "pass", "--probes", 64)
    assert "is_door_open (line 2): accepted" in done.stdout
    path.write_text(GOOD + "\ndef is_bad(state):\n    return open('x') == 1\n")
    done = run("check", path, "--task", "pass", "--probes", 64, code=1)
    assert "is_bad (line 6): rejected" in done.stdout
    assert "is_door_open (line 2): accepted" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "--task", "pas"], 2, "pass"),
        (["train", "--task", "pass", "--method", "lemea"], 2, "lemae"),
        (["train", "--task", "pass", "--seeds", "a"], 2, "0..4"),
        (["train", "--task", "pass", "--option", "size"], 2, "name=value"),
        (["train", "--task", "pass", "--key-states", "nowhere.py"], 2, "nowhere.py"),
        (["report", "."], 2, "no finished run"),
        (["check", "missing.py", "--task", "pass"], 1, "missing.py"),
        (["generate", "--task", "pass", "--model", "m", "--out", "o"], 1, "OPENAI_API_KEY"),
    ],
)
def test_bad_usage(arguments, code, says, tmp_path):
    if "generate" in arguments:
        pytest.importorskip("openai")
    done = run(*arguments, code=code, cwd=tmp_path, OPENAI_API_KEY="")
    assert says in done.stderr


def test_dry_run_asks_nobody(tmp_path):
    done = run(
        *("generate", "--task", "pass", "--model", "m", "--out", tmp_path / "o", "--dry-run"),
        OPENAI_API_KEY="",
    )
    assert "is_<name>(state)" in done.stdout
    assert not (tmp_path / "o").exists()


def test_train_is_resumable_and_reported(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["train", "--task", "pass", "--option", "size=10", "--method", "lemae,plain"]
    arguments += ["--seeds", "0,1", "--steps", 4800, "--out", tmp_path]
    rows = json.loads(run(*arguments, "--json").stdout)
    assert {row["method"] for row in rows} == {"lemae-ippo", "plain-ippo"}
    assert all(row["seeds"] == [0, 1] for row in rows)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 4
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    assert len(times) == 4
    run(*arguments)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo(tmp_path):
    pytest.importorskip("matplotlib")
    results = json.loads(run("demo", "--out", tmp_path / "d", "--json").stdout)
    assert results["lemae"]["win_rate_sampled"] >= 0.9
    assert (tmp_path / "d" / "report.html").is_file()
    (tmp_path / "d" / "mine.txt").write_text("keep me")
    run("demo", "--out", tmp_path / "d", code=2)
    assert (tmp_path / "d" / "mine.txt").exists()
