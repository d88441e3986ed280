"""PSPNet and DeepLabV3+ of mmsegmentation, used for the published weights of NAIC 2020.

Except for the backbone, attribute names are those of the published code. The networks differ from
`models.heads` in widths, auxiliary head and positions of batch norms.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.backbones import Backbone
from models.land_cover import LandCoverNetwork
from models.layers import conv3x3
from models.resampling import resize

WIDTH = 512  # channels of the decode heads
AUX_WIDTH = 256  # channels of the auxiliary head
FINE_WIDTH = 48  # channels of the fine map in DeepLabV3+


def conv_module(
    in_channels: int, out_channels: int, kernel_size: int = 1, lightweight: bool = False
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; published names."""
    if kernel_size == 3:
        conv = conv3x3(in_channels, out_channels, lightweight=lightweight)
    else:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
    return _named(conv, out_channels)


def _named(conv: nn.Module, out_channels: int) -> nn.Sequential:
    parts = {"conv": conv, "bn": nn.BatchNorm2d(out_channels), "activate": nn.ReLU(inplace=True)}
    return nn.Sequential(OrderedDict(parts))


def separable_module(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3 and 1x1 convolution, each with batch norm and ReLU."""
    depthwise = nn.Conv2d(
        in_channels,
        in_channels,
        kernel_size=3,
        padding=dilation,
        dilation=dilation,
        groups=in_channels,
        bias=False,
    )
    parts = {
        "depthwise_conv": _named(depthwise, in_channels),
        "pointwise_conv": conv_module(in_channels, out_channels),
    }
    return nn.Sequential(OrderedDict(parts))


class MMSegHead(nn.Module):
    """Base class of the heads: dropout of whole channels, then a 1x1 classifier."""

    def __init__(self, width: int, out_channels: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(width, out_channels, kernel_size=1)

    def initialise(self) -> None:
        """Initialises as published: Kaiming normal (fan out), classifier from N(0, 0.01)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.conv_seg.weight, 0.0, 0.01)
        nn.init.zeros_(self.conv_seg.bias)

    def score(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> (N, out_channels, h, w)."""
        return self.conv_seg(self.dropout(x))


class MMSegPSPHead(MMSegHead):
    """Pyramid pooling (1, 4, 9, 36 regions) on the last map, 3x3 convolution, classifier.

    Reference: Zhao et al., Pyramid Scene Parsing Network, CVPR 2017.
    """

    bins = (1, 2, 3, 6)

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(WIDTH, out_channels, dropout)
        deep = channels[-1]
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), conv_module(deep, WIDTH))
            for bins in self.bins
        )
        joined = deep + len(self.bins) * WIDTH
        self.bottleneck = conv_module(joined, WIDTH, 3, lightweight)
        self.initialise()

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (N, out_channels, h, w) at the last map's resolution."""
        x = maps[-1]
        pooled = [resize(module(x), x.shape[-2:]) for module in self.psp_modules]
        return self.score(self.bottleneck(torch.cat([x, *pooled], dim=1)))


class SeparableASPPHead(MMSegHead):
    """ASPP with separable convolutions on the last map, joined with 48 channels of the first.

    Reference: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image
    Segmentation, ECCV 2018.
    """

    rates = (12, 24, 36)

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(WIDTH, out_channels, dropout)
        fine, deep = channels[0], channels[-1]
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_module(deep, WIDTH))
        self.aspp_modules = nn.ModuleList(
            [conv_module(deep, WIDTH), *(separable_module(deep, WIDTH, r) for r in self.rates)]
        )
        joined = (2 + len(self.rates)) * WIDTH
        self.bottleneck = conv_module(joined, WIDTH, 3, lightweight)
        self.c1_bottleneck = conv_module(fine, FINE_WIDTH)
        self.sep_bottleneck = nn.Sequential(
            separable_module(WIDTH + FINE_WIDTH, WIDTH), separable_module(WIDTH, WIDTH)
        )
        self.initialise()

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first -> (N, out_channels, h, w) at the first map's resolution."""
        fine, deep = maps[0], maps[-1]
        pooled = self.image_pool(deep).expand(-1, -1, *deep.shape[-2:])
        branches = [module(deep) for module in self.aspp_modules]
        x = self.bottleneck(torch.cat([pooled, *branches], dim=1))
        x = torch.cat([resize(x, fine.shape[-2:]), self.c1_bottleneck(fine)], dim=1)
        return self.score(self.sep_bottleneck(x))


class AuxiliaryHead(MMSegHead):
    """3x3 convolution and classifier, for an auxiliary loss in training."""

    def __init__(
        self, in_channels: int, out_channels: int, lightweight: bool = False, dropout: float = 0.1
    ):
        super().__init__(AUX_WIDTH, out_channels, dropout)
        self.convs = nn.Sequential(conv_module(in_channels, AUX_WIDTH, 3, lightweight))
        self.initialise()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, out_channels, h, w)."""
        return self.score(self.convs(x))


class MMSegNetwork(LandCoverNetwork):
    """Base class of the two networks: a decode head on the finest (stride 4) and the deepest map.

    In training, an auxiliary head reads the second deepest map. Published with a ResNet-101 with
    deep stem, at output stride 8 or 16.

    Args:
        backbone, num_classes, with_change: as in LandCoverNetwork.
        lightweight: depthwise-separable instead of full 3x3 convolutions in the heads.
        dropout: dropout of whole channels before the classifiers, 0..1.
    """

    usual_backbone = "resnet101c"
    decode_head_type: ClassVar[type[MMSegHead]]

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        with_change: bool = False,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__(backbone, num_classes, with_change)
        channels = [backbone.channels[backbone.fine], backbone.merged_channels]
        strides = [backbone.strides[backbone.fine], backbone.merged_stride]
        options = {"lightweight": lightweight, "dropout": dropout}
        self.decode_head = self.decode_head_type(channels, strides, num_classes, **options)
        self.auxiliary_head = AuxiliaryHead(backbone.channels[-2], num_classes, **options)

    def classify(self, maps: list[Tensor]) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        read = [maps[self.backbone.fine], self.backbone.merge(maps)]
        aux = self.auxiliary_head(maps[-2]) if self.training else None
        return self.decode_head(read), aux


class MMSegPSPNet(MMSegNetwork):
    """PSPNet, the published network of NAIC 2020."""

    decode_head_type = MMSegPSPHead


class MMSegDeepLabV3Plus(MMSegNetwork):
    """DeepLabV3+, published for comparison."""

    decode_head_type = SeparableASPPHead
