"""The functions themselves: codes, step derivatives, norms, fused forms, dropout, packing."""

from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lowmem_bp import functional as L
from lowmem_bp.activations import ACTIVATIONS
from lowmem_bp.errors import ConfigError, DTypeError, ShapeError
from lowmem_bp.steps import PRESETS, StepTable, preset

# Test modules cannot import each other under --import-mode=importlib.
reference = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).with_name("reference_functional.py")))
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Rounding of one result of the dtype, relative to its norm.
PRECISION = {
    torch.float16: 2.0**-10,
    torch.bfloat16: 2.0**-7,
    torch.float32: 1e-6,
    torch.float64: 1e-14,
}
MODES = ("exact", "int8")


def relative(result, expected):
    """``|result - expected| / |expected|`` in fp64."""
    expected = torch.as_tensor(expected).double()
    size = max(expected.norm().item(), 1e-300)
    return (torch.as_tensor(result).double() - expected).norm().item() / size


def to_numpy(x):
    """The same values: bf16 and fp16 as fp32."""
    x = x.detach()
    return (x if x.dtype == torch.float64 else x.float()).numpy()


def rounded(values, dtype):
    """An fp32 or fp64 numpy result in ``dtype``, rounded once."""
    if dtype == torch.bfloat16:
        values = reference.round_to_bf16(values)
    return torch.from_numpy(np.array(values, order="C")).to(dtype)


def saved(function, *args, owned=()):
    """Run ``function`` and return its result and the tensors autograd saved, one per storage.

    ``owned``: parameters, whose storage is not counted.
    """
    ignored = {tensor.untyped_storage()._cdata for tensor in owned}
    found = {}

    def pack(tensor):
        found.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function(*args)
    return result, [tensor for key, tensor in found.items() if key not in ignored]


