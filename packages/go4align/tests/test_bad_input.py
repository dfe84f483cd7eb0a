"""What cannot be weighted, and what must be: errors that help, extremes that stay finite."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import go4align.losses
from go4align import GO4Align
from go4align.errors import ConfigError, Go4AlignError, LossError, SkippedLossWarning

NAMES = ["seg", "depth", "normal"]
nan, inf = math.nan, math.inf


def bits(module):
    return {name: buffer.numpy().tobytes() for name, buffer in module.named_buffers()}


def started(**options):
    """Three tasks and one step, so that there is a state to spoil."""
    module = GO4Align(**{"n_tasks": 3, "n_groups": 2, "beta": 0.1, "tasks": NAMES, **options})
    module(torch.tensor([1.0, 2.0, 4.0]))
    return module


@pytest.fixture
def device_path(monkeypatch):
    """Take the path of accelerators: nothing is read on the host."""
    monkeypatch.setattr(go4align.losses, "on_host", lambda x: False)


def refuse(module, parts, *arguments):
    """The call raises, its message holds all parts, and nothing has changed."""
    before = bits(module)
    with pytest.raises(LossError) as caught:
        module(*arguments)
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, Go4AlignError)
    assert isinstance(caught.value, ValueError)
    assert bits(module) == before


def scalars(*values, dtype=torch.float32):
    return [torch.tensor(value, dtype=dtype) for value in values]


# --- the constructor ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"n_tasks": 0}, ("n_tasks", "0", "from 1 up")),
        ({"n_tasks": -3}, ("n_tasks", "-3", "from 1 up")),
        ({"n_tasks": 2.0}, ("n_tasks", "2.0", "whole number")),
        ({"n_tasks": True}, ("n_tasks", "True", "whole number")),
        ({"n_tasks": "3"}, ("n_tasks", "'3'", "whole number")),
        ({"n_groups": 4}, ("n_groups", "4", "from 1 to n_tasks, which is 3")),
        ({"n_groups": 0}, ("n_groups", "0", "from 1 to n_tasks, which is 3")),
        ({"n_groups": 1.5}, ("n_groups", "1.5", "whole number")),
        ({"n_groups": None}, ("n_groups", "None", "whole number")),
        ({"n_groups": "elbow"}, ("n_groups", "'elbow'", '"auto"')),
        ({"beta": -1e-4}, ("beta", "-0.0001", "at least 0")),
        ({"beta": nan}, ("beta", "nan", "finite")),
        ({"beta": inf}, ("beta", "inf", "finite")),
        ({"beta": "small"}, ("beta", "'small'", "number")),
        ({"beta": None}, ("beta", "None", "number")),
        ({"scale": "average"}, ("scale", "'average'", '"sum"', '"mean"', '"none"', '"unit"')),
        ({"scale": None}, ("scale", "None", '"none"')),
        ({"space": "logarithmic"}, ("space", "'logarithmic'", '"linear"', '"log"')),
        ({"decay": 0}, ("decay", "0", "between 0 and 1", "ends excluded")),
        ({"decay": 1.0}, ("decay", "1.0", "between 0 and 1", "ends excluded")),
        ({"decay": -0.5}, ("decay", "-0.5", "between 0 and 1")),
        ({"q_floor": -0.1}, ("q_floor", "-0.1", "between 0 and 0.333333")),
        ({"q_floor": 0.5}, ("q_floor", "0.5", "between 0 and 0.333333")),
        ({"max_ratio": 0.5}, ("max_ratio", "0.5", "at least 1")),
        ({"max_ratio": inf}, ("max_ratio", "inf", "finite")),
        ({"nonfinite": "ignore"}, ("nonfinite", "'ignore'", '"raise"', '"skip"')),
        ({"update_every": 0}, ("update_every", "0", "from 1 up")),
        ({"update_every": 1.5}, ("update_every", "1.5", "whole number")),
        ({"sync": "on"}, ("sync", "'on'", '"auto"', '"off"', "process group")),
        ({"sync": True}, ("sync", "True", '"auto"', "process group")),
        ({"sync": None}, ("sync", "None", '"off"')),
        ({"lower_bounds": [0.0, 1.0]}, ("lower_bounds", "[0.0, 1.0]", "3 finite numbers")),
        ({"lower_bounds": -inf}, ("lower_bounds", "-inf", "finite")),
        ({"lower_bounds": "none"}, ("lower_bounds", "'none'", "3 numbers")),
        ({"lower_bounds": [[0.0] * 3]}, ("lower_bounds", "3 finite numbers")),
        ({"priors": [1.0, 2.0]}, ("priors", "[1.0, 2.0]", "3 finite numbers")),
        ({"priors": 2.0}, ("priors", "2.0", "3 finite numbers, one per task")),
        ({"priors": [1.0, 0.0, 1.0]}, ("priors", "0.0", "positive", "mask=")),
        ({"priors": [1.0, -1.0, 1.0]}, ("priors", "-1.0", "positive")),
        ({"priors": [1.0, nan, 1.0]}, ("priors", "nan", "finite")),
        ({"tasks": ["a", "b"]}, ("tasks", "2 names", "3", "n_tasks")),
        ({"tasks": ["a", "b", "a"]}, ("tasks", "3 names, 2 of them different")),
        ({"tasks": "abc"}, ("tasks", "'abc'", "sequence of names")),
        ({"tasks": [1, 2, 3]}, ("tasks", "[1, 2, 3]", "names")),
    ],
)
def test_arguments_out_of_range(arguments, parts):
    with pytest.raises(ConfigError) as caught:
        GO4Align(**{"n_tasks": 3, "n_groups": 2, **arguments})
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_the_number_of_groups_has_no_default():
    """The released trainer's default of 1 made the method a plain sum without saying so."""
    with pytest.raises(TypeError, match="n_groups"):
        GO4Align(3)
    assert GO4Align(3, 1).n_groups == 1


