"""Step tables, their presets, the two solvers and calibration."""

from __future__ import annotations

import functools
import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowmem_bp.errors import ConfigError
from lowmem_bp.fit import calibrate, derivative_error, fit_stepwise, function_error
from lowmem_bp.steps import PRESETS, StepTable, preset

finite = st.floats(-1e6, 1e6)


@functools.cache
def function_fit(activation, bits=2):
    return fit_stepwise(activation, bits=bits, objective="function")


def close(values, expected, tolerance):
    return torch.allclose(
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=tolerance,
    )


# --- tables ---------------------------------------------------------------------------------


@given(bits=st.sampled_from([1, 2, 4]), data=st.data())
def test_table_survives_json_exactly(bits, data):
    cuts = sorted(data.draw(st.lists(finite, min_size=2**bits - 1, max_size=2**bits - 1)))
    levels = data.draw(st.lists(finite, min_size=2**bits, max_size=2**bits))
    table = StepTable(tuple(cuts), tuple(levels))
    assert table.bits == bits
    assert StepTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


@pytest.mark.parametrize(
    ("cuts", "levels", "message"),
    [
        ((0.0, 1.0), (0.0, 1.0), "2 levels and 2 cuts"),
        ((0.0, 1.0), (0.0, 0.5, 1.0), "3 levels and 2 cuts"),
        (tuple(range(7)), tuple(range(8)), "8 levels and 7 cuts"),
        ((1.0, 0.0, 2.0), (0.0, 0.1, 0.2, 0.3), "ascending"),
        ((math.nan,), (0.0, 1.0), "cuts=.*finite"),
        ((0.0,), (0.0, math.inf), "levels=.*finite"),
        (("zero",), (0.0, 1.0), "cuts=.*finite"),
        (0.0, (0.0, 1.0), "cuts=.*finite"),
    ],
)
def test_impossible_tables_are_refused(cuts, levels, message):
    with pytest.raises(ConfigError, match=message):
        StepTable(cuts, levels)


def test_from_dict_names_the_keys_it_wants():
    with pytest.raises(ConfigError, match=r"\['cut', 'levels'\].*cuts and levels"):
        StepTable.from_dict({"cut": [0.0], "levels": [0.0, 1.0]})


# --- presets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [key for key in PRESETS if key[0] == "grad" and key[1] != "relu"], ids=str
)
def test_presets_are_what_the_solver_finds(key):
    _, activation, bits = key
    fitted = fit_stepwise(activation, bits=bits).table
    assert close(fitted.cuts, PRESETS[key].cuts, 1e-7)
    assert close(fitted.levels, PRESETS[key].levels, 1e-7)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_paper_presets_obey_the_two_equalities_of_the_paper(activation):
    table = preset(activation, "paper")
    hinges = [b - a for a, b in itertools.pairwise(table.levels)]
    assert table.levels[0] == 0
    assert sum(hinges) == pytest.approx(1, abs=1e-15)
    assert sum(a * c for a, c in zip(hinges, table.cuts, strict=True)) == pytest.approx(0, abs=1e-9)


def test_relu_preset_is_the_exact_derivative():
    assert derivative_error("relu", preset("relu", bits=1)) == pytest.approx((0, 1), abs=1e-14)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("gleu",), r"preset\('gelu', 'grad', bits=2\)"),
        (("gelu", "papr"), r"preset\('gelu', 'paper', bits=2\)"),
        (("gelu", "paper", 4), r"preset\('gelu', 'paper', bits=2\)"),
        (("gelu", "grad", 3), r"preset\('gelu', 'grad', bits=\d\)"),
        (("relu", "grad", 2), r"preset\('relu', 'grad', bits=1\)"),
    ],
)
def test_unknown_preset_lists_near_ones(arguments, near):
    with pytest.raises(ConfigError, match=near):
        preset(*arguments)


