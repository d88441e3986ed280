import json
from pathlib import Path

import pytest
import torch

from options.rucode_config import RECIPE, read_rucode_config
from options.train import parse_args


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with everything that a config names."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in ("sample.csv", "xview2.pth"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


UNETPP = {
    "sample_submission_path": "sample.csv",
    "mask_path": "masks/",
    "images_path": "images",
    "device": "cuda",
    "img_size": 256,
    "batch": 5,
    "patience": 7,
    "img_channels": 1,
    "is_siamese": False,
    "model": "unet++_resnext50",
    "model_name": "unet++_resnext50",
    "pretrained": "imagenet",
    "activation": "sigmoid",
}
SIAMESE = UNETPP | {
    "img_channels": 3,
    "is_siamese": True,
    "model": "siamese_seresnext50",
    "model_name": "siamese_unet_seresnext50",
    "pretrained": "xview2.pth",
    "in_filters": 48,
}
SIAMESE.pop("activation")


def write(values: object, name: str = "config.json") -> Path:
    path = Path(name)
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def read(base: dict, name: str = "config.json", without: str = "", **changes):
    values = {key: value for key, value in (base | changes).items() if key != without}
    return read_rucode_config(write(values, name))


def test_unetplusplus_becomes_these_options(folder):
    options, _ = read(UNETPP)
    assert options == {
        **RECIPE,
        "model": "unetplusplus",
        "backbone": "resnext50",
        "fusion": "difference",
        "bands": ["grey"],
        "dropout": 0.0,
        "pretrained": "",
        "dataset": "rucode",
        "data_root": ".",
        "folders": ["images=images", "masks=masks/", "sample_submission=sample.csv"],
        "crop_size": 256,
        "batch_size": 5,
        "early_stop": 7,
        "device": "cuda" if torch.cuda.is_available() else "auto",
        "name": "unet++_resnext50",
    }


def test_the_recipe_is_the_published_one():
    assert RECIPE == {
        "change_loss": "dice_bce",
        "lr": 1e-4,
        "lr_policy": "exponential",
        "lr_gamma": 0.97,
        "head_lr_factor": 1,
        "weight_decay": 0,
        "crop_size": 256,
        "batch_size": 5,
        "early_stop": 7,
        "epochs": 150,
        "positive_crops": 0.7,
        "samples_per_image": 100,
    }


def test_siamese_with_a_checkpoint_is_built_as_published(folder):
    options, messages = read(SIAMESE)
    assert (options["model"], options["backbone"]) == ("siamese_unet", "seresnext50")
    assert options["bands"] == ["red", "green", "blue"]
    assert options["pretrain_from"] == "xview2.pth" and options["symmetric"] is False
    assert "fusion" not in options and "pretrained" not in options
    assert any("--no-symmetric" in sentence for sentence in messages)


def test_siamese_without_a_checkpoint_is_left_symmetric(folder):
    options, messages = read(SIAMESE, pretrained=None)
    assert not {"symmetric", "pretrain_from", "pretrained"} & options.keys()
    assert any("random weights" in sentence for sentence in messages)
    assert read(SIAMESE, pretrained="ImageNet")[0]["pretrained"] == ""


def test_the_misspelt_key_of_the_published_siamese_config_is_understood(folder):
    values = {key: value for key, value in SIAMESE.items() if key != "pretrained"}
    options, messages = read(values | {"pretrained_path": "xview2.pth"})
    assert options == read(SIAMESE)[0]
    assert any("pretrained_path is read as pretrained" in sentence for sentence in messages)
    with pytest.raises(ValueError, match=r'"pretrained_path".*keep one of the two'):
        read(SIAMESE, pretrained_path="imagenet")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Unet++_resnext50_32x4d", ("unetplusplus", "resnext50")),
        ("UNETPLUSPLUS-se_resnext50_32x4d", ("unetplusplus", "seresnext50")),
        ("unetpp resnet34", ("unetplusplus", "resnet34")),
        ("resnet50_unet++", ("unetplusplus", "resnet50")),
        ("SCSeResneXt", ("siamese_unet", "seresnext50")),
        ("SCSeResneXt50", ("siamese_unet", "seresnext50")),
        ("Siamese_SE_ResNeXt50_32x4d", ("siamese_unet", "seresnext50")),
        ("siamese_dpn92", ("siamese_unet", "dpn92")),
        ("dpn_unet", ("siamese_unet", "dpn92")),
        ("siamese_unet_resnext101_32x8d", ("siamese_unet", "resnext101")),
        ("seamese densenet161", ("siamese_unet", "densenet161")),
    ],
)
def test_spellings(folder, model, expected):
    base = SIAMESE if expected[0] == "siamese_unet" else UNETPP
    options, _ = read(base, model=model, model_name="run7")
    assert (options["model"], options["backbone"]) == expected
    assert read(base, model=model, without="is_siamese")[0]["backbone"] == expected[1]


