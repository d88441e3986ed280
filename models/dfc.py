"""DeepLabV3+ of the DFC2020 baseline.

Except for the backbone, attribute names are those of the published code.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from models.backbones import Backbone
from models.land_cover import LandCoverNetwork
from models.layers import conv3x3, conv3x3_bn_relu
from models.resampling import resize

WIDTH = 256  # channels of the ASPP and the decoder
FINE_WIDTH = 48  # channels of the fine map in the decoder


def branch(
    in_channels: int, kernel_size: int = 1, dilation: int = 1, lightweight: bool = False
) -> nn.Sequential:
    """1x1 or dilated 3x3 convolution to 256 channels, batch norm, ReLU; published names."""
    if kernel_size == 3:
        conv = conv3x3(in_channels, WIDTH, dilation, lightweight)
    else:
        conv = nn.Conv2d(in_channels, WIDTH, kernel_size=1, bias=False)
    parts = {"atrous_conv": conv, "bn": nn.BatchNorm2d(WIDTH), "relu": nn.ReLU(inplace=True)}
    return nn.Sequential(OrderedDict(parts))


class DFCASPP(nn.Module):
    """Atrous spatial pyramid pooling: five parallel branches, C -> 256 channels.

    Reference: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017.
    """

    def __init__(
        self,
        in_channels: int,
        rates: tuple[int, int, int],
        lightweight: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.aspp1 = branch(in_channels)
        self.aspp2 = branch(in_channels, 3, rates[0], lightweight)
        self.aspp3 = branch(in_channels, 3, rates[1], lightweight)
        self.aspp4 = branch(in_channels, 3, rates[2], lightweight)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, WIDTH, kernel_size=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
        )
        self.conv1 = nn.Conv2d(5 * WIDTH, WIDTH, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, 256, h, w), >= 0."""
        branches = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x)]
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:])
        x = self.conv1(torch.cat([*branches, pooled], dim=1))
        return self.dropout(self.bn1(x).relu())


class Decoder(nn.Module):
    """Concatenates the upsampled deep map with 48 channels of the fine map, then classifies."""

    def __init__(
        self,
        fine_channels: int,
        num_classes: int,
        lightweight: bool = False,
        dropout: float = 0.1,
        first_dropout: float = 0.5,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(fine_channels, FINE_WIDTH, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(FINE_WIDTH)
        self.last_conv = nn.Sequential(
            *conv3x3_bn_relu(WIDTH + FINE_WIDTH, WIDTH, lightweight=lightweight),
            nn.Dropout(first_dropout),
            *conv3x3_bn_relu(WIDTH, WIDTH, lightweight=lightweight),
            nn.Dropout(dropout),
            nn.Conv2d(WIDTH, num_classes, kernel_size=1),
        )

    def forward(self, deep: Tensor, fine: Tensor) -> Tensor:
        """(N, 256, h', w') and (N, C, h, w) -> (N, K, h, w)."""
        fine = self.bn1(self.conv1(fine)).relu()
        deep = resize(deep, fine.shape[-2:], align_corners=True)
        return self.last_conv(torch.cat([deep, fine], dim=1))


class DFCDeepLabV3Plus(LandCoverNetwork):
    """DeepLabV3+ with a multigrid backbone and aligned corners everywhere.

    Published with a ResNet-101 (dilated by `models.backbones.dilate_blocks`). Backbones other than
    ResNets keep the dilation of timm.

    Args:
        backbone, num_classes, with_change: as in LandCoverNetwork.
        lightweight: depthwise-separable instead of full 3x3 convolutions below the backbone.
        dropout: dropout before the classifier, 0..1; five times that, at most 0.9, in the ASPP and
            between the convolutions of the decoder. Published: 0.1 and 0.5.

    Reference: Schmitt et al., Weakly Supervised Semantic Segmentation of Satellite Images for Land
    Cover Mapping, 2020 (arXiv 2002.08254); Chen et al., Encoder-Decoder with Atrous Separable
    Convolution for Semantic Image Segmentation, ECCV 2018.
    """

    usual_backbone = "resnet101"
    dense_output_stride = 16
    multigrid = (1, 2, 4)
    align_corners = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        with_change: bool = False,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(backbone, num_classes, with_change)
        rates = (12, 24, 36) if backbone.merged_stride <= 8 else (6, 12, 18)
        strong, fine = min(5 * dropout, 0.9), backbone.channels[backbone.fine]
        self.aspp = DFCASPP(backbone.merged_channels, rates, lightweight, strong)
        self.decoder = Decoder(fine, num_classes, lightweight, dropout, strong)
        for part in (self.aspp, self.decoder):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)

    def classify(self, maps: list[Tensor]) -> tuple[Tensor, None]:  # noqa: D102
        deep = self.aspp(self.backbone.merge(maps))
        return self.decoder(deep, maps[self.backbone.fine]), None
