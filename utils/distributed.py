"""Multi-process training and prediction; the only module that uses torch.distributed.

Every function also works in a single process without set-up.
"""

import mmap
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.cli import end_script

# timeout: one rank may check a large data set, or have the largest scene, while the others wait
PATIENCE = timedelta(hours=12)


def rank() -> int:
    """Rank of this process, 0..world()-1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is rank 0, which writes files and prints messages."""
    return rank() == 0


def is_first_of_machine() -> bool:
    """Whether this is local rank 0, which does the work needed once per machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def shared_memory(nbytes: int) -> mmap.mmap:
    """Zeroed memory, shared by all ranks of a machine and the workers they fork.

    Every rank must request the same size. Ranks in separate containers get separate copies, as do
    all ranks on systems other than Linux (no memfd).

    Args:
        nbytes: at least 1.
    """
    if world() == 1 or not hasattr(os, "memfd_create"):
        return mmap.mmap(-1, nbytes)
    handle = os.memfd_create("twodates")
    os.ftruncate(handle, nbytes)
    own, offers = (socket.gethostname(), os.getpid(), handle), [None] * world()
    dist.all_gather_object(offers, own)
    first = next(offer for offer in offers if offer[0] == own[0])
    with suppress(OSError):  # another container
        if first != own:
            opened = os.open(f"/proc/{first[1]}/fd/{first[2]}", os.O_RDWR)
            os.close(handle)
            handle = opened
    memory = mmap.mmap(handle, nbytes)
    barrier()  # until all have opened it
    os.close(handle)
    return memory


def relaunch_per_gpu(device: str) -> None:
    """If several GPUs are visible, replaces this process by torchrun with one process per GPU.

    Does nothing under torchrun, with less than two GPUs, or if `device` names a device.
    """
    if "RANK" in os.environ or device not in ("auto", "cuda") or torch.cuda.device_count() < 2:
        return
    count = torch.cuda.device_count()
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    os.execv(sys.executable, [sys.executable, *run, *sys.argv])


@contextmanager
def session(device: str) -> Iterator[torch.device]:
    """Initialises the process group (under torchrun) and yields the device of this process.

    With several processes on CPUs, the process ends at the end of the block, unless it raises.

    Args:
        device: auto, cpu, cuda or cuda:N (--device).

    Raises:
        ValueError: a CUDA device that is not there.
    """
    chosen = pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # default device, for example of streams
        torch.backends.cudnn.benchmark = True  # tiles have one size
        torch.backends.cudnn.allow_tf32 = False  # --amp fp32 must be true float32
    if "RANK" in os.environ and not dist.is_initialized():
        if chosen.type == "cuda":
            dist.init_process_group("nccl", device_id=chosen, timeout=PATIENCE)
        else:
            dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield chosen
        barrier()  # no process ends while another still communicates with it
        if dist.is_initialized() and chosen.type == "cpu":
            end_script()  # gloo's threads sometimes abort a process during destruction
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def pick_device(device: str) -> torch.device:
    """--device -> an existing device; `auto` and `cuda` select the GPU of the local rank."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"--device={device}: no CUDA device is visible; use --device cpu or auto")
    name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device in ("auto", "cuda") else device
    chosen = torch.device(name)
    if chosen.index is not None and chosen.index >= torch.cuda.device_count():
        raise ValueError(f"--device={name}: only {torch.cuda.device_count()} GPUs are visible")
    return chosen


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of every rank's `value` (no gradient); the tensor itself in a single process."""
    if world() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def barrier() -> None:
    """Waits for every rank."""
    if dist.is_initialized():
        dist.barrier()


class _SumOverRanks(torch.autograd.Function):
    """The sum of every rank's tensor, differentiable on every rank."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient)


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks, for gloo (torch's SyncBatchNorm needs CUDA).

    A module is converted by setting its `__class__`; timm's batch norm keeps its activation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        x32 = x.float()
        if self.training:
            sums = torch.cat([x32.sum((0, 2, 3)), x32.square().sum((0, 2, 3))])
            count = sum_over_ranks(sums.new_tensor(x32.numel() / x32.shape[1]))
            mean, square = (_SumOverRanks.apply(sums) / count).chunk(2)
            var = (square - mean.square()).clamp(min=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
                self.num_batches_tracked += 1
        else:
            mean, var = self.running_mean, self.running_var
        scale = self.weight * (var + self.eps).rsqrt()
        y = (x32 * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]).to(x.dtype)
        return self.act(self.drop(y)) if hasattr(self, "act") else y


def gather(value: object) -> list:
    """The picklable `value` of every rank, in order of rank; an empty list except on rank 0."""
    if world() == 1:
        return [value]
    values = [None] * world() if is_main() else None
    dist.gather_object(value, values)
    return values or []


def wrap(network: nn.Module, sync_bn: bool = True) -> nn.Module:
    """The network in DistributedDataParallel; unchanged in a single process.

    Args:
        network: already on its device.
        sync_bn: batch statistics over all ranks, as a single process would compute them.
    """
    if world() == 1:
        return network
    cuda = next(network.parameters()).is_cuda
    if sync_bn and cuda:
        import timm.layers

        network = timm.layers.convert_sync_batchnorm(network)
    elif sync_bn:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = CpuSyncBatchNorm
    with warnings.catch_warnings():  # torch 2.14 renames broadcast_buffers; 2.6 lacks the new name
        warnings.simplefilter("ignore", FutureWarning)
        return nn.parallel.DistributedDataParallel(
            network,
            device_ids=[torch.cuda.current_device()] if cuda else None,
            broadcast_buffers=not sync_bn,
            gradient_as_bucket_view=True,  # no second copy of the gradients
            # no static_graph: it does not support no_sync in the first step, and is not faster
        )


def gradients_synced(network: nn.Module, synced: bool) -> AbstractContextManager:
    """Context manager: backward passes inside average gradients over ranks only if `synced`."""
    parallel = isinstance(network, nn.parallel.DistributedDataParallel)
    return network.no_sync() if parallel and not synced else nullcontext()
