"""Fetches a public data set and verifies it: python tools/fetch_data.py chebi20"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tmr_jax.data.download import main

if __name__ == "__main__":
    sys.exit(main())
