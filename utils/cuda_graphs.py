"""A network's kernels launched all at once: small batches keep a GPU busy.

Launching some thousand kernels one by one takes longer than running them on a few tiles.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.structures import Logits

WARM_UP = 3  # passes before the recording


class Graphed(nn.Module):
    """A network in training whose forward and backward passes are recorded and then replayed.

    Recorded at the first call, for its shape; other shapes run as usual. Gives the same numbers,
    statistics of batch norms and dropout included. Between two replays the gradients must have been
    used up, so it is not for accumulating them.

    Args:
        network: on a CUDA device.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self._shape: torch.Size | None = None
        self._replay: Callable[[Tensor], Logits] | None = None

    def forward(self, images: Tensor) -> Logits:
        """As the network; call it under the autocast that it is trained with."""
        if self._replay is None:
            self._shape, self._replay = images.shape, record(self.network, images)
        return self._replay(images) if images.shape == self._shape else self.network(images)


class _Flat(nn.Module):
    """The network with its present outputs as a tuple, whose names it remembers."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.names = network, ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        there = {k: v for k, v in self.network(images)._asdict().items() if v is not None}
        self.names = tuple(there)
        return tuple(there.values())


def record(network: nn.Module, images: Tensor) -> Callable[[Tensor], Logits]:
    """A function that replays the network's passes for images of that shape.

    The passes that recording takes leave no trace in the network's statistics or random numbers.

    Raises:
        RuntimeError: the network does what cannot be recorded, or the memory is full.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    random = torch.cuda.get_rng_state(images.device)
    flat = _Flat(network)
    # casts that autocast keeps from call to call would be missing from the recording
    kind = images.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    try:
        with torch.autocast(kind, dtype, enabled, cache_enabled=False):
            replay = torch.cuda.make_graphed_callables(
                flat, (images.clone(),), num_warmup_iters=WARM_UP, allow_unused_input=True
            )
    except RuntimeError as error:
        raise RuntimeError(
            f"this network cannot be recorded as a CUDA graph ({error}); pass --no-cuda-graphs"
        ) from error
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    torch.cuda.set_rng_state(random, images.device)
    return lambda given: Logits(**dict(zip(flat.names, replay(given), strict=True)))
