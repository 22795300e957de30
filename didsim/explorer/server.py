"""The page and its answers, over HTTP."""

import os
from pathlib import Path

import jax
import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from didsim.explorer.answers import answer, settings
from didsim.explorer.dropped import LARGEST, curve_of
from didsim.explorer.presets import PRESETS
from didsim.explorer.state import read_state

STATIC = Path(__file__).parent / "static"


def application() -> Starlette:
    """The application, for any ASGI server. Numbers are computed in float64."""
    jax.config.update("jax_enable_x64", True)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # Compiled programs are kept for the next start, as other programs keep their caches.
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "didsim"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    made = msgspec.json.encode({**settings(), "answers": None})
    routes = [
        Route("/settings.json", lambda request: _json(made)),
        Route("/ask/{question}", _ask, methods=["POST"]),
        Route("/log", _log, methods=["POST"]),
        Mount("/", StaticFiles(directory=STATIC, html=True)),
    ]
    return Starlette(routes=routes)


def warm_up() -> None:
    """Ask once what a reader is likely to ask first, so that its programs are compiled by then."""
    first = next(iter(PRESETS.values()))().state
    few, many = (msgspec.structs.replace(first, pairs=pairs) for pairs in (60, 1000))
    for state, questions in (
        (first, ("limit", "training", "map")),
        (few, ("limit", "training")),
        # Pairs that identify a limit take another solver than pairs that do not.
        (many, ("limit",)),
        (first, ("sequences",)),
    ):
        for question in questions:
            answer(question, state)


async def _ask(request: Request) -> Response:
    body = await request.body()
    return await run_in_threadpool(_answered, request.path_params["question"], body)


def _answered(question: str, body: bytes) -> Response:
    try:
        return _json(answer(question, read_state(body)))
    except ValueError as error:
        return _refused(str(error))


async def _log(request: Request) -> Response:
    if int(request.headers.get("content-length", 0)) > LARGEST:
        return _refused(f"a log may have {LARGEST:,} bytes")
    body = await request.body()
    return await run_in_threadpool(_read, body, request.query_params.get("name", ""))


def _read(body: bytes, name: str) -> Response:
    try:
        return _json(msgspec.json.encode(curve_of(body, name)))
    except ValueError as error:
        return _refused(str(error))


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _refused(reason: str) -> Response:
    return _json(msgspec.json.encode({"error": reason}), 400)
