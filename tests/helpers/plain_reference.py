"""The published networks written out plainly on a state dict, to hold ours against.

Nothing here is shared with models/: weights are looked up by their published names.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
State = Mapping[str, Tensor]


def published_layout(name: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Key -> shape and type of a published checkpoint; skips the test if the file is missing."""
    path = SHARED / "reference_checkpoints" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} absent")
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {
        key: (tuple(shape), getattr(torch, dtype.removeprefix("torch.")))
        for key, (shape, dtype) in entries.items()
    }


def random_state(layout: Mapping[str, tuple[tuple[int, ...], torch.dtype]], seed: int = 0) -> dict:
    """Random weights for a layout, scaled so that activations neither overflow nor vanish."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, (shape, dtype) in layout.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            value = torch.tensor(100)
        elif key.endswith("running_var"):
            value = 0.5 + torch.rand(shape, generator=generator)
        elif len(shape) == 4:
            value = noise / (shape[1] * shape[2] * shape[3]) ** 0.5
        elif key.endswith("weight"):  # batch norm
            value = 0.7 + 0.1 * noise
        else:
            value = 0.1 * noise
        state[key] = value.to(dtype)
    return state


def random_weights(module: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with weights of `random_state`: batch norms affect the results."""
    layout = {k: (tuple(v.shape), v.dtype) for k, v in module.state_dict().items()}
    module.load_state_dict(random_state(layout, seed))
    return module.eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    """Standard normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Plain:
    """A state dict, read by prefix."""

    def __init__(self, state: State):
        self.state = state

    @classmethod
    def of(cls, module: nn.Module, prefix: str) -> "Plain":
        """With the weights of a module, under a prefix."""
        return cls({f"{prefix}.{k}": v for k, v in module.state_dict().items()})

    def has(self, key: str) -> bool:
        return any(k.startswith(key) for k in self.state)

    def conv(self, x: Tensor, key: str, stride=1, padding=None, dilation=1) -> Tensor:
        weight = self.state[f"{key}.weight"]
        if padding is None:
            padding = dilation * (weight.shape[-1] // 2)
        groups = x.shape[1] // weight.shape[1]
        bias = self.state.get(f"{key}.bias")
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def norm(self, x: Tensor, key: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (self.state[f"{key}.{n}"][:, None, None] for n in names)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv3x3(self, x: Tensor, key: str, dilation=1) -> Tensor:
        """Plain, or depthwise, batch norm, ReLU, 1x1: whichever the state dict holds."""
        if not self.has(f"{key}.conv."):
            return self.conv(x, key, dilation=dilation)
        x = self.conv(x, f"{key}.conv.0", dilation=dilation)
        return self.conv(self.norm(x, f"{key}.conv.1").relu(), f"{key}.conv.3")

    # ---------------------------------------------------------------- HRNet

    def block(self, x: Tensor, key: str) -> Tensor:
        """A basic block or a bottleneck, by its number of convolutions."""
        last = 3 if self.has(f"{key}.conv3.") else 2
        y = x
        for i in range(1, last + 1):
            y = self.norm(self.conv(y, f"{key}.conv{i}"), f"{key}.bn{i}")
            y = y.relu() if i < last else y
        if self.has(f"{key}.downsample."):
            x = self.norm(self.conv(x, f"{key}.downsample.0"), f"{key}.downsample.1")
        return (x + y).relu()

    def blocks(self, x: Tensor, key: str) -> Tensor:
        i = 0
        while self.has(f"{key}.{i}."):
            x, i = self.block(x, f"{key}.{i}"), i + 1
        return x

    def fuse(self, xs: list[Tensor], key: str) -> list[Tensor]:
        """y_i = ReLU(x_i + sum of the converted maps of all other branches)."""
        fused = []
        for i, own in enumerate(xs):
            total = own
            for j, x in enumerate(xs):
                name = f"{key}.{i}.{j}"
                if j > i:  # coarser: 1x1, batch norm, upsampled with aligned corners
                    x = self.norm(self.conv(x, f"{name}.0"), f"{name}.1")
                    total = total + upsample(x, own.shape[-2:], True)
                elif j < i:  # finer: strided 3x3s
                    for k in range(i - j):
                        x = self.norm(self.conv(x, f"{name}.{k}.0", 2), f"{name}.{k}.1")
                        x = x.relu() if k < i - j - 1 else x
                    total = total + x
            fused.append(total.relu())
        return fused

    def hrnet(self, x: Tensor, prefix: str = "") -> list[Tensor]:
        """Images -> the four branches, finest first."""
        for i in (1, 2):
            x = self.norm(self.conv(x, f"{prefix}conv{i}", 2), f"{prefix}bn{i}").relu()
        xs = [self.blocks(x, f"{prefix}layer1")]
        for stage in (2, 3, 4):
            entering = f"{prefix}transition{stage - 1}"
            before = xs
            xs = []
            for i in range(stage):
                x = before[min(i, len(before) - 1)]
                if i < len(before) and self.has(f"{entering}.{i}."):
                    x = self.norm(self.conv(x, f"{entering}.{i}.0"), f"{entering}.{i}.1").relu()
                elif i >= len(before):
                    name = f"{entering}.{i}.0"
                    x = self.norm(self.conv(x, f"{name}.0", 2), f"{name}.1").relu()
                xs.append(x)
            module = 0
            while self.has(f"{prefix}stage{stage}.{module}."):
                key = f"{prefix}stage{stage}.{module}"
                xs = [self.blocks(x, f"{key}.branches.{i}") for i, x in enumerate(xs)]
                xs = self.fuse(xs, f"{key}.fuse_layers")
                module += 1
        return xs

    def merged_hrnet(self, x: Tensor, prefix: str = "") -> Tensor:
        """The four branches concatenated at the finest resolution."""
        xs = self.hrnet(x, prefix)
        return torch.cat([upsample(x, xs[0].shape[-2:], True) for x in xs], dim=1)

    # ---------------------------------------------------------------- heads

    def fcn_head(self, x: Tensor, key: str) -> Tensor:
        x = self.norm(self.conv3x3(x, f"{key}.0"), f"{key}.1").relu()
        return self.conv(x, f"{key}.4")

    def psp_head(self, x: Tensor, key: str) -> Tensor:
        maps = [x]
        for i, bins in enumerate((1, 2, 3, 6), start=1):
            y = self.conv(F.adaptive_avg_pool2d(x, bins), f"{key}.0.conv{i}.0")
            y = self.norm(y, f"{key}.0.conv{i}.1").relu()
            maps.append(upsample(y, x.shape[-2:]))
        x = torch.cat(maps, dim=1)
        x = self.norm(self.conv3x3(x, f"{key}.1"), f"{key}.2").relu()
        return self.conv(x, f"{key}.5")

    def aspp(self, x: Tensor, key: str) -> Tensor:
        maps = [self.norm(self.conv(x, f"{key}.b0.0"), f"{key}.b0.1").relu()]
        for i, rate in enumerate((12, 24, 36), start=1):
            y = self.conv3x3(x, f"{key}.b{i}.0", dilation=rate)
            maps.append(self.norm(y, f"{key}.b{i}.1").relu())
        y = self.conv(x.mean((2, 3), keepdim=True), f"{key}.b4.gap.1")
        maps.append(upsample(self.norm(y, f"{key}.b4.gap.2").relu(), x.shape[-2:]))
        y = self.conv(torch.cat(maps, dim=1), f"{key}.project.0")
        return self.norm(y, f"{key}.project.1").relu()


def upsample(x: Tensor, size, align_corners: bool = False) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def published_pspnet(state: State, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3, H, W) twice -> class logits of either date, and P(UNCHANGED) (B, H, W)."""
    return _published_dense(state, image1, image2, lambda net, x: net.psp_head(x, "head_bin.conv5"))


