"""Backbones: timm feature pyramids with a common interface.

A backbone declares `channels` and `strides` and computes one map for each, finest first. To add
one, add a line to BACKBONES; other timm models with a feature pyramid work without an entry. timm
takes seconds to import, so functions import it when needed.
"""

import difflib
import functools
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.resampling import Upsample, resize


class BackboneEntry(NamedTuple):
    """How timm builds one backbone."""

    timm_name: str
    options: Mapping[str, object] = MappingProxyType({})  # passed to timm.create_model
    high_resolution: bool = False  # an HRNet: dense heads read all branches, concatenated


_RESNET = {"zero_init_last": False}  # initialisation of torchvision, used by the published runs
_HRNET = {"feature_location": "", "out_indices": (1, 2, 3, 4)}  # all branches, without the stem


def _resnet(timm_name: str) -> BackboneEntry:
    return BackboneEntry(timm_name, _RESNET)


def _hrnet(timm_name: str) -> BackboneEntry:
    return BackboneEntry(timm_name, _HRNET, high_resolution=True)


BACKBONES: dict[str, BackboneEntry] = {
    "hrnet_w18": _hrnet("hrnet_w18"),
    "hrnet_w18_v1": _hrnet("hrnet_w18_small"),
    "hrnet_w18_v2": _hrnet("hrnet_w18_small_v2"),
    "hrnet_w30": _hrnet("hrnet_w30"),
    "hrnet_w32": _hrnet("hrnet_w32"),
    "hrnet_w40": _hrnet("hrnet_w40"),
    "hrnet_w44": _hrnet("hrnet_w44"),
    "hrnet_w48": _hrnet("hrnet_w48"),
    "hrnet_w64": _hrnet("hrnet_w64"),
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34"),
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "resnet101c": _resnet("resnet101c"),  # three 3x3 convolutions in place of the 7x7
    "resnet152": _resnet("resnet152"),
    "resnext50": _resnet("resnext50_32x4d"),
    "resnext101": _resnet("resnext101_32x8d"),
    "seresnext50": _resnet("seresnext50_32x4d"),
    "swin_tiny": BackboneEntry("swin_tiny_patch4_window7_224"),
    "convnext_tiny": BackboneEntry("convnext_tiny"),
    "efficientnet_b0": BackboneEntry("efficientnet_b0"),
    "mobilenetv3_large_100": BackboneEntry("mobilenetv3_large_100"),
}


