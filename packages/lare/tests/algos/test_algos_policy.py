"""The networks of a role: their first state, and draws in proportion."""

import pytest
import torch

from lare.algos import ActorCritic
from lare.errors import ConfigError


def test_the_first_policy_is_nearly_uniform_and_its_layers_are_orthogonal():
    policy = ActorCritic(6, 5, hidden=16)
    probabilities = policy.log_probabilities(torch.randn(50, 6)).exp()
    assert (probabilities - 0.2).abs().max() < 0.02
    for network, last_gain in ((policy.actor, 0.01), (policy.critic, 1.0)):
        middle, last = network[2].weight, network[4].weight
        torch.testing.assert_close(middle @ middle.T, 2 * torch.eye(16), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            last @ last.T, last_gain**2 * torch.eye(len(last)), atol=1e-6, rtol=0
        )
        assert all((network[i].bias == 0).all() for i in (0, 2, 4))


def test_the_seed_alone_decides_the_weights_and_the_global_generator_stays():
    before = torch.get_rng_state()
    one, same, other = (ActorCritic(4, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.actor[0].weight, same.actor[0].weight)
    assert not torch.equal(one.actor[0].weight, other.actor[0].weight)


def test_actions_are_drawn_in_proportion_and_come_with_their_log_probabilities():
    policy = ActorCritic(2, 3)
    with torch.no_grad():
        policy.actor[4].weight.zero_()
        policy.actor[4].bias.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    actions, logs = policy.act(torch.zeros(100, 200, 2), torch.Generator().manual_seed(0))
    assert actions.shape == logs.shape == (100, 200)
    shares = torch.bincount(actions.flatten(), minlength=3) / actions.numel()
    # Three deviations of a share of 20000 draws are at most 0.011.
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.011, rtol=0)
    torch.testing.assert_close(logs.exp(), torch.tensor([0.5, 0.3, 0.2])[actions])


def test_the_critic_sees_the_time_and_the_actor_does_not():
    observations = torch.randn(1, 2, 3, 4).expand(5, 2, 3, 4)
    seeing, blind = ActorCritic(4, 3), ActorCritic(4, 3, sees_time=False)
    inputs = seeing.critic_inputs(observations)
    assert inputs.shape == (5, 2, 3, 5)
    torch.testing.assert_close(inputs[:, 1, 2, 4], torch.tensor([0, 0.2, 0.4, 0.6, 0.8]))
    assert (seeing.values(inputs).std(0) > 0).all()
    assert blind.critic_inputs(observations) is observations
    torch.testing.assert_close(blind.values(observations)[0], blind.values(observations)[-1])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"hidden": 0}, "hidden=0"), ({"activation": "gelu"}, "'gelu'.*tanh")],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        ActorCritic(4, 3, **options)
