"""Networks of one shared backbone: a semantic head for each date, a change head on the difference.

A network here is a choice of two heads and of the maps they read.
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
    """Base of all networks: what `build_network` and the scripts ask of their class."""

    # what it is built on unless a user names a backbone; None: it takes none at all
    usual_backbone: ClassVar[str | None] = USUAL_BACKBONE
    dense_output_stride: ClassVar[int | None] = 8  # what the backbone is asked for by default
    undilated: ClassVar[bool] = False  # the backbone has that stride without dilated convolutions
    multigrid: ClassVar[tuple[int, ...]] = ()  # dilations of its last stage (`dilate_blocks`)
    timm_names: ClassVar[Mapping[str, str]] = MappingProxyType({})  # where BACKBONES has others
    smallest_batch: ClassVar[int] = 1  # 2 where a 1 x 1 map meets a batch norm
    has_gate: ClassVar[bool] = False  # gives Logits.aux_change, a gate supervised by the change
    options: ClassVar[Mapping[str, tuple]] = MappingProxyType({})  # name: values, default first

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
        """What it can learn with these options, of utils.structures.TASKS."""
        return TASKS

    @classmethod
    def bands_read(cls, in_channels: int, **options: object) -> int:
        """Bands of what the backbone sees, given those of an image."""
        return in_channels


class SiameseNetwork(Network):
    """Base of the networks below.

    Args:
        backbone: shared by all dates, which it sees as one batch.
        num_classes: K, or 0 for no semantic head.
        with_change: whether there is a change head (two dates).
        lightweight: depthwise-separable instead of full 3x3 convolutions in the heads.
        dropout: of the heads, 0..1.
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
        """The backbone's maps -> the maps that the heads read."""
        return [self.backbone.merge(maps)]

    def fuse_images(self, images: Tensor) -> Tensor:
        """Images (B, T, C, H, W) -> what the backbone sees of them (B, T', C', H, W)."""
        return images

    def fuse_maps(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, T', C, h, w) -> the change head's (B, C, h, w)."""
        return [_difference(x) for x in maps]

    def forward(self, images: Tensor) -> Logits:
        """Images (B, T, C, H, W), normalised -> logits at full resolution, in float32.

        Raises:
            ValueError: a change head and other than two dates.
        """
        height, width = images.shape[-2:]
        if self.change_head is not None:
            check_two_dates(images)
        seen = self.fuse_images(images)
        folded = pad_to_multiple(seen.flatten(0, 1), self.backbone.size_multiple)
        maps = self.head_maps(self.backbone(folded))  # each (B * T', C, h, w)
        padded = folded.shape[-2:]

        def upsample(logits: Tensor) -> Tensor:  # (N, k, h, w) -> (N, k, H, W)
            return resize(logits.float(), padded)[..., :height, :width]

        semantic = change = None
        if self.semantic_head is not None:
            semantic = upsample(self.semantic_head(maps)).unflatten(0, seen.shape[:2])
        if self.change_head is not None:
            fused = self.fuse_maps([x.unflatten(0, seen.shape[:2]) for x in maps])
            change = upsample(self.change_head(fused)).squeeze(1)
        return Logits(semantic, change)


def _difference(x: Tensor) -> Tensor:
    """(B, 2, C, h, w) -> (B, C, h, w), absolute.

    Channels last, so that the gradient is so too: to bring it from one order to the other would
    take as long as all else here. Unbound, not sliced: the gradient of a slice is filled with 0.
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
    """(N, C, H, W) with right and bottom edges repeated until both sides are multiples."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


class FCN(SiameseNetwork):
    """Convolutional heads on the deepest map (HRNet: on all branches joined)."""

    semantic_head_type = FCNHead
    change_head_type = FCNHead


class PSPNet(SiameseNetwork):
    """As FCN, with pyramid pooling in the change head; the contest's winner."""

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
    """Base of networks whose heads read every map of the backbone.

    Args:
        backbone, num_classes, with_change, lightweight, dropout: as in SiameseNetwork.
        fusion: how two dates become one change score. "features": the absolute difference of their
            maps; "difference": the maps of image 1 - image 2; "concat": the maps of both images as
            one of twice the bands. The last two leave no map of one date, hence no classes.
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
    """UNet decoders with scSE attention, one for the classes and one for the change."""

    semantic_head_type = UNetHead
    change_head_type = UNetHead


class UNetPlusPlus(PyramidNetwork):
    """UNet++ decoders, one for the classes and one for the change."""

    semantic_head_type = UNetPlusPlusHead
    change_head_type = UNetPlusPlusHead
