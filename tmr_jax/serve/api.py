"""What the API answers, over HTTP (serve/app.py) and MCP (serve/mcp.py) alike."""

from __future__ import annotations

from pathlib import Path

from tmr_jax.data.features.properties import CLASSES, GROUPS, Properties
from tmr_jax.index.schema import SWITCHES, WHOLE
from tmr_jax.search.export import named_record, record
from tmr_jax.search.retriever import Answer, Query, Retriever
from tmr_jax.serve import schemas
from tmr_jax.serve.engine import SearchEngine
from tmr_jax.types import UserError


async def search(
    engine: SearchEngine, request: schemas.SearchRequest, seconds: float
) -> schemas.SearchResponse:
    """The best matches of each query, best first; UserError or Refusal where it has none."""
    if request.k * len(request.queries) > schemas.MAX_HITS:
        raise UserError(
            f"expected at most {schemas.MAX_HITS:,} hits in one answer, got "
            f"{len(request.queries)} queries of {request.k}; ask for fewer"
        )
    schemas.check_spread(request.k, request.spread)
    retriever = engine.retriever
    where = retriever.where(request.where) if request.where else None
    options = (request.k, where, request.substructure, request.spread, request.pure)
    questions = [Query(query, request.of, *options) for query in request.queries]
    answers = await engine.search(questions, seconds)
    return schemas.SearchResponse(
        checkpoint=checkpoint_out(retriever),
        library=library_out(retriever),
        partial=any(answer.partial for answer in answers),
        answers=[answer_out(answer) for answer in answers],
    )


async def explain(
    engine: SearchEngine, request: schemas.ExplainRequest, seconds: float
) -> schemas.ExplainResponse:
    """The words and atoms that a score comes from; UserError or Refusal where it has none."""
    explanation = await engine.explain(request.text, request.smiles, seconds)
    heat = explanation.heat.round(4).tolist()
    fields = explanation._asdict() | {"heat": heat}
    return schemas.ExplainResponse.model_validate(fields, from_attributes=True)


def health(engine: SearchEngine) -> schemas.HealthResponse:
    """What the library holds, and whether all of it answers."""
    return schemas.HealthResponse(
        status="degraded" if engine.partial else "ok",
        reason=_reason(engine),
        library=library_out(engine.retriever),
        checkpoint=checkpoint_out(engine.retriever),
    )


def describe(engine: SearchEngine) -> schemas.DescribeResponse:
    """`health`, with the filters that a search of this library takes."""
    of_texts = engine.library.of_texts
    return schemas.DescribeResponse(
        **dict(health(engine)),
        properties=[] if of_texts else list(Properties._fields),
        groups=[] if of_texts else list(GROUPS),
        classes=[] if of_texts else list(CLASSES),
        switches=["distinct"] if of_texts else list(SWITCHES),
    )


def _reason(engine: SearchEngine) -> str:
    """Why a part of the library does not answer; empty where all of it does."""
    if not engine.partial:
        return ""
    part = "the library" if WHOLE in engine.damage else "a part of the library"
    return f"{part} cannot be read: {', '.join(sorted(engine.damage)[:5]) or 'a shard'}"


def checkpoint_out(retriever: Retriever) -> schemas.CheckpointOut:
    return schemas.CheckpointOut(**retriever.checkpoint._asdict())


def library_out(retriever: Retriever) -> schemas.LibraryOut:
    report = retriever.library
    assert report is not None
    return schemas.LibraryOut.model_validate(
        report._asdict() | {"source": Path(report.source).name}
    )


def answer_out(answer: Answer) -> schemas.AnswerOut:
    return schemas.AnswerOut(
        query=answer.query.content,
        cut=answer.is_cut,
        unsure=answer.is_unsure,
        looked=answer.looked,
        named=schemas.NamedOut(**named_record(answer.named)) if answer.named else None,
        raised=list(answer.facets),
        hits=[schemas.HitOut(**record(hit)) for hit in answer.hits],
    )
