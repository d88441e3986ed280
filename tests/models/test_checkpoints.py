import pickle
from pathlib import Path

import pytest
import torch

from helpers.data_sets import find_scheme
from helpers.plain_reference import (
    published_deeplabv3plus,
    published_fcn,
    published_layout,
    published_pspnet,
    random_state,
)
from inference.ensemble import load_ensemble
from models.build import build_network
from models.checkpoints import (
    find_checkpoints,
    load_matching,
    load_network,
    load_strictly,
    make_recipe,
    network_of,
    read_file,
    refuse_contradiction,
    save_checkpoint,
    scheme_of,
)
from models.checkpoints import main as checkpoints_main
from models.published import Published, published_networks
from utils.schemes import SECOND
from utils.structures import Scheme

SMALL = "hrnet_w18_v1"
# reference layout -> what a user says it is, and its change classifier's published name
PUBLISHED = {
    "fcn_hrnet_w18_light": (Published("fcn", "hrnet_w18", True), "head_bin.head.4"),
    "pspnet_hrnet_w18_light": (Published("pspnet", "hrnet_w18", True), "head_bin.conv5.5"),
    "pspnet_hrnet_w18_full": (Published("pspnet", "hrnet_w18", False), "head_bin.conv5.5"),
    "pspnet_resnet50_light": (Published("pspnet", "resnet50", True), "head_bin.conv5.5"),
    "deeplabv3plus_resnet50_light": (
        Published("deeplabv3plus", "resnet50", True),
        "classifier_bin",
    ),
}
PLAIN = {
    "fcn_hrnet_w18_light": published_fcn,
    "pspnet_hrnet_w18_light": published_pspnet,
    "pspnet_hrnet_w18_full": published_pspnet,
    "deeplabv3plus_resnet50_light": published_deeplabv3plus,
}


def load(path, name):
    return load_network(path, published=PUBLISHED[name][0], scheme=SECOND)


def save(path, content) -> Path:
    torch.save(content, path)
    return path