# --- objective "derivative" -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "std", "q", "levels"),
    [
        ("gelu", 1.0, 0.498962280, (-0.046385928, 0.312675097, 0.687324903, 1.046385928)),
        ("gelu", 2.0, 0.508065827, (-0.051588272, 0.306702166, 0.693297834, 1.051588272)),
        ("gelu_tanh", 2.0, 0.508426902, (-0.051679525, 0.306613200, 0.693386800, 1.051679525)),
        ("silu", 1.0, 0.668528726, (0.033594670, 0.344526355, 0.655473645, 0.966405330)),
        ("silu", 2.0, 0.806696229, (-0.038092663, 0.311042530, 0.688957470, 1.038092663)),
    ],
)
def test_derivative_fit_reaches_known_optimum(activation, std, q, levels):
    table = fit_stepwise(activation, weight=("normal", 0.0, std)).table
    assert close(table.cuts, (-q, 0, q), 1e-8)
    assert close(table.levels, levels, 1e-8)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_derivative_fit_of_a_parabola_is_the_uniform_quantiser(bits):
    # h' = 2x under a uniform weight on (-1, 1): 2**bits equal cells of height 4 / 2**bits.
    count = 2**bits
    fit = fit_stepwise(torch.square, bits=bits, weight="uniform", interval=(-1.0, 1.0))
    assert close(fit.table.cuts, [2 * k / count - 1 for k in range(1, count)], 1e-9)
    assert close(fit.table.levels, [(4 * k + 2) / count - 2 for k in range(count)], 1e-9)
    assert fit.error == pytest.approx((4 / count) ** 2 / 12, rel=1e-10)
    assert fit.relative_error == pytest.approx(math.sqrt(fit.error / (4 / 3)), rel=1e-10)


# Relative error and cosine for x ~ N(0, std**2), as printed with three decimals.
GELU_QUALITY = {
    "paper": {0.5: (0.544, 0.906), 1.0: (0.357, 0.947), 2.0: (0.245, 0.972), 3.0: (0.201, 0.981)},
    "fit": {0.5: (0.172, 0.986), 1.0: (0.133, 0.991), 2.0: (0.103, 0.995), 3.0: (0.091, 0.996)},
}


@pytest.mark.parametrize("scheme", GELU_QUALITY)
def test_quality_of_two_bits_is_as_tabulated(scheme):
    if scheme == "paper":
        table = preset("gelu", "paper")
    else:
        table = fit_stepwise("gelu", weight=("normal", 0.0, 1.0)).table
    for std, expected in GELU_QUALITY[scheme].items():
        measured = derivative_error("gelu", table, weight=("normal", 0.0, std))
        assert measured == pytest.approx(expected, abs=1.1e-3), std


@pytest.mark.parametrize(
    ("activation", "bits", "std", "expected"),
    [
        ("gelu", 1, 1.0, (0.290, 0.957)),
        ("gelu", 4, 1.0, (0.036, 0.999)),
        ("silu", 2, 1.0, (0.144, 0.990)),
        ("silu", 2, 2.0, (0.117, 0.993)),
    ],
)
def test_quality_of_other_widths_is_as_tabulated(activation, bits, std, expected):
    weight = ("normal", 0.0, std)
    fit = fit_stepwise(activation, bits=bits, weight=weight)
    assert derivative_error(activation, fit.table, weight=weight) == pytest.approx(
        expected, abs=6e-4
    )
    assert fit.relative_error == pytest.approx(expected[0], abs=6e-4)


@settings(max_examples=30)
@given(
    activation=st.sampled_from(["gelu", "silu", "mish", "softplus"]),
    bits=st.sampled_from([1, 2, 4]),
    data=st.data(),
)
def test_no_random_table_beats_the_fit(activation, bits, data):
    best = derivative_error(activation, preset(activation, bits=bits))[0]
    near = preset(activation, bits=bits)
    moves = st.floats(-0.3, 0.3)
    cuts = sorted(cut + data.draw(moves) for cut in near.cuts)
    levels = tuple(level + data.draw(moves) for level in near.levels)
    other = derivative_error(activation, StepTable(tuple(cuts), levels))[0]
    assert best <= other + 1e-12


