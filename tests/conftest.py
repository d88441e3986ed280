"""Fixtures of all tests."""

from pathlib import Path

import pytest
import torch

from helpers.tiny_data import make_second

# The tensors here are tiny: more threads gain nothing, and lose much on a busy machine.
torch.set_num_threads(1)


@pytest.fixture
def second_root(tmp_path):
    """`second_root(train=4, test=2, ...)` writes a tiny data set and returns its folder."""

    def make(**options) -> Path:
        return make_second(tmp_path / "data", **options)

    return make
