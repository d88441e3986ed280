"""Resizing and pooling of maps, by matrix products where these are faster than torch.

A separable linear filter is a product with a small matrix on each side. Pooling of torch reads the
map once per grid and keeps it for the gradient. Its resizing of channels-last maps is slow on CUDA
and for very small maps. Matrix products are used for bfloat16 only: float32 results must be
comparable with torch, and sums of many pixels overflow float16. Networks call these functions by
name, so they are here and not in utils/speed, which changes networks from outside.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_PIXELS = 64  # such as the regions of pyramid pooling


def resize(x: Tensor, size: tuple[int, int] | torch.Size, align_corners: bool = False) -> Tensor:
    """Resizes (N, C, h, w) bilinearly to `size` = (height, width), if it differs."""
    if x.shape[-2:] == tuple(size):
        return x
    if _products_are_faster(x):
        return resize_by_products(x, size, align_corners)
    y = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    if y.requires_grad and not torch.compiler.is_compiling():
        y.register_hook(_dense)
    return y


class Upsample(nn.Upsample):
    """nn.Upsample (bilinear) with matrix products where they are faster."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, H, W)."""
        if not _products_are_faster(x):
            return super().forward(x)
        size = [int(side * self.scale_factor) for side in x.shape[-2:]]
        return resize_by_products(x, size, self.align_corners)


def region_means(x: Tensor, grids: Sequence[int]) -> list[Tensor]:
    """Means over grids of g x g regions, as in F.adaptive_avg_pool2d.

    Args:
        x: (N, C, h, w).
        grids: number of regions per side, g.

    Returns:
        (N, C, g, g) for each g in `grids`.
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
    """`region_means` as one matrix product: sums in the dtype of the map, means in float32."""
    regions, share = _regions(*x.shape[-2:], tuple(grids), x.device, x.dtype)
    sums = regions @ x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, regions of all grids, C)
    means = (sums * share).transpose(1, 2).split([grid * grid for grid in grids], dim=2)
    return [mean.unflatten(2, (grid, grid)) for mean, grid in zip(means, grids, strict=True)]


def _dense(gradient: Tensor) -> Tensor:
    """Makes a gradient contiguous: the kernel of torch is 20 times slower for a slice."""
    last = gradient.stride(1) == 1 and gradient.shape[1] > 1
    return gradient.contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


def _products_are_faster(x: Tensor) -> bool:
    """Whether matrix products are faster: small maps, and CUDA maps with several channels."""
    small = x.shape[-2] * x.shape[-1] <= FEW_PIXELS
    return _is_bfloat16(x) and (small or (x.is_cuda and x.shape[1] > 1))


def _is_bfloat16(x: Tensor) -> bool:
    """Whether a map is bfloat16; False under torch.compile, which cannot trace the products."""
    return x.dtype == torch.bfloat16 and not torch.compiler.is_compiling()


@functools.lru_cache(maxsize=64)
def _filter(
    old: int, new: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(new, old) weights of the old pixels in every new pixel."""
    pixels = torch.eye(old)[None]
    new_of_old = F.interpolate(pixels, size=new, mode="linear", align_corners=align_corners)[0]
    return new_of_old.T.contiguous().to(device, dtype)


@functools.lru_cache(maxsize=64)
def _regions(
    height: int, width: int, grids: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Region masks (regions, height * width) of 0 and 1, and 1 / number of pixels (regions, 1)."""
    member = torch.cat(
        [torch.kron(spans(height, g).float(), spans(width, g).float()) for g in grids]
    )
    return member.to(device, dtype), (1 / member.sum(1, keepdim=True)).to(device)


def spans(length: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """(count, length) bool: whether a pixel of a side belongs to each of `count` regions.

    Region i is [floor(i * length / count), ceil((i + 1) * length / count)).
    """
    region = torch.arange(count, device=device)[:, None]
    pixel = torch.arange(length, device=device)
    begins, ends = region * length // count, ((region + 1) * length + count - 1) // count
    return (pixel >= begins) & (pixel < ends)