def brute_force(values, exact, count):
    """Least squared error over all ways to cut sorted distinct values into ``count`` cells."""
    errors = []
    for bounds in itertools.combinations(range(1, len(values)), count - 1):
        ends = [0, *bounds, len(values)]
        cells = [exact[a:b] for a, b in itertools.pairwise(ends)]
        errors.append(sum(float(((cell - cell.mean()) ** 2).sum()) for cell in cells))
    return min(errors) / len(values)


@given(
    values=st.lists(st.floats(-6, 6, width=32), min_size=4, max_size=12, unique=True),
    bits=st.sampled_from([1, 2]),
)
def test_sample_fit_equals_brute_force(values, bits):
    x = torch.tensor(sorted(values), dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(nn.functional.gelu(leaf).sum(), leaf)
    fit = fit_stepwise("gelu", bits=bits, samples=x)
    assert fit.error == pytest.approx(brute_force(x, exact, 2**bits), abs=1e-12)
    # the table itself, applied with its own rule for ties, has that error
    codes = (x[:, None] > torch.tensor(fit.table.cuts, dtype=torch.float64)).sum(1)
    steps = torch.tensor(fit.table.levels, dtype=torch.float64)[codes]
    assert float(((exact - steps) ** 2).mean()) == pytest.approx(fit.error, abs=1e-12)


def test_sample_fit_approaches_the_fit_of_the_distribution():
    samples = 2 * torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    samples[:2] = torch.tensor([math.nan, math.inf])
    fit = fit_stepwise("gelu", samples=samples.reshape(2, -1))
    assert close(fit.table.levels, preset("gelu").levels, 0.01)
    assert close(fit.table.cuts, preset("gelu").cuts, 0.02)
    # polished below the grid of candidates: no single level is improved by its cell's mean
    assert derivative_error("gelu", fit.table, samples=samples)[0] == pytest.approx(
        fit.relative_error, rel=1e-9
    )
    assert fit.relative_error <= derivative_error("gelu", preset("gelu"), samples=samples)[0]


def test_density_callable_equals_the_normal_weight():
    def density(x):
        return 7 * torch.exp(-0.5 * (x - 0.5) ** 2)

    named = fit_stepwise("silu", weight=("normal", 0.5, 1.0), interval=(-6.0, 7.0))
    called = fit_stepwise("silu", weight=density, interval=(-6.0, 7.0))
    assert close(called.table.levels, named.table.levels, 1e-12)
    assert called.error == pytest.approx(named.error, rel=1e-9)


def test_exact_tails_take_the_slopes_of_the_asymptotes():
    free = fit_stepwise("gelu")
    exact = fit_stepwise("gelu", tails="exact")
    assert exact.table.levels[0] == 0
    assert exact.table.levels[-1] == 1
    # tabulated for the scheme with tails 0 and 1
    assert exact.relative_error == pytest.approx(0.120, abs=6e-4)
    assert free.error < exact.error
    samples = torch.linspace(-4, 4, 3001)
    assert fit_stepwise("gelu", tails="exact", samples=samples).table.levels[::3] == (0, 1)


def test_kinked_derivatives_are_fitted_exactly():
    leaky = fit_stepwise(lambda x: nn.functional.leaky_relu(x, 0.01), bits=1)
    assert close(leaky.table.levels, (0.01, 1.0), 1e-12)
    assert close(leaky.table.cuts, (0.0,), 1e-12)
    assert leaky.error < 1e-14
    # more levels than values: the spare ones must do no harm
    spare = fit_stepwise("relu", bits=2)
    assert spare.error < 1e-14
    # hardswish's derivative jumps by 1/2 at -3 and 3: worth a cut each when there are many
    cuts = fit_stepwise("hardswish", bits=4).table.cuts
    assert all(min(abs(cut - jump) for cut in cuts) < 1e-9 for jump in (-3, 3))


# --- objective "function" -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "error", "outer", "middle", "knot"),
    [
        ("gelu", 0.0095069350, -0.0495752057, 1.0991504115, 3.1713097),
        ("silu", 0.0399413165, -0.0405242935, 1.0810485871, 6.3199334),
        ("gelu_tanh", 0.0095521516, -0.0497861330, 1.0995722661, 3.1628801),
    ],
)
def test_function_fit_reaches_the_optimum_of_the_papers_objective(
    activation, error, outer, middle, knot
):
    fit = function_fit(activation)
    assert fit.error == pytest.approx(error, abs=1e-8)
    assert close(fit.table.levels, (0, outer, outer + middle, 1), 1e-8)
    assert close(fit.table.cuts, (-knot, 0, knot), 1e-7)
    assert function_error(activation, fit.table) == pytest.approx(fit.error, rel=1e-12)


