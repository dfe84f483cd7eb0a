"""CityScapes: 7 classes and inverse depth of street scenes, in 2975 + 500 images.

SegNet with attention, Adam 1e-4 halved after 100 epochs, 200 epochs of batches of 8; the result
is the mean over the last ten epochs' test results. Two tasks leave GO4Align nothing to group: its
two groups are the two tasks. Data: cityscapes2.zip of https://github.com/lorenmt/mtan

    python cityscapes.py --data cityscapes2 --method go4align-published
"""

from typing import ClassVar

from parts import command
from parts.dense import METRICS
from parts.dense_data import Layout
from parts.dense_protocol import DenseProtocol


class CityScapes(DenseProtocol):
    """Two tasks and four metrics."""

    name = "cityscapes"
    layout = Layout(
        name="CityScapes",
        source="cityscapes2.zip (prepared at 128 x 256 by MTAN's authors, https://github.com/lorenmt/mtan)",
        folders={"image": "image", "segmentation": "label_7", "depth": "depth"},
        n_classes=7,
        published={"train": 2975, "val": 500},
    )
    metrics: ClassVar = {task: METRICS[task] for task in ("segmentation", "depth")}
    # The depth is inverse and close to zero far away, hence a relative error beyond 1.
    published: ClassVar = {"mIoU": 74.01, "PixAcc": 93.16, "AbsErr": 0.0125, "RelErr": 27.77}
    epochs = 200
    batch = 8
    n_groups = 2
    famo_decay = 1e-2


def main(argv=None):
    return command.main(CityScapes, __doc__, argv)


if __name__ == "__main__":
    command.script(main)
