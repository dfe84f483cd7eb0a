"""The built files of each package, installed alone into an empty environment, work.

`nox -s package` builds them from a clean export and runs these tests; by themselves they have
nothing to test.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
DIST = os.environ.get("WHEEL_DIST")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(DIST is None, reason="tests the files that `nox -s package` builds"),
]
each_package = pytest.mark.parametrize("package", PACKAGES)


def import_name(package):
    return package.replace("-", "_")


def wheel(package):
    distribution = {"lare": "lare_rl"}.get(package, import_name(package))
    (path,) = Path(DIST).glob(f"{distribution}-*.whl")
    return path


def run(*arguments, cwd, **environment):
    """Run a program without the repository in reach, and fail with its output."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def install(folder, *requirements):
    """A fresh environment with ``requirements``; returns its folder of programs."""
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    constraints = ["-c", os.environ["WHEEL_CONSTRAINTS"]]
    run(programs / "python", "-m", "pip", "install", *constraints, *requirements, cwd=folder)
    return programs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Makes the environment of a package's wheel and its dependencies, once per package."""
    made = {}

    def make(package):
        if package not in made:
            folder = tmp_path_factory.mktemp(package)
            made[package] = folder, install(folder, wheel(package))
        return made[package]

    return make


@each_package
def test_wheel_holds_the_package_and_nothing_else(package):
    name = import_name(package)
    with zipfile.ZipFile(wheel(package)) as archive:
        files = archive.namelist()
        (metadata,) = [file for file in files if file.endswith(".dist-info/METADATA")]
        headers = HeaderParser().parsestr(archive.read(metadata).decode())
    tops = {file.partition("/")[0] for file in files}
    assert tops == {name, metadata.partition("/")[0]}
    source = ROOT / "packages" / package / "src"
    expected = {path.relative_to(source).as_posix() for path in (source / name).rglob("*.py")}
    assert expected <= set(files), f"left out: {expected - set(files)}"
    assert f"{name}/py.typed" in files
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in files)
    assert headers["License-Expression"] == "MIT"


@each_package
def test_wheel_installs_alone_and_starts(package, alone):
    folder, programs = alone(package)
    name = import_name(package)
    where = run(programs / "python", "-c", f"import {name}; print({name}.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(folder)
    assert "Usage" in run(programs / package, "--help", cwd=folder, NO_COLOR="1", TERM="dumb")
    assert "Usage" in run(programs / "python", "-m", name, "--help", cwd=folder, TERM="dumb")


@each_package
def test_own_tests_pass_outside_the_tree(package, alone):
    """With hard dependencies only: tests that need an extra skip."""
    folder, programs = alone(package)
    tools = os.environ["WHEEL_TEST_TOOLS"].splitlines()
    constraints = ["-c", os.environ["WHEEL_CONSTRAINTS"]]
    run(programs / "python", "-m", "pip", "install", *constraints, *tools, cwd=folder)
    tree = folder / "tree"
    copied = tree / "packages" / package / "tests"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "packages" / package / "tests", copied, ignore=ignored)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    marks = ["-n", "2", "-m", "not slow and not network"]
    output = run(programs / "python", "-m", "pytest", "-q", *marks, copied, cwd=tree)
    print(output[-1500:])


def test_all_wheels_install_together(tmp_path):
    if len(PACKAGES) < 2:
        pytest.skip("there is only one package, which the test above installs")
    programs = install(tmp_path, *map(wheel, PACKAGES))
    imports = "; ".join(f"import {import_name(package)}" for package in PACKAGES)
    run(programs / "python", "-c", imports, cwd=tmp_path)
