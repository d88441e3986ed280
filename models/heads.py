"""Heads: convert feature maps to logits.

Every head is built as `Head(channels, strides, out_channels, lightweight=..., dropout=...)` with
the channels and strides of its input maps, finest first. `forward` maps a list of maps, each
(N, C_i, h_i, w_i), to logits (N, out_channels, h, w). The resolution depends on the head; the
network resizes the logits. Heads do not depend on the backbone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import ASPP, PyramidPooling, conv1x1_bn_relu, conv3x3_bn_relu
from models.resampling import resize


class FCNHead(nn.Module):
    """3x3 convolution to a quarter of the channels, then a 1x1 classifier, on the last map.

    Reference: Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015.
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
        inner = channels[-1] // 4
        self.head = nn.Sequential(
            *conv3x3_bn_relu(channels[-1], inner, lightweight=lightweight),
            nn.Dropout(dropout),
            nn.Conv2d(inner, out_channels, kernel_size=1),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (N, out_channels, h, w) at the last map's resolution."""
        return self.head(maps[-1])


class PSPHead(nn.Module):
    """Pyramid pooling, then the layers of `FCNHead`, on the last map.

    Reference: Zhao et al., Pyramid Scene Parsing Network, CVPR 2017.
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
        inner = channels[-1] // 4
        pooling = PyramidPooling(channels[-1])
        self.conv5 = nn.Sequential(
            pooling,
            *conv3x3_bn_relu(pooling.out_channels, inner, lightweight=lightweight),
            nn.Dropout(dropout),
            nn.Conv2d(inner, out_channels, kernel_size=1),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (N, out_channels, h, w) at the last map's resolution."""
        return self.conv5(maps[-1])


class DeepLabV3PlusHead(nn.Module):
    """ASPP on the last map, concatenated with 48 channels of the first, finer map.

    Reference: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image
    Segmentation, ECCV 2018.
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
        # The ASPP dropout (0.5 by default) scales with `dropout`, so that 0 disables both.
        self.aspp = ASPP(channels[-1], lightweight=lightweight, dropout=min(5 * dropout, 0.9))
        self.reduce = conv1x1_bn_relu(channels[0], 48)
        self.fuse = nn.Sequential(
            *conv3x3_bn_relu(self.aspp.out_channels + 48, 256, lightweight=lightweight),
            *conv3x3_bn_relu(256, 256, lightweight=lightweight),
            nn.Dropout(dropout),
        )
        self.classifier = nn.Conv2d(256, out_channels, kernel_size=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (N, out_channels, h, w) at the first map's resolution."""
        deep = resize(self.aspp(maps[-1]), maps[0].shape[-2:])
        return self.classifier(self.fuse(torch.cat([deep, self.reduce(maps[0])], dim=1)))
