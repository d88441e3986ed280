"""A plain implementation of the published algorithm, as a baseline for speed.

It uses the modules of this project's network, so both sides share weights and tiles. (Equality
with the publication is tested against tests/helpers/plain_reference.py.) float32, one encoder pass
per date, views one after the other, unfused Adam, the loss on full-size probabilities, tiles
decoded each time, masks written between batches.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from models.siamese import SiameseNetwork
from utils.schemes import SECOND

MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
CLASS_WEIGHTS = torch.tensor((2.0, 1.0, 2.0, 2.0, 1.0, 1.0))


class PlainNetwork(nn.Module):
    """Two images -> class logits of each, and P(changed).

    `together`: the encoder processes both dates as one batch, not one after the other.
    """

    def __init__(self, network: SiameseNetwork, together: bool = False):
        super().__init__()
        self.network, self.together = network, together

    def forward(self, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two (B, 3, H, W) -> (B, K, H, W), (B, K, H, W), (B, H, W)."""
        net, size = self.network, image1.shape[-2:]
        if self.together:
            both = net.head_maps(net.backbone(torch.cat([image1, image2])))
            maps1, maps2 = zip(*(m.chunk(2) for m in both), strict=True)
            out1, out2 = _resize(net.semantic_head(both), size).chunk(2)
        else:
            maps1 = net.head_maps(net.backbone(image1))
            maps2 = net.head_maps(net.backbone(image2))
            out1 = _resize(net.semantic_head(maps1), size)
            out2 = _resize(net.semantic_head(maps2), size)
        change = net.change_head([torch.abs(a - b) for a, b in zip(maps1, maps2, strict=True)])
        return out1, out2, torch.sigmoid(_resize(change, size)).squeeze(1)


def normalise(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32."""
    return (images.float() / 255 - MEAN.to(images.device)) / STD.to(images.device)


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
    weights = CLASS_WEIGHTS.to(images.device)
    loss1 = F.cross_entropy(out1, semantic[:, 0], weights, ignore_index=255)
    loss2 = F.cross_entropy(out2, semantic[:, 1], weights, ignore_index=255)
    loss = 2 * loss_change + loss1 + loss2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


class PlainPairs(Dataset):
    """Tiles of a folder: normalised images, and optionally labels.

    Args:
        folder: with im1, im2, and label1, label2.
        labelled: read label1 and label2.
        augmented: rotate or mirror at random.
        training: leave out every tenth tile, which is for validation.
    """

    TURNS = (
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_270,
        None,
    )

    def __init__(
        self, folder: Path, labelled: bool, augmented: bool = False, training: bool = False
    ):
        names = sorted(path.name for path in (folder / "im1").iterdir())
        self.names = [name for i, name in enumerate(names) if i % 10 or not training]
        self.folder, self.augmented = folder, augmented
        self.fields = ("im1", "im2", "label1", "label2") if labelled else ("im1", "im2")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple:
        """Name, images (3, H, W) float32, labels (H, W) int64."""
        name = self.names[index]
        pictures = [Image.open(self.folder / field / name) for field in self.fields]
        turn = random.choice(self.TURNS) if self.augmented else None
        if turn is not None:
            pictures = [picture.transpose(turn) for picture in pictures]
        images = [torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures[:2]]
        labels = [torch.from_numpy(np.array(p)).long() for p in pictures[2:]]
        return name, *(normalise(image) for image in images), *labels


def vote(votes: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """The value with most votes, the lowest of equals; votes (H, W) in 0..classes."""
    counts = sum(np.eye(classes + 1)[one] for one in votes)
    return counts.argmax(-1).astype(np.uint8)


@torch.no_grad()
def label(networks: Sequence[PlainNetwork], batches: DataLoader, out: Path) -> None:
    """Pseudo labels of the ensemble, each the mean of six views."""
    device = next(networks[0].parameters()).device
    for names, image1, image2, label1, label2 in batches:
        votes = [[[], []] for _ in names]
        for network in networks:
            out1, out2, _ = predict_tta(network, image1.to(device), image2.to(device))
            pred1, pred2 = out1.argmax(1).cpu() + 1, out2.argmax(1).cpu() + 1
            same = torch.where(pred1 == pred2, pred1, 0)
            for i in range(len(names)):
                for date, true in enumerate((label1, label2)):
                    one = torch.where(true[i] != 0, true[i], same[i])
                    votes[i][date].append(one.numpy())
        for name, dates in zip(names, votes, strict=True):
            for date, one in enumerate(dates, start=1):
                _write(out / f"im{date}" / name, vote(one, SECOND.num_classes))


@torch.no_grad()
def test(networks: Sequence[PlainNetwork], batches: DataLoader, out: Path) -> None:
    """Masks of the ensemble's mean over six views."""
    device = next(networks[0].parameters()).device
    for names, image1, image2 in batches:
        each = [predict_tta(n, image1.to(device), image2.to(device)) for n in networks]
        out1, out2, change = (sum(values) / len(values) for values in zip(*each, strict=True))
        for date, probs in enumerate((out1, out2), start=1):
            masks = probs.argmax(1) + 1
            masks[change <= 0.5] = 0
            for name, mask in zip(names, masks.cpu().numpy().astype(np.uint8), strict=True):
                _write(out / f"im{date}" / name, mask)


class PlainConfusion:
    """Counts of (truth, prediction) pairs, on the CPU."""

    def __init__(self, states: int):
        self.states, self.counts = states, np.zeros((states, states))

    def update(self, pred: Tensor, true: Tensor) -> None:
        """Adds masks of any shape, 0..states-1."""
        pred, true = pred.cpu().numpy().ravel(), true.cpu().numpy().ravel()
        known = (true >= 0) & (true < self.states)
        cells = self.states * true[known].astype(int) + pred[known]
        counts = np.bincount(cells, minlength=self.states**2)
        self.counts += counts.reshape(self.states, self.states)


def _write(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette([channel for colour in SECOND.palette for channel in colour])
    image.save(path)


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
