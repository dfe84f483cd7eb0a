"""Makes the module of small tasks importable, and writes the test's latent reward to a file."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def distance_file(tmp_path):
    from small_tasks import DISTANCE

    path = tmp_path / "distance.py"
    path.write_text(DISTANCE, encoding="utf-8")
    return str(path)
