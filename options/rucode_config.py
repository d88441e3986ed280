"""Converts JSON configs of the published Rucode solution to options of train.py.

The original is started as `train.py <config.json>`. RECIPE holds the values that are fixed in its
code (loss, rates, epochs, crops); KEYS are the keys of its config.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

# fixed in the code of the original
RECIPE: dict[str, object] = {
    "change_loss": "dice_bce",
    "lr": 1e-4,
    "lr_policy": "exponential",
    "lr_gamma": 0.97,
    "head_lr_factor": 1.0,
    "weight_decay": 0.0,
    "epochs": 150,
    "positive_crops": 0.7,
    "samples_per_image": 100,
    "crop_size": 256,  # the config may override this and the next two
    "batch_size": 5,
    "early_stop": 7,
}
ARCHITECTURE_WORDS = r"siamese|seamese|unet\+\+|unetplusplus|unetpp|unet"  # contain no backbone
# spellings of backbones after removing those words and all but letters and digits; first match
BACKBONE_SPELLINGS = {
    r"seresnext50|seresnext(?!\d)": "seresnext50",
    r"(?<!se)resnext101": "resnext101",
    r"(?<!se)resnext50": "resnext50",
    r"dpn92|dpn(?!\d)": "dpn92",
    r"densenet161|densenet(?!\d)": "densenet161",
    r"(?<!se)resnet34": "resnet34",
    r"(?<!se)resnet50": "resnet50",
}
# networks of the original -> backbones -> `in_filters` (siamese_unet only)
NETWORKS: dict[str, dict[str, int | None]] = {
    "unetplusplus": {"resnext50": None, "seresnext50": None, "resnet34": None, "resnet50": None},
    "siamese_unet": {"seresnext50": 48, "dpn92": 64, "resnext101": 48, "densenet161": 64},
}
CHANNELS = {"unetplusplus": 1, "siamese_unet": 3}  # required `img_channels`
KEYS = (
    *("images_path", "mask_path", "sample_submission_path", "device", "img_size", "batch"),
    *("patience", "img_channels", "is_siamese", "model", "model_name", "pretrained"),
    *("pretrained_path", "in_filters", "activation"),
)

Options = dict[str, object]


class Config(NamedTuple):
    """A config file, and messages about its conversion."""

    path: Path
    values: Mapping[str, object]
    messages: list[str]

    def error(self, key: str, rule: str) -> ValueError:
        """Error with the file, the key, its value and the rule that it breaks."""
        shown = f' "{key}": {json.dumps(self.values[key])}' if key in self.values else f' "{key}"'
        return ValueError(f"{self.path}:{shown} {rule}")

    def say(self, key: str, outcome: str) -> None:
        """Adds a message about the conversion of a key."""
        self.messages.append(f"{key} {json.dumps(self.values[key])}: {outcome}")


def read_rucode_config(path: Path | str) -> tuple[Options, list[str]]:
    """Reads a config as options of train.py that repeat a run of the original.

    Args:
        path: a JSON file of the original. Paths in it are relative to the working directory.

    Returns:
        The options by name, and messages for the user: converted keys, guesses, and keys without a
        counterpart.

    Raises:
        ValueError: the file, or a file that it names, is missing; it is not JSON; it has an unknown
            key or an unsupported value.
    """
    config = _read(Path(path))
    model = _model_options(config)
    options = {
        **RECIPE,
        **_data_options(config),
        **model,
        **_pretrained_options(config, str(model["model"])),
        **_run_options(config),
    }
    fixed = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in RECIPE.items())
    return options, [*config.messages, f"as the original's code has it: {fixed}"]


def _read(path: Path) -> Config:
    if not path.is_file():
        raise ValueError(f"{path}: no such config; give the JSON file of the original")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); mend it, or use a --config YAML") from None
    if not isinstance(values, dict):
        raise ValueError(f'{path} must hold one JSON object {{"key": value, ...}}')
    config = Config(path, values, [])
    if unknown := [key for key in values if key not in KEYS]:
        raise config.error(
            unknown[0], f"is not a key of the original; remove it. It knows {', '.join(KEYS)}"
        )
    return config


def _data_options(config: Config) -> Options:
    """Options for the data set and its folders."""
    folders = []
    for key, name in [("images_path", "images"), ("mask_path", "masks")]:
        folders += _folder(config, key, name, Path.is_dir, "folder")
    folders += _folder(config, "sample_submission_path", "sample_submission", Path.is_file, "file")
    options: Options = {"dataset": "rucode", "data_root": "."}
    return options | ({"folders": folders} if folders else {})


def _folder(
    config: Config, key: str, name: str, exists: Callable[[Path], bool], kind: str
) -> list[str]:
    value = _text(config, key)
    if value is None:
        return []
    if not exists(Path(value)):
        raise config.error(
            key, f"is no {kind} seen from {Path.cwd()}; start there where it is, or correct it"
        )
    config.say(key, f"--folders {name}={value}")
    return [f"{name}={value}"]


def _model_options(config: Config) -> Options:
    """Options for the network, its backbone and its bands."""
    network = _network(config)
    backbone = _first_match(config, _backbone_in, "backbone")
    if backbone not in NETWORKS[network]:
        raise config.error(
            "model",
            f"names {backbone or 'no backbone that we know'}; {network} of the original has "
            f"{', '.join(NETWORKS[network])}: write one into model",
        )
    _check_channels(config, network)
    options: Options = {"model": network, "backbone": backbone}
    if network == "unetplusplus":
        options |= {"fusion": "difference", "bands": ["grey"], "dropout": 0.0}
    else:
        options |= {"bands": ["red", "green", "blue"], "dropout": 0.1}
    keys = [key for key in ("model", "is_siamese", "img_channels") if key in config.values]
    words = " ".join(f"--{key} {_word(value)}" for key, value in options.items())
    config.messages.append(f"{', '.join(keys) or 'network'}: {words}")
    _note_unused(config, network, backbone)
    return options


def _word(value: object) -> str:
    """The value of an option as command-line text."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _first_match(config: Config, meaning: Callable[[str], str | None], what: str) -> str | None:
    """Applies `meaning` to `model`, `model_name` and the file name; returns the first result."""
    sources = {"model": _text(config, "model"), "model_name": _text(config, "model_name")}
    for source, text in {**sources, "the file's name": config.path.stem}.items():
        if found := meaning(text or ""):
            if source != "model":
                config.messages.append(f"{what} {found} is read from {source}, {text}")
            return found
    return None


