"""Prediction: images as read -> probabilities, averaged over networks and views."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from inference.views import TTA_VIEWS
from models.normalise import Normalise
from utils.precision import autocast
from utils.probabilities import add_probs, mean_probs, to_probs
from utils.structures import Probs


class Member(NamedTuple):
    """One network of an ensemble, with the normalisation it was trained with."""

    network: nn.Module  # prepared by `utils.speed.for_prediction`
    normalise: Normalise


class Predictor:
    """Averages the probabilities of several networks and views.

    Args:
        members: networks in eval mode, on `device`.
        device: of the networks.
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
        """Images (B, T, C, H, W) as read -> mean probabilities over members and views.

        `tta`: a key of TTA_VIEWS; None = the predictor's. `size`: (height, width) of the result;
        None = that of the images.
        """
        images = images.to(self.device, non_blocking=True)
        each = [self.predict_one(member, images, tta, size) for member in self.members]
        return mean_probs(each)

    def wait(self) -> None:
        """Waits until the device has finished all queued work (for timing)."""
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
            sums = add_probs(sums, Probs(*(None if p is None else view.undo(p) for p in probs)))
        return Probs(*(None if p is None else p.div_(len(views)) for p in sums))
