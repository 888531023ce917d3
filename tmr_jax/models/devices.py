"""Which devices a process works on, and arrays of one that several hold."""

from __future__ import annotations

from typing import Any

import jax


def training_devices() -> list[Any]:
    """All there are; of a single process's CPU one, since simulated ones share its cores."""
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        return jax.devices()[:1]
    return jax.devices()


def devices_at_hand() -> list[Any]:
    """Those of this process, for work that processes do not share; of a CPU one."""
    return jax.local_devices()[: 1 if jax.default_backend() == "cpu" else None]


def local(tree: Any) -> Any:
    """Arrays that every device has whole, as arrays of this process's first device."""

    def own(x: Any) -> Any:
        several = isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
        return x.addressable_data(0) if several else x

    return jax.tree.map(own, tree)
