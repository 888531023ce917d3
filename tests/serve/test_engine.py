"""Answers while libraries change: the swap is whole, and the old library is freed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace

import pytest

from tests.serve.fake import Fake, engine
from tmr_jax.search.retriever import Query
from tmr_jax.serve.engine import OFFERED, TRIED, Drawing, SearchEngine, drawn
from tmr_jax.serve.schemas import Busy
from tmr_jax.types import UserError

OLD, NEW = (("CCO", "old"),), (("CCO", "new"), ("CCN", "new"))


def test_a_reload_swaps_whole_and_frees_the_old() -> None:
    async def scene() -> tuple[list, list, weakref.ref]:
        opened = [Fake(OLD, delay=0.1), Fake(NEW)]
        engine = SearchEngine(lambda: opened.pop(0))  # type: ignore[arg-type,return-value]
        old = weakref.ref(engine.retriever)
        running = asyncio.create_task(engine.search([Query("a")], 5))
        await asyncio.sleep(0.03)  # it is being answered
        await engine.reload()
        after = await engine.search([Query("a")], 5)
        return await running, after, old

    before, after, old = asyncio.run(scene())
    assert [hit.name for hit in before[0].hits] == ["old"]
    assert [hit.name for hit in after[0].hits] == ["new", "new"]
    gc.collect()
    assert old() is None


def test_a_library_that_cannot_be_opened_leaves_the_old_one() -> None:
    async def scene() -> SearchEngine:
        damage: dict[str, str] = {}
        opened = [Fake(OLD, damage=lambda: dict(damage))]

        def fetch() -> Fake:
            if not opened:
                raise UserError("expected a library, got none; make one")
            return opened.pop()

        engine = SearchEngine(fetch)
        with pytest.raises(ValueError, match="make one"):
            await engine.reload()
        assert not engine.partial
        damage["000000"] = "is not there"
        watching = asyncio.create_task(engine.watch(0.01))
        await asyncio.sleep(0.2)
        watching.cancel()
        assert engine.partial
        assert (await engine.search([Query("a")], 5))[0].hits[0].name == "old"
        return engine

    assert asyncio.run(scene()).reloads == 0


def test_the_watch_outlives_whatever_it_meets(caplog) -> None:
    """An unforeseen error counts as damage, is logged once, and ends when its cause does."""

    async def scene() -> None:
        wrong: list[Exception] = [PermissionError("shards"), RuntimeError("expected to be alone")]

        def damage() -> dict[str, str]:
            if wrong:
                raise wrong[0]
            return {}

        engine = SearchEngine(lambda: Fake(damage=damage))
        watching = asyncio.create_task(engine.watch(0.005))
        while wrong:
            name = type(wrong[0]).__name__
            await until(lambda name=name: name in engine.damage.get("library", ""))
            await asyncio.sleep(0.05)  # and so again and again
            del wrong[0]
        await until(lambda: not engine.partial)
        watching.cancel()

    asyncio.run(scene())
    assert caplog.text.count("PermissionError") == 1


def test_a_store_that_answers_nothing_is_opened_again_until_it_does() -> None:
    """LanceDB and Milvus: the one that is open may never answer again, another one will."""

    async def scene() -> None:
        opened: list[Fake] = []

        def fetch() -> Fake:
            opened.append(Fake(damage=lambda: {"library": "gone"} if 1 < len(opened) < 4 else {}))
            return opened[-1]

        engine = SearchEngine(fetch)
        assert not engine.partial
        opened.append(Fake())
        watching = asyncio.create_task(engine.watch(0.005))
        await until(lambda: engine.partial)
        await until(lambda: not engine.partial)
        watching.cancel()
        assert engine.retriever is opened[-1]

    asyncio.run(scene())


async def until(met) -> None:
    async with asyncio.timeout(10):
        while not met():
            await asyncio.sleep(0.002)


def test_a_pattern_keeps_no_other_query_waiting() -> None:
    """Substructures have a thread of their own."""

    async def scene() -> float:
        fake = Fake()
        engine = SearchEngine(lambda: fake)
        await engine.search([Query("warm")], 5)
        fake.pattern_delay = 0.5
        pattern = asyncio.create_task(engine.search([Query("a", substructure="C")], 5))
        begun = asyncio.get_running_loop().time()
        await engine.search([Query("b")], 5)
        took = asyncio.get_running_loop().time() - begun
        assert not pattern.done()
        assert {"c1" in hit.content for hit in (await pattern)[0].hits} == {True}
        return took

    assert asyncio.run(scene()) < 0.3


def test_a_batch_that_does_not_fit_is_refused_whole() -> None:
    async def scene() -> None:
        fake = Fake()
        engine = SearchEngine(lambda: fake, room=4)
        with pytest.raises(Busy):
            await engine.search([Query(str(i)) for i in range(5)], 5)
        assert fake.encoded == []

    asyncio.run(scene())


def test_drawings_carry_no_style_and_keep_their_colours() -> None:
    svg = drawn(Drawing("Nc1ccccc1", 200, 150))
    assert (
        "style=" not in svg
        and 'stroke="#0000FF"' in svg
        and svg == drawn(Drawing("Nc1ccccc1", 200, 150))
    )
    weighted = drawn(Drawing("CCO", 200, 150, (1.0, 0.0, 0.5)))
    assert weighted != drawn(Drawing("CCO", 200, 150))


def test_texts_that_are_answered_right_are_offered() -> None:
    class Knowing(Fake):
        """Raises what a text states, as a library on disk does."""

        def answers(self, queries, encoded=None):
            for answer in super().answers(queries, encoded):
                stated = {"a dipeptide": ("nitro",), "a fatty acid": ("nitrile",)}
                facets = stated.get(answer.query.content, ())
                hits = [h for h in self._found(encoded[0].row[0], 9, None) if h.content == "CC#N"]
                yield answer._replace(facets=facets, hits=hits)

    fake = Knowing()
    fake.warm = lambda: None
    train = SimpleNamespace(text_buckets=[8])
    fake._assembly = SimpleNamespace(config=SimpleNamespace(train=train))
    offering = engine(fake)
    assert offering.examples == TRIED[:OFFERED]
    offering.warm()
    assert offering.examples == (
        "a fatty acid",
    )  # acetonitrile is a nitrile, and no nitro compound
