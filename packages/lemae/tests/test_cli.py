"""The command line, called within this process; what holds for all packages is tested apart."""

import inspect
import json
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from lemae import KeyStateSet, check, cli
from lemae._kit.invoke import invoke

GOOD = '''
def is_door_open(state):
    """The door is open while agent 0 is on the left."""
    return state[0] < 15 and state[1] >= 0 and state[4] == 1
'''


BARE = """
from lemae import envs

def Bare(num_envs):
    env = envs.make("pass", num_envs, size=10)
    del env.task_spec
    return env

def raises(num_envs):
    raise KeyError("not here")
"""


def run(*arguments, cwd=None, code=0, **environment):
    """The command in this process; tests of all packages together start it in its own."""
    quiet = {"NO_COLOR": "1", "TERM": "dumb"}
    done = invoke(cli.main, arguments, folder=cwd, environment={**quiet, **environment})
    assert code in (None, done.code), f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


def test_a_task_may_be_a_module_in_the_folder_at_hand(tmp_path):
    (tmp_path / "my_task.py").write_text(
        "from lemae import envs\n\ndef make(num_envs):\n"
        "    return envs.make('pass', num_envs=num_envs, size=10)\n",
        encoding="utf-8",
    )
    program = shutil.which("lemae", path=Path(sys.executable).parent)
    done = subprocess.run(
        [program, "prompt", "--task", "my_task:make"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "10" in done.stdout


@pytest.fixture
def without_matplotlib(monkeypatch):
    """As if it were not installed."""
    for name in ["matplotlib", *sys.modules]:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def key_states(tmp_path):
    """A saved folder, which is not checked again."""
    return KeyStateSet.from_source(GOOD, 5).save(tmp_path / "set")


def test_info_and_prompt():
    facts = json.loads(run("info", "--json").stdout)
    assert "secret-room" in facts["tasks"]
    assert "pass" in facts["key states"]
    assert "rnd" in facts["methods"]
    assert "cmae" in facts["algorithms"]
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


def test_the_time_of_a_check_can_be_bounded(tmp_path):
    path = tmp_path / "key_states.py"
    path.write_text(GOOD)
    arguments = ["check", path, "--task", "pass", "--probes", 64]
    done = run(*arguments, "--max-seconds", 1e-6, code=1)
    assert "the 1e-06 s for the whole file were over" in done.stdout
    assert "max_seconds is 0" in run(*arguments, "--max-seconds", 0, code=2).stderr
    usual = inspect.signature(cli.check).parameters["max_seconds"].default
    assert usual == inspect.signature(check).parameters["max_seconds"].default


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "--task", "pas"], 2, "pass"),
        (["train", "--task", "pass", "--method", "lemea"], 2, "lemae"),
        (["train", "--task", "pass", "--set", "requery_after=5"], 2, "as --model"),
        (["train", "--task", "pass", "--model", "m"], 2, "no model is asked"),
        (["train", "--task", "pass", "--option", "num_envs=3"], 2, "which pass does not take"),
        (["train", "--task", "os:system", "--method", "plain"], 2, "environment of 'os:system'"),
        (["check", "cli_task.py", "--task", "cli_task:raises"], 2, "KeyError: 'not here' ("),
        (["train", "--task", "pass", "--option", "size"], 2, "name=value"),
        (["train", "--task", "pass", "--key-states", "nowhere.py"], 2, "nowhere.py"),
        (["train", "--task", "pass", "--set", "eps_lo=0.1"], 2, "did you mean eps_low"),
        (["train", "--task", "pass", "--set", "steps=10"], 2, "steps: there is an option"),
        (["train", "--task", "pass", "--algo", "qmix", "--self-imitation", "1"], 2, "for ippo"),
        (["prompt", "--task", "cli_task:Bare"], 2, "has no task_spec"),
        (["generate", "--task", "pass", "--model", "m", "--out", "o"], 1, "OPENAI_API_KEY"),
    ],
)
def test_bad_usage(arguments, code, says, tmp_path):
    if "generate" in arguments:
        pytest.importorskip("openai")
    (tmp_path / "cli_task.py").write_text(BARE, encoding="utf-8")
    done = run(*arguments, code=code, cwd=tmp_path, OPENAI_API_KEY="")
    assert says in done.stderr


def test_dry_run_asks_nobody(tmp_path):
    done = run(
        *("generate", "--task", "pass", "--model", "m", "--out", tmp_path / "o", "--dry-run"),
        OPENAI_API_KEY="",
    )
    assert "is_<name>(state)" in done.stdout
    assert not (tmp_path / "o").exists()


