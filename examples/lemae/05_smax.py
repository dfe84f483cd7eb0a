"""How do I train in a battle of SMAX, paid for victory alone, with the shipped key states?

The plain learner is trained beside it. A few minutes show which key states the team meets; do not
expect a victory in them, of either. SMAX (JAX) has the scenarios of SMAC and is another game.
Needs: pip install "lemae[smax,report]"
"""

import argparse
import tempfile
from pathlib import Path

import jax
import torch

from lemae import report, training
from lemae.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", default="2s3z", help="one with shipped key states")
    parser.add_argument("--algo", default="ippo", help="ippo, qmix, vdn or iql")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", default=None, help="folder; finished runs in it are kept")
    parser.add_argument("--smoke", action="store_true", help="does it run here?")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the networks are small
    out = Path(args.out or tempfile.mkdtemp())
    # What JAX compiled, tens of seconds per shape, is kept for the next run.
    jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "jax"))
    methods = ("lemae",) if args.smoke else ("lemae", "plain")
    for method in methods:
        settings = Settings(
            f"smax-{args.scenario}",
            method,
            args.algo,
            200 if args.smoke else args.steps,
            evaluate_every=50_000,
            evaluation_episodes=8 if args.smoke else 64,
        )
        run = training.train(settings, out / method)
        first, rate = run["first_success_step"], run["win_rate_sampled"]
        print(f"{method}: first victory after {first} steps, {rate:.0%} won at the end")
        for name, hit in run["hits"].items():
            print(f"  {name}: in {hit['episodes']} of {run['episodes']} episodes")
    if not args.smoke:
        print("report:", report.write(out))


if __name__ == "__main__":
    main()
