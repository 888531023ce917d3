"""Settings of a process before its first array: memory that stays, compiled programs on disk."""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from pathlib import Path

# Numbers of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
# LLVM's default for processors with AVX-512 is half of their width, because older ones lowered
# their clocks. A BERT layer, forward and backward, takes 1.13 times as long that way.
WIDE = "--xla_cpu_prefer_vector_width=512"


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next step; False, and no change, without glibc.

    XLA allocates each step's temporary buffers, some gigabytes, and frees them after it. By default
    glibc returns blocks of that size to the system, and the next step pays for fresh pages:
    gradients of a MiniLM-sized encoder take 1.37 times as long (experiments/LOG.md). The price
    of one heap that never shrinks is that the process stays as large as its largest step.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
    return all(mallopt(number, value) == 1 for number, value in settings)


def use_compile_cache(folder: Path) -> bool:
    """Lets JAX keep compiled programs in `folder`/compiled; False where that is not safe.

    Who can write to that folder can run code as this user, so it is created with mode 0700; a link
    or a folder of another user is not used. Where nothing can be written, each start compiles again
    and nothing else is lost. A folder that you set (JAX_COMPILATION_CACHE_DIR) stays. On CPU
    programs are compiled for the full vector width unless XLA_FLAGS set another.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if WIDE.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {WIDE}".strip()

    import jax

    if jax.config.jax_compilation_cache_dir:
        return True
    place = folder.absolute() / "compiled"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(place)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return False
        if stat.S_IMODE(status.st_mode) != 0o700:
            place.chmod(0o700)
    except OSError:
        return False
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return True