@pytest.mark.parametrize(
    ("activation", "published", "reach"),
    [("gelu", 0.0095093362, 6.07), ("silu", 0.0399437980, 38.2)],
)
def test_published_constants_have_the_known_function_error(activation, published, reach):
    table = preset(activation, "paper")
    assert function_error(activation, table) == pytest.approx(published, abs=1e-8)
    # the paper's own truncation points change nothing
    fit = fit_stepwise(activation, objective="function", tails="exact", interval=(-reach, reach))
    assert fit.error == pytest.approx(function_fit(activation).error, abs=1e-13)


def test_function_fit_of_a_parabola_has_equal_pieces():
    # Best lines on equal pieces of width 1/2 happen to join: error 4 * (1/2)**5 / 180.
    fit = fit_stepwise(torch.square, objective="function", interval=(-1.0, 1.0))
    assert close(fit.table.cuts, (-0.5, 0, 0.5), 1e-8)
    assert close(fit.table.levels, (-1.5, -0.5, 0.5, 1.5), 1e-8)
    assert fit.error == pytest.approx(4 * 0.5**5 / 180, rel=1e-10)
    measured = function_error(torch.square, fit.table, interval=(-1.0, 1.0))
    assert measured == pytest.approx(fit.error, rel=1e-10)


def test_function_fit_of_hardswish_has_knots_beyond_its_kinks():
    # For x <= 0 the best line through (x1, 0) has, by hand, x1 = -9/2 and error 7/120 per side.
    fit = fit_stepwise("hardswish", objective="function")
    assert close(fit.table.cuts, (-4.5, 0, 4.5), 1e-8)
    assert fit.error == pytest.approx(7 / 60, rel=1e-10)


def test_one_bit_function_fit_is_the_corner_of_the_asymptotes():
    fit = fit_stepwise("gelu", bits=1, objective="function")
    assert fit.table == StepTable((0.0,), (0.0, 1.0))


def test_bounded_and_periodic_functions():
    bounded = fit_stepwise("tanh", objective="function")
    assert bounded.table.levels[::3] == (0, 0)
    periodic = fit_stepwise(torch.sin, objective="function", interval=(-math.pi, math.pi))
    assert periodic.relative_error < 0.09
    assert (
        derivative_error(torch.sin, periodic.table, weight="uniform", interval=(-math.pi, math.pi))[
            1
        ]
        > 0.9
    )


def test_four_bit_function_fit_keeps_the_symmetry_of_gelu():
    fit = fit_stepwise("gelu", bits=4, objective="function")
    assert close(fit.table.cuts, [-cut for cut in fit.table.cuts[::-1]], 1e-7)
    assert close(fit.table.levels, [1 - level for level in fit.table.levels[::-1]], 1e-7)
    assert fit.error < function_fit("gelu").error / 500