def test_train_is_resumable_and_reported(tmp_path, key_states):
    pytest.importorskip("matplotlib")
    arguments = ["train", "--task", "pass", "--option", "size=10", "--method", "lemae,plain"]
    arguments += ["--seeds", "0,1", "--steps", 4800, "--out", tmp_path]
    arguments += ["--key-states", key_states]
    rows = json.loads(run(*arguments, "--json").stdout)
    assert {row["method"] for row in rows} == {"lemae-ippo", "plain-ippo"}
    assert all(row["seeds"] == [0, 1] for row in rows)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 4
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    assert len(times) == 4
    run(*arguments)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}


SHORT = ["train", "--task", "pass", "--option", "size=10", "--seeds", 0, "--steps", 2400]
SHORT += ["--set", "evaluation_episodes=4"]


def test_a_check_needs_no_description_of_the_task(tmp_path):
    (tmp_path / "cli_task.py").write_text(BARE, encoding="utf-8")
    (tmp_path / "key_states.py").write_text(GOOD, encoding="utf-8")
    arguments = ["check", "key_states.py", "--task", "cli_task:Bare", "--probes", 64]
    assert "accepted" in run(*arguments, cwd=tmp_path).stdout


@pytest.fixture
def unusable(tmp_path):
    """A file of which no function can be used, and the arguments of a training with it."""
    bad = "\n\ndef is_NAME(state):\n    return open('NAME') == 1\n"
    path = tmp_path / "key_states.py"
    path.write_text(bad.replace("NAME", "one") + bad.replace("NAME", "other"), encoding="utf-8")
    return [*SHORT, "--method", "plain,lemae", "--key-states", path, "--out", tmp_path / "runs"]


def test_key_states_of_which_none_can_be_used_end_all_before_it_begins(unusable, tmp_path):
    done = run(*unusable, code=1)
    assert all(text in done.stderr for text in ("is_one (line 3)", "is_other (line 7)", "open"))
    assert "--set on_failure=base" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_who_asks_for_the_base_algorithm_gets_it(unusable):
    rows = json.loads(run(*unusable, "--set", "on_failure=base", "--json").stdout)
    assert {row["method"] for row in rows} == {"plain-ippo", "lemae without key states-ippo"}


STUCK = """
from lemae import envs

def Stuck(num_envs):
    env = envs.make("pass", num_envs, size=10, episode_limit=5)
    return env
"""


@pytest.mark.slow
def test_a_model_is_asked_when_exploration_gets_stuck(tmp_path, key_states):
    pytest.importorskip("openai")
    (tmp_path / "cli_task.py").write_text(STUCK, encoding="utf-8")
    text = {
        "reasoning": "step by step",
        "key_states": {"init": "start", "far": "there", "success": "end"},
        "discriminators": {"far": "def is_far(state):\n    return state[0] >= 2"},
        "subspaces": {"far": [0, 1]},
    }
    asked = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            choice = {"index": 0, "finish_reason": "stop"}
            choice["message"] = {"role": "assistant", "content": json.dumps(text)}
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            body = json.dumps({**body, "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        arguments = ["train", "--task", "cli_task:Stuck", "--key-states", key_states]
        arguments += ["--steps", 400, "--seeds", "0,1", "--jobs", 2, "--out", tmp_path / "runs"]
        arguments += ["--set", "evaluation_episodes=4", "--set", "requery_after=8"]
        run(*arguments, "--model", "m", "--base-url", url, cwd=tmp_path, OPENAI_API_KEY="")
        server.shutdown()
    assert asked[0]["model"] == "m"
    for path in (tmp_path / "runs").rglob("summary.json"):
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        assert results["key_states"] == ["door_open", "far"]
    assert (tmp_path / "runs" / "replies.sqlite").is_file()


def test_without_pictures_a_training_has_succeeded_all_the_same(tmp_path, without_matplotlib):
    done = run(*SHORT, "--method", "plain", "--out", tmp_path / "runs")
    assert "plain-ippo" in done.stdout
    assert 'no report.html: the report needs matplotlib: pip install "lemae[report]"' in done.stderr
    done = run("report", tmp_path / "runs", code=1)
    assert "plain-ippo" in done.stdout
    assert 'pip install "lemae[report]"' in done.stderr


def test_every_setting_can_be_set(tmp_path, key_states):
    given = {"shir": False, "planning": False, "rule": "leaf", "eps_low": 0.1, "explore_until": 2}
    given |= {"learner": {"hidden": 8}, "random_actions": "ignore", "evaluate_every": 800}
    more = [text for name in given for text in ("--set", f"{name}={json.dumps(given[name])}")]
    run(*SHORT, *more, "--key-states", key_states, "--out", tmp_path)
    (path,) = tmp_path.rglob("summary.json")
    settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    assert {name: settings[name] for name in given} == given
    assert settings["evaluation_episodes"] == 4


def test_cmae_and_event_files(tmp_path):
    pytest.importorskip("tensorboard")
    arguments = ["--method", "plain", "--algo", "cmae", "--tensorboard", "--out", tmp_path]
    run(*SHORT, *arguments, "--set", 'learner={"capacity": 2000}')
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    assert events.with_name("summary.json").is_file()


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
