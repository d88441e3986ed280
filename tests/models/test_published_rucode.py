"""Published change networks: the xView2 siamese UNet and UNet++, and the files they come in."""

from functools import partial

import numpy as np
import pytest
import torch

from helpers.data_sets import scheme_finder
from helpers.plain_change import published_siamese_unet, published_unetplusplus, unetplusplus_layout
from helpers.plain_reference import published_layout, random_state
from models.build import build_network
from models.checkpoints import load_matching, load_network, load_strictly
from models.checkpoints import main as checkpoints_main
from models.published import PUBLISHED_FORMATS, Published, their_key, to_ours
from utils.state_files import read_file
from utils.structures import Scheme

rucode_scheme = scheme_finder("rucode")

SIAMESE = Published("siamese_unet", "seresnext50")
UNETPLUSPLUS = Published("unetplusplus", "resnext50")
WHITE, RED = (255, 255, 255), (255, 0, 0)
RGB = Scheme("binary_change", (), (WHITE, RED))
GREY = Scheme("binary_change", (), (WHITE, RED), bands=("grey",), mean=(0.0,), std=(1.0,))
FORWARD = {"siamese_unet": published_siamese_unet, "unetplusplus": published_unetplusplus}
SCHEMES = {"siamese_unet": RGB, "unetplusplus": GREY}


def state_of(what: Published, seed=1) -> dict:
    if what == UNETPLUSPLUS:
        return random_state(unetplusplus_layout(), seed)
    return random_state(published_layout("siamese_unet_seresnext50"), seed)


@pytest.fixture(scope="module")
def states():
    return {what.model: state_of(what) for what in (SIAMESE, UNETPLUSPLUS)}


def load(path, content, what):
    torch.save(content, path)
    return load_network(path, published=what, scheme=SCHEMES[what.model])


def network_on_meta(what: Published):
    with torch.device("meta"):
        return build_network(
            what.model,
            what.backbone,
            num_classes=0,
            task="binary_change",
            in_channels=len(SCHEMES[what.model].bands),
            options=PUBLISHED_FORMATS[what.model].options,
        )


# ------------------------------------------------------------------- to the last entry


@pytest.mark.parametrize(("what", "entries"), [(SIAMESE, 422), (UNETPLUSPLUS, 452)])
def test_a_published_layout_loads_to_the_last_entry(tmp_path, states, what, entries):
    state = states[what.model]
    network, recipe = load(tmp_path / "a.pth", state, what)
    own = network.state_dict()
    assert len(state) == len(own) == entries
    for key, value in own.items():
        assert torch.equal(value, state[their_key(key, PUBLISHED_FORMATS[what.model])]), key
    assert recipe["options"] == dict(PUBLISHED_FORMATS[what.model].options)


@pytest.mark.parametrize("what", [SIAMESE, UNETPLUSPLUS])
def test_published_weights_compute_what_the_published_forward_does(tmp_path, states, what):
    bands = len(SCHEMES[what.model].bands)
    tiles = torch.randn(2, 2, bands, 64, 96, generator=torch.Generator().manual_seed(0))
    state = states[what.model]
    with torch.no_grad():
        change = load(tmp_path / "a.pth", state, what)[0](tiles).change
        expected = FORWARD[what.model](state, tiles[:, 0], tiles[:, 1])
    torch.testing.assert_close(change.sigmoid(), expected, rtol=0, atol=1e-5)
    assert expected.shape == (2, 64, 96) and expected.std() > 3e-4  # the comparison sees something


@pytest.mark.parametrize(
    ("what", "classifier"), [(SIAMESE, "final.0"), (UNETPLUSPLUS, "segmentation_head.0")]
)
def test_published_weights_sure_of_change_predict_it(tmp_path, states, what, classifier):
    state = {k: v.clone() for k, v in states[what.model].items()}
    state[f"{classifier}.weight"].zero_()
    state[f"{classifier}.bias"].fill_(5.0)
    tiles = torch.randn(1, 2, len(SCHEMES[what.model].bands), 32, 32)
    with torch.no_grad():
        change = load(tmp_path / "a.pth", state, what)[0](tiles).change
    torch.testing.assert_close(change, torch.full((1, 32, 32), 5.0))


@pytest.mark.parametrize("what", [SIAMESE, UNETPLUSPLUS])
def test_every_missing_entry_is_named_as_published(states, what):
    layout = PUBLISHED_FORMATS[what.model]
    network, state = network_on_meta(what), to_ours(states[what.model], layout)
    shown = partial(their_key, state_format=layout)
    for key in state:
        rest = {k: v for k, v in state.items() if k != key}
        with pytest.raises(ValueError, match="missing") as error:
            load_strictly(network, rest, "a.pth", shown)
        assert f"missing (1): {shown(key)}." in str(error.value)
        assert shown(key) in states[what.model]


@pytest.mark.parametrize(
    ("what", "key"),
    [
        (SIAMESE, "encoder_stages.5.0.weight"),
        (SIAMESE, "bottlenecks.4.seq.0.weight"),
        (UNETPLUSPLUS, "encoder.fc.weight"),
        (UNETPLUSPLUS, "decoder.blocks.x_1_4.conv1.0.weight"),
    ],
)
def test_an_extra_entry_is_named(states, what, key):
    layout = PUBLISHED_FORMATS[what.model]
    state = to_ours({**states[what.model], key: torch.zeros(1)}, layout)
    shown = partial(their_key, state_format=layout)
    with pytest.raises(ValueError, match="unknown") as error:
        load_strictly(network_on_meta(what), state, "a.pth", shown)
    assert f"unknown (1): {key}." in str(error.value)


