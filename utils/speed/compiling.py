"""torch.compile of what a network repeats: seconds, where compiling all of it takes minutes."""

from torch import nn

from utils.speed.blocks import residual_blocks

MOST_SHAPES = 64  # of one class of blocks, each compiled once for all blocks of that shape


def compile_blocks(network: nn.Module, backend: str = "inductor") -> bool:
    """Compiles the blocks of a ResNet or HRNet in place; False if there are none.

    A block is two or three convolutions with what lies between, which is what there is to fuse: the
    whole of an HRNet gains little more.
    """
    blocks = residual_blocks(network)
    if blocks:
        import torch._dynamo

        # else a network with more kinds of blocks would go on uncompiled
        torch._dynamo.config.cache_size_limit = MOST_SHAPES  # its name in every torch since 2.6
    for block in blocks:
        block.compile(backend=backend, dynamic=False)
    return bool(blocks)
