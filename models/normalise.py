"""Normalises stored pixel values for a network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from utils.structures import Scheme


class Normalise(nn.Module):
    """Normalises stored pixel values x: (x / scale - mean) / std per band."""

    def __init__(self, scale: float, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        mean_, std_ = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("factor", (1 / (scale * std_))[:, None, None], persistent=False)
        self.register_buffer("offset", (-mean_ / std_)[:, None, None], persistent=False)

    @classmethod
    def of(cls, scheme: Scheme) -> "Normalise":
        """Normalisation of a data set scheme."""
        return cls(scheme.scale, scheme.mean, scheme.std)

    def forward(self, images: Tensor) -> Tensor:
        """(..., C, H, W), uint8 or float -> float32.

        Raises:
            ValueError: another number of bands.
        """
        if images.shape[-3] != len(self.factor):
            raise ValueError(
                f"the images have {images.shape[-3]} bands, the network reads {len(self.factor)}; "
                "choose a checkpoint trained on such images (--checkpoints)"
            )
        return torch.addcmul(self.offset, images.float(), self.factor)
