"""Steps that come in batches, cut anywhere: which episode they belong to, and what it met."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lemae.integrations.shaping import Shaping
from lemae.labels import Chain, Labeler, order


class Marks(NamedTuple):
    """What has to be known of a step to reward it later, wherever it has got to.

    Attributes:
        time: int64 ``[...]``, steps of its episode before it.
        met: int64 ``[..., K]``, for each key state that the episode has met by the end of the step
            the time of the first state in which it was true, at least 1; 0 for the others.
    """

    time: np.ndarray
    met: np.ndarray


class Stream:
    """Follows episodes that run side by side, through batches that begin and end anywhere.

    A row goes on with the episode of the batch before if that has not ended there and the first
    state is the one that the row stopped at; otherwise a new episode begins, and the one that was
    left is counted as it is, without success.

    Args:
        shaping: is told of key states that were met, and of episodes that are over.
    """

    def __init__(self, shaping: Shaping) -> None:
        self.shaping = shaping
        self._labeler: Labeler | None = None
        self._going = np.zeros(0, bool)  # rows in the middle of an episode
        self._last = np.zeros((0, 0))  # the state that each row stopped at
        self._met = np.zeros((0, len(shaping.key_states)), np.int64)  # as in Marks

    def observe(
        self, states: np.ndarray, following: np.ndarray, done: np.ndarray, success: np.ndarray
    ) -> Marks:
        """Take in the next steps of all rows, in the order of time.

        Args:
            states: ``[N, T, d]``, before each step.
            following: ``[N, T, d]``, after it.
            done: bool ``[N, T]``, where a step ended its episode, in whatever way.
            success: bool ``[N, T]``, where it ended it by success.

        Returns:
            Marks of the steps.
        """
        rows, steps = done.shape
        labeler = self._labeler_of(states[:, 0])
        marks = Marks(
            np.zeros((rows, steps), np.int64),
            np.zeros((rows, steps, len(self.shaping.key_states)), np.int64),
        )
        for t in range(steps):
            if not self._going.all():
                labeler.reset(states[:, t], envs=~self._going)
                self._met[~self._going] = 0
            for row, k in labeler.step(following[:, t]).tolist():
                met = order(labeler.chains[row])
                self.shaping.relabeler.bank.add(k, following[row, t], met[: met.index(k)])
                self._met[row, k] = labeler.t[row]
            marks.time[:, t] = labeler.t - 1
            marks.met[:, t] = self._met
            for row in np.flatnonzero(done[:, t]).tolist():
                self.shaping.remember(labeler.chain(row), success=bool(success[row, t]))
            self._going = ~done[:, t]
        self._last = following[:, -1].copy()
        return marks

    def _labeler_of(self, first: np.ndarray) -> Labeler:
        """The labeler of the rows, with those marked that go on."""
        labeler = self._labeler
        if labeler is None or self._last.shape != first.shape:
            self._leave(self._going)
            labeler = self._labeler = Labeler(
                self.shaping.key_states, len(first), edge=self.shaping.edge
            )
            self._going = np.zeros(len(first), bool)
            self._met = np.zeros((len(first), len(self.shaping.key_states)), np.int64)
        else:
            left = self._going & (self._last != first).any(1)
            self._leave(left)
            self._going &= ~left
        return labeler

    def _leave(self, rows: np.ndarray) -> None:
        """Count episodes that nobody goes on with."""
        for row in np.flatnonzero(rows).tolist():
            if self._labeler is not None:
                self.shaping.remember(self._labeler.chain(row), success=False)


def intrinsic(
    shaping: Shaping,
    states: np.ndarray,
    following: np.ndarray,
    success: np.ndarray,
    marks: Marks,
    starts: np.ndarray,
) -> np.ndarray:
    """Equation 1 for steps in any order, by what is known now.

    Steps that follow each other in the list and in an episode are rewarded together: in hindsight
    up to the last key state that was met among them, the rest of the way by plan. The more steps of
    an episode come together, the more of it is hindsight.

    Args:
        shaping: of the learner.
        states: ``[M, d]``, before each step.
        following: ``[M, d]``, after it.
        success: bool ``[M]``, where a step ended its episode by success.
        marks: of the steps.
        starts: bool ``[M]``, where what stands before in the list has nothing to do with a step.

    Returns:
        float64 ``[M]``.
    """
    time, met = marks
    breaks = starts.copy()
    breaks[0] = True
    breaks[1:] |= (time[1:] != time[:-1] + 1) | (states[1:] != following[:-1]).any(1)
    first = np.flatnonzero(breaks)
    last = np.append(first[1:], len(breaks)) - 1
    lengths = last - first + 1
    # Every piece gets one step more at its front, in which nothing moves: what its episode had met
    # before is met there.
    table = np.zeros((lengths.max() + 2, len(first), states.shape[1]), states.dtype)
    piece = np.repeat(np.arange(len(first)), lengths)
    row = np.arange(len(breaks)) - first[piece] + 1
    table[0] = states[first]
    table[row, piece] = states
    table[lengths + 1, np.arange(len(first))] = following[last]
    relabeled = shaping.relabel(
        table,
        np.zeros(table.shape[:2])[1:],
        lengths + 1,
        success[last],
        [_chain(met[end], time[begin]) for begin, end in zip(first, last, strict=True)],
    )
    found: np.ndarray = relabeled.intrinsic[row, piece]
    return found


def _chain(met: np.ndarray, begin: int) -> Chain:
    """Firings of a piece whose first step, after the one in front, is at time ``begin``."""
    firings = sorted((int(met[k]), int(k)) for k in np.flatnonzero(met))
    return tuple((int(max(time - begin, 0)) + 1, k) for time, k in firings)
