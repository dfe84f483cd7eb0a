"""The bottleneck: its divergence, its draws, and what the loss is made of."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lare.baselines import InformationBottleneck
from lare.baselines.vib import divergence
from lare.errors import ConfigError
from lare.losses import rd, rrd_on, subset


def tiny(n_features=3, **options):
    torch.manual_seed(0)
    return InformationBottleneck(
        n_features, **{"latent": 2, "hidden": 16, "k": 4, "standardize": 0, **options}
    )


def loss(model, batch, seed=0):
    return model.loss(batch, torch.Generator().manual_seed(seed))


def silence(model):
    """Take the noise out of the latents: a variance of exp(-60)."""
    with torch.no_grad():
        model.encoder[-1].weight[2:] = 0
        model.encoder[-1].bias[2:] = -60


def test_the_divergence_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 4, 3, generator=generator, dtype=torch.float64)
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(divergence(mean, log_variance), wanted)
    assert divergence(torch.zeros(2), torch.zeros(2)) == 0


@pytest.mark.parametrize("agents", [(), (2,)])
def test_without_noise_and_divergence_all_steps_give_plain_decomposition(episodes, agents):
    batch, _ = episodes(agents=agents)
    for normalize in (True, False):
        model = tiny(k=8, beta=0.0, normalize=normalize)
        silence(model)
        rewards = model.rewards(batch.factors)
        assert rewards.shape == batch.factors.shape[:-1]
        team = rewards.flatten(2).sum(2) if agents else rewards
        wanted = rd(team, batch.returns, batch.mask, normalize=normalize)
        torch.testing.assert_close(loss(model, batch), wanted)


def test_the_divergence_counts_existing_steps_alone_and_by_its_weight(episodes):
    batch, _ = episodes(agents=(2,))
    without, with_it = tiny(k=8, beta=0.0), tiny(k=8, beta=3.0)
    mean = divergence(*with_it.encode(batch.factors))[batch.mask].mean()
    torch.testing.assert_close(loss(with_it, batch) - loss(without, batch), 3 * mean)


def test_latents_are_drawn_for_the_loss_and_not_for_rewards(episodes):
    batch, _ = episodes()
    model = tiny(k=8)  # all steps: nothing but the latents is random
    assert loss(model, batch, 0) == loss(model, batch, 0)
    assert loss(model, batch, 0) != loss(model, batch, 1)
    assert torch.equal(model.rewards(batch.factors), model.rewards(batch.factors))


def test_the_loss_reads_a_sample_of_the_gaussian(episodes):
    batch, _ = episodes()
    model = tiny(k=4, beta=0.0)
    generator = torch.Generator().manual_seed(0)
    steps, chosen = subset(batch.mask, 4, generator)
    rows = torch.arange(len(steps))[:, None]
    mean, log_variance = model.encode(batch.factors[rows, steps])
    latent = mean + log_variance.exp().sqrt() * torch.randn(mean.shape, generator=generator)
    lengths = batch.mask.sum(1)
    wanted = rrd_on(model.decoder(latent), batch.returns, chosen, lengths)
    torch.testing.assert_close(loss(model, batch), wanted)


def test_every_parameter_learns(episodes, check_gradients):
    check_gradients(tiny(), episodes()[0])


@pytest.mark.parametrize("agents", [(), (2,)])
def test_a_linear_reward_is_learned(episodes, train, explained, agents):
    model = tiny(beta=1e-3)
    train(model, episodes(64, agents)[0])
    batch, rewards = episodes(64, agents, seed=1)
    with torch.no_grad():
        predicted = model.rewards(batch.factors)
    assert explained(predicted[batch.mask], rewards[batch.mask]) > 0.6


def test_inputs_are_standardized():
    model = tiny(standardize=100)
    rows = 5 + 3 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    model.observe(rows)
    plain = tiny()
    scaled = (rows - rows.mean(0)) / rows.std(0, correction=0)
    torch.testing.assert_close(model.rewards(rows), plain.rewards(scaled))


@pytest.mark.parametrize("name", ["n_features", "latent", "k", "hidden", "beta", "standardize"])
def test_sizes_are_checked(name):
    bad = {"beta": -0.1, "standardize": -1}.get(name, 0)
    with pytest.raises(ConfigError, match=f"{name}={bad}"):
        InformationBottleneck(**{"n_features": 3, name: bad})
