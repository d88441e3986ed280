"""Initial weights of a network: random, published initialisation, ImageNet, or another run."""

from pathlib import Path
from typing import Any

from torch import nn

from models import NETWORKS
from models.checkpoints import load_matching, network_of
from models.pretrained import find_pretrained, load_pretrained

DEVIATION = 0.02  # standard deviation in `init_tfinet`


def init_tfinet(network: nn.Module, keep_backbone: bool) -> None:
    """Initialises TFINet: convolutions from N(0, 0.02), batch norms from N(1, 0.02), biases 0.

    Args:
        network: network to modify in place.
        keep_backbone: keep the weights of `network.backbone`, as in the paper. The released code
            also overwrites its ImageNet weights.
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


def start_network(
    recipe: dict[str, Any],
    pretrained: str | None = None,
    pretrain_from: str | None = None,
    init: str | None = None,
) -> tuple[nn.Module, str]:
    """Builds a network from its recipe with initial weights; also returns their description.

    Args:
        recipe: see `models.checkpoints.make_recipe`.
        pretrained: file of ImageNet weights for the backbone; "": a file under data/, or else a
            download; None: no ImageNet weights.
        pretrain_from: checkpoint from which all matching entries are loaded.
        init: "paper" (same as None) or "released", see `init_tfinet`; for tfinet only.

    Raises:
        ValueError, OSError: see models.pretrained and models.checkpoints; or `init` is given for
            another network.
    """
    model, backbone = recipe["model"], recipe["backbone"]
    if init and model != "tfinet":
        raise ValueError(f"--init is tfinet's, --model is {model}; leave it out")
    local = Path(pretrained) if pretrained else None
    if pretrained is not None and backbone is None:
        raise ValueError(f"--pretrained: --model {model} has no backbone; leave it out")
    if pretrained == "":
        local = find_pretrained(NETWORKS[model].timm_names.get(backbone, backbone))
    download = pretrained == "" and local is None
    network, source = network_of(recipe, pretrained=download), "random weights"
    if local is not None:
        load_pretrained(network.backbone, local)
        source = f"ImageNet weights from {local}"
    elif download:
        source = "ImageNet weights downloaded by timm"
    if model == "tfinet":
        init_tfinet(network, keep_backbone=init != "released")
        source += ", then all drawn anew (--init released)" if init == "released" else ""
    if pretrain_from:
        source = load_matching(network, pretrain_from)
    return network, source
