"""TFINet: three branches on features with a difference-driven gate (SCDNet in the published code).

Except for the backbone, attribute names are those of the published code.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import Backbone
from models.layers import conv3x3
from models.resampling import resize
from models.siamese import Network, check_two_dates, pad_to_multiple
from utils.structures import Logits


def double(x: Tensor) -> Tensor:
    """Upsamples (N, C, h, w) -> (N, C, 2h, 2w), bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ResidualConv(nn.Module):
    """Two 3x3 convolutions with batch norm, with a residual connection around the second.

    The conv-block of the paper. With `lightweight`, convolutions are depthwise-separable.
    """

    def __init__(self, in_channels: int, out_channels: int, lightweight: bool = False):
        super().__init__()
        kind = {"lightweight": lightweight, "bias": True}
        self.conv1 = conv3x3(in_channels, out_channels, **kind)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, **kind)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, h, w) -> (N, out, h, w), >= 0."""
        first = self.conv1(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(first)))) + first)


class LocalContext(nn.Module):
    """Adds a bottleneck of the 3x3 means to the map (`SPModel` in the published code)."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 16, 1)
        self.fc1 = nn.Conv2d(channels, hidden, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.fc2 = nn.Conv2d(hidden, channels, kernel_size=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape, >= 0. Means at the border exclude the padding."""
        means = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return F.relu(self.bn2(self.fc2(F.relu(self.bn1(self.fc1(means))))) + x)


class FeatureInteraction(nn.Module):
    """Gates the features of both dates by their difference (`Fea_Inter_Model`).

    The gate has the published sign: POSITIVE ON UNCHANGED pixels.
    """

    def __init__(self, channels: int, lightweight: bool = False):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(2 * channels, half, kernel_size=1)
        self.conv2 = nn.Conv2d(channels, channels - half, kernel_size=1)
        self.sp = LocalContext(channels)
        self.gen_mask = nn.Sequential(
            nn.Conv2d(channels, 1, kernel_size=3, padding=1), nn.BatchNorm2d(1)
        )
        self.conv_final = ResidualConv(channels, channels, lightweight)
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 2, C, h, w) -> the same shape, and gate logits (B, 1, h, w)."""
        both = self.conv1(features.flatten(1, 2))
        difference = self.conv2((features[:, 0] - features[:, 1]).abs())
        gate = self.gen_mask(self.sp(torch.cat([both, difference], dim=1)))
        gated = features * gate.tanh().unsqueeze(1) * self.beta
        shared = self.conv_final(gated.flatten(0, 1)).unflatten(0, features.shape[:2])
        return shared + features, gate


class ChangeDecoder(nn.Module):
    """Change logits at 8 times the size of the concatenated features (`Aggregation`)."""

    def __init__(self, channels: int, lightweight: bool = False):
        super().__init__()
        self.conv2_3 = nn.Sequential(
            ResidualConv(2 * channels, 512, lightweight),
            ResidualConv(512, 128, lightweight),
            ResidualConv(128, 128, lightweight),
        )
        self.conv2_4 = ResidualConv(128, 64, lightweight)
        self.conv2_5 = ResidualConv(64, 32, lightweight)
        self.head = nn.Sequential(nn.Conv2d(32, 1, kernel_size=1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, 2 * C, h, w) -> (B, 1, 8h, 8w), > 0 means changed."""
        x = self.conv2_4(double(self.conv2_3(features)))
        return double(self.head(self.conv2_5(double(x))).float())


class ClassDecoder(nn.Module):
    """Class logits at 8 times the size of the features of one date (`Classifier`)."""

    def __init__(self, channels: int, num_classes: int, lightweight: bool = False):
        super().__init__()
        self.conv1_3 = ResidualConv(channels, 128, lightweight)
        self.conv1_4 = ResidualConv(128, 32, lightweight)
        self.conv1_5 = ResidualConv(32, num_classes, lightweight)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, K, 8h, 8w), >= 0 because of a final ReLU (as published)."""
        x = self.conv1_4(double(self.conv1_3(features)))
        return double(self.conv1_5(double(x)).float())


class TFINet(Network):
    """Semantic change detection with a gate on the features of both dates.

    Published with a ResNet-18 of stride 8 without dilation. With other backbones it reads the
    merged map and resizes the logits if its stride is not 8.

    Args:
        backbone: shared by both dates; processes them as one batch.
        num_classes: K > 0.
        with_change: must be True.
        lightweight: depthwise-separable instead of full 3x3 convolutions below the backbone.
        dropout: not used; the published network has none.

    Reference: A Difference-Enhanced Semantic Change Detection Network Based on Tri-Branch Feature
    Interaction.
    """

    undilated = True
    has_gate = True

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        with_change: bool = True,
        lightweight: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        if not num_classes or not with_change:
            raise ValueError(
                f"TFINet has a semantic and a change head, got num_classes={num_classes} and "
                f"with_change={with_change}; pass num_classes > 0 and with_change=True"
            )
        self.backbone = backbone
        channels = backbone.merged_channels
        self.neck = FeatureInteraction(channels, lightweight)
        self.aggregation = ChangeDecoder(channels, lightweight)
        self.classifier = ClassDecoder(channels, num_classes, lightweight)

    @classmethod
    def tasks(cls, **options: object) -> tuple[str, ...]:  # noqa: D102
        return ("semantic_change",)

    def forward(self, images: Tensor) -> Logits:
        """Images (B, 2, C, H, W), normalised -> logits at full resolution, in float32.

        `semantic` is >= 0. `aux_change` are gate logits in our polarity, > 0 means changed.

        Raises:
            ValueError: T is not 2.
        """
        check_two_dates(images)
        height, width = images.shape[-2:]
        multiple = math.lcm(self.backbone.size_multiple, self.backbone.merged_stride)
        folded = pad_to_multiple(images.flatten(0, 1), multiple)
        features = self.backbone.merge(self.backbone(folded)).unflatten(0, images.shape[:2])
        features, gate = self.neck(features)

        def upsample(x: Tensor, align_corners: bool = False) -> Tensor:  # to (N, k, H, W)
            return resize(x.float(), folded.shape[-2:], align_corners)[..., :height, :width]

        semantic = upsample(self.classifier(features.flatten(0, 1)))
        change = upsample(self.aggregation(features.flatten(1, 2)))
        return Logits(
            semantic.unflatten(0, images.shape[:2]),
            change.squeeze(1),
            aux_change=upsample(-gate, align_corners=True).squeeze(1),
        )
