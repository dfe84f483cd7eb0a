"""Losses and metrics of segmentation, depth and surface normals."""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .dense_data import IGNORED

ANGLES = (11.25, 22.5, 30.0)  # degrees
METRICS = {  # task -> metric -> whether higher is better
    "segmentation": {"mIoU": True, "PixAcc": True},
    "depth": {"AbsErr": False, "RelErr": False},
    "normal": {"mean": False, "median": False, "<11.25": True, "<22.5": True, "<30": True},
}


def valid(truth: Tensor) -> Tensor:
    """Return where depth or normals ``(batch, channels, H, W)`` are known, as ``(batch, H, W)``.

    Unknown pixels are zero in all channels. (The reference leaves out pixels whose channels sum
    to zero, so also the rare normal like (0.5, -0.5, 0).)
    """
    return (truth != 0).any(dim=1)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood over pixels with a class; 0 if a batch has none."""
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def depth_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute error over pixels of known depth; 0 if a batch has none."""
    known = valid(truth)
    error = (predicted - truth).abs().squeeze(1)
    return (error * known).sum() / known.sum().clamp(min=1)


def normal_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean of 1 - cosine over pixels of known normal; 0 if a batch has none.

    Only the prediction is normalised: the truth has length 1 except where the augmentation
    interpolated it, which the reference leaves so too.
    """
    known = valid(truth)
    cosine = (F.normalize(predicted, dim=1) * truth).sum(dim=1)
    return ((1 - cosine) * known).sum() / known.sum().clamp(min=1)


LOSSES = {"segmentation": segmentation_loss, "depth": depth_loss, "normal": normal_loss}


class Score(ABC):
    """Metrics of one task over a whole split, from its batches."""

    @abstractmethod
    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Take in a batch: raw predictions ``(batch, channels, H, W)``, and the truth."""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Return the metrics of everything taken in."""


class SegmentationScore(Score):
    """Mean IoU and pixel accuracy in percent, from one confusion matrix.

    A class that is neither in the truth nor predicted anywhere has no IoU and is left out of the
    mean; the reference returns nan then. The whole published test sets have all classes.
    """

    def __init__(self, n_classes: int) -> None:
        self.counts = torch.zeros(n_classes, n_classes, dtype=torch.int64)  # [truth, predicted]

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Count pixels per pair of true and predicted class."""
        n, known = len(self.counts), truth != IGNORED
        pairs = truth[known] * n + predicted.argmax(dim=1)[known]
        self.counts += torch.bincount(pairs, minlength=n * n).view(n, n).cpu()

    def result(self) -> dict[str, float]:
        """Return mIoU and PixAcc."""
        counts = self.counts.double()
        right, union = counts.diag(), counts.sum(0) + counts.sum(1) - counts.diag()
        present = union > 0
        iou = right[present] / union[present]
        return {
            "mIoU": 100 * iou.mean().item(),
            "PixAcc": 100 * (right.sum() / counts.sum()).item(),
        }


class DepthScore(Score):
    """Absolute and relative error, averaged over all pixels of known depth."""

    def __init__(self) -> None:
        self.absolute = self.relative = 0.0
        self.pixels = 0

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Add up errors in float64."""
        known = valid(truth).unsqueeze(1)
        depth = truth[known].double()
        error = (predicted[known] - depth).abs()
        self.absolute += error.sum().item()
        self.relative += (error / depth).sum().item()
        self.pixels += len(depth)

    def result(self) -> dict[str, float]:
        """Return AbsErr, in the unit of the data, and RelErr, a ratio."""
        pixels = self.pixels or np.nan
        return {"AbsErr": self.absolute / pixels, "RelErr": self.relative / pixels}


class NormalScore(Score):
    """Statistics of the angle between predicted and true normal, in degrees and percent.

    The exact median needs all angles, so they are kept in float32 on the CPU: 290 MB for
    NYUv2's 654 test images, and as much again while the median is taken.
    """

    def __init__(self) -> None:
        self.angles: list[np.ndarray] = []

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Keep the angles of pixels with a known normal."""
        cosine = (F.normalize(predicted, dim=1) * truth).sum(dim=1)[valid(truth)]
        self.angles.append(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).cpu().numpy())

    def result(self) -> dict[str, float]:
        """Return mean and median in degrees, and the share within each of ``ANGLES``."""
        angles = np.concatenate(self.angles)
        within = {f"<{angle:g}": 100 * float(np.mean(angles < angle)) for angle in ANGLES}
        mean = float(np.mean(angles, dtype=np.float64))
        return {"mean": mean, "median": float(np.median(angles, overwrite_input=True)), **within}


class MeanOfBatches(Score):
    """The reference's numbers: metrics of each batch, averaged with equal weights.

    A smaller last batch counts as much as a full one, and the median is a mean of medians.
    """

    def __init__(self, new: type[Score]) -> None:
        self.new = new
        self.results: list[dict[str, float]] = []

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Score the batch by itself."""
        score = self.new()
        score.update(predicted, truth)
        self.results.append(score.result())

    def result(self) -> dict[str, float]:
        """Return the mean over batches."""
        names = self.results[0]
        return {name: float(np.mean([batch[name] for batch in self.results])) for name in names}


def new_score(task: str, n_classes: int, pooling: str) -> Score:
    """Return an empty score of a task; ``pooling`` is ``"exact"`` or ``"reference"``."""
    if task == "segmentation":  # the reference pools the confusion matrix as well
        return SegmentationScore(n_classes)
    new = {"depth": DepthScore, "normal": NormalScore}[task]
    return new() if pooling == "exact" else MeanOfBatches(new)
