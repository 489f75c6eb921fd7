"""The routes of the service."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

import mmlop
from mmlop.errors import MmlopError
from mmlop.serving import page
from mmlop.serving.answers import About, Adapters, Health, Predicted, Problem
from mmlop.serving.limits import Refused
from mmlop.serving.metrics import Watch
from mmlop.serving.service import FAILED, Service

logger = logging.getLogger(__name__)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Swagger UI styles its elements one by one, and is started by a script in the page.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GONE = 499  # nobody reads it, but it is counted
PICTURE = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "description": "A picture file, or several as parts of a form.",
        "content": {
            "image/*": {"schema": PICTURE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["picture"],
                    "properties": {"picture": {"type": "array", "items": PICTURE}},
                }
            },
        },
    }
}
WHY = {
    400: "The picture is broken, a class name is not usable, or the form cannot be read.",
    404: "There is no such adapter; near names are listed.",
    408: "The request did not arrive in time.",
    413: "The picture, or the number of pictures, is too large.",
    415: "The body is no picture.",
    422: "A parameter is missing or not of its type.",
    500: "The computation failed; the log says why.",
    503: "Too much is waiting, or the service is starting or stopping; try again after the seconds in Retry-After.",
    504: "The prediction took too long, and was dropped.",
}
router = APIRouter()


def create_app(service: Service) -> FastAPI:
    """The application; its end is the end of the service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.stop()

    app = FastAPI(
        title="mmlop",
        summary="Pictures in, labels out, by any of many adapters of one frozen CLIP.",
        version=mmlop.__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.service, app.state.page = service, page.read()
    app.include_router(router)
    app.mount("/docs-files", StaticFiles(packages=[("fastapi_offline", "static")]))
    app.add_middleware(Watch, metrics=service.metrics, headers=HEADERS)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(MmlopError, _unable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _failed)
    return app


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem, "description": WHY[code]} for code in codes}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.post(
    "/predict",
    response_model=Predicted,
    responses=_problems(400, 404, 408, 413, 415, 422, 500, 503, 504),
    openapi_extra=BODY,
    summary="Classify pictures",
)
async def predict(
    request: Request,
    adapter: Annotated[str, Query(description="One of `/adapters`.")],
    top: Annotated[int, Query(ge=1, description="Labels of each picture.")] = 5,
    classes: Annotated[list[str] | None, Query(description="Candidates; without any, the adapter's own.")] = None,
) -> Response:
    """The body is one picture file, of whatever content type, or a form whose parts are all named `picture`.

    Scores are probabilities over the candidates, so they depend on which these are.
    """
    predicted = await _service(request).predict(request, adapter, top, classes)
    return JSONResponse(
        {
            "adapter": predicted.found.name,
            "version": predicted.found.version,
            "identity": predicted.found.identity,
            "predictions": [
                {"labels": [{"label": label, "score": score} for label, score in labels]} for labels in predicted.labels
            ],
        }
    )


@router.get("/adapters", response_model=Adapters, responses=_problems(503), summary="Adapters that can be asked")
async def adapters(request: Request) -> Response:
    """Those that were given or are registered. A registered one is also known without `@champion`, or by its version."""
    return JSONResponse({"adapters": await _service(request).names()})


@router.get("/adapters/{name:path}", response_model=About, responses=_problems(404, 422, 503), summary="One adapter")
async def about(request: Request, name: str) -> Response:
    """What it is, how good it was found to be, and where it comes from."""
    return JSONResponse(await _service(request).about(name))


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Health, responses=_problems(503), summary="Whether it is ready")
async def healthz(request: Request) -> Response:
    """200 once a backbone is loaded and as long as batches are computed."""
    service = _service(request)
    service.require_open()
    if not service.ready:
        raise Refused(503, "No backbone is loaded yet, or the thread that computes has ended; the log says which.")
    names = await service.names()
    return JSONResponse({"status": "ok", "adapters": len(names), "queue": service.room.pictures})


@router.get("/metrics", response_class=Response, summary="Numbers for Prometheus")
async def metrics(request: Request) -> Response:
    return Response(generate_latest(_service(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
async def root(request: Request) -> Response:
    shown: page.Page = request.app.state.page
    return HTMLResponse(shown.html, headers={"Content-Security-Policy": shown.policy})


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Swagger UI from files of this machine; addresses are relative, so that it works behind a proxy's prefix."""
    files = "docs-files"
    found = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="mmlop: the service's interface",
        swagger_js_url=f"{files}/swagger-ui-bundle.js",
        swagger_css_url=f"{files}/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    found.headers["Content-Security-Policy"] = DOCS_POLICY
    return found


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"detail": str(error)}, error.status, error.headers)


async def _unable(request: Request, error: Exception) -> Response:
    """What is wrong here is for whoever runs the service: a registry that is down, an adapter that cannot be read."""
    logger.error("%s %r: %s", request.method, request.url.path, error)
    return await _refused(request, Refused(503, "That is not possible at the moment; the log of the service says why."))


async def _invalid(request: Request, error: Exception) -> Response:
    """FastAPI lists everything that is wrong with the parameters; here the first is said."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"The parameter '{first['loc'][-1]}' is not usable: {first['msg']}."}, 422)


async def _http(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    assert isinstance(error, HTTPException)
    sentence = f"{request.method} {request.url.path} is nothing that is answered here: see /docs."
    return JSONResponse({"detail": sentence}, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": FAILED}, 500)
