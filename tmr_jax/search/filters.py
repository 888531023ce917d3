"""Parses filters such as mw<500, charge=0, nitrile, !nitro, unsalted, distinct."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tmr_jax.data.features.properties import GROUPS, mask_of
from tmr_jax.index.schema import FLOATS, INTEGERS, Condition, Filter
from tmr_jax.types import UserError, did_you_mean

_CONDITION = re.compile(r"(\w+)\s*(<=|>=|<|>|=)\s*([-+]?\d+(?:\.\d+)?)")
SWITCHES = ("unsalted", "distinct", "parents")


def parse_filter(words: Sequence[str]) -> Filter:
    """One filter of all words; ValueError for an invalid word, with the nearest name.

    A condition compares a property with a number, a name requires a functional group, a name after
    `!` excludes one. `unsalted`: single parts only; `distinct`: each molecule once; `parents`: each
    once whatever its salt and charge.
    """
    words = [word.strip() for word in words]
    conditions = tuple(_condition(word) for word in words if any(sign in word for sign in "<>="))
    names = [word for word in words if not any(sign in word for sign in "<>=")]
    for name in names:
        if name not in SWITCHES and name.removeprefix("!") not in GROUPS:
            raise UserError(
                f"expected a filter such as mw<500, nitrile or !nitro, got {name!r}; "
                f"{did_you_mean(name.lower(), [*GROUPS, *SWITCHES])}"
            )
    return Filter(
        conditions,
        mask_of(name for name in names if not name.startswith("!")),
        mask_of(name[1:] for name in names if name.startswith("!")),
        unsalted="unsalted" in names,
        distinct="distinct" in names,
        parents="parents" in names,
    )


def _condition(word: str) -> Condition:
    match = _CONDITION.fullmatch(word)
    if not match:
        raise UserError(f"expected a filter such as mw<500 or charge=0, got {word!r}; correct it")
    column, sign, number = match.groups()
    if column.lower() not in FLOATS + INTEGERS:
        raise UserError(
            f"expected a property to compare, got {column!r}; "
            f"{did_you_mean(column.lower(), [*FLOATS, *INTEGERS])}"
        )
    return Condition(column.lower(), sign, float(number))  # type: ignore[arg-type]
