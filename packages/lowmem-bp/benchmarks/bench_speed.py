"""Forward and backward of 2-bit activations, and of whole blocks, against stock torch.

    python bench_speed.py [--repeats 15]

Ratios are taken within a round of neighbouring steps, so that the machine's drift hits all; given
are their median and its 95 % interval. On a machine without CUDA nothing is said of CUDA.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowmem_bp import bench
from lowmem_bp import functional as L
from lowmem_bp._kit import RunFolder
from lowmem_bp.backends import resolve

RESULTS = Path(__file__).parent / "results" / "speed"
SHAPE = (64 * 197, 3072)
#: Name, torch's function, ours.
ACTIVATIONS: tuple[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], ...] = (
    ("gelu", F.gelu, L.regelu2),
    ("silu", F.silu, L.resilu2),
)


def step(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    x = x.detach().requires_grad_()
    start = time.perf_counter()
    function(x).backward(grad)
    return time.perf_counter() - start


def elementwise(repeats: int, threads: int) -> list[dict[str, Any]]:
    rows = []
    for name, stock, ours in ACTIVATIONS:
        for dtype in (torch.float32, torch.bfloat16):
            x, grad = torch.randn(SHAPE).to(dtype), torch.randn(SHAPE).to(dtype)
            step(stock, x, grad), step(ours, x, grad)
            pairs = [(step(stock, x, grad), step(ours, x, grad)) for _ in range(repeats)]
            row = {
                "activation": name,
                "dtype": str(dtype).removeprefix("torch."),
                "threads": threads,
                "stock_ms": 1000 * statistics.median(pair[0] for pair in pairs),
                "ratio": asdict(bench.spread([pair[1] / pair[0] for pair in pairs])),
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def blocks(repeats: int, threads: int) -> list[dict[str, Any]]:
    rows = []
    for case in bench.CASES:
        stock, *modes = bench.measure(replace(case, batch=8), bench.MODES, repeats=repeats)
        stock_ms = 1000 * statistics.median(map(sum, stock.seconds))
        for mode in modes:
            row = {
                "block": case.title,
                "mode": mode.competitor,
                "threads": threads,
                "stock_ms": stock_ms,
                "ratio": asdict(mode.time_ratio),
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    # One kind after the other: blocks leave an allocator that large tensors get along with better.
    for name, measure in (("elementwise", elementwise), ("blocks", blocks)):
        found[name] = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found[name] += measure(options.repeats, threads)
    results = {**found, "backend": resolve().__name__, "cuda": "not measured"}
    settings = {
        "repeats": options.repeats,
        "shape": list(SHAPE),
        "batch": 8,
        "length": bench.CASES[0].length,
        "spread": "95 % interval",
    }
    RunFolder(options.out, overwrite=True).write_summary(results, settings=settings, seed=0)


if __name__ == "__main__":
    main()
