"""Torch's global generator, borrowed: layers draw their weights from it, and it is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's generator of the CPU begins with ``seed``; afterwards it is as it was.

    ``torch.manual_seed`` would also move the generators of other devices, which nothing restores.

    Args:
        seed: any int that torch takes.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
