"""The encoder of CelebA: seven convolutions, two fully connected layers, one output per task."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn


def conv(inputs: int, outputs: int) -> list[nn.Module]:
    """Return convolution 3x3 without bias, batch norm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]


def full(width: int) -> list[nn.Module]:
    """Return a fully connected layer without bias, batch norm and ReLU."""
    return [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]


class FaceEncoder(nn.Module):
    """One shared encoder and a linear output per attribute.

    This is the network that FAMO released. The text of GO4Align counts five convolutions.

    Shape:
        input ``(batch, 3, height, width)`` float32, 64 x 64 as published; outputs a mapping of
        task to logits ``(batch,)``, and the shared features ``(batch, 8 * width)``.

    Args:
        tasks: names of the attributes, in the order of the losses.
        width: channels of the first convolution, 64 as published.
    """

    def __init__(self, tasks: Sequence[str], width: int = 64) -> None:
        super().__init__()
        one, two, four, eight = width, 2 * width, 4 * width, 8 * width
        self.shared = nn.Sequential(
            *conv(3, one),
            nn.MaxPool2d(2),
            *conv(one, two),
            *conv(two, two),
            nn.MaxPool2d(2),
            *conv(two, four),
            *conv(four, four),
            nn.MaxPool2d(2),
            *conv(four, eight),
            *conv(eight, eight),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *full(eight),
            *full(eight),
        )
        self.heads = nn.ModuleList(nn.Linear(eight, 1) for _ in tasks)
        self.tasks = tuple(tasks)

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the encoder's parameters."""
        return self.shared.parameters()

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the logits of all tasks, and the features that they share."""
        features = self.shared(images)
        logits = [head(features).squeeze(1) for head in self.heads]
        return dict(zip(self.tasks, logits, strict=True)), features
