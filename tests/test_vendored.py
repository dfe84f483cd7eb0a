"""Copies of the shared folders equal their source byte for byte (`nox -s vendor` writes them)."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    "_kit": ROOT / "packages/lowmem-bp/src/lowmem_bp/_kit",
    "_codegen": ROOT / "packages/lare/src/lare/_codegen",
}
FOLDERS = sorted(
    path
    for name in SOURCES
    for path in ROOT.glob(f"packages/*/src/*/{name}")
    if any(path.glob("*.py"))
)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_copy_equals_its_source(folder):
    source = contents(SOURCES[folder.name])
    assert source, f"{SOURCES[folder.name]} is missing"
    different = [name for name, data in contents(folder).items() if source.get(name) != data]
    missing = source.keys() - contents(folder).keys()
    assert not different, f"edit the source, then run `nox -s vendor`: {different}"
    assert not missing, f"run `nox -s vendor`: {missing}"
