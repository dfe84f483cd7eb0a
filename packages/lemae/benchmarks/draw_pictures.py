"""Draw the pictures of docs/lemae/method.md from three short runs with fixed seeds.

    OMP_NUM_THREADS=1 python draw_pictures.py [--out FOLDER]

Pass with IPPO as published, with and without key states; and Secret-Room with key states written by
hand, one per room, of which two lead nowhere. A minute or two on one core. Needs lemae[report].
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib as mpl

from lemae import _charts, report, training
from lemae.settings import Settings

PICTURES = Path(__file__).parents[3] / "docs" / "lemae" / "pictures"
PASS = {"steps": 100_000, "evaluate_every": 100_000}
ROOMS = '''
def is_doors_open(state):
    """Agent 0 holds all doors open, from the left room."""
    return state[0] <= 11 and state[1] >= 0 and state[4] == 7
'''
ROOM = '''
def is_agent_1_in_{name}_room(state):
    """Agent 1 is in the {name} right room while agent 0 holds the doors."""
    held = state[0] <= 11 and state[1] >= 0 and state[4] == 7
    return held and state[2] >= 13 and {low} <= state[3] <= {high}
'''
PLACES = (("top", 0, 7), ("middle", 9, 15), ("bottom", 17, 24))


def save(figure, path: Path) -> None:
    """Without what differs from one run of this script to the next."""
    is_svg = path.suffix == ".svg"
    figure.savefig(path, dpi=100, metadata={"Date": None} if is_svg else {})
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def draw_pass(out: Path) -> None:
    """What an episode earned, and where the agents were."""
    maps = {}
    for method, title in (("lemae", "IPPO with key states"), ("plain", "IPPO")):
        settings = Settings("pass", method, **PASS)
        run = training.train(settings)
        print(method, "first success:", run["first_success_step"], "wins:", run["win_rate_sampled"])
        maps[title] = report.visit_maps(settings.as_dict(), run)["in all"]
        if method == "lemae":
            parts = run["example_intrinsic"], run["example_goals"], run["key_states"]
            save(_charts.episode(*parts), out / "shir.svg")
    save(_charts.maps(maps), out / "visits.png")


def draw_rooms(out: Path) -> None:
    """The tree at the first success, and pruned."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "key_states.py"
        rooms = [ROOM.format(name=name, low=low, high=high) for name, low, high in PLACES]
        file.write_text(ROOMS + "".join(rooms))
        settings = Settings(
            "secret-room",
            key_states=str(file),
            steps=400_000,
            evaluate_every=400_000,
            sticky=6.0,
            self_imitation=0.3,
            stop_at=0.9,
        )
        run = training.train(settings)
    print("rooms, first success:", run["first_success_step"], "of", run["steps"], "steps")
    for key, name in (("tree_before", "tree-before.svg"), ("tree", "tree-after.svg")):
        save(report.draw_memory(run[key], run["key_states"]), out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PICTURES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "lemae"
    draw_pass(options.out)
    draw_rooms(options.out)


if __name__ == "__main__":
    main()
