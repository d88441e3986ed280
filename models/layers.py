"""Building blocks of the heads. Every map is (N, C, h, w)."""

import torch
from torch import Tensor, nn

from models.resampling import region_means, resize


class SeparableConv3x3(nn.Module):
    """Depthwise 3x3, batch norm, ReLU, then 1x1 convolution; a cheap replacement of a 3x3."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(
                in_channels,
                in_channels,
                kernel_size=3,
                padding=dilation,
                dilation=dilation,
                groups=in_channels,
                bias=False,
            ),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, h, w) -> (N, out, h, w)."""
        return self.conv(x)


def conv3x3(
    in_channels: int,
    out_channels: int,
    dilation: int = 1,
    lightweight: bool = False,
    bias: bool = False,
) -> nn.Module:
    """3x3 convolution that keeps the size; `lightweight`: depthwise-separable, without bias."""
    if lightweight:
        return SeparableConv3x3(in_channels, out_channels, dilation)
    return nn.Conv2d(
        in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation, bias=bias
    )


def conv3x3_bn_relu(
    in_channels: int, out_channels: int, dilation: int = 1, lightweight: bool = False
) -> nn.Sequential:
    """`conv3x3`, batch norm, ReLU."""
    return nn.Sequential(
        conv3x3(in_channels, out_channels, dilation, lightweight),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def conv1x1_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution without bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class PyramidPooling(nn.Module):
    """Concatenates the input with its means over 1, 4, 9, 36 regions: C -> C + 4 * (C // 4).

    Reference: Zhao et al., Pyramid Scene Parsing Network, CVPR 2017, section 3.2.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, in_channels: int):
        super().__init__()
        self.out_channels = in_channels + len(self.bins) * (in_channels // 4)
        for i in range(len(self.bins)):
            self.add_module(f"conv{i + 1}", conv1x1_bn_relu(in_channels, in_channels // 4))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, out_channels, h, w)."""
        maps = [x]
        for i, means in enumerate(region_means(x, self.bins), start=1):
            maps.append(resize(self.get_submodule(f"conv{i}")(means), x.shape[-2:]))
        return torch.cat(maps, dim=1)


class ImagePooling(nn.Module):
    """Mean over the whole map, 1x1 convolution, batch norm, ReLU, expanded to the input size."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.gap = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, h, w) -> (N, out, h, w), constant over h and w."""
        return self.gap(x).expand(-1, -1, *x.shape[-2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: five parallel branches, C -> C // 8 channels.

    Reference: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image
    Segmentation, ECCV 2018, section 3.1.
    """

    def __init__(
        self,
        in_channels: int,
        rates: tuple[int, int, int] = (12, 24, 36),
        lightweight: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.out_channels = out = in_channels // 8
        self.b0 = conv1x1_bn_relu(in_channels, out)
        self.b1 = conv3x3_bn_relu(in_channels, out, rates[0], lightweight)
        self.b2 = conv3x3_bn_relu(in_channels, out, rates[1], lightweight)
        self.b3 = conv3x3_bn_relu(in_channels, out, rates[2], lightweight)
        self.b4 = ImagePooling(in_channels, out)
        self.project = nn.Sequential(*conv1x1_bn_relu(5 * out, out), nn.Dropout2d(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C // 8, h, w)."""
        branches = [self.b0(x), self.b1(x), self.b2(x), self.b3(x), self.b4(x)]
        return self.project(torch.cat(branches, dim=1))


class SCSE(nn.Module):
    """Squeeze and excitation over channels and over pixels, summed.

    Reference: Roy et al., Concurrent Spatial and Channel Squeeze & Excitation in Fully
    Convolutional Networks, MICCAI 2018.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, kernel_size=1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, kernel_size=1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        return x * (self.cSE(x) + self.sSE(x))
