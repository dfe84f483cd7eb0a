"""Saving, loading, copying and moving: a run resumes bit for bit, or says why it cannot."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import go4align.losses
from go4align import GO4Align
from go4align.errors import Go4AlignError, SkippedLossWarning, StateError

TASKS = 4
NAMES = ["seg", "depth", "normal", "edge"]
OPTIONS = {
    "published": {},
    "log space": {"space": "log", "scale": "none"},
    "auto": {"n_groups": "auto"},
    "unit, ratio, priors": {"scale": "unit", "max_ratio": 4.0, "priors": [1, 2, 3, 4]},
    "decay and floor": {"decay": 0.7, "q_floor": 0.05},
    "bounds": {"lower_bounds": -1.0},
    "windows": {"update_every": 3},
    "skip": {"nonfinite": "skip"},
    "names": {"tasks": NAMES},
    "mean": {"scale": "mean", "n_groups": 1},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def new(options=None, **more):
    return GO4Align(**{"n_tasks": TASKS, "n_groups": 2, "beta": 0.1, **(options or {}), **more})


def stream(count, masked, skipping=False):
    generator = np.random.default_rng(3)
    for step in range(count):
        losses = torch.from_numpy(np.exp(2 * generator.standard_normal(TASKS)))
        mask = generator.random(TASKS) < 0.6
        mask[generator.integers(TASKS)] = True
        if skipping and step % 3 == 1:
            losses[step % TASKS] = math.nan
        yield losses, mask.tolist() if masked else None


def trained(options=None, steps=5, **more):
    module = new(options, **more)
    for losses, mask in stream(steps, masked=True):
        module(losses, mask)
    return module


def bits(module):
    return {name: t.numpy().tobytes() for name, t in module.state_dict().items()}


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("stop", [1, 4, 6])
@every_option
def test_resuming_gives_the_same_bits(options, stop, masked):
    """N steps, or k steps, a file and N - k steps; 4 is in the middle of a window."""
    whole, first = new(options), new(options)
    totals = []
    for step, (losses, mask) in enumerate(stream(9, masked, options.get("nonfinite") == "skip")):
        if step == stop:
            second = new(options)
            second.load_state_dict(through_a_file(first.state_dict()))
            first = second
        totals.append((whole(losses, mask), first(losses, mask)))
    assert all(torch.equal(a, b) for a, b in totals)
    assert bits(first) == bits(whole)


def test_resuming_on_the_device_path_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(go4align.losses, "on_host", lambda x: False)
    test_resuming_gives_the_same_bits({"update_every": 3}, 4, masked=True)


def test_every_entry_is_a_tensor_of_its_own():
    """Which is what safetensors and other formats without pickling can hold."""
    state = trained(tasks=NAMES).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert all(value.is_contiguous() for value in state.values())
    assert len({value.untyped_storage().data_ptr() for value in state.values()}) == len(state)


def test_safetensors_round_trip():
    safetensors = pytest.importorskip("safetensors.torch")
    module, other = trained(tasks=NAMES), new(tasks=NAMES)
    other.load_state_dict(safetensors.load(safetensors.save(module.state_dict())))
    assert bits(other) == bits(module)


def test_loading_does_not_change_what_is_loaded():
    state = trained(tasks=NAMES).state_dict()
    before = {name: value.clone() for name, value in state.items()}
    module = new(tasks=NAMES)
    module.load_state_dict(state)
    module(torch.ones(TASKS))
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deepcopy", "pickle"],
)
@every_option
def test_copies_go_on_alone(options, make):
    module = trained(options)
    twin = make(module)
    assert bits(twin) == bits(module)
    assert repr(twin) == repr(module)
    before = bits(module)
    losses = torch.rand(TASKS)
    found = twin(losses)
    assert bits(module) == before
    assert torch.equal(module(losses), found)


# --- dtype and device -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.to(torch.bfloat16),
        lambda model: model.half(),
        lambda model: model.float(),
        lambda model: model.double(),
        lambda model: model.type(torch.float16),
        lambda model: model.to("cpu", torch.float16),
        lambda model: model.share_memory(),
    ],
    ids=["bf16", "half", "float", "double", "type", "to", "share"],
)
def test_a_cast_of_the_model_leaves_the_state_alone(change):
    """1 + 2**-40 does not survive bf16, nor do 100 001 steps."""
    model = nn.Sequential(nn.Linear(2, 2), trained(lower_bounds=-1 / 3, priors=[1 / 3] * TASKS))
    module = model[1]
    module.accumulated += 1 + 2.0**-40
    module.steps += 100_001
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    change(model)
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    assert all(buffer.dtype == before[name].dtype for name, buffer in module.named_buffers())
    module(torch.ones(TASKS))


def test_a_model_built_on_the_meta_device():
    """How large models are built: no memory first, then empty memory, then the checkpoint."""
    options = {"lower_bounds": [-1.0] * TASKS, "priors": [1.0, 2.0, 3.0, 4.0], "tasks": NAMES}
    source = trained(options)
    with torch.device("meta"):
        model = new(options)
    assert all(buffer.is_meta for buffer in model.buffers())
    model.to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    losses = torch.rand(TASKS)
    assert torch.equal(model(losses), source(losses))
    assert bits(model) == bits(source)

    moved = trained(options).to("meta").to_empty(device="cpu")
    moved.reset()
    fresh = new(options)
    assert torch.equal(moved(losses), fresh(losses))
    assert bits(moved) == bits(fresh)


def test_a_meta_module_takes_its_tensors_from_the_checkpoint():
    source = trained()
    with torch.device("meta"):
        model = new()
    # A checkpoint that someone cast as a whole, counters excepted.
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in source.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    assert model.accumulated.dtype == torch.float64
    torch.testing.assert_close(model.weights, source.weights)
    model(torch.rand(TASKS))


# --- other tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "loading", "parts"),
    [
        ({}, {"n_tasks": 3}, ("4 tasks", "has 3", "n_tasks=4")),
        (
            {"tasks": NAMES},
            {"tasks": ["depth", "seg", "normal", "edge"]},
            ("['seg', 'depth'", "['depth', 'seg'", "order differs", "tasks=['seg'"),
        ),
        (
            {"tasks": NAMES},
            {"tasks": ["seg", "depth", "normal", "pose"]},
            ("'edge'", "'pose'", "tasks=['seg'"),
        ),
        ({"tasks": NAMES}, {"n_tasks": 3, "tasks": NAMES[:3]}, ("4 tasks", "has 3")),
    ],
    ids=["number", "order", "names", "number and names"],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_other_tasks_is_refused_whole(saved, loading, parts, strict):
    state = trained(saved).state_dict()
    module = new(loading)
    module(torch.rand(module.n_tasks))
    before = bits(module)
    with pytest.raises(StateError) as caught:
        module.load_state_dict(state, strict=strict)
    for part in parts:
        assert part in str(caught.value)
    assert "order" not in str(caught.value) or "order" in str(parts)
    assert isinstance(caught.value, Go4AlignError)
    assert isinstance(caught.value, RuntimeError)  # what torch raises for such things
    assert bits(module) == before


@pytest.mark.parametrize("named", [True, False], ids=["into unnamed", "from unnamed"])
def test_a_module_without_names_takes_and_gives_any(named):
    source = trained(tasks=NAMES if named else None)
    target = new(tasks=None if named else NAMES)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.accumulated, source.accumulated)
    # It keeps its own names, or none.
    assert target.tasks == (tuple("0123") if named else tuple(NAMES))


def test_names_may_be_any_text():
    names = ["a.b", "größe", "", '"quoted" \\ \n']
    source, target = trained(tasks=names), new(tasks=names)
    target.load_state_dict(through_a_file(source.state_dict()))
    assert bits(target) == bits(source)
    with pytest.raises(StateError, match="größe"):
        new(tasks=NAMES).load_state_dict(source.state_dict())


# --- inside a model -------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self, tasks=None):
        super().__init__()
        self.trunk = nn.Linear(3, 3)
        self.train_only = nn.ModuleDict({"weighting": new(tasks=tasks)})
        self.head = nn.Linear(3, 2)


@pytest.mark.parametrize("tasks", [None, NAMES], ids=["unnamed", "named"])
def test_the_state_travels_in_that_of_the_model(tasks):
    source, target = Model(tasks), Model(tasks)
    source.train_only["weighting"](torch.rand(TASKS))
    state = source.state_dict()
    assert "train_only.weighting.accumulated" in state
    result = target.load_state_dict(through_a_file(state))
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert bits(target) == bits(source)


def test_the_error_passes_through_the_model():
    with pytest.raises(StateError, match="order differs"):
        Model(NAMES).load_state_dict(Model(NAMES[::-1]).state_dict())


def test_a_checkpoint_from_before_the_weighting():
    """strict=False leaves it as it is; strict=True names what is missing."""
    model = Model()
    model.train_only["weighting"](torch.rand(TASKS))
    before = bits(model.train_only["weighting"])
    state = {name: x for name, x in model.state_dict().items() if "weighting" not in name}
    with pytest.raises(RuntimeError, match=r"train_only\.weighting\.accumulated"):
        model.load_state_dict(state)
    result = model.load_state_dict(state, strict=False)
    assert "train_only.weighting.accumulated" in result.missing_keys
    assert bits(model.train_only["weighting"]) == before


def test_a_checkpoint_with_a_weighting_loads_into_a_model_without():
    plain = nn.Module()
    plain.trunk = nn.Linear(3, 3)
    unexpected = plain.load_state_dict(Model(NAMES).state_dict(), strict=False).unexpected_keys
    assert "train_only.weighting.accumulated" in unexpected


def test_an_optimizer_sees_no_parameter():
    assert len(list(Model().parameters())) == 4


def test_saving_warns_of_losses_left_out_on_a_device(monkeypatch):
    monkeypatch.setattr(go4align.losses, "on_host", lambda x: False)
    module = new(tasks=NAMES)
    module(torch.tensor([1.0, 2.0, -1.0, 3.0]))
    with pytest.warns(SkippedLossWarning, match="'normal' 1 times"):
        state = module.state_dict()
    assert state["skipped"].tolist() == [0, 0, 1, 0]
    quiet = new(nonfinite="skip")
    quiet(torch.tensor([1.0, 2.0, math.nan, 3.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet.state_dict()
