"""Which devices a process uses, and arrays that several devices hold."""

from __future__ import annotations

from typing import Any

import jax


def training_devices() -> list[Any]:
    """All devices; on the CPU of a single process one, because simulated ones share its cores."""
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        return jax.devices()[:1]
    return jax.devices()


def local_devices() -> list[Any]:
    """The devices of this process, for work that is not shared; on CPU one."""
    return jax.local_devices()[: 1 if jax.default_backend() == "cpu" else None]


def local(tree: Any) -> Any:
    """Arrays that every device has whole, as arrays on this process's first device."""

    def first(x: Any) -> Any:
        several = isinstance(x, jax.Array) and len(x.sharding.device_set) > 1
        return x.addressable_data(0) if several else x

    return jax.tree.map(first, tree)