def nbytes(tensors):
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def rows_of(*tensors):
    """Bytes of tensors that do not grow with the batch."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# --- packing --------------------------------------------------------------------------------


def test_pack_codes_puts_the_first_code_in_the_lowest_bits():
    def packed(bits, *values):
        return L.pack_codes(torch.tensor(values, dtype=torch.uint8), bits).tolist()

    assert packed(2, 1, 2, 3) == [0b00_11_10_01]
    assert packed(2, 0, 0, 0, 3, 1) == [0b11_00_00_00, 0b01]
    assert packed(1, 1, 0, 0, 0, 0, 0, 0, 0, 1) == [1, 1]
    assert packed(4, 0xA, 0xB, 0xC) == [0xBA, 0x0C]


@given(bits=st.sampled_from([1, 2, 4]), data=st.data())
def test_packing_matches_the_reference_and_comes_back(bits, data):
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    codes = torch.tensor(values, dtype=torch.uint8)
    packed = L.pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (math.ceil(len(values) * bits / 8),)
    assert packed.tolist() == reference.pack(values, bits).tolist()
    assert L.unpack_codes(packed, len(values), bits).tolist() == values


@given(st.lists(st.booleans(), max_size=70))
def test_booleans_come_back(values):
    packed = L.pack_bool(torch.tensor(values, dtype=torch.bool))
    assert packed.shape == (math.ceil(len(values) / 8),)
    assert L.unpack_bool(packed, len(values)).tolist() == values


def test_packing_follows_the_logical_order():
    codes = torch.randint(4, (3, 5, 7), dtype=torch.uint8)
    moved = codes.permute(2, 0, 1)
    assert not moved.is_contiguous()
    assert torch.equal(L.pack_codes(moved), L.pack_codes(moved.contiguous()))
    assert not torch.equal(L.pack_codes(moved), L.pack_codes(codes))
    assert L.pack_codes(torch.tensor(2, dtype=torch.uint8)).tolist() == [2]


# --- constants, codes and levels ------------------------------------------------------------


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_paper_tables_are_the_published_digits(name):
    table = preset(name, "paper")
    assert table.cuts == reference.KNOTS[name]
    # To the last bit of fp32, which is what multiplies.
    ours = np.array(table.levels, dtype=np.float32)
    assert ours.tolist() == np.array(reference.published_levels(name), dtype=np.float32).tolist()
    assert preset("gelu_tanh", "paper") == preset("gelu", "paper")


def values_near(cuts):
    """Floats with ties at the cuts, their neighbours in fp32, and everything unusual."""
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 65504.0]
    for cut in map(np.float32, cuts):
        special += [float(cut), *(float(np.nextafter(cut, np.float32(way))) for way in (-99, 99))]
    return st.lists(
        st.one_of(st.sampled_from(special), st.floats(-8, 8, width=32)), min_size=1, max_size=40
    )


@pytest.mark.parametrize("key", [k for k in PRESETS if k[1] in ("gelu", "silu")], ids=str)
@given(dtype=st.sampled_from(DTYPES), data=st.data())
def test_codes_and_derivative_are_bit_exact(key, dtype, data):
    name, activation, bits = key
    table = PRESETS[key]
    x = torch.tensor(data.draw(values_near(table.cuts))).to(dtype)
    grad = torch.randn(x.shape).to(dtype)
    x.requires_grad_()
    y, kept = saved(lambda: L.stepwise(x, activation, name, bits=bits))
    codes = reference.codes(to_numpy(x), table.cuts)
    assert [tensor.tolist() for tensor in kept] == [reference.pack(codes, bits).tolist()]
    assert (codes[np.isnan(to_numpy(x))] == 0).all()
    y.backward(grad)
    expected = reference.step_multiply(to_numpy(grad), to_numpy(x), table.cuts, table.levels)
    assert torch.equal(x.grad, rounded(expected, dtype))


def test_bf16_is_compared_in_fp32_and_ties_take_the_lower_code():
    def codes(x, *cuts):
        padded = (*cuts, 50.0, 60.0, 70.0)[:3]
        table = StepTable(padded, (0.0, 1.0, 2.0, 3.0))
        _, (packed,) = saved(lambda: L.stepwise(x.requires_grad_(), "gelu", table))
        return L.unpack_codes(packed, x.numel()).tolist()

    assert codes(torch.tensor([0.999, 1.0, 1.001, math.nan]), 1.0) == [0, 0, 1, 0]
    # As bf16 this cut would be 1.0 and the second element a tie.
    below = 1 - 1e-4
    assert codes(torch.tensor([0.99, 1.0], dtype=torch.bfloat16), below) == [0, 1]
    # As fp32 the cut is 1.0: a tie there, not in fp64.
    assert codes(torch.tensor([1.0]), 1 - 1e-9) == [0]
    assert codes(torch.tensor([1.0], dtype=torch.float64), 1 - 1e-9) == [1]


def test_bf16_derivative_is_multiplied_in_fp32():
    x = torch.full((1000,), 0.1, dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(1000).bfloat16()
    L.stepwise(x, "gelu", "grad").backward(grad)
    level = preset("gelu").levels[2]
    assert torch.equal(x.grad, (grad.float() * np.float32(level)).bfloat16())
    assert not torch.equal(x.grad, grad * torch.tensor(level).bfloat16())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_forward_is_torchs_kernel(name, dtype):
    x = (4 * torch.randn(7, 9)).to(dtype).requires_grad_()
    functions = {
        "gelu": (L.regelu2, F.gelu),
        "gelu_tanh": (
            lambda x: L.regelu2(x, approximate="tanh"),
            lambda x: F.gelu(x, approximate="tanh"),
        ),
        "silu": (L.resilu2, F.silu),
    }
    ours, torchs = functions[name]
    y = ours(x)
    assert torch.equal(y, torchs(x))
    assert relative(y.detach(), reference.activation(name, to_numpy(x))) <= PRECISION[dtype]
    # The two GELUs differ by more than rounding: the tanh form is not silently the erf form.
    if name == "gelu_tanh" and dtype == torch.float64:
        assert relative(y.detach(), F.gelu(x)) > 1e-5


# --- edge cases of the step derivative --------------------------------------------------------

LAYOUTS = {
    "0-d": lambda: torch.tensor(0.3),
    "empty": lambda: torch.empty(0),
    "empty inside": lambda: torch.empty(2, 0, 3),
    "one": lambda: torch.randn(1),
    "three": lambda: torch.randn(3),
    "five": lambda: torch.randn(5),
    "2-d": lambda: torch.randn(3, 7),
    "transposed": lambda: torch.randn(5, 7).t(),
    "strided": lambda: torch.randn(9, 8)[::2, 1::3],
    "flipped axes": lambda: torch.randn(3, 4, 5).permute(1, 2, 0),
    "expanded": lambda: torch.randn(5, 1).expand(5, 3),
    "channels_last": lambda: torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, dtype, bits):
    table = preset("silu", bits=bits)
    x = (3 * LAYOUTS[layout]()).to(dtype).requires_grad_()
    y, kept = saved(lambda: L.stepwise(x, "silu", bits=bits))
    assert y.shape == x.shape
    assert y.dtype == dtype
    (packed,) = kept
    assert (
        packed.tolist() == reference.pack(reference.codes(to_numpy(x), table.cuts), bits).tolist()
    )
    assert nbytes(kept) == math.ceil(x.numel() * bits / 8)
    grad = torch.randn(x.shape).to(dtype)
    (dx,) = torch.autograd.grad(y, x, grad)
    expected = reference.step_multiply(to_numpy(grad), to_numpy(x), table.cuts, table.levels)
    assert torch.equal(dx, rounded(expected, dtype))


@pytest.mark.parametrize("layout", ["0-d", "empty", "2-d", "transposed", "channels_last"])
def test_gradient_of_a_sum_is_expanded(layout):
    x = LAYOUTS[layout]().requires_grad_()
    seen = []
    y = L.regelu2(x)
    y.register_hook(lambda grad: seen.append(grad.stride()))
    y.sum().backward()
    assert seen == [(0,) * x.dim()]  # the hook saw what backward got
    table = preset("gelu", "paper")
    ones = np.ones(x.shape, dtype=np.float32)
    expected = reference.step_multiply(ones, to_numpy(x), table.cuts, table.levels)
    assert torch.equal(x.grad, torch.from_numpy(np.asarray(expected)))


@pytest.mark.parametrize("grad_layout", ["transposed", "channels_last"])
def test_gradient_of_another_layout_than_x(grad_layout):
    grad = LAYOUTS[grad_layout]()
    x = torch.randn(grad.shape, requires_grad=True)
    (ours,) = torch.autograd.grad(L.resilu2(x), x, grad)
    (contiguous,) = torch.autograd.grad(L.resilu2(x), x, grad.contiguous())
    assert torch.equal(ours, contiguous)


def test_gradient_of_another_dtype_than_y():
    # What autocast does: a consumer in bf16 gives its gradient in bf16, x stays fp32.
    x = torch.randn(6, requires_grad=True)
    weight = torch.randn(6)
    L.regelu2(x).to(torch.bfloat16).backward(weight.bfloat16())
    assert x.grad.dtype == torch.float32
    table = preset("gelu", "paper")
    expected = reference.step_multiply(
        to_numpy(weight.bfloat16()), to_numpy(x), table.cuts, table.levels
    )
    assert torch.equal(x.grad, torch.from_numpy(expected))
    # And the operator itself, asked for bf16 gradients of fp32 codes.
    packed = torch.ops.lowmem_bp.pack_steps(x.detach(), list(table.cuts), 2, "torch")
    product = torch.ops.lowmem_bp.step_multiply(
        packed, weight.bfloat16(), list(table.levels), 2, "torch"
    )
    assert torch.equal(product, torch.from_numpy(expected).bfloat16())


@pytest.mark.parametrize("function", [L.regelu2, L.resilu2, L.stepwise])
def test_unusual_values_stay_where_they_are(function):
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.5], requires_grad=True)
    y = function(x)
    plain = F.silu(x) if function is L.resilu2 else F.gelu(x)
    assert torch.equal(torch.isnan(y), torch.isnan(plain))
    assert torch.equal(torch.nan_to_num(y), torch.nan_to_num(plain))
    y.backward(torch.ones(4))
    assert torch.isfinite(x.grad).all()


def test_nothing_is_saved_without_a_gradient_to_compute():
    x = torch.randn(8)
    functions = [
        L.regelu2,
        L.resilu2,
        L.stepwise,
        lambda x: L.activation(x, "quick_gelu"),
        lambda x: L.activation(x, "silu", mode="int8"),
        lambda x: L.dropout(x, 0.5),
        lambda x: L.ms_layer_norm(x, (8,)),
        lambda x: L.ms_rms_norm(x, (8,), torch.ones(8)),
        lambda x: L.multiply(x, x),
        lambda x: L.swiglu_linear(x, x, torch.ones(2, 8)),
    ]
    for function in functions:
        y, kept = saved(function, x)
        assert not y.requires_grad
        assert kept == []
        with torch.no_grad():
            y, kept = saved(function, x.clone().requires_grad_())
        assert not y.requires_grad
        assert kept == []


def test_second_derivative_of_a_step_is_zero():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(L.regelu2(x).pow(2).sum(), x, create_graph=True)
    # d/dx (2 h(x) v(x)) = 2 v(x)^2 : the derivative of v itself does not enter.
    (second,) = torch.autograd.grad(dx.sum(), x)
    v = torch.autograd.grad(L.regelu2(x).sum(), x)[0]
    assert torch.allclose(second, 2 * v * v, rtol=1e-12)


@pytest.mark.parametrize(
    ("bits", "dtype", "ratio"),
    [
        (2, torch.float32, 1 / 16),
        (2, torch.bfloat16, 1 / 8),
        (1, torch.bfloat16, 1 / 16),
        (4, torch.bfloat16, 1 / 4),
    ],
)
def test_code_bytes_relative_to_the_input(bits, dtype, ratio):
    x = torch.randn(64, 96).to(dtype).requires_grad_()
    _, kept = saved(lambda: L.stepwise(x, "gelu", bits=bits))
    assert nbytes(kept) == ratio * rows_of(x)


# --- the registered operators -----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 7)])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_operators_pass_opcheck(shape, bits):
    table = preset("gelu", bits=bits)
    x = torch.randn(shape)
    packed = torch.ops.lowmem_bp.pack_steps(x, list(table.cuts), bits, "torch")
    torch.library.opcheck(
        torch.ops.lowmem_bp.pack_steps.default, (x, list(table.cuts), bits, "torch")
    )
    torch.library.opcheck(
        torch.ops.lowmem_bp.step_multiply.default, (packed, x, list(table.levels), bits, "torch")
    )


def test_operators_on_other_layouts_pass_opcheck():
    table = preset("silu")
    x = torch.randn(6, 4).t()
    expanded = torch.ones(()).expand(4, 6)
    packed = torch.ops.lowmem_bp.pack_steps(x, list(table.cuts), 2, "torch")
    torch.library.opcheck(torch.ops.lowmem_bp.pack_steps.default, (x, list(table.cuts), 2, "torch"))
    for grad in (expanded, torch.randn(6, 4).t(), torch.randn(4, 6).bfloat16()):
        torch.library.opcheck(
            torch.ops.lowmem_bp.step_multiply.default,
            (packed, grad, list(table.levels), 2, "torch"),
        )


# --- norms ------------------------------------------------------------------------------------

NORM_SHAPES = {
    "rows": ((3, 5), (5,)),
    "3-d": ((2, 2, 3), (3,)),
    "two normalised": ((2, 2, 3), (2, 3)),
    "all normalised": ((2, 3), (2, 3)),
    "no rows": ((6,), (6,)),
}


def norm_function(kind, shape, eps):
    if kind == "layer":
        return lambda x, weight=None, bias=None: L.ms_layer_norm(x, shape, weight, bias, eps)
    return lambda x, weight=None: L.ms_rms_norm(x, shape, weight, eps)


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("layout", NORM_SHAPES)
@pytest.mark.parametrize(
    ("kind", "parameters"), [("layer", 0), ("layer", 1), ("layer", 2), ("rms", 0), ("rms", 1)]
)
def test_norm_gradients_of_both_orders(kind, parameters, layout, eps):
    shape, normalised = NORM_SHAPES[layout]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    rows = [
        torch.randn(normalised, dtype=torch.float64, requires_grad=True) for _ in range(parameters)
    ]
    function = norm_function(kind, normalised, eps)
    assert torch.autograd.gradcheck(function, (x, *rows))
    assert torch.autograd.gradgradcheck(function, (x, *rows))


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_gradients_of_strided_input(kind):
    base = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    function = norm_function(kind, (5,), 1e-5)
    assert torch.autograd.gradcheck(lambda x, w: function(x.transpose(1, 2), w), (base, weight))
    strided = base.transpose(1, 2)
    assert torch.equal(function(strided, weight), function(strided.contiguous(), weight))


@pytest.mark.parametrize(
    "needed", [c for c in itertools.product([False, True], repeat=3) if any(c)], ids=str
)
def test_norm_gradients_with_some_parts_frozen(needed):
    tensors = [torch.randn(s, dtype=torch.float64) for s in ((3, 6), (6,), (6,))]
    for tensor, requires_grad in zip(tensors, needed, strict=True):
        tensor.requires_grad_(requires_grad)
    function = norm_function("layer", (6,), 1e-5)
    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", NORM_SHAPES)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_agree_with_torch(kind, layout, dtype):
    shape, normalised = NORM_SHAPES[layout]
    x = (2 * torch.randn(shape) + 0.5).to(dtype)
    rows = [(1 + 0.3 * torch.randn(normalised)).to(dtype) for _ in range(1 + (kind == "layer"))]
    grad = torch.randn(shape).to(dtype)
    torchs = F.layer_norm if kind == "layer" else F.rms_norm
    eps = 1e-4

    def run(function):
        leaves = [t.clone().requires_grad_() for t in (x, *rows)]
        y = function(*leaves)
        y.backward(grad)
        return [y.detach(), *(leaf.grad for leaf in leaves)]

    ours = run(norm_function(kind, normalised, eps))
    theirs = run(lambda x, *rows: torchs(x, normalised, *rows, eps=eps))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        # Gradients pass through a cancellation: a few roundings in place of one.
        assert relative(mine, other) <= 4 * PRECISION[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [None, 1e-6, 1e-2])
def test_rms_norm_of_small_input_has_torchs_eps(eps, dtype):
    x = (1e-3 * torch.randn(4, 16)).to(dtype)  # mean square 1e-6: the epsilon decides
    assert (
        relative(L.ms_rms_norm(x, (16,), eps=eps), F.rms_norm(x, (16,), eps=eps))
        <= (PRECISION[dtype])
    )


def test_layer_norm_with_bias_alone():
    x, bias = torch.randn(3, 4), torch.randn(4)
    assert relative(L.ms_layer_norm(x, (4,), None, bias), F.layer_norm(x, (4,), None, bias)) <= 1e-6


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_bf16_norm_is_as_precise_as_torchs(kind):
    """Spec: 2.3e-3 relative error of dx against fp64, torch's own LayerNorm 2.9e-3."""
    x = torch.randn(256, 384)
    grad = torch.randn(256, 384)
    ours = norm_function(kind, (384,), 1e-5)

    def theirs(x):
        return (F.layer_norm if kind == "layer" else F.rms_norm)(x, (384,), eps=1e-5)

    def dx(function, dtype):
        leaf = x.bfloat16().to(dtype).requires_grad_()
        function(leaf).backward(grad.bfloat16().to(dtype))
        return leaf.grad

    exact = dx(theirs, torch.float64)
    assert relative(dx(ours, torch.bfloat16), exact) <= 2.5e-3
    assert relative(dx(ours, torch.bfloat16), exact) <= 1.05 * relative(
        dx(theirs, torch.bfloat16), exact
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_keeps_its_output_and_one_number_per_row(kind, dtype):
    x = torch.randn(12, 20).to(dtype).requires_grad_()
    z, kept = saved(norm_function(kind, (20,), 1e-5), x)
    assert nbytes(kept) == rows_of(x) + 12 * 4
    assert z.untyped_storage()._cdata in {tensor.untyped_storage()._cdata for tensor in kept}


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_output_changed_in_place_before_backward_is_noticed(kind):
    x = torch.randn(3, 4, requires_grad=True)
    z = norm_function(kind, (4,), 1e-5)(x)
    z.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_norm_of_no_rows(shape):
    x = torch.empty(shape, requires_grad=True)
    weight = torch.ones(4, requires_grad=True)
    L.ms_layer_norm(x, (4,), weight).sum().backward()
    assert x.grad.shape == shape
    assert torch.equal(weight.grad, torch.zeros(4))


# --- norm and linear layers together ------------------------------------------------------------


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_linear_gradients(kind, affine, with_bias):
    def tensor(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    x, w1, w2 = tensor(2, 1, 4), tensor(2, 4), tensor(1, 4)
    gamma = tensor(4) if affine else None
    beta = tensor(4) if affine and kind == "layer" else None
    b1 = tensor(2) if with_bias else None
    given = [x, gamma, beta, w1, b1, w2]

    def function(x, gamma, beta, w1, b1, w2):
        return L.norm_linear(x, gamma, beta, [(w1, b1), (w2, None)], kind=kind)

    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


@pytest.mark.parametrize("centred", [True, False])
def test_norm_linear_is_the_algebra_on_z(centred):
    x, grads = torch.randn(6, 8).double(), [torch.randn(6, 5).double() for _ in range(3)]
    gamma, beta = torch.randn(8).double(), torch.randn(8).double() * centred
    weights = [torch.randn(5, 8).double() for _ in range(3)]
    biases = [torch.randn(5).double() for _ in range(3)]
    leaves = [t.clone().requires_grad_() for t in (x, gamma, beta, *weights, *biases)]
    outputs = L.norm_linear(
        leaves[0],
        leaves[1],
        leaves[2] if centred else None,
        list(zip(leaves[3:6], leaves[6:], strict=True)),
        kind="layer" if centred else "rms",
        eps=1e-3,
    )
    torch.autograd.backward(outputs, grads)
    expected, (dx, d_gamma, d_beta, d_weights, d_biases) = reference.norm_linear(
        *(t.numpy() for t in (x, gamma, beta)),
        *([t.numpy() for t in group] for group in (weights, biases, grads)),
        eps=1e-3,
        centred=centred,
    )
    wanted = [dx, d_gamma, d_beta, *d_weights, *d_biases]
    for mine, other in zip(outputs, expected, strict=True):
        assert relative(mine.detach(), other) <= 1e-13
    for leaf, other in zip(leaves, wanted, strict=True):
        if leaf.grad is not None:
            assert relative(leaf.grad, other) <= 1e-13
    assert sum(leaf.grad is None for leaf in leaves) == (not centred)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_and_three_linears_keep_one_tensor(kind, dtype):
    n, c = 64, 32
    x = torch.randn(n, c).to(dtype).requires_grad_()
    gamma, beta = (torch.ones(c, dtype=dtype, requires_grad=True) for _ in range(2))
    beta = beta if kind == "layer" else None
    weights = [torch.randn(c, c).to(dtype).requires_grad_() for _ in range(3)]
    owned = [t for t in (gamma, beta, *weights) if t is not None]
    _, kept = saved(
        lambda: L.norm_linear(x, gamma, beta, [(w, None) for w in weights], kind=kind), owned=owned
    )
    copies = rows_of(gamma) * (1 if beta is None else 2)
    assert nbytes(kept) == rows_of(x) + n * 4 + copies
    # torch keeps x, its statistics and the norm's output.
    norm = F.layer_norm if kind == "layer" else F.rms_norm

    def stock():
        y = norm(x, (c,), *[t for t in (gamma, beta) if t is not None])
        return [F.linear(y, w) for w in weights]

    assert nbytes(saved(stock, owned=owned)[1]) >= 2 * rows_of(x)


def test_frozen_linears_keep_nothing_of_the_norm_twice():
    x = torch.randn(16, 8, requires_grad=True)
    weights = [torch.randn(4, 8) for _ in range(3)]
    _, kept = saved(
        lambda: L.norm_linear(x, None, None, [(w, None) for w in weights]), owned=weights
    )
    assert nbytes(kept) == rows_of(x) + 16 * 4


# --- linear -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (0, 6)])
@pytest.mark.parametrize("in_by_out", [False, True])
@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3)), ids=str)
def test_linear_behind_an_activation_is_torchs(needed, in_by_out, shape):
    p = torch.randn(shape, requires_grad=needed[0])
    weight = torch.randn((6, 4) if in_by_out else (4, 6), requires_grad=needed[1])
    bias = torch.randn(4, requires_grad=needed[2])
    leaves = [t for t in (p, weight, bias) if t.requires_grad]
    ours = L.linear(L.activation(p, "gelu"), weight, bias, in_by_out=in_by_out)
    theirs = F.linear(F.gelu(p), weight.t() if in_by_out else weight, bias)
    assert ours.requires_grad == bool(leaves)
    assert ours.shape == theirs.shape
    assert relative(ours.detach(), theirs.detach()) <= 1e-6
    if leaves:
        grad = torch.randn(ours.shape)
        for mine, other in zip(
            torch.autograd.grad(ours, leaves, grad),
            torch.autograd.grad(theirs, leaves, grad),
            strict=True,
        ):
            assert mine.shape == other.shape
            assert relative(mine, other) <= 1e-6


