"""Bytes held and gradients of single transformer blocks, stock and in each mode.

python bench_blocks.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from lowmem_bp import bench

RESULTS = Path(__file__).parent / "results" / "blocks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=197)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for case in bench.CASES:
        sized = replace(case, batch=options.batch, length=options.length)
        rows += bench.measure(sized, bench.MODES)
        print(f"measured {case.title}", flush=True)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    bench.write(options.out, rows, settings, overwrite=True)
    for row in bench.table(rows):
        print("  ".join(cell.rjust(16) for cell in row))


if __name__ == "__main__":
    main()
