"""Maps brought to another size, in the way that is quick where they are.

A linear filter along rows and columns is a product with a small matrix on either side. torch's own
pooling reads a map once for every number of regions, and keeps it for the gradient; on CUDA, and
from very small maps, its resizing of channels-last maps is slow. All is left to torch in float32,
which is for comparing numbers, and in float16, which sums of many pixels leave.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_PIXELS = 64  # such as the regions of pyramid pooling


def resize(x: Tensor, size: tuple[int, int] | torch.Size, align_corners: bool = False) -> Tensor:
    """(N, C, h, w) bilinear to `size` = (height, width); itself if it has that size already."""
    if x.shape[-2:] == tuple(size):
        return x
    if _by_products(x):
        return resize_by_products(x, size, align_corners)
    y = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    if y.requires_grad and not torch.compiler.is_compiling():
        y.register_hook(_dense)
    return y


class Upsample(nn.Upsample):
    """torch's bilinear one."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, H, W)."""
        if not _by_products(x):
            return super().forward(x)
        size = [int(side * self.scale_factor) for side in x.shape[-2:]]
        return resize_by_products(x, size, self.align_corners)


def region_means(x: Tensor, grids: Sequence[int]) -> list[Tensor]:
    """Means over 1 x 1, 2 x 2, ... regions, which share edge pixels where they do not fit.

    Args:
        x: (N, C, h, w).
        grids: regions along a side.

    Returns:
        For each grid g (N, C, g, g).
    """
    if not _is_bfloat16(x):
        return [F.adaptive_avg_pool2d(x, grid) for grid in grids]
    return region_means_by_products(x, grids)


def resize_by_products(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """`resize` as two matrix products: along the columns, then along the rows."""
    rows, columns = (
        _filter(old, new, align_corners, x.device, x.dtype)
        for old, new in zip(x.shape[-2:], size, strict=True)
    )
    x = columns @ x.permute(0, 2, 3, 1)  # (N, h, W, C)
    x = (rows @ x.flatten(2)).unflatten(2, (size[1], -1))  # (N, H, W, C)
    return x.permute(0, 3, 1, 2)


def region_means_by_products(x: Tensor, grids: Sequence[int]) -> list[Tensor]:
    """`region_means` as one matrix product: sums in the type of the map, means in float32."""
    regions, share = _regions(*x.shape[-2:], tuple(grids), x.device, x.dtype)
    sums = regions @ x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, regions of all grids, C)
    means = (sums * share).transpose(1, 2).split([grid * grid for grid in grids], dim=2)
    return [mean.unflatten(2, (grid, grid)) for mean, grid in zip(means, grids, strict=True)]


def _dense(gradient: Tensor) -> Tensor:
    """A gradient in one piece: for a part of joined maps, torch's kernel takes 20 times as long."""
    last = gradient.stride(1) == 1 and gradient.shape[1] > 1
    return gradient.contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


def _by_products(x: Tensor) -> bool:
    """Where it is quicker: on CUDA for maps as networks have inside; elsewhere for a few pixels."""
    small = x.shape[-2] * x.shape[-1] <= FEW_PIXELS
    return _is_bfloat16(x) and (small or (x.is_cuda and x.shape[1] > 1))


def _is_bfloat16(x: Tensor) -> bool:
    """Whether it is such a map, and nobody compiles, who could not follow."""
    return x.dtype == torch.bfloat16 and not torch.compiler.is_compiling()


@functools.lru_cache(maxsize=64)
def _filter(
    old: int, new: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(new, old): what of each old pixel goes into each new one."""
    pixels = torch.eye(old)[None]
    new_of_old = F.interpolate(pixels, size=new, mode="linear", align_corners=align_corners)[0]
    return new_of_old.T.contiguous().to(device, dtype)


@functools.lru_cache(maxsize=64)
def _regions(
    height: int, width: int, grids: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(regions, height * width) of 0 and 1, which are exact in any type, and 1 / pixels of each."""
    member = torch.cat(
        [torch.kron(spans(height, g).float(), spans(width, g).float()) for g in grids]
    )
    return member.to(device, dtype), (1 / member.sum(1, keepdim=True)).to(device)


def spans(length: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """(count, length) bool: which pixels of a side belong to which of `count` regions.

    Region i spans floor(i * length / count) up to, not including, ceil((i + 1) * length / count).
    """
    region = torch.arange(count, device=device)[:, None]
    pixel = torch.arange(length, device=device)
    begins, ends = region * length // count, ((region + 1) * length + count - 1) // count
    return (pixel >= begins) & (pixel < ends)
