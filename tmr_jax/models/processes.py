"""Several processes that train together: joining them, and what they agree on.

JAX is imported by the functions that need it: a wrong argument is answered before that.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tmr_jax.types import UserError

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
CLUSTER = "TMR_JAX_CLUSTER"


def several_processes() -> bool:
    """Whether the environment makes this program one of several processes."""
    return any(os.environ.get(name) for name in (ADDRESS, CLUSTER))


def join_processes() -> bool:
    """Joins the other processes, if there are any; returns whether this one leads.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID name the others.
    TMR_JAX_CLUSTER=1 leaves it to JAX, which knows Slurm, Open MPI, Kubernetes and TPU pods.
    Raises UserError where only some of the three are set, or one is not a number.
    """
    address, count, number = (os.environ.get(name) or None for name in (ADDRESS, COUNT, NUMBER))
    if address is None and os.environ.get(CLUSTER) != "1":
        return True
    import jax

    if address is None:
        jax.distributed.initialize()
    elif not (count and number and count.isdecimal() and number.isdecimal()):
        raise UserError(
            f"expected {COUNT} and {NUMBER} with {ADDRESS}; got {count} and {number}; set all "
            "three, with another number for each process"
        )
    else:
        jax.distributed.initialize(address, int(count), int(number))
    return jax.process_index() == 0


def leads() -> bool:
    """Whether this process prints and saves: the only one, or the first of several."""
    if not several_processes():
        return True
    import jax

    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when all processes have arrived."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast_from_leader(tree: Any) -> Any:
    """The leading process's arrays, on all processes."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def any_process(value: bool) -> bool:
    """Whether `value` is true in one of the processes; all call it together."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).any())