def test_the_ends_of_the_ranges_are_allowed():
    module = GO4Align(
        np.int64(3), np.int64(3), beta=0, q_floor=1 / 3, max_ratio=1, update_every=1,
        lower_bounds=torch.tensor([0.0, -1.0, 0.5]), priors=torch.ones(3),
    )  # fmt: skip
    assert type(module.n_tasks) is int
    module(torch.tensor([1.0, 2.0, 5.0]))
    assert module.weights.tolist() == pytest.approx([float(module.weights.mean())] * 3)
    assert GO4Align(3, 2, q_floor=0)(torch.ones(3)) == GO4Align(3, 2)(torch.ones(3))


# --- shapes, kinds and names ----------------------------------------------------------------------

one = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("losses", "parts"),
    [
        (torch.ones(2), ("(2,)", "expected (3,)")),
        (torch.ones(4), ("(4,)", "expected (3,)")),
        (torch.ones(0), ("(0,)", "expected (3,)")),
        (torch.tensor(1.0), ("()", "expected (3,)")),
        (torch.ones(3, 1), ("(3, 1)", "expected (3,)", "squeeze")),
        (torch.ones(1, 3), ("(1, 3)", "expected (3,)", "squeeze")),
        (torch.ones(64, 3), ("(64, 3)", "expected (3,)", "losses.mean(0)")),
        ([], ("0 losses for 3 tasks", "mask=")),
        ([one] * 2, ("2 losses for 3 tasks", "one scalar per task")),
        ([one] * 4, ("4 losses for 3 tasks",)),
        ([torch.ones(1)] * 3, ("'seg'", "(1,)", ".mean()")),
        ([one, torch.ones(5), one], ("'depth'", "(5,)", ".mean()")),
        ([one, 2.0, one], ("'depth'", "float", "scalar tensor")),
        ([one, None, one], ("'depth'", "NoneType", "scalar tensor")),
        (np.ones(3), ("ndarray", "pass a tensor")),
        (3.0, ("float", "pass a tensor", "mapping")),
        ((x for x in [one] * 3), ("generator", "pass a tensor")),
        (torch.ones(3, dtype=torch.int64), ("torch.int64", "floating-point")),
        (torch.ones(3, dtype=torch.bool), ("torch.bool", "floating-point")),
        (torch.ones(3, dtype=torch.complex64), ("torch.complex64", "floating-point")),
        ([torch.tensor(1)] * 3, ("torch.int64", "floating-point")),
        ({"seg": one, "deph": one, "normal": one}, ("'deph'", "did you mean 'depth'?")),
        ({"seg": one, "depth": one, "normal": one, "zzz": one}, ("'zzz'", "'seg', 'depth'")),
        ({"seg": one, "normal": one}, ("no loss for 'depth'", "mask={...: False}")),
        ({}, ("no loss for 'seg', 'depth', 'normal'",)),
        ({"seg": one, "depth": torch.ones(3), "normal": one}, ("'depth'", "(3,)", ".mean()")),
        ({"seg": one, "depth": 1.0, "normal": one}, ("'depth'", "float")),
        ([one, one, torch.ones((), device="meta")], ("several devices", "normal: meta")),
        (torch.ones(3, device="meta"), ("meta", "cpu", ".to('meta')")),
    ],
)
def test_losses_of_a_wrong_kind(losses, parts):
    refuse(started(), parts, losses)


