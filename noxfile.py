"""Every task of the repository. ``python -m nox --list`` says what there is.

A package is any folder with a ``packages/<name>/pyproject.toml``: adding one needs no edit here.
Each pip call gets ``constraints.txt``, which pins torch; ``NOX_TORCH=""`` drops that pin (for a
GPU build, say) and ``NOX_TORCH=2.12.1`` replaces it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
# Named, so that a user's NOX_DEFAULT_VENV_BACKEND=uv does not change it: uv does not read pip's
# configuration, where the CPU build of torch may be found.
nox.options.default_venv_backend = "virtualenv"

TEST_TOOLS = ["pytest>=8.1", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100"]
ROOT_TEST_TOOLS = ["sybil>=9", "pyyaml>=6"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# Torch in the children of a test (examples, torchrun) would start a thread per core each.
TEST_ENV = {**OFFLINE, "OMP_NUM_THREADS": "1"}
# A file stays in one process, which imports and prepares for all of its tests.
DEFAULT_TESTS = ["-n", "2", "--dist", "loadfile", "-m", "not slow and not network"]


# --- what the sessions share ------------------------------------------------------------------


def project(name: str) -> dict:
    """The pyproject.toml of a package."""
    return nox.project.load_toml(ROOT / "packages" / name / "pyproject.toml")


def import_name(name: str) -> str:
    """What Python calls a package."""
    return name.replace("-", "_")


def test_group(name: str) -> list[str]:
    """What a package's tests use beyond the common tools, extras of its own included."""
    return nox.project.dependency_groups(project(name), "test")


def editable(*extras: str, names: list[str] = PACKAGES) -> list[str]:
    """Arguments that install packages in place, with those of ``extras`` that they have."""
    arguments = []
    for name in names:
        known = project(name)["project"].get("optional-dependencies", {})
        chosen = ",".join(extra for extra in extras if extra in known)
        arguments += ["-e", f"./packages/{name}" + (f"[{chosen}]" if chosen else "")]
    return arguments


def constraints(session: nox.Session, bounds: dict[str, str] | None = None) -> Path:
    """The constraints file for a session: constraints.txt with NOX_TORCH applied, then ``bounds``.

    Args:
        session: the running session.
        bounds: further pins by distribution name; they replace lines of the file.
    """
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if requirement := line.partition("#")[0].strip():
            pins[distribution(requirement)] = requirement
    pins.update(bounds or {})
    wanted = os.environ.get("NOX_TORCH")
    if wanted is not None:
        pins.pop("torch", None)
        if wanted:
            pins["torch"] = f"torch=={wanted}"
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text("".join(f"{pin}\n" for pin in pins.values()))
    return path.resolve()


def distribution(requirement: str) -> str:
    """The normalized distribution name at the start of a requirement."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def install(session: nox.Session, *arguments: str, bounds: dict[str, str] | None = None) -> None:
    """One pip call, so that one resolve sees everything, under the constraints."""
    session.install("-c", str(constraints(session, bounds)), *arguments)


def install_for_tests(session: nox.Session, *more: str, **options: dict[str, str]) -> None:
    """Install all packages, what their tests use, and ``more``."""
    groups = [requirement for name in PACKAGES for requirement in test_group(name)]
    install(session, *editable(), *groups, *TEST_TOOLS, *ROOT_TEST_TOOLS, *more, **options)


def clean_export(target: Path) -> None:
    """Copy the files that belong to the repository, without build products, to ``target``.

    In a git checkout these are the tracked files and the new ones that git does not ignore;
    elsewhere (a downloaded archive) everything but the products named here.
    """
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        products = ("build", "dist", "*.egg-info", "__pycache__", ".nox", ".venv*", "venv", "*.so")
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*products), dirs_exist_ok=True)
        return
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():  # a deleted file stays listed until it is committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


# --- users ------------------------------------------------------------------------------------


@nox.session
def demo(session: nox.Session) -> None:
    """Install all packages and run each one's demo; report/index.html shows the results."""
    install(session, *editable("demo"))
    session.run("python", "demo.py", *session.posargs, env=OFFLINE)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite; arguments after -- go to pytest (-- -m slow for the slow part)."""
    install_for_tests(session)
    # A marker expression given by hand comes later on the command line, and pytest takes the last.
    session.run("pytest", *DEFAULT_TESTS, *session.posargs, env=TEST_ENV)


# --- developers -------------------------------------------------------------------------------


@nox.session(reuse_venv=False)
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests_pkg(session: nox.Session, package: str) -> None:
    """Run one package's tests with only what it declares: finds imports nobody declared."""
    install(session, *editable(names=[package]), *TEST_TOOLS)
    session.run(
        "pytest", *DEFAULT_TESTS, f"packages/{package}/tests", *session.posargs, env=TEST_ENV
    )


@nox.session
def tests_lowest(session: nox.Session) -> None:
    """Run the tests with the lowest version of every declared dependency.

    The lowest torch is a large download where pip sees only CUDA builds; ``NOX_TORCH=2.13.0``
    keeps the usual one and lowers the rest.
    """
    bounds = {}
    for name in PACKAGES:
        table = project(name)["project"]
        extras = table.get("optional-dependencies", {})
        for requirement in itertools.chain(table["dependencies"], *extras.values()):
            if match := re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\w.]+).*", requirement):
                bounds[distribution(match[1])] = f"{match[1]}=={match[2]}"
    bounds.pop("triton", None)  # torch's builds for CUDA pin it themselves
    install_for_tests(session, bounds=bounds)
    session.run("pytest", *DEFAULT_TESTS, *session.posargs, env=TEST_ENV)


