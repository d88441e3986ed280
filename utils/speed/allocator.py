"""CPU memory allocation: freed memory is kept by the process instead of returned to the kernel."""

import ctypes
import sys

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes glibc reuse freed blocks of any size; returns False with another C library.

    By default, each block over 32 MB (every large feature map) is requested from the kernel, which
    clears it page by page, and returned when freed. In inference this takes more time than the
    convolutions. With this setting, the process keeps its peak memory instead.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
