"""The transformer blocks that are measured, how each is tuned, and in which precision.

ViT (pre-norm, LayerNorm, GELU), BERT (the same, post-norm) and LLaMA style (RMSNorm, SwiGLU),
trained whole or through plain additive LoRA adapters of rank 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmem_bp._kit import seeded
from lowmem_bp.errors import ConfigError

Tuning = Literal["full", "lora qv", "lora all"]
Precision = Literal["fp32", "bf16", "amp"]

BLOCKS = ("vit", "bert", "llama", "llama-hf")
TUNINGS: tuple[Tuning, ...] = ("full", "lora qv", "lora all")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "amp")


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

    def __init__(self, features: int, heads: int, bias: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q = nn.Linear(features, features, bias=bias)
        self.k = nn.Linear(features, features, bias=bias)
        self.v = nn.Linear(features, features, bias=bias)
        self.o = nn.Linear(features, features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the second to last dimension."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3) for f in self.qkv())
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
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


class PostNormBlock(Block):
    """Post-norm transformer block, as in BERT."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention and MLP, each with a residual connection and a norm behind it."""
        x = self.norm1(x + self.attn(x))
        result: Tensor = self.norm2(x + self.mlp(x))
        return result


class Inside(nn.Module):
    """Blocks inside a network: their input is an activation, not something the caller holds."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks, one after the other, to a copy of ``x``."""
        x = x.clone()
        for block in self.blocks:
            x = block(x)
        return x

    def replace(self, change: Callable[[Any], nn.Module]) -> None:
        """Put ``change(block)`` in the place of every block."""
        self.blocks = nn.ModuleList([change(block) for block in self.blocks])


@dataclass(frozen=True)
class Case:
    """A block, how it is tuned, in which precision, how large and where.

    Attributes:
        block: ``"vit"``, ``"bert"``, ``"llama"`` (``nn.RMSNorm``) or ``"llama-hf"`` (Hugging
            Face's RMSNorm).
        tuning: Which weights are trained.
        precision: ``"fp32"``, ``"bf16"`` (weights and activations) or ``"amp"`` (fp32 weights under
            bf16 autocast).
        features: Width.
        hidden: Width inside the MLP; 0 for four times ``features`` (ViT, BERT) or 8/3 (LLaMA).
        heads: Attention heads; a divisor of ``features``.
        batch: Sequences.
        length: Tokens per sequence.
        layers: Blocks, one behind the other.
        device: Of torch.

    Raises:
        ConfigError: A value that none of these blocks can have.
    """

    block: str
    tuning: Tuning
    precision: Precision
    features: int = 768
    hidden: int = 0
    heads: int = 12
    batch: int = 4
    length: int = 197
    layers: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for name, known in (("block", BLOCKS), ("tuning", TUNINGS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(known)}."
                )
        if self.heads < 1 or self.features % self.heads:
            raise ConfigError(
                f"features={self.features} is not a multiple of heads={self.heads}: give a number "
                "of heads that divides the width."
            )

    @property
    def tokens(self) -> int:
        """Rows that the block's linear layers see."""
        return self.batch * self.length

    @property
    def title(self) -> str:
        """Name of the row."""
        return f"{self.block} {self.precision} {self.tuning}"

    def build(self) -> Inside:
        """Return the blocks with random weights from a fixed seed."""
        with seeded(0):
            model = Inside([self._build() for _ in range(self.layers)])
        return model.to(self.device, torch.bfloat16 if self.precision == "bf16" else None)

    def _build(self) -> nn.Module:
        c, llama = self.features, self.block.startswith("llama")
        norm: Any = {"llama": nn.RMSNorm, "llama-hf": HFRMSNorm}.get(self.block, nn.LayerNorm)
        mlp: nn.Module = (
            SwiGLUMLP(c, self.hidden or 2048 * c // 768)
            if llama
            else GELUMLP(c, self.hidden or 4 * c)
        )
        kind = PostNormBlock if self.block == "bert" else Block
        attention = Attention(c, self.heads, bias=not llama, causal=llama)
        block = kind((norm(c), norm(c)), attention, mlp)
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
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return x.to(self.device, dtype).requires_grad_()

    def autocast(self) -> torch.autocast:
        """Return the precision's autocast context."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.precision == "amp")


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
