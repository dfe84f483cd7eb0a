"""The operations themselves, for models written by hand.

All are differentiable and exact unless they say otherwise; arithmetic inside norms and
approximate derivatives is fp32 (fp64 for fp64 input). Norms, activations, products and dropout
mark their output with a recipe (see :mod:`lowmem_bp.autograd.recipe`): a following
:func:`linear` then keeps what they keep, and not its own input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lowmem_bp.activations import get_activation
from lowmem_bp.autograd.activation import activation as _activation
from lowmem_bp.autograd.dropout import dropout as _dropout
from lowmem_bp.autograd.linear import linear
from lowmem_bp.autograd.norm import check_rows as _check_rows
from lowmem_bp.autograd.norm import norm as _norm
from lowmem_bp.autograd.norm import require_float as _require_float
from lowmem_bp.autograd.product import product as _product
from lowmem_bp.autograd.stepwise import stepwise as _stepwise
from lowmem_bp.backends import resolve
from lowmem_bp.errors import ConfigError, DTypeError, ShapeError
from lowmem_bp.steps import StepTable, preset

__all__ = [
    "act_linear",
    "activation",
    "dropout",
    "linear",
    "ms_layer_norm",
    "ms_rms_norm",
    "multiply",
    "norm_linear",
    "pack_bool",
    "pack_codes",
    "regelu2",
    "resilu2",
    "stepwise",
    "swiglu_linear",
    "unpack_bool",
    "unpack_codes",
]


# --- activations ---------------------------------------------------------------------------------


def stepwise(
    x: Tensor,
    activation: str = "gelu",
    table: StepTable | Literal["paper", "grad"] = "grad",
    *,
    bits: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Apply an activation; keep 1, 2 or 4 bits per element for an approximate derivative.

    The forward pass is exact. In backward ``dx = dy * levels[code(x)]``, multiplied in fp32 and
    rounded once; ``code`` counts the cuts below ``x`` (a tie takes the lower code, NaN code 0).

    Args:
        x: Floating point, any shape and strides; codes follow the logical C order.
        activation: Name, see :data:`lowmem_bp.activations.ACTIVATIONS`.
        table: ``"paper"`` (published constants, 2 bits), ``"grad"`` (best derivative under
            N(0, 2²)), or a table from :func:`lowmem_bp.fit_stepwise`, which brings its own bits.
        bits: 1, 2 or 4, with a preset name; default 2.
        backend: Kernel backend.

    Returns:
        Tensor like ``x``. The second derivative is that of a step function: zero.

    Raises:
        DTypeError: ``x`` is not floating point.
        ConfigError: Unknown activation, preset or combination.

    Example:
        >>> x = torch.tensor([-9.0, 0.5], requires_grad=True)
        >>> stepwise(x, "relu", bits=1).sum().backward()
        >>> x.grad.tolist()
        [0.0, 1.0]

    Reference: arXiv 2406.16282 (2 bits, "paper"); the "grad" fit is ours.
    """
    _require_float(x)
    known = get_activation(activation)
    if isinstance(table, str):
        table = preset(activation, table, 2 if bits is None else bits)
    elif bits not in (None, table.bits):
        raise ConfigError(f"bits={bits} and a table of {table.bits} bits: leave bits out.")
    resolve(backend, x.device)
    return _stepwise(x, known.forward, table, backend=backend)


def regelu2(
    x: Tensor, approximate: Literal["none", "tanh"] = "none", *, backend: str = "auto"
) -> Tensor:
    """GELU with the published 2-bit derivative (ReGELU2).

    Args:
        x: Floating point, any shape.
        approximate: Form of the exact forward, as in :func:`torch.nn.functional.gelu`.
        backend: Kernel backend.

    Returns:
        ``gelu(x)``. Keeps ``ceil(numel / 4)`` bytes.
    """
    if approximate not in ("none", "tanh"):
        raise ConfigError(f"approximate={approximate!r}: expected 'none' or 'tanh'.")
    name = "gelu_tanh" if approximate == "tanh" else "gelu"
    return stepwise(x, name, "paper", backend=backend)


def resilu2(x: Tensor, *, backend: str = "auto") -> Tensor:
    """SiLU with the published 2-bit derivative (ReSiLU2); keeps ``ceil(numel / 4)`` bytes."""
    return stepwise(x, "silu", "paper", backend=backend)


def activation(
    x: Tensor, name: str, *, mode: Literal["exact", "int8"] = "exact", backend: str = "auto"
) -> Tensor:
    """Apply an activation whose output the next :func:`linear` recomputes instead of keeping.

    Args:
        x: Floating point, any shape.
        name: Of the activation.
        mode: ``"int8"`` keeps ``x`` in 8 bits (groups of 128 along the last dimension; a NaN or
            infinity spoils its group). Derivatives of second order take it as a constant.
        backend: Kernel backend.
    """
    return _activate(x, name, mode, backend)