def test_linear_without_a_recipe_is_torchs_own():
    x = torch.randn(3, 6, requires_grad=True)
    weight = torch.randn(4, 6, requires_grad=True)
    assert type(L.linear(x, weight).grad_fn) is type(F.linear(x, weight).grad_fn)


@pytest.mark.parametrize("what", ["output", "input"])
def test_a_recipe_ends_when_a_tensor_changes_in_place(what):
    p = torch.randn(3, 6, requires_grad=True)
    weight = torch.randn(4, 6, requires_grad=True)

    def run(activation, linear):
        x = p * 1.0
        y = activation(x) if what == "output" else activation(x) + 0.0
        if what == "output":
            y.mul_(3.0)
        else:
            x.mul_(3.0)
        return linear(y, weight)

    ours, theirs = run(lambda x: L.activation(x, "tanh"), L.linear), run(torch.tanh, F.linear)
    if what == "output":
        # torch's own tanh keeps its output and notices the change.
        for result in (ours, theirs):
            with pytest.raises(RuntimeError, match="modified by an inplace"):
                result.sum().backward()
        return
    for mine, other in zip(
        torch.autograd.grad(ours.sum(), (p, weight)),
        torch.autograd.grad(theirs.sum(), (p, weight)),
        strict=True,
    ):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