@pytest.mark.parametrize("bits", [2, 4])
def test_function_fit_whose_outer_knots_matter_little_is_found(bits):
    # tanh's two asymptotes have one slope, and a narrow weight sees nothing of GELU's tails: the
    # error hardly depends on where the outer knots lie.
    flat = fit_stepwise("tanh", bits=bits, objective="function")
    narrow = fit_stepwise("gelu", bits=bits, objective="function", weight=("normal", 0.0, 0.5))
    assert flat.relative_error < 0.03 / (bits - 1) ** 2
    assert narrow.relative_error < 0.2 / (bits - 1) ** 3


def test_function_fit_to_samples_follows_them():
    generator = torch.Generator().manual_seed(2)
    samples = torch.randn(20_000, generator=generator) * 0.7 - 0.5
    table = fit_stepwise("gelu", objective="function", samples=samples).table
    everywhere = function_fit("gelu").table
    error = derivative_error("gelu", table, samples=samples)[0]
    assert error < derivative_error("gelu", everywhere, samples=samples)[0]


# --- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "arguments", "message"),
    [
        ("geluu", {}, "gelu"),
        ("gelu", {"bits": 3}, "bits=3.*1 or 2 or 4"),
        ("gelu", {"objective": "slope"}, "objective='slope'.*'derivative' or 'function'"),
        ("gelu", {"tails": "zero"}, "tails='zero'.*'free' or 'exact'"),
        ("gelu", {"weight": ("normal", 0.0, 0.0)}, "std > 0"),
        ("gelu", {"weight": "gamma", "interval": (0.0, 1.0)}, "weight='gamma'"),
        ("gelu", {"weight": "uniform"}, "interval="),
        ("gelu", {"weight": torch.zeros_like, "interval": (0.0, 1.0)}, "no mass"),
        ("gelu", {"interval": (1.0, -1.0)}, "the lower first"),
        ("gelu", {"samples": torch.ones(9)}, "1 distinct finite values.*at least 4"),
        ("gelu", {"samples": torch.randn(9), "interval": (0.0, 1.0)}, "samples alone"),
        (torch.square, {"tails": "exact"}, "no linear asymptote.*interval="),
        (torch.square, {"objective": "function"}, "no linear asymptote.*interval="),
        (torch.sin, {"objective": "function"}, "no linear asymptote.*interval="),
        ("sigmoid", {"objective": "function", "bits": 1}, "parallel asymptotes"),
        (lambda x: x.float(), {}, "same dtype"),
        (lambda x: x.sum(), {"interval": (0.0, 1.0)}, "shape"),
        (torch.log, {}, r"not finite.*interval="),
    ],
)
def test_errors_say_what_to_do(fn, arguments, message):
    derivative = torch.ones_like if fn is torch.log else None
    if callable(fn) and fn not in (torch.square, torch.sin):
        arguments = {"objective": "function", **arguments}
    with pytest.raises(ConfigError, match=message):
        fit_stepwise(fn, derivative, **arguments)


def test_fits_repeat_and_leave_the_global_random_state_alone():
    state = torch.get_rng_state()
    first = fit_stepwise("softplus", objective="function")
    assert fit_stepwise("softplus", objective="function") == first
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_and_default_device_of_the_caller_do_not_matter():
    fn = nn.functional.gelu
    samples = torch.linspace(-3, 3, 200)
    plain = fit_stepwise(fn, bits=1), fit_stepwise(fn, samples=samples)
    for mode in (torch.no_grad(), torch.inference_mode(), torch.device("meta")):
        with mode:
            assert (fit_stepwise(fn, bits=1), fit_stepwise(fn, samples=samples)) == plain
            assert function_error(fn, plain[0].table) > 0
            assert derivative_error(fn, plain[0].table)[0] == pytest.approx(plain[0].relative_error)


# --- calibrate ------------------------------------------------------------------------------


