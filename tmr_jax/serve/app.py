"""The routes: an API that says what it takes (/docs, /openapi.json), and a page over the same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from tmr_jax import __version__
from tmr_jax.index.schema import WHOLE
from tmr_jax.search.export import Answer as Found
from tmr_jax.search.export import record, to_csv, to_sdf
from tmr_jax.search.filters import parse_filter
from tmr_jax.search.retriever import Retriever
from tmr_jax.serve.engine import Answer, Answering, Drawing, Question
from tmr_jax.serve.errors import Refusal, Unreadable, body_of, refusal_of
from tmr_jax.serve.form import form_of
from tmr_jax.serve.metrics import Metrics
from tmr_jax.serve.middleware import (
    COOKIE,
    SVG_POLICY,
    Guard,
    Rules,
    has_token,
    is_near,
    is_private,
    same,
    session_of,
)
from tmr_jax.serve.page import Page
from tmr_jax.serve.schemas import (
    MAX_HITS,
    MAX_TEXT,
    AnswerOut,
    CheckpointOut,
    ErrorResponse,
    ExplainRequest,
    ExplainResponse,
    HealthResponse,
    HitOut,
    LibraryOut,
    ReloadResponse,
    SearchRequest,
    SearchResponse,
    WordOut,
    check_spread,
)

log = logging.getLogger("tmr_jax.serve")
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse}
    for status in (400, 401, 413, 415, 422, 429, 500, 503)
}  # fmt: skip
# The drawing program's own page: it writes its scripts and styles into itself.
SKETCH_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
SMILES = Annotated[str, Query(min_length=1, max_length=MAX_TEXT)]
SIDE = Annotated[int, Query(ge=40, le=1200)]


def create_app(
    answering: Answering,
    rules: Rules,
    seconds: float = 30.0,
    watch_every: float = 2.0,
    on_start: Callable[[asyncio.AbstractEventLoop], None] = lambda loop: None,
) -> FastAPI:
    """The service on answers of `answering`; a request ends after `seconds`.

    `on_start` is called in the running event loop, for signals.
    """
    page, metrics = Page(answering, seconds), Metrics(answering)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(answering.watch(watch_every))
        on_start(asyncio.get_running_loop())
        yield
        watching.cancel()
        answering.close()

    app = FastAPI(
        title="tmr_jax",
        version=__version__,
        description="Molecules that a description fits, or descriptions that fit a molecule.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=ERRORS,
    )
    _errors(app, page)
    _api(app, answering, seconds)
    _pages(app, answering, page, seconds)
    _machinery(app, answering, metrics, rules)
    static = Path(str(resources.files("tmr_jax.serve") / "static"))
    app.mount("/static", _Static(directory=static), name="static")
    app.add_middleware(Guard, rules=rules, seen=metrics.seen, error_page=page.error)
    return app


def _api(app: FastAPI, answering: Answering, seconds: float) -> None:
    @app.post("/api/search", tags=["api"], response_model_exclude_none=True)
    async def search(request: SearchRequest) -> SearchResponse:
        """The best matches of each query, best first."""
        if request.k * len(request.queries) > MAX_HITS:
            raise Refusal(
                422,
                "invalid_request",
                f"expected at most {MAX_HITS:,} hits in one answer, got {len(request.queries)} "
                f"queries of {request.k}; ask for fewer",
            )
        check_spread(request.k, request.spread)
        where = parse_filter(request.where) if request.where else None
        more = (request.k, where, request.substructure, request.spread)
        questions = [Question(query, request.of, *more) for query in request.queries]
        retriever = answering.retriever
        answers = await answering.search(questions, seconds)
        return SearchResponse(
            checkpoint=checkpoint_out(retriever),
            library=library_out(retriever),
            partial=any(answer.partial for answer in answers),
            answers=[answer_out(answer) for answer in answers],
        )

    @app.post("/api/explain", tags=["api"])
    async def explain(request: ExplainRequest) -> ExplainResponse:
        """Which words and which atoms a score comes from."""
        found = await answering.explain(request.text, request.smiles, seconds)
        words = [WordOut(**word._asdict()) for word in found.words]
        return ExplainResponse(
            score=found.score,
            text=found.text,
            smiles=found.smiles,
            words=words,
            atoms=list(found.atoms),
            drops=list(found.drops),
            heat=found.heat.round(4).tolist(),
        )

    @app.get(
        "/api/molecule.svg",
        tags=["api"],
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {}}}},
    )
    async def molecule(smiles: SMILES, width: SIDE = 300, height: SIDE = 220) -> Response:
        """A structure as a picture; what is no molecule comes as a box that says why."""
        (svg,) = await answering.draw([Drawing(smiles, width, height)], seconds)
        policy = {"content-security-policy": SVG_POLICY}
        return Response(svg, media_type="image/svg+xml", headers=policy)

    @app.post("/api/reload", tags=["api"])
    async def reload(request: Request) -> ReloadResponse:
        """Opens the library anew. With the token, or from this machine where there is none."""
        rules: Rules = app.state.rules
        if not rules.token and not is_near(request.scope, request.headers):
            raise Refusal(403, "forbidden", "expected a request of this machine, got another")
        try:
            await answering.reload()
        except Exception as error:
            log.warning("the old library stays: %r", error)
            raise Unreadable from None
        return ReloadResponse(library=library_out(answering.retriever), partial=answering.partial)


def _pages(app: FastAPI, answering: Answering, page: Page, seconds: float) -> None:
    @app.get("/", include_in_schema=False)
    async def search_page(request: Request) -> Response:
        form = form_of(request.query_params.multi_items(), answering.of)
        return await page.search(form, request.headers)

    @app.get("/explain", include_in_schema=False)
    async def explanation(request: Request) -> Response:
        q = request.query_params
        return await page.explanation(q.get("q", ""), q.get("smiles", ""), request.headers)

    @app.get("/draw", include_in_schema=False)
    async def draw(request: Request) -> Response:
        return await page.drawing(request.query_params.get("molecule", ""))

    @app.get("/sketch", include_in_schema=False)
    async def sketch() -> Response:
        return HTMLResponse(
            page.render("sketch.html"), headers={"content-security-policy": SKETCH_POLICY}
        )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page.render("docs.html", paths=_schema(app)["paths"]))

    for kind, media, write in (
        ("csv", "text/csv; charset=utf-8", to_csv),
        ("sdf", "chemical/x-mdl-sdfile", to_sdf),
    ):
        _download(app, answering, seconds, kind, media, write)

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        rules: Rules = app.state.rules
        typed = parse_qs((await request.body()).decode("utf-8", "replace")).get("token", [""])[0]
        if not same(typed.strip(), rules.token):
            raise Refusal(401, "unauthorized", "expected the token of this service, got another")
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE, session_of(rules.token), httponly=True, samesite="strict",
            secure=is_private(request.scope, request.headers, rules.proxies),
        )  # fmt: skip
        return response


def _download(
    app: FastAPI,
    answering: Answering,
    seconds: float,
    kind: str,
    media: str,
    write: Callable[[list[Any]], str],
) -> None:
    @app.get(f"/download.{kind}", include_in_schema=False)
    async def download(request: Request) -> Response:
        question = form_of(request.query_params.multi_items(), answering.of).question()
        if not question.asked:
            raise Refusal(422, "invalid_request", "expected a query, got none; ask something first")
        answers = await answering.search([question], seconds)
        text = await asyncio.to_thread(write, [Found(a.question.asked, a.hits) for a in answers])
        name = {"content-disposition": f'attachment; filename="{answering.of}.{kind}"'}
        return Response(text, media_type=media, headers=name)


def _machinery(app: FastAPI, answering: Answering, metrics: Metrics, rules: Rules) -> None:
    app.state.rules = rules

    @app.get("/health", tags=["machinery"], responses={503: {"model": HealthResponse}})
    async def health(request: Request) -> JSONResponse:
        """200 where all of the library answers, else 503 with the reason.

        Who has not sent the token, where there is one, is told the status alone.
        """
        degraded = answering.partial
        status, code = ("degraded", 503) if degraded else ("ok", 200)
        if not has_token(request.headers, rules.token):
            return JSONResponse({"status": status}, code)
        reason = ""
        if degraded:
            shown = sorted(answering.damage)[:5]
            part = "the library" if WHOLE in answering.damage else "a part of the library"
            reason = f"{part} cannot be read: {', '.join(shown) or 'a shard'}"
        found = HealthResponse(
            status=status,
            reason=reason,
            library=library_out(answering.retriever),
            checkpoint=checkpoint_out(answering.retriever),
        )
        return JSONResponse(found.model_dump(), code)

    @app.get("/metrics", tags=["machinery"], response_class=Response)
    async def metrics_text() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(_schema(app))


def _schema(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        app.openapi_schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
    return app.openapi_schema


def _errors(app: FastAPI, page: Page) -> None:
    """Every error in one shape; what this module does not know goes on to the guard."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return answered(request, Refusal(422, "invalid_request", f"{at}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "bad_request")
        said = {
            404: "expected an address of this service, got another; see /docs",
            405: "expected another method at this address; see /docs",
        }.get(error.status_code, str(error.detail))
        return answered(request, Refusal(error.status_code, code, said, dict(error.headers or {})))

    @app.exception_handler(ValueError)
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Exception) -> Response:
        refusal = refusal_of(error)
        if refusal is None:
            raise error
        return answered(request, refusal)

    def answered(request: Request, refusal: Refusal) -> Response:
        if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(
            "/api/"
        ):
            text = page.error(refusal, "hx-request" in request.headers)
            return HTMLResponse(text, refusal.status, refusal.headers)
        return JSONResponse(body_of(refusal), refusal.status, refusal.headers)


class _Static(StaticFiles):
    """Files of the package; they change with its version, so they may be kept for an hour."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "max-age=3600"
        return response


def checkpoint_out(retriever: Retriever) -> CheckpointOut:
    return CheckpointOut(**retriever.checkpoint._asdict())


def library_out(retriever: Retriever) -> LibraryOut:
    account = retriever.library
    assert account is not None
    return LibraryOut.model_validate(account._asdict() | {"source": Path(account.source).name})


def answer_out(answer: Answer) -> AnswerOut:
    return AnswerOut(
        query=answer.question.asked,
        cut=answer.is_cut,
        unlike=answer.is_unlike,
        looked=answer.looked,
        hits=[HitOut(**record(hit)) for hit in answer.hits],
    )
