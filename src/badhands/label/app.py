"""The web application: a page, pictures, labels. Everything it serves is named here; nothing is looked up by path."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from badhands.label.changes import MAX_BODY, WrongSizeError, read_json
from badhands.label.desk import Conflict, Desk, UnknownImageError
from badhands.label.guard import Access, Guard, read_body

_PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def create_app(desk: Desk, access: Access) -> ASGIApp:
    """The ASGI application for one study."""
    page, api = _Page(), _Labels(desk)
    routes = [
        Route("/", page.file),
        Route("/page/{name}", page.file),
        Route("/api/alive", api.alive),
        Route("/api/study", api.overview),
        Route("/api/images/{id}", api.picture),
        Route("/api/thumbnails/{id}", api.thumbnail),
        Route("/api/proposals/{id}", api.proposals),
        Route("/api/labels/{id}", api.read, methods=["GET"]),
        Route("/api/labels/{id}", api.save, methods=["POST"]),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, access=access, max_body=MAX_BODY)])
    app.router.redirect_slashes = False  # there is one address for each thing; a redirect would repeat the query
    return app


class _Page:
    """The files of the page, read once."""

    def __init__(self) -> None:
        self.files = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _TYPES}

    async def file(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in self.files:
            return _error(404, "there is no such page")
        return Response(self.files[name], media_type=_TYPES[Path(name).suffix], headers={"Cache-Control": "no-cache"})


class _Labels:
    """What the page asks of the study."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def alive(self, request: Request) -> Response:
        return _json({"study": self.desk.study_id})

    async def overview(self, request: Request) -> Response:
        annotator = request.query_params.get("annotator", "")
        return await _answer(lambda: _json_bytes(self.desk.overview(annotator)))

    async def picture(self, request: Request) -> Response:
        return await _answer(lambda: _file(self.desk.picture(request.path_params["id"]), "image/png"))

    async def thumbnail(self, request: Request) -> Response:
        return await _answer(lambda: _file(self.desk.thumbnail(request.path_params["id"]), "image/jpeg"))

    async def proposals(self, request: Request) -> Response:
        annotator = request.query_params.get("annotator", "")
        return await _answer(lambda: self.desk.proposals(request.path_params["id"], annotator))

    async def read(self, request: Request) -> Response:
        image, query = request.path_params["id"], request.query_params
        repeat = 1 if query.get("repeat") == "1" else 0
        return await _answer(lambda: {"label": self.desk.label(image, query.get("annotator", ""), repeat)})

    async def save(self, request: Request) -> Response:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return _error(415, "send application/json")
        body = await read_body(request.receive, MAX_BODY)
        if body is None:
            return _error(413, f"the body is longer than {MAX_BODY} bytes")
        return await _answer(lambda: self._saved(request.path_params["id"], body))

    def _saved(self, image: str, body: bytes) -> Any:
        answer = self.desk.save(image, read_json(body))
        if not isinstance(answer, Conflict):
            return answer
        if answer.label is None:
            error = "Another study is being served at this address now."
            return _json({"error": error, "study": self.desk.study_id}, 409)
        return _json({"error": "the label was changed elsewhere", "label": answer.label}, 409)


async def _answer(work: Callable[[], Any]) -> Response:
    """Run blocking work in a thread and turn what it raises into a status."""
    try:
        result = await run_in_threadpool(work)
    except UnknownImageError as error:
        return _error(404, str(error.args[0]))
    except WrongSizeError as error:
        return _error(422, str(error))
    except ValueError as error:
        return _error(400, str(error))
    except OSError as error:  # a full or read-only disk: the page keeps the change and tries again
        return _error(507, f"the study could not be read or written: {error.strerror}")
    return result if isinstance(result, Response) else _json(result)


def _json(value: Any, status: int = 200) -> Response:
    return _json_bytes(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode(), status)


def _json_bytes(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _error(status: int, text: str) -> Response:
    return _json({"error": text}, status)


def _file(data: bytes, media_type: str) -> Response:
    # Pictures never change (the manifest holds their hash), but another study may come to this address.
    return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=600"})
