"""Does a changed module, or a changed model, still compute what it did?"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lowmem_bp.lean import Lean, become
from lowmem_bp.memory import tensors_in

# Relative to the norm of the original output: bf16 has 8 bits of precision, fp16 11.
_TOLERANCE = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}


_SCALES = (1e-5, 1e-3, 1e3, 1e5)


def tolerance(dtype: torch.dtype) -> float:
    """Largest accepted difference between two results of ``dtype``, relative to their norm."""
    return _TOLERANCE.get(dtype, 1e-5)


def relative_error(result: Tensor, reference: Tensor) -> float:
    """``|result - reference| / |reference|``; not-a-number in the same places is equal."""
    if result.shape != reference.shape or result.dtype != reference.dtype:
        return float("inf")
    if not result.dtype.is_floating_point:
        return 0.0 if torch.equal(result, reference) else float("inf")
    a, b = result.detach().double(), reference.detach().double()
    unusual = ~torch.isfinite(b)
    if unusual.any():
        if not torch.equal(torch.nan_to_num(a[unusual]), torch.nan_to_num(b[unusual])):
            return float("inf")
        a, b = a[~unusual], b[~unusual]
    difference, size = (a - b).norm().item(), b.norm().item()
    if difference == 0.0:
        return 0.0
    return difference / size if size > 0 and math.isfinite(difference) else float("inf")


def worst_difference(outputs: Any, references: Any) -> tuple[float, float]:
    """Return the largest relative error over all tensors and the tolerance it is held to."""
    mine, theirs = tensors_in(outputs), tensors_in(references)
    if len(mine) != len(theirs):
        return float("inf"), 0.0
    worst, limit = 0.0, 1e-5
    for a, b in zip(mine, theirs, strict=True):
        error = relative_error(a, b)
        if error / tolerance(b.dtype) > worst / limit:
            worst, limit = error, tolerance(b.dtype)
    return worst, limit


def same_forward(
    module: nn.Module,
    mixin: type[Lean],
    settings: Any,
    kind: str,
    *,
    random_weight: bool = False,
    input_dtype: torch.dtype | None = None,
) -> str | None:
    """Compare a module with its lean form on synthetic input, in training and in evaluation.

    Args:
        module: Left unchanged.
        mixin: See :func:`lowmem_bp.lean.become`.
        settings: See there.
        kind: ``norm``, ``activation`` or ``gated mlp`` are compared; a lean linear layer, dropout
            or LoRA layer runs torch's own kernels and is not.
        random_weight: Compare with a random weight: freshly made norms all have weight 1 or 0,
            which hides how the weight is used.
        input_dtype: Of the synthetic input; default that of the weights.

    Returns:
        None when the outputs agree, else what is wrong, in words.
    """
    if kind not in ("norm", "activation", "gated mlp"):
        return None
    parameters = [*module.parameters(), *module.buffers()]
    if any(p.is_meta or type(p.data) is not Tensor for p in parameters):
        return None
    dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
    device = parameters[0].device if parameters else torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    original = _copy(module)
    if random_weight:
        with torch.no_grad():
            for p in original.parameters(recurse=False):  # the children's are not copies
                p.copy_(torch.rand(p.shape, generator=generator) + 0.5)
    shape = (2, 3, *_input_shape(module, kind))
    x = (2 * torch.randn(shape, generator=generator)).to(device, input_dtype or dtype)
    # Epsilons and limits show only where rows are small or large, each row judged by itself.
    inputs = [x, *(x * scale for scale in _SCALES if x.dtype != torch.float16), x * 0]
    inputs = inputs if kind == "norm" else [x]
    lean = _copy(original)
    become(lean, mixin, settings)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        difference = 0.0
        for training in (True, False):  # one of the two may hide a dropout
            for x in inputs:
                try:
                    _seed(device)
                    expected = original.train(training)(x)
                    _seed(device)
                    result = lean.train(training)(x)
                except Exception as error:
                    reason = f"{type(error).__name__}: {error}"
                    return f"it cannot be checked on synthetic input: {reason}"
                difference = max(difference, relative_error(result, expected))
    if difference <= tolerance(dtype):
        return None
    return f"the lean form differs from it by {difference:.1e} relative to the output's norm"


def _seed(device: torch.device) -> None:
    """Begin the random numbers of the processor and of ``device`` anew.

    Not by ``torch.manual_seed``: for each kind of GPU that is not in use it writes down the stack,
    and a model with hundreds of norms, each tried some forty times, waits for that.
    """
    torch.default_generator.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(0)
    elif device.type != "cpu":
        torch.manual_seed(0)


def _copy(module: nn.Module) -> nn.Module:
    """Copy a module without its hooks. Its own weights are copied, those of its parts shared."""
    twin = _without_hooks(module)
    twin._parameters = {
        name: None if p is None else nn.Parameter(p.detach().clone(), p.requires_grad)
        for name, p in module._parameters.items()
    }
    return twin


def _without_hooks(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = {
        name: None if child is None else _without_hooks(child)
        for name, child in module._modules.items()
    }
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
        setattr(twin, hooks, type(getattr(module, hooks))())
    return twin


def _input_shape(module: nn.Module, kind: str) -> tuple[int, ...]:
    if kind == "norm":
        shape = getattr(module, "normalized_shape", None)
        return tuple(shape) if shape is not None else tuple(module.weight.shape)  # type: ignore[arg-type]
    if kind == "gated mlp":
        gate: Any = module.gate_proj
        return (next(m.in_features for m in gate.modules() if hasattr(m, "in_features")),)
    return (16,)
