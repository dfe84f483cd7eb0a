"""The command line, called within this process; what holds for all packages is tested apart."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gymnasium.envs import registration

from lare import cli
from lare._kit.invoke import invoke

GOOD = """
import numpy as np

def evaluation_func(observation, action, next_observation):
    upright = observation[:, 0:1]
    effort = action ** 2
    return [upright, effort]
"""


def run(*arguments, cwd=None, code=0, **environment):
    """The command in this process; tests of all packages together start it in its own."""
    quiet = {"NO_COLOR": "1", "TERM": "dumb"}
    done = invoke(cli.main, arguments, folder=cwd, environment={**quiet, **environment})
    assert code in (None, done.code), f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture
def service():
    """A server that speaks chat completions and answers from a list; keeps what it was sent."""
    replies, requests = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.headers, body))
            status, text = replies.pop(0) if replies else (500, "nothing left")
            count = body.get("n") or 1
            message = {"role": "assistant", "content": text}
            choices = [
                {"index": i, "finish_reason": "stop", "message": message} for i in range(count)
            ]
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            raw = json.dumps({**answer, "choices": choices} if status == 200 else {"error": text})
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", replies, requests
    server.shutdown()
    server.server_close()


def reply(source):
    return 200, json.dumps({"Understand": "a", "Analyze": "b", "Functions": source})


def test_info():
    facts = json.loads(run("info", "--json").stdout)
    assert "Pendulum-v1" in facts["tasks"]
    assert "rrd-unbiased" in facts["methods"]


def test_prompt():
    found = json.loads(run("prompt", "--task", "Pendulum-v1", "--json").stdout)
    assert "angular velocity" in found["prompt"]
    assert 300 < found["tokens"] < 2000


def test_verify_accepts_and_rejects(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(GOOD.replace("action ** 2", "np.log(action)"))
    (tmp_path / "evil.py").write_text("import os\n" + GOOD)
    done = run("verify", tmp_path / "good.py", "--task", "Pendulum-v1")
    assert done.stdout.startswith("accepted")
    assert "resource limits" in done.stderr
    done = run("verify", tmp_path / "bad.py", "--task", "Pendulum-v1", code=1)
    assert "factor 1 is not finite" in done.stdout
    done = run("verify", tmp_path / "evil.py", "--task", "Pendulum-v1", "--json", code=1)
    assert "line 1" in json.loads(done.stdout)["failures"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["verify", ".", "--task", "Nothing-v0"], 2, "neither a shipped task"),
        (["verify", ".", "--task", "a:b-v1"], 2, "neither a shipped task"),
        (["verify", sys.executable, "--task", "Pendulum-v1"], 2, "no text in UTF-8"),
        (["train", "--task", "Nope-v1", "--method", "dense"], 2, "cannot be made here"),
        (["train", "--task", "CartPole-v1", "--method", "dense"], 2, "take --algo ppo"),
        (["train", "--task", "Pendulum-v1", "--method", "magic"], 2, "choose from lare"),
    ],
)
def test_bad_usage(arguments, code, says, tmp_path):
    if arguments[0] == "train" and "--method" in arguments and "dense" in arguments:
        pytest.importorskip("stable_baselines3")
    done = run(*arguments, cwd=tmp_path, code=code)
    assert says in " ".join((done.stdout + done.stderr).split())


def test_the_whole_dialogue_with_a_server(service, tmp_path):
    pytest.importorskip("openai")
    url, replies, requests = service
    replies += [
        reply(GOOD),
        (200, "sorry"),
        reply(GOOD.replace("effort]", "effort, np.log(effort)]")),
    ]
    replies += [reply(GOOD)]
    arguments = ["generate", "--task", "Pendulum-v1", "--model", "m", "--base-url", url, "-n", 3]
    done = run(*arguments, "--out", tmp_path / "f", OPENAI_API_KEY="sk-secret-4711")
    assert done.stdout.strip() == GOOD.strip()
    assert requests[0][1]["n"] == 3
    assert "no JSON" in requests[2][1]["messages"][-1]["content"]
    assert "factor 2 is not finite" in requests[3][1]["messages"][-1]["content"]
    names = {path.name for path in (tmp_path / "f").iterdir()}
    assert {"latent_reward.py", "meta.json", "transcript.jsonl", "replies.sqlite"} <= names
    for path in (tmp_path / "f").iterdir():
        assert b"secret-4711" not in path.read_bytes()  # the key is nowhere
    run("verify", tmp_path / "f", "--task", "Pendulum-v1")
    count = len(requests)
    done = run(*arguments, "--out", tmp_path / "f")  # from the cache, the server is out of replies
    assert done.stdout.strip() == GOOD.strip()
    assert len(requests) == count


def test_a_model_that_never_succeeds(service, tmp_path):
    pytest.importorskip("openai")
    url, replies, _ = service
    replies += [(200, "sorry")] * 9
    arguments = ["generate", "--task", "Pendulum-v1", "--model", "m", "--base-url", url, "-n", 1]
    done = run(*arguments, "--max-repairs", 2, "--out", tmp_path / "f", code=1)
    assert "transcript.jsonl" in done.stderr
    assert not (tmp_path / "f" / "latent_reward.py").exists()


def test_a_failed_run_goes_on_where_it_stopped(service, tmp_path):
    pytest.importorskip("openai")
    url, replies, requests = service
    replies += [reply(GOOD), (401, "who are you?")]
    arguments = ["generate", "--task", "Pendulum-v1", "--model", "m", "--base-url", url, "-n", 2]
    done = run(*arguments, "--out", tmp_path / "f", code=1)
    assert "OPENAI_API_KEY" in done.stderr
    replies += [reply(GOOD)]
    run(*arguments, "--out", tmp_path / "f")
    assert [body.get("n") or 1 for _, body in requests] == [2, 1, 1]  # candidates asked for once


def test_no_key_for_the_public_service(tmp_path):
    pytest.importorskip("openai")
    arguments = ["generate", "--task", "Pendulum-v1", "--model", "m", "--out", tmp_path / "f"]
    done = run(*arguments, code=1, OPENAI_API_KEY="", OPENAI_BASE_URL="")
    assert "OPENAI_API_KEY" in done.stderr


def test_dry_run_asks_nobody(tmp_path):
    arguments = ["generate", "--task", "Pendulum-v1", "--model", "m", "--out", tmp_path / "f"]
    done = run(*arguments, "--dry-run", OPENAI_API_KEY="")
    assert "evaluation_func" in done.stdout
    assert not (tmp_path / "f").exists()


def test_train_is_resumable_and_reported(tmp_path):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("matplotlib")
    arguments = ["train", "--task", "Pendulum-v1", "--method", "lare,episodic", "--seeds", "0,1"]
    arguments += ["--steps", 600, "--max-episode-steps", 50, "--width", 8, "--out", tmp_path]
    rows = json.loads(run(*arguments, "--json").stdout)
    assert {row["method"] for row in rows} == {"lare", "episodic"}
    assert all(row["seeds"] == [0, 1] for row in rows)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    assert len(times) == 4
    run(*arguments)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    done = run(*arguments, "--learning-rate", 0.5, code=2)
    assert "other settings" in done.stderr


def test_a_task_without_a_function(tmp_path):
    pytest.importorskip("stable_baselines3")
    arguments = ["train", "--task", "CartPole-v1", "--algo", "ppo", "--out", tmp_path]
    assert "lare generate" in run(*arguments, code=2).stderr


def test_files_of_others_are_not_deleted(tmp_path):
    pytest.importorskip("stable_baselines3")
    folder = tmp_path / "Pendulum-v1" / "td3" / "dense" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "precious.txt").write_text("mine")
    arguments = ["train", "--task", "Pendulum-v1", "--method", "dense", "--seeds", "0"]
    done = run(*arguments, "--steps", 10, "--out", tmp_path, code=2)
    assert "precious.txt" in done.stderr
    assert (folder / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ['{"results":{"scores":{"1":2', "[1,2]", '{"results":null}'])
def test_a_damaged_summary_is_named(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    assert "summary.json is damaged" in run("report", tmp_path, code=2).stderr


def test_train_takes_a_team_task(tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["train", "--task", "cooperative-navigation-6", "--seeds", "0", "--steps", 100]
    rows = json.loads(run(*arguments, "--out", tmp_path, "--json").stdout)
    assert rows[0]["method"] == "lare"


@pytest.fixture
def without_matplotlib(monkeypatch):
    """As if it were not installed."""
    for name in ["matplotlib", *sys.modules]:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)


def test_without_pictures_a_training_has_succeeded_all_the_same(tmp_path, without_matplotlib):
    arguments = ["train", "--task", "cooperative-navigation-6", "--seeds", "0", "--steps", 100]
    done = run(*arguments, "--out", tmp_path / "runs", "--json")
    assert json.loads(done.stdout)[0]["method"] == "lare"
    assert 'no report.html: the report needs matplotlib: pip install "lare-rl[report]"' in (
        done.stderr
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo(tmp_path):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("mujoco")
    done = run("demo", "--out", tmp_path / "d", "--json", cwd=tmp_path)
    results = json.loads(done.stdout)
    assert all(report["accepted"] for report in results["verification"].values())
    assert (tmp_path / "d" / "report.html").is_file()
    (tmp_path / "d" / "mine.txt").write_text("keep me")
    run("demo", "--out", tmp_path / "d", cwd=tmp_path, code=2)
    assert (tmp_path / "d" / "mine.txt").exists()


TANK = '''
import gymnasium
import numpy as np


class Tank(gymnasium.Env):
    """The level of a tank follows the inflow."""

    observation_space = gymnasium.spaces.Box(0, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = np.array([0.0, 1.0], np.float32)
        return self.level, {}

    def step(self, action):
        self.level = np.clip(self.level + [0.1 * action[0] - 0.05, 0], 0, 2).astype(np.float32)
        return self.level, -abs(float(self.level[0]) - 1), False, False, {}


gymnasium.register("Tank-v0", Tank, max_episode_steps=20)
'''


def test_an_environment_beside_its_user_is_described_by_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(registration, "registry", dict(registration.registry))
    from lare import Entry, TaskSpec

    (tmp_path / "tank.py").write_text(TANK)
    (tmp_path / "function.py").write_text(GOOD)
    entries = (Entry("level", "m", 0, 2), Entry("wanted level", "m", 0, 2))
    TaskSpec("Tank-v0", "Keep the level.", entries, (Entry("inflow", "l/s", 0, 1),)).save(
        tmp_path / "task.json"
    )
    given = ["--task", "tank:Tank-v0", "--spec", "task.json"]
    shown = run("prompt", *given, cwd=tmp_path).stdout
    assert "wanted level (m), from 0 to 2" in shown
    assert run("verify", "function.py", *given, cwd=tmp_path).stdout.startswith("accepted")
    (tmp_path / "task.json").write_text("[]")
    done = run("verify", "function.py", *given, cwd=tmp_path, code=2)
    assert "task.json does not describe a task" in done.stderr
