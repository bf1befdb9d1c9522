"""The convolutions behind a backbone that shrink its last feature map to a single cell (section 3 of the SSD paper).

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def halved(side: int) -> int:
    """Side of a map after a convolution of stride 2 with padding."""
    return -(-side // 2)


def extra_steps(side: int) -> list[tuple[int, int, int, int]]:
    """(kernel, stride, padding, new side) of each extra layer until one cell is left.

    Halving, but 5 -> 3 -> 1 without padding and 2 -> 1 by a padded 4 x 4: what the paper does at 300 (19, 10, 5, 3, 1)
    and at 512 (32, 16, 8, 4, 2, 1).
    """
    steps: list[tuple[int, int, int, int]] = []
    while side > 1:
        if side in (3, 5):
            steps.append((3, 1, 0, side - 2))
        elif side == 2:
            steps.append((4, 1, 1, 1))
        else:
            steps.append((3, 2, 1, halved(side)))
        side = steps[-1][-1]
    return steps


class ExtraLayer(nn.Module):
    """1 x 1 convolution to fewer channels, then the one that shrinks the map; BatchNorm after each if `norm`."""

    def __init__(
        self, channels: int, reduced: int, out_channels: int, step: tuple[int, int, int, int], norm: bool
    ) -> None:
        super().__init__()
        kernel, stride, padding, _ = step
        self.reduce = nn.Conv2d(channels, reduced, 1, bias=not norm)
        self.reduce_norm = nn.BatchNorm2d(reduced) if norm else nn.Identity()
        self.expand = nn.Conv2d(reduced, out_channels, kernel, stride, padding, bias=not norm)
        self.expand_norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = F.relu(self.reduce_norm(self.reduce(x_BCHW)), inplace=True)
        return F.relu(self.expand_norm(self.expand(x)), inplace=True)


def extra_layers(side: int, channels: int, widths: Sequence[tuple[int, int]], *, norm: bool) -> nn.ModuleList:
    """The extra layers behind a map of this side; `widths` are (reduced, out) channels, the last for all others."""
    layers = nn.ModuleList()
    for number, step in enumerate(extra_steps(side)):
        reduced, out_channels = widths[min(number, len(widths) - 1)]
        layers.append(ExtraLayer(channels, reduced, out_channels, step, norm))
        channels = out_channels
    return layers