def images(batch=1, size=64):
    return torch.randn(batch, 2, 3, size, size, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def predict(network, tiles):
    return network.eval()(tiles)


@pytest.fixture(scope="module")
def light_psp():
    """A published PSPNet of our own making."""
    return random_state(published_layout("pspnet_hrnet_w18_light"))


@pytest.fixture(scope="module")
def light_fcn():
    return random_state(published_layout("fcn_hrnet_w18_light"))


# ------------------------------------------------------------------- published files


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_layout_loads_to_the_last_entry(tmp_path, name):
    state = random_state(published_layout(name))
    network, recipe = load(save(tmp_path / "a.pth", state), name)
    assert not network.training
    own = network.state_dict()
    assert len(own) == len(state)
    # every value arrived, whatever its name (the change classifier with its sign turned)
    classifier = PUBLISHED[name][1]
    ours = sorted(v.double().sum().item() for v in own.values())
    theirs = sorted(
        v.double().sum().item() * (-1 if k.rpartition(".")[0] == classifier else 1)
        for k, v in state.items()
    )
    assert ours == theirs
    assert (recipe["model"], recipe["backbone"], recipe["lightweight"]) == PUBLISHED[name][0][:3]


@pytest.mark.parametrize("name", PLAIN)
def test_published_weights_compute_what_the_published_forward_does(tmp_path, name):
    state = random_state(published_layout(name), seed=1)
    network, _ = load(save(tmp_path / "a.pth", state), name)
    tiles = images(2)
    logits = predict(network, tiles)
    with torch.no_grad():
        logits1, logits2, unchanged = PLAIN[name](state, tiles[:, 0], tiles[:, 1])
    scale = logits1.abs().max().item()
    torch.testing.assert_close(logits.semantic[:, 0], logits1, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(logits.semantic[:, 1], logits2, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(logits.change.sigmoid(), 1 - unchanged, rtol=0, atol=1e-5)
    assert unchanged.std() > 3e-4 and logits1.std() > 0.1  # the comparison sees something


@pytest.mark.parametrize("name", PLAIN)
def test_a_published_network_sure_of_no_change_predicts_no_change(tmp_path, name):
    # sigmoid(5) = 0.993 = P(unchanged) everywhere, as published; ours gives P(changed)
    state = random_state(published_layout(name))
    classifier = PUBLISHED[name][1]
    state[f"{classifier}.weight"].zero_()
    state[f"{classifier}.bias"].fill_(5.0)
    network, _ = load(save(tmp_path / "a.pth", state), name)
    change = predict(network, images()).change
    torch.testing.assert_close(change, torch.full_like(change, -5.0))


def test_each_missing_entry_is_named(tmp_path, light_fcn):
    for key in (
        "head.head.4.weight",
        "head_bin.head.4.bias",
        "backbone.stage2.0.branches.0.0.conv1.weight",
    ):
        state = {k: v for k, v in light_fcn.items() if k != key}
        with pytest.raises(ValueError, match="missing") as error:
            load(save(tmp_path / "a.pth", state), "fcn_hrnet_w18_light")
        assert key in str(error.value) and "a.pth" in str(error.value)


@pytest.mark.parametrize("key", ["head.extra.weight", "backbone.fc.weight", "optimizer_momentum"])
def test_each_extra_entry_is_named(tmp_path, light_fcn, key):
    state = {**light_fcn, key: torch.zeros(1)}
    with pytest.raises(ValueError, match="unknown") as error:
        load(save(tmp_path / "a.pth", state), "fcn_hrnet_w18_light")
    assert key in str(error.value)


def test_a_misshapen_entry_is_named_with_both_shapes(tmp_path, light_fcn):
    state = {**light_fcn, "head.head.4.bias": torch.zeros(7)}
    with pytest.raises(ValueError, match=r"head\.head\.4\.bias is \(7,\), should be \(6,\)"):
        load(save(tmp_path / "a.pth", state), "fcn_hrnet_w18_light")


@pytest.mark.parametrize(
    "wrong",
    [
        Published("pspnet", "hrnet_w18", True),
        Published("fcn", "hrnet_w18", False),
        Published("fcn", "hrnet_w18_v1", True),
        Published("deeplabv3plus", "hrnet_w18", True),
    ],
)
def test_the_checkpoint_of_another_network_is_an_error_with_the_remedy(tmp_path, light_fcn, wrong):
    path = save(tmp_path / "a.pth", light_fcn)
    with pytest.raises(ValueError, match=r"does not fit.*--model, --backbone and --lightweight"):
        load_network(path, published=wrong, scheme=SECOND)


def test_there_are_no_published_weights_of_other_networks(tmp_path, light_fcn):
    with pytest.raises(ValueError, match=r"--model='unet'.*fcn.*pspnet.*deeplabv3plus"):
        load_network(
            save(tmp_path / "a.pth", light_fcn),
            published=Published("unet", "hrnet_w18", True),
            scheme=SECOND,
        )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {"state_dict": state},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"model_state_dict": state},
        lambda state: {"model": state},
        lambda state: {"model_G_state_dict": state, "best_val_acc": 0.5},
        lambda state: {"net": {f"module.{k}": v for k, v in state.items()}},
    ],
)
def test_wrapped_published_files_load_the_same(tmp_path, light_fcn, wrap):
    plain, _ = load(save(tmp_path / "a.pth", light_fcn), "fcn_hrnet_w18_light")
    wrapped, _ = load(save(tmp_path / "b.pth", wrap(light_fcn)), "fcn_hrnet_w18_light")
    torch.testing.assert_close(wrapped.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_several_state_dicts_under_other_names_are_named(tmp_path, light_fcn):
    path = save(tmp_path / "a.pth", {"net": light_fcn, "state_dict_ema": light_fcn})
    with pytest.raises(ValueError, match=r"several state dicts, net, state_dict_ema; save the one"):
        load(path, "fcn_hrnet_w18_light")


def test_a_bare_state_dict_without_a_description_is_an_error(tmp_path, light_fcn):
    path = save(tmp_path / "a.pth", light_fcn)
    with pytest.raises(ValueError, match=r"a\.pth is a bare state dict.*--model.*--backbone"):
        load_network(path)
    with pytest.raises(ValueError, match="--model"):
        load_ensemble([path], torch.device("cpu"), SECOND)


def test_the_published_classes_are_those_of_the_data_set():
    assert find_scheme("second") == SECOND
    assert SECOND.classes == (
        "water",
        "ground",
        "low vegetation",
        "tree",
        "building",
        "sports field",
    )


# ------------------------------------------------------------------- convert


def test_convert_makes_a_file_that_needs_no_flags(tmp_path, light_psp, capsys):
    source, target = save(tmp_path / "in.pth", light_psp), tmp_path / "deep" / "out.pth"
    words = [source, target, "--model", "pspnet", "--backbone", "hrnet_w18", "--lightweight"]
    checkpoints_main(["convert", *map(str, words)])
    assert "out.pth" in capsys.readouterr().out
    network, recipe = load_network(target)
    direct, _ = load(source, "pspnet_hrnet_w18_light")
    torch.testing.assert_close(network.state_dict(), direct.state_dict(), rtol=0, atol=0)
    assert scheme_of(recipe) == SECOND
    with pytest.raises(ValueError, match="--overwrite"):
        checkpoints_main(["convert", *map(str, words)])
    checkpoints_main(["convert", *map(str, words), "--overwrite"])


def test_convert_refuses_a_wrong_description(tmp_path, light_psp):
    source, target = save(tmp_path / "in.pth", light_psp), tmp_path / "out.pth"
    words = [str(source), str(target), "--model", "fcn", "--backbone", "hrnet_w18", "--lightweight"]
    with pytest.raises(ValueError, match="does not fit"):
        checkpoints_main(["convert", *words])
    assert not target.exists()


# ------------------------------------------------------------------- our own


OTHER = Scheme(
    task="land_cover",
    classes=("forest", "rest"),
    palette=((0, 0, 0), (1, 2, 3), (4, 5, 6)),
    bands=("b1", "b2", "b3", "b4"),
    scale=10000.0,
    mean=(0.1, 0.2, 0.3, 0.4),
    std=(0.5, 0.6, 0.7, 0.8),
)


def save_own(path, scheme=SECOND, seed=0, **options):
    recipe = make_recipe(scheme, **{"model": "pspnet", "backbone": SMALL, **options})
    torch.manual_seed(seed)
    network = network_of(recipe)
    save_checkpoint(path, network.state_dict(), recipe)
    return network, recipe


@pytest.mark.parametrize("scheme", [SECOND, OTHER])
def test_our_checkpoints_rebuild_their_network_without_flags(tmp_path, scheme):
    options = {"lightweight": True, "output_stride": 16, "backbone": "resnet18", "dropout": 0.3}
    network, recipe = save_own(tmp_path / "a.pth", scheme, **options)
    again, read = load_network(tmp_path / "a.pth")
    assert read == recipe and scheme_of(read) == scheme
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)
    tiles = torch.randn(1, scheme.num_dates, len(scheme.bands), 64, 64)
    torch.testing.assert_close(predict(again, tiles), predict(network, tiles))
    assert again.backbone.strides[-1] == 16


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"model": "fcn"}, "--model fcn: .* is pspnet on resnet18"),
        ({"backbone": "resnet34"}, "--backbone resnet34: .* is pspnet on resnet18"),
        ({"output_stride": 16}, "--output-stride 16: .* with 8"),
        ({"lightweight": True}, "--lightweight: .* that is not"),
    ],
)
def test_a_description_that_our_checkpoint_contradicts_is_an_error(tmp_path, wrong, error):
    save_own(tmp_path / "a.pth", backbone="resnet18")
    right = {"model": "pspnet", "backbone": "resnet18"}
    load_network(tmp_path / "a.pth", published=Published(**right))
    with pytest.raises(ValueError, match=error):
        load_network(tmp_path / "a.pth", published=Published(**right | wrong))


