"""Which method trains best? Every method on a problem with one optimizer, settings from validation.

First the settings of every method are chosen on the validation parts of the tuning seeds; then each
is trained on fresh seeds and scored on their test parts. Finished runs are kept in the working
folder: run again to go on. The result file holds every run's metrics and all candidates.

    python bench_quality.py molecules adam --seeds 0..4
    python bench_quality.py --chosen      # write the choices of all results into the package
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from go4align import bench, runs
from go4align._kit import RunFolder
from go4align.cli import _numbers
from go4align.report import as_dict, table

RESULTS = Path(__file__).parent / "results"
PACKAGED = Path(__file__).parents[1] / "src" / "go4align" / "tasks" / "chosen.json"
LABELS = (
    "stl",
    "ls",
    "si",
    "uw",
    "famo",
    "rlw",
    "dwa",
    "go4align",
    "go4align-published",
    "go4align-sum-log",
    "go4align-none-linear",
    "go4align-ungrouped",
    "go4align-auto",
    "go4align-decay",
    "imtl-g",
    "upgrad",
    "cagrad",
    "nash-mtl",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    problems = ("molecules", "multimnist")
    parser.add_argument("problem", nargs="?", choices=problems, default="molecules")
    parser.add_argument("optimizer", nargs="?", choices=bench.OPTIMIZERS, default="adam")
    parser.add_argument("--methods", default=",".join(LABELS))
    parser.add_argument("--seeds", default="0..4")
    parser.add_argument("--tuning-seeds", default="100,101")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("bench"), help="Folder of the runs.")
    parser.add_argument(
        "--as-ls", default="", help="Further methods, with the learning rate of LS, not tuned."
    )
    parser.add_argument(
        "--borrow", choices=bench.OPTIMIZERS, help="Take what was chosen with this optimizer."
    )
    parser.add_argument("--tune-only", action="store_true")
    parser.add_argument("--chosen", action="store_true", help="Only write the packaged choices.")
    parser.add_argument("--json", action="store_true", help="Print the table as JSON.")
    options = parser.parse_args()
    if options.chosen:
        package_choices()
        return
    name = f"{options.problem}-{options.optimizer}"
    work, labels = options.work / name, options.methods.split(",")
    path = work / "chosen.json"
    work.mkdir(parents=True, exist_ok=True)

    def save(choices: dict) -> None:
        path.write_text(json.dumps(choices, indent=1) + "\n", encoding="utf-8")

    if options.borrow:
        found = result_file(f"{options.problem}-{options.borrow}")
        chosen = json.loads(found.read_text())["chosen"]
        chosen = {label: chosen[label] for label in labels}
    else:
        chosen = bench.tune(
            options.problem,
            labels,
            options.optimizer,
            seeds=_numbers(options.tuning_seeds),
            jobs=options.jobs,
            known=json.loads(path.read_text()) if path.exists() else {},
            progress=lambda line: print(line, flush=True),
            save=save,
        )
    for label in filter(None, options.as_ls.split(",")):
        chosen[label] = {"lr": chosen["ls"]["lr"], "options": {}, "score": None, "candidates": []}
        labels.append(label)
    seeds = _numbers(options.seeds)
    if options.tune_only:
        return
    bench.bench(
        options.problem,
        labels,
        seeds,
        work,
        chosen,
        options.optimizer,
        options.jobs,
        progress=lambda line: print(line, flush=True),
    )
    collect(name, work, chosen, seeds, _numbers(options.tuning_seeds))
    rows = [as_dict(row) for row in table(json.loads(result_file(name).read_text())["runs"])]
    print(json.dumps(rows) if options.json else "\n".join(map(str, rows)))


def result_file(name: str) -> Path:
    return RESULTS / name / "summary.json"


def collect(name: str, work: Path, chosen: dict, seeds: list[int], tuning: list[int]) -> None:
    """Write one result file out of all runs: what each gave, the choices, versions and machine."""
    found = runs.load(work)
    first = found[0]
    settings = {"problem": name, "seeds": seeds, "tuning_seeds": tuning}
    folder = RunFolder(RESULTS / name, overwrite=True)
    folder.write_summary({}, settings=settings)
    summary = json.loads(result_file(name).read_text())
    keep = ("benchmark", "method", "tasks", "metrics", "higher_is_better", "seconds_per_step")
    summary |= {
        "device": first["device"],
        "versions": first["versions"],
        "chosen": {label: _without_rows(choice) for label, choice in chosen.items()},
        "runs": [
            {"seed": run["seed"], "results": {key: run["results"][key] for key in keep}}
            for run in found
            if run["seed"] in seeds
        ],
    }
    del summary["results"], summary["wall_s"]
    result_file(name).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _without_rows(choice: dict) -> dict:
    kept = ("lr", "options", "score")
    tried = [{key: c[key] for key in kept} for c in choice["candidates"]]
    return {**{key: choice[key] for key in kept}, "candidates": tried}


def package_choices() -> None:
    """Write the settings chosen in all results to where ``go4align bench`` takes them from."""
    choices = {}
    for path in sorted(RESULTS.glob("*-*/summary.json")):
        problem, _, optimizer = path.parent.name.partition("-")
        found = json.loads(path.read_text())["chosen"]
        choices[f"{problem}/{optimizer}"] = {
            label: {"lr": choice["lr"], "options": choice["options"]}
            for label, choice in found.items()
            if choice["candidates"]  # not those that were given the learning rate of LS
        }
    PACKAGED.write_text(json.dumps(choices, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