def test_a_mapping_needs_names():
    module = GO4Align(2, 1)
    refuse(module, ("mapping", "'a', 'b'", "tasks=[...]"), {"a": one, "b": one})


@pytest.mark.parametrize(
    ("mask", "parts"),
    [
        (torch.ones(3), ("torch.float32", "torch.bool")),
        (torch.ones(3, dtype=torch.uint8), ("torch.uint8", "torch.bool")),
        (torch.ones(2, dtype=torch.bool), ("(2,)", "(3,)")),
        (torch.ones(3, 1, dtype=torch.bool), ("(3, 1)", "(3,)")),
        ([True, False], ("[True, False]", "3 booleans")),
        ([1, 0, 1], ("[1, 0, 1]", "booleans")),
        (np.ones(3), ("1.0", "booleans")),
        (np.ones((3, 3), dtype=bool), ("booleans",)),
        ("yes", ("expected booleans",)),
        (True, ("True", "3 booleans")),
        ({"deph": True}, ("'deph'", "did you mean 'depth'?", "mask")),
        ({"depth": 0}, ("0", "booleans")),
        ([False] * 3, ("no task", "skip the step")),
        (torch.zeros(3, dtype=torch.bool), ("no task", "skip the step")),
        (dict.fromkeys(NAMES, False), ("no task", "skip the step")),
    ],
)
@pytest.mark.parametrize("evaluating", [False, True], ids=["", "eval"])
def test_masks_of_a_wrong_kind(mask, parts, evaluating):
    module = started()
    refuse(module.train(not evaluating), parts, torch.ones(3), mask)


@pytest.mark.parametrize(
    "mask",
    [
        [True, False, True],
        (True, False, True),
        np.array([True, False, True]),
        torch.tensor([True, False, True]),
        list(torch.tensor([True, False, True])),
        {"depth": False},
        {"depth": torch.tensor(False), "seg": np.True_},
    ],
    ids=["list", "tuple", "array", "tensor", "tensors", "mapping", "mapping of tensors"],
)
def test_masks_of_every_kind(mask):
    module = started()
    module(torch.tensor([1.0, nan, 2.0]), mask)
    assert module.groups.tolist() == [1, -1, 0]


# --- values that cannot be ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.tensor, lambda x: list(torch.tensor(x))])
@pytest.mark.parametrize("options", [{}, {"n_groups": 1}, {"update_every": 2}, {"space": "log"}])
@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ([1.0, -0.5, 2.0], ("'depth'", "-0.5", "lower_bounds=")),
        ([-1.0, -2.0, -3.0], ("'seg'", "-1", "lower_bounds=")),
        ([3.0, -1.0, -2.0], ("'depth'", "-1", "lower_bounds=")),  # they sum to 0
        ([1.0, nan, 2.0], ("'depth'", "nan", "finite", 'nonfinite="skip"')),
        ([1.0, 2.0, inf], ("'normal'", "inf", "finite", 'nonfinite="skip"')),
        ([-inf, 1.0, 2.0], ("'seg'", "-inf", "finite")),
        ([nan, nan, nan], ("'seg'", "nan")),
    ],
)
def test_negative_and_nonfinite_losses_are_refused(values, parts, options, kind):
    refuse(started(**options), parts, kind(values))


