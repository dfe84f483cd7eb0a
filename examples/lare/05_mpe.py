"""How do I train several agents that are paid as a team, at the end of the episode?

Six agents learn to stand at six landmarks without touching. "dense" pays each agent at each step
what it earned, "episodic" pays all of them the team's sum at the end, and "lare" learns from these
sums what each agent earned at each step. A few minutes per method are enough to tell them apart,
not to finish learning: the published runs have 2 million steps, the default here 150 000.
Needs: pip install lare-rl
"""

import argparse

import torch

from lare.algos import DecompositionSettings, MPESettings, evaluate, load_policies, train


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--task", default="cooperative-navigation-6", help="See lare.envs.task_ids().")
    add("--methods", nargs="+", default=["dense", "lare", "episodic"], help="What to compare.")
    add("--steps", type=int, default=150_000, help="Environment steps of each run.")
    add("--seed", type=int, default=0, help="Of everything but the evaluation.")
    add("--out", help="Folder to keep the runs in; a run cut off is taken up again.")
    add("--smoke", action="store_true", help="Two tiny rollouts each, to see that it works.")
    args = parser.parse_args()
    torch.set_num_threads(1)  # networks this small gain nothing from more

    sizes = {"steps": args.steps}
    if args.smoke:
        few = DecompositionSettings(batch=8, updates=5)
        sizes = {"steps": 400, "copies": 8, "evaluation_episodes": 4, "decomposition": few}
    for method in args.methods:
        settings = MPESettings(args.task, method, seed=args.seed, **sizes)
        folder = None if args.out is None else f"{args.out}/{method}"
        results = train(settings, folder)
        for role, found in results["roles"].items():
            step, score = list(found["scores"].items())[-1]
            print(
                f"{method}, {role}: {score:.1f} after {step} steps; all stay "
                f"{found['zero_actions']:.1f}, random {found['random_actions']:.1f}; correlation "
                f"with the true rewards {found['correlation']:.2f}"
            )
        if folder is not None:
            print("the saved policies again:", evaluate(settings, load_policies(settings, folder)))


if __name__ == "__main__":
    main()
