"""The kernels of every backend give what plain torch gives, and are chosen and refused in words."""

import copy
import importlib.util
import logging
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lowmem_bp
import lowmem_bp.functional as L
from lowmem_bp import backends
from lowmem_bp.activations import gelu_tanh
from lowmem_bp.backends import native as native_module
from lowmem_bp.backends.torch import TorchBackend
from lowmem_bp.errors import BackendError, ConfigError
from lowmem_bp.steps import PRESETS

HAS_NATIVE = importlib.util.find_spec("lowmem_bp._native") is not None
needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="installed without a C compiler")

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NARROW = DTYPES[:3]
SETS = ("portable", "avx2", "avx512")
#: Around the widths of registers, blocks and pieces; 70000 is shared out among threads.
SIZES = [0, 1, 7, 16, 33, 1023, 1025, 70001]


@pytest.fixture(params=SETS)
def native(request):
    """The native backend on one instruction set."""
    _native = pytest.importorskip("lowmem_bp._native")
    if request.param not in _native.instruction_sets:
        pytest.skip(f"this processor has no {request.param}")
    _native.use(request.param)
    torch.set_num_threads(2)
    yield backends.resolve("native")
    torch.set_num_threads(1)
    _native.use(_native.instruction_sets[-1])


def values(n, dtype, seed=0):
    """Normal numbers, among them those that are easily got wrong."""
    x = 3 * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    special = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-7, -6e-8, 65504.0, 1e-40]
    x[: min(n, 9)] = torch.tensor(special, dtype=torch.float64)[: min(n, 9)]
    return x.to(dtype)


