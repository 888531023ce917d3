"""The routes: an API that documents itself (/docs, /openapi.json), and a page over the same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn
from urllib.parse import parse_qs

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from tmr_jax.search.export import to_csv, to_sdf
from tmr_jax.serve import api, middleware, schemas
from tmr_jax.serve.engine import Drawing, SearchEngine
from tmr_jax.serve.metrics import Metrics
from tmr_jax.serve.page import Page, form_of
from tmr_jax.types import UserError

log = logging.getLogger("tmr_jax.serve")
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse}
    for status in (400, 401, 413, 415, 422, 429, 500, 503)
}  # fmt: skip
SMILES = Annotated[str, Query(min_length=1, max_length=schemas.MAX_TEXT)]
PIXELS = Annotated[int, Query(ge=40, le=1200)]


class Service(NamedTuple):
    """What the routes share."""

    app: FastAPI
    engine: SearchEngine
    page: Page
    metrics: Metrics
    rules: middleware.Rules
    seconds: float  # limit of a request


def create_app(
    engine: SearchEngine,
    rules: middleware.Rules,
    seconds: float = 30.0,
    watch_every: float = 2.0,
    on_start: Callable[[asyncio.AbstractEventLoop], None] = lambda loop: None,
) -> FastAPI:
    """The application; `on_start` is called in the running event loop, for signals."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(engine.watch(watch_every))
        on_start(asyncio.get_running_loop())
        yield
        watching.cancel()
        engine.close()

    app = FastAPI(
        title="tmr_jax",
        version=version("tmr-jax"),
        description="Molecules that fit a description, or descriptions that fit a molecule.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=ERRORS,
    )
    service = Service(app, engine, Page(engine, seconds), Metrics(engine), rules, seconds)
    for add in (_errors, _search, _explain, _reload, _pages, _downloads, _login, _status):
        add(service)
    static = Path(str(resources.files("tmr_jax.serve") / "static"))
    app.mount("/static", _Static(directory=static), name="static")
    app.add_middleware(
        middleware.AccessMiddleware,
        rules=rules,
        on_response=service.metrics.on_response,
        error_page=service.page.error,
    )
    return app


def _search(service: Service) -> None:
    engine = service.engine

    @service.app.post("/api/search", tags=["api"], response_model_exclude_none=True)
    async def search(request: schemas.SearchRequest) -> schemas.SearchResponse:
        """The best matches of each query, best first."""
        return await api.search(engine, request, service.seconds)


def _explain(service: Service) -> None:
    engine = service.engine

    @service.app.post("/api/explain", tags=["api"])
    async def explain(request: schemas.ExplainRequest) -> schemas.ExplainResponse:
        """The words and atoms that a score comes from."""
        return await api.explain(engine, request, service.seconds)

    @service.app.get(
        "/api/molecule.svg",
        tags=["api"],
        response_class=Response,
        responses={200: {"content": {"image/svg+xml": {}}}},
    )
    async def molecule(smiles: SMILES, width: PIXELS = 300, height: PIXELS = 220) -> Response:
        """A structure as a picture; for an invalid SMILES, a box with the reason."""
        (svg,) = await engine.draw([Drawing(smiles, width, height)], service.seconds)
        policy = {"content-security-policy": middleware.SVG_POLICY}
        return Response(svg, media_type="image/svg+xml", headers=policy)


def _reload(service: Service) -> None:
    engine = service.engine

    @service.app.post("/api/reload", tags=["api"])
    async def reload(request: Request) -> schemas.ReloadResponse:
        """Reopens the library. Needs the token or, without one, a request from this machine."""
        if not service.rules.token and not middleware.is_local(request.scope, request.headers):
            raise schemas.Refusal(
                403, "forbidden", "expected a request from this machine, got another"
            )
        try:
            await engine.reload()
        except Exception as error:
            log.warning("the library stays as it was: %r", error)
            raise schemas.Unreadable from None
        return schemas.ReloadResponse(
            library=api.library_out(engine.retriever), partial=engine.partial
        )


def _pages(service: Service) -> None:
    app, page = service.app, service.page
    endpoints = {"": page.search, "explain": page.explanation, "draw": page.drawing}
    for name, endpoint in (endpoints | {"sketch": page.sketch}).items():
        app.add_api_route(f"/{name}", endpoint, include_in_schema=False)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page.render("docs.html", paths=app.openapi()["paths"]))


def _downloads(service: Service) -> None:
    def add(kind: str, media: str, write: Callable[[list[Any]], str]) -> None:
        @service.app.get(f"/download.{kind}", include_in_schema=False)
        async def download(request: Request) -> Response:
            library = service.engine.library
            form = form_of(request.query_params.multi_items(), library.of)
            question = form.question(columns=library.columns)
            if not question.content:
                raise UserError("expected a query, got none; enter one first")
            (answer,) = await service.engine.search([question], service.seconds)
            answer = answer._replace(hits=answer.hits[form.place().start :])  # of this page
            text = await asyncio.to_thread(write, [answer])
            name = {"content-disposition": f'attachment; filename="{library.of}.{kind}"'}
            return Response(text, media_type=media, headers=name)

    add("csv", "text/csv; charset=utf-8", to_csv)
    add("sdf", "chemical/x-mdl-sdfile", to_sdf)


def _login(service: Service) -> None:
    rules = service.rules

    @service.app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        if not middleware.same(form.get("token", [""])[0].strip(), rules.token):
            raise schemas.Refusal(
                401, "unauthorized", "expected the token of this service, got another"
            )
        response = RedirectResponse("/", 303)
        response.set_cookie(
            middleware.COOKIE,
            middleware.session_of(rules.token),
            httponly=True,
            samesite="strict",
            secure=middleware.is_tls(request.scope, request.headers, rules.proxies),
        )
        return response


def _status(service: Service) -> None:
    app, engine = service.app, service.engine

    @app.get("/health", tags=["machinery"], responses={503: {"model": schemas.HealthResponse}})
    async def health(request: Request) -> JSONResponse:
        """200 where the whole library answers, else 503 with the reason.

        A client without the token, where there is one, gets only the status.
        """
        status, code = ("degraded", 503) if engine.partial else ("ok", 200)
        if not middleware.has_token(request.headers, service.rules.token):
            return JSONResponse({"status": status}, code)
        return JSONResponse(api.health(engine).model_dump(), code)

    @app.get("/metrics", tags=["machinery"], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        text = service.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())


def _errors(service: Service) -> None:
    """Errors of the framework become Refusals; AccessMiddleware responds to all of them."""

    @service.app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> NoReturn:
        raise schemas.invalid(error)

    @service.app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> NoReturn:
        code, message = {
            404: ("not_found", "expected an address of this service, got another; see /docs"),
            405: ("method_not_allowed", "expected another method at this address; see /docs"),
        }.get(error.status_code, ("bad_request", str(error.detail)))
        raise schemas.Refusal(error.status_code, code, message, dict(error.headers or {}))


class _Static(StaticFiles):
    """Files of the package; they change with its version, so a client may keep them for an hour."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "max-age=3600"
        return response
