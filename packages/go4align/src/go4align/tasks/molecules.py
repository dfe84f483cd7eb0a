"""Seven properties of some 3 000 organic molecules, from tables inside the package ``chemicals``.

Critical temperature, pressure and volume, acentric factor, boiling point, enthalpy of formation and
entropy of the gas, as collected by C. L. Yaws (some values are estimates of that collection).
Inputs are 512 Morgan counts and 12 descriptors made by RDKit from the structure.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from go4align.errors import MissingExtraError
from go4align.tasks.problem import Metric, MultiTaskNetwork, Part, Split

TASKS = ("Tc", "Pc", "Vc", "omega", "Tb", "Hf", "S0")
DESCRIPTORS = (
    "MolWt",
    "MolLogP",
    "TPSA",
    "NumHAcceptors",
    "NumHDonors",
    "NumRotatableBonds",
    "RingCount",
    "NumAromaticRings",
    "FractionCSP3",
    "HeavyAtomCount",
    "NumHeteroatoms",
    "LabuteASA",
)
FINGERPRINT_BITS = 512


class Molecules:
    """Seven regressions, each standardised on the training part; see the module."""

    name = "molecules"
    tasks: tuple[str, ...] = TASKS
    metrics: tuple[Metric, ...] = tuple(
        Metric(f"{task} MAE", index, False) for index, task in enumerate(TASKS)
    )
    epochs = 60
    batch_size = 128
    schedule = "halve"

    def __init__(self) -> None:
        self.inputs, self.targets = table()

    def split(self, seed: int) -> Split:
        """Shuffle by seed: 70 % training, 15 % validation, 15 % test."""
        order = np.random.default_rng(seed).permutation(len(self.inputs))
        first, second = int(0.7 * len(order)), int(0.85 * len(order))
        train = order[:first]

        def standardised(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            mean, spread = values[train].mean(0), values[train].std(0)
            scaled: np.ndarray[Any, Any] = (values - mean) / np.where(spread > 0, spread, 1.0)
            return scaled

        x = torch.from_numpy(standardised(self.inputs)).float()
        y = torch.from_numpy(standardised(self.targets)).float()

        def part(rows: np.ndarray[Any, Any]) -> Part:
            return Part(x[rows], tuple(y[rows].unbind(1)))

        return Split(part(train), part(order[first:second]), part(order[second:]))

    def network(self, tasks: Sequence[int]) -> MultiTaskNetwork:
        """Two hidden layers of 128 and one linear head per task."""
        width = self.inputs.shape[1]
        trunk = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        return MultiTaskNetwork(trunk, [nn.Linear(128, 1) for _ in tasks])

    def loss(self, task: int, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of the standardised property."""
        return nn.functional.mse_loss(output.squeeze(-1), target)

    def score(self, task: int, output: Tensor, target: Tensor) -> dict[str, float]:
        """Mean absolute error of the standardised property."""
        error = (output.squeeze(-1) - target).abs().mean()
        return {self.metrics[task].name: float(error)}


@functools.lru_cache(maxsize=1)
def table() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return inputs (n, 524) and properties (n, 7) in SI units, float64; n is 3 023 at present.

    Kept are molecules of one component with carbon, more than one heavy atom, all seven values, and
    a structure in the package's table of identifiers. Of those that differ in their stereo centres
    alone, which the inputs do not show, the first is kept: its twin would leak into the test part.

    Raises:
        MissingExtraError: if ``chemicals`` or ``rdkit`` is not installed.
    """
    try:
        import chemicals
        from chemicals import critical, phase_change, reaction
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise MissingExtraError(
            'the molecules need chemicals and rdkit: pip install "go4align[molecules]"'
        ) from error
    rdBase.DisableLog("rdApp.*")
    carbon = Chem.MolFromSmarts("[#6]")
    joined = (
        critical.critical_data_Yaws[["Tc", "Pc", "Vc", "omega"]]
        .join(phase_change.Tb_data_Yaws[["Tb"]], how="inner")
        .join(reaction.Hfg_S0g_YAWS_data[["Hfg", "S0g"]], how="inner")
        .dropna()
        .sort_index()
    )
    joined = joined[~joined.index.duplicated()]
    rows, inputs, known = [], [], set()
    for number, cas in enumerate(joined.index):
        try:
            smiles = chemicals.search_chemical(cas).smiles
        except ValueError:
            continue  # not in the table of identifiers
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
        if molecule is None or "." in smiles or molecule.GetNumHeavyAtoms() < 2:
            continue
        flat = Chem.MolToSmiles(molecule, isomericSmiles=False)
        if flat in known or not molecule.HasSubstructMatch(carbon):
            continue
        known.add(flat)
        rows.append(number)
        inputs.append(features(molecule))
    return np.stack(inputs), joined.to_numpy(np.float64)[rows]


def features(molecule: Any) -> np.ndarray[Any, Any]:
    """Return counts of 512 hashed environments (radius 2), as log(1 + n), and 12 descriptors."""
    from rdkit.Chem import Descriptors

    counts = _generator().GetCountFingerprintAsNumPy(molecule)
    described = [getattr(Descriptors, name)(molecule) for name in DESCRIPTORS]
    return np.concatenate([np.log1p(counts.astype(np.float64)), described])


@functools.lru_cache(maxsize=1)
def _generator() -> Any:
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=FINGERPRINT_BITS)
