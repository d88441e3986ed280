"""The UNet decoder with scSE attention."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import SCSE, conv3x3_bn_relu
from models.resampling import resize


class UNetBlock(nn.Module):
    """Upsampling, concatenation with the skip map, scSE, two 3x3 convolutions, scSE."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, lightweight: bool = False
    ):
        super().__init__()
        joined = in_channels + skip_channels
        self.attention1 = SCSE(joined)
        self.conv1 = conv3x3_bn_relu(joined, out_channels, lightweight=lightweight)
        self.conv2 = conv3x3_bn_relu(out_channels, out_channels, lightweight=lightweight)
        self.attention2 = SCSE(out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(N, in, h, w) and skip -> (N, out, h', w'): size of the skip, or twice the input size."""
        if skip is None:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        else:
            x = torch.cat([resize(x, skip.shape[-2:]), skip], dim=1)
        return self.attention2(self.conv2(self.conv1(self.attention1(x))))


class UNetHead(nn.Module):
    """UNet decoder on all maps, then 2x upsampling blocks without skip to full resolution.

    For a five-map pyramid from stride 2, the blocks have c3, c2, c1, c1/2 and c1/4 channels.

    Reference: Ronneberger et al., U-Net, MICCAI 2015; scSE as in `models.layers.SCSE`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.blocks = nn.ModuleList()
        width = channels[-1]
        for i in reversed(range(len(channels) - 1)):
            out = channels[1] // 2 if strides[i] == 2 else channels[i]
            self.blocks.append(UNetBlock(width, channels[i], out, lightweight))
            width = out
        for _ in range(strides[0].bit_length() - 1):  # from stride 2^n to full resolution
            self.blocks.append(UNetBlock(width, 0, max(width // 2, 16), lightweight))
            width = max(width // 2, 16)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, out_channels, kernel_size=3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (N, out_channels, H, W) at about the image's resolution."""
        *skips, x = maps
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, skips.pop() if skips else None)
        return self.classifier(x)
