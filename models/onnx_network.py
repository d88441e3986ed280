"""Exported networks: an ONNX file, with the recipe in its metadata, predicts without our network.

`python -m models.export` writes such files.
"""

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
    """Raises ValueError, with the command that mends it, unless all packages are installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"ONNX files need {', '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}"
        )


def is_onnx(path: Path | str) -> bool:
    """Whether a file is an ONNX file, by its name."""
    return Path(path).suffix.lower() == ".onnx"


class OnnxNetwork(nn.Module):
    """A network in an ONNX file, run by onnxruntime: images of any size -> Logits.

    On a CUDA device it runs there if this onnxruntime can, else on the CPU.

    Args:
        path: a file of `python -m models.export`.
        device: where to run.

    Attributes:
        recipe: what the file's checkpoint was trained for, see `models.checkpoints.make_recipe`.
        has_gate: gives Logits.aux_change.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not ONNX, not ours, or onnxruntime is not installed.
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
    """The recipe in an ONNX file of ours.

    Raises:
        FileNotFoundError, ValueError: see `OnnxNetwork`.
    """
    return _recipe(path, _open(path, torch.device("cpu"), optimised=False))


def _open(path: Path | str, device: torch.device, optimised: bool = True) -> Any:
    """An onnxruntime.InferenceSession; `optimised` makes opening slow and running fast."""
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
    except Exception as error:  # onnxruntime has an exception class for each kind of damage
        line = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(f"{path} is not a readable ONNX file ({line}); export it again") from error


def _providers(device: torch.device, available: list[str]) -> list:
    """What onnxruntime should run on, best first."""
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
