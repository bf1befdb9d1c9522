"""The TVM thread pool: its size must be known before its first use, and TVM's own defaults are wrong here.

TVM takes half the virtual cores and binds its workers; measured on two virtual cores that halves the speed
(111 against 220 GFLOP/s). So the lab sets both itself, in the environment, before the runtime library starts its pool.
"""

from __future__ import annotations

import os

from lab.core.errors import ConfigError
from lab.core.host import num_cores
from lab.core.progress import warn

_started_with: int | None = None


def configure(num_threads: int | None) -> int:
    """Set the pool's size for this process, before TVM is imported, and return the size in force.

    Without a number: TVM_NUM_THREADS where the user set it, else every core this process may use. The first call
    decides: a pool cannot be resized, so another number later is warned of, and the first stays.

    Raises:
        ConfigError: the number is below one, or TVM_NUM_THREADS is not a number.
    """
    global _started_with
    wanted = num_threads if num_threads is not None else _from_environment()
    if wanted < 1:
        raise ConfigError("the number of threads must be positive", got=wanted)
    if _started_with is None:
        os.environ["TVM_NUM_THREADS"] = str(wanted)
        os.environ["TVM_BIND_THREADS"] = "0"
        _started_with = wanted
    elif _started_with != wanted and num_threads is not None:
        warn(
            f"TVM's thread pool of this process has {_started_with} threads and cannot be resized: "
            f"the {wanted} threads asked for are ignored (start another process for another number)"
        )
    return _started_with


def check_pool(num_threads: int) -> int:
    """The number of threads TVM's pool really has (never more than cores); a warning when it is not `num_threads`."""
    import tvm_ffi

    actual = int(tvm_ffi.get_global_func("runtime.NumThreads")())
    if actual != num_threads:
        warn(
            f"TVM's thread pool has {actual} threads instead of {num_threads}: it was started before the lab could set "
            "it, or this machine has fewer cores"
        )
    return actual


def _from_environment() -> int:
    given = os.environ.get("TVM_NUM_THREADS")
    if given is None:
        return num_cores()
    try:
        return int(given)
    except ValueError as error:
        raise ConfigError("TVM_NUM_THREADS is not a number", got=given) from error