@pytest.mark.parametrize("in_by_out", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_result_of_a_linear_may_be_changed_in_place(with_bias, in_by_out, shape):
    """As that of nn.Linear: ``h = linear(x); h += residual``, or an activation in place."""
    p, weight = torch.randn(shape, requires_grad=True), torch.randn(6, 6, requires_grad=True)
    bias = torch.randn(6, requires_grad=True) if with_bias else None

    def gradients(activation, linear):
        y = linear(activation(p))
        y += p
        y = torch.relu_(y)
        return torch.autograd.grad(y.sum(), (p, weight))

    ours = gradients(
        lambda x: L.activation(x, "gelu"), lambda x: L.linear(x, weight, bias, in_by_out=in_by_out)
    )
    theirs = gradients(F.gelu, lambda x: F.linear(x, weight.t() if in_by_out else weight, bias))
    assert max(map(relative, ours, theirs)) <= 1e-6


def test_gelu_output_changed_in_place_gives_torchs_gradients():
    p = torch.randn(3, 6, requires_grad=True)
    weight = torch.randn(4, 6, requires_grad=True)

    def gradients(activation, linear):
        y = activation(p * 1.0)
        y.mul_(3.0)
        return torch.autograd.grad(linear(y, weight).sum(), (p, weight))

    ours = gradients(lambda x: L.activation(x, "gelu"), L.linear)
    theirs = gradients(F.gelu, F.linear)
    assert all(map(torch.equal, ours, theirs))


# --- activation and linear ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_act_linear_gradients_of_both_orders(name):
    # Away from the corners of ReLU (0) and hardswish (-3, 3).
    x = torch.tensor([[-4.1, -1.7, -0.4, 0.3], [0.9, 1.8, 2.4, 5.2]], dtype=torch.float64)
    weight, bias = torch.randn(3, 4).double(), torch.randn(3).double()
    given = tuple(t.requires_grad_() for t in (x, weight, bias))

    def function(x, weight, bias):
        return L.act_linear(x, weight, bias, name)

    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_act_linear_agrees_with_torch(name, dtype):
    x = torch.randn(2, 5, 48).to(dtype)
    weight, bias = (torch.randn(24, 48) / 7).to(dtype), torch.randn(24).to(dtype)
    grad = torch.randn(2, 5, 24).to(dtype)

    def run(function):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    ours = run(lambda x, w, b: L.act_linear(x, w, b, name))
    theirs = run(lambda x, w, b: F.linear(ACTIVATIONS[name].forward(x), w, b))
    assert torch.equal(ours[0], theirs[0])
    for mine, other in zip(ours, theirs, strict=True):
        assert relative(mine, other) <= 2 * PRECISION[dtype]
    if dtype != torch.float64 and name == "gelu":
        assert all(map(torch.equal, ours, theirs)), "the exact mode runs torch's own kernels"


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "quick_gelu"])
def test_act_linear_bytes(name):
    """Spec section 8, in bytes per element of the MLP's width, bf16: torch 4.0, exact 2.0."""
    n, m = 32, 256
    x = torch.randn(n, m).bfloat16().requires_grad_()
    weight = torch.randn(64, m).bfloat16().requires_grad_()

    def per_element(function):
        return nbytes(saved(function, owned=[weight])[1]) / (n * m)

    torchs = per_element(lambda: F.linear(ACTIVATIONS[name].forward(x), weight))
    assert torchs >= 4.0
    assert per_element(lambda: L.act_linear(x, weight, None, name)) == 2.0
    int8 = per_element(lambda: L.act_linear(x, weight, None, name, mode="int8"))
    assert int8 == 1 + 1 / 64
    code = per_element(lambda: F.linear(L.stepwise(x, name), weight.detach()))
    assert code == 0.25
    assert per_element(lambda: F.linear(L.stepwise(x, name), weight)) == 2.25