class Two(nn.Module):
    """Two kinds of activations, one of them unused, and everything that has a state."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.GELU())
        self.leave = nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 8), nn.SiLU())
        self.unused = nn.ReLU()

    def forward(self, x, scale=1.0):
        return self.leave(self.enter(scale * x))


@pytest.fixture
def model():
    return Two()


def test_calibrate_fits_the_inputs_each_module_saw(model):
    batches = [torch.randn(16, 4) for _ in range(3)]
    tables = calibrate(model.eval(), batches, bits=1)
    seen = torch.cat([model.enter[:2](batch).detach() for batch in batches])
    assert set(tables) == {"enter.2", "leave.2"}
    assert tables["enter.2"] == fit_stepwise("gelu", bits=1, samples=seen).table
    assert tables["leave.2"].bits == 1


def test_calibrate_accepts_tensors_tuples_mappings_and_a_forward(model):
    x = torch.randn(32, 4)
    model.eval()
    doubled = calibrate(model, [(x, 2.0)])
    assert doubled == calibrate(model, [{"x": x, "scale": 2.0}])
    assert doubled == calibrate(model, [2 * x])
    assert doubled == calibrate(model, [x], forward=lambda m, batch: m(batch, scale=2.0))
    assert doubled != calibrate(model, [x])


def test_calibrate_leaves_the_model_and_the_random_state_as_they_were(model):
    model.train()
    model.leave.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    calibrate(model, [torch.randn(16, 4, generator=torch.Generator().manual_seed(0))])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_calibrate_repeats_although_dropout_is_on(model):
    x = torch.randn(16, 4)
    torch.manual_seed(3)
    first = calibrate(model.train(), [x])
    torch.manual_seed(3)
    assert calibrate(model, [x]) == first


def test_calibrate_removes_its_hooks_after_an_error(model):
    before = model.enter[1].running_mean.clone()
    with pytest.raises(RuntimeError, match="shapes"):
        calibrate(model, [torch.randn(16, 4), torch.randn(16, 5)])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.enter[1].running_mean, before)


def test_calibrate_samples_all_batches_alike():
    # A thousand values of each sign; a sample of 200 must hold about as many of both.
    model = nn.Sequential(nn.GELU())
    batches = [-torch.rand(1000) - 1, torch.rand(500) + 1, torch.rand(500) + 1]
    table = calibrate(model, batches, bits=1, max_samples=200)["0"]
    assert -1 < table.cuts[0] < 1
    everything = fit_stepwise("gelu", bits=1, samples=torch.cat(batches)).table
    assert close(table.levels, everything.levels, 0.02)
    assert calibrate(model, batches, bits=1, max_samples=200)["0"] == table
    assert calibrate(model, batches, bits=1, max_samples=200, seed=1)["0"] != table


def test_reservoir_is_uniform_over_a_stream_of_unequal_chunks():
    from lowmem_bp.fit.calibration import Reservoir

    reservoir = Reservoir(2000, torch.Generator().manual_seed(0))
    for value, count in ((0.0, 30_000), (1.0, 1500), (2.0, 8500)):
        reservoir.add(torch.full((count,), value))
    share = torch.bincount(reservoir.values.long()) / 2000
    # standard deviations are at most 0.01
    assert torch.allclose(share, torch.tensor([0.75, 0.0375, 0.2125]), rtol=0, atol=0.04)


def test_calibrate_says_what_is_missing(model):
    with pytest.raises(ConfigError, match="batches was empty"):
        calibrate(model, iter(()))
    with pytest.raises(ConfigError, match="Sequential has no activation module"):
        calibrate(nn.Sequential(nn.Linear(2, 2)), [torch.randn(2, 2)])
    with pytest.raises(ConfigError, match=r"none of the activation modules.*forward="):
        calibrate(model, [torch.randn(2, 4)], forward=lambda m, batch: None)
    with pytest.raises(ConfigError, match=r"^bits=3"):
        calibrate(model, [torch.randn(2, 4)], bits=3)
    with pytest.raises(ConfigError, match="max_samples=3"):
        calibrate(model, [torch.randn(2, 4)], max_samples=3)
    with pytest.raises(ConfigError, match=r"module '0'.*distinct"):
        calibrate(nn.Sequential(nn.GELU()), [torch.zeros(9)])
