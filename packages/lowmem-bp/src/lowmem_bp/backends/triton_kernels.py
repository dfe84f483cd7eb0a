"""Triton kernels as they are; :mod:`lowmem_bp.backends.triton` says when and how they are launched.

All tensors are contiguous and arithmetic is fp32. Offsets have 64 bits, for tensors of more than
2**31 elements. A program of the first kernels works on ``BLOCK`` neighbours (bytes of codes, groups
or elements), one of the last three on tiles of ``ROWS`` whole rows, with ``COLUMNS``, a power of
two, no less than a row has.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
from __future__ import annotations

import triton
import triton.language as tl

# --- codes ---------------------------------------------------------------------------------------


@triton.jit
def _block(BLOCK: tl.constexpr):
    """Return what this program works on."""
    return tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _elements(byte, BITS: tl.constexpr):
    """Return the elements whose codes share a byte: one row per byte."""
    return byte[:, None] * (8 // BITS) + tl.arange(0, 8 // BITS)[None, :]


@triton.jit
def _join(codes, BITS: tl.constexpr):
    """Pack rows of int32 codes into bytes, lowest bits first."""
    return tl.sum(codes << tl.arange(0, 8 // BITS)[None, :] * BITS, axis=1).to(tl.uint8)


@triton.jit
def _split(byte, BITS: tl.constexpr):
    """Invert :func:`_join`."""
    shifts = tl.arange(0, 8 // BITS)[None, :] * BITS
    return (byte.to(tl.int32)[:, None] >> shifts) & ((1 << BITS) - 1)


@triton.jit
def pack(codes, packed, n, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Pack ``n`` codes."""
    byte = _block(BLOCK)
    i = _elements(byte, BITS)
    code = tl.load(codes + i, mask=i < n, other=0).to(tl.int32)
    tl.store(packed + byte, _join(code, BITS), mask=byte * (8 // BITS) < n)


@triton.jit
def unpack(packed, codes, n, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Invert :func:`pack`."""
    byte = _block(BLOCK)
    i = _elements(byte, BITS)
    code = _split(tl.load(packed + byte, mask=byte * (8 // BITS) < n, other=0), BITS)
    tl.store(codes + i, code.to(tl.uint8), mask=i < n)


@triton.jit
def _activate(x, KIND: tl.constexpr):
    """Return an activation of fp32 values."""
    if KIND == "silu":
        result = x / (1.0 + tl.exp(-x))
    elif KIND == "gelu":
        result = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        tl.static_assert(KIND == "gelu_tanh")
        # x / 2 (1 + tanh t) = x / (1 + exp(-2 t))
        t = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        result = x / (1.0 + tl.exp(-2.0 * t))
    return result


@triton.jit
def activate_and_pack(
    x, y, packed, cuts, n, KIND: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    """Pack the number of ``cuts`` below each element; store the activation unless ``y`` is None."""
    byte = _block(BLOCK)
    i = _elements(byte, BITS)
    value = tl.load(x + i, mask=i < n, other=0.0).to(tl.float32)
    if y is not None:
        tl.store(y + i, _activate(value, KIND).to(y.dtype.element_ty), mask=i < n)
    code = tl.zeros(value.shape, tl.int32)
    for k in tl.static_range(len(cuts)):
        code += (value > cuts[k]).to(tl.int32)
    code = tl.where(i < n, code, 0)  # unused bits of the last byte are 0
    tl.store(packed + byte, _join(code, BITS), mask=byte * (8 // BITS) < n)


@triton.jit
def step_multiply(packed, grad, out, levels, n, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Multiply each element with the level its code names."""
    byte = _block(BLOCK)
    i = _elements(byte, BITS)
    code = _split(tl.load(packed + byte, mask=byte * (8 // BITS) < n, other=0), BITS)
    level = tl.zeros(code.shape, tl.float32) + levels[0]
    for k in tl.static_range(1, len(levels)):
        level = tl.where(code >= k, levels[k], level)
    product = tl.load(grad + i, mask=i < n, other=0.0).to(tl.float32) * level
    tl.store(out + i, product.to(out.dtype.element_ty), mask=i < n)


# --- eight bits, one scale per group of 128 ------------------------------------------------------


@triton.jit
def _groups(columns, n_groups, BLOCK: tl.constexpr):
    """Return groups, counted through all rows, their elements, and which of these exist."""
    group = _block(BLOCK)
    per_row = tl.cdiv(columns, 128)
    column = (group % per_row * 128)[:, None] + tl.arange(0, 128)[None, :]
    i = (group // per_row * columns)[:, None] + column
    return group, i, (group < n_groups)[:, None] & (column < columns)


@triton.jit
def _to_bf16(x):
    """Round non-negative fp32 to what bf16 can hold, ties to even.

    By hand, because Triton's interpreter truncates where a GPU rounds, and 8-bit codes are to be
    the same everywhere.
    """
    bits = x.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    return tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)


@triton.jit
def quantize(x, q, scale, columns, n_groups, BLOCK: tl.constexpr):
    """Round each group to whole multiples of its scale."""
    group, i, inside = _groups(columns, n_groups, BLOCK)
    value = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
    # As whole numbers the bits of positive floats have the order of the floats, and NaN is the
    # greatest, where the maximum of floats would leave it out.
    bits = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    largest = tl.max(bits, axis=1).to(tl.float32, bitcast=True)
    # The scale is rounded first: dequantising sees the rounded one.
    rounded = _to_bf16(tl.div_rn(largest, 127.0))
    ratio = tl.div_rn(value, tl.where(rounded == 0.0, 1.0, rounded)[:, None])
    ratio = tl.where(ratio == ratio, tl.minimum(tl.maximum(ratio, -127.0), 127.0), 0.0)
    # Adding 1.5 * 2**23 rounds to the nearest whole number, ties to even.
    whole = (ratio + 12582912.0) - 12582912.0
    tl.store(q + i, whole.to(tl.int8), mask=inside)
    tl.store(scale + group, rounded.to(tl.bfloat16), mask=group < n_groups)


@triton.jit
def dequantize(q, scale, out, columns, n_groups, BLOCK: tl.constexpr):
    """Invert :func:`quantize` up to rounding."""
    group, i, inside = _groups(columns, n_groups, BLOCK)
    step = tl.load(scale + group, mask=group < n_groups, other=0.0).to(tl.float32)
    value = tl.load(q + i, mask=inside, other=0).to(tl.float32) * step[:, None]
    tl.store(out + i, value.to(out.dtype.element_ty), mask=inside)


# --- gated products ------------------------------------------------------------------------------


@triton.jit
def _gate(gate, i, n, KIND: tl.constexpr):
    """Return the activation, rounded to the dtype it would have as a tensor of its own."""
    value = _activate(tl.load(gate + i, mask=i < n, other=0.0).to(tl.float32), KIND)
    return value.to(gate.dtype.element_ty).to(tl.float32)


@triton.jit
def gated(gate, up, z, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Store ``z = act(gate) up``."""
    i = _block(BLOCK)
    product = _gate(gate, i, n, KIND) * tl.load(up + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(z + i, product.to(z.dtype.element_ty), mask=i < n)


@triton.jit
def gated_backward(grad, gate, up, d_act, d_up, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Store the gradients of both factors: ``grad up`` and ``grad act(gate)``."""
    i = _block(BLOCK)
    g = tl.load(grad + i, mask=i < n, other=0.0).to(tl.float32)
    u = tl.load(up + i, mask=i < n, other=0.0).to(tl.float32)
    tl.store(d_act + i, (g * u).to(d_act.dtype.element_ty), mask=i < n)
    tl.store(d_up + i, (g * _gate(gate, i, n, KIND)).to(d_up.dtype.element_ty), mask=i < n)


# --- norms ---------------------------------------------------------------------------------------


@triton.jit
def _tile(tile, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the rows of a tile, their elements, and which of these exist."""
    row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    return row, row[:, None] * columns + column, (row < rows)[:, None] & (column < columns)


@triton.jit
def _parameter(parameter, columns, COLUMNS: tl.constexpr):
    """Return a weight or a bias as one row."""
    column = tl.arange(0, COLUMNS)[None, :]
    return tl.load(parameter + column, mask=column < columns, other=0.0).to(tl.float32)


@triton.jit
def _mean(x, columns):
    """Return the means of rows that are 0 beyond ``columns``."""
    return (tl.sum(x, axis=1) / columns)[:, None]


@triton.jit
def normalize(
    x,
    z,
    r,
    eps,
    rows,
    columns,
    CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Store ``z = (x - mean) r`` or ``x r``, row by row."""
    row, i, inside = _tile(tl.program_id(0), rows, columns, ROWS, COLUMNS)
    value = tl.load(x + i, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        value = tl.where(inside, value - _mean(value, columns), 0.0)
    factor = tl.rsqrt(tl.sum(value * value, axis=1) / columns + eps)
    tl.store(z + i, (value * factor[:, None]).to(z.dtype.element_ty), mask=inside)
    tl.store(r + row, factor, mask=row < rows)


@triton.jit
def affine(z, weight, bias, y, offset, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Store ``y = (offset + weight) z + bias``; ``bias`` may be None."""
    _row, i, inside = _tile(tl.program_id(0), rows, columns, ROWS, COLUMNS)
    value = tl.load(z + i, mask=inside, other=0.0).to(tl.float32)
    value = value * (_parameter(weight, columns, COLUMNS) + offset)
    if bias is not None:
        value += _parameter(bias, columns, COLUMNS)
    tl.store(y + i, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward(
    z,
    r,
    grad,
    weight,
    d_x,
    d_weight,
    d_bias,
    offset,
    rows,
    columns,
    tiles,
    CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Differentiate :func:`normalize` and :func:`affine`; any of the results may be None.

    Each program leaves one row of its own in ``d_weight`` and ``d_bias``: their sums are the
    gradients. Without a weight, ``grad`` is the gradient of ``z`` itself.
    """
    sum_weight = tl.zeros([ROWS, COLUMNS], tl.float32)
    sum_bias = tl.zeros([ROWS, COLUMNS], tl.float32)
    if weight is not None:
        scale = _parameter(weight, columns, COLUMNS) + offset
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, i, inside = _tile(tile, rows, columns, ROWS, COLUMNS)
        normal = tl.load(z + i, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + i, mask=inside, other=0.0).to(tl.float32)
        sum_weight += g * normal
        sum_bias += g
        if d_x is not None:
            if weight is not None:
                g = g * scale
            d = g - normal * _mean(g * normal, columns)
            if CENTRED:
                d = d - _mean(g, columns)
            d = d * tl.load(r + row, mask=row < rows, other=0.0)[:, None]
            tl.store(d_x + i, d.to(d_x.dtype.element_ty), mask=inside)
    column = tl.arange(0, COLUMNS)
    mine = tl.program_id(0).to(tl.int64) * columns + column
    if d_weight is not None:
        tl.store(d_weight + mine, tl.sum(sum_weight, axis=0), mask=column < columns)
    if d_bias is not None:
        tl.store(d_bias + mine, tl.sum(sum_bias, axis=0), mask=column < columns)
