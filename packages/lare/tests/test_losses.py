"""Return decomposition: closed forms, exact expectations, errors."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lare import losses
from lare.errors import ConfigError, ShapeError


def batch(lengths, seed=0, longest=None):
    generator = np.random.default_rng(seed)
    time = longest or max(lengths)
    mask = torch.arange(time) < torch.tensor(lengths)[:, None]
    predictions = torch.from_numpy(generator.normal(size=mask.shape))
    returns = torch.from_numpy(generator.normal(size=len(lengths)) * 3)
    return predictions, returns, mask


def test_rd_by_hand():
    predictions = torch.tensor([[1.0, 2.0, 9.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    returns = torch.tensor([5.0, 6.0])
    # (3 - 5) / 2 = -1 and (3 - 6) / 3 = -1
    assert losses.rd(predictions, returns, mask).item() == pytest.approx(1.0)
    assert losses.rd(predictions, returns, mask, normalize=False).item() == pytest.approx(6.5)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    k=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
def test_unbiased_loss_is_rd_in_expectation(lengths, k, seed):
    """The mean over every possible draw, one by one, is the loss over whole episodes."""
    predictions, returns, mask = batch(lengths, seed)
    draws = [list(itertools.combinations(range(n), min(k, n))) for n in lengths]
    total = count = 0.0
    for choice in itertools.product(*draws):
        width = max(map(len, choice))
        steps = torch.tensor([[*one, *[0] * (width - len(one))] for one in choice])
        chosen = torch.arange(width) < torch.tensor([len(one) for one in choice])[:, None]
        total += losses.rrd_on(
            predictions.gather(1, steps), returns, chosen, mask.sum(1), unbiased=True
        )
        count += 1
    torch.testing.assert_close(total / count, losses.rd(predictions, returns, mask))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("lengths", [[6], [3, 5]])
def test_biased_loss_adds_the_variance_of_the_mean(lengths, seed):
    k = 2
    predictions, returns, mask = batch(lengths, seed)
    wanted = losses.rd(predictions, returns, mask)
    for row, length in zip(predictions, lengths, strict=True):
        wanted = wanted + (1 - k / length) / k * row[:length].var() / len(lengths)
    generator = torch.Generator().manual_seed(seed)
    found = torch.stack([losses.rrd(predictions, returns, mask, k, generator) for _ in range(4000)])
    assert abs(found.mean() - wanted) < 5 * found.std() / 4000**0.5 + 1e-9


@pytest.mark.parametrize("unbiased", [False, True])
def test_episodes_not_longer_than_k_are_taken_whole(unbiased):
    predictions, returns, mask = batch([3, 5, 1])
    found = losses.rrd(predictions, returns, mask, 64, unbiased=unbiased)
    torch.testing.assert_close(found, losses.rd(predictions, returns, mask))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), k=st.integers(1, 12))
def test_draws_are_without_replacement_and_inside_the_episode(lengths, k):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    steps, chosen = losses.subset(mask, k)
    for row, used, length in zip(steps, chosen, lengths, strict=True):
        kept = row[used].tolist()
        assert len(kept) == len(set(kept)) == min(k, length)
        assert all(step < length for step in kept)


def test_every_step_is_drawn_equally_often():
    mask = torch.tensor([[True, True, True, True, False]])
    generator = torch.Generator().manual_seed(1)
    counts = torch.zeros(5)
    for _ in range(2000):
        counts[losses.subset(mask, 2, generator)[0]] += 1
    assert counts[4] == 0
    assert ((counts[:4] / 2000 - 0.5).abs() < 0.05).all()


def test_gradient_flows_through_both_terms():
    predictions, returns, mask = batch([6, 4])
    predictions.requires_grad_()
    steps, chosen = losses.subset(mask, 3)

    def loss(values):
        return losses.rrd_on(values.gather(1, steps), returns, chosen, mask.sum(1), unbiased=True)

    assert torch.autograd.gradcheck(loss, predictions)


def test_steps_outside_do_not_count():
    predictions, returns, mask = batch([2, 3], longest=5)
    wanted = losses.rd(predictions, returns, mask)
    predictions[~mask] = 1e9
    torch.testing.assert_close(losses.rd(predictions, returns, mask), wanted)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p, r, m: (p[0], r, m), ShapeError, r"\[episodes, time\]"),
        (lambda p, r, m: (p, r, m.float()), ShapeError, "mask as bool"),
        (lambda p, r, m: (p, r[:1], m), ShapeError, "for 2 episodes"),
        (lambda p, r, m: (p, r, m & False), ShapeError, "has no step"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        losses.rd(*change(*batch([2, 3])))


def test_bad_k():
    predictions, returns, mask = batch([4, 3])
    with pytest.raises(ConfigError, match="k is 0"):
        losses.rrd(predictions, returns, mask, 0)
    with pytest.raises(ConfigError, match="k of at least 2 or unbiased=False"):
        losses.rrd(predictions, returns, mask, 1, unbiased=True)
    assert losses.rrd(predictions[:, :1], returns, mask[:, :1], 1, unbiased=True) >= 0
