"""Do a reward for every step (lare) and key states (lemae) help a team, each alone and both?

Two agents of MPE are paid at the end of an episode, and only if both stood on their landmarks.
lemae leads them there. lare finds out which steps were paid; its rewards take the place of the
environment's, and those for key states are added. One learner, IPPO, for all four. Measured: both
help together; lare alone does not, since without key states hardly an episode is ever paid.
Needs: pip install lare-rl "lemae[pettingzoo]" mpe2
"""

import warnings

import numpy as np
import torch

from lare._kit import RunFolder
from lemae import KeyStateSet, KsmtExplorer, Labeler, RandomActions
from lemae.algos import IPPO, Collector, FixedEpsilon
from lemae.errors import LemaeWarning
from lemae.integrations.shaping import Shaping

COPIES, ALPHA, BETA = 8, 10.0, 1.0
RUNS = {"neither": (), "lare": ("lare",), "lemae": ("lemae",), "both": ("lare", "lemae")}


def train(with_parts, seed, rollouts, landmarks, credit):
    env, numbers = landmarks.make(COPIES), np.random.SeedSequence(seed).generate_state(rollouts)
    learner = IPPO(env.n_agents, env.n_actions, landmarks.SEEN, seed=seed)
    source = KeyStateSet.from_source(landmarks.KEY_STATES, landmarks.SPEC)
    shaping = Shaping(source, alpha=ALPHA, beta=BETA, seed=seed)  # (lemae) what key states pay
    earned = credit.Credit(landmarks.FACTORS, env, landmarks.SEEN)  # (lare) what steps earned
    guided = "lemae" in with_parts
    collector = Collector(env, Labeler(source, COPIES) if guided else None)  # (lemae)
    paid = []
    for number in numbers.tolist():
        explorer = FixedEpsilon(COPIES, 0.0)
        if guided:
            explorer = KsmtExplorer(shaping.memory, COPIES, seed=number)  # (lemae) how random
        mixer = RandomActions(COPIES, env.n_agents, env.n_actions, sticky=4.0, seed=number)
        played = collector.collect(learner, seed=number, explorer=explorer, mixer=mixer)
        rewards = earned.rewards(played) if "lare" in with_parts else played.rewards  # (lare)
        if guided:
            episodes = played.lengths, played.success, played.chains
            shaping.observe(played.states, *episodes)  # (lemae)
            rewards = shaping.relabel(played.states, rewards, *episodes).rewards  # (lemae)
        else:
            rewards = ALPHA * rewards
        learner.update(played, rewards)
        paid.append(played.rewards.sum(0))
    return learner, paid


def main():
    from parts import credit, landmarks, runs, tables  # the folder beside this file

    args, folder = runs.begin(__doc__, "Environment steps", 60_000, 800, RunFolder)
    torch.set_num_threads(1)  # the networks are small
    # An agent may start on its landmark by chance: that does not count, and is told.
    warnings.filterwarnings("ignore", "true at reset", LemaeWarning)
    rows, rollouts = [], -(-args.steps // (COPIES * landmarks.LIMIT))
    for seed in args.seeds:
        for name, with_parts in RUNS.items():
            learner, paid = train(with_parts, seed, rollouts, landmarks, credit)
            score = landmarks.evaluate(learner, 4 if args.smoke else 100)
            row = {"run": name, "seed": seed, "return": score}
            row["paid_episodes"] = int((np.array(paid) > 0).sum())  # of those in training
            row["curve"] = [part.mean() for part in np.array_split(paid, 10) if part.size]
            rows.append(row)
            print(f"{name}, seed {seed}: share of steps paid {score:.3f}", flush=True)
    runs.show(rows, tables.exploration, args, folder)


if __name__ == "__main__":
    main()
