import numpy as np
import pytest
import torch

from inference.overlap import HostCopy, overlap_transfers


@pytest.mark.parametrize("count", [0, 1, 5])
def test_results_come_in_order_each_after_the_next_was_made(count):
    made = []

    def results():
        for i in range(count):
            made.append(i)
            yield i

    for i in overlap_transfers(results()):
        assert len(made) == min(i + 2, count)
    assert made == list(range(count))


def test_what_is_made_is_given_before_a_failure_is_told():
    def results():
        yield 1
        raise OSError("no more")

    given = overlap_transfers(results())
    assert next(given) == 1
    with pytest.raises(OSError, match="no more"):
        next(given)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_a_copy_has_the_values_of_when_it_was_made(device):
    values = torch.arange(6, device=device).view(2, 3)
    copy = HostCopy(masks=values * 2, gate=None)
    values = values * 0
    found = copy.arrays()
    np.testing.assert_array_equal(found["masks"], [[0, 2, 4], [6, 8, 10]])
    assert found["gate"] is None
