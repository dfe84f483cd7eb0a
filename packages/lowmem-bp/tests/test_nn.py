"""The modules of ``lowmem_bp.nn`` against the torch modules they stand in for."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lowmem_bp
from lowmem_bp import nn as lean
from lowmem_bp.errors import ConfigError, DTypeError, ShapeError
from lowmem_bp.steps import StepTable, preset

NORMS = {
    "layer": (lean.MSLayerNorm, nn.LayerNorm, (8,), {}),
    "layer, no affine": (lean.MSLayerNorm, nn.LayerNorm, (8,), {"elementwise_affine": False}),
    "layer, no bias": (lean.MSLayerNorm, nn.LayerNorm, (8,), {"bias": False}),
    "layer, eps": (lean.MSLayerNorm, nn.LayerNorm, (8,), {"eps": 0.3}),
    "layer, positional": (lean.MSLayerNorm, nn.LayerNorm, (8, 1e-3, True, False), {}),
    "layer, 2-d": (lean.MSLayerNorm, nn.LayerNorm, ([3, 8],), {}),
    "layer, bf16": (lean.MSLayerNorm, nn.LayerNorm, (8,), {"dtype": torch.bfloat16}),
    "layer, fp64": (lean.MSLayerNorm, nn.LayerNorm, (8,), {"device": "cpu", "dtype": torch.double}),
    "rms": (lean.MSRMSNorm, nn.RMSNorm, (8,), {}),
    "rms, no affine": (lean.MSRMSNorm, nn.RMSNorm, (8,), {"elementwise_affine": False}),
    "rms, eps": (lean.MSRMSNorm, nn.RMSNorm, (8, 0.3), {}),
    "rms, 2-d": (lean.MSRMSNorm, nn.RMSNorm, ((3, 8),), {"eps": 1e-6}),
    "rms, bf16": (lean.MSRMSNorm, nn.RMSNorm, (8,), {"dtype": torch.bfloat16}),
}

OTHERS = {
    "linear": (lean.Linear, nn.Linear, (8, 5), {}),
    "linear, no bias": (lean.Linear, nn.Linear, (8, 5), {"bias": False}),
    "linear, bf16": (lean.Linear, nn.Linear, (8, 5), {"dtype": torch.bfloat16}),
    "dropout": (lean.Dropout, nn.Dropout, (0.3,), {}),
    "dropout, default": (lean.Dropout, nn.Dropout, (), {}),
    "gelu": (lambda: lean.Activation("gelu"), nn.GELU, (), {}),
    "gelu, tanh": (lambda: lean.Activation("gelu_tanh"), lambda: nn.GELU("tanh"), (), {}),
    "silu": (lambda: lean.Activation("silu"), nn.SiLU, (), {}),
    "mish": (lambda: lean.Activation("mish"), nn.Mish, (), {}),
    "tanh": (lambda: lean.Activation("tanh"), nn.Tanh, (), {}),
}

MODULES = {
    **{name: (lambda case=case: case[0](*case[2], **case[3])) for name, case in NORMS.items()},
    **{name: (lambda case=case: case[0](*case[2], **case[3])) for name, case in OTHERS.items()},
    "norm, autocast": lambda: lean.MSLayerNorm(8, emit_autocast_dtype=True),
    "regelu2": lean.ReGELU2,
    "regelu2, tanh": lambda: lean.ReGELU2("tanh"),
    "resilu2": lean.ReSiLU2,
    "stepwise": lambda: lean.Stepwise("mish", bits=4),
    "stepwise, own table": lambda: lean.Stepwise("silu", StepTable((0.0,), (0.0, 1.0))),
    "activation, int8": lambda: lean.Activation("silu", mode="int8"),
    "gated mlp": lambda: lean.GatedMLP(8, 12),
    "gated mlp, int8": lambda: lean.GatedMLP(8, 12, "gelu_tanh", bias=True, mode="int8"),
}

LIMITS = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 2.0**-6}


def relative(result, expected):
    size = max(expected.double().norm().item(), 1e-300)
    return (result.double() - expected.double()).norm().item() / size


def dtype_of(module):
    return next((p.dtype for p in module.parameters()), torch.float32)


def run(module, x):
    """Output and gradients (of the input, then of the parameters)."""
    module.zero_grad()
    leaf = x.clone().requires_grad_()
    torch.manual_seed(7)
    y = module(leaf)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype))
    return [y.detach(), leaf.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


def randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 + torch.rand(parameter.shape))
    return module


@pytest.mark.parametrize("case", [*NORMS, *OTHERS])
def test_module_computes_what_torchs_does(case):
    ours, torchs, args, kwargs = {**NORMS, **OTHERS}[case]
    theirs = randomise(torchs(*args, **kwargs))
    mine = ours(*args, **kwargs)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    mine.load_state_dict(theirs.state_dict())
    x = (2 * torch.randn(4, 3, 8)).to(dtype_of(theirs))
    results, expected = run(mine, x), run(theirs, x)
    assert len(results) == len(expected)
    for a, b in zip(results, expected, strict=True):
        assert a.dtype == b.dtype
        assert relative(a, b) <= LIMITS[a.dtype]
    if case in OTHERS:
        assert torch.equal(results[0], expected[0]), "torch's own kernel computes the forward"


@pytest.mark.parametrize("case", NORMS)
def test_norms_are_subclasses_with_the_same_attributes(case):
    ours, torchs, args, kwargs = NORMS[case]
    mine, theirs = ours(*args, **kwargs), torchs(*args, **kwargs)
    assert isinstance(mine, torchs)
    for name in ("normalized_shape", "eps", "elementwise_affine"):
        assert getattr(mine, name) == getattr(theirs, name)
    shapes = {name: (p.shape, p.dtype) for name, p in mine.named_parameters()}
    assert shapes == {name: (p.shape, p.dtype) for name, p in theirs.named_parameters()}
    assert mine.extra_repr() == theirs.extra_repr()


def test_norms_can_be_made_on_the_meta_device():
    norm = lean.MSLayerNorm(8, device="meta")
    assert norm.weight.is_meta
    assert norm(torch.empty(2, 8, device="meta")).shape == (2, 8)
    assert lean.GatedMLP(8, 16, device="meta").down_proj.weight.is_meta


@pytest.mark.parametrize("norm", [nn.LayerNorm(16), nn.RMSNorm(16), nn.LayerNorm(16, bias=False)])
def test_state_dicts_go_both_ways(norm):
    randomise(norm)
    mine = type(norm).__name__.join(("MS", ""))
    settings = {"bias": False} if getattr(norm, "bias", 0) is None else {}
    ours = getattr(lean, mine)(16, **settings)
    ours.load_state_dict(norm.state_dict())
    back = type(norm)(16, **settings)
    back.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), norm.parameters(), strict=True))
    buffer = io.BytesIO()
    torch.save(ours.state_dict(), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True).keys() == norm.state_dict().keys()


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, copy.copy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["deepcopy", "copy", "pickle"],
)
@pytest.mark.parametrize("case", MODULES)
def test_copies_are_of_the_same_class_and_compute_the_same(case, duplicate):
    module = randomise(MODULES[case]())
    twin = duplicate(module)
    assert type(twin) is type(module)
    assert repr(twin) == repr(module)
    x = torch.randn(4, 3, 8).to(dtype_of(module))
    expected = run(module, x)
    for a, b in zip(run(twin, x), expected, strict=True):
        assert torch.equal(a, b)
    if duplicate is copy.deepcopy:
        for parameter in twin.parameters():
            parameter.data.zero_()
        assert all(p.abs().sum() > 0 for p in module.parameters())


class OwnNorm(lean.MSLayerNorm):
    """A user's subclass."""


