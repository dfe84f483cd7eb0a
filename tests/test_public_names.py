"""Every public name is explained, and on the page that lists them.

Read from the sources, so that adapters of libraries that are not installed are looked at too.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
each_package = pytest.mark.parametrize("package", PACKAGES)


def import_name(package):
    return package.replace("-", "_")


def listed(package):
    """The modules on the page, and whether it shows what is in them."""
    page = (ROOT / "docs" / package / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: (\S+)((?:\n {4}.*)*)", page, re.MULTILINE)
    assert len({module for module, _ in entries}) == len(entries)
    return {module: "members: false" not in options for module, options in entries}


def file_of(module):
    """The file of a module, None if it is none of ours."""
    path = ROOT / "packages" / module.partition(".")[0].replace("_", "-") / "src"
    path = path / module.replace(".", "/")
    return next(
        (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None
    )


@cache
def contents(module):
    """What a module defines and what it imports from where, by name; and its ``__all__``."""
    defined, imported, public = {}, {}, None
    for node in ast.walk(ast.parse(file_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:  # of a folder's __init__
                home = f"{module}.{home}".rstrip(".")
            imported |= {alias.asname or alias.name: (home, alias.name) for alias in node.names}
    for node in ast.parse(file_of(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined[node.targets[0].id] = node
            if node.targets[0].id == "__all__":
                public = ast.literal_eval(node.value)
        elif isinstance(node, ast.AnnAssign):
            defined[node.target.id] = node
    return defined, imported, public


def home_of(module, name):
    """The module that defines a public name, and the definition: a node, or None for a module."""
    if file_of(f"{module}.{name}"):
        return f"{module}.{name}", None
    defined, imported, _ = contents(module)
    if name in defined:
        return module, defined[name]
    home, original = imported[name]
    return home_of(home, original)


def public_names(module):
    defined, _, public = contents(module)
    if public is not None:
        return public
    functions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [n for n, node in defined.items() if isinstance(node, functions) and n[0] != "_"]


@each_package
def test_page_lists_modules_that_are_there(package):
    assert listed(package)
    assert not [module for module in listed(package) if file_of(module) is None]


@each_package
def test_every_public_name_is_on_the_page(package):
    """Where it is defined, or in a folder that offers it; the package itself shows none."""
    shown = listed(package)
    name = import_name(package)
    missing = []
    for module in {name, *shown}:
        if module != name and shown[module]:
            continue
        for public in set(public_names(module)) - {"__version__"}:
            home, node = home_of(module, public)
            folder = home.rpartition(".")[0]
            in_folder = folder != name and shown.get(folder) and public in public_names(folder)
            in_module = home in shown if node is None else shown.get(home)
            if not (in_module or in_folder):
                missing.append(f"{public} of {home}")
    assert not missing


@each_package
def test_every_name_on_the_page_is_explained(package):
    bare = []
    for module in listed(package):
        tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            bare.append(module)
        for name in public_names(module):
            home, node = home_of(module, name)
            if node is None:
                node = ast.parse(file_of(home).read_text(encoding="utf-8"))
            # Constants have a comment, if they need one.
            if not isinstance(node, ast.Assign | ast.AnnAssign) and not ast.get_docstring(node):
                bare.append(f"{module}.{name}")
    assert not bare