def test_a_negative_loss_is_refused_even_where_nan_is_skipped():
    module = started(nonfinite="skip")
    refuse(module, ("'depth'", "-0.5", "lower_bounds="), torch.tensor([nan, -0.5, 2.0]))


def test_bounds_allow_negative_losses_and_are_minded():
    module = started(lower_bounds=[-2.0, 0.0, 0.0])
    module(torch.tensor([-1.5, 1.0, 1.0]))
    refuse(module, ("'seg'", "-0.5 above its lower bound"), torch.tensor([-2.5, 1.0, 1.0]))
    # The sum itself may then be negative.
    assert started(lower_bounds=-9.0)(torch.tensor([-5.0, -6.0, -7.0])).item() < 0


def test_bounds_shift_what_the_weights_see_and_not_the_sum():
    shifted, plain = started(lower_bounds=[-2.0, 0.0, 1.0]), started()
    shifted.reset(), plain.reset()
    total = shifted(torch.tensor([-1.0, 1.0, 3.0], dtype=torch.float64))
    plain(torch.tensor([1.0, 1.0, 2.0]))
    assert torch.equal(shifted.weights, plain.weights)
    w = shifted.weights
    assert float(total) == pytest.approx(float(-w[0] + w[1] + 3 * w[2]))


def test_masked_losses_may_be_anything():
    for value in (nan, inf, -inf, -1.0):
        module = started()
        total = module(torch.tensor([1.0, value, 2.0]), [True, False, True])
        assert math.isfinite(total)
        assert module.skipped.tolist() == [0, 0, 0]


# --- nonfinite="skip" -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("kind", ["tensor", "list", "mapping"])
def test_skipping_is_masking_and_counting(bad, kind):
    skipping, masking = started(nonfinite="skip"), started()
    losses = torch.tensor([1.0, bad, 4.0], requires_grad=True)
    given = {"tensor": losses, "list": list(losses), "mapping": dict(zip(NAMES, losses))}[kind]  # noqa: B905  three names for three losses
    total = skipping(given)
    same = masking(torch.tensor([1.0, 0.0, 4.0]), [True, False, True])
    assert torch.equal(total, same)
    total.backward()
    assert losses.grad[1] == 0
    assert skipping.skipped.tolist() == [0, 1, 0]
    masked = {**bits(masking), "skipped": bits(skipping)["skipped"]}
    assert bits(skipping) == masked
    skipping.check()  # it was allowed


@pytest.mark.parametrize("kind", [lambda x: x, list], ids=["tensor", "list"])
@pytest.mark.parametrize("options", [{}, {"update_every": 2}, {"scale": "unit", "space": "log"}])
def test_a_step_without_any_usable_loss_does_nothing(options, kind):
    module = started(nonfinite="skip", **options)
    state = {k: v for k, v in bits(module).items() if k not in ("skipped", "window_step")}
    parameter = torch.ones(3, requires_grad=True)
    total = module(kind(parameter * torch.tensor([nan, inf, nan])))
    assert total.item() == 0
    total.backward()  # a loop calls it all the same
    if kind is list:
        assert parameter.grad is None  # through a tensor 0 times NaN comes back
    after = {k: v for k, v in bits(module).items() if k not in ("skipped", "window_step")}
    # A window may have ended: its one good batch then counts.
    assert after == state or options == {"update_every": 2}
    assert module.skipped.tolist() == [1, 1, 1]


def test_a_masked_task_is_not_counted_as_skipped():
    module = started(nonfinite="skip")
    module(torch.tensor([1.0, nan, nan]), [True, False, True])
    assert module.skipped.tolist() == [0, 0, 1]


# --- the path of accelerators: left out and counted ----------------------------------------------


