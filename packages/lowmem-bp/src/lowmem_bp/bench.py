"""What ``lowmem-bp bench`` measures: bytes held and seconds per step of one transformer block.

The blocks are those of the paper's accounting: ViT (LayerNorm, GELU) and LLaMA style (RMSNorm,
SwiGLU), trained whole or through plain additive LoRA adapters of rank 4.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmem_bp._kit import RunFolder
from lowmem_bp.conversion import Mode, convert
from lowmem_bp.errors import ConfigError
from lowmem_bp.memory import MemoryReport, profile

Tuning = Literal["full", "lora qv", "lora all", "frozen"]
Precision = Literal["fp32", "bf16", "amp"]

#: Modes beside "stock", in the order of tables.
MODES: tuple[Mode, ...] = ("paper", "exact", "int8", "2bit")


class LoRALinear(nn.Module):
    """``base(x) + B(A(x))`` with a frozen base: a plain additive adapter."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        options: dict[str, Any] = {"bias": False, "dtype": base.weight.dtype}
        self.A = nn.Linear(base.in_features, rank, **options)
        self.B = nn.Linear(rank, base.out_features, **options)
        nn.init.normal_(self.B.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Apply base and adapter."""
        result: Tensor = self.base(x) + self.B(self.A(x))
        return result


class HFRMSNorm(nn.Module):
    """RMSNorm as Hugging Face's Llama writes it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.variance_epsilon = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Self-attention with separate projections and torch's fused kernel."""

    def __init__(self, features: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(features, features, bias=bias)
        self.k = nn.Linear(features, features, bias=bias)
        self.v = nn.Linear(features, features, bias=bias)
        self.o = nn.Linear(features, features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the second to last dimension."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3) for f in self.qkv())
        y = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.o(y.transpose(-2, -3).flatten(-2))
        return result

    def qkv(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return the three input projections."""
        return self.q, self.k, self.v


class GELUMLP(nn.Module):
    """``fc2(gelu(fc1(x)))``."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP."""
        result: Tensor = self.fc2(self.act(self.fc1(x)))
        return result


class SwiGLUMLP(nn.Module):
    """``down_proj(silu(gate_proj(x)) * up_proj(x))``, as Hugging Face's Llama writes it."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(features, hidden, bias=False)
        self.up_proj = nn.Linear(features, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, features, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP."""
        result: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return result


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, norms: tuple[nn.Module, nn.Module], attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attn, self.mlp = attn, mlp

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention and MLP, each with a residual connection."""
        x = x + self.attn(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class Inside(nn.Module):
    """A block inside a network: its input is an activation, not something the caller holds."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a copy of ``x``."""
        result: Tensor = self.block(x.clone())
        return result


@dataclass(frozen=True)
class Case:
    """One row of the table: a block, how it is tuned and in which precision.

    Attributes:
        block: ``"vit"``, ``"llama"`` (``nn.RMSNorm``) or ``"llama-hf"`` (Hugging Face's RMSNorm).
        tuning: Which weights are trained.
        precision: ``"fp32"``, ``"bf16"`` (weights and activations) or ``"amp"`` (fp32 weights under
            bf16 autocast).
        features: Width.
        hidden: Width inside the MLP.
        heads: Attention heads.
        batch: Sequences.
        length: Tokens per sequence.
    """

    block: str
    tuning: Tuning
    precision: Precision
    features: int = 768
    hidden: int = 0
    heads: int = 12
    batch: int = 4
    length: int = 197

    @property
    def title(self) -> str:
        """Name of the row."""
        return f"{self.block} {self.precision} {self.tuning}"

    def build(self) -> nn.Module:
        """Return the block with random weights from a fixed seed."""
        if self.block not in ("vit", "llama", "llama-hf"):
            raise ConfigError(f"block={self.block!r}: expected 'vit', 'llama' or 'llama-hf'.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Inside(self._build())
        return model.bfloat16() if self.precision == "bf16" else model

    def _build(self) -> nn.Module:
        c, vit = self.features, self.block == "vit"
        norm: Any = nn.LayerNorm if vit else nn.RMSNorm if self.block == "llama" else HFRMSNorm
        mlp: nn.Module = (
            GELUMLP(c, self.hidden or 4 * c)
            if vit
            else SwiGLUMLP(c, self.hidden or 2048 * c // 768)
        )
        block = Block((norm(c), norm(c)), Attention(c, self.heads, bias=vit), mlp)
        if self.tuning != "full":
            block.requires_grad_(False)
        names = {"lora qv": ("q", "v"), "lora all": ("q", "k", "v", "o")}.get(self.tuning, ())
        for name in names:
            setattr(block.attn, name, LoRALinear(getattr(block.attn, name), rank=4))
        if self.tuning == "lora all":
            for name, child in list(block.mlp.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(block.mlp, name, LoRALinear(child, rank=4))
        return block

    def input(self) -> Tensor:
        """Return the block's input; it needs a gradient, as inside a network."""
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.batch, self.length, self.features, generator=generator)
        return x.to(torch.bfloat16 if self.precision == "bf16" else torch.float32).requires_grad_()

    def autocast(self) -> torch.autocast:
        """Return the precision's autocast context."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "amp")


#: The rows of the published accounting, with the variants this package is held to.
CASES: tuple[Case, ...] = (
    Case("vit", "full", "fp32"),
    Case("vit", "full", "amp"),
    Case("vit", "lora qv", "bf16"),
    Case("llama", "full", "bf16"),
    Case("llama-hf", "full", "bf16"),
    Case("llama", "lora qv", "bf16"),
    Case("llama", "lora all", "bf16"),
)


@dataclass(frozen=True)
class Measurement:
    """One block in one mode.

    Attributes:
        case: Title of the block.
        mode: ``"stock"`` or a mode of ``convert``.
        bytes_per_token: Held by autograd, weight copies left out.
        ratio: The same relative to stock.
        gradient_error: Relative error of all gradients together, against stock.
        seconds: Forward and backward of each repetition; empty when not timed.
        kinds: Bytes per token by kind of module.
    """

    case: str
    mode: str
    bytes_per_token: float
    ratio: float
    gradient_error: float
    seconds: tuple[float, ...]
    kinds: dict[str, float]


def models(case: Case, modes: tuple[Mode, ...] = MODES) -> dict[str, nn.Module]:
    """Return the block stock and converted in each mode, with equal weights."""
    found = {"stock": case.build()}
    for mode in modes:
        found[mode] = copy.deepcopy(found["stock"])
        convert(found[mode], mode)
    return found


def held(case: Case, model: nn.Module, label: str) -> MemoryReport:
    """Return what autograd holds after the forward pass of a block."""
    with case.autocast():
        return profile(model, case.input(), label=label)


def measure(case: Case, modes: tuple[Mode, ...] = MODES, repeats: int = 0) -> list[Measurement]:
    """Measure one block stock and in each mode, in this process, one after the other.

    Args:
        case: The block.
        modes: Modes of ``convert``.
        repeats: Timed steps of each mode, taken in turn (stock, mode, mode, ..., stock, ...) so
            that the machine's drift hits all alike; 0 measures bytes and gradients only.

    Returns:
        One measurement per mode, stock first.
    """
    x = case.input()
    blocks = models(case, modes)
    reports = {name: held(case, model, name) for name, model in blocks.items()}
    gradients = {name: _gradient(case, model, x) for name, model in blocks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(repeats):
        for name, model in blocks.items():
            start = time.perf_counter()
            _gradient(case, model, x)
            seconds[name].append(time.perf_counter() - start)
    base, reference = reports["stock"].bytes_per_token, gradients["stock"]
    return [
        Measurement(
            case.title,
            name,
            report.bytes_per_token,
            report.bytes_per_token / base,
            ((gradients[name] - reference).norm() / reference.norm()).item(),
            tuple(seconds[name]),
            {kind: n / report.tokens for kind, n in report.by_kind().items()},
        )
        for name, report in reports.items()
    ]


def _gradient(case: Case, model: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with case.autocast():
        y = model(x)
    # A fixed direction: the gradient of a sum would be blind to errors that average out.
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(y, [x, *parameters], direction)
    return torch.cat([grad.flatten().float() for grad in grads])


def table(measurements: list[Measurement]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a printed table, the head first."""
    timed = any(m.seconds for m in measurements)
    head = ("block", "mode", "bytes/token", "ratio", "gradient error")
    yield (*head, "seconds", "time ratio") if timed else head
    stock: dict[str, float] = {}
    for m in measurements:
        row: tuple[str, ...] = (
            m.case,
            m.mode,
            f"{m.bytes_per_token:,.0f}",
            f"{m.ratio:.3f}",
            f"{m.gradient_error:.1e}",
        )
        if timed:
            median = statistics.median(m.seconds)
            stock.setdefault(m.case, median)
            row += (f"{median:.3f}", f"{median / stock[m.case]:.2f}")
        yield row


def write(out: str | Path, measurements: list[Measurement], settings: dict[str, Any]) -> Path:
    """Write ``summary.json`` with every figure, the machine and the versions.

    Args:
        out: New or empty folder.
        measurements: From :func:`measure`.
        settings: Sizes of the blocks.

    Returns:
        The path written.
    """
    rows = [asdict(m) for m in measurements]
    return RunFolder(out).write_summary({"measurements": rows}, settings=settings, seed=0)
