"""A plain reading of the published algorithm, to measure ours against.

Speed only: it takes our network apart, so both sides share weights and tiles (that ours computes
what was published is tested against an independent reading, tests/plain_reference.py). float32,
one encoder pass per date, views one after the other, unfused Adam, the loss on full-size
probabilities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.siamese import SiameseNetwork

MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
CLASS_WEIGHTS = torch.tensor((2.0, 1.0, 2.0, 2.0, 1.0, 1.0))


class PlainNetwork(nn.Module):
    """Two images in; class logits of each and P(changed) out."""

    def __init__(self, network: SiameseNetwork):
        super().__init__()
        self.network = network

    def forward(self, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two (B, 3, H, W) -> (B, K, H, W), (B, K, H, W), (B, H, W)."""
        net, size = self.network, image1.shape[-2:]
        maps1 = net.head_maps(net.backbone(image1))
        maps2 = net.head_maps(net.backbone(image2))
        out1 = _resize(net.semantic_head(maps1), size)
        out2 = _resize(net.semantic_head(maps2), size)
        change = net.change_head([torch.abs(a - b) for a, b in zip(maps1, maps2, strict=True)])
        return out1, out2, torch.sigmoid(_resize(change, size)).squeeze(1)


def normalise(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32."""
    return (images.float() / 255 - MEAN) / STD


def predict(network: PlainNetwork, image1: Tensor, image2: Tensor) -> tuple[Tensor, ...]:
    """Probabilities of one view."""
    out1, out2, change = network(image1, image2)
    return torch.softmax(out1, dim=1), torch.softmax(out2, dim=1), change


def predict_tta(network: PlainNetwork, image1: Tensor, image2: Tensor) -> list[Tensor]:
    """The mean over the six published views."""
    views = (
        (lambda x: x, lambda x: x),
        (lambda x: x.flip(-2), lambda x: x.flip(-2)),
        (lambda x: x.flip(-1), lambda x: x.flip(-1)),
        (lambda x: x.transpose(-2, -1).flip(-1), lambda x: x.flip(-1).transpose(-2, -1)),
        (lambda x: x.flip(-1).transpose(-2, -1), lambda x: x.transpose(-2, -1).flip(-1)),
        (lambda x: x.flip(-1).flip(-2), lambda x: x.flip(-2).flip(-1)),
    )
    sums = None
    for apply, undo in views:
        probs = [undo(p) for p in predict(network, apply(image1), apply(image2))]
        sums = probs if sums is None else [s + p for s, p in zip(sums, probs, strict=True)]
    return [s / len(views) for s in sums]


def training_step(
    network: PlainNetwork,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    semantic: Tensor,
    change: Tensor,
) -> Tensor:
    """One step of the published training.

    Args:
        network: in train mode.
        optimizer: of its parameters.
        images: (B, 2, 3, H, W) uint8.
        semantic: (B, 2, H, W) int64, 255 where unchanged.
        change: (B, H, W) int64, 1 = changed.
    """
    images = normalise(images)
    out1, out2, prob = network(images[:, 0], images[:, 1])
    changed = change.float()
    loss_change = F.binary_cross_entropy(prob, changed, weight=1 + changed)
    loss1 = F.cross_entropy(out1, semantic[:, 0], CLASS_WEIGHTS, ignore_index=255)
    loss2 = F.cross_entropy(out2, semantic[:, 1], CLASS_WEIGHTS, ignore_index=255)
    loss = 2 * loss_change + loss1 + loss2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
