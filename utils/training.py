"""The parts of a training loop that know nothing of files or options."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader

from utils import distributed
from utils.inference import Normalise
from utils.losses import Denominators, LossTerms, Objective, loss_denominators, training_loss
from utils.precision import autocast
from utils.structures import Sample


def endless(batches: DataLoader, start_step: int) -> Iterator[Sample]:
    """Epoch after epoch of batches, from any step on, always in the same order."""
    steps_per_epoch = len(batches)
    epoch, skip = divmod(start_step, steps_per_epoch)
    while True:
        batches.batch_sampler.set_epoch(epoch, skip)
        yield from batches
        epoch, skip = epoch + 1, 0


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps (None: never) happens now."""
    return every is not None and step % every == 0


def forward_backward(
    network: nn.Module,
    normalise: Normalise,
    batch: Sample,
    objective: Objective,
    parts: int,
    scaler: torch.amp.GradScaler,
    amp: torch.dtype | None,
) -> LossTerms:
    """Gradients of one batch, worked through in parts.

    Returns:
        This rank's share of the losses: summed over ranks (`LossMonitor` does that when it is
        read, not at every step) they are means over the pixels of all.
    """
    denominators = loss_denominators(batch, objective.class_weights, objective.mean_over)
    packed = distributed.sum_over_ranks(torch.cat([d.flatten() for d in denominators]))
    denominators = Denominators(packed[:-1], packed[-1])
    terms, tiles = [], len(batch.images)
    for i in range(parts):
        # in a row, so that the i-th parts of all ranks are together the i-th part of one process
        rows = slice(i * tiles // parts, (i + 1) * tiles // parts)
        part = batch._replace(**{k: getattr(batch, k)[rows] for k in batch._fields})
        with distributed.gradients_synced(network, i == parts - 1):
            with autocast(part.images.device, amp):
                logits = network(normalise(part.images))
            terms.append(training_loss(logits, part, objective, denominators, 1 / parts))
            del logits  # which the backward pass does not need
            # DistributedDataParallel divides gradients by the world, our losses need their sum
            scaler.scale(terms[-1].total * distributed.world()).backward()
    shares = ((None if v[0] is None else sum(v).detach()) for v in zip(*terms, strict=True))
    return LossTerms(*shares)
