"""The residual blocks of ResNets and HRNets."""

from torch import nn


def residual_blocks(network: nn.Module) -> list[nn.Module]:
    """All residual blocks (timm's BasicBlock and Bottleneck) of a network."""
    from timm.models.resnet import BasicBlock, Bottleneck

    return [module for module in network.modules() if type(module) in (BasicBlock, Bottleneck)]
