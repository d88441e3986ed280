"""ImageNet weights for a backbone, from a local file."""

from pathlib import Path

from torch import nn

from models import BACKBONES
from models.published import state_dict_of
from utils.state_files import load_strictly, read_file


def find_pretrained(backbone: str, folder: Path | str = "data/pretrained_models") -> Path | None:
    """Finds a local ImageNet file of a backbone, named like the backbone or its timm model."""
    names = [backbone]
    if backbone in BACKBONES:
        names.append(BACKBONES[backbone].timm_name)
    paths = [Path(folder) / f"{n}{suffix}" for n in names for suffix in (".pth", ".safetensors")]
    return next((path for path in paths if path.is_file()), None)


def _stem(key: str) -> str:
    """Converts the flat name of a deep-stem entry of a ResNet from mmseg to timm."""
    return key.replace("stem_7_", "bn1_").replace("stem_", "conv1_")


def load_pretrained(backbone: nn.Module, path: Path | str) -> None:
    """Loads ImageNet weights in the formats of HRNet, torchvision, timm and mmseg.

    Classifier entries are ignored. If the number of bands differs, timm's `adapt_input_conv`
    converts the first convolution.

    Raises:
        FileNotFoundError, ValueError: see `read_file`; or the file belongs to another backbone.
    """
    from timm.models import adapt_input_conv

    def flat(key: str) -> str:  # timm's feature extractor flattens "stages.0" to "stages_0"
        return key.replace(".", "_")

    if not Path(path).is_file():
        raise FileNotFoundError(f"--pretrained {path}: there is no such file; check the path")
    state = state_dict_of(read_file(path))
    by_flat_name = {flat(k): v for k, v in state.items()}
    own = backbone.body.state_dict()
    if "conv1.0.weight" in own:  # a deep stem, which has other names in mmseg
        by_flat_name |= {_stem(k): v for k, v in by_flat_name.items() if k.startswith("stem_")}
    found = {k: by_flat_name[flat(k)] for k in own if flat(k) in by_flat_name}
    first = next(k for k, v in own.items() if v.ndim == 4)
    if first in found and found[first].shape[1] != own[first].shape[1]:
        found[first] = adapt_input_conv(own[first].shape[1], found[first])
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            found.setdefault(key, value)
    try:
        load_strictly(backbone.body, found, path)
    except ValueError as error:
        raise ValueError(f"--pretrained: not the weights of this --backbone. {error}") from error
