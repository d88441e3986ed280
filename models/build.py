"""Builds networks by name."""

from collections.abc import Mapping

from models import NETWORKS
from models.backbones import (
    BACKBONES,
    Backbone,
    build_backbone,
    dilate_blocks,
    has_output_stride,
    undilate,
)
from models.siamese import Network
from utils.structures import TASKS

# options of individual networks, named like their flags
OPTIONS = sorted({name for kind in NETWORKS.values() for name in kind.options})


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
) -> Network:
    """Builds a network by name.

    Args:
        name: a key of NETWORKS (--model).
        backbone: a key of BACKBONES or a timm name (--backbone); None: the default of the network,
            or no backbone for a network without one.
        num_classes: K, "unchanged" excluded.
        task: one of utils.structures.TASKS.
        in_channels: bands of an image.
        lightweight: depthwise-separable convolutions in the heads.
        output_stride: output stride of the backbone; None: see `default_output_stride`.
        dropout: dropout probability of the heads, 0..1.
        pretrained: download ImageNet weights of timm for the backbone.
        options: values of the network's own `options`, by name.

    Raises:
        ValueError: an unknown name or an impossible combination.
        OSError: the weights cannot be downloaded.
    """
    if name not in NETWORKS:
        raise ValueError(f"--model={name!r} is not known; choose from {', '.join(NETWORKS)}")
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not known; choose from {', '.join(TASKS)}")
    kind, options = NETWORKS[name], dict(options or {})
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
) -> Backbone:
    """Builds the backbone with the modifications of this network."""
    kind = NETWORKS[name]
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
    """Backbone of a network: `given`, or its default; None for a network without a backbone.

    Raises:
        ValueError: a backbone is given for a network without one.
    """
    usual = NETWORKS[name].usual_backbone
    if usual is None and given is not None:
        raise ValueError(f"--model {name} has no backbone, got --backbone={given!r}; leave it out")
    return usual if given is None else given


def _check_options(name: str, options: Mapping[str, object]) -> None:
    known = NETWORKS[name].options
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if option not in known:
            others = [n for n, e in NETWORKS.items() if option in e.options] or ["none"]
            raise ValueError(
                f"--model {name} has no {flag}; leave it out (it belongs to {', '.join(others)})"
            )
        if value not in known[option]:
            raise ValueError(
                f"{flag} {value} is not known; choose from {', '.join(map(str, known[option]))}"
            )


def _check_task(name: str, task: str, options: Mapping[str, object]) -> None:
    kind = NETWORKS[name]
    able = kind.tasks(**options)
    if task in able:
        return
    # name the options only if they rule the task out
    chosen = options.items() if able != kind.tasks() else ()
    words = "".join(f" --{k.replace('_', '-')} {v}" for k, v in chosen)
    raise ValueError(
        f"--model {name}{words} is for {' or '.join(able)}, not {task}; "
        f"choose {'another option' if words else 'another --model'}, or another --dataset"
    )


def default_output_stride(name: str, backbone: str | None) -> int | None:
    """Default output stride: `dense_output_stride` of the network, if the backbone supports it.

    None means the default of timm.
    """
    wanted = NETWORKS[name].dense_output_stride
    entry = BACKBONES.get(backbone)
    if wanted is None or backbone is None or (entry is not None and entry.high_resolution):
        return None
    return wanted if has_output_stride(backbone, wanted) else None


def check_batch(name: str, batch_size: int, accumulate: int, processes: int, sync_bn: bool) -> None:
    """Raises ValueError if the batch is too small to train a network.

    Args:
        name: a key of NETWORKS.
        batch_size: pairs per step, all processes together (--batch-size).
        accumulate: number of micro-batches into which each process divides its share.
        processes: number of processes.
        sync_bn: batch norm statistics cover all processes.
    """
    if batch_size // processes < accumulate:
        raise ValueError(
            f"--accumulate {accumulate} cuts {batch_size // processes} pairs a process into parts; "
            "lower it, or raise --batch-size"
        )
    smallest = NETWORKS[name].smallest_batch
    together = batch_size // accumulate // (1 if sync_bn else processes)
    if together < smallest:
        raise ValueError(
            f"--model {name} pools whole maps and normalises over the batch: it needs at least "
            f"{smallest} pairs at a time, got {together}. Raise --batch-size, or lower "
            "--accumulate."
        )