# --- gated MLP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["silu", "gelu_tanh", "sigmoid", "quick_gelu"])
def test_swiglu_linear_gradients_of_both_orders(name):
    def tensor(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def function(gate, up, weight, bias):
        return L.swiglu_linear(gate, up, weight, bias, activation=name)

    given = (tensor(2, 1, 4), tensor(2, 1, 4), tensor(3, 4), tensor(3))
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


def swiglu(dtype, mode, scale=1.0):
    """Output and gradients of ours (``mode``) or of torch's operations (None)."""
    generator = torch.Generator().manual_seed(3)

    def tensor(*shape):
        return torch.randn(shape, generator=generator)

    gate, up, weight, grad = tensor(96, 300), tensor(96, 300), tensor(64, 300) / 17, tensor(96, 64)
    leaves = [(scale * t).to(dtype).requires_grad_() for t in (gate, up)]
    leaves.append(weight.to(dtype).requires_grad_())
    if mode is None:
        y = F.linear(F.silu(leaves[0]) * leaves[1], leaves[2])
    else:
        y = L.swiglu_linear(*leaves, mode=mode)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(dtype))], leaves, grad


def test_swiglu_linear_is_the_written_out_derivative():
    (y, *grads), leaves, grad = swiglu(torch.float64, "exact")
    expected, wanted = reference.swiglu_linear(*map(to_numpy, leaves), grad.double().numpy())
    assert relative(y, expected) <= 1e-14
    assert max(map(relative, grads, map(torch.from_numpy, wanted))) <= 1e-13


