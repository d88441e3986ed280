"""Siamese networks: a shared backbone, a semantic head per date, a change head on the difference.

Subclasses choose the two heads and the maps that they read.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import Backbone
from models.heads import DeepLabV3PlusHead, FCNHead, PSPHead
from models.resampling import resize
from models.unet import UNetHead
from models.unetplusplus import UNetPlusPlusHead
from utils.structures import TASKS, Logits

USUAL_BACKBONE = "hrnet_w18"


class Network(nn.Module):
    """Base class of all networks: the attributes that `build_network` and the scripts use."""

    # default backbone; None: the network has no backbone
    usual_backbone: ClassVar[str | None] = USUAL_BACKBONE
    dense_output_stride: ClassVar[int | None] = 8  # default output stride of the backbone
    undilated: ClassVar[bool] = False  # remove the backbone's dilation (`undilate`)
    multigrid: ClassVar[tuple[int, ...]] = ()  # dilation factors, see `dilate_blocks`
    timm_names: ClassVar[Mapping[str, str]] = MappingProxyType({})  # override BACKBONES
    smallest_batch: ClassVar[int] = 1  # 2 if batch norm follows 1 x 1 pooling
    has_gate: ClassVar[bool] = False  # outputs Logits.aux_change, supervised by `change`
    options: ClassVar[Mapping[str, tuple]] = MappingProxyType({})  # name -> values, default first

    @property
    def traced(self) -> tuple[str, ...]:
        """See `utils.speed.Accelerable`."""
        return ("backbone.body",)

    @property
    def padded(self) -> tuple[str, ...]:
        """See `utils.speed.Accelerable`."""
        return self.traced if self.backbone.can_pad_channels else ()

    @classmethod
    def tasks(cls, **options: object) -> tuple[str, ...]:
        """Supported tasks of utils.structures.TASKS with these options."""
        return TASKS

    @classmethod
    def bands_read(cls, in_channels: int, **options: object) -> int:
        """Input channels of the backbone for images with `in_channels` bands."""
        return in_channels


class SiameseNetwork(Network):
    """Base class of the networks below.

    Args:
        backbone: shared by all dates; processes them as one batch.
        num_classes: K; 0: no semantic head.
        with_change: whether there is a change head (two dates).
        lightweight: depthwise-separable instead of full 3x3 convolutions in the heads.
        dropout: dropout probability of the heads, 0..1.
    """

    semantic_head_type: ClassVar[type[nn.Module]]
    change_head_type: ClassVar[type[nn.Module]]

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        with_change: bool = True,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        if not num_classes and not with_change:
            raise ValueError("a network needs a semantic head (num_classes > 0) or a change head")
        self.backbone = backbone
        channels, strides = self.head_channels(), self.head_strides()
        options = {"lightweight": lightweight, "dropout": dropout}
        self.semantic_head = self.change_head = None
        if num_classes:
            self.semantic_head = self.semantic_head_type(channels, strides, num_classes, **options)
        if with_change:
            self.change_head = self.change_head_type(channels, strides, 1, **options)

    def head_channels(self) -> list[int]:
        """Channels of the maps that the heads read, finest first."""
        return [self.backbone.merged_channels]

    def head_strides(self) -> list[int]:
        """Strides of the maps that the heads read."""
        return [self.backbone.merged_stride]

    def head_maps(self, maps: list[Tensor]) -> list[Tensor]:
        """Converts the maps of the backbone to those that the heads read."""
        return [self.backbone.merge(maps)]

    def fuse_images(self, images: Tensor) -> Tensor:
        """Converts images (B, T, C, H, W) to the backbone's input (B, T', C', H, W)."""
        return images

    def fuse_maps(self, maps: list[Tensor]) -> list[Tensor]:
        """Converts maps (B, T', C, h, w) to the change head's input (B, C, h, w)."""
        return [_difference(x) for x in maps]

    def forward(self, images: Tensor) -> Logits:
        """Images (B, T, C, H, W), normalised -> logits at full resolution, in float32.

        Raises:
            ValueError: there is a change head, and T is not 2.
        """
        height, width = images.shape[-2:]
        if self.change_head is not None:
            check_two_dates(images)
        inputs = self.fuse_images(images)
        folded = pad_to_multiple(inputs.flatten(0, 1), self.backbone.size_multiple)
        maps = self.head_maps(self.backbone(folded))  # each (B * T', C, h, w)
        padded = folded.shape[-2:]

        def upsample(logits: Tensor) -> Tensor:  # (N, k, h, w) -> (N, k, H, W)
            return resize(logits.float(), padded)[..., :height, :width]

        semantic = change = None
        if self.semantic_head is not None:
            semantic = upsample(self.semantic_head(maps)).unflatten(0, inputs.shape[:2])
        if self.change_head is not None:
            fused = self.fuse_maps([x.unflatten(0, inputs.shape[:2]) for x in maps])
            change = upsample(self.change_head(fused)).squeeze(1)
        return Logits(semantic, change)


