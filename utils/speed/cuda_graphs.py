"""CUDA graphs: a network's kernels are launched together, so that small batches run faster.

Launching thousands of kernels one by one takes longer than running them on a few tiles.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.structures import Logits

WARM_UP = 3  # passes before the recording


class Graphed(nn.Module):
    """A network in training mode whose forward and backward passes are recorded and replayed.

    Results are the same, including batch-norm statistics and dropout. Gradients must be used before
    the next replay overwrites them, so gradient accumulation is not possible. Create it before
    other threads use the device: their kernels would break the recording.

    Args:
        network: on a CUDA device, in training mode.
        images: (B, T, C, H, W), normalised, an example batch; batches of other shapes are run
            without the graph.
        amp: autocast type of the training, None for float32.

    Raises:
        ValueError: the network cannot be recorded, or the memory is full.
    """

    def __init__(self, network: nn.Module, images: Tensor, amp: torch.dtype | None):
        super().__init__()
        self.network, self.shape = network, images.shape
        self.replay = _record(network, images, amp)

    def forward(self, images: Tensor) -> Logits:
        """As the network."""
        return self.replay(images) if images.shape == self.shape else self.network(images)


class _Flat(nn.Module):
    """Returns the network's outputs that are not None as a tuple; `names` holds their fields."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.names = network, ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        there = {k: v for k, v in self.network(images)._asdict().items() if v is not None}
        self.names = tuple(there)
        return tuple(there.values())


def _record(
    network: nn.Module, images: Tensor, amp: torch.dtype | None
) -> Callable[[Tensor], Logits]:
    """Records the network; returns the replay. Buffers and random state are restored."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    random = torch.cuda.get_rng_state(images.device)
    flat, enabled = _Flat(network), amp is not None
    # silences a warning: gradients come from the stream of the recording
    if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    try:
        # no autocast cache: cached casts would be missing from the recording
        with torch.autocast("cuda", dtype=amp, enabled=enabled, cache_enabled=False):
            replay = torch.cuda.make_graphed_callables(
                flat, (images,), num_warmup_iters=WARM_UP, allow_unused_input=True
            )
    except RuntimeError as error:
        raise ValueError(
            f"this network cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); pass "
            "--no-cuda-graphs, or a smaller --batch-size where the memory is full"
        ) from error
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    torch.cuda.set_rng_state(random, images.device)
    return lambda given: Logits(**dict(zip(flat.names, replay(given), strict=True)))
