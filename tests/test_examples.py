"""Every script under examples/ runs with --smoke: small sizes, seconds, no network."""

import ast
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(ROOT.glob("examples/*/*.py"))
#: They start processes, or import for longer than they run: only as a user runs them.
SLOW = (
    "go4align/03_ddp.py",
    "go4align/04_lightning.py",
    "lemae/08_local_llm.py",
    "together/03_one_endpoint.py",
)
QUICK = [path for path in SCRIPTS if not path.as_posix().endswith(SLOW)]
#: What many of them import, where it is installed; it takes longer than they do.
PRELOADED = ("torch._dynamo", "transformers.trainer", "peft", "stable_baselines3", "openai")

#: What a process does that was forked from one that has imported these. As a text, because the
#: child cannot import this module to find a function in it.
BODY = """
import os, runpy, sys

os.dup2(os.open(log, os.O_WRONLY | os.O_TRUNC), 1)
os.dup2(1, 2)
os.chdir(folder)
sys.argv = [script, "--smoke"]
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def server():
    """Makes processes that need not import what is preloaded; on Windows plain ones."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with pytest.MonkeyPatch.context() as patch:  # what libraries read when they are imported
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
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


@pytest.mark.parametrize("script", QUICK, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_example_runs(script, server, tmp_path):
    if missing := missing_modules(script):
        pytest.skip(f"needs {', '.join(missing)}, which is not installed")
    log, folder = tmp_path / "log", tmp_path / "run"
    log.write_text("it did not come to the script")
    folder.mkdir()
    given = {"log": str(log), "folder": str(folder), "script": str(script)}
    process = server.Process(target=exec, args=(BODY, given))
    process.start()
    try:
        process.join(110)
        late = process.is_alive()
    finally:
        process.kill()
        process.join()
    told = log.read_text(encoding="utf-8", errors="replace")[-6000:]
    assert not late, f"not done after 110 s\n{told}"
    assert process.exitcode == 0, told


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_example_runs_as_a_user_runs_it(script, tmp_path):
    """In an interpreter of its own, which has imported nothing else."""
    if missing := missing_modules(script):
        pytest.skip(f"needs {', '.join(missing)}, which is not installed")
    done = subprocess.run(
        [sys.executable, str(script), "--smoke"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_example_is_short(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 80
