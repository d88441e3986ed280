"""Networks and backbones. Adding a network is one file and one line of NETWORKS."""

from torch import nn

from models.backbones import BACKBONES, build_backbone, has_output_stride
from models.siamese import FCN, DeepLabV3Plus, PSPNet, SiameseNetwork, UNet, UNetPlusPlus
from utils.structures import TASKS

__all__ = ["BACKBONES", "NETWORKS", "build_network", "default_output_stride"]

NETWORKS: dict[str, type[SiameseNetwork]] = {
    "fcn": FCN,
    "pspnet": PSPNet,
    "deeplabv3plus": DeepLabV3Plus,
    "unet": UNet,
    "unetplusplus": UNetPlusPlus,
}


def build_network(
    name: str,
    backbone: str,
    *,
    num_classes: int,
    task: str = "semantic_change",
    in_channels: int = 3,
    lightweight: bool = False,
    output_stride: int | None = None,
    dropout: float = 0.1,
    pretrained: bool = False,
) -> nn.Module:
    """Builds a network by name.

    Args:
        name: a key of NETWORKS (--model).
        backbone: a key of BACKBONES or a timm name (--backbone).
        num_classes: K, "unchanged" excluded.
        task: one of utils.structures.TASKS.
        in_channels: bands of an image.
        lightweight: depthwise-separable convolutions in the heads.
        output_stride: of the backbone; None for the network's default (`default_output_stride`).
        dropout: of the heads, 0..1.
        pretrained: backbone with timm's ImageNet weights, downloaded.

    Raises:
        ValueError: an unknown name or an impossible combination.
        OSError: the weights cannot be downloaded.
    """
    if name not in NETWORKS:
        raise ValueError(f"--model={name!r} is not known; choose from {', '.join(NETWORKS)}")
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not known; choose from {', '.join(TASKS)}")
    if output_stride is None:
        output_stride = default_output_stride(name, backbone)
    return NETWORKS[name](
        build_backbone(backbone, in_channels, output_stride, pretrained),
        num_classes=0 if task == "binary_change" else num_classes,
        with_change=task != "land_cover",
        lightweight=lightweight,
        dropout=dropout,
    )


def default_output_stride(name: str, backbone: str) -> int | None:
    """8 for networks that read one deep map, if the backbone can be dilated so; else timm's own."""
    wanted = NETWORKS[name].dense_output_stride
    entry = BACKBONES.get(backbone)
    if wanted is None or (entry is not None and entry.high_resolution):
        return None
    return wanted if has_output_stride(backbone, wanted) else None
