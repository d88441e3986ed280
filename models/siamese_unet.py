"""The siamese UNet of the xView2 contest, as used for binary change (Rucode).

Except for the backbone, attribute names are those of the published code.
"""

import math
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.backbones import Backbone
from models.layers import conv3x3
from models.resampling import resize
from models.siamese import Network, check_two_dates, pad_to_multiple
from utils.structures import Logits


class Decoder(NamedTuple):
    """Widths of a decoder."""

    filters: tuple[int, ...] = (48, 96, 192, 256)  # channels of the stages, finest first
    last: int | None = 24  # channels after the last upsampling; None: no convolution there
    attention: bool = True  # scSE after each JoinConv, which doubles the channels


# published decoders by timm name of the backbone; all others use Decoder()
DECODERS = {
    "legacy_seresnext50_32x4d": Decoder((48, 92, 192, 256)),
    "dpn92": Decoder((64, 128, 256, 256), last=None, attention=False),
    "resnext101_32x8d": Decoder((48, 96, 192, 192), last=None, attention=False),
    "densenet161": Decoder((64, 96, 192, 256), last=None, attention=False),
}


def conv3x3_relu(in_channels: int, out_channels: int, lightweight: bool) -> list[nn.Module]:
    """3x3 convolution with bias, and ReLU."""
    conv = conv3x3(in_channels, out_channels, lightweight=lightweight, bias=True)
    return [conv, nn.ReLU(inplace=True)]


class ConcatSCSE(nn.Module):
    """Squeeze and excitation over channels and over pixels, concatenated: C -> 2 * C channels.

    Reference: as `models.layers.SCSE`, which adds the two.
    """

    def __init__(self, channels: int, reduction: int = 2):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, kernel_size=1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, kernel_size=1)
        self.spatial_se = nn.Sequential(
            nn.Conv2d(channels, 1, kernel_size=1, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, 2 * C, h, w): channel attention, then pixel attention."""
        by_channel = self.fc2(self.fc1(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()
        return torch.cat([x * by_channel, x * self.spatial_se(x)], dim=1)


class UpsampleConv(nn.Module):
    """2x upsampling (nearest), 3x3 convolution, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, lightweight: bool):
        super().__init__()
        self.layer = nn.Sequential(
            nn.Upsample(scale_factor=2), *conv3x3_relu(in_channels, out_channels, lightweight)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, h, w) -> (N, out, 2h, 2w), >= 0."""
        return self.layer(x)


class JoinConv(nn.Module):
    """3x3 convolution and ReLU on concatenated maps, then scSE if `attention`."""

    def __init__(self, in_channels: int, out_channels: int, attention: bool, lightweight: bool):
        super().__init__()
        layers = conv3x3_relu(in_channels, out_channels, lightweight)
        self.seq = nn.Sequential(*layers, *([ConcatSCSE(out_channels)] if attention else []))
        self.out_channels = 2 * out_channels if attention else out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, h, w) -> (N, out_channels, h, w)."""
        return self.seq(x)


class SiameseUNet(Network):
    """Binary change detection with one UNet decoder on the maps of both dates.

    Args:
        backbone: shared by both dates; processes them as one batch.
        num_classes: must be 0; there is no semantic head.
        with_change: must be True.
        lightweight: depthwise-separable instead of full 3x3 convolutions in the decoder.
        dropout: dropout of whole channels before the classifier, 0..1.
        symmetric: whether swapped dates give the same change. True: the decoder starts from the
            absolute difference of the deepest maps; its skips are |e1 - e2| and (e1 + e2) / 2.
            False (published): it starts from the deepest map of date 2; its skips are e1 and e2.

    Reference: the xView2 contest's 1st place solution, and Rucode's use of it.
    """

    dense_output_stride = None
    timm_names = MappingProxyType({"seresnext50": "legacy_seresnext50_32x4d"})
    options = MappingProxyType({"symmetric": (True, False)})

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        with_change: bool = True,
        lightweight: bool = False,
        dropout: float = 0.1,
        symmetric: bool = True,
    ):
        super().__init__()
        if num_classes or not with_change:
            raise ValueError(
                f"SiameseUNet has a change head only, got num_classes={num_classes} and "
                f"with_change={with_change}; pass num_classes=0 and with_change=True"
            )
        _check_strides(backbone)
        self.backbone, self.symmetric = backbone, symmetric
        decoder = DECODERS.get(backbone.timm_name, Decoder())
        width = self._build_stages(decoder, lightweight)
        if decoder.last is None:
            self.last_upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        else:
            self.last_upsample = UpsampleConv(width, decoder.last, lightweight)
            width = decoder.last
        self.dropout = nn.Dropout2d(dropout)
        self.final = nn.Sequential(nn.Conv2d(width, 1, kernel_size=1))

    def _build_stages(self, decoder: Decoder, lightweight: bool) -> int:
        """Adds `decoder_stages` (finest first) and `bottlenecks` (deepest first).

        Pyramids of fewer than five maps use the deepest of the filters. Returns the output width.
        """
        *skips, width = self.backbone.channels
        filters = decoder.filters[len(decoder.filters) - len(skips) :]
        self.decoder_stages, self.bottlenecks = nn.ModuleList(), nn.ModuleList()
        for skip, out in zip(reversed(skips), reversed(filters), strict=True):
            self.decoder_stages.insert(0, UpsampleConv(width, out, lightweight))
            join = JoinConv(out + 2 * skip, out, decoder.attention, lightweight)
            self.bottlenecks.append(join)
            width = join.out_channels
        return width

    @classmethod
    def tasks(cls, **options: object) -> tuple[str, ...]:  # noqa: D102
        return ("binary_change",)

    def forward(self, images: Tensor) -> Logits:
        """Images (B, 2, C, H, W), normalised -> change logits at full resolution, in float32.

        Raises:
            ValueError: T is not 2.
        """
        check_two_dates(images)
        height, width = images.shape[-2:]
        multiple = math.lcm(self.backbone.size_multiple, self.backbone.strides[-1])
        folded = pad_to_multiple(images.flatten(0, 1), multiple)
        maps = [x.unflatten(0, images.shape[:2]) for x in self.backbone(folded)]
        change = resize(self.decode_features(maps).float(), folded.shape[-2:])
        return Logits(change=change[..., :height, :width].squeeze(1))

    def decode_features(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, 2, C, h, w), finest first -> (B, 1, 2h, 2w), twice the first map's size."""
        *skips, deepest = maps
        x = (deepest[:, 0] - deepest[:, 1]).abs() if self.symmetric else deepest[:, 1]
        stages = zip(reversed(self.decoder_stages), self.bottlenecks, reversed(skips), strict=True)
        for upsample, join, skip in stages:
            x = join(torch.cat([upsample(x), *self._joined(skip)], dim=1))
        return self.final(self.dropout(self.last_upsample(x)))

    def _joined(self, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The two skip maps (B, C, h, w) for the decoder."""
        one, other = skip.unbind(dim=1)
        return ((one - other).abs(), (one + other) / 2) if self.symmetric else (one, other)


def _check_strides(backbone: Backbone) -> None:
    strides = backbone.strides
    if any(b != 2 * a for a, b in pairwise(strides)) or len(strides) > 5:
        raise ValueError(
            f"--model siamese_unet needs up to five maps, each of half the size of the one before; "
            f"{backbone.timm_name} has strides {', '.join(map(str, strides))}. Leave out "
            "--output-stride, or choose another --backbone."
        )
