"""The U-Net of the DFC2020 baseline: no backbone, no attention, bilinear upsampling.

Attribute names are the published ones. (`unet` is another network: scSE attention, any backbone.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.land_cover import check_classes_only
from models.layers import conv3x3
from models.siamese import Network
from utils.structures import Logits


class DoubleConv(nn.Module):
    """Two blocks of 3x3 convolution with bias, batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, lightweight: bool = False):
        super().__init__()
        self.double_conv = nn.Sequential(
            conv3x3(in_channels, out_channels, lightweight=lightweight, bias=True),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            conv3x3(out_channels, out_channels, lightweight=lightweight, bias=True),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, h, w) -> (N, out, h, w), >= 0."""
        return self.double_conv(x)


class Down(nn.Module):
    """2x2 max pooling, then a DoubleConv."""

    def __init__(self, in_channels: int, out_channels: int, lightweight: bool = False):
        super().__init__()
        self.maxpool_conv = nn.Sequential(
            nn.MaxPool2d(2), DoubleConv(in_channels, out_channels, lightweight)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, h, w) -> (N, out, h // 2, w // 2)."""
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Upsamples 2x (aligned corners), pads to the skip's size, concatenates, then a DoubleConv."""

    def __init__(self, in_channels: int, out_channels: int, lightweight: bool = False):
        super().__init__()
        self.conv = DoubleConv(in_channels, out_channels, lightweight)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C, h // 2, w // 2) and (N, in - C, h, w) -> (N, out, h, w)."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        bottom, right = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]  # 0 or 1
        return self.conv(torch.cat([skip, F.pad(x, (0, right, 0, bottom))], dim=1))


class Classifier(nn.Module):
    """1x1 convolution; published name."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, K, h, w)."""
        return self.conv(x)


class PlainUNet(Network):
    """U-Net with its own encoder, for images of at least 16 pixels per side.

    Args:
        in_channels: bands of an image; there is no backbone.
        num_classes: K > 0.
        with_change: must be False.
        lightweight: depthwise-separable instead of full 3x3 convolutions.
        dropout: not used; the published network has none.

    Reference: Ronneberger et al., U-Net, MICCAI 2015; Schmitt et al. 2020 (arXiv 2002.08254).
    """

    usual_backbone = None
    dense_output_stride = None
    traced = padded = ()  # no backbone

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        with_change: bool = False,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        check_classes_only(type(self), num_classes, with_change)
        self.inc = DoubleConv(in_channels, 64, lightweight)
        self.down1 = Down(64, 128, lightweight)
        self.down2 = Down(128, 256, lightweight)
        self.down3 = Down(256, 512, lightweight)
        self.down4 = Down(512, 512, lightweight)
        self.up1 = Up(1024, 256, lightweight)
        self.up2 = Up(512, 128, lightweight)
        self.up3 = Up(256, 64, lightweight)
        self.up4 = Up(128, 64, lightweight)
        self.outc = Classifier(64, num_classes)

    @classmethod
    def tasks(cls, **options: object) -> tuple[str, ...]:  # noqa: D102
        return ("land_cover",)

    def forward(self, images: Tensor) -> Logits:
        """Images (B, T, C, H, W), normalised -> logits at full resolution, in float32."""
        x1 = self.inc(images.flatten(0, 1))
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        x = self.up4(self.up3(self.up2(x, x3), x2), x1)
        return Logits(self.outc(x).float().unflatten(0, images.shape[:2]))
