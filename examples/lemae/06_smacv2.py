"""How do I train with key states on SMACv2, the battles of StarCraft II itself?

Needs the game (version 4.10) in the folder that SC2PATH names, and in an environment of its own:
pip install lemae git+https://github.com/oxwhirl/smacv2.git
Where one of them is missing this says so, and trains nothing.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from lemae import check, training
from lemae.errors import MissingExtraError
from lemae.integrations import smacv2
from lemae.probes import probes
from lemae.settings import Settings

GAMES = 4  # processes of StarCraft II in training, and as many for the evaluation


def battles(num_envs: int, name: str):
    """What the settings of a run name as its task."""
    return smacv2.make(name, num_envs)


def key_states(spec) -> str:
    """By the names of the state's numbers: units are random, and sizes differ from map to map."""
    names = [entry.name for entry in spec.state]
    allies, enemies = (
        [i for i, name in enumerate(names) if name.startswith(f"{side}_health_")]
        for side in ("ally", "enemy")
    )
    return f"""
def is_an_enemy_dead_and_we_are_as_many(state):
    living = sum([state[i] > 0 for i in {enemies}])
    return living < {len(enemies)} and sum([state[i] > 0 for i in {allies}]) >= living

def is_half_of_them_dead_and_we_are_more(state):
    living = sum([state[i] > 0 for i in {enemies}])
    return living <= {len(enemies) // 2} and sum([state[i] > 0 for i in {allies}]) > living
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", default="terran_5_vs_5", help="<race>_<n>_vs_<m>")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--smoke", action="store_true", help="does it run here?")
    args = parser.parse_args()
    try:
        if not os.environ.get("SC2PATH"):
            raise MissingExtraError("SC2PATH is not set: let it name the folder of StarCraft II")
        env = battles(2, args.map)
    except MissingExtraError as error:
        print(f"nothing is trained: {error}")
        sys.exit(0 if args.smoke else 1)
    source, file = key_states(env.task_spec), Path(tempfile.mkdtemp()) / "key_states.py"
    file.write_text(source)
    print(check(source, env.task_spec, probes(env, 64 if args.smoke else 2048)))
    env.close()
    settings = Settings(
        f"{__name__}:battles",
        algo="qmix",
        steps=500 if args.smoke else args.steps,
        num_envs=GAMES,
        evaluation_episodes=GAMES,
        options={"name": args.map},
        key_states=str(file),
        beta=1.0,
        eps_high=0.5,
    )
    run = training.train(settings, file.parent / "run")
    print("first victory after", run["first_success_step"], "steps; of the last 100 battles")
    print(f"{run['curve'][-1]['training']:.0%} were won; episodes that broke off: {run['aborted']}")


if __name__ == "__main__":
    main()