def published_fcn(state: State, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `published_pspnet`."""
    return _published_dense(state, image1, image2, lambda net, x: net.fcn_head(x, "head_bin.head"))


def _published_dense(state, image1, image2, change_head):
    net, size = Plain(state), image1.shape[-2:]
    feature1 = net.merged_hrnet(image1, "backbone.")  # one encoder pass for each date
    feature2 = net.merged_hrnet(image2, "backbone.")
    logits1 = upsample(net.fcn_head(feature1, "head.head"), size)
    logits2 = upsample(net.fcn_head(feature2, "head.head"), size)
    unchanged = upsample(change_head(net, (feature1 - feature2).abs()), size).sigmoid()
    return logits1, logits2, unchanged.squeeze(1)


def published_deeplabv3plus(
    state: State, image1: Tensor, image2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `published_pspnet`, on torchvision's ResNet-50 dilated to stride 8."""
    from torchvision.models import resnet50
    from torchvision.models._utils import IntermediateLayerGetter

    net, size = Plain(state), image1.shape[-2:]
    body = IntermediateLayerGetter(
        resnet50(weights=None, replace_stride_with_dilation=[False, True, True]),
        {"layer1": "fine", "layer4": "deep"},
    )
    prefix = "backbone."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    body.load_state_dict(own)
    maps1, maps2 = body.eval()(image1), body(image2)
    logits1, logits2 = (
        upsample(net.fcn_head(maps["deep"], "head.head"), size) for maps in (maps1, maps2)
    )
    deep = net.aspp((maps1["deep"] - maps2["deep"]).abs(), "head_bin")
    fine = net.conv((maps1["fine"] - maps2["fine"]).abs(), "reduce_bin.0")
    fine = net.norm(fine, "reduce_bin.1").relu()
    x = torch.cat([upsample(deep, fine.shape[-2:]), fine], dim=1)
    for i in (0, 3):
        x = net.norm(net.conv3x3(x, f"fuse_bin.{i}"), f"fuse_bin.{i + 1}").relu()
    unchanged = upsample(net.conv(x, "classifier_bin"), size).sigmoid()
    return logits1, logits2, unchanged.squeeze(1)
