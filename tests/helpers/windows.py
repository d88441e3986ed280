"""Wholes out of pieces."""

import torch


def joined(height: int, width: int, pieces) -> torch.Tensor:
    """The whole, every pixel given exactly once."""
    whole, count = torch.zeros(len(pieces[0][2]), height, width), torch.zeros(height, width)
    for top, left, values in pieces:
        place = (..., slice(top, top + values.shape[1]), slice(left, left + values.shape[2]))
        whole[place] = values
        count[place[1:]] += 1
    assert (count == 1).all()
    return whole
