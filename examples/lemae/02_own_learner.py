"""How do I put key states around a learner of my own, without any language model?

The learner here is tabular Q-learning on replayed episodes, to keep it short; only the lines marked
(lemae) belong to the method.
"""

import argparse

import numpy as np

from lemae import KSMT, KeyStateSet, KsmtExplorer, Labeler, RandomActions, ShirRelabeler, envs
from lemae.labels import order

KEY_STATES = """
def is_door_open(state):
    return state[0] <= 4 and state[1] >= 0 and state[4] == 1

def is_one_across(state):
    return state[0] <= 4 and state[1] >= 0 and state[2] >= 6 and state[3] >= 0 and state[4] == 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    options = parser.parse_args()
    copies, random = 16, np.random.default_rng(0)
    env = envs.make("pass", copies, size=10, seed=0)
    key_states = KeyStateSet.from_source(KEY_STATES, env.task_spec)
    labeler = Labeler(key_states, copies)  # (lemae) who met which key state, and when
    memory = KSMT(len(key_states))  # (lemae) in which orders
    explorer = KsmtExplorer(memory, copies)  # (lemae) how random to act there
    mixer = RandomActions(copies, env.n_agents, env.n_actions, sticky=4.0)
    relabeler = ShirRelabeler(key_states)  # (lemae) what that pays
    q = np.zeros((*env.n_values, env.n_agents, env.n_actions))

    def values(states):
        return q[tuple(states.astype(int).T)]  # [..., agents, actions]

    for rollout in range(3 if options.smoke else options.rollouts):
        least = max(0.05, 1 - 2 * rollout / options.rollouts)  # Q-learning's own exploration
        state, _ = env.reset()
        labeler.reset(state)
        explorer.reset()
        mixer.reset()
        states, actions, rewards = [state], [], []
        active = np.ones(copies, dtype=bool)
        lengths, success = np.zeros(copies, int), np.zeros(copies, dtype=bool)
        while active.any():
            best = values(state) + 1e-6 * random.random((copies, env.n_agents, env.n_actions))
            action, _ = mixer.mix(best.argmax(-1), np.maximum(explorer.epsilon, least))
            state, reward, terminated, truncated, _ = env.step(action)
            explorer.advance(labeler.step(state, active))  # (lemae)
            lengths += active
            success |= terminated
            states.append(state)
            actions.append(action)
            rewards.append(reward)
            active &= ~(terminated | truncated)
        chains = [labeler.chain(copy) for copy in range(copies)]
        for chain, won in zip(chains, success, strict=True):  # (lemae)
            memory.insert(order(chain), success=won)
        if success.any() and not explorer.solved:
            explorer.success()
        batch = np.stack(states), np.stack(rewards), lengths, success, chains
        relabeler.observe(batch[0], chains)  # (lemae)
        paid = relabeler.relabel(*batch, memory).rewards  # (lemae) in place of the rewards
        for t in reversed(range(len(actions))):  # Q-learning, backwards through the episodes
            here = t < lengths
            ends = (t + 1 == lengths) & success
            later = np.where(ends[:, None], 0, values(states[t + 1]).max(-1))
            at = (*states[t].astype(int).T[:, :, None], np.arange(env.n_agents), actions[t])
            np.add.at(q, at, 0.05 * here[:, None] * (paid[t][:, None] + 0.98 * later - q[at]))
        if rollout % 25 == 0:
            print(f"rollout {rollout}: {success.mean():.0%} won, tree of {len(memory)} nodes")


if __name__ == "__main__":
    main()
