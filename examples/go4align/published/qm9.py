"""QM9: 11 properties of 130 831 small molecules.

Message passing on complete graphs, Adam 1e-3 (published: the best of 1e-3, 5e-4 and 1e-4 in
validation) times 0.7 whenever the validation result has not improved for five epochs, 300 epochs
of batches of 120; the result is the test error at the epoch that is best in validation. Data: the
folder of torch_geometric's QM9 (needs torch_geometric, and rdkit to process raw files)

    python qm9.py --data QM9 --method go4align-published --workers 4
"""

from typing import ClassVar

import torch.nn.functional as F
from parts import command
from parts.mpnn import MessagePassing
from parts.protocol import Protocol
from parts.qm9_data import COLUMNS, HELD_OUT, MeanAbsoluteError, open_qm9, split
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch_geometric.data import Batch


class QM9(Protocol):
    """Eleven tasks with one metric each; energies in meV."""

    name = "qm9"
    metrics: ClassVar = {task: {task: False} for task in COLUMNS}
    published: ClassVar = {
        "mu": 0.0671,
        "alpha": 0.1814,
        "homo": 60.576,
        "lumo": 53.915,
        "r2": 0.5027,
        "zpve": 4.539,
        "U0": 58.838,
        "U": 64.244,
        "H": 63.852,
        "G": 66.223,
        "Cv": 0.07212,
    }
    epochs = 300
    batch = 120
    lr = 1e-3
    n_groups = 5
    famo_decay = 1e-3
    chooses_epoch = True
    own_options: ClassVar = {
        "--held-out": {
            "type": command.positive,
            "default": HELD_OUT,
            "metavar": "N",
            "help": "Molecules to test, and as many to validate, with. Default: %(default)s.",
        }
    }

    def read(self):
        """Open the molecules and split them by the seed, as the reference does."""
        settings = self.settings
        molecules = open_qm9(settings.data)
        splits, self.unit = split(
            molecules, self.tasks, settings.seed, settings.held_out, settings.limit
        )
        return splits

    @staticmethod
    def collate(items):
        """Join molecules to one large graph."""
        return Batch.from_data_list(items)

    def network(self):
        """Return the network with an output per task of this run."""
        return MessagePassing(self.tasks, self.settings.width)

    def predict(self, network, batch):
        """Return standardised properties, and what the outputs share."""
        return network(batch)

    def truths(self, batch):
        """Return a column of the standardised targets per task."""
        return dict(zip(self.tasks, batch.y.unbind(1), strict=True))

    def loss(self, task, predicted, truth):
        """Return the mean squared error of standardised values."""
        return F.mse_loss(predicted, truth)

    def new_score(self):
        """Return an empty mean of absolute errors."""
        return MeanAbsoluteError(self.tasks, self.unit)

    def scheduler(self, optimizer):
        """Lower the learning rate when validation stalls."""
        return ReduceLROnPlateau(optimizer, factor=0.7, patience=5, min_lr=1e-5)

    def cost(self, result):
        """Return the relative drop in validation, or the error where a task is alone."""
        return self.delta_m(result) if len(self.tasks) > 1 else result[self.tasks[0]]


def main(argv=None):
    return command.main(QM9, __doc__, argv)


if __name__ == "__main__":
    command.script(main)