class OwnLinear(lean.Linear):
    """A user's subclass."""


def test_subclasses_can_be_copied():
    for module in (OwnNorm(4), OwnLinear(4, 2)):
        for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert type(twin) is type(module)
            assert torch.equal(twin(torch.ones(3, 4)), module(torch.ones(3, 4)))


def test_convert_and_revert_leave_these_modules_alone():
    model = nn.Sequential(
        lean.MSLayerNorm(8),
        lean.Linear(8, 8),
        lean.Dropout(0.2),
        lean.Activation("gelu"),
        lean.ReGELU2(),
        lean.GatedMLP(8, 12),
        nn.SiLU(),
        nn.Linear(8, 8),
    )
    classes = [type(module) for module in model.modules()]
    report = lowmem_bp.convert(model)
    assert [change.name for change in report.changed] == ["6", "7"]
    for skip in report.skipped:
        assert skip.reason == "already converted"
    assert lowmem_bp.revert(model) == 2
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize("norm", [lean.MSLayerNorm, lean.MSRMSNorm])
@pytest.mark.parametrize("affine", [True, False])
def test_norm_emits_the_autocast_dtype_when_told_so(norm, affine):
    x = torch.randn(6, 8, requires_grad=True)
    plain = norm(8, elementwise_affine=affine)
    emitting = norm(8, elementwise_affine=affine, emit_autocast_dtype=True)
    assert emitting(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plain(x).dtype == torch.float32
        y = emitting(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, plain(x).bfloat16()), "rounded once, from fp32"
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y) * torch.arange(8))
    assert dx.dtype == torch.float32
    expected = torch.autograd.grad(plain(x), x, torch.ones(6, 8) * torch.arange(8))[0]
    assert relative(dx, expected) <= 2.0**-7
    with torch.autocast("cpu", dtype=torch.float16):
        assert emitting(x).dtype == torch.float16