def _activate(x: Tensor, name: str, mode: str, backend: str) -> Tensor:
    _require_float(x)
    int8 = _is_int8(mode)
    return _activation(x, get_activation(name), int8=int8, backend=resolve(backend, x.device))


def multiply(
    a: Tensor, b: Tensor, *, mode: Literal["exact", "int8"] = "exact", backend: str = "auto"
) -> Tensor:
    """Multiply a gate with what it gates; keep their recipes where they have one.

    Tensors of different shapes are multiplied as usual, without any saving.

    Args:
        a: Usually the output of :func:`activation`.
        b: Kept as it is, or in 8 bits with ``mode="int8"``.
        mode: See ``b``.
        backend: Kernel backend.
    """
    return _product(a, b, int8=_is_int8(mode), backend=resolve(backend, a.device))


def dropout(x: Tensor, p: float = 0.5, training: bool = True, *, backend: str = "auto") -> Tensor:
    """Dropout with the values of :func:`torch.nn.functional.dropout`, keeping 1 bit per element.

    Raises:
        ConfigError: ``p`` is not in [0, 1].
    """
    if not 0.0 <= p <= 1.0:
        raise ConfigError(f"p={p!r}: expected a probability between 0 and 1.")
    return _dropout(x, p, training, backend=resolve(backend, x.device))


# --- norms ---------------------------------------------------------------------------------------


def ms_layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    backend: str = "auto",
) -> Tensor:
    """LayerNorm that keeps its normalised output and one number per row, not its input.

    Args:
        x: ``(..., *normalized_shape)``.
        normalized_shape: Trailing dimensions to normalise.
        weight: ``normalized_shape`` or None.
        bias: ``normalized_shape`` or None.
        eps: Added to the variance.
        backend: Kernel backend.

    Returns:
        Tensor like ``x``, equal to :func:`torch.nn.functional.layer_norm` up to rounding.

    Raises:
        ShapeError: ``normalized_shape`` or a parameter does not fit ``x``.
        DTypeError: ``x`` is not floating point.

    Reference: arXiv 2406.16282, MS-LayerNorm; without merging of ``weight`` and ``bias``.
    """
    n_dims = _check_rows(x, normalized_shape, weight, bias)
    if bias is not None and weight is None:
        weight = torch.ones_like(bias)
    return _norm(x, weight, bias, centred=True, n_dims=n_dims, eps=eps, backend=backend)


def ms_rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """RMSNorm that keeps its normalised output and one number per row, not its input.

    Args:
        x: ``(..., *normalized_shape)``.
        normalized_shape: Trailing dimensions to normalise.
        weight: ``normalized_shape`` or None.
        eps: Added to the mean square; None means the epsilon of the dtype the arithmetic is done
            in, as in torch: that of fp32 for fp16 and bf16 input.
        backend: Kernel backend.

    Returns:
        Tensor like ``x``, equal to :func:`torch.nn.functional.rms_norm` up to rounding.
    """
    n_dims = _check_rows(x, normalized_shape, weight)
    return _norm(x, weight, None, centred=False, n_dims=n_dims, eps=eps, backend=backend)


# --- fused forms ---------------------------------------------------------------------------------


def norm_linear(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    linears: Sequence[tuple[Tensor, Tensor | None]],
    *,
    kind: Literal["layer", "rms"] = "layer",
    eps: float = 1e-5,
    backend: str = "auto",
) -> tuple[Tensor, ...]:
    """Normalise the last dimension of ``x``, then apply several linear layers to the result.

    All of them and the norm together keep one tensor of the shape of ``x`` and one number per row.
    Exact; ``weight`` and ``bias`` of the norm are not merged and may be trained.

    Args:
        x: ``(..., features)``.
        weight: ``(features,)`` or None, of the norm.
        bias: ``(features,)`` or None, of the norm; only for ``kind="layer"``.
        linears: Pairs ``(weight (out, features), bias (out,) or None)``.
        kind: ``"layer"`` or ``"rms"``.
        eps: Of the norm.
        backend: Kernel backend.

    Returns:
        One tensor ``(..., out)`` per pair.
    """
    if kind == "layer":
        y = ms_layer_norm(x, x.shape[-1:], weight, bias, eps, backend=backend)
    elif kind == "rms" and bias is None:
        y = ms_rms_norm(x, x.shape[-1:], weight, eps, backend=backend)
    else:
        raise ConfigError(
            f"kind={kind!r} with bias {'given' if bias is not None else 'None'}: expected 'layer', "
            "or 'rms' without a bias."
        )
    return tuple(linear(y, w, b) for w, b in linears)


