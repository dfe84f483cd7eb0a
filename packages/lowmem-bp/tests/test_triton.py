"""The Triton kernels give what plain torch gives; without a GPU they run in Triton's interpreter.

The interpreter checks values, not speed, and truncates to bf16 where a GPU rounds.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lowmem_bp.functional as L
from lowmem_bp import backends
from lowmem_bp.activations import gelu_tanh
from lowmem_bp.backends.torch import TorchBackend
from lowmem_bp.errors import BackendError
from lowmem_bp.steps import PRESETS

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
pytestmark = pytest.mark.triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NARROW = [torch.float32, torch.bfloat16, torch.float16]
KNOWN = [F.gelu, gelu_tanh, F.silu]
#: Around the size of a byte and of a program's block.
SIZES = [0, 1, 7, 1023, 2050]


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that the test launches; none of them may fail."""
    from lowmem_bp.backends import triton

    names = []

    def launch(name, *args, _launch=triton._launch, **options):
        names.append(name)
        _launch(name, *args, **options)

    monkeypatch.setattr(triton, "_launch", launch)
    monkeypatch.setattr(triton, "_FAILURES", {})
    with np.errstate(all="ignore"):  # the interpreter computes with numpy
        yield names
    assert not triton.take_failures()


@pytest.fixture
def kernels(launched):
    yield backends.resolve("triton", DEVICE)
    assert launched


def values(*shape, dtype=torch.float32, special=False):
    """Normal numbers; if asked for, among them those that are easily got wrong."""
    x = 3 * torch.randn(shape, dtype=torch.float64)
    if special:
        numbers = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-7, -6e-8, 65504.0]
        x.view(-1)[:8] = torch.tensor(numbers, dtype=torch.float64)[: x.numel()]
    return x.to(DEVICE, dtype)


