"""Episodes with a known reward, for every baseline."""

import pytest
import torch

from lare.episodes import EpisodeBatch


@pytest.fixture
def episodes():
    """A function that draws padded episodes of 3 to 8 steps, whose steps earn ``rewards``.

    A step (of an agent) earns ``x_0 - 2 x_1 + 1``; the return is the sum over steps and agents.
    """

    def draw(n=32, agents=(), seed=0, features=3):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(3, 9, (n,), generator=generator)
        mask = torch.arange(8) < lengths[:, None]
        factors = torch.randn(n, 8, *agents, features, generator=generator)
        factors[~mask] = 0
        rewards = factors[..., 0] - 2 * factors[..., 1] + 1
        rewards[~mask] = 0
        return EpisodeBatch(factors, mask, rewards.flatten(1).sum(1)), rewards

    return draw


@pytest.fixture
def train():
    """A function that takes Adam steps on the loss."""

    def steps(model, batch, n=200, lr=1e-2, seed=0):
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr)
        for _ in range(n):
            loss = model.loss(batch, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


@pytest.fixture
def explained():
    """A function for the share of the variance that a prediction explains: the mean has 0."""

    def share(predicted, true):
        return float(1 - (predicted - true).square().mean() / true.var(correction=0))

    return share


@pytest.fixture
def check_gradients():
    """A function that fails where a parameter gets no gradient from the loss."""

    def check(model, batch):
        model.loss(batch, torch.Generator().manual_seed(0)).backward()
        without = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().sum() > 0
        ]
        assert not without

    return check
