"""Two choices for training on a CPU against their alternatives: python tools/bench_cpu_step.py

memory: gradients of a MiniLM-sized text encoder, 64 texts of 64 tokens, with freed memory kept by
the process and given back. columns: forward and backward of one bond table, read by a product and
by a gather. Each form runs in a process of its own, A B A B; the median second is printed.
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
    from tmr_jax.memory import keep_freed_memory

    if kept and not keep_freed_memory():
        raise SystemExit("this C library has no mallopt: nothing to compare")
    import jax
    import jax.numpy as jnp

    from tmr_jax.nn.bert import Bert, BertConfig

    model = Bert(BertConfig(30522, 384, 6, 12, 1536, dropout=0.0), jnp.bfloat16, "cpu_fast")
    tokens, mask = jnp.ones((64, 64), int), jnp.ones((64, 64), bool)
    params = jax.jit(model.init)(jax.random.key(0), tokens, mask)
    run = jax.jit(jax.grad(lambda p: model.apply(p, tokens, mask).astype(jnp.float32).sum()))
    return seconds(run, (params,), 5)


def columns(product: bool) -> float:
    import jax
    import jax.numpy as jnp

    from tmr_jax.features.atoms import EDGE_SIZES
    from tmr_jax.nn import gcn

    gcn.MULTI_HOT_BELOW = gcn.MULTI_HOT_BELOW if product else 0
    model = gcn.ColumnEmbedding(EDGE_SIZES, 300)
    keys = jax.random.split(jax.random.key(1), len(EDGE_SIZES))
    drawn = [jax.random.randint(k, (5500,), 0, n) for k, n in zip(keys, EDGE_SIZES, strict=True)]
    bonds = jnp.stack(drawn, axis=1)
    params = model.init(jax.random.key(0), bonds)
    return seconds(jax.jit(jax.grad(lambda p: (model.apply(p, bonds) ** 2).sum())), (params,), 20)


def main() -> None:
    if len(sys.argv) == 3:
        form = {"memory": memory, "columns": columns}[sys.argv[1]]
        print(json.dumps(form(sys.argv[2] == "1")))
        return
    for name in ("columns", "memory"):
        found: dict[str, list[float]] = {"1": [], "0": []}
        for _ in range(2):
            for form in found:
                command = [sys.executable, __file__, name, form]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[form].append(json.loads(out))
        ours, other = (statistics.median(found[form]) for form in ("1", "0"))
        print(f"{name}: {ours * 1e3:.1f} ms against {other * 1e3:.1f} ms, ratio {other / ours:.2f}")


if __name__ == "__main__":
    main()