def assert_within(found, expected, places=1):
    """Within 1e-6 of the norm; in 16 bits within last places of the largest element."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.is_contiguous()
    finite = expected.isfinite()
    assert torch.equal(found.isfinite(), finite)
    one, other = found[finite].double(), expected[finite].double()
    if expected.dtype == torch.float32:
        assert (one - other).norm() <= 1e-6 * other.norm()
    elif one.numel():
        step = torch.finfo(expected.dtype).eps * other.abs().max()
        assert (one - other).abs().max() <= places * step


# --- codes ---


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packing(kernels, bits):
    for n in SIZES:
        codes = torch.randint(2**bits, (n,), dtype=torch.uint8, device=DEVICE)
        packed = kernels.pack(codes, bits)
        assert torch.equal(packed, TorchBackend.pack(codes, bits))
        assert torch.equal(kernels.unpack(packed, n, bits), codes)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_and_products_are_those_of_torch(kernels, bits, dtype):
    table = PRESETS["grad", "gelu", bits]
    cuts, levels = list(table.cuts), list(table.levels)
    for n in SIZES:
        x, grad = values(n, dtype=dtype, special=True), values(n, dtype=dtype)
        x[8:11] = cuts[0]  # ties, where the dtype can hold them
        packed = kernels.pack_steps(x, cuts, bits)
        assert torch.equal(packed, TorchBackend.pack_steps(x, cuts, bits)), n
        product = kernels.step_multiply(packed, grad, levels, bits)
        expected = TorchBackend.step_multiply(packed, grad, levels, bits)
        assert_within(product, expected)
        if dtype != torch.bfloat16:
            assert torch.equal(product, expected)


@pytest.mark.parametrize("function", [*KNOWN, F.mish])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_activation_and_codes_in_one_pass(kernels, launched, function, dtype):
    cuts = list(PRESETS["grad", "silu", 2].cuts)
    for n in (0, 7, 1025):
        x = values(n, dtype=dtype, special=True)
        x[x.isinf()] = 1.0  # torch's GELU of infinity depends on the device
        y, packed = kernels.activate_and_pack(x, function, cuts, 2)
        expected = function(x)
        assert torch.equal(y.isnan(), expected.isnan())
        assert_within(y, expected)
        assert torch.equal(packed, TorchBackend.pack_steps(x, cuts, 2))
    assert set(launched) == {"activate_and_pack"}


@pytest.mark.parametrize("layout", ["transposed", "every second", "expanded", "channels last"])
def test_strides(kernels, layout):
    x = {
        "transposed": values(37, 41).t(),
        "every second": values(90)[::2],
        "expanded": values(5, 1).expand(5, 9),
        "channels last": values(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }[layout]
    table = PRESETS["grad", "gelu", 2]
    y, packed = kernels.activate_and_pack(x, F.gelu, list(table.cuts), 2)
    assert_within(y, F.gelu(x).contiguous())
    assert torch.equal(packed, TorchBackend.pack_steps(x, list(table.cuts), 2))
    product = kernels.step_multiply(packed, x, list(table.levels), 2)
    assert torch.equal(product, TorchBackend.step_multiply(packed, x, list(table.levels), 2))
    assert_within(kernels.gated(x, x, F.silu), (F.silu(x) * x).contiguous())


# --- eight bits ---


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("shape", [(3, 128), (5, 200), (2, 3, 7), (0, 4), (30, 256)], ids=str)
def test_eight_bits(kernels, dtype, shape):
    x = values(*shape, dtype=dtype)
    if x.numel():
        x[..., 0] = 0.0
        x[0] = 0.0
        x[-1, ..., -1] = float("nan")
        x[1, ..., -1] = float("inf")
    q, scale = kernels.quantize_int8(x)
    expected_q, expected_scale = TorchBackend.quantize_int8(x)
    assert torch.equal(q, expected_q)
    assert torch.equal(scale.nan_to_num(-1.0), expected_scale.nan_to_num(-1.0))
    found = kernels.dequantize_int8(q, scale, dtype=dtype)
    assert_within(found, TorchBackend.dequantize_int8(q, scale, dtype=dtype))


def test_halves_round_to_even(kernels):
    x = torch.tensor([127.0, 0.5, 1.5, -2.5, 126.5, -126.5], device=DEVICE)
    q, scale = kernels.quantize_int8(x)
    assert scale.item() == 1.0
    assert q.tolist() == [127, 0, 2, -2, 126, -126]


# --- gates and norms ---


@pytest.mark.parametrize("function", KNOWN)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_gates(kernels, function, dtype):
    for n in (0, 7, 1025):
        gate, up, grad = (values(n, dtype=dtype) for _ in range(3))
        # Two roundings, which the interpreter makes two truncations.
        assert_within(kernels.gated(gate, up, function), function(gate) * up, places=2)
        found = kernels.gated_backward(grad, gate, up, function)
        for one, other in zip(found, (grad * up, grad * function(gate)), strict=True):
            assert_within(one, other, places=2)


@pytest.mark.parametrize("function", KNOWN)
def test_gates_at_the_ends(kernels, function):
    ends = [-200.0, -100.0, -88.0, -1e-30, 0.0, 88.0, 200.0, 1e30, float("nan")]
    gate = torch.tensor(ends, device=DEVICE)
    found = kernels.gated(gate, torch.ones_like(gate), function)
    assert torch.allclose(found, function(gate), rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("shape", "n_dims"),
    [((5, 48), 1), ((0, 8), 1), ((130, 300), 1), ((2, 3, 1), 1), ((2, 5000), 1), ((6, 4, 5), 2)],
    ids=str,
)
def test_norms(kernels, dtype, centred, shape, n_dims):
    x, grad = 0.7 * values(*shape, dtype=dtype) + 1, values(*shape, dtype=dtype)
    given = {"centred": centred, "n_dims": n_dims, "dtype": dtype}
    z, r = kernels.normalize(x, eps=1e-5, **given)
    expected_z, expected_r = TorchBackend.normalize(x, eps=1e-5, **given)
    assert_within(z, expected_z)
    assert_within(r, expected_r)
    weight, bias = (values(*shape[len(shape) - n_dims :], dtype=dtype) for _ in range(2))
    for parameters in ((weight,), (weight, bias)):
        for offset, round_first in ((0.0, None), (1.0, None), (0.0, dtype)):
            options = {"offset": offset, "round_first": round_first, "dtype": dtype}
            expected = TorchBackend.affine(z, *parameters, **options)
            assert_within(kernels.affine(z, *parameters, **options), expected)
    for given_weight, needs in (
        (weight, (True, True, True)),
        (weight, (False, True, False)),
        (None, (True, False, False)),
    ):
        options = {"offset": 1.0, "needs": needs, **given}
        found = kernels.norm_backward(z, r, grad, given_weight, **options)
        expected = TorchBackend.norm_backward(z, r, grad, given_weight, **options)
        for one, other, needed in zip(found, expected, needs, strict=True):
            assert (one is not None) == (other is not None) == needed
            if needed:
                assert_within(one, other)


def test_rows_and_parameters_may_differ_in_dtype(kernels):
    z, weight = values(4, 40, dtype=torch.bfloat16), values(40)
    options = {"offset": 0.0, "round_first": torch.bfloat16, "dtype": torch.bfloat16}
    found = kernels.affine(z, weight, **options)
    assert found.dtype == torch.float32
    assert torch.equal(found, TorchBackend.affine(z, weight, **options))


# --- what goes to torch ---


def test_what_the_kernels_do_not_take_is_done_by_torch(launched):
    kernels = backends.resolve("triton", DEVICE)
    double = values(3, 8).double()
    assert torch.equal(
        kernels.pack_steps(double, [0.0], 1), TorchBackend.pack_steps(double, [0.0], 1)
    )
    assert torch.equal(kernels.gated(double, double, F.silu), F.silu(double) * double)
    single = values(3, 8)
    assert kernels.gated(single, single.bfloat16(), F.silu).dtype == torch.float32
    assert torch.equal(kernels.gated(single, single, F.mish), F.mish(single) * single)
    given = {"centred": True, "n_dims": 1, "eps": 1e-5}
    z, r = kernels.normalize(double, dtype=torch.float64, **given)
    assert z.dtype == r.dtype == torch.float64
    kernels.normalize(values(1, 20_000), dtype=torch.float32, **given)
    kernels.normalize(values(2, 8).to("meta"), dtype=torch.float32, **given)
    assert not launched


def test_second_derivatives_and_transforms_go_round_the_kernels(launched, monkeypatch):
    x = values(4, 8).requires_grad_()
    weight = values(8).requires_grad_()

    def through(backend):
        y = L.swiglu_linear(x, x.roll(1, 0), weight[None], backend=backend)
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, weight))

    for one, other in zip(through("triton"), through("torch"), strict=True):
        assert_within(one, other)

    monkeypatch.setenv(backends.VARIABLE, "triton")

    def total(x):
        return L.ms_layer_norm(L.regelu2(x), (8,), weight).square().sum()

    rows = torch.func.vmap(torch.func.grad(total))(x.detach())
    one_by_one = torch.stack([torch.func.grad(total)(row) for row in x.detach()])
    assert (rows - one_by_one).norm() <= 1e-5 * one_by_one.norm()


# --- whole operations ---


OPERATIONS = {
    "stepwise": (
        lambda x, w, b: L.stepwise(x, "gelu", bits=2),
        {"activate_and_pack", "step_multiply"},
    ),
    "swiglu": (
        lambda x, w, b: L.swiglu_linear(x, x.roll(1, 0), w, b),
        {"gated", "gated_backward"},
    ),
    "swiglu in 8 bits": (
        lambda x, w, b: L.swiglu_linear(x, x.roll(1, 0), w, b, mode="int8"),
        {"quantize", "dequantize"},
    ),
    "layer norm": (
        lambda x, w, b: L.linear(L.ms_layer_norm(x, (96,), w[0], w[1]), w, b),
        {"normalize", "affine", "norm_backward"},
    ),
    "rms norm": (
        lambda x, w, b: L.linear(L.ms_rms_norm(x, (96,), w[0]), w, b),
        {"normalize", "affine", "norm_backward"},
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_through_the_kernels(launched, monkeypatch, name):
    operation, used = OPERATIONS[name]
    x, weight, bias = values(2, 5, 96), values(24, 96), values(24)
    results = []
    for backend in ("torch", "triton"):
        monkeypatch.setenv(backends.VARIABLE, backend)
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = operation(*leaves)
        y.square().sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() <= 2e-6 * other.norm()
    assert used <= set(launched)


# --- where there is no triton, no device, no compiler ---

WITHOUT = """
import logging, sys
logging.basicConfig(format="%(name)s %(message)s")
{spoil}
import torch
from lowmem_bp import backends
from lowmem_bp.errors import BackendError
for _ in range(3):
    print(backends.resolve("auto", torch.device("cuda")).__name__)
