"""Runs networks exported by `python -m models.export` to ONNX, with the recipe in the metadata."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.state_files import check_file
from utils.structures import Logits

METADATA = "twodates"  # the key of our metadata in an ONNX file; its value is JSON


def require(*packages: str) -> None:
    """Raises ValueError, with the install command, unless all packages are installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"ONNX files need {', '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}"
        )


def is_onnx(path: Path | str) -> bool:
    """Whether a file name has the suffix .onnx."""
    return Path(path).suffix.lower() == ".onnx"


class OnnxNetwork(nn.Module):
    """A network in an ONNX file, run by onnxruntime, for images of any size.

    Runs on a CUDA device if `device` is one and onnxruntime supports it, otherwise on the CPU.

    Args:
        path: a file of `python -m models.export`.
        device: where to run.

    Attributes:
        recipe: recipe of the exported checkpoint, see `models.checkpoints.make_recipe`.
        has_gate: whether the output has `aux_change`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not ONNX, no recipe in the file, or onnxruntime is not installed.
    """

    def __init__(self, path: Path | str, device: torch.device | str = "cpu"):
        super().__init__()
        self.session = _open(path, torch.device(device))
        self.recipe = _recipe(path, self.session)
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.has_gate = "aux_change" in self.outputs

    def forward(self, images: Tensor) -> Logits:
        """Images (B, T, C, H, W), normalised -> logits at full resolution, in float32."""
        arrays = {"images": images.float().contiguous().cpu().numpy()}
        scores = map(torch.from_numpy, self.session.run(self.outputs, arrays))
        scores = [score.to(images.device) for score in scores]
        return Logits(**dict(zip(self.outputs, scores, strict=True)))


def read_recipe(path: Path | str) -> dict[str, Any]:
    """Reads the recipe of an ONNX file.

    Raises:
        FileNotFoundError, ValueError: see `OnnxNetwork`.
    """
    return _recipe(path, _open(path, torch.device("cpu"), optimised=False))


def _open(path: Path | str, device: torch.device, optimised: bool = True) -> Any:
    """Opens an onnxruntime.InferenceSession; `optimised`: slower to open, faster to run."""
    check_file(path)
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has many exception classes
        line = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(f"{path} is not a readable ONNX file ({line}); export it again") from error


def _providers(device: torch.device, available: list[str]) -> list:
    """Execution providers of onnxruntime for a device, best first."""
    cpu = "CPUExecutionProvider"
    if device.type != "cuda" or "CUDAExecutionProvider" not in available:
        return [cpu]
    return [("CUDAExecutionProvider", {"device_id": device.index or 0}), cpu]


def _recipe(path: Path | str, session: Any) -> dict[str, Any]:
    """The recipe in a session's metadata."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        raise ValueError(
            f"{path} does not say which classes and bands it is for: it was not written by "
            "`python -m models.export`. Export the network's checkpoint with that, or pass the "
            "checkpoint itself (--checkpoints)."
        )
    return json.loads(text)["recipe"]
