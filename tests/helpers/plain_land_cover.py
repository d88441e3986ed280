"""The published land-cover networks written out plainly on a state dict, as in plain_reference."""

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.plain_reference import Plain, State, upsample

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
BLOCKS = (3, 4, 23, 3)  # of a ResNet-101


def dfc_plan(output_stride: int) -> list[tuple[list[int], list[int]]]:
    """Strides and dilations of the blocks of each layer of the DFC2020 backbone."""
    strides, rates = {16: ((1, 2, 2, 1), (1, 1, 1, 2)), 8: ((1, 2, 1, 1), (1, 1, 2, 4))}[
        output_stride
    ]
    plan = [
        ([stride] + [1] * (count - 1), [rate] * count)
        for count, stride, rate in zip(BLOCKS, strides, rates, strict=True)
    ]
    plan[3] = ([strides[3], 1, 1], [rates[3] * grid for grid in (1, 2, 4)])
    return plan


def mmseg_plan(output_stride: int) -> list[tuple[list[int], list[int]]]:
    """As above for mmsegmentation; the first block of a dilated stage has half the dilation."""
    strides, rates = {16: ((1, 2, 2, 1), (1, 1, 1, 2)), 8: ((1, 2, 1, 1), (1, 1, 2, 4))}[
        output_stride
    ]
    return [
        ([stride] + [1] * (count - 1), [max(rate // 2, 1)] + [rate] * (count - 1))
        for count, stride, rate in zip(BLOCKS, strides, rates, strict=True)
    ]


class PlainLandCover(Plain):
    """ResNets by a plan of strides and dilations, and the heads under their published names."""

    def bottleneck(self, x: Tensor, key: str, stride: int, dilation: int) -> Tensor:
        y = self.norm(self.conv(x, f"{key}.conv1"), f"{key}.bn1").relu()
        y = self.conv(y, f"{key}.conv2", stride, dilation=dilation)
        y = self.norm(y, f"{key}.bn2").relu()
        y = self.norm(self.conv(y, f"{key}.conv3"), f"{key}.bn3")
        if self.has(f"{key}.downsample."):
            x = self.norm(self.conv(x, f"{key}.downsample.0", stride), f"{key}.downsample.1")
        return (x + y).relu()

    def layers(self, x: Tensor, plan: list[tuple[list[int], list[int]]]) -> list[Tensor]:
        """Output of the stem -> the maps of layers 1 to 4."""
        x, maps = F.max_pool2d(x, 3, 2, 1), []
        for i, (strides, dilations) in enumerate(plan, start=1):
            for j, (stride, dilation) in enumerate(zip(strides, dilations, strict=True)):
                x = self.bottleneck(x, f"backbone.layer{i}.{j}", stride, dilation)
            maps.append(x)
        return maps

    # ---------------------------------------------------------------- DFC2020

    def dfc_maps(self, x: Tensor, output_stride: int) -> list[Tensor]:
        x = self.norm(self.conv(x, "backbone.conv1", 2), "backbone.bn1").relu()
        return self.layers(x, dfc_plan(output_stride))

    def dfc_branch(self, x: Tensor, key: str, dilation: int = 1) -> Tensor:
        x = self.conv(x, f"{key}.atrous_conv", dilation=dilation)
        return self.norm(x, f"{key}.bn").relu()

    def dfc_aspp(self, x: Tensor, output_stride: int) -> Tensor:
        rates = {16: (6, 12, 18), 8: (12, 24, 36)}[output_stride]
        maps = [self.dfc_branch(x, "aspp.aspp1")]
        maps += [self.dfc_branch(x, f"aspp.aspp{i}", r) for i, r in enumerate(rates, start=2)]
        pooled = self.conv(x.mean((2, 3), keepdim=True), "aspp.global_avg_pool.1")
        pooled = self.norm(pooled, "aspp.global_avg_pool.2").relu()
        maps.append(upsample(pooled, x.shape[-2:], True))
        return self.norm(self.conv(torch.cat(maps, dim=1), "aspp.conv1"), "aspp.bn1").relu()

    def dfc_decoder(self, deep: Tensor, fine: Tensor) -> Tensor:
        fine = self.norm(self.conv(fine, "decoder.conv1"), "decoder.bn1").relu()
        x = torch.cat([upsample(deep, fine.shape[-2:], True), fine], dim=1)
        for i in (0, 4):
            x = self.conv(x, f"decoder.last_conv.{i}")
            x = self.norm(x, f"decoder.last_conv.{i + 1}").relu()
        return self.conv(x, "decoder.last_conv.8")

    def double_conv(self, x: Tensor, key: str) -> Tensor:
        for i in (0, 3):
            x = self.conv(x, f"{key}.double_conv.{i}")
            x = self.norm(x, f"{key}.double_conv.{i + 1}").relu()
        return x

    def up(self, x: Tensor, skip: Tensor, key: str) -> Tensor:
        x = upsample(x, [2 * side for side in x.shape[-2:]], True)
        zeros = torch.zeros(*x.shape[:2], *skip.shape[-2:])
        top = (skip.shape[-2] - x.shape[-2]) // 2
        left = (skip.shape[-1] - x.shape[-1]) // 2
        zeros[:, :, top : top + x.shape[-2], left : left + x.shape[-1]] = x
        return self.double_conv(torch.cat([skip, zeros], dim=1), f"{key}.conv")

    # ---------------------------------------------------------------- mmsegmentation

    def module(self, x: Tensor, key: str, dilation: int = 1) -> Tensor:
        return self.norm(self.conv(x, f"{key}.conv", dilation=dilation), f"{key}.bn").relu()

    def separable(self, x: Tensor, key: str, dilation: int = 1) -> Tensor:
        x = self.module(x, f"{key}.depthwise_conv", dilation)
        return self.module(x, f"{key}.pointwise_conv")

    def mmseg_maps(self, x: Tensor, output_stride: int) -> list[Tensor]:
        for i, stride in ((0, 2), (3, 1), (6, 1)):
            x = self.conv(x, f"backbone.stem.{i}", stride)
            x = self.norm(x, f"backbone.stem.{i + 1}").relu()
        return self.layers(x, mmseg_plan(output_stride))

    def mmseg_psp(self, x: Tensor) -> Tensor:
        maps = [x]
        for i, bins in enumerate((1, 2, 3, 6)):
            y = self.module(F.adaptive_avg_pool2d(x, bins), f"decode_head.psp_modules.{i}.1")
            maps.append(upsample(y, x.shape[-2:]))
        x = self.module(torch.cat(maps, dim=1), "decode_head.bottleneck")
        return self.conv(x, "decode_head.conv_seg")

    def mmseg_aspp(self, deep: Tensor, fine: Tensor) -> Tensor:
        key = "decode_head"
        pooled = self.module(deep.mean((2, 3), keepdim=True), f"{key}.image_pool.1")
        maps = [upsample(pooled, deep.shape[-2:]), self.module(deep, f"{key}.aspp_modules.0")]
        for i, rate in enumerate((12, 24, 36), start=1):
            maps.append(self.separable(deep, f"{key}.aspp_modules.{i}", rate))
        x = self.module(torch.cat(maps, dim=1), f"{key}.bottleneck")
        fine = self.module(fine, f"{key}.c1_bottleneck")
        x = torch.cat([upsample(x, fine.shape[-2:]), fine], dim=1)
        for i in (0, 1):
            x = self.separable(x, f"{key}.sep_bottleneck.{i}")
        return self.conv(x, f"{key}.conv_seg")

    def mmseg_auxiliary(self, x: Tensor) -> Tensor:
        return self.conv(self.module(x, "auxiliary_head.convs.0"), "auxiliary_head.conv_seg")


def published_dfc_deeplab(state: State, images: Tensor, output_stride: int = 16) -> Tensor:
    """(N, C, H, W) -> class logits (N, K, H, W)."""
    net = PlainLandCover(state)
    maps = net.dfc_maps(images, output_stride)
    x = net.dfc_decoder(net.dfc_aspp(maps[3], output_stride), maps[0])
    return upsample(x, images.shape[-2:], True)


def published_dfc_unet(state: State, images: Tensor) -> Tensor:
    """(N, C, H, W) -> class logits (N, K, H, W)."""
    net = PlainLandCover(state)
    maps = [net.double_conv(images, "inc")]
    for i in (1, 2, 3, 4):
        key = f"down{i}.maxpool_conv.1"
        maps.append(net.double_conv(F.max_pool2d(maps[-1], 2), key))
    x = maps.pop()
    for i in (1, 2, 3, 4):
        x = net.up(x, maps.pop(), f"up{i}")
    return net.conv(x, "outc.conv")


def published_mmseg(
    state: State, images: Tensor, output_stride: int, pspnet: bool
) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) -> class logits (N, K, H, W) of the decode head and of the auxiliary one."""
    net, size = PlainLandCover(state), images.shape[-2:]
    maps = net.mmseg_maps(images, output_stride)
    x = net.mmseg_psp(maps[3]) if pspnet else net.mmseg_aspp(maps[3], maps[0])
    return upsample(x, size), upsample(net.mmseg_auxiliary(maps[2]), size)


# ------------------------------------------------------------------- layouts


def _convolution(layout: Layout, key: str, *shape: int, bias: bool = False) -> None:
    layout[f"{key}.weight"] = (shape, torch.float32)
    if bias:
        layout[f"{key}.bias"] = (shape[:1], torch.float32)


def _norm(layout: Layout, key: str, channels: int) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        layout[f"{key}.{name}"] = ((channels,), torch.float32)
    layout[f"{key}.num_batches_tracked"] = ((), torch.int64)


def _module(layout: Layout, key: str, out: int, inputs: int, side: int = 1) -> None:
    _convolution(layout, f"{key}.conv", out, inputs, side, side)
    _norm(layout, f"{key}.bn", out)


def _separable(layout: Layout, key: str, out: int, inputs: int) -> None:
    _convolution(layout, f"{key}.depthwise_conv.conv", inputs, 1, 3, 3)
    _norm(layout, f"{key}.depthwise_conv.bn", inputs)
    _module(layout, f"{key}.pointwise_conv", out, inputs)


def mmseg_layout(pspnet: bool, num_classes: int = 8) -> Layout:
    """Keys, shapes and types of mmsegmentation's file of either network, on a ResNet-101-C."""
    from torchvision.models import resnet101

    with torch.device("meta"):
        body = resnet101(weights=None).state_dict()
    layout = {
        f"backbone.{k}": (tuple(v.shape), v.dtype) for k, v in body.items() if k.startswith("layer")
    }
    for i, out, inputs in ((0, 32, 3), (3, 32, 32), (6, 64, 32)):
        _convolution(layout, f"backbone.stem.{i}", out, inputs, 3, 3)
        _norm(layout, f"backbone.stem.{i + 1}", out)
    head = "decode_head"
    _convolution(layout, f"{head}.conv_seg", num_classes, 512, 1, 1, bias=True)
    if pspnet:
        for i in range(4):
            _module(layout, f"{head}.psp_modules.{i}.1", 512, 2048)
        _module(layout, f"{head}.bottleneck", 512, 4096, 3)
    else:
        _module(layout, f"{head}.image_pool.1", 512, 2048)
        _module(layout, f"{head}.aspp_modules.0", 512, 2048)
        for i in (1, 2, 3):
            _separable(layout, f"{head}.aspp_modules.{i}", 512, 2048)
        _module(layout, f"{head}.bottleneck", 512, 2560, 3)
        _module(layout, f"{head}.c1_bottleneck", 48, 256)
        _separable(layout, f"{head}.sep_bottleneck.0", 512, 560)
        _separable(layout, f"{head}.sep_bottleneck.1", 512, 512)
    _module(layout, "auxiliary_head.convs.0", 256, 1024, 3)
    _convolution(layout, "auxiliary_head.conv_seg", num_classes, 256, 1, 1, bias=True)
    return layout
