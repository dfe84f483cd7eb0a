"""Who takes part: stock torch, the modes of this package, and others that save activation memory.

A competitor changes the blocks of a model in place. Where it cannot
run, it raises: :class:`Unavailable` where the reason is known beforehand.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowmem_bp.backends import resolve
from lowmem_bp.bench.blocks import GELUMLP, Block, Case, Inside, SwiGLUMLP
from lowmem_bp.conversion import Mode, convert

Prepare = Callable[[Inside, Case, str], None]

#: Modes of this package, in the order of tables.
MODES: tuple[Mode, ...] = ("paper", "exact", "int8", "2bit")
#: Share of the activations that the compiler may keep where it has a budget.
BUDGET = 0.5
#: Bits per element that fewbit keeps of an activation, as the modes "paper" and "2bit" do.
FEWBIT_BITS = 2


class Unavailable(Exception):
    """Why a competitor takes no part, or a figure is not measured, on this machine."""


def _stock(model: Inside, case: Case, backend: str) -> None:
    """Plain torch."""


def _mode(mode: Mode) -> Prepare:
    def prepare(model: Inside, case: Case, backend: str) -> None:
        convert(model, mode, backend=backend)

    return prepare


def _exact_in_torch(model: Inside, case: Case, backend: str) -> None:
    if resolve(backend, torch.device(case.device)) is resolve("torch"):
        raise Unavailable("it is the row exact: no kernels of a backend are in use")
    convert(model, "exact", backend="torch")


class _Checkpointed(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = checkpoint(self.block, x, use_reentrant=False)
        return result


def _checkpoint(model: Inside, case: Case, backend: str) -> None:
    model.replace(_Checkpointed)


def _compiled(budget: float) -> Prepare:
    def prepare(model: Inside, case: Case, backend: str) -> None:
        functorch: Any = importlib.import_module("torch._functorch.config")
        from torch._inductor.compile_fx import compile_fx

        # A backend of its own, for two reasons: what one competitor compiled is never taken for
        # the other, which runs the same code; and the budget is in force for this one alone.
        def inductor(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
            with functorch.patch(activation_memory_budget=budget):
                return compile_fx(graph, inputs)

        def change(block: nn.Module) -> nn.Module:
            compiled: Any = torch.compile(block, backend=inductor, dynamic=False)
            assert isinstance(compiled, nn.Module)
            return compiled

        model.replace(change)

    return prepare


def is_compiled(name: str) -> bool:
    """Whether a competitor runs as one compiled function, without its modules."""
    return name.startswith("compile")


class _LigerNorm(nn.Module):
    def __init__(self, norm: nn.Module, functional: Any) -> None:
        super().__init__()
        self.norm, self.functional = norm, functional

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self.norm
        if isinstance(norm, nn.LayerNorm):
            layer_norm: Tensor = self.functional.liger_layer_norm(
                x, norm.weight, norm.bias, norm.eps
            )
            return layer_norm
        eps = norm.eps if isinstance(norm, nn.RMSNorm) else norm.variance_epsilon
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        # nn.RMSNorm multiplies with its weight in fp32 ("gemma"), Hugging Face's after rounding.
        how = "gemma" if isinstance(norm, nn.RMSNorm) else "llama"
        rms_norm: Tensor = self.functional.liger_rms_norm(x, norm.weight, eps, casting_mode=how)
        return rms_norm


class _LigerSwiGLU(nn.Module):
    def __init__(self, mlp: SwiGLUMLP, functional: Any) -> None:
        super().__init__()
        self.mlp, self.functional = mlp, functional

    def forward(self, x: Tensor) -> Tensor:
        product = self.functional.liger_swiglu(self.mlp.gate_proj(x), self.mlp.up_proj(x))
        result: Tensor = self.mlp.down_proj(product)
        return result


def _liger(model: Inside, case: Case, backend: str) -> None:
    functional = _imported("liger_kernel.transformers.functional")
    if torch.device(case.device).type != "cuda":
        raise Unavailable(f"Liger-Kernel has no kernels for {case.device!r}, only for GPUs")

    def change(block: Block) -> nn.Module:
        block.norm1, block.norm2 = (_LigerNorm(n, functional) for n in (block.norm1, block.norm2))
        if isinstance(block.mlp, SwiGLUMLP):
            block.mlp = _LigerSwiGLU(block.mlp, functional)
        return block

    model.replace(change)


def _fewbit(model: Inside, case: Case, backend: str) -> None:
    fewbit = _imported("fewbit")
    for block in model.blocks:
        mlp: Any = block.mlp
        if isinstance(mlp, GELUMLP):
            mlp.act = fewbit.GELU(bits=FEWBIT_BITS).to(case.device)
        else:
            mlp.act_fn = fewbit.SiLU(bits=FEWBIT_BITS).to(case.device)


def _imported(name: str) -> Any:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise Unavailable(f"{package} is not installed") from error
        raise


#: All of them by name, in the order of tables.
COMPETITORS: dict[str, Prepare] = {
    "stock": _stock,
    **{mode: _mode(mode) for mode in MODES},
    "exact-torch": _exact_in_torch,
    "checkpoint": _checkpoint,
    "compile": _compiled(1.0),
    "compile-budget": _compiled(BUDGET),
    "liger": _liger,
    "fewbit": _fewbit,
}
#: Those of a comparison unless others are asked for.
DEFAULT = tuple(name for name in COMPETITORS if name != "exact-torch")


def reason(error: BaseException) -> str:
    """Say in one line why a competitor takes no part."""
    if isinstance(error, Unavailable):
        return str(error)
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}"[:200]
