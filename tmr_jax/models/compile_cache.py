"""How programs are compiled, and where they are kept.

Whoever can write to the folder can run code as the reader, so it is this user's alone.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

# LLVM's own choice for processors with AVX-512 is half of their width, for clocks that older ones
# lowered. A BERT layer, forward and backward, takes 1.13 times as long that way (LOG.md).
WIDE = "--xla_cpu_prefer_vector_width=512"


def use_compile_cache(folder: Path) -> bool:
    """Lets JAX keep what it compiles in `folder`/compiled; False where that is not safe.

    On CPU it compiles for vectors of the whole width, unless XLA_FLAGS say otherwise: call it
    before the first array is made. The folder is made with mode 0700. One that belongs to somebody
    else, or is a link, is not used; where nothing can be written, each start compiles again and
    nothing else is lost. A folder that the user has set (JAX_COMPILATION_CACHE_DIR) stays.
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
        found = os.lstat(place)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        if stat.S_IMODE(found.st_mode) != 0o700:
            place.chmod(0o700)
    except OSError:
        return False
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return True