def _difference(x: Tensor) -> Tensor:
    """Absolute difference of both dates, (B, 2, C, h, w) -> (B, C, h, w).

    Computed in channels-last order, so that the gradient needs no conversion, which would take as
    long as the rest. Uses `unbind`: the gradient of a slice is padded with zeros.
    """
    date1, date2 = x.movedim(2, -1).unbind(1)
    return (date1 - date2).abs().movedim(-1, 1)


def check_two_dates(images: Tensor) -> None:
    """Raises ValueError unless T of images (B, T, C, H, W) is 2."""
    if images.shape[1] != 2:
        raise ValueError(
            f"a change head needs images of 2 dates, got {images.shape[1]} (B, T, C, H, W)"
        )


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pads (N, C, H, W) at the right and bottom, by repeating edges, to multiples of `multiple`."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


class FCN(SiameseNetwork):
    """FCN heads on the deepest map (HRNet: on all branches concatenated)."""

    semantic_head_type = FCNHead
    change_head_type = FCNHead


class PSPNet(SiameseNetwork):
    """As FCN, with pyramid pooling in the change head; the winner of the SenseEarth contest."""

    semantic_head_type = FCNHead
    change_head_type = PSPHead
    smallest_batch = 2


class DeepLabV3Plus(SiameseNetwork):
    """As FCN, with ASPP and a fine map (stride 4) in the change head."""

    semantic_head_type = FCNHead
    change_head_type = DeepLabV3PlusHead
    smallest_batch = 2

    def head_channels(self) -> list[int]:  # noqa: D102
        return [self.backbone.channels[self.backbone.fine], self.backbone.merged_channels]

    def head_strides(self) -> list[int]:  # noqa: D102
        return [self.backbone.strides[self.backbone.fine], self.backbone.merged_stride]

    def head_maps(self, maps: list[Tensor]) -> list[Tensor]:  # noqa: D102
        return [maps[self.backbone.fine], self.backbone.merge(maps)]


class PyramidNetwork(SiameseNetwork):
    """Base class of networks whose heads read every map of the backbone.

    Args:
        backbone, num_classes, with_change, lightweight, dropout: as in SiameseNetwork.
        fusion: input of the change head. "features": absolute difference of the maps of both dates;
            "difference": maps of image 1 - image 2; "concat": maps of both images, concatenated
            along bands. The last two support no classes, as there are no maps per date.
    """

    dense_output_stride = None
    options = MappingProxyType({"fusion": ("features", "difference", "concat")})

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        with_change: bool = True,
        lightweight: bool = False,
        dropout: float = 0.1,
        fusion: str = "features",
    ):
        super().__init__(backbone, num_classes, with_change, lightweight, dropout)
        self.fusion = fusion

    @classmethod
    def tasks(cls, fusion: str = "features") -> tuple[str, ...]:  # noqa: D102
        return TASKS if fusion == "features" else ("binary_change",)

    @classmethod
    def bands_read(cls, in_channels: int, fusion: str = "features") -> int:  # noqa: D102
        return 2 * in_channels if fusion == "concat" else in_channels

    def fuse_images(self, images: Tensor) -> Tensor:  # noqa: D102
        if self.fusion == "difference":
            return images[:, :1] - images[:, 1:]
        return images.flatten(1, 2).unsqueeze(1) if self.fusion == "concat" else images

    def fuse_maps(self, maps: list[Tensor]) -> list[Tensor]:  # noqa: D102
        return super().fuse_maps(maps) if self.fusion == "features" else [x[:, 0] for x in maps]

    def head_channels(self) -> list[int]:  # noqa: D102
        return self.backbone.channels

    def head_strides(self) -> list[int]:  # noqa: D102
        return self.backbone.strides

    def head_maps(self, maps: list[Tensor]) -> list[Tensor]:  # noqa: D102
        return maps


class UNet(PyramidNetwork):
    """UNet decoders with scSE attention, one for classes and one for change."""

    semantic_head_type = UNetHead
    change_head_type = UNetHead


class UNetPlusPlus(PyramidNetwork):
    """UNet++ decoders, one for classes and one for change."""

    semantic_head_type = UNetPlusPlusHead
    change_head_type = UNetPlusPlusHead