def test_swiglu_linear_agrees_with_torch():
    """Spec section 8: fp32 gradients equal to 1e-7, bf16 to 1.1e-3."""
    fp32, fp32_torch = swiglu(torch.float32, "exact")[0], swiglu(torch.float32, None)[0]
    assert torch.equal(fp32[0], fp32_torch[0])
    assert max(map(relative, fp32, fp32_torch)) <= 5e-7
    bf16, bf16_torch = swiglu(torch.bfloat16, "exact")[0], swiglu(torch.bfloat16, None)[0]
    assert torch.equal(bf16[0], bf16_torch[0])
    assert max(map(relative, bf16, bf16_torch)) <= 2e-3
    exact = swiglu(torch.float64, None)[0]
    ours, theirs = (max(map(relative, run, exact)) for run in (bf16, bf16_torch))
    assert ours <= 1.05 * theirs


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_int8_swiglu_gradient_error(scale):
    """The issue's bound: 2e-2 of each gradient; the output is exact."""
    ours, exact = swiglu(torch.float32, "int8", scale)[0], swiglu(torch.float32, None, scale)[0]
    assert torch.equal(ours[0], exact[0])
    errors = list(map(relative, ours[1:], exact[1:]))
    assert max(errors) <= 2e-2
    assert min(errors) > 1e-4, "not quantised at all?"


def test_swiglu_linear_bytes():
    """Spec section 8, bf16: torch 8.0, exact 4.0, int8 2.03 bytes per element."""
    n, m = 32, 256
    gate, up = (torch.randn(n, m).bfloat16().requires_grad_() for _ in range(2))
    weight = torch.randn(64, m).bfloat16().requires_grad_()

    def per_element(function):
        return nbytes(saved(function, owned=[weight])[1]) / (n * m)

    assert per_element(lambda: F.linear(F.silu(gate) * up, weight)) == 8.0
    assert per_element(lambda: L.swiglu_linear(gate, up, weight)) == 4.0
    int8 = per_element(lambda: L.swiglu_linear(gate, up, weight, mode="int8"))
    assert int8 == 2 + 2 / 64
    assert round(int8, 2) == 2.03


