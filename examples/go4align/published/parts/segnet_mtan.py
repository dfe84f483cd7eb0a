"""SegNet with one attention branch per task (MTAN, arXiv 1803.10704), five levels deep."""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 5
MULTIPLE = 2**LEVELS  # height and width are halved at every level


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """Return convolution 3x3, batch norm and ReLU; height and width stay."""
    layers = (
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
    return nn.Sequential(*layers)


def mask(inputs: int, outputs: int) -> nn.Sequential:
    """Return an attention module: two convolutions 1x1 whose output lies between 0 and 1."""
    hidden = nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    return nn.Sequential(
        *hidden, nn.Conv2d(outputs, outputs, 1), nn.BatchNorm2d(outputs), nn.Sigmoid()
    )


def head(inputs: int, outputs: int) -> nn.Sequential:
    """Return the prediction of one task: convolutions 3x3 and 1x1 with nothing between them."""
    return nn.Sequential(nn.Conv2d(inputs, inputs, 3, padding=1), nn.Conv2d(inputs, outputs, 1))


def unpool(x: Tensor, places: Tensor) -> Tensor:
    """Put values back where ``max_pool2d(..., 2, return_indices=True)`` found them, among zeros.

    torch refuses ``max_unpool2d`` where deterministic algorithms are asked for, because windows
    could overlap; these do not.
    """
    batch, channels, height, width = x.shape
    zeros = x.new_zeros(batch, channels, 4 * height * width)
    return zeros.scatter(2, places.flatten(2), x.flatten(2)).view(batch, channels, 2 * height, -1)


class Branch(nn.Module):
    """What one task owns: a mask for each level of encoder and decoder, and a head."""

    def __init__(self, widths: list[int], below: list[int], outputs: int) -> None:
        super().__init__()
        # Except at the top level, a mask also sees what the branch found one level before.
        inputs = [widths[0], *(2 * width for width in widths[1:])]
        self.encoder = nn.ModuleList(map(mask, inputs, widths))
        inputs = [here + down for here, down in zip(widths, below, strict=True)]
        self.decoder = nn.ModuleList(map(mask, inputs, below))
        self.head = head(widths[0], outputs)


class SegNetMTAN(nn.Module):
    """A SegNet whose feature maps every task filters with masks of its own.

    The trunk is VGG-16's thirteen convolutions, mirrored; unpooling puts values back to where
    pooling found them. Each task multiplies the trunk's features by its masks and passes them on
    to the next level through convolutions that all tasks share.

    Shape:
        input ``(batch, 3, height, width)`` float32 with height and width multiples of 32;
        output a mapping of task to ``(batch, channels, height, width)``, without activation.

    Args:
        outputs: number of output channels of every task, in the order of the losses.
        width: channels of the top level; the levels have 1, 2, 4, 8 and 8 times as many. The
            published network has 64.
    """

    def __init__(self, outputs: Mapping[str, int], width: int = 64) -> None:
        super().__init__()
        widths = [width * times for times in (1, 2, 4, 8, 8)]
        above = [3, *widths[:-1]]  # channels that enter a level of the encoder
        below = [widths[0], *widths[:-1]]  # channels that leave a level of the decoder
        after = [*widths[1:], widths[-1]]  # channels that a branch hands to the next level
        extra = [1, 1, 2, 2, 2]  # convolutions behind a level's first one
        self.encoder_first = nn.ModuleList(map(conv, above, widths))
        self.decoder_first = nn.ModuleList(map(conv, widths, below))
        self.encoder_rest = nn.ModuleList(
            nn.Sequential(*(conv(n, n) for _ in range(times)))
            for n, times in zip(widths, extra, strict=True)
        )
        self.decoder_rest = nn.ModuleList(
            nn.Sequential(*(conv(n, n) for _ in range(times)))
            for n, times in zip(below, extra, strict=True)
        )
        self.branch_down = nn.ModuleList(map(conv, widths, after))
        self.branch_up = nn.ModuleList(map(conv, widths, below))
        self.branches = nn.ModuleDict(
            {task: Branch(widths, below, channels) for task, channels in outputs.items()}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """Yield all parameters but the heads'.

        The masks count as shared, as in the reference: the gradient of a loss with respect to
        another task's masks is zero.
        """
        return (p for name, p in self.named_parameters() if ".head." not in name)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict the maps of all tasks."""
        if images.shape[-2] % MULTIPLE or images.shape[-1] % MULTIPLE:
            raise ValueError(
                f"images have height and width {tuple(images.shape[-2:])}; the network halves them "
                f"{LEVELS} times: crop or pad them to multiples of {MULTIPLE}"
            )
        down, up = self._trunk(images)
        return {task: self._branch(branch, down, up) for task, branch in self.branches.items()}

    def _trunk(self, x: Tensor) -> tuple[list, list]:
        """Return for every level, top first, the maps before and after its later convolutions."""
        down, up, places = [], [None] * LEVELS, []
        for level in range(LEVELS):
            first = self.encoder_first[level](x)
            down.append((first, self.encoder_rest[level](first)))
            x, place = F.max_pool2d(down[-1][1], 2, return_indices=True)
            places.append(place)
        for level in reversed(range(LEVELS)):
            unpooled = unpool(x, places[level])
            x = self.decoder_rest[level](self.decoder_first[level](unpooled))
            up[level] = (unpooled, x)
        return down, up

    def _branch(self, branch: Branch, down: list, up: list) -> Tensor:
        """Run one task's attention over the trunk's maps."""
        x = None
        for level, (first, last) in enumerate(down):
            seen = first if x is None else torch.cat([first, x], dim=1)
            x = F.max_pool2d(self.branch_down[level](branch.encoder[level](seen) * last), 2)
        for level in reversed(range(LEVELS)):
            unpooled, last = up[level]
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            seen = torch.cat([unpooled, self.branch_up[level](x)], dim=1)
            x = branch.decoder[level](seen) * last
        return branch.head(x)
