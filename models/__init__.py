"""Networks and backbones. Adding a network is one file and one line of NETWORKS.

The command line reads the tables before torch is imported: a network's file is imported when it is
used.
"""

from collections.abc import Mapping
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from utils.structures import TASKS

if TYPE_CHECKING:
    from models.backbones import Backbone
    from models.siamese import Network

USUAL_BACKBONE = "hrnet_w18"  # of most networks


class NetworkEntry(NamedTuple):
    """Where a network is written."""

    place: str  # module:class
    usual_backbone: str | None = USUAL_BACKBONE  # by default; None: it takes none at all

    def load(self) -> "type[Network]":
        """Its class."""
        return resolve_name(self.place)


NETWORKS = {
    "fcn": NetworkEntry("models.siamese:FCN"),
    "pspnet": NetworkEntry("models.siamese:PSPNet"),
    "deeplabv3plus": NetworkEntry("models.siamese:DeepLabV3Plus"),
    "unet": NetworkEntry("models.siamese:UNet"),
    "unetplusplus": NetworkEntry("models.siamese:UNetPlusPlus"),
    "tfinet": NetworkEntry("models.tfinet:TFINet"),
    "siamese_unet": NetworkEntry("models.siamese_unet:SiameseUNet"),
    "dfc_deeplabv3plus": NetworkEntry("models.dfc:DFCDeepLabV3Plus", "resnet101"),
    "plain_unet": NetworkEntry("models.plain_unet:PlainUNet", None),
    "mmseg_pspnet": NetworkEntry("models.mmseg:MMSegPSPNet", "resnet101c"),
    "mmseg_deeplabv3plus": NetworkEntry("models.mmseg:MMSegDeepLabV3Plus", "resnet101c"),
}


class BackboneEntry(NamedTuple):
    """How timm builds one backbone."""

    timm_name: str
    options: Mapping[str, object] = MappingProxyType({})  # passed to timm.create_model
    high_resolution: bool = False  # an HRNet: dense heads read all branches, joined


_RESNET = {"zero_init_last": False}  # the start of torchvision's, which the published runs had
_HRNET = {"feature_location": "", "out_indices": (1, 2, 3, 4)}  # the branches, without the stem


def _resnet(timm_name: str) -> BackboneEntry:
    return BackboneEntry(timm_name, _RESNET)


def _hrnet(timm_name: str) -> BackboneEntry:
    return BackboneEntry(timm_name, _HRNET, high_resolution=True)


BACKBONES: dict[str, BackboneEntry] = {
    "hrnet_w18": _hrnet("hrnet_w18"),
    "hrnet_w18_v1": _hrnet("hrnet_w18_small"),
    "hrnet_w18_v2": _hrnet("hrnet_w18_small_v2"),
    "hrnet_w30": _hrnet("hrnet_w30"),
    "hrnet_w32": _hrnet("hrnet_w32"),
    "hrnet_w40": _hrnet("hrnet_w40"),
    "hrnet_w44": _hrnet("hrnet_w44"),
    "hrnet_w48": _hrnet("hrnet_w48"),
    "hrnet_w64": _hrnet("hrnet_w64"),
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34"),
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101"),
    "resnet101c": _resnet("resnet101c"),  # three 3x3 convolutions in place of the 7x7
    "resnet152": _resnet("resnet152"),
    "resnext50": _resnet("resnext50_32x4d"),
    "resnext101": _resnet("resnext101_32x8d"),
    "seresnext50": _resnet("seresnext50_32x4d"),
    "swin_tiny": BackboneEntry("swin_tiny_patch4_window7_224"),
    "convnext_tiny": BackboneEntry("convnext_tiny"),
    "efficientnet_b0": BackboneEntry("efficientnet_b0"),
    "mobilenetv3_large_100": BackboneEntry("mobilenetv3_large_100"),
}