def act_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "gelu",
    *,
    mode: Literal["exact", "int8"] = "exact",
    backend: str = "auto",
) -> Tensor:
    """``linear(act(x))`` that keeps ``x`` alone (``"int8"``: in 8 bits).

    Args:
        x: ``(..., features)``.
        weight: ``(out, features)``.
        bias: ``(out,)`` or None.
        activation: Name of the activation.
        mode: ``"exact"`` or ``"int8"``.
        backend: Kernel backend.

    Returns:
        ``(..., out)``.
    """
    return linear(_activate(x, activation, mode, backend), weight, bias)


def swiglu_linear(
    gate: Tensor,
    up: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mode: Literal["exact", "int8"] = "exact",
    activation: str = "silu",
    backend: str = "auto",
) -> Tensor:
    """``linear(silu(gate) * up)`` that keeps ``gate`` and ``up`` alone (``"int8"``: in 8 bits).

    With ``"int8"`` 1 byte and 1/64 byte of scale are kept per element of each.

    Args:
        gate: ``(..., features)``.
        up: Same shape.
        weight: ``(out, features)``.
        bias: ``(out,)`` or None.
        mode: ``"exact"`` or ``"int8"`` (gradient error about 1e-2).
        activation: Name of the gate's activation.
        backend: Kernel backend.

    Returns:
        ``(..., out)``.
    """
    if gate.shape != up.shape:
        raise ShapeError(
            f"gate has shape {tuple(gate.shape)} and up {tuple(up.shape)}; expected the same."
        )
    hidden = _activate(gate, activation, mode, backend)
    return linear(multiply(hidden, up, mode=mode, backend=backend), weight, bias)


# --- packing -------------------------------------------------------------------------------------


def pack_codes(codes: Tensor, bits: int = 2, *, backend: str = "auto") -> Tensor:
    """Pack small codes, ``8 // bits`` per byte, lowest bits first.

    Args:
        codes: uint8, any shape (C order), values below ``2 ** bits``; higher bits are an error
            that is not checked for.
        bits: 1, 2 or 4.
        backend: Kernel backend.

    Returns:
        uint8 of shape ``(ceil(codes.numel() * bits / 8),)``; unused bits of the last byte are 0.

    Raises:
        DTypeError: ``codes`` is not uint8.
        ConfigError: ``bits`` is not 1, 2 or 4.

    Example:
        >>> pack_codes(torch.tensor([1, 2, 3], dtype=torch.uint8)).tolist()
        [57]

    Reference: arXiv 2406.16282, layout of the reference kernels.
    """
    _check_bits(bits)
    if codes.dtype != torch.uint8:
        raise DTypeError(f"codes has dtype {codes.dtype}; expected torch.uint8.")
    return resolve(backend, codes.device).pack(codes, bits)


def unpack_codes(packed: Tensor, numel: int, bits: int = 2, *, backend: str = "auto") -> Tensor:
    """Invert :func:`pack_codes`.

    Args:
        packed: uint8 ``(ceil(numel * bits / 8),)``.
        numel: Number of codes.
        bits: 1, 2 or 4.
        backend: Kernel backend.

    Returns:
        uint8 ``(numel,)``.

    Raises:
        ShapeError: ``packed`` does not hold ``numel`` codes.
    """
    _check_bits(bits)
    if packed.dtype != torch.uint8:
        raise DTypeError(f"packed has dtype {packed.dtype}; expected torch.uint8.")
    expected = (numel * bits + 7) // 8
    if packed.dim() != 1 or numel < 0 or packed.numel() != expected:
        raise ShapeError(
            f"packed has shape {tuple(packed.shape)}; {numel} codes of {bits} bits need "
            f"({expected},)."
        )
    return resolve(backend, packed.device).unpack(packed, numel, bits)


def pack_bool(mask: Tensor, *, backend: str = "auto") -> Tensor:
    """Pack booleans, eight per byte: see :func:`pack_codes`."""
    if mask.dtype != torch.bool:
        raise DTypeError(f"mask has dtype {mask.dtype}; expected torch.bool.")
    return resolve(backend, mask.device).pack(mask.to(torch.uint8), 1)


def unpack_bool(packed: Tensor, numel: int, *, backend: str = "auto") -> Tensor:
    """Invert :func:`pack_bool`; bool ``(numel,)``."""
    return unpack_codes(packed, numel, 1, backend=backend).bool()


# --- argument checks -----------------------------------------------------------------------------


def _check_bits(bits: int) -> None:
    if not isinstance(bits, int) or bits not in (1, 2, 4):
        raise ConfigError(f"bits={bits!r}: expected 1, 2 or 4 (3 bits do not fill bytes).")


def _is_int8(mode: str) -> bool:
    if mode not in ("exact", "int8"):
        raise ConfigError(f"mode={mode!r}: expected 'exact' or 'int8'.")
    return mode == "int8"