@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_swiglu_linear_with_some_parts_frozen(mode, needed):
    tensors = [torch.randn(s) for s in ((6, 40), (6, 40), (5, 40))]
    grad = torch.randn(6, 5)

    def run(function):
        leaves = [t.clone().requires_grad_(n) for t, n in zip(tensors, needed, strict=True)]
        y = function(*leaves)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        return torch.autograd.grad(y, wanted, grad) if wanted else (y,)

    ours = run(lambda *leaves: L.swiglu_linear(*leaves, mode=mode))
    theirs = run(lambda gate, up, weight: F.linear(F.silu(gate) * up, weight))
    limit = 1e-6 if mode == "exact" else 2e-2
    assert max(map(relative, ours, theirs)) <= limit


@pytest.mark.parametrize("mode", MODES)
def test_multiply_keeps_what_the_other_factor_needs(mode):
    a, b = torch.randn(16, 128, requires_grad=True), torch.randn(16, 128)
    _, kept = saved(lambda: L.multiply(a, b, mode=mode))
    assert nbytes(kept) == (rows_of(b) if mode == "exact" else 16 * (128 + 2))


@pytest.mark.parametrize("shapes", [((3, 4), (4,)), ((), (3,)), ((2, 1), (1, 5))])
def test_multiply_broadcasts_like_torch(shapes):
    a, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)
    assert torch.equal(L.multiply(a, b), a * b)
    assert torch.autograd.gradcheck(L.multiply, (a, b))


@given(data=st.data())
def test_int8_error_is_half_a_step_of_its_group(data):
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 300))
    spread = data.draw(st.sampled_from([1e-20, 1e-3, 1.0, 1e4]))
    seed = data.draw(st.integers(0, 99))
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * spread
    x[:, ::7] *= data.draw(st.sampled_from([0.0, 1.0, 30.0]))
    x.requires_grad_()
    # The derivative of a * b with respect to a is b as it was kept.
    a = torch.ones_like(x, requires_grad=True)
    (kept,) = torch.autograd.grad(L.multiply(a, x, mode="int8").sum(), a)
    error = np.abs(kept.double().numpy() - x.detach().double().numpy())
    assert (error <= reference.int8_error_bound(x.detach().numpy()) * (1 + 1e-6)).all()


def test_int8_of_zeros_and_of_unusual_shapes():
    for shape in ((), (0,), (3, 0), (2, 129)):
        x = torch.zeros(shape, requires_grad=True)
        a = torch.ones(shape, requires_grad=True)
        (kept,) = torch.autograd.grad(L.multiply(a, x, mode="int8").sum(), a)
        assert torch.equal(kept, x)
        (dx,) = torch.autograd.grad(L.activation(x, "silu", mode="int8").sum(), x)
        assert torch.equal(dx, torch.full(shape, 0.5))


# --- dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.5, 1.0])
def test_dropout_has_torchs_values_and_gradients(p, dtype):
    x = torch.randn(33, 17).to(dtype).requires_grad_()
    grad = torch.randn(33, 17).to(dtype)

    def run(function):
        torch.manual_seed(4)
        y = function(x, p)
        return y, torch.autograd.grad(y, x, grad)[0], torch.rand(())

    for mine, other in zip(run(L.dropout), run(F.dropout), strict=True):
        assert torch.equal(mine, other)  # the last one: the generator is left in the same state


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dropout_rebuilt_by_a_linear_layer_is_what_it_was(dtype):
    x = torch.randn(33, 17).to(dtype).requires_grad_()
    weight = torch.randn(5, 17).to(dtype).requires_grad_()
    grad = torch.randn(33, 5).to(dtype)

    def run(dropout, linear):
        torch.manual_seed(4)
        return torch.autograd.grad(linear(dropout(x, 0.3), weight), (x, weight), grad)

    for mine, other in zip(run(L.dropout, L.linear), run(F.dropout, F.linear), strict=True):
        assert torch.equal(mine, other)


def test_dropout_keeps_one_bit():
    x = torch.randn(32, 24, requires_grad=True)
    _, kept = saved(lambda: L.dropout(x, 0.3))
    assert nbytes(kept) == x.numel() / 8
    # Several dropouts and linear layers of one tensor: the tensor once, a bit each.
    weights = [torch.randn(4, 24, requires_grad=True) for _ in range(3)]

    def several():
        y = F.relu(x)  # keeps its output
        return [L.linear(L.dropout(y, 0.3), w) for w in weights]

    _, kept = saved(several, owned=weights)
    assert nbytes(kept) == rows_of(x) + 3 * x.numel() / 8


def test_dropout_off():
    x = torch.randn(5, requires_grad=True)
    assert torch.equal(L.dropout(x, 0.5, training=False), x)
    assert saved(lambda: L.dropout(x, 0.5, training=False))[1] == []
    with torch.no_grad():
        torch.manual_seed(1)
        ours = L.dropout(x, 0.5)
        torch.manual_seed(1)
        assert torch.equal(ours, F.dropout(x, 0.5))
    empty = torch.empty(0, 3, requires_grad=True)
    assert L.dropout(empty, 0.5).shape == (0, 3)


