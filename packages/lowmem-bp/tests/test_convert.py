"""What convert() refuses, and why: a module is replaced only if it surely computes the same."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from lowmem_bp import convert, converted, functional, revert
from lowmem_bp.backends import name_of, resolve
from lowmem_bp.errors import ConfigError, ConvertError
from lowmem_bp.steps import preset


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(16, 32), nn.Linear(16, 32)
        self.down_proj, self.act_fn = nn.Linear(32, 16), nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class UpFirst(Gated):
    def forward(self, hidden):
        """Written the other way round."""
        result = self.down_proj(self.up_proj(hidden) * self.act_fn(self.gate_proj(hidden)))
        return result  # noqa: RET504 as some classes write it


class Clamped(Gated):
    def forward(self, x):
        gate = self.act_fn(self.gate_proj(x)).clamp(max=7)
        return self.down_proj(gate * self.up_proj(x))


class RMSNorm(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.weight, self.eps, self.compute = nn.Parameter(torch.ones(16)), 1e-6, compute

    def forward(self, x):
        return self.weight * self.compute(x, self.eps)


def reason(report, kind):
    return next(skip.reason for skip in report.skipped if skip.kind == kind)


@pytest.mark.parametrize("cls", [Gated, UpFirst])
def test_gated_mlp_is_recognised_by_its_forward(cls):
    report = convert(cls())
    assert "gated mlp" in {change.kind for change in report.changed}


def test_gated_mlp_with_a_clamp_is_left_alone():
    model = Clamped()
    x = 1000 * torch.randn(4, 16)
    expected = model(x)
    report = convert(model)
    assert "its forward is not down_proj" in reason(report, "gated mlp")
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x, eps: x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps * 100),
        lambda x, eps: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True).clamp(max=1e4) + eps),
        lambda x, eps: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True).clamp(min=eps)),
    ],
    ids=["eps outside the root", "clamped above", "clamped below"],
)
def test_norm_that_is_nearly_an_rms_norm_is_left_alone(compute):
    report = convert(RMSNorm(compute))
    assert "something else than a known RMSNorm" in reason(report, "norm")


def test_true_rms_norm_of_a_strange_class_is_converted():
    norm = RMSNorm(lambda x, eps: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))
    assert [change.kind for change in convert(norm).changed] == ["norm"]


def test_two_bits_only_where_the_next_layer_is_surely_frozen():
    bottleneck = nn.Sequential(nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 64))
    bottleneck[0].requires_grad_(False)
    assert "recomputed" in next(
        c.keeps for c in convert(bottleneck, "2bit").changed if c.name == "1"
    )
    mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
    mlp[2].requires_grad_(False)
    assert "2-bit" in next(c.keeps for c in convert(mlp, "2bit").changed if c.name == "1")


# torch's own tracing instantiates the function it warns of.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["exact", "2bit", "paper"])
def test_compiled_checkpointed_block(mode):
    torch._dynamo.reset()
    block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    convert(block, mode)
    x = torch.randn(4, 8, requires_grad=True)

    def run(x):
        return checkpoint(block, x, use_reentrant=False).pow(2).sum()

    (expected,) = torch.autograd.grad(run(x), x)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(x), x)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_output_can_be_saved_as_stocks_can():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    convert(model)
    y = model(torch.randn(4, 8))
    file = io.BytesIO()
    torch.save(y, file)
    assert len(file.getvalue()) < 3000
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), y)


def test_residual_added_in_place_after_dropout():
    """Stock keeps nothing of x here, so x may change before backward."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.drop, self.b = nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)

        def forward(self, x):
            h = self.a(x)
            out = self.b(self.drop(h))
            h += out
            return h

    model, x = Model(), torch.randn(4, 8)
    gradients = []
    for _ in ("stock", "converted"):
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(model(x).sum(), list(model.parameters())))
        convert(model)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_parametrized_layers_are_left_alone():
    model = nn.Sequential(weight_norm(nn.Linear(8, 8)), nn.GELU(), nn.Linear(8, 8))
    assert "parametrized" in reason(convert(model), "linear")


def test_class_changed_by_somebody_else_is_named_and_nothing_is_half_done():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    with pytest.raises(ConvertError, match="parametrization"), converted(model):
        weight_norm(model[2])
    model(torch.randn(2, 8)).sum().backward()
    torch.nn.utils.parametrize.remove_parametrizations(model[2], "weight")
    assert revert(model) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "exact", "everywhere": True}, "are for mode='2bit'"),
        ({"mode": "exact", "tables": {"1": preset("gelu")}}, "are for mode='2bit'"),
        ({"mode": "2bit", "tables": {"0": preset("gelu")}}, "'0', a Linear: not an activation"),
        ({"mode": "2bit", "tables": {"9": preset("gelu")}}, "'9', which the model lacks.*'1'"),
        ({"mode": "2bit", "tables": [1]}, "tables is list; expected a mapping"),
        ({"mode": "4bit"}, "mode='4bit': expected one of"),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(arguments, message):
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    with pytest.raises(ConfigError, match=message):
        convert(model, **arguments)
    assert revert(model) == 0


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_report_names_the_backend(backend):
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    report = convert(model, backend=backend)
    expected = "torch" if backend == "torch" else name_of(resolve())
    assert report.backend == report.to_dict()["backend"] == expected
    assert f"backend: {expected}" in str(report)


def test_table_and_other_bits_contradict():
    with pytest.raises(ConfigError, match="bits=4 and a table of 2 bits"):
        functional.stepwise(torch.randn(3), "gelu", preset("gelu"), bits=4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_scripted_model_is_refused():
    with pytest.raises(ConvertError, match="TorchScript"):
        convert(torch.jit.script(nn.Linear(2, 2)))


@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning")
def test_layer_without_outputs():
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 0))
    convert(model)
    model(torch.randn(2, 8)).sum().backward()
    assert model[1].weight.grad.shape == (0, 8)


def test_functions_and_strange_leaves_are_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.activation = lambda x: F.leaky_relu(x, 0.2)
            self.conv = nn.Conv1d(4, 4, 1)

        def forward(self, x):
            return self.activation(self.conv(x))

    report = convert(Model())
    assert report.changed == ()
    assert {skip.name for skip in report.skipped} == {"activation", "conv"}