def _network(config: Config) -> str:
    """The network, from `model`, `is_siamese`, `model_name` or the file name."""
    siamese = config.values.get("is_siamese")
    if siamese not in (None, True, False):
        raise config.error("is_siamese", "must be true or false")
    network = _network_in(_text(config, "model") or "")
    if siamese and network in (None, "unet"):
        network = "siamese_unet"
    network = network or _first_match(config, _network_in, "network")
    if network not in NETWORKS:
        raise config.error(
            "model",
            "must name a unet++ or a siamese network, such as unet++_resnext50 or "
            "siamese_seresnext50; others are not here",
        )
    if siamese is not None and siamese != (network == "siamese_unet"):
        raise config.error("is_siamese", f"does not fit model {network}; correct one of the two")
    return network


def _network_in(text: str) -> str | None:
    """Our name of the network in a text, or the name of an unsupported one; None if absent."""
    text = text.lower()
    if re.search(r"unet\+\+|unetplusplus|unetpp|unet_plus_plus", text):
        return "unetplusplus"
    if re.search(r"siamese|seamese|scse|dpn_?unet", text):
        return "siamese_unet"
    other = re.search(r"snunet|unet|fpn|pspnet|linknet|deeplab", text)
    return other and other.group()


def _backbone_in(text: str) -> str | None:
    """Our name of the backbone in a text; None if none is found."""
    text = re.sub(ARCHITECTURE_WORDS, "", text.lower())
    text = re.sub("[^a-z0-9]", "", text)
    found = (name for spelling, name in BACKBONE_SPELLINGS.items() if re.search(spelling, text))
    return next(found, None)


def _check_channels(config: Config, network: str) -> None:
    channels = config.values.get("img_channels", CHANNELS[network])
    if channels != CHANNELS[network] or isinstance(channels, bool):
        raise config.error(
            "img_channels",
            f"must be {CHANNELS[network]} for {network}, as in the original; for other bands leave "
            "the JSON aside and pass --bands",
        )


def _note_unused(config: Config, network: str, backbone: str) -> None:
    """Adds messages about keys without a counterpart."""
    filters = NETWORKS[network][backbone]
    if "in_filters" in config.values and config.values["in_filters"] != filters:
        fixed = f"the network has {filters}" if filters else f"{network} has no such thing"
        config.say("in_filters", f"no counterpart, {fixed}")
    if "activation" in config.values and config.values["activation"] != "sigmoid":
        config.say("activation", "no counterpart, probabilities are always a sigmoid")


def _pretrained_options(config: Config, network: str) -> Options:
    """Options for the initial weights."""
    given = [key for key in ("pretrained", "pretrained_path") if key in config.values]
    if len({str(config.values[key]) for key in given}) > 1:
        raise config.error("pretrained_path", "differs from pretrained; keep one of the two")
    key = given[0] if given else "pretrained"
    if key == "pretrained_path":
        config.messages.append("pretrained_path is read as pretrained, which is what it means")
    value = _text(config, key)
    if value is None:
        config.messages.append("pretrained: none, training starts from random weights")
        return {}
    if value.lower() == "imagenet":
        config.say(key, "--pretrained, ImageNet weights of the backbone")
        return {"pretrained": ""}
    if not Path(value).is_file():
        raise config.error(
            key, f'must be "imagenet", null or a checkpoint; no such file seen from {Path.cwd()}'
        )
    symmetric = {"symmetric": False} if network == "siamese_unet" else {}
    config.say(key, f"--pretrain-from {value}" + (" --no-symmetric" if symmetric else ""))
    return {"pretrain_from": value, **symmetric}


def _run_options(config: Config) -> Options:
    """Options for sizes, early stopping, device and the name of the run."""
    options: Options = {}
    for key, name in [
        ("img_size", "crop_size"),
        ("batch", "batch_size"),
        ("patience", "early_stop"),
    ]:
        if key in config.values:
            options[name] = _positive_int(config, key)
            config.say(key, f"--{name.replace('_', '-')}")
    if device := _text(config, "device"):
        import torch

        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise config.error("device", "must be auto, cpu, cuda or cuda:N")
        absent = device.startswith("cuda") and not torch.cuda.is_available()
        options["device"] = "auto" if absent else device
        config.say("device", "--device auto, for no GPU is visible" if absent else "--device")
    if name := _text(config, "model_name"):
        options["name"] = name
        config.say("model_name", "--name")
    return options


def _positive_int(config: Config, key: str) -> int:
    value = config.values[key]
    if type(value) is not int or value < 1:
        raise config.error(key, "must be a whole number of at least 1")
    return value


def _text(config: Config, key: str) -> str | None:
    """The text value of a key; None if it is missing, null, false or empty."""
    value = config.values.get(key)
    if value in (None, False, ""):
        return None
    if not isinstance(value, str):
        raise config.error(key, "must be a text")
    return value
