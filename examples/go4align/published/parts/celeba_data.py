"""Reader of CelebA in its own layout: aligned pictures, forty attributes, and the partition."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from .errors import ProtocolError

SPLITS = {"train": "0", "val": "1", "test": "2"}
SIZE = 64  # pixels, height and width
# The attributes in the order of the file's second line.
_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes "
    "No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling "
    "Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
ATTRIBUTES = tuple(_NAMES.split())
# As published in folders, or all in one place, as torchvision lays it out.
PLACES = {
    "img_align_celeba": ("Img", "."),
    "list_attr_celeba.txt": ("Anno", "."),
    "list_eval_partition.txt": ("Eval", "."),
}


def find(root: Path, name: str) -> Path:
    """Return where a file or folder of CelebA lies below ``root``."""
    for place in PLACES[name]:
        if (path := root / place / name).exists():
            return path
    raise ProtocolError(
        f"{root / name} is missing. Download CelebA's aligned and cropped pictures "
        "(img_align_celeba.zip), list_attr_celeba.txt and list_eval_partition.txt from "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and unpack them so that --data holds "
        f"{root}/img_align_celeba/000001.jpg and so on beside the two lists, or keep the "
        "published folders Img, Anno and Eval"
    )


def read_attributes(path: Path) -> dict[str, list[str]]:
    """Return the forty fields "1" or "-1" of every picture."""
    lines = path.read_text(encoding="utf-8").splitlines()
    names = tuple(lines[1].split()) if len(lines) > 1 else ()
    if names != ATTRIBUTES:
        raise ProtocolError(
            f"{path}, line 2: expected the names of the {len(ATTRIBUTES)} attributes from "
            f"{ATTRIBUTES[0]} to {ATTRIBUTES[-1]}, found {' '.join(names)[:60]!r}"
        )
    rows = {}
    for number, line in enumerate(lines[2:], start=3):
        picture, *values = line.split() or [""]
        if len(values) != len(ATTRIBUTES) or not {"1", "-1"}.issuperset(values):
            raise ProtocolError(
                f"{path}, line {number}: expected a file name and {len(ATTRIBUTES)} times 1 or "
                f"-1, found {line[:60]!r}"
            )
        rows[picture] = values
    if lines[0].strip() != str(len(rows)):
        raise ProtocolError(
            f"{path} announces {lines[0].strip()[:20]!r} pictures in its first line and lists "
            f"{len(rows)}; download it again"
        )
    return rows


def read_partition(path: Path) -> dict[str, str]:
    """Return "0", "1" or "2" (training, validation, test) of every picture."""
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in SPLITS.values():
            raise ProtocolError(
                f"{path}, line {number}: expected a file name and 0, 1 or 2, found {line[:60]!r}"
            )
        rows[fields[0]] = fields[1]
    return rows


class Faces(Dataset):
    """One split: a picture ``(3, 64, 64)`` float32 from 0 to 1, and attributes ``(40,)`` float32.

    Args:
        root: the folder with CelebA.
        split: ``"train"``, ``"val"`` or ``"test"``.
        limit: use the first pictures only.

    Raises:
        ProtocolError: if a file is missing, or holds something else than it should.
    """

    def __init__(self, root: Path, split: str, limit: int | None = None) -> None:
        self.folder = find(root, "img_align_celeba")
        attributes_file = find(root, "list_attr_celeba.txt")
        partition_file = find(root, "list_eval_partition.txt")
        attributes, partition = read_attributes(attributes_file), read_partition(partition_file)
        if strange := attributes.keys() ^ partition.keys():
            raise ProtocolError(
                f"{min(strange)} is in one of {attributes_file} ({len(attributes)} pictures) "
                f"and {partition_file} ({len(partition)} pictures), but not in both"
            )
        self.names = [name for name in attributes if partition[name] == SPLITS[split]][:limit]
        if not self.names:
            raise ProtocolError(
                f"{partition_file} puts no picture into {split}, where a line's last field is "
                f"{SPLITS[split]}; download it again"
            )
        present = {path.name for path in self.folder.iterdir()}
        if missing := [name for name in self.names if name not in present]:
            raise ProtocolError(
                f"{self.folder / missing[0]} is missing, and {len(missing) - 1} more of {split}; "
                "unpack img_align_celeba.zip again"
            )
        values = [attributes[name] for name in self.names]
        self.attributes = torch.tensor(np.asarray(values) == "1", dtype=torch.float32)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Decode one picture and squeeze it to 64 x 64, without a crop."""
        path = self.folder / self.names[index]
        try:
            with Image.open(path) as opened:
                small = opened.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError) as error:
            raise ProtocolError(f"{path} cannot be read as a picture: {error}") from error
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        return {"image": pixels, "attributes": self.attributes[index]}


class F1Score:
    """F1 of every attribute over a split, in percent; 0 for one that nobody has or is given."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.right = self.predicted = self.true = torch.zeros(len(tasks), dtype=torch.int64)

    def update(self, predictions: Mapping[str, Tensor], truths: Mapping[str, Tensor]) -> None:
        """Take in a batch: for every task logits, and truth (0 or 1), both ``(batch,)``."""
        positive = torch.stack([predictions[task] > 0 for task in self.tasks], dim=1).cpu()
        true = torch.stack([truths[task] > 0.5 for task in self.tasks], dim=1).cpu()
        self.right = self.right + (positive & true).sum(0)
        self.predicted = self.predicted + positive.sum(0)
        self.true = self.true + true.sum(0)

    def result(self) -> dict[str, float]:
        """Return the F1 of every attribute."""
        f1 = 200 * self.right / (self.predicted + self.true).clamp(min=1)
        return dict(zip(self.tasks, f1.tolist(), strict=True))
