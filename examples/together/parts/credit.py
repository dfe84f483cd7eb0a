"""lare for a team: what every step earned, learned from what whole episodes were paid."""

import numpy as np
import torch

from lare import Decomposition, EpisodeStore, LatentReward, RewardDecoder


class Credit:
    """A latent reward, the episodes so far, and a decoder that is solved anew after every rollout.

    Args:
        source: of the latent reward, which reads what one agent sees and does.
        env: its numbers of copies, agents, actions and steps count.
        seen: numbers that an agent observes.
        rollouts: that are stored; older ones are forgotten.
    """

    def __init__(self, source, env, seen, rollouts=200):
        self.factors_of = LatentReward.from_source(source)
        self.choices = np.eye(env.n_actions)
        blank = np.zeros((1, seen))
        size = self.factors_of(blank, self.choices[:1], blank).shape[1]
        rows = rollouts * env.episode_limit
        self.store = EpisodeStore(rows, (env.n_agents, size), env.num_envs)
        self.model = Decomposition(RewardDecoder(size, "sparse"))

    def rewards(self, episodes):
        """Take in the episodes of a rollout and reward their steps.

        Args:
            episodes: a ``lemae.algos.Episodes`` of every copy.

        Returns:
            float64 ``[T, B]``: the sum over the agents, which adds up to what was paid.
        """
        factors = self.factors(episodes)
        self.model.observe(factors)
        for t, row in enumerate(factors):
            self.store.add(row, episodes.rewards[t], episodes.lengths == t + 1)
        self.store.abandon()  # what stands behind the end of an episode
        self.model.solve(self.store)
        return self.model.rewards(factors).sum(-1).double().numpy(force=True)

    def factors(self, episodes):
        """Return the factors of every step and agent, float32 ``[T, B, n, D]``."""
        shape, seen = episodes.actions.shape, episodes.observations
        before, after = (part.reshape(-1, seen.shape[-1]) for part in (seen[:-1], seen[1:]))
        actions = self.choices[episodes.actions.reshape(-1)]
        found = self.factors_of(before, actions, after)
        return torch.from_numpy(found).reshape(*shape, -1)
