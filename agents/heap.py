"""Memory that an update frees and the next one asks for again."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What glibc's ``mallopt`` calls them (malloc.h)."""


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB of what it has freed; whether it will.

    By default glibc gives the end of its heap back to the system as soon as an update has freed its
    activities, and the next update gets it page by page: a tenth of the time of sixteen members.
    Another C library is left as it is.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, 32 << 20) and mallopt(M_TRIM_THRESHOLD, 256 << 20))