def build_network(
    name: str,
    backbone: str | None = None,
    *,
    num_classes: int,
    task: str = "semantic_change",
    in_channels: int = 3,
    lightweight: bool = False,
    output_stride: int | None = None,
    dropout: float = 0.1,
    pretrained: bool = False,
    options: Mapping[str, object] | None = None,
) -> "Network":
    """Builds a network by name.

    Args:
        name: a key of NETWORKS (--model).
        backbone: a key of BACKBONES or a timm name (--backbone); None for the network's usual one,
            and for a network that takes none.
        num_classes: K, "unchanged" excluded.
        task: one of utils.structures.TASKS.
        in_channels: bands of an image.
        lightweight: depthwise-separable convolutions in the heads.
        output_stride: of the backbone; None for the network's default (`default_output_stride`).
        dropout: of the heads, 0..1.
        pretrained: backbone with timm's ImageNet weights, downloaded.
        options: what this network alone can be asked for (its `options`), by name.

    Raises:
        ValueError: an unknown name or an impossible combination.
        OSError: the weights cannot be downloaded.
    """
    if name not in NETWORKS:
        raise ValueError(f"--model={name!r} is not known; choose from {', '.join(NETWORKS)}")
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not known; choose from {', '.join(TASKS)}")
    kind, options = NETWORKS[name].load(), dict(options or {})
    _check_options(name, options)
    _check_task(name, task, options)
    backbone = backbone_of(name, backbone)
    bands = kind.bands_read(in_channels, **options)
    if backbone is None:
        _check_no_backbone(name, output_stride=output_stride, pretrained=pretrained)
    return kind(
        bands if backbone is None else _body(name, backbone, bands, output_stride, pretrained),
        num_classes=0 if task == "binary_change" else num_classes,
        with_change=task != "land_cover",
        lightweight=lightweight,
        dropout=dropout,
        **options,
    )


def _body(
    name: str, backbone: str, bands: int, output_stride: int | None, pretrained: bool
) -> "Backbone":
    """The backbone as this network has it."""
    from models.backbones import build_backbone, dilate_blocks, undilate

    kind = NETWORKS[name].load()
    if output_stride is None:
        output_stride = default_output_stride(name, backbone)
    timm_name = kind.timm_names.get(backbone)
    body = build_backbone(backbone, bands, output_stride, pretrained, timm_name)
    if kind.undilated:
        undilate(body)
    if kind.multigrid:
        dilate_blocks(body, kind.multigrid)
    return body


def _check_no_backbone(name: str, **given: object) -> None:
    for option, value in given.items():
        if value:
            raise ValueError(
                f"--model {name} has no backbone, to which --{option.replace('_', '-')} belongs; "
                "leave it out"
            )


def backbone_of(name: str, given: str | None = None) -> str | None:
    """What a network is built on: the backbone `given`, else its usual one; None if it takes none.

    Raises:
        ValueError: a backbone is given to a network that takes none.
    """
    usual = NETWORKS[name].usual_backbone
    if usual is None and given is not None:
        raise ValueError(f"--model {name} has no backbone, got --backbone={given!r}; leave it out")
    return usual if given is None else given


def _check_options(name: str, options: Mapping[str, object]) -> None:
    known = NETWORKS[name].load().options
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if option not in known:
            others = [n for n, e in NETWORKS.items() if option in e.load().options] or ["none"]
            raise ValueError(
                f"--model {name} has no {flag}; leave it out (it belongs to {', '.join(others)})"
            )
        if value not in known[option]:
            raise ValueError(
                f"{flag} {value} is not known; choose from {', '.join(map(str, known[option]))}"
            )


def _check_task(name: str, task: str, options: Mapping[str, object]) -> None:
    kind = NETWORKS[name].load()
    able = kind.tasks(**options)
    if task in able:
        return
    # say the options only where they are what rules the task out
    chosen = options.items() if able != kind.tasks() else ()
    words = "".join(f" --{k.replace('_', '-')} {v}" for k, v in chosen)
    raise ValueError(
        f"--model {name}{words} is for {' or '.join(able)}, not {task}; "
        f"choose {'another option' if words else 'another --model'}, or another --dataset"
    )


def default_output_stride(name: str, backbone: str | None) -> int | None:
    """What a network that reads one deep map asks for, if the backbone has it; else timm's own.

    That is 8, or 16 for dfc_deeplabv3plus. None stands for timm's.
    """
    from models.backbones import has_output_stride

    wanted = NETWORKS[name].load().dense_output_stride
    entry = BACKBONES.get(backbone)
    if wanted is None or backbone is None or (entry is not None and entry.high_resolution):
        return None
    return wanted if has_output_stride(backbone, wanted) else None


def given_options(flags: Mapping[str, object]) -> dict[str, object]:
    """Of all flags by name, those that are some network's `options` and not None."""
    names = sorted({name for entry in NETWORKS.values() for name in entry.load().options})
    return {name: flags[name] for name in names if flags.get(name) is not None}