def test_a_backbone_of_one_output_stride_is_said_to_have_no_other():
    own = Published("fcn", "hrnet_w18_v1")
    refuse_contradiction("a.pth", own, Published(output_stride=None))
    with pytest.raises(ValueError, match=r"--output-stride 16: a\.pth .* with none to choose"):
        refuse_contradiction("a.pth", own, Published(output_stride=16))


def test_one_description_for_all_must_be_that_of_each(tmp_path, light_fcn):
    save_own(tmp_path / "ours.pth", model="fcn", backbone="resnet18", lightweight=True)
    paths = [tmp_path / "ours.pth", save(tmp_path / "bare.pth", light_fcn)]
    theirs, cpu = PUBLISHED["fcn_hrnet_w18_light"][0], torch.device("cpu")
    with pytest.raises(ValueError, match=r"ours\.pth is fcn on resnet18; .* give one for each"):
        load_ensemble(paths, cpu, SECOND, [theirs, theirs])
    assert len(load_ensemble(paths, cpu, SECOND, [Published("fcn", "resnet18"), theirs])) == 2


def test_our_checkpoints_are_read_as_tensors_and_plain_values(tmp_path):
    save_own(tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert set(content) == {"model", "recipe"}
    assert content["recipe"]["classes"] == list(SECOND.classes)


def test_averaged_weights_are_preferred_where_a_checkpoint_has_them(tmp_path):
    network, recipe = save_own(tmp_path / "a.pth")
    averaged = {k: v * 0 + 1 for k, v in network.state_dict().items()}
    ema = {"updates": 3, "weights": averaged}
    save_checkpoint(tmp_path / "b.pth", network.state_dict(), recipe, ema=ema)
    save_checkpoint(tmp_path / "c.pth", network.state_dict(), recipe, ema=None)
    state = load_network(tmp_path / "b.pth")[0].state_dict()
    torch.testing.assert_close(state, averaged, rtol=0, atol=0)
    load_matching(fresh := network_of(recipe), tmp_path / "b.pth")  # --pretrain-from
    torch.testing.assert_close(fresh.state_dict(), averaged, rtol=0, atol=0)
    state = load_network(tmp_path / "c.pth")[0].state_dict()
    torch.testing.assert_close(state, network.state_dict(), rtol=0, atol=0)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path):
    save_own(tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint(tmp_path / "a.pth", {}, {}, bad=lambda: 0)
    assert (tmp_path / "a.pth").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_an_ensemble_is_checked_against_the_data_set(tmp_path):
    cpu = torch.device("cpu")
    save_own(tmp_path / "a.pth", lightweight=True)
    save_own(tmp_path / "b.pth", OTHER)
    members = load_ensemble([tmp_path / "a.pth"] * 2, cpu, SECOND)
    assert len(members) == 2 and not members[0].network.training
    with pytest.raises(
        ValueError, match=r"b\.pth.*land_cover.*semantic_change.*--checkpoints"
    ) as e:
        load_ensemble([tmp_path / "a.pth", tmp_path / "b.pth"], cpu, SECOND)
    assert "the data set or the first checkpoint has" in str(e.value)  # predict.py has no data set


def test_all_checkpoints_of_an_output_folder_are_found_in_order(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"models.*train\.py.*--checkpoints"):
        find_checkpoints(tmp_path)
    for name in ("b.pth", "a.pth", "notes.txt"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / name).touch()
    assert [p.name for p in find_checkpoints(tmp_path)] == ["a.pth", "b.pth"]


# ------------------------------------------------------------------- bad files


READERS = [read_file, load_network]


@pytest.mark.parametrize("read", READERS)
def test_a_file_of_another_kind_is_no_checkpoint(tmp_path, read):
    for name, content in (("README.md", b"# Twodates\n"), ("a.pth", b""), ("b.tif", b"II*\0")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is not a checkpoint; name a file") as error:
            read(tmp_path / name)
        assert "could run code" not in str(error.value)


@pytest.mark.parametrize("read", READERS)
def test_a_folder_and_a_quoted_pattern_are_said_to_be_that(tmp_path, read):
    save_own(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="is a folder, not a checkpoint; name a file in it"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"\*\.pth: in quotes .*leave out the quotes"):
        read(tmp_path / "*.pth")
    with pytest.raises(FileNotFoundError, match=r"b\.pth; check the path"):
        read(tmp_path / "b.pth")


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_file_with_code_is_refused_and_the_code_not_run(tmp_path):
    proof = tmp_path / "executed"
    path = save(tmp_path / "evil.pth", {"a": torch.zeros(1), "b": Malicious(proof)})
    with pytest.raises(ValueError, match=r"evil\.pth.*could run code"):
        read_file(path)
    with pytest.raises(ValueError, match=r"evil\.pth"):
        load_network(path, published=Published("fcn", SMALL), scheme=SECOND)
    assert not proof.exists()
    torch.load(path, weights_only=False)["b"].close()
    assert proof.exists()  # it would have


def test_a_whole_pickled_network_is_refused(tmp_path):
    path = save(tmp_path / "whole.pth", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"whole\.pth.*state_dict"):
        read_file(path)


@pytest.mark.parametrize("name", ["text.pth", "empty.pth", "cut.pth", "broken.safetensors"])
def test_an_unreadable_file_is_an_error_that_names_it(tmp_path, name):
    path = tmp_path / name
    save(tmp_path / "good.pth", {"a": torch.zeros(1000)})
    content = {
        "text.pth": b"not weights",
        "empty.pth": b"",
        "broken.safetensors": b"\x08" + b"0" * 9,
    }
    path.write_bytes(content.get(name, (tmp_path / "good.pth").read_bytes()[:1500]))
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_file(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_network(tmp_path / "nowhere.pth")


def test_a_file_that_holds_no_dict_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"list\.pth holds a list"):
        read_file(save(tmp_path / "list.pth", [torch.zeros(1)]))


# ------------------------------------------------------------------- as far as it fits


def test_pretrain_from_takes_what_fits_and_says_what_did_not(tmp_path):
    network, _ = save_own(tmp_path / "a.pth")
    torch.manual_seed(1)
    other = build_network("fcn", SMALL, num_classes=6)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    message = load_matching(other, tmp_path / "a.pth")
    own, state = network.state_dict(), other.state_dict()
    fresh = [k for k in state if k not in own or own[k].shape != state[k].shape]
    assert fresh and all(torch.equal(state[k], before[k]) for k in fresh)
    assert all(torch.equal(state[k], own[k]) for k in state if k not in fresh)
    assert "a.pth" in message and fresh[0] in message


def test_pretrain_from_takes_a_published_file_with_its_polarity(tmp_path, light_fcn):
    path = save(tmp_path / "a.pth", light_fcn)
    loaded, _ = load(path, "fcn_hrnet_w18_light")
    network = build_network("fcn", "hrnet_w18", num_classes=6, lightweight=True)
    load_matching(network, path)
    torch.testing.assert_close(network.state_dict(), loaded.state_dict(), rtol=0, atol=0)


def test_pretrain_from_another_network_is_an_error(tmp_path):
    save_own(tmp_path / "a.pth")
    network = build_network("fcn", "resnet18", num_classes=6, lightweight=True)
    with pytest.raises(ValueError, match=r"--pretrain-from .*a\.pth.*another network"):
        load_matching(network, tmp_path / "a.pth")


def test_load_strictly_lists_ten_and_counts_the_rest():
    network = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(10)))
    with pytest.raises(ValueError, match=r"missing \(20\): 0\.weight.*4\.bias and 10 more"):
        load_strictly(network, {}, "a.pth")


def test_flags_that_describe_published_files_come_together():
    one, other = Published("fcn", "resnet18", True), Published("unet", "resnet34", True)
    assert published_networks(None, None, False, 2) == [None, None]
    assert published_networks(["fcn"], ["resnet18"], True, 1) == [one]
    assert published_networks(["fcn"], ["resnet18"], True, 3) == [one] * 3
    assert published_networks(["fcn", "unet"], ["resnet18", "resnet34"], True, 2) == [one, other]
    with pytest.raises(ValueError, match="pair by pair; got 1 and 0 names"):
        published_networks(["fcn"], None, False, 1)
    with pytest.raises(ValueError, match="describe 2 checkpoints, there are 3; give one for all"):
        published_networks(["fcn", "unet"], ["resnet18", "resnet34"], False, 3)
    with pytest.raises(ValueError, match="--lightweight describes published checkpoints"):
        published_networks(None, None, True, 1)
