"""Where processes wait for one another, and where they do not."""

import pytest

import label
import predict
import test as script_test
from helpers.map_data import save_network, write_pair
from helpers.processes import two_processes
from inference.predictor import Predictor
from utils import distributed
from utils.background import BackgroundWriter
from utils.schemes import SECOND

WAIT = ("barrier", "sum_over_ranks", "gather", "shared_memory")  # for all other processes
QUICK = ["--device", "cpu", "--amp", "fp32", "--tta", "none"]


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """What a script does: waits, and the tiles between them."""
    seen = []

    def watch(owner, name):
        call = getattr(owner, name)

        def watched(*args, **options):
            seen.append(name)
            return call(*args, **options)

        monkeypatch.setattr(owner, name, watched)

    for name in WAIT:
        watch(distributed, name)
    watch(Predictor, "predict_one")
    watch(BackgroundWriter, "submit")
    return seen


def assert_tiles_in_a_row(events: list[str], least: int) -> None:
    """No wait between the first prediction and the last file, and one after it."""
    first = events.index("predict_one")
    last = len(events) - 1 - events[::-1].index("submit")
    assert set(events[first : last + 1]) == {"predict_one", "submit"}
    assert events.count("predict_one") >= least
    assert set(events[:first]) & set(WAIT) and set(events[last:]) & set(WAIT)


def run_tiles(script, option: str, root, tmp_path) -> None:
    network = save_network(tmp_path / "network.pth", SECOND)
    words = ["--data-root", root, "--outdir", tmp_path / "out", "--checkpoints", network, *QUICK]
    script.main([str(word) for word in (*words, "--num-workers", "0", option, "2")])


def test_no_process_waits_while_it_labels(second_root, tmp_path, events):
    run_tiles(label, "--val-batch-size", second_root(train=7, size=32), tmp_path)
    assert_tiles_in_a_row(events, least=3)


def test_no_process_waits_while_it_tests(second_root, tmp_path, events):
    run_tiles(script_test, "--test-batch-size", second_root(train=1, test=5, size=32), tmp_path)
    assert_tiles_in_a_row(events, least=3)


def test_no_process_waits_while_it_maps(tmp_path, events):
    pair = write_pair(tmp_path / "in", 150, 130)
    network = save_network(tmp_path / "network.pth", SECOND)
    words = [*pair, "--checkpoints", network, "--out", tmp_path / "out", *QUICK]
    words += ["--tile-px", "64", "--overlap-px", "16", "--vector", "none"]
    predict.main([str(word) for word in (*words, "--test-batch-size", "1")])
    assert_tiles_in_a_row(events, least=9)


STEPS = """
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from utils import distributed
from utils.cli import run
from helpers.steps import forward_backward
from models.normalise import Normalise
from training.losses import LossTerms, Loss
from training.monitor import LossMonitor
from utils.schemes import SECOND
from utils.structures import Logits, Sample


class Pointwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.classes, self.change = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 1, 1)

    def forward(self, images):
        classes = self.classes(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return Logits(classes, self.change(images.flatten(1, 2))[:, 0])


def main():
    with distributed.session("cpu") as device:
        rank, shapes, all_reduce = distributed.rank(), [], dist.all_reduce

        def counted(value, *args, **options):
            shapes.append(list(value.shape))
            return all_reduce(value, *args, **options)

        dist.all_reduce = counted
        parallel = distributed.wrap(Pointwise())
        parallel.register_comm_hook(None, allreduce_hook)  # through dist.all_reduce
        generator = torch.Generator().manual_seed(rank)
        batch = Sample(
            list("abcdef"),
            torch.randint(256, (6, 2, 3, 8, 8), generator=generator),
            torch.randint(6, (6, 2, 8, 8), generator=generator),
            torch.randint(2, (6, 8, 8), generator=generator),
        )
        monitor, scaler = LossMonitor(), torch.amp.GradScaler("cpu", enabled=False)
        recipe = Normalise.of(SECOND), batch, Loss(), 3, scaler
        for step in (1, 2):
            monitor.add(step, batch.name, forward_backward(parallel, *recipe))
        step = [[3], [31]]  # pixels of two dates and change; 6 * 3 + 6 + 6 + 1 gradients
        assert shapes == [*step, *step], shapes
        monitor.read()
        assert shapes[4:] == [[2, 3]], shapes  # steps, terms

        for step in (1, 2, 3):
            value = float("nan") if (rank, step) == (1, 2) else 1.0
            monitor.add(step, [f"step{step}_rank{rank}"], LossTerms(torch.tensor(value)))
        try:
            monitor.read()
        except FloatingPointError as error:
            with open(f"{sys.argv[1]}/{rank}", "w") as file:
                file.write(str(error))


run(main)
"""


@pytest.mark.slow
def test_a_step_in_parts_waits_twice_and_losses_wait_until_they_are_read(tmp_path):
    path = tmp_path / "steps.py"
    path.write_text(STEPS)
    two_processes(path, tmp_path)
    for rank in ("0", "1"):  # both stop, at the tiles of the one whose loss was not finite
        error = (tmp_path / rank).read_text()
        assert "not finite at step 2" in error and "tiles step2_rank1." in error