def assert_within(found, expected):
    """Within 1e-6 of the norm; in 16 bits within one last place of the largest element."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    finite = expected.isfinite()
    assert torch.equal(found.isfinite(), finite)
    one, other = found[finite].double(), expected[finite].double()
    if expected.dtype in (torch.float32, torch.float64):
        assert (one - other).norm() <= 1e-6 * other.norm()
    elif one.numel():
        assert (one - other).abs().max() <= torch.finfo(expected.dtype).eps * other.abs().max()


# --- codes ---


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("n", SIZES)
def test_packing(native, bits, n):
    codes = torch.randint(2**bits, (n,), dtype=torch.uint8)
    packed = native.pack(codes, bits)
    assert torch.equal(packed, TorchBackend.pack(codes, bits))
    assert torch.equal(native.unpack(packed, n, bits), codes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_and_products_are_those_of_torch(native, bits, dtype):
    table = PRESETS["grad", "gelu", bits]
    for n in SIZES:
        x, grad = values(n, dtype), values(n, dtype, seed=1)
        if n > 16:
            x[10:13] = torch.tensor(table.cuts[0])  # ties, where the dtype can hold them
        packed = native.pack_steps(x, list(table.cuts), bits)
        assert torch.equal(packed, TorchBackend.pack_steps(x, list(table.cuts), bits)), n
        product = native.step_multiply(packed, grad, list(table.levels), bits)
        expected = TorchBackend.step_multiply(packed, grad, list(table.levels), bits)
        assert torch.equal(product.isnan(), expected.isnan())
        assert torch.equal(product.nan_to_num(7.0), expected.nan_to_num(7.0)), n


@pytest.mark.parametrize("function", [F.gelu, gelu_tanh, F.silu, F.mish])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_activations_are_torchs_own(native, function, dtype):
    table = PRESETS["grad", "silu", 2]
    for n in (0, 5, 70001):
        x = values(n, dtype)
        y, packed = native.activate_and_pack(x, function, list(table.cuts), 2)
        assert torch.equal(y.nan_to_num(7.0), function(x).nan_to_num(7.0))
        assert torch.equal(packed, TorchBackend.pack_steps(x, list(table.cuts), 2))


@pytest.mark.parametrize("layout", ["transposed", "every second", "expanded", "channels last"])
def test_strides(native, layout):
    x = {
        "transposed": torch.randn(37, 41).t(),
        "every second": torch.randn(90)[::2],
        "expanded": torch.randn(5, 1).expand(5, 9),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }[layout]
    table = PRESETS["grad", "gelu", 2]
    cuts, levels = list(table.cuts), list(table.levels)
    y, packed = native.activate_and_pack(x, F.gelu, cuts, 2)
    assert torch.equal(packed, TorchBackend.pack_steps(x, cuts, 2))
    assert torch.equal(y, F.gelu(x))
    product = native.step_multiply(packed, x, levels, 2)
    assert product.is_contiguous()
    assert torch.equal(product, TorchBackend.step_multiply(packed, x, levels, 2))


# --- eight bits ---


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("shape", [(3, 128), (5, 200), (2, 3, 7), (0, 4), (300, 256)], ids=str)
def test_eight_bits(native, dtype, shape):
    x = 3 * torch.randn(shape, dtype=torch.float64).to(dtype)
    if x.numel():
        x[..., 0] = 0.0
    q, scale = native.quantize_int8(x)
    expected = TorchBackend.quantize_int8(x)
    assert torch.equal(q, expected[0])
    assert torch.equal(scale, expected[1])
    assert torch.equal(
        native.dequantize_int8(q, scale, dtype=dtype),
        TorchBackend.dequantize_int8(q, scale, dtype=dtype),
    )


# --- gates and norms ---


@pytest.mark.parametrize("function", [F.silu, F.gelu, gelu_tanh, F.mish])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates(native, function, dtype):
    for n in (0, 7, 1025, 70001):
        gate = 20 * torch.randn(n, dtype=torch.float64).to(dtype)
        up, grad = torch.randn(n).to(dtype), torch.randn(n).to(dtype)
        with torch.no_grad():
            assert_within(native.gated(gate, up, function), function(gate) * up)
            found = native.gated_backward(grad, gate, up, function)
            for one, other in zip(found, (grad * up, grad * function(gate)), strict=True):
                assert_within(one, other)


@pytest.mark.parametrize("function", [F.silu, F.gelu, gelu_tanh])
def test_gates_at_the_ends(native, function):
    gate = torch.tensor([-200.0, -100.0, -88.0, -1e-30, 0.0, 88.0, 200.0, 1e30, float("nan")])
    with torch.no_grad():
        found = native.gated(gate, torch.ones(9), function)
    expected = function(gate)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.allclose(found[:-1], expected[:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", [(5, 48), (0, 8), (130, 300), (2, 3, 1), (1, 40000)], ids=str)
def test_norms(native, dtype, centred, shape):
    x = (2 * torch.randn(shape) + 1).to(dtype)
    given = {"centred": centred, "n_dims": 1, "eps": 1e-5, "dtype": dtype}
    z, r = native.normalize(x, **given)
    expected_z, expected_r = TorchBackend.normalize(x, **given)
    assert_within(z, expected_z)
    assert_within(r, expected_r)
    weight, bias = torch.randn(shape[-1]).to(dtype), torch.randn(shape[-1]).to(dtype)
    for parameters in ((weight,), (weight, bias)):
        for offset in (0.0, 1.0):
            options = {"offset": offset, "round_first": None, "dtype": dtype}
            found = native.affine(z, *parameters, **options)
            assert torch.equal(found, TorchBackend.affine(z, *parameters, **options))
    rounds = {"offset": 0.0, "round_first": dtype, "dtype": dtype}
    assert torch.equal(native.affine(z, weight, **rounds), TorchBackend.affine(z, weight, **rounds))
    grad = torch.randn(shape).to(dtype)
    for given_weight in (weight, None):
        options = {"offset": 1.0, "centred": centred, "n_dims": 1, "dtype": dtype}
        options["needs"] = (True, given_weight is not None, given_weight is not None)
        found = native.norm_backward(z, r, grad, given_weight, **options)
        expected = TorchBackend.norm_backward(z, r, grad, given_weight, **options)
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_within(one, other)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("narrow", NARROW[1:], ids=str)
def test_rows_rebuilt_for_autocast_are_rounded_once_from_fp32(native, narrow, offset):
    z, weight, bias = torch.randn(70, 48).to(narrow), torch.randn(48), torch.randn(48)
    options = {"offset": offset, "round_first": None}
    for kernels in (native, TorchBackend):
        wide = kernels.affine(z, weight, bias, dtype=torch.float32, **options)
        assert torch.equal(
            kernels.affine(z, weight, bias, dtype=narrow, **options), wide.to(narrow)
        )


def test_second_derivatives_and_transforms_go_round_the_kernels(native):
    x = torch.randn(4, 8, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(8, requires_grad=True)

    def through(backend):
        y = L.swiglu_linear(x, x.roll(1, 0), weight[None], backend=backend)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, weight))

    for one, other in zip(through("native"), through("torch"), strict=True):
        assert_within(one, other)

    def total(x):
        return L.ms_layer_norm(L.regelu2(x, backend="native"), (8,), weight).square().sum()

    rows = torch.func.vmap(torch.func.grad(total))(x.detach())
    assert_within(rows, torch.stack([torch.func.grad(total)(row) for row in x.detach()]))


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_is_of_no_account(native, default):
    x = torch.randn(70, 48, dtype=torch.float32)
    weight, bias = torch.randn(48, dtype=torch.float32), torch.randn(48, dtype=torch.float32)

    def gradients(backend):
        leaves = [part.clone().requires_grad_() for part in (x, weight, bias)]
        y = L.ms_layer_norm(leaves[0], (48,), *leaves[1:], backend=backend)
        return torch.autograd.grad(y.square().sum(), leaves)

    expected = gradients("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = gradients("native")
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert_within(one, other)


@needs_native
def test_the_default_device_is_of_no_account():
    x = torch.randn(40, 48)
    with torch.device("meta"):
        q, scale = backends.resolve("native").quantize_int8(x)
        packed = backends.resolve("native").pack_steps(x, [-1.0, 0.0, 1.0], 2)
        z, r = backends.resolve("native").normalize(
            x, centred=True, n_dims=1, eps=1e-5, dtype=torch.float32
        )
    assert {part.device.type for part in (q, scale, packed, z, r)} == {"cpu"}
    assert torch.equal(packed, TorchBackend.pack_steps(x, [-1.0, 0.0, 1.0], 2))


@pytest.mark.parametrize("width", [8, 32])
def test_parameters_of_another_width_are_an_error(native, width):
    z, r, weight = torch.randn(6, 16), torch.ones(6, 1), torch.randn(width)
    options = {"offset": 0.0, "dtype": torch.float32}
    with pytest.raises(RuntimeError, match="size"):
        native.affine(z, weight, round_first=None, **options)
    with pytest.raises(RuntimeError, match="size"):
        native.norm_backward(
            z, r, z, weight, centred=False, n_dims=1, needs=(True, True, False), **options
        )


def test_codes_of_another_length_are_an_error(native):
    grad = torch.randn(64)
    with pytest.raises(RuntimeError, match="size"):
        native.step_multiply(torch.zeros(15, dtype=torch.uint8), grad, [0.0, 0.3, 0.7, 1.0], 2)
    with pytest.raises(IndexError):
        native.step_multiply(torch.full((16,), 255, dtype=torch.uint8), grad, [0.0, 1.0], 2)


def test_a_change_of_sign_that_is_only_noted_is_made(native):
    x = torch._neg_view(torch.randn(40))  # as torch.imag of a conjugate is, but contiguous
    assert x.is_neg()
    cuts = [-1.0, 0.0, 1.0]
    assert torch.equal(native.pack_steps(x, cuts, 2), TorchBackend.pack_steps(x.clone(), cuts, 2))


# --- which one ---


@needs_native
def test_kernels_are_used_unless_another_backend_is_asked_for(monkeypatch):
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    assert backends.resolve().__name__ == "NativeBackend"
    assert backends.resolve("auto", torch.device("cpu")) is backends.resolve("native")
    monkeypatch.setenv(backends.VARIABLE, "torch")
    assert backends.resolve() is TorchBackend


@pytest.fixture
def called(monkeypatch):
    """Names of the native kernels that were called, in order."""
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    names, call = [], native_module._call
    monkeypatch.setattr(
        native_module, "_call", lambda name, *args: (names.append(name), call(name, *args))[1]
    )
    return names


@needs_native
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_use_the_backend_that_is_named(called, kind):
    x, weight = torch.randn(6, 16), torch.randn(16)
    pairs = [(torch.randn(3, 16), None), (torch.randn(5, 16), torch.randn(5))]

    def gradient(backend):
        called.clear()
        leaf = x.clone().requires_grad_()
        outs = L.norm_linear(leaf, weight, None, pairs, kind=kind, backend=backend)
        return torch.autograd.grad(sum(out.square().sum() for out in outs), leaf)[0]

    expected = gradient("torch")
    assert not called
    assert_within(gradient("native"), expected)
    assert called
    with pytest.raises(ConfigError, match="'natve'"):
        gradient("natve")


@needs_native
def test_a_converted_model_keeps_to_its_backend(called):
    stock = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
    for backend, uses_kernels in (("auto", True), ("torch", False)):
        model = copy.deepcopy(stock)
        lowmem_bp.convert(model, mode="exact", backend=backend)
        called.clear()
        model(torch.randn(4, 16, requires_grad=True)).sum().backward()
        assert bool(called) == uses_kernels, called


def test_a_backend_for_another_device_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match=r"backend='triton' was asked for.*on 'cpu': use 'auto'"):
        L.regelu2(torch.ones(2), backend="triton")
    assert backends.resolve("auto", torch.device("meta")) is TorchBackend


@pytest.mark.parametrize("name", ["native", "triton"])
def test_a_device_that_no_kernels_are_made_for_is_refused(name):
    with pytest.raises(BackendError, match=f"'{name}' was asked for.*on 'mps': use 'auto'"):
        backends.resolve(name, torch.device("mps"))
    assert backends.resolve("auto", torch.device("mps")) is TorchBackend


@needs_native
def test_a_model_without_data_may_name_its_backend():
    assert backends.resolve("native", torch.device("meta")) is backends.resolve("native")


WITHOUT = """
import logging, sys
logging.basicConfig(format="%(name)s %(message)s")
{spoil}
import torch, lowmem_bp
from lowmem_bp import backends, functional
from lowmem_bp.errors import BackendError, ConfigError
x = torch.randn(40, requires_grad=True)
for _ in range(3):
    functional.regelu2(x).sum().backward()
print(backends.resolve().__name__)
try:
    functional.regelu2(x, backend="native")
except BackendError as error:
    print(error)
"""
ABSENT = "sys.modules['lowmem_bp._native'] = None"
STALE = "import types; sys.modules['lowmem_bp._native'] = types.ModuleType('stale')"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(ABSENT, "not installed"), (STALE, "left over from another version")],
    ids=["absent", "stale"],
)
def test_without_the_extension_plain_torch_does_the_work(spoil, reason):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(spoil=spoil)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert "TorchBackend" in done.stdout
    assert "backend='native' is not available" in done.stdout
    assert "install" in done.stdout
    lines = [line for line in done.stderr.splitlines() if "lowmem_bp" in line]
    assert len(lines) == 1, "the fallback is said once"
    assert reason in lines[0]
    assert logging.getLogger("lowmem_bp").level == logging.NOTSET


@needs_native
def test_the_extension_brings_no_openmp_of_its_own():
    import lowmem_bp._native as extension

    linked = subprocess.run(["ldd", extension.__file__], capture_output=True, text=True)
    if linked.returncode:
        pytest.skip("no ldd")
    assert not any(name in linked.stdout for name in ("gomp", "iomp", "libomp"))
