"""What README and documentation pages show is run.

Python blocks are executed, page by page, in order and with shared names. Of the command lines in
console blocks (``$ lowmem-bp profile ...``) the subcommand and the options must exist.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
PAGES = sorted(
    [ROOT / "README.md", *ROOT.glob("packages/*/README.md"), *ROOT.glob("docs/**/*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SETUP = ["python -m pip install nox && python -m nox -s demo", "python -m nox -s tests"]


def page_id(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, *languages):
    text = path.read_text(encoding="utf-8")
    return [body for language, body in FENCE.findall(text) if language in languages]


def command_lines(path):
    """The calls of our commands in a page's console blocks, continued lines joined."""
    for body in blocks(path, "console"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if line[:2] == "$ " else []
            if words and words[0] in COMMANDS:
                yield words


@cache
def help_text(command, *subcommand):
    program = shutil.which(command, path=Path(sys.executable).parent)
    assert program, f"{command} is not installed"
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [program, *subcommand, "--help"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


with_python = [path for path in PAGES if blocks(path, "python")]
with_commands = [path for path in PAGES if any(command_lines(path))]


@pytest.mark.parametrize("path", with_python, ids=page_id)
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(path)
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("path", with_commands, ids=page_id)
def test_commands_exist_with_their_options(path):
    for command, *words in command_lines(path):
        subcommand = words[:1] if words and not words[0].startswith("-") else []
        text = help_text(command, *subcommand)
        for word in words:
            if word.startswith("--"):
                option = re.escape(word.partition("=")[0])
                assert re.search(rf"{option}(?![\w-])", text), f"{command} {words}: no {option}"


def test_readme_starts_with_exactly_two_set_up_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = FENCE.search(text)
    assert [line.partition("#")[0].strip() for line in first[2].splitlines()] == SETUP
    assert text[: first.start()].count("\n") < 25, "the commands belong on the first screen"


def test_set_up_commands_name_sessions_of_the_noxfile():
    pattern = re.compile(r"^@nox\.session.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)
    sessions = pattern.findall((ROOT / "noxfile.py").read_text())
    for command in SETUP:
        assert command.rpartition("-s ")[2] in sessions
