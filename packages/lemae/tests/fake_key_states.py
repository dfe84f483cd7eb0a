"""Key states that are plain conditions on arrays, without source text."""

from types import SimpleNamespace

import numpy as np


class FakeKeyStates:
    """Key state k is true where ``state[index] == value``, for the k-th pair."""

    def __init__(self, *pairs, subspaces=None):
        self.pairs = pairs
        self.names = [f"at {index} is {value}" for index, value in pairs]
        self.subspaces = subspaces or [(index,) for index, _ in pairs]
        self.calls = 0

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, k):
        return SimpleNamespace(name=self.names[k], subspace=self.subspaces[k])

    def evaluate(self, states):
        self.calls += 1
        truth = np.zeros((*np.shape(states)[:-1], len(self.pairs)), dtype=bool)
        for k, (index, value) in enumerate(self.pairs):
            truth[..., k] = np.asarray(states)[..., index] == value
        return truth
