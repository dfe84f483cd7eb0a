"""The four commands are siblings: what a user learns of one holds for the others."""

import ast
import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
each_command = pytest.mark.parametrize("command", COMMANDS)

#: A verb has the same meaning everywhere, and with it these options.
COMMON = {
    "demo": ("--seed", "--out", "--json"),
    "train": ("--task", "--method", "--seeds", "--steps", "--jobs", "--device", "--out", "--json"),
    "bench": ("--out", "--json"),
    "generate": ("--task", "--model", "--base-url", "--seed", "--cache", "--dry-run", "--out"),
    "prompt": ("--task", "--json"),
    "report": ("--json",),
    "info": ("--json",),
}
VERBS = {
    "go4align": {"demo", "bench", "report", "groups", "info"},
    "lare": {"demo", "prompt", "generate", "verify", "train", "report", "info"},
    "lemae": {"demo", "prompt", "generate", "check", "train", "report", "info"},
    "lowmem-bp": {"demo", "profile", "convert", "fit", "bench", "info"},
}
each_verb = pytest.mark.parametrize(
    ("command", "verb"),
    [(command, verb) for command in COMMANDS for verb in sorted(VERBS[command])],
)
#: What needs neither data nor an extra, and prints a table or text.
QUICK = {
    "go4align": ["bench", "toy", "--methods", "ls", "--steps", "5", "--out", "out"],
    "lare": ["prompt", "--task", "Pendulum-v1"],
    "lemae": ["prompt", "--task", "pass"],
    "lowmem-bp": ["fit", "gelu"],
}


def module(command):
    return command.replace("-", "_")


def program(command):
    found = shutil.which(command, path=Path(sys.executable).parent)
    assert found, f"{command} is not installed"
    return [found]


def run(arguments, *, cwd=None, code=0, **environment):
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == code, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@cache
def help_of(command, *verb):
    return run([*program(command), *verb, "--help"], COLUMNS="200").stdout


@each_command
def test_help_tells_every_verb_in_a_whole_line(command):
    """A line that the terminal would cut ends in dots."""
    text = run([*program(command), "--help"], COLUMNS="80").stdout
    found = dict(re.findall(r"^  (\w+) +(\S.*)$", text.partition("Commands:")[2], re.MULTILINE))
    assert found.keys() == VERBS[command]
    assert not [line for line in found.values() if not line.endswith(".") or line.endswith("...")]


@each_command
def test_help_costs_little_and_loads_nothing_heavy(command):
    def spent():
        before = os.times()
        run([*program(command), "--help"])
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])  # CPU time of children

    assert min(spent() for _ in range(4)) < 0.4
    loaded = run([sys.executable, "-X", "importtime", "-m", module(command), "--help"]).stderr
    assert "typer" in loaded
    assert not re.findall(r"\| +(torch|numpy|matplotlib|gymnasium)$", loaded, re.MULTILINE)


@each_command
def test_module_is_the_command(command):
    as_module = [sys.executable, "-m", module(command)]
    assert run([*as_module, "--help"], COLUMNS="200").stdout == help_of(command)
    tree = ast.parse((ROOT / f"packages/{command}/src/{module(command)}/_version.py").read_text())
    version = ast.literal_eval(tree.body[-1].value)
    for start in (program(command), as_module):
        assert run([*start, "--version"]).stdout == f"{command} {version}\n"


@each_verb
def test_same_verb_has_the_same_options(command, verb):
    options = re.findall(r"^ +(--[\w-]+)", help_of(command, verb), re.MULTILINE)
    missing = set(COMMON.get(verb, ("--json",))) - set(options)
    assert not missing, f"{command} {verb} has no {missing}"


@each_command
def test_nothing_asked_is_help_and_a_mistake(command):
    assert run(program(command), code=2, COLUMNS="200").stdout == help_of(command)


def mistakes():
    for command in COMMANDS:
        yield command, ["nonsense"], "nonsense"
        yield command, ["info", "--nonsense"], "--nonsense"
        yield command, ["demo", "--seed", "one"], "--seed"
        yield command, ["demo", "--seed", "-1"], "--seed"
        yield command, ["demo", "--out", "file"], "--out"
        yield command, ["demo", "--out", "."], "--out"
        if "report" in VERBS[command]:
            yield command, ["report", "nowhere"], "FOLDER"
            yield command, ["report", "file"], "FOLDER"
            yield command, ["report", "."], "finished run"
    yield "go4align", ["bench", "molecules", "--seeds", "a..b"], "--seeds"
    yield "go4align", ["groups", "nowhere"], "FOLDER"
    yield "lare", ["train", "--task", "Pendulum-v1", "--seeds", "3..a"], "--seeds"
    yield "lare", ["train", "--task", "Pendulum-v1", "--seeds", "0..10000"], "--seeds"
    yield "lare", ["train", "--task", "Pendulum-v1", "--device", "abacus"], "device"
    yield "lare", ["train", "--task", "Pendulum-v1", "--out", "file"], "--out"
    yield "lare", ["train"], "--task"
    yield "lare", ["verify", "nowhere.py", "--task", "Pendulum-v1"], "FILE"
    yield "lemae", ["train", "--task", "pass", "--seeds", ""], "--seeds"
    yield "lemae", ["train", "--task", "pass", "--seeds", "0..999999999"], "--seeds"
    yield "lemae", ["train", "--task", "pass", "--device", "abacus"], "device"
    yield "lemae", ["train", "--task", "pass", "--out", "file"], "--out"
    yield "lemae", ["train"], "--task"
    yield "lemae", ["check", "nowhere.py", "--task", "pass"], "FILE"
    yield "lowmem-bp", ["bench", "--device", "abacus"], "--device"
    yield "lowmem-bp", ["bench", "--out", "."], "--out"
    yield "lowmem-bp", ["bench", "--out", "file"], "--out"


