"""The inner loop of train.py, for tests of its parts."""

import torch
from torch import nn

from models.normalise import Normalise
from training.losses import Loss, LossTerms
from training.steps import micro_batches
from utils import distributed
from utils.distributed import gradients_synced
from utils.precision import autocast
from utils.structures import Sample


def forward_backward(
    network: nn.Module,
    normalise: Normalise,
    batch: Sample,
    loss: Loss,
    parts: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    amp: torch.dtype | None = None,
) -> LossTerms:
    """Accumulates the gradients of one batch in micro-batches; returns this rank's loss shares."""
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    pixels, each = loss.count_pixels(batch, parts), []
    for part, is_last in micro_batches(batch, parts):
        with gradients_synced(network, is_last):
            with autocast(part.images.device, amp):
                logits = network(normalise(part.images))
            each.append(loss(logits, part, pixels))
            scaler.scale(each[-1].total * distributed.world()).backward()
    return LossTerms(*(None if v[0] is None else sum(v).detach() for v in zip(*each, strict=True)))
