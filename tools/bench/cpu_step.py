"""Keeping freed memory (models/runtime.py) against giving it back: python -m tools.bench.cpu_step

Gradients of a MiniLM-sized text encoder, 64 texts of 64 tokens. Each form runs in a process of its
own, A B A B; the medians and their ratio are printed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time


def seconds(run, args, repeats: int) -> float:
    import jax

    jax.block_until_ready(run(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def memory(kept: bool) -> float:
    from tmr_jax.models.runtime import keep_freed_memory

    if kept and not keep_freed_memory():
        raise SystemExit("this C library has no mallopt: nothing to compare")
    import jax
    import jax.numpy as jnp

    from tmr_jax.models.layers.bert import Bert, BertConfig

    bert, forms = BertConfig(30522, 384, 6, 12, 1536, dropout=0.0), ("low_memory", "low_memory")
    model = Bert(bert, jnp.bfloat16, *forms, unroll=0)  # as models on a CPU have it
    tokens, mask = jnp.ones((64, 64), int), jnp.ones((64, 64), bool)
    params = jax.jit(model.init)(jax.random.key(0), tokens, mask)
    run = jax.jit(jax.grad(lambda p: model.apply(p, tokens, mask).astype(jnp.float32).sum()))
    return seconds(run, (params,), 5)


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(memory(sys.argv[1] == "kept")))
        return
    found: dict[str, list[float]] = {"kept": [], "given back": []}
    for _ in range(2):
        for form in found:
            command = [sys.executable, "-m", "tools.bench.cpu_step", form]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[form].append(json.loads(out))
    kept, back = (statistics.median(times) for times in found.values())
    print(f"kept {kept * 1e3:.0f} ms, given back {back * 1e3:.0f} ms, ratio {back / kept:.2f}")


if __name__ == "__main__":
    main()
