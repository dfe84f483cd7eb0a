"""The packages know nothing of each other, and import only what they declare."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
SHARED_FOLDERS_MAY_IMPORT = {
    "_kit": {"numpy", "matplotlib", "torch", "ray"},
    "_codegen": {"numpy", "openai", "tiktoken"},
}


def imported(path):
    """Top-level names that a file imports anywhere, relative imports aside: (name, line, lazy)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_import = set()
    pending = list(tree.body)
    while pending:  # what runs on import: everything outside functions and `if TYPE_CHECKING`
        node = pending.pop()
        at_import.add(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        for name in names:
            yield name.partition(".")[0], node.lineno, node not in at_import


def sources(package):
    return sorted((ROOT / "packages" / package / "src").rglob("*.py"))


def is_adapter(path, name):
    """Whether a file is there for users of one library, and nothing else imports it."""
    return path.parent.name == "integrations" or path.stem in (name, f"{name}_kernels")


def test_there_are_packages_with_sources():
    assert PACKAGES
    assert all(sources(package) for package in PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_another(package):
    others = {name.replace("-", "_") for name in {*PACKAGES, "go4align", "lare", "lemae"}}
    others.discard(package.replace("-", "_"))
    files = [*sources(package), *(ROOT / "packages" / package / "tests").rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for name, line, _ in imported(path)
        if name in others
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_runs_on_import_is_a_hard_dependency(package):
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", entry)[0] for entry in project["dependencies"]}
    allowed = declared | sys.stdlib_module_names | {package.replace("-", "_")}
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for name, line, lazy in imported(path)
        if not lazy and name not in allowed and not is_adapter(path, name)
    ]
    assert not found, "import it inside the function that needs it:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "folder",
    [name for name in SHARED_FOLDERS_MAY_IMPORT if any(ROOT.glob(f"packages/*/src/*/{name}/*.py"))],
)
def test_shared_folders_stand_alone(folder):
    """They are copied byte for byte, so that they may name no package, and little else."""
    allowed = SHARED_FOLDERS_MAY_IMPORT[folder] | sys.stdlib_module_names
    found = []
    for path in sorted(ROOT.glob(f"packages/*/src/*/{folder}/*.py")):
        # Only a command line imports this one.
        ours = {"typer", "rich"} if path.name == "command.py" else set()
        found += [
            f"{path.relative_to(ROOT)}:{line} imports {name}"
            for name, line, lazy in imported(path)
            if name not in allowed | ours
            or (name not in sys.stdlib_module_names | {"numpy"} | ours and not lazy)
        ]
    assert not found, "\n".join(found)
