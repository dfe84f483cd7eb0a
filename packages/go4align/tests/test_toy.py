"""The two-task landscape: losses and gradients by hand, and what methods do on it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from go4align.tasks import toy

points = st.floats(-10, 10).map(lambda x: round(x, 3))


def by_autograd(x):
    """The published formulas, in torch."""
    x1, x2 = x
    a = (0.5 * (-x1 - 7) - torch.tanh(-x2)).abs().clamp(min=5e-6)
    b = (0.5 * (-x1 + 3) + torch.tanh(-x2) + 2).abs().clamp(min=5e-6)
    bowl = 0.1 * (x2 + 8) ** 2
    q1, q2 = ((7 - x1) ** 2 + bowl) / 10 - 20, ((x1 + 7) ** 2 + bowl) / 10 - 20
    c1, c2 = torch.tanh(x2 / 2).clamp(min=0), torch.tanh(-x2 / 2).clamp(min=0)
    first = toy.SCALE * ((a.log() + 6) * c1 + q1 * c2)
    return torch.stack([first, (b.log() + 6) * c1 + q2 * c2])


@pytest.mark.parametrize("start", toy.STARTS)
def test_gradients_at_the_starts(start):
    check(*start)


@given(points, points)
def test_gradients_anywhere(x1, x2):
    check(x1, x2)


def check(x1, x2):
    x = torch.tensor([x1, x2], dtype=torch.float64)
    values, gradients = toy.losses_and_gradients(x1, x2)
    np.testing.assert_allclose(values, by_autograd(x), rtol=1e-12, atol=1e-12)
    expected = torch.autograd.functional.jacobian(by_autograd, x)
    np.testing.assert_allclose(gradients, expected, rtol=1e-9, atol=1e-12)


def test_front_is_optimal():
    """No weighted sum of the losses has a slope there, and its ends are where the paper's are."""
    at, losses = toy.front(21)
    assert at[0] == pytest.approx([-7, -8.43], abs=5e-3)
    assert at[-1] == pytest.approx([7, -8.43], abs=5e-3)
    assert at[10] == pytest.approx([0, -8.355], abs=1e-3)
    assert (np.diff(losses[:, 0]) < 0).all()
    assert (np.diff(losses[:, 1]) > 0).all()
    for point, share in zip(at, np.linspace(0, 1, 21), strict=True):
        _, gradients = toy.losses_and_gradients(*point)
        slope = share * gradients[0] / toy.SCALE + (1 - share) * gradients[1]
        np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_distance_and_place_on_the_front():
    _, losses = toy.front()
    assert toy.place_on_front(losses[500]) == (0.0, 0.25)
    distance, place = toy.place_on_front(losses[-1] + np.array([-3.0, 0.0]))
    assert distance == pytest.approx(3)
    assert place == 1


def test_a_bound_keeps_losses_positive_everywhere():
    grid = np.linspace(-10, 10, 41)
    for x1 in grid:
        for x2 in grid:
            assert (toy.losses_and_gradients(x1, x2)[0] > toy.LOWER_BOUNDS).all()


@pytest.mark.parametrize("name", ["ls", "si", "go4align", "go4align-published"])
def test_descends_and_records(name):
    descent = toy.descend(toy.make(name), (9.0, -1.0), steps=300, record_every=100)
    assert descent.path.shape == descent.losses.shape == descent.weights.shape == (4, 2)
    assert descent.path[0].tolist() == [9, -1]
    assert (descent.losses[-1] < descent.losses[0]).any()
    np.testing.assert_allclose(descent.weights.sum(1), 1)


@pytest.mark.parametrize("name", ["famo", "imtl-g", "mgda", "upgrad", "uw", "rlw", "dwa"])
def test_takes_the_methods_of_torchjd(name):
    pytest.importorskip("torchjd")
    descent = toy.descend(toy.make(name), (9.0, -1.0), steps=60, record_every=30)
    assert np.isfinite(descent.path).all()
    assert (descent.path[-1] != descent.path[0]).any()