def test_dropout_has_a_second_derivative():
    x = torch.randn(8, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(2)
    (dx,) = torch.autograd.grad(L.dropout(x, 0.5).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(dx.sum(), x)
    kept = dx != 0
    assert 0 < kept.sum() < 8
    assert torch.allclose(second, torch.where(kept, 6 * 8 * x, 0.0))  # (2x)^3'' = 48 x


# --- backends -------------------------------------------------------------------------------------


def test_backend_argument_and_variable(monkeypatch):
    x = torch.randn(9, requires_grad=True)
    calls = {
        "stepwise": lambda backend: L.stepwise(x, backend=backend),
        "regelu2": lambda backend: L.regelu2(x, backend=backend),
        "resilu2": lambda backend: L.resilu2(x, backend=backend),
        "activation": lambda backend: L.activation(x, "silu", backend=backend),
        "multiply": lambda backend: L.multiply(x, x, backend=backend),
        "dropout": lambda backend: L.dropout(x, 0.0, backend=backend),
        "act_linear": lambda backend: L.act_linear(x, torch.ones(2, 9), backend=backend),
        "swiglu_linear": lambda backend: L.swiglu_linear(x, x, torch.ones(2, 9), backend=backend),
        "pack_codes": lambda backend: L.pack_codes(torch.zeros(3).byte(), backend=backend),
        "pack_bool": lambda backend: L.pack_bool(torch.zeros(3).bool(), backend=backend),
        "unpack_bool": lambda backend: L.unpack_bool(torch.zeros(1).byte(), 3, backend=backend),
    }
    for name, call in calls.items():
        monkeypatch.delenv("LOWMEM_BP_BACKEND", raising=False)
        auto = call("auto")
        assert torch.equal(call("torch"), auto), name
        with pytest.raises(ConfigError, match=r"backend='cuda'.*'auto', 'native', 'triton'"):
            call("cuda")
        monkeypatch.setenv("LOWMEM_BP_BACKEND", "torch")
        assert torch.equal(call("auto"), auto)
        monkeypatch.setenv("LOWMEM_BP_BACKEND", "fast")
        with pytest.raises(ConfigError, match="LOWMEM_BP_BACKEND='fast'"):
            call("auto")
        assert torch.equal(call("torch"), auto), "an explicit argument wins"


# --- errors ---------------------------------------------------------------------------------------

INTEGERS = torch.arange(4)
FLOATS = torch.ones(2, 4)
BYTES = torch.zeros(3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (DTypeError, r"x has dtype torch.int64; expected float32", lambda: L.regelu2(INTEGERS)),
        (DTypeError, r"x has dtype torch.int64", lambda: L.activation(INTEGERS, "gelu")),
        (DTypeError, r"x has dtype torch.int64", lambda: L.ms_layer_norm(INTEGERS, (4,))),
        (DTypeError, r"x has dtype torch.bool", lambda: L.stepwise(INTEGERS > 1)),
        (DTypeError, r"x has dtype torch.complex64", lambda: L.resilu2(FLOATS + 1j)),
        (ConfigError, r"approximate='erf'.*'none' or 'tanh'", lambda: L.regelu2(FLOATS, "erf")),
        (ConfigError, r"'gelo' is not known.*gelu", lambda: L.stepwise(FLOATS, "gelo")),
        (ConfigError, r"bits=3.*preset", lambda: L.stepwise(FLOATS, "gelu", bits=3)),
        (ConfigError, r"preset\('mish', 'paper'", lambda: L.stepwise(FLOATS, "mish", "paper")),
        (ConfigError, r"mode='int4'.*'exact' or 'int8'", lambda: L.act_linear(
            FLOATS, FLOATS, mode="int4")),
        (ConfigError, r"mode='8bit'", lambda: L.multiply(FLOATS, FLOATS, mode="8bit")),
        (ConfigError, r"p=1.5: expected a probability", lambda: L.dropout(FLOATS, 1.5)),
        (ConfigError, r"p=nan", lambda: L.dropout(FLOATS, math.nan)),
        (ShapeError, r"normalized_shape=\(5,\) and x of shape \(2, 4\)", lambda: L.ms_layer_norm(
            FLOATS, (5,))),
        (ShapeError, r"normalized_shape=\(\)", lambda: L.ms_rms_norm(torch.ones(()), ())),
        (ShapeError, r"normalized_shape=\(1, 2, 4\)", lambda: L.ms_rms_norm(FLOATS, (1, 2, 4))),
        (ShapeError, r"weight has shape \(2,\); expected \(4,\)", lambda: L.ms_layer_norm(
            FLOATS, (4,), torch.ones(2))),
        (ShapeError, r"bias has shape \(1, 4\); expected \(4,\)", lambda: L.ms_layer_norm(
            FLOATS, (4,), torch.ones(4), torch.ones(1, 4))),
        (ConfigError, r"kind='batch'.*'layer', or 'rms'", lambda: L.norm_linear(
            FLOATS, None, None, [], kind="batch")),
        (ConfigError, r"kind='rms' with bias given", lambda: L.norm_linear(
            FLOATS, None, torch.ones(4), [], kind="rms")),
        (ShapeError, r"gate has shape \(2, 4\) and up \(4,\)", lambda: L.swiglu_linear(
            FLOATS, FLOATS[0], FLOATS)),
        (DTypeError, r"codes has dtype torch.int64; expected torch.uint8", lambda: L.pack_codes(
            INTEGERS)),
        (ConfigError, r"bits=3: expected 1, 2 or 4", lambda: L.pack_codes(BYTES, 3)),
        (DTypeError, r"packed has dtype torch.float32", lambda: L.unpack_codes(FLOATS, 4)),
        (ShapeError, r"packed has shape \(3,\); 13 codes of 2 bits need \(4,\)",
            lambda: L.unpack_codes(BYTES, 13)),
        (ShapeError, r"packed has shape \(1, 3\)", lambda: L.unpack_codes(BYTES[None], 12)),
        (ShapeError, r"-1 codes", lambda: L.unpack_codes(BYTES[:0], -1)),
        (DTypeError, r"mask has dtype torch.uint8; expected torch.bool", lambda: L.pack_bool(
            BYTES)),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_the_value(error, message, call):
    with pytest.raises(error, match=message):
        call()