@pytest.mark.parametrize("bad", [-1.0, nan, inf, -inf])
def test_on_a_device_bad_losses_are_left_out_and_counted(device_path, bad):
    module, masking = started(), started()
    losses = torch.tensor([1.0, bad, 4.0], requires_grad=True)
    total = module(losses)
    assert torch.equal(total, masking(torch.tensor([1.0, 0.0, 4.0]), [True, False, True]))
    total.backward()
    assert losses.grad[1] == 0
    for name in ("weights", "groups", "indicators", "group_weights"):
        with pytest.warns(SkippedLossWarning, match="'depth' 1 times"):
            getattr(module, name)
    with pytest.warns(SkippedLossWarning, match="lower_bounds="):
        module.state_dict()
    module(losses.detach())
    with pytest.raises(LossError, match="'depth' 2 times") as caught:
        module.check()
    for part in ("negative or not finite", "lower_bounds=", 'nonfinite="skip"'):
        assert part in str(caught.value)
    # Said once; then everything is as usual.
    module.check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = module.weights
        module.state_dict()


def test_on_a_device_skipping_is_silent(device_path):
    module = started(nonfinite="skip")
    module(torch.tensor([1.0, nan, 4.0]))
    assert module.skipped.tolist() == [0, 1, 0]
    assert module.weights.isfinite().all()
    module.check()


def test_on_a_device_a_step_without_any_usable_loss_does_nothing(device_path):
    for mask in (None, torch.tensor([False] * 3)):
        module = started(nonfinite="skip")
        before = {k: v for k, v in bits(module).items() if k != "skipped"}
        losses = torch.tensor([nan, inf, nan], requires_grad=True)
        total = module(losses, mask)
        assert total.item() == 0
        total.backward()
        assert losses.grad.tolist() == [0.0] * 3
        assert {k: v for k, v in bits(module).items() if k != "skipped"} == before


def test_on_a_device_shapes_and_names_are_still_refused(device_path):
    refuse(started(), ("(2,)", "expected (3,)"), torch.ones(2))
    refuse(started(), ("2 losses for 3 tasks",), [one] * 2)
    refuse(started(), ("torch.int64",), torch.ones(3, dtype=torch.int64))


# --- extremes that are allowed --------------------------------------------------------------------

