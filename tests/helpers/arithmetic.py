"""Numerical capabilities of the machine, and tolerances of float32 results."""

import pytest
import torch
from torch import Tensor

from utils.precision import has_fast_bf16

CPU = torch.device("cpu")
needs_bf16 = pytest.mark.skipif(
    not has_fast_bf16(CPU), reason="this processor has no bfloat16 arithmetic"
)
BF16 = pytest.param(torch.bfloat16, marks=needs_bf16)

# Each of some hundred layers has a relative rounding error of 6e-8. Cancellation, as in batch
# norms, increases it about a hundred times, to about 1e-5 of the largest score on any machine. An
# error in an algorithm gives differences of order 1.
SHARE = 1e-4


def relative_error(got: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((got.float() - want.float()).abs().max() / want.float().abs().max())


def assert_equal_but_for_rounding(got: tuple, want: tuple) -> None:
    """Compares Logits, Probs, or any tuples of tensors and None, in float32."""
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert a.shape == b.shape and relative_error(a, b) < SHARE
