"""The labelling app for tests: served from a thread, driven by a real Chromium, or called in-process."""

import asyncio
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from badhands.label.app import create_app
from badhands.label.desk import Desk
from badhands.label.guard import Access
from badhands.study.study import Study

CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(study: Study, port: int | None = None, access: Access | None = None) -> Iterator[str]:
    """The address of the app, served until the block ends; at all addresses of the machine, if `access` is given."""
    port = port or free_port()
    app = create_app(Desk(study), access or Access())
    host = "0.0.0.0" if access else "127.0.0.1"
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*CHROMIUM_ARGS, *arguments])
        try:
            yield browser
        finally:
            browser.close()


def open_page(
    browser: Browser, address: str, annotator: str = "anna", fragment: str = "", query: str = "", **options: Any
) -> Page:
    """A page in a context of its own, ready to label. An error in its scripts fails the test that closes it."""
    page = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options}).new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.script_errors = errors  # type: ignore[attr-defined]
    page.goto(f"{address}/?annotator={annotator}{query}{fragment}")
    page.wait_for_function("() => window.badhands && (badhands.view.drawn || badhands.item === null)")
    return page


def settled(page: Page) -> None:
    """Wait until the server has acknowledged everything."""
    page.wait_for_function("() => badhands.outbox.waiting === 0")
    assert page.script_errors == []  # type: ignore[attr-defined]


class InProcess:
    """Calls the ASGI application without sockets: fast enough for thousands of requests."""

    def __init__(self, study: Study, access: Access | None = None):
        self.desk = Desk(study)
        self.app = create_app(self.desk, access or Access())
        self.loop = asyncio.new_event_loop()

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: list[tuple[bytes, bytes]] | None = None,
        query: bytes = b"",
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body). Headers given replace the defaults of the same name."""
        given = headers or []
        names = {name.lower() for name, _ in given}
        defaults = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "surrogatepass"),
            "root_path": "",
            "query_string": query,
            "headers": [pair for pair in defaults if pair[0] not in names] + given,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        sent: list[dict[str, Any]] = []
        pieces = [body[i : i + 65536] for i in range(0, len(body), 65536)] or [b""]

        async def receive() -> dict[str, Any]:
            if not pieces:
                return {"type": "http.disconnect"}
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        self.loop.run_until_complete(self.app(scope, receive, send))  # type: ignore[arg-type]
        start = next(message for message in sent if message["type"] == "http.response.start")
        content = b"".join(message.get("body", b"") for message in sent)
        return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, content

    def json(self, method: str, path: str, value: Any = None, **more: Any) -> tuple[int, Any]:
        body = b"" if value is None else json.dumps(value).encode()
        status, _, content = self.request(method, path, body, **more)
        return status, json.loads(content)

    def change(self, image_id: str = "img0000", annotator: str = "anna", **fields: Any) -> dict[str, Any]:
        """A valid change of an image, all tokens unlabelled."""
        height, width = self.desk.entry(image_id).grid
        return {
            "study": self.desk.study_id, "annotator": annotator, "image_id": image_id, "repeat": 0, "base": 0,
            "own": [], "change": "0" * 8, "classes": [[0, height * width]], "kinds": None, "verdict": None, "note": "",
            "accepted_proposal": False, "seconds": 1.5, **fields,
        }  # fmt: skip
