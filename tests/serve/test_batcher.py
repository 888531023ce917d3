"""Lanes: order, what is done together, room, deadlines, and a thread that dies."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tmr_jax.serve.engine import Batcher
from tmr_jax.serve.schemas import Busy, Late


def asked(batcher: Batcher, items: list, seconds: float = 5) -> list:
    return asyncio.run(batcher.submit(items, seconds))


def test_results_come_in_the_order_of_the_items() -> None:
    batcher = Batcher("test", lambda items: (item * 10 for item in items), 10)
    assert asked(batcher, [3, 1, 2]) == [30, 10, 20]


def test_items_that_wait_are_worked_off_together() -> None:
    sizes = []

    def work(items):
        sizes.append(len(items))
        return items

    batcher = Batcher("test", work, 100, batch_size=8, window=0.05)
    assert asked(batcher, list(range(20))) == list(range(20))
    assert sizes == [8, 8, 4]


def test_an_item_that_is_refused_is_refused_alone() -> None:
    batcher = Batcher(
        "test", lambda items: [ValueError("no") if i == 1 else i for i in items], 10, 4
    )

    async def both():
        first, second = batcher.submit([1], 5), batcher.submit([2], 5)
        return await asyncio.gather(first, second, return_exceptions=True)

    refused, kept = asyncio.run(both())
    assert isinstance(refused, ValueError) and kept == [2]


def test_a_full_lane_refuses_at_once_and_says_when_to_come_back() -> None:
    gate = threading.Event()

    def work(items):
        gate.wait(5)
        return items

    async def crowd():
        batcher = Batcher("test", work, 3)
        waiting = [asyncio.create_task(batcher.submit([i], 5)) for i in range(3)]
        await asyncio.sleep(0.05)  # one is at work, two wait
        begun = time.perf_counter()
        with pytest.raises(Busy) as refused:
            await batcher.submit([7, 8], 5)
        assert time.perf_counter() - begun < 0.05
        gate.set()
        await asyncio.gather(*waiting)
        return refused.value

    busy = asyncio.run(crowd())
    assert busy.status == 429 and int(busy.headers["Retry-After"]) >= 1


def test_what_waited_too_long_is_dropped_before_it_is_begun() -> None:
    done = []

    def work(items):
        time.sleep(0.15)
        done.extend(items)
        return items

    async def late():
        batcher = Batcher("test", work, 10)
        first = asyncio.create_task(batcher.submit(["first"], 5))
        await asyncio.sleep(0.02)
        with pytest.raises(Late):
            await batcher.submit(["second"], 0.05)
        await first
        await batcher.submit(["third"], 5)

    asyncio.run(late())
    assert done == ["first", "third"]


def test_a_thread_that_dies_is_begun_again() -> None:
    def work(items):
        if items == ["die"]:
            raise SystemExit
        return items

    batcher = Batcher("test", work, 10)
    with pytest.raises(RuntimeError):
        asked(batcher, ["die"])
    time.sleep(0.05)
    assert asked(batcher, ["live"]) == ["live"] and batcher.restarts == 1


def test_a_closed_lane_ends_its_thread_and_takes_nothing_more() -> None:
    batcher = Batcher("test", lambda items: items, 10)
    asked(batcher, [1])
    batcher.close()
    assert batcher._thread is not None
    batcher._thread.join(2)
    assert not batcher._thread.is_alive()
    with pytest.raises(Busy):
        asked(batcher, [2])
