"""Records the computation of a network as a graph, for images of any size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.resampling import spans
from utils.speed import for_prediction

RECORDED_SIZE = (2, 91, 150)  # batch, height, width of the example images
AXES = {0: "batch", 3: "height", 4: "width"}  # dynamic axes of `images`
POOLING = (torch.ops.aten.adaptive_avg_pool2d, torch.ops.aten._adaptive_avg_pool2d)


class ExportedForm(nn.Module):
    """A network in the form for export: pads images itself and returns a dict of scores.

    Args:
        network: network in eval mode.
        multiple: image sides are padded to multiples of this; see `size_multiple`.
    """

    def __init__(self, network: nn.Module, multiple: int):
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, T, C, H, W), normalised -> the fields of Logits that are not None."""
        height, width = images.shape[-2:]
        if self.multiple > 1:  # the network pads conditionally, which cannot be recorded
            sides = (0, -width % self.multiple, 0, -height % self.multiple)
            padded = F.pad(images.flatten(0, 1), sides, mode="replicate")
            images = padded.unflatten(0, images.shape[:2])
        scores = self.network(images)._asdict()
        return {k: v[..., :height, :width] for k, v in scores.items() if v is not None}


class _Seen(Exception):
    """Carries the width of the input of a backbone."""


def size_multiple(network: nn.Module, dates: int, bands: int) -> int:
    """The multiple to which a network pads image sides; 1 for a network without a backbone.

    Measured as the size to which an image of one pixel is padded.
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
    """Records a network for any batch, height and width, with folded batch norms.

    Raises:
        ValueError: torch records a fixed batch, height or width.
        Exception: torch cannot record the network.
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
    """Removes the guards of a program, so that it runs at sizes such as those without padding.

    torch records the result of every condition on sizes as a guard, and the program refuses images
    that violate one. These conditions only select shortcuts (such as no resizing if a map already
    has the size). The recorded general path gives the same result, which `models.export.check`
    verifies.
    """
    getattr(program, "_guards_code", []).clear()  # exists since torch 2.9


def _check_free(program: torch.export.ExportedProgram) -> None:
    """Raises ValueError if torch recorded batch, height or width as a constant."""
    (name,) = program.graph_signature.user_inputs
    shape = next(node for node in program.graph.nodes if node.name == name).meta["val"].shape
    # a size fixed by torch is still a SymInt, which prints as a number
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
    """Replaces adaptive average pooling, which ONNX does not support, by `adaptive_mean`.

    Pooling of a whole image is a mean, which ONNX supports; alone it needs no replacement.
    """
    table = {operator.default: adaptive_mean for operator in POOLING}
    pooling = [node for node in program.graph.nodes if node.target in table]
    if all(list(node.args[1]) == [1, 1] for node in pooling):
        return program
    return program.run_decompositions(table)


def adaptive_mean(x: Tensor, size: tuple[int, int]) -> Tensor:
    """F.adaptive_avg_pool2d as two matrix products, for any input size.

    Args:
        x: (N, C, h, w).
        size: (rows, columns) of regions; neighbouring regions may overlap.

    Returns:
        (N, C, *size), the mean of every region.
    """
    rows, columns = (_shares(x.shape[i - 2], size[i], x) for i in (0, 1))
    return rows @ x @ columns.T


def _shares(length: int, count: int, like: Tensor) -> Tensor:
    """(count, length) weight of every pixel of an axis in the mean of every region."""
    inside = spans(length, count, like.device).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
