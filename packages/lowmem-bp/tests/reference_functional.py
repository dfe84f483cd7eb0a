"""Slow references in numpy, written from the equations of arXiv 2406.16282.

Everything is a loop or one line of fp64 algebra; nothing here is shared with the package.
"""

from __future__ import annotations

import math

import numpy as np

# h~(x) = sum_i a_i max(x - c_i, 0): the digits published for ReGELU2 and ReSiLU2.
SLOPES = {
    "gelu": (-0.04922261145617846, 1.0979632065417297, -0.048740595085551286),
    "silu": (-0.04060357190528599, 1.080925428529668, -0.040321856624382146),
}
KNOTS = {
    "gelu": (-3.1858810036855245, -0.001178821281161997, 3.190832613414926),
    "silu": (-6.3050461001646445, -0.0008684942046214787, 6.325815242089708),
}


def published_levels(name):
    """v_s: the slope of h~ right of its first s knots."""
    return tuple(math.fsum(SLOPES[name][:s]) for s in range(4))


def activation(name, x):
    """The exact forward in fp64."""
    x = np.asarray(x, dtype=np.float64)
    if name == "gelu":
        return np.vectorize(lambda v: v / 2 * (1 + math.erf(v / math.sqrt(2))), [float])(x)
    if name == "gelu_tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return x / 2 * (1 + np.tanh(inner))
    return x / (1 + np.exp(-x))


def codes(x, cuts):
    """Number of cuts strictly below each element, compared in fp32 (fp64 for fp64 input)."""
    x = np.asarray(x)
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    result = np.zeros(x.size, dtype=np.uint8)
    for i, value in enumerate(x.astype(dtype).reshape(-1)):
        result[i] = sum(bool(value > dtype(cut)) for cut in cuts)
    return result


def pack(values, bits):
    """Element j of a group sits at bits ``bits * j`` and up; the last byte ends in zeros."""
    per_byte = 8 // bits
    packed = np.zeros(math.ceil(len(values) / per_byte), dtype=np.uint8)
    for i, value in enumerate(values):
        packed[i // per_byte] |= np.uint8(int(value) << (bits * (i % per_byte)))
    return packed


def step_multiply(grad, x, cuts, levels):
    """``grad * levels[code(x)]``: one product in fp32 (fp64 for fp64), not rounded further."""
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    factors = np.array([dtype(levels[code]) for code in codes(x, cuts)]).reshape(x.shape)
    return np.asarray(grad, dtype=dtype) * factors.astype(dtype)


def round_to_bf16(x):
    """Round fp32 to the nearest bf16, ties to even, as fp32 values; for finite input."""
    bits = np.array(x, dtype=np.float32, order="C").view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


def normalise(x, eps, centred):
    """Rows of ``x``: z and r."""
    mean = x.mean(-1, keepdims=True) if centred else 0.0
    r = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    return (x - mean) * r, r


def norm_linear(x, gamma, beta, weights, biases, grads, eps, centred):
    """Outputs and gradients of a norm followed by linear layers, by the algebra on z alone."""
    z, r = normalise(x, eps, centred)
    y = gamma * z + beta
    outputs = [y @ w.T + b for w, b in zip(weights, biases, strict=True)]
    d_weights = [(g.T @ z) * gamma + np.outer(g.sum(0), beta) for g in grads]
    d_biases = [g.sum(0) for g in grads]
    dy = sum(g @ w for g, w in zip(grads, weights, strict=True))
    dz = dy * gamma
    dx = dz - z * (dz * z).mean(-1, keepdims=True)
    if centred:
        dx = dx - dz.mean(-1, keepdims=True)
    return outputs, (dx * r, (dy * z).sum(0), dy.sum(0), d_weights, d_biases)


def swiglu_linear(gate, up, weight, grad):
    """Output and gradients of ``(silu(gate) * up) @ weight.T``."""
    sigma = 1 / (1 + np.exp(-gate))
    s = gate * sigma
    d_hidden = grad @ weight
    d_gate = d_hidden * up * (sigma * (1 + gate * (1 - sigma)))
    return (s * up) @ weight.T, (d_gate, d_hidden * s, grad.T @ (s * up))


def int8_error_bound(x, group=128):
    """Largest error per element: half a step of ``max|x| / 127`` of its group.

    The step itself is rounded to bf16, which makes it at most 1/256 larger.
    """
    x = np.asarray(x, dtype=np.float64)
    bound = np.zeros_like(x)
    for row in np.ndindex(*x.shape[:-1]):
        for start in range(0, x.shape[-1], group):
            part = np.abs(x[row][start : start + group])
            bound[row][start : start + group] = part.max(initial=0.0) / 127 / 2 * (1 + 1 / 256)
    return bound