try:
    backends.resolve("triton")
except BackendError as error:
    print(error)
"""
ABSENT = "sys.modules['triton'] = None"
NO_DEVICE = "import torch; torch.cuda.is_available = lambda: False"


def run_python(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(ABSENT, "pip install 'lowmem-bp[triton]'"), (NO_DEVICE, "torch sees no such device here")],
    ids=["absent", "no device"],
)
def test_without_triton_plain_torch_does_the_work(spoil, reason):
    done = run_python("-c", WITHOUT.format(spoil=spoil))
    assert done.stdout.split()[:3] == ["TorchBackend"] * 3
    assert "backend='triton' is not available: " in done.stdout
    assert reason in done.stdout
    lines = [line for line in done.stderr.splitlines() if "lowmem_bp" in line]
    assert len(lines) == 1, "the fallback is said once"
    assert reason in lines[0]


@pytest.fixture
def no_bf16_products(monkeypatch):
    """A compiler that fails at one kernel for one dtype."""
    import triton as compiler
    import triton.language as tl

    from lowmem_bp.backends import triton, triton_kernels

    @compiler.jit
    def gated(gate, up, z, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
        tl.no_such_function(gate)

    class Failing:
        def __getitem__(self, grid):
            def launch(gate, *args, **options):
                kernel = gated if gate.dtype == torch.bfloat16 else working
                kernel[grid](gate, *args, **options)
                ran.append(gate.dtype)

            return launch

    working, ran = triton_kernels.gated, []
    monkeypatch.setattr(triton, "_FAILURES", {})
    monkeypatch.setattr(triton_kernels, "gated", Failing())
    return ran


def test_what_a_kernel_fails_at_is_done_in_torch(no_bf16_products, caplog):
    from lowmem_bp.backends import triton

    kernels = backends.resolve("triton", DEVICE)
    x = values(3, 5, dtype=torch.bfloat16)
    for _ in range(3):
        assert torch.equal(kernels.gated(x, x, F.silu), F.silu(x) * x)
    (record,) = caplog.records
    assert record.name == "lowmem_bp"
    assert "\n" not in record.getMessage()
    assert f"kernel gated({DEVICE.type}" in record.getMessage()
    assert ") is not used, plain torch is: triton " in record.getMessage()
    (variant,) = triton.take_failures()
    assert variant.startswith(f"gated({DEVICE.type}")
    assert ", bfloat16, " in variant


def test_a_failure_leaves_other_dtypes_their_kernel(no_bf16_products):
    from lowmem_bp.backends import triton

    kernels = backends.resolve("triton", DEVICE)
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16, torch.float16):
        x = values(3, 5, dtype=dtype)
        kernels.gated(x, x, F.silu)
    assert no_bf16_products == [torch.float32, torch.float16]
    assert len(triton.take_failures()) == 1
    assert not triton.take_failures()


def test_processors_are_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="'triton' was asked for, and the tensor is on 'cpu'"):
        L.regelu2(torch.ones(2), backend="triton")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda", "hip"])
def test_kernels_compile(target, tmp_path, monkeypatch):
    """As far as the machine code of a device that is not here."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    worker = Path(__file__).parent / "worker_triton.py"
    assert run_python(str(worker), target).stdout == "[]\n"
