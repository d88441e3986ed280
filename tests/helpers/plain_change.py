"""The published change networks written out plainly on a state dict, as in plain_reference."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.plain_reference import Plain, State, upsample

# UNet++ on a ResNeXt-50: node -> (input channels of its first convolution, output channels)
UNETPLUSPLUS_NODES = {
    "x_0_0": (3072, 256),
    "x_1_1": (1536, 512),
    "x_2_2": (768, 256),
    "x_3_3": (320, 64),
    "x_0_1": (1280, 128),
    "x_1_2": (1024, 256),
    "x_2_3": (384, 64),
    "x_0_2": (896, 64),
    "x_1_3": (448, 64),
    "x_0_3": (320, 32),
    "x_0_4": (32, 16),
}


class PlainResNet(Plain):
    """Residual networks with torchvision's block names."""

    def residual(self, x: Tensor, key: str, stride: int) -> Tensor:
        """A basic block or a bottleneck, with squeeze and excitation where it has weights."""
        if self.has(f"{key}.conv3."):
            y = self.norm(self.conv(x, f"{key}.conv1"), f"{key}.bn1").relu()
            y = self.norm(self.conv(y, f"{key}.conv2", stride), f"{key}.bn2").relu()
            y = self.norm(self.conv(y, f"{key}.conv3"), f"{key}.bn3")
        else:
            y = self.norm(self.conv(x, f"{key}.conv1", stride), f"{key}.bn1").relu()
            y = self.norm(self.conv(y, f"{key}.conv2"), f"{key}.bn2")
        if self.has(f"{key}.se_module."):
            gate = self.conv(y.mean((2, 3), keepdim=True), f"{key}.se_module.fc1").relu()
            y = y * self.conv(gate, f"{key}.se_module.fc2").sigmoid()
        if self.has(f"{key}.downsample."):
            x = self.norm(self.conv(x, f"{key}.downsample.0", stride), f"{key}.downsample.1")
        return (x + y).relu()

    def layer(self, x: Tensor, key: str, stride: int) -> Tensor:
        i = 0
        while self.has(f"{key}.{i}."):
            x, i = self.residual(x, f"{key}.{i}", stride if i == 0 else 1), i + 1
        return x

    def stem(self, x: Tensor, prefix: str) -> Tensor:
        return self.norm(self.conv(x, f"{prefix}conv1", 2), f"{prefix}bn1").relu()

    # ---------------------------------------------------------------- TFINet

    def conv_block(self, x: Tensor, key: str) -> Tensor:
        first = self.conv(x, f"{key}.conv1")
        y = self.conv(self.norm(first, f"{key}.bn1").relu(), f"{key}.conv2")
        return (self.norm(y, f"{key}.bn2") + first).relu()

    def tfinet_encoder(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x, "resnet."), 3, 2, 1)
        for i, stride in enumerate((1, 2, 1, 1), start=1):
            x = self.layer(x, f"resnet.layer{i}", stride)
        return x

    def local_context(self, x: Tensor, key: str) -> Tensor:
        ones = torch.ones(1, 1, *x.shape[-2:])
        kernel = torch.ones(1, 1, 3, 3)
        sums = F.conv2d(x, kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
        y = sums / F.conv2d(ones, kernel, padding=1)  # means over pixels inside the map
        y = self.norm(self.conv(y, f"{key}.fc1"), f"{key}.bn1").relu()
        return (self.norm(self.conv(y, f"{key}.fc2"), f"{key}.bn2") + x).relu()

    def interaction(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        both = self.conv(torch.cat([one, other], dim=1), "neck.conv1")
        difference = self.conv((one - other).abs(), "neck.conv2")
        joined = self.local_context(torch.cat([both, difference], dim=1), "neck.sp")
        gate = self.norm(self.conv(joined, "neck.gen_mask.0"), "neck.gen_mask.1")
        strength = torch.tanh(gate) * self.state["neck.beta"]
        shared = [self.conv_block(x * strength, "neck.conv_final") + x for x in (one, other)]
        return shared[0], shared[1], gate

    def classify(self, x: Tensor) -> Tensor:
        for i in (3, 4, 5):
            x = self.conv_block(x, f"classifier.conv1_{i}")
            x = upsample(x, [2 * side for side in x.shape[-2:]])
        return x

    def aggregate(self, one: Tensor, other: Tensor) -> Tensor:
        x = torch.cat([one, other], dim=1)
        for i in range(3):
            x = self.conv_block(x, f"aggregation.conv2_3.{i}")
        for i in (4, 5):
            x = upsample(x, [2 * side for side in x.shape[-2:]])
            x = self.conv_block(x, f"aggregation.conv2_{i}")
        x = self.conv(x, "aggregation.head.0")
        return upsample(x, [2 * side for side in x.shape[-2:]])

    # ---------------------------------------------------------------- siamese UNet

    def xview2_encoder(self, x: Tensor) -> list[Tensor]:
        """The SE-ResNeXt-50, whose pooling has no padding but rounds up."""
        maps = [self.stem(x, "encoder_stages.0.")]
        x = F.max_pool2d(maps[0], 3, 2, ceil_mode=True)
        for i in range(1, 5):
            key = "encoder_stages.1.1" if i == 1 else f"encoder_stages.{i}"
            x = self.layer(x, key, 1 if i == 1 else 2)
            maps.append(x)
        return maps

    def concat_scse(self, x: Tensor, key: str) -> Tensor:
        gate = self.conv(x.mean((2, 3), keepdim=True), f"{key}.fc1").relu()
        gate = self.conv(gate, f"{key}.fc2").sigmoid()
        return torch.cat([x * gate, x * self.conv(x, f"{key}.spatial_se.0").sigmoid()], dim=1)

    def upsample_conv(self, x: Tensor, key: str) -> Tensor:
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return self.conv(x, f"{key}.layer.1").relu()

    # ---------------------------------------------------------------- UNet++

    def smp_node(self, key: str, x: Tensor, *skips: Tensor) -> Tensor:
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x, key = torch.cat([x, *skips], dim=1), f"decoder.blocks.{key}"
        for i in (1, 2):
            x = self.norm(self.conv(x, f"{key}.conv{i}.0"), f"{key}.conv{i}.1").relu()
        return x


def published_tfinet(
    state: State, image1: Tensor, image2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, 3, H, W) twice -> class logits of either date, P(UNCHANGED) (B, H, W), gate logits."""
    net = PlainResNet(state)
    one, other, gate = net.interaction(net.tfinet_encoder(image1), net.tfinet_encoder(image2))
    unchanged = net.aggregate(one, other).sigmoid().squeeze(1)
    return net.classify(one), net.classify(other), unchanged, gate


def published_siamese_unet(state: State, image1: Tensor, image2: Tensor) -> Tensor:
    """(B, 3, H, W) twice -> P(changed) (B, H, W)."""
    net = PlainResNet(state)
    maps1, maps2 = net.xview2_encoder(image1), net.xview2_encoder(image2)
    x = maps2[-1]  # of date 2 alone
    for i, skip in enumerate((3, 2, 1, 0)):
        x = net.upsample_conv(x, f"decoder_stages.{skip}")
        x = torch.cat([x, maps1[skip], maps2[skip]], dim=1)
        x = net.conv(x, f"bottlenecks.{i}.seq.0").relu()
        x = net.concat_scse(x, f"bottlenecks.{i}.seq.2")
    x = net.upsample_conv(x, "last_upsample")
    return net.conv(x, "final.0").sigmoid().squeeze(1)


def unetplusplus_layout() -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
    """Keys, shapes and types of segmentation_models_pytorch's UNet++ (ResNeXt-50, one band)."""
    from torchvision.models import resnext50_32x4d

    with torch.device("meta"):
        encoder = resnext50_32x4d(weights=None).state_dict()
    layout = {
        f"encoder.{k}": (tuple(v.shape), v.dtype)
        for k, v in encoder.items()
        if not k.startswith("fc.")
    }
    layout["encoder.conv1.weight"] = ((64, 1, 7, 7), torch.float32)
    for node, (joined, out) in UNETPLUSPLUS_NODES.items():
        for i, inputs in ((1, joined), (2, out)):
            key = f"decoder.blocks.{node}.conv{i}"
            layout[f"{key}.0.weight"] = ((out, inputs, 3, 3), torch.float32)
            for name in ("weight", "bias", "running_mean", "running_var"):
                layout[f"{key}.1.{name}"] = ((out,), torch.float32)
            layout[f"{key}.1.num_batches_tracked"] = ((), torch.int64)
    layout["segmentation_head.0.weight"] = ((1, 16, 3, 3), torch.float32)
    layout["segmentation_head.0.bias"] = ((1,), torch.float32)
    return layout


def published_unetplusplus(state: State, image1: Tensor, image2: Tensor) -> Tensor:
    """(B, 1, H, W) twice -> P(changed) (B, H, W)."""
    net, maps = PlainResNet(state), []
    x = net.stem(image1 - image2, "encoder.")
    maps.append(x)
    x = F.max_pool2d(x, 3, 2, 1)
    for i in range(1, 5):
        x = net.layer(x, f"encoder.layer{i}", 1 if i == 1 else 2)
        maps.append(x)
    e1, e2, e3, e4, e5 = maps  # strides 2 to 32
    node = net.smp_node
    x00, x11, x22, x33 = (
        node("x_0_0", e5, e4),
        node("x_1_1", e4, e3),
        node("x_2_2", e3, e2),
        node("x_3_3", e2, e1),
    )
    x01 = node("x_0_1", x00, x11, e3)
    x12 = node("x_1_2", x11, x22, e2)
    x23 = node("x_2_3", x22, x33, e1)
    x02 = node("x_0_2", x01, x12, x22, e2)
    x13 = node("x_1_3", x12, x23, x33, e1)
    x03 = node("x_0_3", x02, x13, x23, x33, e1)
    x = node("x_0_4", x03)
    return net.conv(x, "segmentation_head.0").sigmoid().squeeze(1)
