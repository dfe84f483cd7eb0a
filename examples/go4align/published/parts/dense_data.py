"""Readers of NYUv2 and CityScapes as MTAN's authors prepared them, and their augmentation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .errors import ProtocolError
from .segnet_mtan import MULTIPLE

SCALES = (1.0, 1.2, 1.5)
IGNORED = -1  # the label of pixels without a class
CHANNELS = {"image": 3, "depth": 1, "normal": 3}  # labels have no channel dimension


@dataclass(frozen=True)
class Layout:
    """Which folders of arrays make up one data set.

    Attributes:
        name: the data set, for messages.
        source: where its files can be had, for messages.
        folders: folder of ``"image"`` and of every task, below ``train`` and ``val``.
        n_classes: number of classes; labels are -1 (ignored) to ``n_classes - 1``.
        published: number of items of the published ``train`` and ``val``.
    """

    name: str
    source: str
    folders: Mapping[str, str]
    n_classes: int
    published: Mapping[str, int]

    def help(self, root: Path) -> str:
        """Say what to download and how to lay it out."""
        folders = ",".join(self.folders.values())
        return (
            f"Download {self.source} and unpack it so that --data holds "
            f"{root}/{{train,val}}/{{{folders}}}/0.npy, 1.npy and so on"
        )


class ArrayFolders(Dataset):
    """One split: item ``i`` is ``<root>/<split>/<folder>/<i>.npy`` of every folder.

    An item maps ``"image"`` and the tasks to tensors: image ``(3, H, W)`` float32, segmentation
    ``(H, W)`` int64, depth ``(1, H, W)`` and normal ``(3, H, W)`` float32. A file is checked when
    it is read, the lists of files at once.

    Args:
        layout: the data set.
        root: the folder with ``train`` and ``val``.
        split: ``"train"`` or ``"val"``.
        tasks: which tasks' folders are read beside the images.
        limit: use the first items only.

    Raises:
        ProtocolError: if a folder or file is missing, or holds something else than it should.
    """

    def __init__(
        self,
        layout: Layout,
        root: Path,
        split: str,
        tasks: Sequence[str],
        limit: int | None = None,
    ) -> None:
        self.layout = layout
        names = {what: layout.folders[what] for what in ("image", *tasks)}
        self.folders = {what: root / split / name for what, name in names.items()}
        for folder in self.folders.values():
            if not folder.is_dir():
                raise ProtocolError(f"{folder} is missing. {layout.help(root)}")
        found = {task: self._count(folder, root) for task, folder in self.folders.items()}
        self.n_files = found["image"]
        for task, count in found.items():
            if count != self.n_files:
                raise ProtocolError(
                    f"{self.folders[task]} has {count} files, {self.folders['image']} has "
                    f"{self.n_files}: every image needs one. {layout.help(root)}"
                )
        self.n_items = min(self.n_files, limit or self.n_files)
        self.size = tuple(_load(self.folders["image"] / "0.npy").shape[:2])

    def _count(self, folder: Path, root: Path) -> int:
        names = {path.name for path in folder.glob("*.npy")}
        if missing := [f"{i}.npy" for i in range(len(names) or 1) if f"{i}.npy" not in names]:
            raise ProtocolError(
                f"{folder / missing[0]} is missing; the folder has {len(names)} .npy files, which "
                f"should be numbered from 0 without a gap. {self.layout.help(root)}"
            )
        return len(names)

    def __len__(self) -> int:
        """Return the number of items."""
        return self.n_items

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Read and check the files of one item."""
        return {task: self._read(task, index) for task in self.folders}

    def _read(self, task: str, index: int) -> Tensor:
        path = self.folders[task] / f"{index}.npy"
        array = _load(path)
        channels = CHANNELS.get(task)
        shape = self.size if channels is None else (*self.size, channels)
        if array.shape != shape or array.shape[0] % MULTIPLE or array.shape[1] % MULTIPLE:
            raise ProtocolError(
                f"{path} has shape {array.shape}; expected {shape} as image/0.npy, with height "
                f"and width multiples of {MULTIPLE}"
            )
        if channels is None:
            return _labels(path, array, self.layout.n_classes)
        if not np.issubdtype(array.dtype, np.floating):
            raise ProtocolError(
                f"{path} has dtype {array.dtype}; expected a floating type (images from 0 to 1, "
                "depth and normals as they are)"
            )
        if not np.isfinite(array).all():
            raise ProtocolError(f"{path} has values that are not finite; download it again")
        return torch.from_numpy(np.moveaxis(array, -1, 0).astype(np.float32))


def _load(path: Path) -> NDArray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ProtocolError(f"{path} cannot be read as a .npy array: {error}") from error


def _labels(path: Path, array: NDArray, n_classes: int) -> Tensor:
    """Check class numbers, which the published files keep as floats."""
    if array.dtype.kind not in "iuf":
        raise ProtocolError(f"{path} has dtype {array.dtype}; expected class numbers")
    fits = (array >= IGNORED) & (array < n_classes) & (array == np.round(array))
    if not fits.all():
        raise ProtocolError(
            f"{path} has the label {array[~fits][0]}; expected whole numbers from {IGNORED} "
            f"(ignored) to {n_classes - 1}"
        )
    return torch.from_numpy(array.astype(np.int64))


def augment(item: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Crop at a random scale and mirror every other item, the same way for all of its maps.

    A crop of 1/1.2 or 1/1.5 of the size is enlarged to the full one: labels and depth take the
    nearest pixel, image and normals are interpolated. What is enlarged looks nearer, so depth is
    divided by the scale. In the mirror the first component of a normal changes its sign.

    Args:
        item: maps of one item, as :class:`ArrayFolders` returns them; left as they are.
        rng: source of the scale, the place of the crop, and the mirroring.

    Returns:
        New maps of the same shapes and dtypes.
    """
    height, width = item["image"].shape[-2:]
    scale = SCALES[rng.integers(len(SCALES))]
    rows, columns = int(height / scale), int(width / scale)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    mirrored = rng.random() < 0.5
    maps = {}
    for task, whole in item.items():
        crop = whole[..., top : top + rows, left : left + columns]
        if task in ("image", "normal"):
            how = {"mode": "bilinear", "align_corners": True}
        else:
            how = {"mode": "nearest"}
        planes = crop.reshape(1, -1, rows, columns).float()  # float holds class numbers exactly
        resized = F.interpolate(planes, size=(height, width), **how)
        maps[task] = resized.reshape(whole.shape).to(whole.dtype)
    if "depth" in maps:
        maps["depth"] = maps["depth"] / scale
    if mirrored:
        maps = {task: whole.flip(-1) for task, whole in maps.items()}
        if "normal" in maps:
            maps["normal"][0].neg_()
    return maps
