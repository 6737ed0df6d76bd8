"""A local server that answers as the Hugging Face Hub does to `huggingface_hub`: enough to push and pull a repo."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

LARGE = (".safetensors", ".parquet", ".png")
"""Files that go through LFS, as the Hub decides by suffix."""


@dataclass
class StandIn:
    """The repos that were pushed, and every request."""

    token: str
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """`models/user/name` -> path -> content."""
    visibility: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def app(self) -> Starlette:
        kinds = "{kind:str}/{owner:str}/{name:str}"
        return Starlette(
            routes=[
                Route("/api/repos/create", self.create, methods=["POST"]),
                Route("/api/validate-yaml", self.validate, methods=["POST"]),
                Route(f"/api/{kinds}/preupload/{{rev}}", self.preupload, methods=["POST"]),
                Route(f"/api/{kinds}/commit/{{rev}}", self.commit, methods=["POST"]),
                Route(f"/api/{kinds}/revision/{{rev}}", self.info),
                Route(f"/api/{kinds}/tree/{{rev}}", self.tree),
                Route(f"/api/{kinds}", self.info),
                Route("/{owner}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
                Route("/{kind}/{owner}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
                Route("/lfs/{oid}", self.put, methods=["PUT"]),
                Route("/{owner}/{name}/resolve/{rev}/{path:path}", self.resolve, methods=["GET", "HEAD"]),
                Route("/{kind}/{owner}/{name}/resolve/{rev}/{path:path}", self.resolve, methods=["GET", "HEAD"]),
            ]
        )

    def _key(self, request: Request) -> str:
        p = request.path_params
        self.requests.append(f"{request.method} {request.url.path}")
        return f"{p.get('kind', 'models')}/{p['owner']}/{p['name']}"

    def _denied(self, request: Request) -> Response | None:
        if request.headers.get("authorization") == f"Bearer {self.token}":
            return None
        return JSONResponse({"error": "Invalid credentials"}, 401, {"x-error-message": "Invalid credentials"})

    async def create(self, request: Request) -> Response:
        if denied := self._denied(request):
            return denied
        asked = await request.json()
        key = f"{asked.get('type', 'model')}s/{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.url}/{key.removeprefix('models/')}"
        if key in self.repos:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        self.repos[key], self.visibility[key] = {}, asked.get("visibility", "public")
        return JSONResponse({"url": url, "name": key.split("/", 1)[1]})

    async def validate(self, request: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    async def preupload(self, request: Request) -> Response:
        if denied := self._denied(request):
            return denied
        files = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False}
            for f in (await request.json())["files"]
        ]
        self._key(request)
        return JSONResponse({"files": files})

    async def batch(self, request: Request) -> Response:
        objects = (await request.json())["objects"]
        upload = [{**o, "actions": {"upload": {"href": f"{self.url}/lfs/{o['oid']}"}}} for o in objects]
        return JSONResponse({"transfer": "basic", "objects": upload})

    async def put(self, request: Request) -> Response:
        content = await request.body()
        assert hashlib.sha256(content).hexdigest() == request.path_params["oid"]
        self.lfs[request.path_params["oid"]] = content
        return Response()

    async def commit(self, request: Request) -> Response:
        if denied := self._denied(request):
            return denied
        key = self._key(request)
        files = self.repos[key]
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.lfs[value["oid"]]
        url = f"{self.url}/{key.removeprefix('models/')}/commit/{self._sha(files)}"
        return JSONResponse({"commitUrl": url, "commitOid": self._sha(files)})

    @staticmethod
    def _sha(files: dict[str, bytes]) -> str:
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()

    async def info(self, request: Request) -> Response:
        key = self._key(request)
        if key not in self.repos or (self.visibility[key] == "private" and self._denied(request)):
            return JSONResponse({"error": "Repository not found"}, 404, {"x-error-code": "RepoNotFound"})
        files = self.repos[key]
        return JSONResponse(
            {"id": key.split("/", 1)[1], "sha": self._sha(files), "siblings": [{"rfilename": name} for name in files],
             "private": self.visibility[key] == "private", "tags": []}
        )  # fmt: skip

    async def tree(self, request: Request) -> Response:
        files = self.repos[self._key(request)]
        return JSONResponse(
            [{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
             for name, content in files.items()]
        )  # fmt: skip

    async def resolve(self, request: Request) -> Response:
        key = self._key(request)
        content = self.repos.get(key, {}).get(request.path_params["path"])
        if content is None:
            return JSONResponse({"error": "Entry not found"}, 404, {"x-error-code": "EntryNotFound"})
        headers = {"x-repo-commit": self._sha(self.repos[key]), "etag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return Response(content, headers=headers)


@contextmanager
def serving(token: str) -> Iterator[StandIn]:
    """The stand-in on a free port of the loopback interface."""
    hub = StandIn(token)
    server = uvicorn.Server(uvicorn.Config(hub.app(), host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    hub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield hub
    server.should_exit = True
    thread.join()