@pytest.mark.parametrize(("command", "arguments", "named"), list(mistakes()), ids=str)
def test_mistakes_are_one_line_that_names_the_option(command, arguments, named, tmp_path):
    if "--device" in arguments and command == "lare":
        pytest.importorskip("stable_baselines3")
    (tmp_path / "file").write_text("mine")
    # Not in a process of its own, whose seconds go into the import of torch.
    main = importlib.import_module(f"{module(command)}.cli").main
    invoke = importlib.import_module(f"{module(command)}._kit.invoke").invoke
    done = invoke(main, arguments, folder=tmp_path)
    assert done.code == 2
    assert not done.stdout
    assert re.fullmatch(rf"{command}( \w+)?: [^\n]+\n", done.stderr), done.stderr
    assert named in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]


@pytest.mark.slow
@each_command
def test_a_mistake_in_a_process_of_its_own(command, tmp_path):
    (tmp_path / "mine").write_text("")
    done = run([*program(command), "demo", "--out", "."], cwd=tmp_path, code=2)
    assert not done.stdout
    assert re.fullmatch(rf"{command}( \w+)?: [^\n]+\n", done.stderr), done.stderr
    assert "--out" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("lare", ["--task", "Pendulum-v1", "--steps", "300"]),
        ("lemae", ["--task", "pass", "--method", "plain", "--steps", "400"]),
    ],
)
def test_processes_of_a_sweep_write_nothing_of_their_own(command, arguments, tmp_path):
    """As JSON: one document and nothing else, and lines for people."""
    if command == "lare":
        pytest.importorskip("stable_baselines3")
    options = ["--seeds", "0,1", "--jobs", "2", "--out", str(tmp_path), "--json"]
    done = run([*program(command), "train", *arguments, *options])
    assert json.loads(done.stdout)
    assert not re.search("Traceback|Warning: ", done.stderr), done.stderr


@each_command
def test_info_begins_with_the_same_facts(command):
    """As JSON: one document and nothing else."""
    facts = json.loads(run([*program(command), "info", "--json"]).stdout)
    first = ["python", "numpy", "torch", module(command), "devices", "threads", "optional"]
    assert list(facts)[:7] == first


@each_command
def test_a_terminal_without_letters_beyond_ascii_and_without_colours(command, tmp_path):
    pty = pytest.importorskip("pty")
    if command == "go4align":
        pytest.importorskip("matplotlib")
    ours, theirs = pty.openpty()
    wanted = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "NO_COLOR": "1", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*program(command), *QUICK[command]],
        cwd=tmp_path,
        env={**os.environ, **wanted},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = ""
    with contextlib.suppress(OSError):  # how Linux tells that the other end was closed
        while part := os.read(ours, 10_000):
            text += part.decode("ascii")
    os.close(ours)
    assert process.wait() == 0, text
    assert text
    assert not re.search(r"\x1b\[[\d;]*[349]\d", text)


WAITING = """
import sys, time

def wait(*given, **named):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(100)

if "{at_import}" == "yes":
    wait()
"""
#: Commands that are at work when "ready" is told.
LONG = {
    "go4align": ["bench", "toy", "--methods", "ls,si,uw,dwa,rlw,go4align", "--steps", "2000"],
    "lare": ["verify", "file.py", "--task", "waiting_import:Slow-v0"],
    "lemae": ["check", "file.py", "--task", "waiting:wait"],
    "lowmem-bp": ["profile", "waiting:wait"],
}


@pytest.mark.skipif(os.name == "nt", reason="sends a signal to a group of processes")
@each_command
def test_interrupt_ends_with_130_and_no_traceback(command, tmp_path):
    (tmp_path / "file.py").write_text("")
    (tmp_path / "waiting.py").write_text(WAITING.format(at_import="no"))
    (tmp_path / "waiting_import.py").write_text(WAITING.format(at_import="yes"))
    with subprocess.Popen(
        [*program(command), *LONG[command]],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a shell does: the interrupt reaches children as well
        # Whoever runs the tests in the background has them ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            first = process.stderr.readline()
            assert first, "it ended before it began"
            os.killpg(process.pid, signal.SIGINT)
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()  # one that takes no notice outlives no test
    assert process.returncode == 130, first + rest
    assert "Traceback" not in first + rest
