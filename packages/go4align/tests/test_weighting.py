"""GO4Align in use: the identities of the method, the slow reference, both paths, compilation."""

from __future__ import annotations

import contextlib
import math
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from hypothesis import given
from hypothesis import strategies as st

import go4align.losses
from go4align import GO4Align
from go4align.clustering import kmeans_1d
from go4align.errors import GivenUpWarning, LossError

# Test modules cannot import each other under --import-mode=importlib.
Reference = runpy.run_path(str(Path(__file__).with_name("reference_go4align.py")))["Reference"]

TASKS = 5
# Settings of five tasks; beta is large, so that a few steps already show it.
OPTIONS = {
    "published": {},
    "paper's scale": {"scale": "mean"},
    "no scale": {"scale": "none"},
    "unit scale": {"scale": "unit"},
    "one group": {"n_groups": 1},
    "no grouping": {"n_groups": TASKS},
    "auto": {"n_groups": "auto"},
    "auto in log space": {"n_groups": "auto", "space": "log"},
    "log space": {"space": "log"},
    "log space, unit scale": {"space": "log", "scale": "unit"},
    "decay": {"decay": 0.8},
    "floor of Q": {"q_floor": 0.05, "beta": 1.0},
    "bounds": {"lower_bounds": [-1.0, 0.0, -0.5, -3.0, 0.001]},
    "priors": {"priors": [1.0, 2.0, 0.5, 1.0, 10.0]},
    "ratio": {"max_ratio": 3.0},
    "ratio, unit scale": {"max_ratio": 3.0, "scale": "unit", "n_groups": TASKS},
    "windows": {"update_every": 3},
    "windows and decay": {"update_every": 2, "decay": 0.5, "scale": "none"},
    "all at once": {
        "n_groups": 3,
        "scale": "unit",
        "space": "log",
        "decay": 0.9,
        "q_floor": 0.02,
        "lower_bounds": [-1.0] * TASKS,
        "priors": [1.0, 2.0, 0.5, 1.0, 10.0],
        "max_ratio": 8.0,
        "update_every": 2,
    },
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
with_and_without_masks = pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])


def settings_of(options):
    return {"n_tasks": TASKS, "n_groups": 2, "beta": 0.1, **options}


def stream(count, masked=False, n_tasks=TASKS, seed=0):
    """Losses over two orders of magnitude, and masks of at least one task (or None)."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        losses = np.exp(generator.standard_normal(n_tasks))
        mask = generator.random(n_tasks) < 0.6
        mask[generator.integers(n_tasks)] = True
        yield torch.from_numpy(losses), mask.tolist() if masked else None


@contextlib.contextmanager
def as_on_a_device():
    """Take the path of accelerators: nothing is read on the host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(go4align.losses, "on_host", lambda x: False)
        yield


def bits(module):
    """The state as bytes: equal means the same to the last bit."""
    return {name: t.numpy().tobytes() for name, t in module.state_dict().items()}


losses_of = st.lists(st.floats(-6, 6).map(lambda e: 10.0**e), min_size=2, max_size=7)


@st.composite
def runs(draw, most=5):
    """A few steps of losses from 1e-6 to 1e6, for the same number of tasks."""
    first = draw(losses_of)
    exponents = st.lists(st.floats(-3, 3), min_size=len(first), max_size=len(first))
    rest = draw(st.lists(exponents, max_size=most - 1))
    return torch.tensor([first, *([10.0**e for e in row] for row in rest)], dtype=torch.float64)


# --- identities (specification, section 1.1) ------------------------------------------------------


