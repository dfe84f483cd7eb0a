"""CelebA: 40 yes-or-no attributes of 202 599 faces.

FAMO's convolutional encoder at 64 x 64, Adam, 15 epochs of batches of 256; the result is the test
F1 at the epoch with the best mean F1 in validation. The learning rate is the 1e-3 of GO4Align's
text; FAMO's code has 3e-4. The text does not say how many groups it used: five are a guess. The
single-task F1 were never published, so the relative drop needs --base. Data:
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (needs pillow to read it)

    python celeba.py --data celeba --method go4align-published --option n_groups=5 --workers 4
"""

import statistics
from typing import ClassVar

import torch.nn.functional as F
from parts import command
from parts.celeba_data import ATTRIBUTES, F1Score, Faces
from parts.celeba_net import FaceEncoder
from parts.protocol import Protocol
from torch.optim.lr_scheduler import ConstantLR


class CelebA(Protocol):
    """Forty tasks with one metric each."""

    name = "celeba"
    metrics: ClassVar = {task: {task: True} for task in ATTRIBUTES}
    published: ClassVar = {}
    epochs = 15
    batch = 256
    lr = 1e-3
    n_groups = 5
    famo_decay = 1e-3
    chooses_epoch = True

    def read(self):
        """Open training, validation and test pictures."""
        settings = self.settings
        return {
            name: Faces(settings.data, name, settings.limit) for name in ("train", "val", "test")
        }

    def network(self):
        """Return the encoder with an output per task of this run."""
        return FaceEncoder(self.tasks, self.settings.width)

    def predict(self, network, batch):
        """Return logits, and the encoder's output."""
        return network(batch["image"])

    def truths(self, batch):
        """Return a column of the attributes per task."""
        return {task: batch["attributes"][:, ATTRIBUTES.index(task)] for task in self.tasks}

    def loss(self, task, predicted, truth):
        """Return the binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(predicted, truth)

    def new_score(self):
        """Return an empty count of this run's attributes."""
        return F1Score(self.tasks)

    def scheduler(self, optimizer):
        """Keep the learning rate."""
        return ConstantLR(optimizer, factor=1.0)

    def cost(self, result):
        """Return the negative mean F1."""
        return -statistics.fmean(result.values())


def main(argv=None):
    return command.main(CelebA, __doc__, argv)


if __name__ == "__main__":
    command.script(main)
