"""The facts that stand in several files agree."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
each_package = pytest.mark.parametrize("package", PACKAGES)


def folder(package):
    return ROOT / "packages" / package


def source(package):
    return folder(package) / "src" / package.replace("-", "_")


def pyproject(package):
    return tomllib.loads((folder(package) / "pyproject.toml").read_text(encoding="utf-8"))


def references():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]


def version(package):
    tree = ast.parse((source(package) / "_version.py").read_text())
    (value,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    ]
    return value


@each_package
def test_licence_is_a_copy_of_the_root_licence(package):
    assert (folder(package) / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@each_package
def test_version_is_the_newest_of_the_changelog(package):
    changelog = (folder(package) / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)[1]
    assert newest == version(package)


@each_package
def test_version_is_the_one_to_cite(package):
    (entry,) = [entry for entry in references() if entry["title"] == package]
    assert entry["version"] == version(package)


@each_package
def test_paper_is_the_one_to_cite(package):
    """The address in the project's metadata is that of a paper, whose title the README has too."""
    address = pyproject(package)["project"]["urls"]["Paper"]
    (paper,) = [entry for entry in references() if entry.get("url") == address]
    text = " ".join((folder(package) / "README.md").read_text(encoding="utf-8").split())
    assert paper["title"] in text
    assert address in text
    assert all(author.get("family-names", "") in text for author in paper["authors"])


@each_package
def test_version_is_read_from_the_version_file(package):
    data = pyproject(package)
    attribute = f"{package.replace('-', '_')}._version.__version__"
    assert data["project"]["dynamic"] == ["version"]
    assert data["tool"]["setuptools"]["dynamic"]["version"] == {"attr": attribute}


@each_package
def test_types_are_shipped(package):
    data = pyproject(package)
    assert (source(package) / "py.typed").is_file()
    assert "Typing :: Typed" in data["project"]["classifiers"]
    assert "py.typed" in data["tool"]["setuptools"]["package-data"][package.replace("-", "_")]


@each_package
def test_building_does_not_need_torch(package):
    """Newer pips do not pass constraints to the build environment: it would be the CUDA build."""
    build_system = pyproject(package)["build-system"]
    assert [re.match(r"[\w-]+", entry)[0] for entry in build_system["requires"]] == ["setuptools"]
    assert build_system["build-backend"] == "setuptools.build_meta"


@each_package
def test_every_dependency_has_a_lower_bound_and_no_upper_one(package):
    project = pyproject(package)["project"]
    extras = project.get("optional-dependencies", {}).values()
    for entry in [*project["dependencies"], *(item for extra in extras for item in extra)]:
        requirement = entry.partition(";")[0].strip()
        assert re.fullmatch(r"[\w-]+(\[[\w,-]+\])?(>=[\d.]+)?", requirement), entry
        assert ">=" in requirement or requirement.startswith(package), entry


@each_package
def test_command_has_the_name_of_the_package(package):
    """Folder, command and distribution are one name; only lare's distribution differs."""
    project = pyproject(package)["project"]
    assert project["scripts"] == {package: f"{package.replace('-', '_')}.cli:main"}
    # The name `lare` belongs to an unrelated project on PyPI.
    assert project["name"] == {"lare": "lare-rl"}.get(package, package)


def test_changelog_index_and_site_name_every_package():
    index = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for package in PACKAGES:
        assert f"packages/{package}/CHANGELOG.md" in index
        assert f"{package}/index.md" in site


def test_nothing_tells_a_user_to_install_the_stranger_named_lare():
    pattern = re.compile(r"pip install[^\n`]*\s['\"]?lare(?![-\w])")
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/*.md")]
    assert texts
    assert not [path.name for path in texts if pattern.search(path.read_text(encoding="utf-8"))]


@each_package
def test_readme_stands_alone_on_a_package_index(package):
    """An index shows it far from the repository, and to readers whom no service should count."""
    text = (folder(package) / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(
        r"\]\(([^)\s]+)|^\[[^\]]+\]:\s*(\S+)|(?:src|href)=[\"']([^\"']+)", prose, re.MULTILINE
    )
    targets = [target for link in links for target in link if target]
    assert targets, "a README names its paper"
    assert not [target for target in targets if not target.startswith(("https://", "#"))]
    assert not re.search(r"!\[|<img|!\s*\[", prose), "no picture from elsewhere, no badge"
