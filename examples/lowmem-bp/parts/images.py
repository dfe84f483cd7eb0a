"""Loaders of pictures: a folder per class, or the batches of CIFAR.

A row is (picture, label); the picture is a path or an array of shape (height, width, 3).
"""

import pickle

import numpy as np

PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
# What a pickled array consists of; any other name in a pickle could run its author's code.
SAFE = {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": np.empty(0).__reduce__()[0]}


class CifarUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists, mappings and arrays, and nothing else."""

    def find_class(self, module, name):
        """Refuse everything but arrays."""
        if module.partition(".")[0] != "numpy" or name not in SAFE:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which was not run")
        return SAFE[name]


def cifar(path):
    """Return the rows of one batch file of CIFAR-10 or CIFAR-100, "python version"."""
    try:
        with path.open("rb") as file:
            batch = CifarUnpickler(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CIFAR batch: {error}") from error
    fields = batch if isinstance(batch, dict) else {}
    labels = fields.get(b"fine_labels", fields.get(b"labels", ()))
    if not labels or np.shape(fields.get(b"data")) != (len(labels), 3 * 32 * 32):
        raise ValueError(f"{path}: expected labels, and as many rows of data with 3072 bytes each")
    # A row holds the red plane, then green, then blue; a picture has its channels last.
    pictures = fields[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return list(zip(pictures, labels, strict=True))


def folders(folder, classes):
    """Return the rows of a folder that has a subfolder per class."""
    paths = [path for path in sorted(folder.glob("*/*")) if path.suffix.lower() in PICTURES]
    if not paths:
        raise ValueError(f"{folder}: expected a subfolder per class with pictures in it")
    if strange := sorted({path.parent.name for path in paths} - set(classes)):
        raise ValueError(f"{folder}: classes {strange} are not in train/, which has {classes}")
    return [(path, classes.index(path.parent.name)) for path in paths]


def load(folder):
    """Return the training rows and the held-out rows of a data set."""
    if (folder / "train").is_dir():
        classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
        return folders(folder / "train", classes), folders(folder / "val", classes)
    if batches := sorted(folder.glob("data_batch_*")):  # CIFAR-10
        return [row for path in batches for row in cifar(path)], cifar(folder / "test_batch")
    if (folder / "train").is_file():  # CIFAR-100
        return cifar(folder / "train"), cifar(folder / "test")
    raise ValueError(
        f"{folder}: expected train/ and val/ with a subfolder of pictures per class, or the files "
        "of CIFAR-10 (data_batch_1 to 5, test_batch) or CIFAR-100 (train, test)"
    )