@pytest.mark.parametrize(
    ("module", "table", "forward"),
    [
        (lean.ReGELU2, preset("gelu", "paper"), F.gelu),
        (lambda: lean.ReGELU2("tanh"), preset("gelu", "paper"), nn.GELU("tanh")),
        (lean.ReSiLU2, preset("silu", "paper"), F.silu),
        (lean.Stepwise, preset("gelu", "grad"), F.gelu),
        (lambda: lean.Stepwise("silu", "grad", 1), preset("silu", bits=1), F.silu),
        (
            lambda: lean.Stepwise("silu", StepTable((0.5,), (0.25, 0.75))),
            StepTable((0.5,), (0.25, 0.75)),
            F.silu,
        ),
    ],
)
def test_step_modules_use_their_table(module, table, forward):
    x = torch.randn(50, requires_grad=True)
    y = module()(x)
    assert torch.equal(y, forward(x))
    y.sum().backward()
    index = (x.detach()[:, None] > torch.tensor(table.cuts)).sum(1)
    assert torch.equal(x.grad, torch.tensor(table.levels)[index])


def test_reprs_say_what_is_kept():
    assert repr(lean.ReGELU2()) == "ReGELU2(gelu, bits=2)"
    assert repr(lean.ReGELU2("tanh")) == "ReGELU2(gelu_tanh, bits=2)"
    assert repr(lean.Stepwise("mish", bits=4)) == "Stepwise(mish, bits=4)"
    assert repr(lean.Activation("silu", "int8")) == "Activation(silu, mode='int8')"
    assert repr(lean.Linear(3, 2)) == "Linear(in_features=3, out_features=2, bias=True)"
    assert "Dropout(p=0.5" in repr(lean.Dropout())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["silu", "gelu_tanh", "gelu"])
def test_gated_mlp_is_its_formula(name, bias):
    mlp = randomise(lean.GatedMLP(8, 12, name, bias=bias, dtype=torch.float64))
    forward = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": nn.GELU("tanh")}[name]

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = (
                nn.Linear(8, 12, bias, dtype=torch.double) for _ in "gu"
            )
            self.down_proj = nn.Linear(12, 8, bias, dtype=torch.double)

        def forward(self, x):
            return self.down_proj(forward(self.gate_proj(x)) * self.up_proj(x))

    plain = Plain()
    plain.load_state_dict(mlp.state_dict())
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    for mine, theirs in zip(run(mlp, x), run(plain, x), strict=True):
        assert relative(mine, theirs) <= 1e-13


def test_gated_mlp_int8_is_close_in_gradient_and_equal_in_output():
    exact = lean.GatedMLP(32, 160)
    int8 = lean.GatedMLP(32, 160, mode="int8")
    int8.load_state_dict(exact.state_dict())
    x = torch.randn(40, 32)
    results, expected = run(int8, x), run(exact, x)
    assert torch.equal(results[0], expected[0])
    errors = [relative(a, b) for a, b in zip(results[1:], expected[1:], strict=True)]
    assert 1e-4 < max(errors) <= 2e-2


def test_a_block_of_these_modules_keeps_less_than_torchs():
    ours = nn.Sequential(
        lean.MSLayerNorm(64),
        lean.Linear(64, 256),
        lean.Activation("gelu"),
        lean.Dropout(0.1),
        lean.Linear(256, 64),
    )
    theirs = nn.Sequential(
        nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, 64)
    )
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(32, 64, requires_grad=True)
    held = lowmem_bp.profile(ours, x).total_bytes
    # z, r, the fc1 output, a bit per element for dropout, two rows of the norm's parameters.
    assert held == 32 * (64 * 4 + 4 + 256 * 4 + 256 // 8) + 2 * 64 * 4
    assert held < 0.5 * lowmem_bp.profile(theirs, x).total_bytes
    for mine, other in zip(run(ours, x.detach()), run(theirs, x.detach()), strict=True):
        assert relative(mine, other) <= 1e-6


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lean.Stepwise("gelo"), ConfigError, "'gelo' is not known.*gelu"),
        (lambda: lean.Stepwise("gelu", bits=3), ConfigError, "bits=3"),
        (lambda: lean.Stepwise(backend="cuda"), ConfigError, "backend='cuda'"),
        (lambda: lean.ReGELU2("fast"), ConfigError, "approximate='fast'"),
        (lambda: lean.Activation("gelu", "int4"), ConfigError, "mode='int4'"),
        (lambda: lean.GatedMLP(4, 8, mode="2bit"), ConfigError, "mode='2bit'"),
        (
            lambda: lean.MSLayerNorm(4)(torch.ones(2, 5)),
            ShapeError,
            r"\(4,\) and x of shape \(2, 5",
        ),
        (lambda: lean.MSRMSNorm(4)(torch.ones(4, 1)), ShapeError, r"\(4,\) and x of shape \(4, 1"),
        (
            lambda: lean.MSRMSNorm(4, elementwise_affine=False)(torch.ones(2, 5)),
            ShapeError,
            r"\(4,\) and x of shape \(2, 5",
        ),
        (lambda: lean.MSLayerNorm(4)(torch.arange(4)), DTypeError, "torch.int64"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
