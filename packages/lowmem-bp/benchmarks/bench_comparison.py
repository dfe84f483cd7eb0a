"""The comparison of ``lowmem-bp bench`` for ViT, BERT and LLaMA style, full tuning and LoRA.

    python bench_comparison.py [--precisions fp32 bf16]
    python bench_comparison.py --layers 12 --precisions bf16 --repeats 3 --out results/network \
        --only paper exact int8 2bit checkpoint compile-budget

Stock torch, the modes of this package, checkpointing, the compiler with and without a budget,
Liger-Kernel and fewbit; one picture for each precision and way of tuning. The second form is of
whole networks, whose peak is what a user runs into.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lowmem_bp import bench
from lowmem_bp.bench.blocks import PRECISIONS
from lowmem_bp.bench.picture import caption, write_picture

RESULTS = Path(__file__).parent / "results" / "comparison"
BLOCKS = ("vit", "bert", "llama-hf")
TUNINGS = ("full", "lora qv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--only", nargs="+", choices=bench.COMPETITORS, default=bench.DEFAULT)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=197)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = ("features", "heads", "batch", "length", "layers", "device")
    size = {name: getattr(options, name) for name in names}
    rows: dict[tuple[str, str], list[bench.Measurement]] = {}
    for precision in options.precisions:
        for tuning in TUNINGS:
            group = rows.setdefault((precision, tuning), [])
            for block in BLOCKS:
                case = bench.Case(block, tuning, precision, **size)
                group += bench.measure(case, options.only, repeats=options.repeats)
                print(f"measured {case.title}", flush=True)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    measured = [row for group in rows.values() for row in group]
    bench.write(options.out, measured, settings, device=options.device, overwrite=True)
    for (precision, tuning), group in rows.items():
        name = f"memory_time-{precision}-{tuning.replace(' ', '-')}.png"
        write_picture(options.out / name, group, caption(case))


if __name__ == "__main__":
    main()
