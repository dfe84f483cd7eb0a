"""What is claimed for GPUs: time of whole blocks, memory of a training step, speed of the kernels.

    python bench_gpu.py

Needs CUDA (or ROCm); without it nothing is measured and nothing is written. All in bf16: a ViT-B
block at batch 64 and a LLaMA-7B-shaped block at 4 x 2048 tokens against stock; the allocator's peak
of training twelve ViT-B blocks at batch 64 with AdamW; and the share of the bandwidth of a copy
that each elementwise kernel reaches.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowmem_bp import bench
from lowmem_bp._kit import RunFolder
from lowmem_bp.backends import Backend, resolve, triton
from lowmem_bp.bench.competitors import reason
from lowmem_bp.bench.step import Stepper
from lowmem_bp.steps import preset

RESULTS = Path(__file__).parent / "results" / "gpu"
SHAPE = (64 * 197, 3072)
VIT = bench.Case("vit", "full", "bf16", batch=64)
LLAMA = bench.Case("llama-hf", "full", "bf16", 4096, 11008, 32, batch=4, length=2048)
NETWORK = replace(VIT, layers=12)
#: Trainings whose peak is measured: full tuning under autocast, and the published LoRA on q and v.
TRAININGS = (
    replace(NETWORK, precision="amp"),
    replace(NETWORK, precision="amp", tuning="lora qv"),
    replace(NETWORK, tuning="lora qv"),
)

Kernel = tuple[Callable[[], Any], tuple[Tensor, ...]]


def blocks(device: str, repeats: int) -> list[dict[str, Any]]:
    """Time, memory and gradients of single blocks, every competitor."""
    rows = []
    for case in (VIT, replace(VIT, tuning="lora qv"), LLAMA, replace(LLAMA, tuning="lora qv")):
        rows += bench.measure(replace(case, device=device), repeats=repeats)
        print(f"measured {case.title}", flush=True)
    return [asdict(row) for row in rows]


def training(case: bench.Case, name: str) -> dict[str, Any]:
    """Largest memory of a step of AdamW, and what of it is there between steps."""
    model = case.build()
    bench.COMPETITORS[name](model, case, "auto")
    held = bench.held(case, model, name).activation_bytes
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, stepper = torch.optim.AdamW(parameters), Stepper(case)

    def step() -> None:
        _input, *gradients = stepper(model).gradients
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    static = torch.cuda.memory_allocated(case.device)
    torch.cuda.reset_peak_memory_stats(case.device)
    step()
    return {
        "case": case.title,
        "competitor": name,
        "layers": case.layers,
        "batch": case.batch,
        "optimizer": "AdamW",
        "activation_bytes": held,
        "static_bytes": static,
        "peak_bytes": torch.cuda.max_memory_allocated(case.device),
    }


def trainings(device: str) -> list[dict[str, Any]]:
    rows = []
    for case in TRAININGS:
        for name in ("stock", *bench.MODES):
            torch.cuda.empty_cache()
            rows.append(training(replace(case, device=device), name))
            print(rows[-1], flush=True)
    return rows


def kernels(backend: type[Backend], shape: tuple[int, int], device: str) -> dict[str, Kernel]:
    """Every elementwise kernel with the tensors it reads; "copy" is what they are held against."""
    x, y, grad = (torch.randn(shape, device=device).bfloat16() for _ in range(3))
    table = preset("gelu", "paper", 2)
    cuts, levels = list(table.cuts), list(table.levels)
    codes = backend.pack_steps(x, cuts, 2)
    q, scale = backend.quantize_int8(x)
    norm = {"centred": True, "n_dims": 1, "dtype": torch.bfloat16}
    z, r = backend.normalize(x, eps=1e-6, **norm)
    weight = torch.ones(shape[1], device=device)
    wanted = (True, True, True)
    return {
        "copy": (lambda: y.clone(), (y,)),
        "activation and codes": (lambda: backend.activate_and_pack(x, F.gelu, cuts, 2), (x,)),
        "derivative from codes": (
            lambda: backend.step_multiply(codes, grad, levels, 2),
            (codes, grad),
        ),
        "gated": (lambda: backend.gated(x, y, F.silu), (x, y)),
        "gated, backward": (lambda: backend.gated_backward(grad, x, y, F.silu), (grad, x, y)),
        "to int8": (lambda: backend.quantize_int8(x), (x,)),
        "from int8": (
            lambda: backend.dequantize_int8(q, scale, dtype=torch.bfloat16),
            (q, scale),
        ),
        "normalise": (lambda: backend.normalize(x, eps=1e-6, **norm), (x,)),
        "normalise, backward": (
            lambda: backend.norm_backward(z, r, grad, weight, offset=0.0, needs=wanted, **norm),
            (z, r, grad, weight),
        ),
    }


def moved(kernel: Kernel) -> int:
    """Bytes that a kernel reads and writes once."""
    work, inputs = kernel
    result = work()
    outputs = (result,) if isinstance(result, Tensor) else result
    return sum(tensor.nbytes for tensor in (*inputs, *outputs))


def device_seconds(work: Callable[[], Any], repeats: int, calls: int = 20) -> list[float]:
    """Seconds of one call on the device alone: replayed as a graph, without Python between."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles and tunes
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    found = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / 1000 / calls)
    return found


def bandwidth(device: str, repeats: int) -> list[dict[str, Any]]:
    """Bytes per second of every kernel; one that does not run is a row with its reason."""
    backend = resolve("auto", torch.device(device))
    rows: list[dict[str, Any]] = []
    copy_rate = None
    for name, kernel in kernels(backend, SHAPE, device).items():
        triton.take_failures()
        try:
            size, seconds = moved(kernel), device_seconds(kernel[0], repeats)
        except Exception as error:
            rows.append({"kernel": name, "not_run": reason(error)})
            continue
        if failed := triton.take_failures():  # what was timed is plain torch
            rows.append({"kernel": name, "not_run": "; ".join(failed.values())})
            continue
        rate = size / statistics.median(seconds)
        copy_rate = copy_rate or rate
        rows.append(
            {
                "kernel": name,
                "bytes": size,
                "seconds": asdict(bench.spread(seconds)),
                "bytes_per_second": rate,
                "share_of_copy": rate / copy_rate,
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: no CUDA device")
        return
    results = {
        "backend": resolve("auto", torch.device(options.device)).__name__,
        "blocks": blocks(options.device, options.repeats),
        "trainings": trainings(options.device),
        "failed_kernels": triton.take_failures(),  # whose work plain torch did in these two
        "kernels": bandwidth(options.device, options.repeats),
    }
    settings = {"repeats": options.repeats, "shape": list(SHAPE)}
    settings |= {"vit": asdict(VIT), "llama": asdict(LLAMA), "network": asdict(NETWORK)}
    folder = RunFolder(options.out, overwrite=True)
    folder.write_summary(results, settings=settings, seed=0, device=options.device)


if __name__ == "__main__":
    main()