class Backbone(nn.Module):
    """A feature pyramid.

    Attributes:
        channels, strides: per map, finest first. A stride is image pixels per map pixel.
        merged_channels, merged_stride: channels and stride of the map for dense heads (`merge`).
        fine: index of the finest map of stride 4 or more, also read by DeepLabV3+.
        size_multiple: image sides must be multiples of this (the network pads otherwise).
        can_pad_channels: `utils.speed` may add zero channels to its inner maps.
        timm_name: name of the timm model.
    """

    size_multiple = 1
    timm_name = ""
    can_pad_channels = False  # see utils.speed
    fine_tuning_momentum: float | None = None  # of batch norms, see `keep_statistics`

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        self.channels: list[int] = list(body.feature_info.channels())
        self.strides: list[int] = list(body.feature_info.reduction())
        self.merged_channels = self.channels[-1]
        self.merged_stride = self.strides[-1]
        self.fine = next((i for i, stride in enumerate(self.strides) if stride >= 4), 0)
        self.channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        if any(map(_cuts_patches, body.modules())):  # drop or refuse incomplete patches
            self.size_multiple = self.strides[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) normalised -> maps (N, channels[i], H / strides[i], W / strides[i])."""
        maps = self.body(images)
        if self.channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        if self.can_pad_channels:  # drop the channels that utils.speed adds
            pairs = zip(maps, self.channels, strict=True)
            maps = [x[:, :n] if x.shape[1] > n else x for x, n in pairs]
        return maps

    def merge(self, maps: list[Tensor]) -> Tensor:
        """Merges the maps to (N, merged_channels, h, w), the map that dense heads read."""
        return maps[-1]

    def keep_statistics(self) -> None:
        """For fine-tuning: sets the momentum of batch norms to `fine_tuning_momentum`, if any."""
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d) and self.fine_tuning_momentum is not None:
                module.momentum = self.fine_tuning_momentum


def _cuts_patches(module: nn.Module) -> bool:
    """Whether a module is a convolution that cuts patches (kernel size = stride > 1)."""
    if not isinstance(module, nn.Conv2d):
        return False
    return module.kernel_size == module.stride and max(module.stride) > 1


class HRNetBackbone(Backbone):
    """HRNet as used for segmentation.

    timm resizes inside the network like the classification code (nearest). This class resizes like
    the published segmentation code (bilinear, aligned corners), whose weights can be loaded.

    Reference: Wang et al., Deep High-Resolution Representation Learning, TPAMI 2020, HRNetV2.
    """

    size_multiple = 32
    can_pad_channels = True
    fine_tuning_momentum = 0.01

    def __init__(self, body: nn.Module):
        super().__init__(body)
        self.merged_channels = sum(self.channels)
        self.merged_stride = self.strides[0]
        for module in body.modules():
            if isinstance(module, nn.Upsample):
                module.__class__ = Upsample
                module.mode, module.align_corners = "bilinear", True

    def merge(self, maps: list[Tensor]) -> Tensor:
        """Concatenates all branches at the resolution of the finest."""
        size = maps[0].shape[-2:]
        return torch.cat([resize(x, size, align_corners=True) for x in maps], dim=1)


def build_backbone(
    name: str,
    in_channels: int = 3,
    output_stride: int | None = None,
    pretrained: bool = False,
    timm_name: str | None = None,
) -> Backbone:
    """Builds a backbone by its name in BACKBONES or in timm.

    Args:
        name: value of --backbone.
        in_channels: bands of an image.
        output_stride: 8, 16 or 32 image pixels per pixel of the deepest map; None: default of timm.
        pretrained: download ImageNet weights of timm. (`models.pretrained.load_pretrained` loads
            local files.)
        timm_name: timm model to build instead of the one in BACKBONES.

    Raises:
        ValueError: unknown name, no feature pyramid, or an unsupported output stride.
        OSError: the weights cannot be downloaded.
    """
    import timm

    entry = BACKBONES.get(name) or BackboneEntry(name)
    if timm_name is not None:
        entry = BackboneEntry(timm_name)
    _check_known(name, entry)
    options = dict(entry.options, features_only=True, in_chans=in_channels)
    if output_stride is not None:
        options["output_stride"] = output_stride
    if entry.timm_name.startswith(("swin", "swinv2")):
        options["strict_img_size"] = False
    try:
        body = timm.create_model(entry.timm_name, pretrained=pretrained, **options)
    except Exception as error:  # hubs and models raise many exception types
        if pretrained:
            raise OSError(_no_download(name, error)) from error
        raise ValueError(_no_pyramid(name, output_stride, error)) from error
    strides = list(body.feature_info.reduction())
    if strides[0] == strides[-1]:
        raise ValueError(_no_pyramid(name, None, f"all its maps have stride {strides[0]}"))
    _undilate_second_convolutions(body)
    backbone = HRNetBackbone(body) if entry.high_resolution else Backbone(body)
    backbone.timm_name = entry.timm_name
    return backbone


def undilate(backbone: Backbone) -> None:
    """Removes the dilation of all convolutions of a backbone and keeps their strides.

    For `output_stride`, timm replaces strides by 1 and adds dilation; this keeps the stride 1.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
            if not isinstance(module.padding, str):
                pairs = zip(module.padding, module.dilation, strict=True)
                module.padding = tuple(p // d for p, d in pairs)
            module.dilation = (1, 1)


def dilate_blocks(backbone: Backbone, multigrid: Sequence[int]) -> None:
    """Sets equal dilation in all blocks of a ResNet stage, times `multigrid` in the last stage.

    In timm, the first block of a dilated stage has only half the dilation. Backbones other than
    ResNets are not changed.

    Reference: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017.
    """
    from timm.models.resnet import BasicBlock, Bottleneck

    stages = [getattr(backbone.body, f"layer{i}", [None]) for i in (1, 2, 3, 4)]
    if not all(type(stage[-1]) in (BasicBlock, Bottleneck) for stage in stages):
        return
    for stage in stages:
        convolutions = [b.conv2 if type(b) is Bottleneck else b.conv1 for b in stage]
        dilation = convolutions[-1].dilation[0]
        for i, conv in enumerate(convolutions):
            factor = multigrid[i % len(multigrid)] if stage is stages[-1] else 1
            conv.dilation = conv.padding = (factor * dilation, factor * dilation)


def _undilate_second_convolutions(body: nn.Module) -> None:
    """Removes the dilation of the second convolution in the basic blocks of ResNet-18 and -34.

    timm dilates both convolutions, which loses detail; the published code only the first.
    """
    from timm.models.resnet import BasicBlock

    for module in body.modules():
        if type(module) is BasicBlock:
            module.conv2.dilation = module.conv2.padding = (1, 1)


@functools.cache
def has_output_stride(name: str, output_stride: int) -> bool:
    """Whether timm can build this backbone with `output_stride`; keeps the RNG state."""
    try:
        with torch.random.fork_rng(devices=[]):
            backbone = build_backbone(name, output_stride=output_stride)
    except ValueError:
        return False
    return backbone.strides[-1] == output_stride


def _check_known(name: str, entry: BackboneEntry) -> None:
    import timm

    if timm.is_model(entry.timm_name):
        return
    near = difflib.get_close_matches(name, {*BACKBONES, *timm.list_models()}, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"--backbone={name!r} is not known.{hint} Choose from {', '.join(BACKBONES)}, "
        "or any timm model with a feature pyramid."
    )


def _no_pyramid(name: str, output_stride: int | None, error: BaseException | str) -> str:
    if output_stride is None:
        return (
            f"--backbone={name!r} gives no feature pyramid in timm ({error or 'unsupported'}). "
            f"Choose a convolutional or hierarchical one, such as {', '.join(list(BACKBONES)[:3])}."
        )
    return (
        f"--backbone={name!r} has no output stride {output_stride} in timm. "
        "Leave out --output-stride, or choose a ResNet-like backbone."
    )


def _no_download(name: str, error: BaseException) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    reason = textwrap.shorten(first_line, 160, placeholder=" ...")
    return (
        f"no ImageNet weights for --backbone={name!r}: timm's download failed "
        f"({type(error).__name__}: {reason}). Put a file at "
        f"data/pretrained_models/{name}.pth, name one with --pretrained FILE, or leave out "
        "--pretrained to start from random weights."
    )
