"""What holds for every test of the repository: fixed seeds, one thread, no network."""

from __future__ import annotations

import gc
import ipaddress
import os
import random
import socket

# Before any library reads it: a test that would download a model fails at once instead.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings

# Before triton is imported: without a GPU its kernels run in an interpreter, on the processor.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Derandomized: a failure in CI is the same failure on every machine.
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True)
settings.load_profile("ci")


def is_loopback(host):
    """Whether ``host`` (a name or an address) is this machine by its loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def pytest_collection_finish():
    """Spare the garbage collector the million objects of imported libraries."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _repeatable():
    """Seed the three generators and fix the thread count, which changes the last bits of a sum."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  libraries under test may still use the global generator
    # Before a GPU is first used, torch.manual_seed writes down the stack for each kind of GPU,
    # which takes longer than most tests; without one only the processor's generator is seeded.
    seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
    seed(0)
    torch.set_num_threads(1)
    # On CUDA this switch would refuse operations that the tests do not compare bit for bit.
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _no_network(request, monkeypatch):
    """Refuse connections that leave this machine, except in tests marked ``network``."""
    if request.node.get_closest_marker("network"):
        return

    def guard(original):
        def connect(self, address):
            # Unix sockets have a path for an address; torchrun and gloo use the loopback.
            if isinstance(address, tuple) and not is_loopback(address[0]):
                pytest.fail(f"a test tried to reach {address}; mark it `network` if it must")
            return original(self, address)

        return connect

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guard(getattr(socket.socket, name)))
