"""What a machine can compute, and how far float32 results may lie apart."""

import pytest
import torch
from torch import Tensor

from utils.precision import has_fast_bf16

CPU = torch.device("cpu")
needs_bf16 = pytest.mark.skipif(
    not has_fast_bf16(CPU), reason="this processor has no bfloat16 arithmetic"
)
BF16 = pytest.param(torch.bfloat16, marks=needs_bf16)

# Each of some hundred layers rounds to 6e-8 of its sums, and small differences of large numbers, as
# batch norms take them, make that some hundred times more: of the largest score about 1e-5 on any
# machine. What is wrong in an algorithm shows as parts of 1.
SHARE = 1e-3


def relative_error(got: Tensor, want: Tensor) -> float:
    """The largest difference, as a share of the largest of the values that are wanted."""
    return float((got.float() - want.float()).abs().max() / want.float().abs().max())


def assert_equal_but_for_rounding(got: tuple, want: tuple) -> None:
    """Of Logits or Probs, or of any tuples of tensors and None, in float32."""
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert a.shape == b.shape and relative_error(a, b) < SHARE
