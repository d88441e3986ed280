"""Memory on the CPU: kept by the process instead of going back and forth to the kernel."""

import ctypes
import sys

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets glibc reuse freed blocks of any size; False where the C library is another.

    By default each block of over 32 MB, as every large feature map is, comes fresh from the kernel,
    which clears it page by page, and goes back when freed. That costs inference more time than
    its convolutions. The process keeps its peak memory instead.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
