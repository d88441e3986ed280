"""Recording what a network computes, for images of any size, as a graph of plain operations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.resampling import spans
from utils.speed import for_prediction

RECORDED_SIZE = (2, 91, 150)  # batch, height, width of the images it is recorded with
AXES = {0: "batch", 3: "height", 4: "width"}  # of images, those whose sizes stay free
POOLING = (torch.ops.aten.adaptive_avg_pool2d, torch.ops.aten._adaptive_avg_pool2d)


class ExportedForm(nn.Module):
    """A network as it is exported: padding of any size inside, its scores by name.

    Args:
        network: in eval mode.
        multiple: it pads the sides of images to multiples of this; see `size_multiple`.
    """

    def __init__(self, network: nn.Module, multiple: int):
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, T, C, H, W), normalised -> those fields of Logits that there are."""
        height, width = images.shape[-2:]
        if self.multiple > 1:  # the network itself pads under a condition, which is not recorded
            sides = (0, -width % self.multiple, 0, -height % self.multiple)
            padded = F.pad(images.flatten(0, 1), sides, mode="replicate")
            images = padded.unflatten(0, images.shape[:2])
        scores = self.network(images)._asdict()
        return {k: v[..., :height, :width] for k, v in scores.items() if v is not None}


class _Seen(Exception):
    """Carries the shape of what a backbone is given."""


def size_multiple(network: nn.Module, dates: int, bands: int) -> int:
    """What a network pads the sides of images to a multiple of: what an image of one pixel becomes.

    1 for a network without a backbone, which takes any size.
    """

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise _Seen(inputs[0].shape[-1])

    if getattr(network, "backbone", None) is None:
        return 1
    hook = network.backbone.register_forward_pre_hook(stop)
    try:
        network(torch.zeros(1, dates, bands, 1, 1))
    except _Seen as seen:
        return seen.args[0]
    finally:
        hook.remove()
    raise AssertionError(f"{type(network).__name__} does not run its backbone")


def record(network: nn.Module, dates: int, bands: int) -> torch.export.ExportedProgram:
    """The computation of a network for any batch, height and width; its batch norms folded.

    Raises:
        ValueError: torch cannot record it for all of these.
        Exception: of torch, where it cannot record the network at all.
    """
    folded = for_prediction(network, fused=False)
    form = ExportedForm(folded, size_multiple(network, dates, bands)).eval()
    batch, height, width = RECORDED_SIZE
    images = torch.zeros(batch, dates, bands, height, width)
    free = {axis: torch.export.Dim.AUTO for axis in AXES}
    with torch.no_grad():
        program = torch.export.export(form, (images,), dynamic_shapes={"images": free})
    _check_free(program)
    _forget_guards(program)
    return program


def _forget_guards(program: torch.export.ExportedProgram) -> None:
    """Lets a program run at sizes that torch was not shown, such as those that need no padding.

    torch notes which way each condition on sizes went while it recorded, and has the program
    refuse images with which one would go the other way. The conditions are about short cuts (a map
    that has its size already is not resized, a whole map is not a slice): what is recorded is the
    long way, which gives the same. `models.export.check` compares.
    """
    getattr(program, "_guards_code", []).clear()  # which torch has from 2.9 on


def _check_free(program: torch.export.ExportedProgram) -> None:
    """Raises ValueError if torch took batch, height or width for constants."""
    (name,) = program.graph_signature.user_inputs
    shape = next(node for node in program.graph.nodes if node.name == name).meta["val"].shape
    # a size that torch fixed is still a SymInt, of a number
    fixed = [kind for axis, kind in AXES.items() if str(shape[axis]).isdecimal()]
    if fixed:
        raise ValueError(
            f"this network cannot be exported: torch {torch.__version__} records it for one "
            f"{' and one '.join(fixed)} only; use the checkpoint itself, or train with another "
            "--backbone"
        )


def output_names(program: torch.export.ExportedProgram) -> list[str]:
    """The keys of the dict that a recorded `ExportedForm` returns, in the order of its outputs."""
    numbers = list(range(len(program.graph_signature.user_outputs)))
    named = torch.utils._pytree.tree_unflatten(numbers, program.call_spec.out_spec)
    return sorted(named, key=named.__getitem__)


def without_adaptive_pooling(
    program: torch.export.ExportedProgram,
) -> torch.export.ExportedProgram:
    """The same computation with `adaptive_mean` for torch's operator, which ONNX does not have."""
    table = {operator.default: adaptive_mean for operator in POOLING}
    if not any(node.target in table for node in program.graph.nodes):
        return program
    return program.run_decompositions(table)


def adaptive_mean(x: Tensor, size: tuple[int, int]) -> Tensor:
    """F.adaptive_avg_pool2d by two matrix products, which may have any size.

    Args:
        x: (N, C, h, w).
        size: (rows, columns) of regions; those of an axis may overlap.

    Returns:
        (N, C, *size), the mean of every region.
    """
    rows, columns = (_shares(x.shape[i - 2], size[i], x) for i in (0, 1))
    return rows @ x @ columns.T


def _shares(length: int, count: int, like: Tensor) -> Tensor:
    """(count, length): the share that each pixel of an axis has in the mean of each region."""
    inside = spans(length, count, like.device).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
