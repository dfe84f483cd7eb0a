"""Reader of QM9 from torch_geometric's folder, as complete graphs, with eleven targets."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Data
from torch_geometric.datasets import QM9

from .errors import ProtocolError

# Column of every target in torch_geometric's 19; U0, U, H and G are atomisation energies.
COLUMNS = {
    "mu": 0,
    "alpha": 1,
    "homo": 2,
    "lumo": 3,
    "r2": 5,
    "zpve": 6,
    "U0": 12,
    "U": 13,
    "H": 14,
    "G": 15,
    "Cv": 11,
}
# Energies are stored in eV and reported in meV.
IN_MEV = ("homo", "lumo", "zpve", "U0", "U", "H", "G")
HELD_OUT = 10_000  # molecules for test, and as many for validation


class LocalQM9(QM9):
    """torch_geometric's QM9 from files that are there; it never downloads."""

    def download(self) -> None:
        """Refuse, unless the processed file makes the raw ones unnecessary."""
        if Path(self.processed_paths[0]).is_file():
            return
        missing = [
            name for name in self.raw_file_names if not (Path(self.raw_dir) / name).is_file()
        ]
        raise ProtocolError(
            f"{Path(self.raw_dir) / missing[0]} is missing, and so is {self.processed_paths[0]}. "
            f"Download QM9 so that --data holds raw/{', raw/'.join(self.raw_file_names)}. With "
            "rdkit installed these are gdb9.sdf and gdb9.sdf.csv (MoleculeNet's "
            f"{self.raw_url}) and uncharacterized.txt (figshare, {self.raw_url2}); without it, "
            f"qm9_v3.pt ({self.processed_url}). Or copy processed/{self.processed_file_names} "
            "from a folder that torch_geometric has made"
        )


def open_qm9(root: Path) -> LocalQM9:
    """Return all molecules; the first time, raw files are processed, which takes minutes.

    Raises:
        ProtocolError: if files are missing, or are not QM9.
    """
    if not root.is_dir():
        # Otherwise torch_geometric would make it.
        raise ProtocolError(
            f"{root} is missing: --data should be the folder that has torch_geometric's raw/ and "
            "processed/ of QM9 in it"
        )
    try:
        molecules = LocalQM9(str(root))
    except ProtocolError:
        raise
    except Exception as error:  # a broken file breaks in as many ways as there are parsers
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ProtocolError(
            f"{root}: torch_geometric cannot read QM9 ({reason:.120}). Delete processed/ and "
            "download the files of raw/ again"
        ) from error
    widths = [
        getattr(molecules._data.get(key), "shape", (0, 0))[-1]
        for key in ("x", "edge_attr", "y", "pos")
    ]
    if widths != [11, 4, 19, 3]:
        raise ProtocolError(
            f"{molecules.processed_paths[0]}: expected 11 atom features, 4 kinds of bonds, 19 "
            f"targets and 3 coordinates, found {widths}; delete processed/ to make it again"
        )
    return molecules


def complete(molecule: Data) -> tuple[Tensor, Tensor]:
    """Return edges between all pairs of atoms, and their features.

    Returns:
        int64 ``(2, n * (n - 1))``, sorted by sender, and float32 ``(n * (n - 1), 5)``: the kind
        of bond (all zero without one), and the distance in angstrom.
    """
    n = molecule.num_nodes
    bonds = molecule.edge_attr.new_zeros(n, n, molecule.edge_attr.shape[1])
    bonds[molecule.edge_index[0], molecule.edge_index[1]] = molecule.edge_attr
    edges = (~torch.eye(n, dtype=torch.bool)).nonzero().T
    sender, receiver = edges
    distance = (molecule.pos[receiver] - molecule.pos[sender]).norm(dim=1, keepdim=True)
    return edges, torch.cat([bonds[sender, receiver], distance], dim=1)


class Molecules(Dataset):
    """One split of QM9; an item is a ``Data`` with ``x``, ``edge_index``, ``edge_attr`` and ``y``.

    Args:
        source: all molecules.
        indices: int64 ``(n,)``, which of them.
        targets: float32 ``(all molecules, tasks)``, what ``y`` is taken from.
    """

    def __init__(self, source: LocalQM9, indices: Tensor, targets: Tensor) -> None:
        self.source, self.indices, self.targets = source, indices, targets

    def __len__(self) -> int:
        """Return the number of molecules."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Data:
        """Return one molecule as a complete graph."""
        place = int(self.indices[index])
        molecule = self.source[place]
        edges, features = complete(molecule)
        return Data(x=molecule.x, edge_index=edges, edge_attr=features, y=self.targets[place, None])


def split(
    source: LocalQM9, tasks: tuple[str, ...], seed: int, held_out: int, limit: int | None
) -> tuple[dict[str, Molecules], Tensor]:
    """Shuffle and split: the first ``held_out`` molecules test, the next ones validate.

    Targets are standardised by the mean and standard deviation of the training molecules. (The
    reference means to do so too, but takes both over all molecules.)

    Returns:
        The splits, and what a standardised error is multiplied with for its reported unit,
        float32 ``(tasks,)``.
    """
    if len(source) < 2 * held_out + 2:
        raise ProtocolError(
            f"{source.processed_paths[0]} has {len(source)} molecules, too few to hold out twice "
            f"{held_out} and train on the rest; the published QM9 has 130831. For a smaller set "
            "give --held-out"
        )
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    parts = {"test": order[:held_out], "val": order[held_out : 2 * held_out]}
    parts = {name: indices[:limit] for name, indices in parts.items()}
    parts["train"] = order[2 * held_out :][:limit]
    if len(parts["train"]) < 2:
        raise ProtocolError("--limit 1 leaves one training molecule, which cannot be standardised")
    targets = source._data.y[:, [COLUMNS[task] for task in tasks]]
    mean, std = targets[parts["train"]].mean(0), targets[parts["train"]].std(0)
    if not (std > 0).all():
        task = tasks[int((~(std > 0)).nonzero()[0])]
        raise ProtocolError(
            f"{task} has the same value for all {len(parts['train'])} training molecules; "
            "train on more"
        )
    targets = (targets - mean) / std
    unit = torch.tensor([1000.0 if task in IN_MEV else 1.0 for task in tasks])
    return {
        name: Molecules(source, indices, targets) for name, indices in parts.items()
    }, std * unit


class MeanAbsoluteError:
    """MAE of every property over a split, in the reported unit."""

    def __init__(self, tasks: tuple[str, ...], unit: Tensor) -> None:
        self.tasks, self.unit = tasks, unit.double()
        self.total, self.n = torch.zeros(len(tasks), dtype=torch.float64), 0

    def update(self, predictions: Mapping[str, Tensor], truths: Mapping[str, Tensor]) -> None:
        """Take in a batch: for every task standardised values ``(batch,)``."""
        errors = [(predictions[task] - truths[task]).abs() for task in self.tasks]
        self.total += torch.stack(errors).double().sum(1).cpu()
        self.n += len(errors[0])

    def result(self) -> dict[str, float]:
        """Return the MAE of every property."""
        errors = self.total / self.n * self.unit
        return dict(zip(self.tasks, errors.tolist(), strict=True))
