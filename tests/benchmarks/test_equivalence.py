"""Both paths train, in the same order, and are scored alike."""

import json

import pytest
import torch

from benchmarks import equivalence, plain
from helpers.data_sets import second
from helpers.tiny_data import make_second
from inference.prediction import scene_loader
from inference.predictor import Member, Predictor
from models.build import build_network
from models.normalise import Normalise
from training.validation import evaluate
from utils.schemes import SECOND
from utils.speed import for_prediction


@pytest.mark.slow
def test_both_sides_train_and_are_written(tmp_path, capsys):
    root = make_second(tmp_path / "data", train=12, size=64)
    words = ["--data-root", root, "--model", "fcn", "--epochs", 1, "--batch-size", 4]
    words += ["--crop-size", 32, "--seeds", 0, "--out", tmp_path / "a.json"]
    equivalence.main([str(word) for word in words])
    scores = json.loads((tmp_path / "a.json").read_text())["scores"]
    assert {side: len(values) for side, values in scores.items()} == dict.fromkeys(
        ("plain", "together", "ours"), 1
    )
    assert "seed 0  plain" in capsys.readouterr().out


def test_together_differs_in_batch_statistics_only():
    torch.manual_seed(0)
    network = build_network("pspnet", "resnet18", num_classes=6, lightweight=True, dropout=0)
    images = torch.randn(2, 2, 3, 64, 64)
    apart, together = plain.PlainNetwork(network), plain.PlainNetwork(network, together=True)
    with torch.no_grad():
        trained = [each.train()(images[0], images[1])[0] for each in (apart, together)]
        predicted = [each.eval()(images[0], images[1]) for each in (apart, together)]
    assert not torch.allclose(*trained, atol=1e-2)
    for one, other in zip(*predicted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_plain_score_is_that_of_validation(tmp_path):
    tiles = second(make_second(tmp_path, train=6, size=64))
    torch.manual_seed(0)
    network = build_network("fcn", "resnet18", num_classes=6, lightweight=True).eval()
    predictor = Predictor(
        [Member(for_prediction(network), Normalise.of(SECOND))], torch.device("cpu")
    )
    batches = scene_loader(tiles, 2)
    expected = evaluate(predictor, batches, on_area=lambda *_: None)["score"]
    got = equivalence.plain_score(plain.PlainNetwork(network), tiles)
    assert got == pytest.approx(expected, abs=1e-3)