@pytest.mark.parametrize(
    ("base", "model", "name", "file", "expected"),
    [
        (UNETPP, "unet++", "run7", "config_unet++_resnext50", ("unetplusplus", "resnext50")),
        (UNETPP, "Unet++", "unet++_resnet34", "a", ("unetplusplus", "resnet34")),
        (UNETPP, "resnext50", "run7", "config_unet++_resnet50", ("unetplusplus", "resnext50")),
        (SIAMESE, "unet", "run7", "config_siamese_seresnext50", ("siamese_unet", "seresnext50")),
        (SIAMESE, "dpn92", "run7", "a", ("siamese_unet", "dpn92")),
    ],
)
def test_names_of_the_run_and_the_file_say_what_model_does_not(
    folder, base, model, name, file, expected
):
    options, messages = read(base, f"{file}.json", model=model, model_name=name)
    assert (options["model"], options["backbone"]) == expected
    guessed = [text for text in messages if "is read from" in text]
    if model == "dpn92":  # is_siamese says the rest
        assert guessed == []
    else:
        assert len(guessed) == 1 and (file in guessed[0] or name in guessed[0])


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (UNETPP, {"model": "snunet"}, r'"model": "snunet" must name a unet\+\+ or a siamese'),
        (UNETPP, {"model": "unet"}, "others are not here"),
        (UNETPP, {"model": "FPN_resnet50"}, "others are not here"),
        (UNETPP, {"model": "resnext50", "model_name": "a"}, "must name a unet"),
        (UNETPP, {"model": "unet++_dpn92"}, "names dpn92; unetplusplus of the original has resn"),
        (UNETPP, {"model": "unet++_seresnet50", "model_name": "a"}, "no backbone that we know"),
        (SIAMESE, {"model": "siamese_resnet50"}, "names resnet50; siamese_unet .* densenet161"),
        (SIAMESE, {"is_siamese": False}, "does not fit model siamese_unet"),
        (UNETPP, {"is_siamese": True}, "does not fit model unetplusplus"),
        (UNETPP, {"is_siamese": "yes"}, "must be true or false"),
        (UNETPP, {"img_channels": 3}, "must be 1 for unetplusplus.*--bands"),
        (SIAMESE, {"img_channels": 1}, "must be 3 for siamese_unet"),
        (UNETPP, {"batch": 0}, r'"batch": 0 must be a whole number of at least 1'),
        (UNETPP, {"img_size": "256"}, "must be a whole number"),
        (UNETPP, {"patience": True}, "must be a whole number"),
        (UNETPP, {"device": "gpu"}, "must be auto, cpu, cuda or cuda:N"),
        (UNETPP, {"model": 7}, "must be a text"),
        (UNETPP, {"images_path": "nowhere"}, r'"images_path": "nowhere" is no folder seen from'),
        (UNETPP, {"mask_path": "sample.csv"}, '"mask_path": "sample.csv" is no folder'),
        (UNETPP, {"sample_submission_path": "no.csv"}, "is no file seen from"),
        (UNETPP, {"pretrained": "no.pth"}, 'must be "imagenet", null or a checkpoint'),
        (UNETPP, {"epoch": 3}, r'"epoch": 3 is not a key of the original; remove it.*patience'),
    ],
)
def test_what_cannot_be_followed_is_an_error_with_file_and_key(folder, base, changes, message):
    with pytest.raises(ValueError, match=message) as info:
        read(base, **changes)
    assert str(info.value).startswith('config.json: "')


@pytest.mark.parametrize(
    ("text", "message"),
    [("{'a': 1}", "is not JSON"), ("[1]", "must hold one JSON object"), ("", "is not JSON")],
)
def test_files_that_are_no_config_are_errors(folder, text, message):
    with pytest.raises(ValueError, match=message):
        read_rucode_config(write(text))


def test_a_missing_config_is_an_error(folder):
    with pytest.raises(ValueError, match=r"nowhere\.json: no such config"):
        read_rucode_config("nowhere.json")


def test_every_key_that_means_something_is_told(folder):
    _, messages = read(UNETPP)
    for key in ("images_path", "mask_path", "sample_submission_path", "device", "img_size",
                "batch", "patience", "model_name", "pretrained"):  # fmt: skip
        assert sum(sentence.startswith(f"{key} ") for sentence in messages) == 1, key
    assert "--change-loss dice_bce --lr 0.0001 --lr-policy exponential" in messages[-1]
    words = "--model unetplusplus --backbone resnext50 --fusion difference --bands grey"
    assert any(words in sentence for sentence in messages)


def test_what_has_no_counterpart_is_told_and_what_fits_is_not(folder):
    def about(key: str, messages: list[str]) -> int:
        return sum(text.startswith(f"{key} ") and "no counterpart" in text for text in messages)

    assert about("in_filters", read(SIAMESE)[1]) == 0
    assert about("in_filters", read(SIAMESE, in_filters=64)[1]) == 1
    assert about("in_filters", read(SIAMESE, model="siamese_dpn92", in_filters=64)[1]) == 0
    assert about("in_filters", read(UNETPP, in_filters=48)[1]) == 1
    assert about("activation", read(UNETPP)[1]) == 0
    assert about("activation", read(UNETPP, activation=None)[1]) == 1


def test_what_became_of_it_is_told_once_however_often_it_is_read(folder, capsys):
    path = str(write(UNETPP, "network.json"))
    assert vars(parse_args([path])) == vars(parse_args([path]))
    assert capsys.readouterr().out.count("in options of this program") == 1


def test_absent_keys_leave_what_is_published(folder):
    options, _ = read({"model": "unet++_resnext50"})
    absent = {"folders", "device", "name", "pretrained"}
    assert (options["crop_size"], options["batch_size"], options["early_stop"]) == (256, 5, 7)
    assert not absent & options.keys() and options["dataset"] == "rucode"