EXTREMES = {
    "twelve orders": [1e-6, 1.0, 1e6],
    "huge": [1e199, 1.0, 1e-300],
    "huge and equal": [1e199, 1e199, 1e199],
    "one zero": [0.0, 1.0, 2.0],
    "all zero": [0.0, 0.0, 0.0],
    "denormal": [5e-324, 1e-310, 0.0],
    "denormal and equal": [5e-324] * 3,
    "denormal and large": [5e-324, 1e6, 1.0],
    "smallest normal": [2.3e-308] * 3,
}
SETTINGS = {
    "published": {},
    "mean": {"scale": "mean"},
    "none": {"scale": "none"},
    "unit": {"scale": "unit"},
    "log": {"space": "log"},
    "log, unit, one group": {"space": "log", "scale": "unit", "n_groups": 1},
    "log, ratio": {"space": "log", "max_ratio": 10.0},
    "log, none": {"space": "log", "scale": "none"},
    "no grouping": {"n_groups": 3},
    "auto": {"n_groups": "auto"},
    "ratio": {"max_ratio": 10.0},
    "ratio, no grouping": {"max_ratio": 10.0, "n_groups": 3},
    "floor": {"q_floor": 0.01},
    "decay": {"decay": 0.5},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("values", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("beta", [1e-4, 1.0])
def test_extremes_stay_finite(values, settings, on_device, beta, monkeypatch):
    """Weights are finite and not negative, now and after a return to ordinary losses."""
    if on_device:
        monkeypatch.setattr(go4align.losses, "on_host", lambda x: False)
    module = GO4Align(**{"n_tasks": 3, "n_groups": 2, "beta": beta, **settings})
    for row in (values, values, [1.0, 2.0, 3.0]):
        losses = torch.tensor(row, dtype=torch.float64, requires_grad=True)
        module(losses).backward()
        weights = module.weights
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        # Float64 losses times finite weights may still exceed the range, the gradient may not.
        assert torch.equal(losses.grad, weights)
        assert module.accumulated.isfinite().all()
        if settings.get("scale") == "unit":
            assert float(weights.sum()) == pytest.approx(3)
        if "max_ratio" in settings and weights.any():
            assert float(weights.max() / weights.min()) <= 10 * (1 + 1e-9)


def test_twelve_orders_of_magnitude_by_hand():
    module = GO4Align.published(3, 2)
    module(torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64))
    # beta A is (0, 0, 100): Q is (1/2, 1/2, 0). The smallest loss counts as 1e-8 of the mean.
    assert module.weights.tolist() == pytest.approx([1.5e8, 2.5e5, 2.5e5], rel=1e-3)


@pytest.mark.parametrize("scale", ["sum", "mean", "none", "unit"])
def test_float32_losses_at_the_end_of_their_range(scale):
    losses = torch.tensor([1e38, 1e-38, 1.0], requires_grad=True)
    module = GO4Align(3, 3, beta=0, scale=scale)
    total = module(losses)
    total.backward()
    assert total.isfinite()
    assert losses.grad.isfinite().all()


@pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
def test_weights_beyond_float32_are_cut_to_its_range(on_device, monkeypatch):
    if on_device:
        monkeypatch.setattr(go4align.losses, "on_host", lambda x: False)
    losses = torch.full((3,), 1e-40, requires_grad=True)
    GO4Align(3, 3, beta=0, scale="none")(losses).backward()  # w is 1e40
    assert losses.grad.tolist() == [torch.finfo(torch.float32).max] * 3


def test_a_zero_loss_counts_as_a_small_share_of_the_mean():
    module = GO4Align(2, 2, beta=0)
    module(torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert module.weights.tolist() == pytest.approx([0.5 * 2 / 1e-8, 0.5], rel=1e-6)


def test_a_huge_loss_is_forgiven_under_decay_and_not_for_ever_lost():
    """In the released code one loss of 1e8 makes Q of that task 0, or all of Q NaN, for ever."""
    module = GO4Align(2, 2, beta=1e-4, decay=0.5)
    module(torch.tensor([1e8, 1.0]))
    assert module.weights[0] < 1e-100
    for _ in range(60):
        module(torch.tensor([1.0, 1.0]))
    assert module.weights.tolist() == pytest.approx([1.0, 1.0], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_losses_have_weights_in_full_precision(dtype):
    # 1e-3 and 60000 in fp16: their ratio alone is beyond its range.
    module = GO4Align(2, 2)
    losses = torch.tensor([1e-3, 1.0], dtype=dtype, requires_grad=True)
    total = module(losses)
    assert total.dtype == dtype
    total.backward()
    assert losses.grad.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"update_every": 2}])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_half_precision_is_refused(options, sign):
    module = started(scale="sum", n_groups=3, lower_bounds=-6.5e4, **options)
    losses = torch.tensor([60000.0, 60000.0, 60000.0], dtype=torch.float16) * sign
    refuse(module, ("torch.float16", "float32", 'scale="unit"', "max_ratio="), losses)
    # As float32 there is room.
    module(losses.float())


def test_losses_without_gradient_still_train_the_weights():
    module = started()
    before = module.weights
    total = module(torch.tensor([4.0, 2.0, 1.0]))
    assert not total.requires_grad
    assert not torch.equal(module.weights, before)


def test_no_grad_and_inference_mode():
    for context in (torch.no_grad(), torch.inference_mode()):
        module = started()
        with context:
            module(torch.tensor([4.0, 2.0, 1.0]))
        losses = torch.tensor([4.0, 2.0, 1.0], requires_grad=True)
        module(losses).backward()
        assert int(module.steps) == 3


def test_a_meta_module_cannot_weight():
    with torch.device("meta"):
        module = GO4Align(3, 2)
    with pytest.raises(LossError, match="module on meta"):
        module(torch.ones(3))
