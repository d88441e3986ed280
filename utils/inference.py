"""From tiles to probabilities and masks: normalisation, test-time augmentation, ensembles."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.folding import fold_batch_norm
from utils.fusion import fuse
from utils.precision import autocast
from utils.structures import Logits, Probs, Sample, Scheme
from utils.views import TTA_VIEWS


class Normalise(nn.Module):
    """Stored pixel values -> what a network was trained on: (x / scale - mean) / std per band."""

    def __init__(self, scale: float, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        mean_, std_ = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("factor", (1 / (scale * std_))[:, None, None], persistent=False)
        self.register_buffer("offset", (-mean_ / std_)[:, None, None], persistent=False)

    @classmethod
    def of(cls, scheme: Scheme) -> "Normalise":
        """For a data set."""
        return cls(scheme.scale, scheme.mean, scheme.std)

    def forward(self, images: Tensor) -> Tensor:
        """(..., C, H, W), uint8 or float -> float32.

        Raises:
            ValueError: another number of bands.
        """
        if images.shape[-3] != len(self.factor):
            raise ValueError(
                f"the images have {images.shape[-3]} bands, the network reads {len(self.factor)}; "
                "choose a checkpoint trained on such images (--checkpoints)"
            )
        return torch.addcmul(self.offset, images.float(), self.factor)


def to_device(batch: Sample, device: torch.device) -> Sample:
    """The batch's tensors on the device; there its labels become int64, which is what losses take.

    Every batch of a loader goes through here before its labels are used.
    """
    return batch._replace(
        images=batch.images.to(device, non_blocking=True),
        semantic=batch.semantic.to(device, non_blocking=True).long(),
        change=batch.change.to(device, non_blocking=True).long(),
    )


class Member(NamedTuple):
    """One network of an ensemble, with the normalisation it was trained with."""

    network: nn.Module
    normalise: Normalise

    @classmethod
    def fast(cls, network: nn.Module, normalise: Normalise, compiled: bool = False) -> "Member":
        """A copy of the network that only predicts: batch norm folded, channels last, fused.

        `compiled`: by torch.compile, which makes the first prediction slow, and fuses by itself.
        """
        copied = fold_batch_norm(network).to(memory_format=torch.channels_last)
        return cls(torch.compile(copied) if compiled else fuse(copied), normalise)


def to_probs(logits: Logits, size: tuple[int, int] | None = None) -> Probs:
    """Softmax over classes, sigmoid of the change scores, all in float32.

    `size`: (height, width) that the scores are brought to before; None leaves them as they are.
    """
    semantic, change, _, gate = (None if x is None else _resized(x.float(), size) for x in logits)
    return Probs(
        None if semantic is None else semantic.softmax(dim=2),
        None if change is None else change.sigmoid(),
        None if gate is None else gate.sigmoid(),
    )


def _resized(scores: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(B, ..., h, w) -> (B, ..., H, W), bilinear."""
    if size is None or scores.shape[-2:] == tuple(size):
        return scores
    maps = scores.flatten(1, -3) if scores.ndim > 3 else scores[:, None]
    maps = F.interpolate(maps, size, mode="bilinear")
    return maps.reshape(*scores.shape[:-2], *size)


def most_probable(scores: Tensor, dim: int) -> Tensor:
    """Index of the largest of `scores` along `dim`, the first of equals.

    As argmax, which takes six times as long on a CPU.
    """
    return scores.max(dim).indices


def to_masks(probs: Probs, threshold: float = 0.5) -> Tensor:
    """Probabilities -> (B, T, H, W) uint8 masks.

    0 = unchanged and 1..K = class; without a semantic head (B, 1, H, W) with 1 = changed; without
    a change head every pixel has its class.
    """
    if probs.semantic is None:
        return (probs.change > threshold).to(torch.uint8)[:, None]
    masks = (most_probable(probs.semantic, dim=2) + 1).to(torch.uint8)
    if probs.change is None:
        return masks
    return masks * (probs.change > threshold)[:, None]


class Predictor:
    """Networks and views averaged into one set of probabilities.

    Args:
        members: networks in eval mode, on `device`.
        device: where they are.
        amp: autocast type, None for float32.
        tta: default key of TTA_VIEWS.
    """

    def __init__(
        self,
        members: Sequence[Member],
        device: torch.device,
        amp: torch.dtype | None = None,
        tta: str = "none",
    ):
        self.members = list(members)
        self.device = device
        self.amp = amp
        self.tta = tta

    def __call__(
        self, images: Tensor, tta: str | None = None, size: tuple[int, int] | None = None
    ) -> Probs:
        """Images (B, T, C, H, W) as read -> the mean over members and views.

        `size`: (height, width) of the result; None = that of the images.
        """
        images = images.to(self.device, non_blocking=True)
        each = [self.predict_one(member, images, tta, size) for member in self.members]
        return mean_probs(each)

    def wait(self) -> None:
        """Until the device has done everything asked of it (for timing)."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def predict_one(
        self,
        member: Member,
        images: Tensor,
        tta: str | None = None,
        size: tuple[int, int] | None = None,
    ) -> Probs:
        """One member's probabilities, averaged over the views; see `__call__`."""
        normalised = member.normalise(images.to(self.device, non_blocking=True))
        views = TTA_VIEWS[self.tta if tta is None else tta]
        sums = Probs()
        for view in views:
            with autocast(self.device, self.amp):
                logits = member.network(view.apply(normalised))
            probs = to_probs(logits, view.size(size))
            sums = _add(sums, Probs(*(None if p is None else view.undo(p) for p in probs)))
        return Probs(*(None if p is None else p.div_(len(views)) for p in sums))


def mean_probs(each: Sequence[Probs]) -> Probs:
    """The mean of several networks' probabilities; the gate's only if all have one."""
    if any(probs.gate is None for probs in each):
        each = [probs._replace(gate=None) for probs in each]
    sums = Probs()
    for probs in each:
        sums = _add(sums, probs)
    if len(each) == 1:
        return sums
    return Probs(*(None if p is None else p / len(each) for p in sums))


def _add(sums: Probs, probs: Probs) -> Probs:
    return Probs(*(p if s is None else s.add_(p) for s, p in zip(sums, probs, strict=True)))
