"""Published starts of whole networks, where they differ from PyTorch's."""

from torch import nn

DEVIATION = 0.02  # of the normal distributions below


def init_tfinet(network: nn.Module, keep_backbone: bool) -> None:
    """TFINet's start: convolutions from N(0, 0.02), batch norms from N(1, 0.02), biases 0.

    Args:
        network: whose weights are replaced in place.
        keep_backbone: leave `network.backbone` as it is, as the paper says. The released code did
            not, and so lost its ImageNet weights.
    """
    kept = set(network.backbone.modules()) if keep_backbone else set()
    for module in network.modules():
        if module in kept:
            continue
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, DEVIATION)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, DEVIATION)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
