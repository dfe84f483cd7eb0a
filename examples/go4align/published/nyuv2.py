"""NYUv2: 13 classes, depth and surface normals of indoor scenes, in 795 + 654 images.

SegNet with attention, Adam 1e-4 halved after 100 epochs, 200 epochs of batches of 2; the result
is the mean over the last ten epochs' test results. Data: nyuv2.zip of https://github.com/lorenmt/mtan

    python nyuv2.py --data nyuv2 --method go4align-published
"""

from typing import ClassVar

from parts import command
from parts.dense import METRICS
from parts.dense_data import Layout
from parts.dense_protocol import DenseProtocol


class NYUv2(DenseProtocol):
    """Three tasks and nine metrics."""

    name = "nyuv2"
    layout = Layout(
        name="NYUv2",
        source="nyuv2.zip (prepared at 288 x 384 by MTAN's authors, https://github.com/lorenmt/mtan)",
        folders={
            "image": "image",
            "segmentation": "label",
            "depth": "depth",
            "normal": "normal",
        },
        n_classes=13,
        published={"train": 795, "val": 654},
    )
    metrics: ClassVar = METRICS
    published: ClassVar = {
        "mIoU": 38.30,
        "PixAcc": 63.76,
        "AbsErr": 0.6754,
        "RelErr": 0.2780,
        "mean": 25.01,
        "median": 19.21,
        "<11.25": 30.14,
        "<22.5": 57.20,
        "<30": 69.15,
    }
    epochs = 200
    batch = 2
    n_groups = 2
    famo_decay = 1e-3


def main(argv=None):
    return command.main(NYUv2, __doc__, argv)


if __name__ == "__main__":
    command.script(main)
