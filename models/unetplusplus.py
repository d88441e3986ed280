"""The UNet++ decoder: nested, densely connected skips."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import conv3x3_bn_relu


class DenseNode(nn.Module):
    """Upsampling (nearest), concatenation with the skips, two 3x3 convolutions."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, lightweight: bool = False
    ):
        super().__init__()
        self.conv1 = conv3x3_bn_relu(in_channels + skip_channels, out_channels, 1, lightweight)
        self.conv2 = conv3x3_bn_relu(out_channels, out_channels, 1, lightweight)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """(N, in, h, w) -> (N, out, h', w'): size of the skips, or twice the input size."""
        if skips:
            x = F.interpolate(x, size=skips[0].shape[-2:], mode="nearest")
        else:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv2(self.conv1(torch.cat([x, *skips], dim=1)))


class UNetPlusPlusHead(nn.Module):
    """UNet++ decoder on all maps.

    Node x_row_column reads the previous node of its row (or an encoder map), upsampled, and the
    other nodes and the encoder map of its column, which have its resolution. The last node has
    twice the resolution of the finest map.

    Reference: Zhou et al., UNet++: A Nested U-Net Architecture, DLMIA 2018.
    """

    widths = (256, 128, 64, 32, 16)  # row 0 of a five-map pyramid, deepest first

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        encoder = list(reversed(channels))  # deepest first
        self.depth = depth = len(encoder) - 1
        widths = [*self.widths[:depth], self.widths[-1]] if depth else [self.widths[-1]]
        self.blocks = nn.ModuleDict()
        for column in range(depth):  # column c: c + 1 levels above the deepest map
            skip = encoder[column + 1]
            for row in range(column + 1):
                before = (
                    encoder[column]
                    if row == column
                    else self._width(row, column - 1, widths, encoder)
                )
                out = self._width(row, column, widths, encoder)
                self.blocks[f"x_{row}_{column}"] = DenseNode(
                    before, skip * (column - row + 1), out, lightweight
                )
        last_in = widths[depth - 1] if depth else encoder[0]
        self.blocks[f"x_0_{depth}"] = DenseNode(last_in, 0, widths[-1], lightweight)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(widths[-1], out_channels, kernel_size=3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """Initialises as published: Kaiming uniform (nodes), Xavier uniform (classifier)."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    @staticmethod
    def _width(row: int, column: int, widths: Sequence[int], encoder: Sequence[int]) -> int:
        """Output channels of node x_row_column: the decoder's in row 0, the encoder's elsewhere."""
        return widths[column] if row == 0 else encoder[column + 1]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (N, out_channels, h, w) at twice the first map's resolution."""
        encoder = [self.dropout(maps[-1]), *maps[-2::-1]]  # deepest first
        nodes: dict[tuple[int, int], Tensor] = {}
        for column in range(self.depth):
            for row in reversed(range(column + 1)):
                before = encoder[column] if row == column else nodes[row, column - 1]
                skips = [nodes[r, column] for r in range(row + 1, column + 1)] + [
                    encoder[column + 1]
                ]
                nodes[row, column] = self.blocks[f"x_{row}_{column}"](before, skips)
        last = nodes[0, self.depth - 1] if self.depth else encoder[0]
        return self.classifier(self.blocks[f"x_0_{self.depth}"](last, []))
