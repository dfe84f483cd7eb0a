"""Does a 2-bit derivative train as well as the exact one? MiniLM on docstrings, several seeds.

Every seed draws its own data and batches; all modes of one seed share weights, batches and
dropout, so that differences are taken in pairs. Finished seeds are kept: run again to go on.

    python bench_training.py [--seeds 0 1 2 3 4] [--steps 30]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from lowmem_bp import demo
from lowmem_bp._kit import RunFolder, paired_difference, summarize

RESULTS = Path(__file__).parent / "results" / "training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for seed in options.seeds:
        if is_done(options.out / f"seed-{seed}" / "summary.json", options):
            continue
        task = demo.task_named("minilm", seed, options.steps)
        results, _reports = demo.run(task, demo.ROWS, seed=seed)
        folder = RunFolder(options.out / f"seed-{seed}", overwrite=True)
        for result in results:
            for step, loss in enumerate(result.losses):
                folder.log(step, f"{result.row}/loss", loss)
        rows = [{k: v for k, v in asdict(result).items() if k != "losses"} for result in results]
        folder.write_summary({"rows": rows}, settings={"steps": options.steps}, seed=seed)
    summary = summarise(options.out)
    text = json.dumps(summary, indent=1)
    (options.out / "summary.json").write_text(text + "\n", encoding="utf-8")
    print(text if options.json else "\n".join(f"{k}: {v}" for k, v in summary["rows"].items()))


def is_done(path: Path, options: argparse.Namespace) -> bool:
    """Whether a seed was run, with these options; other ones must not be averaged with it."""
    if not path.exists():
        return False
    run = json.loads(path.read_text())
    found = {"steps": run["settings"]["steps"], "threads": run["device"]["threads"]}
    wanted = {name: getattr(options, name) for name in found}
    if found != wanted:
        raise SystemExit(
            f"{path} was run with {found}, asked for are {wanted}: give another --out."
        )
    return True


def summarise(folder: Path) -> dict[str, object]:
    """Return mean, IQM and interval over the seeds found in ``folder``."""
    runs = [json.loads(p.read_text()) for p in sorted(folder.glob("seed-*/summary.json"))]
    scores: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for row in run["results"]["rows"]:
            for name in ("held_out", "cosine", "error", "ratio"):
                scores.setdefault(row["row"], {}).setdefault(name, []).append(row[name])
    rows = {}
    for row, values in scores.items():
        rows[row] = {name: asdict(summarize(value)) for name, value in values.items()}
        difference = paired_difference(values["held_out"], scores["stock"]["held_out"])
        rows[row]["held_out_minus_stock"] = asdict(difference)
    if "paper" in scores:
        pair = paired_difference(scores["2bit everywhere"]["held_out"], scores["paper"]["held_out"])
        rows["2bit everywhere"]["held_out_minus_paper"] = asdict(pair)
    first = runs[0] if runs else {}
    keep = {name: first[name] for name in first if name not in ("results", "seed")}
    return {"seeds": [run["seed"] for run in runs], **keep, "rows": rows}


if __name__ == "__main__":
    main()
