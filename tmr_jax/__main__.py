"""python -m tmr_jax VERB is tmr VERB."""

from __future__ import annotations

import sys

from tmr_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
