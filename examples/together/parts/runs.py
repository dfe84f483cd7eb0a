"""The options that the comparisons share, and what becomes of their results."""

import argparse
import json
from importlib.metadata import PackageNotFoundError, version

from parts import tables

LIBRARIES = ("lowmem-bp", "go4align", "lare-rl", "lemae", "transformers", "mpe2", "pettingzoo")


def begin(doc, meaning, steps, smoke_steps, folder):
    """Read the command line, and open the folder before anything is computed.

    Args:
        doc: docstring of the script.
        meaning: what ``--steps`` counts.
        steps: its default.
        smoke_steps: with ``--smoke``, of one seed.
        folder: a package's ``RunFolder``.

    Returns:
        The options, and an open folder, or None for nothing on disk.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    add = parser.add_argument
    add("--steps", type=int, default=steps, help=f"{meaning} of each run.")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="Four runs with each.")
    add("--out", help="Folder for summary.json, new or empty.")
    add("--smoke", action="store_true", help="Next to nothing, to see that it works.")
    args = parser.parse_args()
    if args.smoke:
        args.steps, args.seeds = smoke_steps, [0]
    return args, folder(args.out) if args.out else None


def show(rows, table, args, folder):
    """Print the table of all runs, and write them down.

    Args:
        rows: one per run, in JSON's types.
        table: yields the lines of a table of rows.
        args: as from :func:`begin`.
        folder: as from there.
    """
    print("\n".join(table(rows)))
    if folder is not None:
        libraries = {name: _version(name) for name in LIBRARIES}
        results = {"rows": rows, "libraries": libraries}
        path = folder.write_summary(results, settings=vars(args))
        print(f"\n{tables.measured(json.loads(path.read_text(encoding='utf-8')))}")


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
