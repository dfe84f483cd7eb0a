"""The baselines by name: through the relabeler for one agent, built from a seed for several."""

import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from lare import RawFeatures, Relabeler
from lare.baselines import AREL, STAS, Diaster, InformationBottleneck, ReturnGuidance
from lare.errors import ConfigError
from lare.methods import METHODS, MULTI_AGENT, create, multi_agent_model, names

SPACES = Box(-1, 1, (2,)), Box(-1, 1, (1,))
TINY = {
    "vib": lambda n: InformationBottleneck(n, latent=2, hidden=8, k=4, standardize=30),
    "diaster": lambda n: Diaster(n, hidden=8, standardize=30),
    "ircr": lambda n: ReturnGuidance(),
}


def build(name, seed=0, n_envs=2):
    options = {"model": TINY[name], "batch_steps": 16, "capacity": 40}
    return create(name, None, *SPACES, seed=seed, n_envs=n_envs, **options)


def steps(relabeler, first, last):
    """Steps ``first`` to ``last`` of two environments, with an update and rewards after each."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(61, 2, 2)).astype(np.float32)
    actions = generator.normal(size=(60, 2, 1)).astype(np.float32)
    rewards = []
    for step in range(first, last):
        ends = [step % 5 == 4, step % 7 == 6]
        relabeler.observe(
            values[step], actions[step], values[step + 1], actions[step, :, 0], ends, False
        )
        relabeler.update()
        rows = np.arange(min(step + 1, 40))
        rewards.append(relabeler.relabel_rows(rows, rows % 2))
    return rewards


@pytest.mark.parametrize("name", TINY)
def test_a_resumed_run_goes_on_bit_for_bit(name):
    whole = steps(build(name), 0, 60)
    assert all(torch.isfinite(rewards).all() for rewards in whole)
    half = build(name)
    steps(half, 0, 33)
    resumed = build(name, seed=9)
    resumed.load_state_dict(half.state_dict())
    unpickled = pickle.loads(pickle.dumps(half.state_dict()))
    other = build(name, seed=8)
    other.load_state_dict(unpickled)
    for each in (resumed, other):
        for found, wanted in zip(steps(each, 33, 60), whole[33:], strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["vib", "diaster"])
def test_weights_follow_from_the_seed_and_leave_torch_alone(name):
    state = torch.get_rng_state()
    one, two, other = build(name), build(name), build(name, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(first, second)
    assert any(
        not torch.equal(first, second)
        for first, second in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )


def test_updates_learn_through_the_relabeler():
    for name in ("vib", "diaster"):
        relabeler = build(name)
        before = [p.clone() for p in relabeler.model.parameters()]
        steps(relabeler, 0, 20)
        assert all(
            not torch.equal(p, q) for p, q in zip(before, relabeler.model.parameters(), strict=True)
        )


def test_registered_methods_have_the_published_sizes():
    models = {name: create(name, None, *SPACES).model for name in ("vib", "diaster", "ircr")}
    assert {"vib", "diaster", "ircr"} <= set(names())
    vib, diaster = models["vib"], models["diaster"]
    assert (vib.k, vib.beta, vib.encoder[-1].out_features) == (64, 5e-3, 2 * 8)
    assert [layer.out_features for layer in vib.encoder[:-1:2]] == [256, 256]
    assert vib.encoder[0].in_features == 2 + 1 + 2
    assert diaster.scale == 10
    assert diaster.recurrent.input_size == 2 + 1
    assert diaster.recurrent.hidden_size == 256
    assert METHODS["diaster"].options["weighting"] == "length"
    assert METHODS["diaster"].options["episodes"] == 64
    assert isinstance(models["ircr"], ReturnGuidance)


def test_ircr_rewards_rows_by_their_return():
    relabeler = build("ircr", n_envs=1)
    zeros = np.zeros((1, 2))
    for start, reward, end in [(0, 1.0, False), (0, 1.0, True), (1, 4.0, True), (1, 9.0, False)]:
        relabeler.observe(zeros + start, np.zeros((1, 1)), zeros, [reward], [end], False)
    rewards = relabeler.relabel_rows(np.arange(4), np.zeros(4, dtype=int))
    assert rewards.tolist() == [0, 0, 1, 0.5]
    assert np.isnan(relabeler.update())
    assert relabeler.relabel(zeros, np.zeros((1, 1)), zeros).tolist() == [0.5]


def test_a_model_and_a_decoder_exclude_each_other():
    with pytest.raises(ConfigError, match="not both"):
        Relabeler(RawFeatures(), *SPACES, model=InformationBottleneck, decoder={"hidden": 8})


# --- several agents ------------------------------------------------------------------------------

TRAINED = [name for name in MULTI_AGENT if name != "direct"]


@pytest.mark.parametrize("name", TRAINED)
def test_every_team_method_rewards_each_agent(name, episodes):
    batch, _ = episodes(4, (3,))
    model = multi_agent_model(name, 3, 3)
    model.observe(batch.factors[batch.mask])
    model.loss(batch, torch.Generator().manual_seed(0)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.rewards(batch.factors, batch.mask).shape == (4, 8, 3)
    assert MULTI_AGENT[name].latent == name.startswith("lare")


@pytest.mark.parametrize("name", TRAINED)
def test_team_weights_follow_from_the_seed_and_leave_torch_alone(name):
    state = torch.get_rng_state()
    one, two, other = (multi_agent_model(name, 3, 3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    first, second, third = (
        torch.cat([p.flatten() for p in model.parameters()]) for model in (one, two, other)
    )
    assert torch.equal(first, second)
    assert name == "lare" or not torch.equal(first, third)  # which starts from zeros


@pytest.mark.parametrize("name", TRAINED)
def test_a_team_model_resumes_bit_for_bit(name, episodes, train):
    batch, _ = episodes(4, (3,))
    options = {"hidden": 12} if name in ("arel", "stas") else {}
    one = multi_agent_model(name, 3, 3, **options)
    one.observe(batch.factors[batch.mask])
    train(one, batch, n=2)
    other = multi_agent_model(name, 3, 3, seed=1, **options)
    other.load_state_dict(one.state_dict())
    for model in (one, other):
        train(model, batch, n=2)
    rewards = [model.rewards(batch.factors, batch.mask) for model in (one, other)]
    assert torch.equal(*rewards)


def test_team_methods_have_the_published_sizes():
    models = {name: multi_agent_model(name, 7, 4) for name in TRAINED}
    for name in ("lare-rd", "rd", "rrd", "rrd-unbiased"):
        layers = [layer for layer in models[name].decoder.network if hasattr(layer, "weight")]
        assert [layer.out_features for layer in layers] == [64, 64, 64, 64, 1]
    assert [models[name].kind for name in ("lare-rd", "rd", "rrd")] == ["rd-sum", "rd-sum", "rrd"]
    assert models["rrd"].k == models["vib"].k == 10
    assert (models["vib"].beta, models["vib"].normalize) == (1.0, False)
    assert models["vib"].encoder[-1].out_features == 2 * 4
    arel, stas = models["arel"], models["stas"]
    assert isinstance(arel, AREL)
    assert isinstance(stas, STAS)
    assert (len(arel.time_blocks), arel.time_blocks[0].attention.heads) == (3, 3)
    assert (len(stas.time_blocks), stas.agent_attention.heads, stas.samples) == (3, 4, 5)
    assert arel.head.in_features == stas.head.in_features == 128
    assert arel.variance_weight == 20


def test_options_take_the_place_of_the_published_ones():
    assert multi_agent_model("rrd", 3, 2, k=4, hidden=8).k == 4
    assert multi_agent_model("lare", 3, 2, loss="rd", standardize=0).kind == "rd"
    assert multi_agent_model("vib", 3, 2, beta=0.5).beta == 0.5
    assert multi_agent_model("arel", 3, 2, variance_weight=0.0).variance_weight == 0
    with pytest.raises(ConfigError, match="choose from lare"):
        multi_agent_model("shapley", 3, 2)


def test_direct_generation_pays_each_agent_what_the_function_says():
    model = multi_agent_model("direct", 1, 3)
    factors = torch.randn(2, 5, 3, 1)
    assert torch.equal(model.rewards(factors), factors[..., 0])
    with pytest.raises(ConfigError, match="2 factors"):
        multi_agent_model("direct", 2, 3)
    with pytest.raises(ConfigError, match="nothing to train"):
        model.loss(None, None)
