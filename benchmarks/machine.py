"""The machine's peak rates of matrix multiplication and of memory copies."""

import os
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from utils.precision import pick_amp

SECONDS = 1.0  # duration of each measurement
MATRIX = {"cpu": 2048, "cuda": 8192}  # side
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}


class Work(NamedTuple):
    """The minimum work of a job: arithmetic and memory traffic."""

    flops: float = 0.0
    nbytes: float = 0.0  # read and written

    def times(self, count: float) -> "Work":
        """The work multiplied by `count`."""
        return Work(self.flops * count, self.nbytes * count)


class Rates(NamedTuple):
    """Measured peak rates of a device."""

    flops_per_s: float  # of a large matrix product
    bytes_per_s: float  # read and written by a large copy

    def seconds(self, work: Work) -> float:
        """Lower bound of the time: the larger of arithmetic time and memory time."""
        return max(work.flops / self.flops_per_s, work.nbytes / self.bytes_per_s)


def measure_rates(device: torch.device, amp: torch.dtype | None) -> Rates:
    """The best of repeated runs."""
    dtype, side = amp or torch.float32, MATRIX[device.type]
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in "ab")
    source = torch.randint(256, (COPY_BYTES[device.type],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Rates(
        2 * side**3 / best_s(lambda: a @ b, device),
        2 * len(source) / best_s(lambda: target.copy_(source), device),
    )


def best_s(job: Callable[[], object], device: torch.device) -> float:
    """The shortest run of a job, in seconds, after one that does not count."""
    job()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        wait(device)
        start = time.perf_counter()
        job()
        wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def wait(device: torch.device) -> None:
    """Waits until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forward_work(network: nn.Module, images: Tensor, itemsize: int) -> Work:
    """Minimum work of a prediction: its convolutions, each reading and writing its maps once.

    Args:
        network: on the device of the images.
        images: (B, T, C, H, W), normalised.
        itemsize: bytes of a number.
    """
    numbers = 0

    def count(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal numbers
        numbers += inputs[0].numel() + output.numel() + conv.weight.numel()

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_hook(count) for conv in convolutions]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    for hook in hooks:
        hook.remove()
    return Work(counter.get_total_flops(), itemsize * numbers)


def machine(device: torch.device = torch.device("cpu")) -> dict[str, str | int]:  # noqa: B008
    """Description of the machine and the software versions."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "torch": torch.__version__,
        "arithmetic": str(pick_amp("auto", device) or torch.float32),
    }
