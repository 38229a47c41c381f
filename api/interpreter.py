"""How the processes of the API and the proxy run Python: garbage, threads, freed memory.

Decides: figures that were measured for what these processes do. Nothing depends on them but speed.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 64 << 20
_LARGEST_ON_HEAP = 32 << 20  # what glibc allows


def tune_interpreter() -> None:
    """Set the interpreter to batches of thousands of small objects, read by threads.

    By default a batch of usage events sets off hundreds of searches for garbage, which take half
    of its time and find none: what an event makes is in no cycle. And a thread whose answer from
    the database has come would wait 5 ms for each turn beside one that reads the next batch.
    """
    sys.setswitchinterval(1 / 2000)  # float: the interpreter counts in seconds
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def keep_freed_memory() -> None:
    """Have glibc keep what bodies of requests have freed, up to 64 MiB, instead of giving it back.

    A prompt of 200 KB is above the size from which glibc maps memory for each block anew: the
    kernel then clears 50 pages for every copy. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TOP_PAD, _KEPT_BYTES // 16)


def give_back_freed_memory() -> None:
    """Have glibc give back what is free, also between blocks that are in use; who allocates more
    than 512 bytes meanwhile waits, in another thread, too: 8 ms for 80 MiB, 15 ms for 120.

    Of itself it only gives back what is free at the end of its heap.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return
    trim(0)
