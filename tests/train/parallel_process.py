"""One of the processes of test_parallel.py:

python parallel_process.py ADDRESS PROCESSES NUMBER FOLDER MODEL ...
"""

import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

address, processes, number, folder, *models = sys.argv[1:]
jax.config.update("jax_disable_most_optimizations", True)
jax.distributed.initialize(address, int(processes), int(number))

from test_parallel import one_step  # noqa: E402 - after the processes have met

for model in models:
    for how in ("jit", "pmap"):
        metrics, after, before = one_step(model, jax.devices(), how)
        arrays = jax.tree.leaves((metrics, after, before))
        if number == "0":
            np.savez(Path(folder) / f"{model}-{how}.npz", *arrays)
jax.distributed.shutdown()