@nox.session
def tests_latest(session: nox.Session) -> None:
    """Run the tests with the newest version of everything: no constraints at all."""
    groups = [requirement for name in PACKAGES for requirement in test_group(name)]
    session.install("--upgrade", *editable(), *groups, *TEST_TOOLS, *ROOT_TEST_TOOLS)
    session.run("pytest", *DEFAULT_TESTS, *session.posargs, env=TEST_ENV)


@nox.session
def gpu(session: nox.Session) -> None:
    """Run the tests that need CUDA or compile for it; skips with a message where there is none."""
    install_for_tests(session)
    probe = "import torch; print(torch.cuda.is_available())"
    if session.run("python", "-c", probe, silent=True).strip() != "True":
        session.skip("torch sees no CUDA device here")
    session.run("pytest", "-m", "gpu or triton", *session.posargs, env=OFFLINE)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the tests of the kernels in C under gcc's checks of addresses and undefined behaviour."""
    install(session, *editable(names=["lowmem-bp"]), *TEST_TOOLS, "setuptools>=77")
    libraries = [
        session.run("gcc", f"-print-file-name={name}", silent=True, external=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    flags = "-g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    with tempfile.TemporaryDirectory() as scratch:
        clean_export(Path(scratch))
        with session.chdir(f"{scratch}/packages/lowmem-bp"):
            checked = {"CFLAGS": flags, "LDFLAGS": flags}
            session.run("python", "setup.py", "-q", "build_ext", "--inplace", env=checked)
            loaded = {
                "PYTHONPATH": f"{scratch}/packages/lowmem-bp/src",
                "LD_PRELOAD": " ".join(libraries),
                "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter leaves much behind
            }
            # The extension is optional: a build that failed was a warning.
            session.run("python", "-c", "import lowmem_bp._native", env=loaded)
            tests = session.posargs or ["tests/test_backends.py"]
            session.run("pytest", "-s", "-m", "not slow", *tests, env={**TEST_ENV, **loaded})


@nox.session
def cov(session: nox.Session) -> None:
    """Report branch coverage; there is no threshold."""
    install_for_tests(session, "pytest-cov>=5")
    sources = [f"--cov={import_name(name)}" for name in PACKAGES]
    session.run("pytest", *DEFAULT_TESTS, *sources, "--cov-branch", *session.posargs, env=TEST_ENV)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff; pre-commit's tools are installed along with it."""
    session.install("ruff>=0.9", "pre-commit>=4", "pre-commit-hooks>=5")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy, strictly, once per package."""
    install(session, *editable(), "mypy>=1.14")
    for name in PACKAGES:
        source = f"packages/{name}/src"
        session.run("mypy", source, *session.posargs, env={"MYPYPATH": source})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/; a warning is an error."""
    # ruff formats the signatures on the API pages.
    session.install("mkdocs-material>=9.6", "mkdocstrings[python]>=0.30", "ruff>=0.9")
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", "--site-dir", "site", *session.posargs, env=quiet)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdists and wheels from a clean export and try each wheel alone, outside the tree."""
    session.install("build>=1.2", "twine>=6", "pytest>=8.1", "pytest-timeout>=2.3")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        clean_export(Path(scratch))
        for name in PACKAGES:
            session.run(
                "python", "-m", "build", "--outdir", str(dist), f"{scratch}/packages/{name}"
            )
    files = sorted(dist.iterdir())
    session.run("twine", "check", "--strict", *map(str, files))
    session.run(
        "pytest",
        "--noconftest",  # the top conftest.py needs torch, which is not in this environment
        "tests/test_wheels.py",
        "-m",
        "slow",
        *session.posargs,
        env={
            **TEST_ENV,
            "WHEEL_DIST": str(dist),
            "WHEEL_CONSTRAINTS": str(constraints(session)),
            "WHEEL_TEST_TOOLS": "\n".join(TEST_TOOLS),
        },
    )
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in files]
    (dist / "SHA256SUMS").write_text("\n".join([*lines, ""]))
    session.log("dist/SHA256SUMS\n" + "\n".join(lines))


@nox.session
def bench(session: nox.Session) -> None:
    """Compare lowmem-bp with its peers; ``-- NAME`` runs a package's scripts, ``-- PATH`` one."""
    install(session, *editable("demo", "hf", "report"))
    name, *arguments = session.posargs or ["packages/lowmem-bp/benchmarks/bench_comparison.py"]
    # All scripts of a package may take a day.
    scripts = sorted((ROOT / "packages" / name / "benchmarks").glob("bench_*.py")) or [name]
    for script in scripts:
        session.run("python", str(script), *arguments, env=OFFLINE)


@nox.session
def tables(session: nox.Session) -> None:
    """Write the tables of README and documentation from the result files; -- --check compares."""
    install(session, *editable("report"))
    session.run("python", "docs/tables", *session.posargs)


@nox.session(venv_backend="none")
def vendor(session: nox.Session) -> None:
    """Write the copies of the vendored folders; tests/test_vendored.py compares them."""
    for source, target in vendored_folders():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        session.log(f"{source.relative_to(ROOT)} -> {target.relative_to(ROOT)}")


def vendored_folders() -> list[tuple[Path, Path]]:
    """Pairs of a vendored folder's source of truth and a copy of it."""
    inside = {name: ROOT / "packages" / name / "src" / import_name(name) for name in PACKAGES}
    pairs = [
        (inside["lowmem-bp"] / "_kit", folder / "_kit")
        for name, folder in inside.items()
        if name != "lowmem-bp"
    ]
    if {"lare", "lemae"} <= inside.keys():
        pairs.append((inside["lare"] / "_codegen", inside["lemae"] / "_codegen"))
    return pairs
