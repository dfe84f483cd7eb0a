"""Claims of arXiv 2404.06486 that can be checked without its data."""

import math

import numpy as np
import pytest
import torch

from go4align import GO4Align
from go4align.tasks import toy


def test_both_parts_of_the_indicator_have_the_effect_the_paper_gives_them():
    """Eq. 5: losses of 1 and 100 contribute alike. Eq. 6 prefers the smaller sum."""
    losses = torch.tensor([1.0, 100.0], dtype=torch.float64)
    balanced = GO4Align.published(2, 2, beta=0.0)
    balanced(losses)
    shares = balanced.weights * losses
    assert shares[0] == pytest.approx(float(shares[1]))
    smoothed = GO4Align.published(2, 2, beta=1e-3)
    for _ in range(10):
        smoothed(losses)
    ratio = (smoothed.weights * losses)[0] / (smoothed.weights * losses)[1]
    assert ratio == pytest.approx(math.exp(1e-3 * 99 * 10))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_accumulated_losses_give_up_one_task_on_the_landscape():
    """beta = 1e-3: the run from (9, -1) stops at one end of the front, (7, -8.43)."""
    descent = toy.descend(toy.make("go4align-published", beta=1e-3), (9.0, -1.0), steps=30_000)
    assert descent.reached
    assert descent.collapsed
    np.testing.assert_allclose(descent.path[-1], [7, -8.434], atol=0.02)
    assert descent.weights[-1, 1] < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_them_no_task_is_given_up():
    descent = toy.descend(toy.make("go4align-published", beta=0.0), (9.0, -1.0), steps=12_000)
    assert descent.reached
    assert not descent.collapsed