def test_the_backbone_of_the_siamese_unet_is_not_that_of_other_networks():
    other = build_network("fcn", "seresnext50", num_classes=6).backbone
    own = network_on_meta(SIAMESE).backbone
    assert (own.timm_name, other.timm_name) == ("legacy_seresnext50_32x4d", "seresnext50_32x4d")
    assert len(own.state_dict()) == 384 - 2  # without its classifier


def test_the_published_schemes_are_those_of_the_data_set(tmp_path):
    assert PUBLISHED_FORMATS["siamese_unet"].scheme == rucode_scheme(tmp_path)
    assert PUBLISHED_FORMATS["unetplusplus"].scheme == rucode_scheme(tmp_path, bands=["grey"])


def test_convert_makes_a_file_that_says_what_it_is(tmp_path, states):
    what = UNETPLUSPLUS
    torch.save(states[what.model], tmp_path / "in.pth")
    words = [str(tmp_path / "in.pth"), str(tmp_path / "out.pth")]
    checkpoints_main(["convert", *words, "--model", what.model, "--backbone", what.backbone])
    network, recipe = load_network(tmp_path / "out.pth")
    assert recipe["task"] == "binary_change" and recipe["standardise"] == "joint"
    assert tuple(recipe["bands"]) == SCHEMES[what.model].bands
    direct, _ = load(tmp_path / "in.pth", states[what.model], what)
    torch.testing.assert_close(network.state_dict(), direct.state_dict(), rtol=0, atol=0)


# ------------------------------------------------------------------- the files of xView2


def wrapped(state: dict) -> dict:
    """As the contest's training wrote it."""
    return {
        "epoch": 12,
        "state_dict": {f"module.{k}": v for k, v in state.items()},
        "dice_best": np.float64(0.87),
        "xview_best": np.float32(0.79),
    }


@pytest.fixture(scope="module")
def xview2(states):
    """A state dict with the contest's five outputs."""
    state = dict(states["siamese_unet"])
    state["final.0.weight"], state["final.0.bias"] = torch.ones(5, 24, 1, 1), torch.ones(5)
    return state


def test_wrappers_with_numpy_scores_are_read(tmp_path, states):
    state = states["siamese_unet"]
    network, _ = load(tmp_path / "a.pth", wrapped(state), SIAMESE)
    plain, _ = load(tmp_path / "b.pth", state, SIAMESE)
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_five_outputs_are_refused_with_what_they_are_good_for(tmp_path, xview2):
    with pytest.raises(ValueError, match=r"a\.pth gives 5 scores.*xView2.*--pretrain-from"):
        load(tmp_path / "a.pth", wrapped(xview2), SIAMESE)


@pytest.mark.parametrize("symmetric", [True, False])
def test_pretrain_from_five_outputs_takes_all_but_the_classifier(tmp_path, xview2, symmetric):
    torch.save(wrapped(xview2), tmp_path / "a.pth")
    network = build_network(
        "siamese_unet",
        "seresnext50",
        num_classes=0,
        task="binary_change",
        options={"symmetric": symmetric},
    )
    final = network.final[0].weight.clone()
    message = load_matching(network, tmp_path / "a.pth")
    assert "loaded 420 of 422 entries; fresh: final.0.weight, final.0.bias" in message
    assert torch.equal(network.final[0].weight, final)
    layout = PUBLISHED_FORMATS["siamese_unet"]
    for key, value in network.state_dict().items():
        if not key.startswith("final."):
            assert torch.equal(value, xview2[their_key(key, layout)]), key


def test_pretrain_from_the_single_output_turns_nothing(tmp_path, states):
    torch.save(states["siamese_unet"], tmp_path / "a.pth")
    network = build_network("siamese_unet", "seresnext50", num_classes=0, task="binary_change")
    assert "loaded 422 of 422" in load_matching(network, tmp_path / "a.pth")
    assert torch.equal(network.final[0].weight, states["siamese_unet"]["final.0.weight"])


# ------------------------------------------------------------------- what may lie beside tensors


SCALARS = [np.float64(0.5), np.float32(0.5), np.int64(3), np.uint8(3), np.bool_(True)]


@pytest.mark.parametrize("value", SCALARS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_numbers_are_plain_values(tmp_path, value, zipped):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1), "best": value}, path, _use_new_zipfile_serialization=zipped)
    read = read_file(path)["best"]
    assert read == value and type(read) is type(value)
    with pytest.raises(Exception, match=r"(?i)weights.only"):  # and are so nowhere else
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_numbers_of_either_numpy_are_read(tmp_path, module):
    path = tmp_path / "a.pth"  # the old format: its names have no length to keep
    torch.save({"best": np.float64(0.25)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    own = next(n for n in (b"numpy._core.multiarray", b"numpy.core.multiarray") if n in content)
    path.write_bytes(content.replace(own, module))
    assert read_file(path)["best"] == 0.25


class Runs:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "value", [np.zeros(2), np.array(Runs(), dtype=object)], ids=["array", "object"]
)
def test_other_numpy_things_are_refused(tmp_path, value, capsys):
    torch.save({"a": torch.zeros(1), "best": value}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth holds more than tensors and plain values"):
        read_file(tmp_path / "a.pth")
    assert "executed" not in capsys.readouterr().out