@given(runs(), st.floats(1e-6, 1.0))
def test_q_is_the_softmax_of_the_summed_losses(losses, beta):
    """gamma = P Q, so with one group of each task w L / sum(L) is Q itself."""
    count = losses.shape[1]
    module = GO4Align.published(count, count, beta=beta)
    for row in losses:
        module(row)
    share = (losses[-1] / losses[-1].sum()).clip(1e-8 / count)
    found = module.indicators * share
    expected = torch.softmax(-beta * losses.sum(0), 0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


@given(runs(), st.floats(0, 1e3))
def test_q_ignores_a_constant_on_all_losses_of_a_step(losses, shift):
    count = losses.shape[1]
    plain, shifted = GO4Align(count, 1, beta=1e-3), GO4Align(count, 1, beta=1e-3)
    for row in losses[:-1]:
        plain(row)
        shifted(row + shift)
    plain(losses[-1])
    shifted(losses[-1])
    torch.testing.assert_close(shifted.indicators, plain.indicators, rtol=1e-6, atol=0)


@given(runs(), st.data())
def test_grouping_keeps_the_sum_of_the_indicators(losses, data):
    count = losses.shape[1]
    n_groups = data.draw(st.integers(1, count) | st.just("auto"))
    scale = data.draw(st.sampled_from(["sum", "mean", "none"]))
    module = GO4Align.published(count, n_groups, beta=1e-3, scale=scale)
    for row in losses:
        module(row)
    assert float(module.weights.sum()) == pytest.approx(float(module.indicators.sum()))
    # And that grouping is an optimal one of the indicators.
    if n_groups != "auto":
        assert module.groups.tolist() == kmeans_1d(module.indicators, n_groups).labels.tolist()
    torch.testing.assert_close(module.group_weights[module.groups], module.weights)


@pytest.mark.parametrize("scale", ["sum", "mean", "none"])
@given(losses=runs())
def test_without_grouping_the_weighted_sum_is_the_sum_of_q(scale, losses):
    count = losses.shape[1]
    module = GO4Align(count, count, beta=1e-3, scale=scale)
    # Below a share of 1e-8 of the mean a loss is taken for larger than it is.
    losses = losses.clip(min=float(losses.max()) * 1e-7)
    total = [module(row) for row in losses][-1]
    torch.testing.assert_close(module.weights, module.indicators, rtol=1e-12, atol=0)
    last = losses[-1]
    expected = {"sum": last.sum(), "mean": last.mean(), "none": torch.tensor(float(count))}[scale]
    torch.testing.assert_close(total, expected.double(), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("scale", "factor"), [("mean", 1 / 3), ("sum", 1.0), ("none", None)])
def test_without_grouping_and_beta_the_gradient_is_that_of_the_log_losses(scale, factor):
    """The baseline SI, up to the mean loss: what scale="none" leaves out."""
    parameters = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def losses():
        return parameters.square().sum(0) * torch.tensor([1.0, 10.0, 0.01])

    module = GO4Align(3, 3, beta=0, scale=scale)
    (found,) = torch.autograd.grad(module(losses()), parameters)
    (expected,) = torch.autograd.grad(losses().log().sum(), parameters)
    common = 1.0 if factor is None else factor * losses().mean().detach()
    torch.testing.assert_close(found, common * expected)


@given(runs())
def test_one_group_is_the_plain_sum_up_to_a_factor(losses):
    module = GO4Align(losses.shape[1], 1, beta=1e-3)
    for row in losses:
        module(row)
        assert len(set(module.weights.tolist())) == 1
        assert set(module.groups.tolist()) == {0}


@pytest.mark.parametrize(("scale", "weight"), [("sum", 1), ("mean", 1 / 3), ("unit", 1)])
@pytest.mark.parametrize("n_groups", [1, 2, 3, "auto"])
def test_equal_losses_get_equal_weights_for_ever(scale, weight, n_groups):
    module = GO4Align(3, n_groups, beta=0.1, scale=scale)
    for loss in (0.1, math.log(2), 1e-6, 1e6, 0.0):
        module(torch.full((3,), loss, dtype=torch.float64))
        assert len(set(module.weights.tolist())) == 1
        assert module.weights.tolist() == pytest.approx([weight] * 3, rel=1e-12)


def test_more_loss_means_less_weight():
    """The sign of Eq. 6: large sums of losses are turned *down*, contrary to Group-DRO."""
    module = GO4Align(2, 2, beta=0.1)
    for _ in range(20):
        module(torch.tensor([2.0, 1.0]))
    module(torch.ones(2))
    high, low = module.weights.tolist()
    assert high < low
    assert high / low == pytest.approx(math.exp(-0.1 * 20))


def test_a_long_run_gives_nearly_all_weight_to_the_smallest_loss():
    """200 epochs of NYUv2 with losses of 1.0 and 0.1: Q is (7.7e-4, 0.9992)."""
    module = GO4Align.published(2, 2, beta=1e-4)
    losses = torch.tensor([1.0, 0.1], dtype=torch.float64)
    module(losses)
    module.accumulated += 79_598 * losses  # the steps between the first and the last
    module(losses)
    q = module.indicators * losses / losses.sum()
    assert q.tolist() == pytest.approx([7.7e-4, 0.9992], rel=0.01)
    assert q.tolist() == pytest.approx(torch.softmax(-7.96 * losses, 0).tolist(), rel=1e-9)


@pytest.mark.slow
def test_a_long_run_step_by_step():
    module = GO4Align.published(2, 2, beta=1e-4)
    losses = torch.tensor([1.0, 0.1], dtype=torch.float64)
    for _ in range(79_600):
        module(losses)
    q = module.indicators * losses / losses.sum()
    assert q.tolist() == pytest.approx(torch.softmax(-7.96 * losses, 0).tolist(), rel=1e-9)
    assert int(module.steps) == 79_600


# --- against the slow reference -------------------------------------------------------------------


@with_and_without_masks
@every_option
def test_every_option_follows_the_reference(options, masked):
    module, reference = GO4Align(**settings_of(options)), Reference(**settings_of(options))
    for losses, mask in stream(12, masked):
        total = module(losses, mask)
        used = reference.step(losses.tolist(), mask)
        assert float(total) == pytest.approx(np.dot(used, losses.numpy()), rel=1e-9)
        assert module.weights.tolist() == pytest.approx(reference.weights, rel=1e-9)
        assert module.groups.tolist() == reference.groups
        assert module.indicators.tolist() == pytest.approx(reference.indicators, rel=1e-9)


@given(runs(), st.data())
def test_any_losses_follow_the_reference(losses, data):
    count = losses.shape[1]
    settings = {
        "n_tasks": count,
        "n_groups": data.draw(st.integers(1, count)),
        "beta": data.draw(st.sampled_from([0.0, 1e-6, 1e-5])),
        "scale": data.draw(st.sampled_from(["sum", "mean", "none", "unit"])),
        "space": data.draw(st.sampled_from(["linear", "log"])),
    }
    module, reference = GO4Align(**settings), Reference(**settings)
    for row in losses:
        module(row)
        reference.step(row.tolist())
    values = module.indicators.log() if settings["space"] == "log" else module.indicators
    gaps = values.sort().values.diff()
    # Among near-equal indicators rounding decides, differently in the two.
    if (gaps > 1e-6 * (values.abs().max() + 1)).all():
        assert module.weights.tolist() == pytest.approx(reference.weights, rel=1e-6)


def test_the_published_example_by_hand():
    """Three tasks, first step: P = (6, 3, 2), Q from exp(-0.1 L)."""
    module = GO4Align.published(3, 2, beta=0.1)
    total = module(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    q = np.exp([-0.1, -0.2, -0.3])
    gamma = np.array([6.0, 3.0, 2.0]) * q / q.sum()
    rest = gamma[1:].mean()
    assert module.indicators.tolist() == pytest.approx(gamma.tolist())
    assert module.groups.tolist() == [1, 0, 0]
    assert module.weights.tolist() == pytest.approx([gamma[0], rest, rest])
    assert module.group_weights.tolist() == pytest.approx([rest, gamma[0]])
    assert float(total) == pytest.approx(gamma[0] + 5 * rest)


def test_published_takes_the_defaults_of_the_paper_and_lets_them_be_changed():
    module = GO4Align.published(3, 2)
    assert (module.scale, module.space, module.beta, module.decay) == ("sum", "linear", 1e-4, None)
    assert GO4Align.published(3, 2, scale="mean", tasks=["a", "b", "c"]).scale == "mean"


def test_log_space_takes_geometric_means():
    module = GO4Align(3, 2, beta=0, scale="none", space="log")
    module(torch.tensor([1.0, 4.0, 1000.0], dtype=torch.float64))
    # gamma is 1 / L here; 1 and 1/4 are near in ratio.
    assert module.weights.tolist() == pytest.approx([0.5, 0.5, 1e-3])
    assert module.group_weights.tolist() == pytest.approx([1e-3, 0.5])


def test_a_task_that_is_given_up_is_named_once():
    weighting = GO4Align(3, "auto", tasks=["class", "parity", "ink"])
    losses = torch.tensor([2.0, 0.7, 30_000.0])
    weighting(losses)
    weighting(losses)
    with pytest.warns(GivenUpWarning, match=r"after 3 steps.*'ink'.*'parity'.*beta=0\.0001.*1e-04"):
        weighting(losses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weighting(losses)


def test_tasks_that_are_absent_give_up_nobody():
    weighting = GO4Align(3, "auto", beta=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            weighting(torch.tensor([1.0, 1.0, 1.0]), mask=[True, True, False])
    weighting.reset()
    with pytest.warns(GivenUpWarning, match="after 1 steps"):
        weighting(torch.tensor([1.0, 1.0, 9.0]))


@pytest.mark.parametrize(
    "options", [{"beta": 0.0}, {"q_floor": 0.01}, {"max_ratio": 10.0}, {"n_groups": 1}]
)
def test_no_task_is_given_up_without_beta_or_within_bounds(options):
    weighting = GO4Align(3, **{"n_groups": "auto", **options})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            weighting(torch.tensor([2.0, 0.7, 1e5]))


def test_decay_forgets():
    """Without it the first, long phase decides; with it the recent losses do."""
    decaying, keeping = GO4Align(2, 2, beta=0.1, decay=0.9), GO4Align(2, 2, beta=0.1)
    for losses in [(5.0, 1.0)] * 50 + [(1.0, 2.0)] * 50:
        for module in (decaying, keeping):
            module(torch.tensor(losses))
    assert keeping.weights[0] < keeping.weights[1]
    assert decaying.weights[0] > decaying.weights[1]
    # The sum tends to L / (1 - decay).
    torch.testing.assert_close(
        decaying.accumulated, torch.tensor([10.0, 20.0], dtype=torch.float64), rtol=0.2, atol=0
    )


def test_the_floor_of_q_gives_no_task_up():
    module = GO4Align.published(2, 2, beta=1.0, q_floor=0.1)
    for _ in range(2000):
        module(torch.tensor([2.0, 1.0], dtype=torch.float64))
    q = module.indicators * torch.tensor([2.0, 1.0]) / 3
    assert q.tolist() == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize("scale", ["sum", "unit"])
@given(losses=runs())
def test_the_ratio_of_weights_is_limited_and_their_sum_kept(scale, losses):
    count = losses.shape[1]
    free = GO4Align(count, count, beta=0.1, scale=scale)
    limited = GO4Align(count, count, beta=0.1, scale=scale, max_ratio=10)
    for row in losses:
        free(row)
        limited(row)
    weights = limited.weights
    assert float(weights.max() / weights.min()) <= 10 * (1 + 1e-9)
    assert float(weights.sum()) == pytest.approx(float(free.weights.sum()))
    # Order is kept.
    assert weights[free.weights.argmax()] == weights.max()


@given(runs(), st.sampled_from(["linear", "log"]), st.integers(1, 2), st.booleans())
def test_unit_weights_sum_to_the_number_of_tasks(losses, space, n_groups, with_priors):
    count = losses.shape[1]
    priors = range(1, count + 1) if with_priors else None
    # A beta under which most of Q vanishes, as a loss of 1e6 makes it do.
    module = GO4Align(count, n_groups, beta=1.0, scale="unit", space=space, priors=priors)
    for row in losses:
        module(row)
        assert float(module.weights.sum()) == pytest.approx(count)
    mask = [True] * (count - 1) + [False]
    last = float(module.weights[-1])
    module(losses[0], mask)
    assert float(module.weights.sum()) == pytest.approx(count - 1 + last)


# --- ways to pass losses --------------------------------------------------------------------------


def test_tensors_lists_and_mappings_agree():
    names = ["a", "b", "c", "d", "e"]
    modules = [GO4Align(TASKS, 3, beta=0.1, tasks=names) for _ in range(4)]
    for losses, mask in [*stream(4), *stream(4, masked=True)]:
        items = list(zip(names, losses, strict=True))
        flags = None if mask is None else dict(zip(names, mask, strict=True))
        totals = [
            modules[0](losses, mask),
            modules[1](list(losses), None if mask is None else torch.tensor(mask)),
            modules[2](tuple(losses), None if mask is None else np.array(mask)),
            modules[3](dict(reversed(items)), flags),
        ]
        assert len({float(total) for total in totals}) == 1
    assert all(bits(module) == bits(modules[0]) for module in modules)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_losses(dtype):
    module = GO4Align(3, 2)
    losses = torch.tensor([1.0, 2.0, 4.0], dtype=dtype, requires_grad=True)
    total = module(losses)
    assert total.dtype == dtype
    assert total.shape == ()
    assert module.weights.dtype == torch.float64
    total.backward()
    assert losses.grad.dtype == dtype
    # The weights are those of the numbers, whatever they came in.
    other = GO4Align(3, 2)
    expected = other(losses.detach().double())
    assert torch.equal(module.weights, other.weights)
    torch.testing.assert_close(total.detach(), expected.to(dtype))


def test_scalars_of_different_dtypes_are_promoted():
    terms = [torch.tensor(1.0), torch.tensor(2.0, dtype=torch.bfloat16)]
    assert GO4Align(2, 1)(terms).dtype == torch.float32
    terms[0] = torch.tensor(1.0, dtype=torch.float64)
    assert GO4Align(2, 1)(terms).dtype == torch.float64


def test_autocast_changes_nothing():
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    expected = GO4Align(3, 2)(losses)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = GO4Align(3, 2)(losses)
        as_list = GO4Align(3, 2)(list(losses))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(as_list, expected)


def test_one_task_and_many():
    assert GO4Align(1, 1)(torch.tensor([3.0])).item() == pytest.approx(1.0)
    assert GO4Align(1, 1, scale="sum")(torch.tensor([3.0])).item() == pytest.approx(3.0)
    for count in (60, 200):
        module = GO4Align(count, 7, space="linear")
        losses = torch.rand(count, dtype=torch.float64) + 0.1
        module(losses)
        assert module.groups.tolist() == kmeans_1d(module.indicators, 7).labels.tolist()


# --- gradients ------------------------------------------------------------------------------------


@with_and_without_masks
@every_option
def test_the_gradient_flows_through_the_losses_alone(options, masked):
    """d total / d L_m = w_m, with nothing through the weights."""
    module = GO4Align(**settings_of(options))
    for losses, mask in stream(4, masked):
        before, known = module.weights, bool((module.last_weights >= 0).all())
        losses.requires_grad_()
        module(losses, mask).backward()
        if module.update_every > 1 and not known:
            continue  # new tasks got a weight within the call, which a full window has replaced
        used = before if module.update_every > 1 else module.weights
        expected = used if mask is None else torch.where(torch.tensor(mask), used, 0.0)
        assert torch.equal(losses.grad, expected)


def test_fixed_weights_pass_gradcheck():
    module = GO4Align(4, 2, beta=0.1)
    module(torch.tensor([1.0, 2.0, 3.0, 9.0]))
    module.eval()
    losses = torch.rand(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, losses)
    assert torch.autograd.gradcheck(lambda x: module(list(x), [True, False, True, True]), losses)


def test_backward_may_come_after_later_calls():
    """As under gradient accumulation, or with two batches in flight."""
    module = GO4Align(3, 2, beta=0.5)
    losses = [torch.rand(3, dtype=torch.float64).requires_grad_() for _ in range(3)]
    totals, weights = [], []
    for row in losses:
        totals.append(module(row))
        weights.append(module.weights)
    sum(totals).backward()
    for row, weight in zip(losses, weights, strict=True):
        assert torch.equal(row.grad, weight)
    module.eval()
    total = module(losses[0].detach().requires_grad_())
    module.train()
    module(losses[1])
    total.backward()


def test_there_is_nothing_to_train_and_nothing_is_held():
    module = GO4Align(3, 2)
    assert list(module.parameters()) == []
    total = module(torch.rand(3, requires_grad=True))
    assert total.requires_grad
    assert not any(buffer.requires_grad for buffer in module.buffers())
    assert not module(torch.rand(3)).requires_grad


def test_the_losses_are_not_written_to():
    module = GO4Align(3, 2, lower_bounds=-1.0, nonfinite="skip")
    losses = torch.tensor([1.0, math.nan, 3.0], dtype=torch.float64)
    mask = torch.tensor([True, True, False])
    module(losses, mask)
    assert losses.tolist() == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)
    assert mask.tolist() == [True, True, False]


def test_what_is_read_is_a_copy():
    module = GO4Align(3, 2)
    module(torch.tensor([1.0, 2.0, 3.0]))
    before = bits(module)
    for name in ("weights", "groups", "indicators", "group_weights"):
        getattr(module, name).fill_(7)
    assert bits(module) == before


# --- evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"update_every": 3}], ids=["", "windows"])
@pytest.mark.parametrize("device", [False, True], ids=["host", "device"])
def test_evaluation_uses_the_last_weights_and_changes_nothing(options, device):
    module = GO4Align(3, 2, beta=0.1, **options)
    for losses, _ in stream(7, n_tasks=3):
        module(losses)
    module.eval()
    before, weights = bits(module), module.weights
    losses = torch.tensor([5.0, 0.0, 2.0], dtype=torch.float64)
    with as_on_a_device() if device else contextlib.nullcontext():
        for mask in (None, [True, False, True]):
            expected = weights @ (losses if mask is None else losses * torch.tensor(mask))
            torch.testing.assert_close(module(losses, mask), expected)
    assert bits(module) == before


def test_evaluation_before_any_training_adds_the_losses():
    losses = torch.tensor([1.0, 2.0, 3.0])
    assert GO4Align(3, 2).eval()(losses).item() == 6.0
    assert GO4Align(3, 2, scale="mean").eval()(losses).item() == pytest.approx(2.0)


# --- windows --------------------------------------------------------------------------------------


def test_windows_fix_the_weights_and_learn_from_the_mean():
    """update_every=3 over nine batches is one step per window, of the mean of the three."""
    windowed, stepped = GO4Align(3, 2, beta=0.1, update_every=3), GO4Align(3, 2, beta=0.1)
    batches = [losses for losses, _ in stream(9, n_tasks=3)]
    first = GO4Align(3, 2, beta=0.1)
    first(batches[0])
    weights = first.weights  # of the first window: those of its first micro-batch
    for start in range(0, 9, 3):
        window = batches[start : start + 3]
        for losses in window:
            torch.testing.assert_close(windowed(losses), weights @ losses)
        stepped(torch.stack(window).mean(0))
        weights = stepped.weights
        torch.testing.assert_close(windowed.weights, weights)
    assert int(windowed.steps) == 3


def test_the_first_window_has_weights_of_the_size_of_the_later_ones():
    """Weights of 1 beside losses of 1000 would be gradients a thousand times too large."""
    module = GO4Align(2, 2, update_every=2)
    losses = torch.tensor([1000.0, 500.0])
    totals = [float(module(losses)) for _ in range(6)]
    assert totals == pytest.approx([totals[-1]] * 6, rel=0.1)


def test_a_task_first_seen_later_gets_a_weight_of_its_own_losses():
    module = GO4Align(2, 2, beta=0.0, update_every=2)
    for _ in range(2):
        module(torch.tensor([1000.0, math.nan]), [True, False])
    losses = torch.tensor([1000.0, 500.0], requires_grad=True)
    module(losses).backward()
    assert losses.grad.tolist() == pytest.approx([1e-3, 2e-3])


def test_in_a_window_the_mean_is_over_the_batches_that_have_the_task():
    windowed = GO4Align(3, 3, beta=0.1, update_every=2)
    windowed(torch.tensor([1.0, 4.0, math.nan]), [True, True, False])
    windowed(torch.tensor([3.0, math.nan, math.nan]), [True, False, False])
    stepped = GO4Align(3, 3, beta=0.1)
    stepped(torch.tensor([2.0, 4.0, math.nan]), [True, True, False])
    torch.testing.assert_close(windowed.weights, stepped.weights)
    assert windowed.groups.tolist() == stepped.groups.tolist()
    # The next window starts from nothing.
    assert windowed.window_sum.tolist() == [0.0] * 3
    assert windowed.window_count.tolist() == [0] * 3


# --- masks ----------------------------------------------------------------------------------------


def test_absent_tasks_keep_their_sum_and_their_weight():
    module = GO4Align(4, 2, beta=0.1)
    module(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    sums, weights = module.accumulated.clone(), module.weights
    mask = [True, False, True, False]
    total = module(torch.tensor([5.0, math.nan, 1.0, 1e9], dtype=torch.float64), mask)
    moved = torch.tensor([5.0, 0.0, 1.0, 0.0], dtype=torch.float64) + sums
    torch.testing.assert_close(module.accumulated, moved - moved.min())
    assert module.weights[1] == weights[1]
    assert module.weights[3] == weights[3]
    assert module.groups.tolist() == [0, -1, 1, -1]
    assert module.indicators[1] == module.indicators[3] == 0
    assert float(total) == pytest.approx(float(5 * module.weights[0] + module.weights[2]))


def test_a_masked_step_is_a_step_of_the_present_tasks():
    """Groups, sums and Q over the present: as if the others did not exist."""
    few, many = GO4Align(2, 2, beta=0.1), GO4Align(5, 4, beta=0.1)
    for losses, _ in stream(5):
        few(losses[[1, 4]])
        many(losses, [False, True, False, False, True])
    torch.testing.assert_close(many.weights[[1, 4]], few.weights)
    assert many.groups[[1, 4]].tolist() == few.groups.tolist()
    assert few.group_weights.tolist() == pytest.approx(many.group_weights.tolist())


@pytest.mark.parametrize("n_groups", [1, 2, 3, 5, "auto"])
def test_there_are_never_more_groups_than_present_tasks(n_groups):
    module = GO4Align(5, n_groups)
    module(torch.tensor([1.0, 50.0, 3.0, 4.0, 5.0]), [True, True, False, False, False])
    assert int(module.groups.max()) + 1 <= 2
    module(torch.tensor([1.0, 50.0, 3.0, 4.0, 5.0]), [False, True, False, False, False])
    assert module.groups.tolist() == [-1, 0, -1, -1, -1]


@pytest.mark.parametrize("kind", ["list", "mapping"])
def test_a_masked_scalar_stays_out_of_the_graph(kind):
    """The derivative behind it is infinite: times 0 it would still be NaN."""
    x = torch.tensor(0.0, requires_grad=True)
    y = torch.tensor(2.0, requires_grad=True)
    terms = {"root": (x - 1).sqrt() + x.sqrt(), "square": y.square() + 0 * x}
    module = GO4Align(2, 2, tasks=["root", "square"])
    losses = terms if kind == "mapping" else list(terms.values())
    module(losses, {"root": False}).backward()
    assert x.grad.item() == 0
    assert y.grad.item() == pytest.approx(4 * float(module.weights[1]))


def test_a_masked_task_may_be_missing_from_the_mapping():
    module = GO4Align(3, 2, tasks=["a", "b", "c"])
    one = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    total = module({"c": 2 * one, "a": one}, mask={"b": False})
    total.backward()
    assert total.dtype == torch.float64
    assert one.grad.item() == pytest.approx(float(module.weights[0] + 2 * module.weights[2]))
    assert module.groups.tolist()[1] == -1


def test_a_mask_of_all_tasks_is_no_mask():
    with_mask, without = GO4Align(3, 2), GO4Align(3, 2)
    for losses, _ in stream(3, n_tasks=3):
        assert torch.equal(with_mask(losses, [True] * 3), without(losses))
    assert bits(with_mask) == bits(without)


# --- reset and repr -------------------------------------------------------------------------------


@every_option
def test_reset_makes_it_new(options):
    module, new = GO4Align(**settings_of(options)), GO4Align(**settings_of(options))
    for losses, mask in stream(5, masked=True):
        module(losses, mask)
    assert bits(module) != bits(new)
    module.reset()
    assert bits(module) == bits(new)
    losses = torch.rand(TASKS)
    assert torch.equal(module(losses), new(losses))


def test_a_new_module_says_that_all_tasks_are_equal():
    module = GO4Align(3, 2)
    assert module.weights.tolist() == [1.0] * 3
    assert module.groups.tolist() == [0] * 3
    assert module.group_weights.tolist() == [1.0]
    assert GO4Align(4, 2, scale="mean").weights.tolist() == [0.25] * 4


def test_repr_shows_what_was_chosen():
    assert repr(GO4Align(3, 2)) == (
        "GO4Align(n_tasks=3, n_groups=2, beta=0.0001, scale='none', space='log')"
    )
    shown = repr(
        GO4Align(
            2, "auto", decay=0.9, q_floor=0.1, max_ratio=5, update_every=4, nonfinite="skip",
            lower_bounds=-1, priors=[1, 2], sync="off", tasks=["a", "b"],
        )
    )  # fmt: skip
    for part in (
        "n_groups='auto'", "decay=0.9", "q_floor=0.1", "max_ratio=5", "update_every=4",
        "nonfinite='skip'", "lower_bounds=(-1.0, -1.0)", "priors=(1.0, 2.0)", "sync='off'",
        "tasks=('a', 'b')",
    ):  # fmt: skip
        assert part in shown


# --- the path of accelerators ---------------------------------------------------------------------


def compare(module, twin, losses, mask, call):
    """One step of both; ``call`` is what runs the twin."""
    row, same = losses.clone().requires_grad_(), losses.clone().requires_grad_()
    total = module(row, mask)
    other = call(same, None if mask is None else torch.tensor(mask))
    torch.testing.assert_close(other, total)
    total.backward()
    other.backward()
    torch.testing.assert_close(same.grad, row.grad)
    for name in ("weights", "indicators", "accumulated", "window_sum"):
        torch.testing.assert_close(getattr(twin, name), getattr(module, name), msg=name)
    for name in ("groups", "steps", "skipped", "window_count", "window_step"):
        assert torch.equal(getattr(twin, name), getattr(module, name)), name


@with_and_without_masks
@every_option
def test_host_and_device_agree(options, masked):
    module, twin = (GO4Align(**settings_of(options), nonfinite="skip") for _ in range(2))

    def on_device(*arguments):
        with as_on_a_device():
            return twin(*arguments)

    for step, (losses, mask) in enumerate(stream(9, masked)):
        if step == 5:
            losses[2] = math.nan  # left out and counted by both
        compare(module, twin, losses, mask, on_device)


@given(runs(), st.sampled_from(["sum", "mean", "none", "unit"]), st.sampled_from(["linear", "log"]))
def test_host_and_device_agree_over_twelve_orders_of_magnitude(losses, scale, space):
    count = losses.shape[1]
    module, twin = (GO4Align(count, 2, scale=scale, space=space, beta=1e-3) for _ in range(2))
    for row in losses:
        with as_on_a_device():
            twin(row)
        module(row)
        torch.testing.assert_close(twin.weights, module.weights, rtol=1e-9, atol=0)
        assert torch.equal(twin.groups, module.groups)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_device_path_keeps_the_dtype_too(dtype):
    module = GO4Align(3, 2)
    with as_on_a_device():
        total = module(torch.tensor([1.0, 2.0, 4.0], dtype=dtype))
    assert total.dtype == dtype
    expected = GO4Align(3, 2)(torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(total, expected.to(dtype))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_option
def test_no_step_waits_for_the_gpu(options):
    module, twin = GO4Align(**settings_of(options)), GO4Align(**settings_of(options)).cuda()
    steps = [
        (losses, mask, losses.cuda().requires_grad_(), None if mask is None else torch.tensor(mask))
        for losses, mask in [*stream(4), *stream(4, masked=True)]
    ]
    steps = [(a, b, c, None if d is None else d.cuda()) for a, b, c, d in steps]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _, _, losses, mask in steps:
            twin(losses, mask).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for losses, mask, *_ in steps:
        module(losses, mask)
    torch.testing.assert_close(twin.weights.cpu(), module.weights)
    assert torch.equal(twin.groups.cpu(), module.groups)


# --- torch.compile --------------------------------------------------------------------------------

COMPILED = ("published", "auto in log space", "all at once", "windows")


def check_compiled(options, masked, backend, count=5):
    torch._dynamo.reset()
    module, twin = GO4Align(**settings_of(options)), GO4Align(**settings_of(options))
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    for losses, mask in stream(count, masked):
        compare(module, twin, losses, mask, compiled)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_steps_agree(name):
    check_compiled(OPTIONS[name], masked=True, backend="eager")


def test_compiled_steps_agree_through_aot_autograd():
    check_compiled({}, masked=False, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["published", "all at once"])
# Inductor and its C++ build warn of things of their own.
@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_agree_through_inductor(name):
    check_compiled(OPTIONS[name], masked=True, backend="inductor")


@pytest.mark.parametrize("options", [{}, {"update_every": 2}], ids=["", "windows"])
def test_steps_do_not_compile_again(options):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    module = GO4Align(TASKS, 2, **options)
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for losses, mask in stream(6, masked=True):
        compiled(losses, torch.tensor(mask))
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", ["list", "mapping"])
def test_a_whole_training_step_compiles(kind):
    """The module inside of a compiled function, losses one by one."""
    torch._dynamo.reset()
    names = ["a", "b", "c"]
    module, twin = GO4Align(3, 2, tasks=names), GO4Align(3, 2, tasks=names)
    weight = torch.rand(3, 4)

    def total(x, weighting):
        terms = [(row * x).square().mean() for row in weight]
        return weighting(terms if kind == "list" else dict(zip(names, terms, strict=True)))

    compiled = torch.compile(lambda x: total(x, twin), fullgraph=True, backend="eager")
    for _ in range(3):
        x = torch.rand(4, requires_grad=True)
        (expected,) = torch.autograd.grad(total(x, module), x)
        (found,) = torch.autograd.grad(compiled(x), x)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(twin.weights, module.weights)


def test_a_compiled_module_counts_bad_losses_and_reports_them():
    torch._dynamo.reset()
    module = GO4Align(3, 2, tasks=["a", "b", "c"])
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    compiled(torch.tensor([1.0, -1.0, 2.0]))
    with pytest.raises(LossError, match="'b' 1 times"):
        module.check()
