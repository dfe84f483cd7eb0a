"""Every script under examples/ runs with --smoke: small sizes, seconds, no network."""

import ast
import importlib.util
import multiprocessing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(ROOT.glob("examples/*/*.py"))
#: These start processes of their own.
SLOW = ("go4align/03_ddp.py",)
#: What many of them import, where it is installed; it takes longer than they do.
PRELOADED = ("torch._dynamo", "transformers.trainer", "peft", "stable_baselines3", "openai")

#: What a process does that was forked from one that has imported these.
BODY = """
import os, runpy, sys

os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 1)
os.dup2(1, 2)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.stdin = open(0, closefd=False)
os.chdir(folder)
os.environ.update(environment)
sys.argv = [script, "--smoke"]
sys.path = [os.path.dirname(script), *sys.path]
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def server():
    """Makes processes that need not import what is preloaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def missing_modules(script):
    """What the script imports at its top and this environment lacks."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    return sorted(name for name in names if importlib.util.find_spec(name) is None)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, marks=[pytest.mark.slow] * path.as_posix().endswith(SLOW))
        for path in SCRIPTS
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_example_runs(script, server, tmp_path):
    if missing := missing_modules(script):
        pytest.skip(f"needs {', '.join(missing)}, which is not installed")
    log = tmp_path / "log"
    (tmp_path / "run").mkdir()
    given = {
        "log": str(log),
        "folder": str(tmp_path / "run"),
        "script": str(script),
        "environment": {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    }
    process = server.Process(target=exec, args=(BODY, given))
    process.start()
    process.join(110)
    process.kill()
    assert process.exitcode == 0, log.read_text(encoding="utf-8")[-4000:]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_example_is_short(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 80
