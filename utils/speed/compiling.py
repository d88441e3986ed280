"""torch.compile of residual blocks: takes seconds, the whole network would take minutes."""

from torch import nn

from utils.speed.blocks import residual_blocks

MOST_SHAPES = 64  # limit of compiled variants per block class, one for each shape


def compile_blocks(network: nn.Module, backend: str = "inductor") -> bool:
    """Compiles the blocks of a ResNet or HRNet in place; False if there are none.

    Fusion happens within a block, between its two or three convolutions. Compiling a whole HRNet is
    hardly faster.
    """
    blocks = residual_blocks(network)
    if blocks:
        import torch._dynamo

        # beyond the limit, dynamo would run blocks without compilation
        torch._dynamo.config.cache_size_limit = MOST_SHAPES  # same name in every torch since 2.6
    for block in blocks:
        block.compile(backend=backend, dynamic=False)
    return bool(blocks)
