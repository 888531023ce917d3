"""Memory Bank in the small run of `make table NAME=smoke`.

Paper: none; scores only show that every part works.
Run: make train EXP=smoke_mbank
Hardware: one CPU core, seconds.
Result: none; eight steps from random parameters.
Differs: as smoke; four slots, all of its losses.
"""

from dataclasses import replace

from tmr_jax.config import BankConfig, SecondOrderConfig, load_experiment

BASE = load_experiment("smoke")
CONFIG = replace(
    BASE,
    model=replace(
        BASE.model,
        name="mbank",
        bank=BankConfig(slots=4),
        second_order=SecondOrderConfig(u2u=1.0, u2c=1.0),
    ),
)
