"""The residual blocks that ResNets and HRNets are made of."""

from torch import nn


def residual_blocks(network: nn.Module) -> list[nn.Module]:
    """All of a network's, whichever part of it they are in."""
    from timm.models.resnet import BasicBlock, Bottleneck

    return [module for module in network.modules() if type(module) in (BasicBlock, Bottleneck)]
