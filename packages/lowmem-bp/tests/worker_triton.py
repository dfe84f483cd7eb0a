"""Compile every Triton kernel for a device that need not be there: ``worker_triton.py cuda|hip``.

The interpreter takes more than the compiler does. Run without ``TRITON_INTERPRET``.
"""

import functools
import sys
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from lowmem_bp.activations import gelu_tanh
from lowmem_bp.backends import triton as backend
from lowmem_bp.steps import PRESETS

TARGETS = {"cuda": GPUTarget("cuda", 80, 32), "hip": GPUTarget("hip", "gfx942", 64)}


def compile_instead_of_launching(target):
    """Make launches compile for ``target`` and do nothing else; tensors may be anywhere."""
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
        )
    )
    JITFunction.__getitem__ = lambda self, grid: functools.partial(self.warmup, grid=grid)
    backend.interpreted = lambda: True


def call_everything(dtype):
    kernels = backend.TritonBackend
    x, row = torch.ones(4, 200, dtype=dtype), torch.ones(200, dtype=dtype)
    for bits in (1, 2, 4):
        table = PRESETS["grad", "gelu", bits]
        packed = kernels.pack_steps(x, list(table.cuts), bits)
        kernels.step_multiply(packed, x, list(table.levels), bits)
        kernels.pack(kernels.unpack(packed, 800, bits), bits)
    for function in (F.gelu, gelu_tanh, F.silu):
        kernels.activate_and_pack(x, function, [-1.0, 0.0, 1.0], 2)
        kernels.gated(x, x, function)
        kernels.gated_backward(x, x, x, function)
    kernels.dequantize_int8(*kernels.quantize_int8(x), dtype=dtype)
    norm = {"n_dims": 1, "dtype": dtype}
    for centred in (True, False):
        z, r = kernels.normalize(x, centred=centred, eps=1e-5, **norm)
        for weight, needs in (
            (row, (True,) * 3),
            (row, (False, True, False)),
            (None, (True,) + 2 * (False,)),
        ):
            given = {"offset": 0.0, "centred": centred, "needs": needs}
            kernels.norm_backward(z, r, x, weight, **given, **norm)
    for bias in (row, None):
        kernels.affine(z, row, bias, offset=1.0, round_first=None, dtype=dtype)


compile_instead_of_launching(TARGETS[sys.argv[1]])
call_everything(torch.bfloat16)
print(sorted(backend.take_failures()))
