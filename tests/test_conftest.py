"""The top conftest.py keeps its promises."""

import random
import socket
import warnings

import numpy as np
import pytest
import torch

RANDOM = {
    "random": random.random,
    "numpy": np.random.rand,
    "torch": lambda: torch.rand(()).item(),
}
FIRST = pytest.StashKey()  # the values the random generators gave first


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "example.org"])
def test_connections_to_other_machines_fail_the_test(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(pytest.fail.Exception, match="network"):
        client.connect((address, 80))
    with socket.socket(family) as client, pytest.raises(pytest.fail.Exception, match="network"):
        client.connect_ex((address, 80))


def test_loopback_is_allowed():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        client.sendall(b"x")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b"x"


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("again", [False, True])
def test_each_test_starts_from_the_same_random_state(name, again, request):
    first = request.config.stash.setdefault(FIRST, {})
    value = RANDOM[name]()
    assert first.setdefault(name, value) == value


def test_one_thread():
    assert torch.get_num_threads() == 1


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match="loud"):
        warnings.warn("loud", stacklevel=1)
