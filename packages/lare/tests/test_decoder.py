"""The decoder: shapes, standardization, and the closed form against a known truth."""

import numpy as np
import pytest
import torch

from lare import RewardDecoder
from lare.decoder import Standardizer
from lare.errors import ConfigError, ShapeError


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (2, 3, 6, 4), (0, 4)])
def test_shapes(shape):
    assert RewardDecoder(4)(torch.zeros(shape)).shape == shape[:-1]


def test_layers_count_the_last_one():
    sizes = [
        m.out_features for m in RewardDecoder(4, hidden=8, layers=3).network if hasattr(m, "bias")
    ]
    assert sizes == [8, 8, 1]


@pytest.mark.parametrize("parts", [[100], [1] * 100, [30, 50, 20], [0, 100]])
def test_statistics_do_not_depend_on_how_rows_arrive(parts):
    rows = torch.randn(100, 3) * torch.tensor([1.0, 1000.0, 0.1]) + 5
    standardizer = Standardizer(3, warmup=100)
    for part in rows.split(parts):
        standardizer.observe(part)
    found = standardizer(rows)
    torch.testing.assert_close(found.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_statistics_freeze_after_the_warmup():
    standardizer = Standardizer(2, warmup=10)
    standardizer.observe(torch.randn(25, 2))
    before = standardizer.mean.clone()
    assert standardizer.count == 10
    standardizer.observe(torch.full((5, 2), 1e6))
    assert torch.equal(standardizer.mean, before)


def test_a_constant_factor_stays_finite():
    standardizer = Standardizer(1, warmup=10)
    standardizer.observe(torch.full((10, 1), 3.0))
    assert standardizer(torch.tensor([[3.0]])).item() == 0.0


def test_without_standardization_the_input_is_as_it_is():
    decoder = RewardDecoder(2, "linear", standardize=0)
    decoder.observe(torch.randn(50, 2) * 100)
    rows = torch.randn(7, 2)
    torch.testing.assert_close(decoder(rows), decoder.network(rows)[:, 0])


@pytest.mark.parametrize("kind", ["ridge", "sparse"])
@pytest.mark.parametrize("standardize", [0, 500])
def test_closed_forms_recover_a_linear_reward(kind, standardize):
    """Rewards linear in the factors: returns alone give the weights, to 1e-6."""
    generator = np.random.default_rng(0)
    weights, offset = np.array([1.5, -0.3, 20.0]), 0.25
    lengths = generator.integers(5, 30, size=40)
    episodes = [generator.normal(size=(n, 3)) * [1, 100, 0.01] + [0, 50, 0] for n in lengths]
    returns = [float((e @ weights + offset).sum()) for e in episodes]
    decoder = RewardDecoder(3, kind, standardize=standardize)
    decoder.observe(torch.from_numpy(np.concatenate(episodes)))
    decoder.double()
    sums = torch.from_numpy(np.stack([e.sum(0) for e in episodes]))
    decoder.fit(
        sums, torch.tensor(returns, dtype=torch.float64), torch.from_numpy(lengths), penalty=0.0
    )
    found = decoder(torch.from_numpy(episodes[0])).detach().numpy()
    exact = 1e-6 if kind == "ridge" else 1e-4  # which allows for noise in the returns
    np.testing.assert_allclose(found, episodes[0] @ weights + offset, rtol=exact)


def test_penalty_shrinks_the_weights_and_spares_the_reward_per_step():
    sums, lengths = torch.randn(20, 2), torch.full((20,), 10)
    returns = sums[:, 0] + 50.0
    decoder = RewardDecoder(2, "ridge", standardize=0)
    decoder.fit(sums, returns, lengths, penalty=1e9)
    (layer,) = decoder.network
    assert layer.weight.abs().max() < 1e-3
    assert layer.bias.item() == pytest.approx(returns.mean().item() / 10, rel=1e-3)


def test_a_few_episodes_tell_which_factors_matter():
    """Ten factors, of which two are paid, and six episodes: too few equations for a penalty."""
    generator = np.random.default_rng(0)
    found = {"ridge": [], "sparse": []}
    for _ in range(20):
        sums = torch.from_numpy(generator.normal(size=(6, 10)))
        returns = 2 * sums[:, 3] - sums[:, 7] + 5
        rows = torch.from_numpy(generator.normal(size=(200, 10)))
        for kind, correlations in found.items():
            decoder = RewardDecoder(10, kind, standardize=0).double()
            decoder.fit(sums, returns, torch.ones(6))
            pair = torch.stack([decoder(rows).detach(), 2 * rows[:, 3] - rows[:, 7]])
            correlations.append(torch.corrcoef(pair)[0, 1].item())
    assert np.median(found["sparse"]) > 0.99
    assert np.median(found["ridge"]) < 0.9


@pytest.mark.parametrize("episodes", [1, 4])
def test_equal_returns_say_nothing_about_factors(episodes):
    decoder = RewardDecoder(3, "sparse", standardize=0)
    decoder.fit(torch.randn(episodes, 3), torch.full((episodes,), 6.0), torch.full((episodes,), 2))
    assert decoder(torch.randn(5, 3)).tolist() == [3.0] * 5


def test_noisy_returns_do_not_break_the_sparse_form():
    sums, lengths = torch.randn(40, 12), torch.full((40,), 10)
    decoder = RewardDecoder(12, "sparse", standardize=0)
    decoder.fit(sums, sums[:, 0] * 3 + torch.randn(40), lengths)
    (layer,) = decoder.network
    assert layer.weight[0, 0].item() == pytest.approx(3, abs=0.5)
    assert layer.weight[0, 1:].abs().max() < 0.6


@pytest.mark.parametrize("kind", ["ridge", "sparse"])
def test_fewer_episodes_than_factors_still_have_a_solution(kind):
    decoder = RewardDecoder(5, kind, standardize=0)
    decoder.fit(torch.randn(2, 5), torch.randn(2), torch.tensor([3, 4]))
    assert torch.isfinite(decoder(torch.randn(3, 5))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": "tree"}, "mlp, linear, ridge, sparse"), ({"hidden": 0}, "at least 1")],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        RewardDecoder(3, **options)


def test_bad_use():
    with pytest.raises(ShapeError, match="last dimension of this decoder is 3"):
        RewardDecoder(3)(torch.zeros(2, 4))
    with pytest.raises(ConfigError, match='kind="sparse"'):
        RewardDecoder(3).fit(torch.zeros(1, 3), torch.zeros(1), torch.ones(1))
