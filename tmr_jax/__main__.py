"""python -m tmr_jax VERB ARGS: the console script `tmr`."""

import sys

from tmr_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
