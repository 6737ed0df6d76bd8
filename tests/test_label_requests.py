"""Ten thousand malformed requests: no crash, nothing written, no file outside of the study read."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo_study import make_study
from label_site import InProcess

ATTEMPTS = 10_000

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_IDS = st.sampled_from(
    ["img0000", "img0001", "img9999", "..", ".", "../labels.jsonl", "..%2f..%2fetc%2fhosts", "%2e%2e/%2e%2e/etc/hosts",
     "img0000.png", "../../images/img0000", "....//", "\\..\\..\\", "img0000\x00", ".hidden", "", "~", "//etc/passwd",
     "C:\\windows", "𝕚𝕞𝕘0000", "IMG0000", "img0000/", "a" * 300]
) | _TEXT  # fmt: skip
_METHODS = st.sampled_from(["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
_ROUTES = st.sampled_from(
    ["/api/labels/{}", "/api/images/{}", "/api/thumbnails/{}", "/api/proposals/{}",
     "/page/{}", "/{}", "/api/{}", "/api/study/{}"]
)  # fmt: skip
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | _TEXT
    | st.sampled_from(["img0000", "judge", "\ud800", "../x", -1, 3, 4, 256, 255, 257, 1e308, [[0, 256]], [[1, 255]]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=2),
    max_leaves=6,
)  # fmt: skip
_RUNS = st.lists(st.tuples(st.integers(-1, 5), st.integers(-2, 300)).map(list), max_size=4)
_NAMES = st.sampled_from(
    ["study", "annotator", "image_id", "repeat", "base", "own", "change", "classes", "kinds", "verdict", "note",
     "accepted_proposal", "seconds", "path", "__proto__"]
)  # fmt: skip
_HEADERS = st.lists(
    st.sampled_from(
        [(b"host", b"evil.example"), (b"host", b"127.0.0.1:8000"), (b"host", b"[::1"), (b"host", b"\xff\xfe"),
         (b"origin", b"http://evil.example"), (b"origin", b"null"), (b"origin", b"http://127.0.0.1:8000"),
         (b"content-type", b"text/plain"), (b"content-type", b"application/json; charset=utf-16"),
         (b"content-length", b"-5"), (b"content-length", b"999999999999"), (b"content-length", b"many"),
         (b"cookie", b"badhands_token=\x01;="), (b"authorization", b"Bearer \xff"), (b"sec-fetch-site", b"cross-site"),
         (b"transfer-encoding", b"chunked"), (b"range", b"bytes=0-999999"), (b"x-forwarded-host", b"evil.example")]
    ),
    max_size=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = InProcess(make_study(tmp_path_factory.mktemp("labels") / "study", images=2))
    for image_id in ("img0000", "img0001"):  # decoders are imported and files verified before we watch what is read
        assert site.request("GET", f"/api/thumbnails/{image_id}")[0] == 200
    return site


@pytest.fixture(scope="module")
def opened():
    """Files that are opened while `watching` is set; an audit hook cannot be taken away again."""
    seen = {"watching": False, "paths": []}

    def hook(event, args):
        if seen["watching"] and event == "open" and isinstance(args[0], (str, bytes)):
            seen["paths"].append(str(args[0] if isinstance(args[0], str) else args[0].decode()))

    sys.addaudithook(hook)
    return seen


def contents(root: Path):
    return {path.relative_to(root): path.stat()[6:9:2] for path in root.rglob("*")}  # size and time of change


@st.composite
def bodies(draw, valid):
    """A valid change with one to three fields put wrong, or bytes of any kind."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=40))
    if kind == 1:
        return draw(
            st.sampled_from(
                [b"", b"null", b"[]", b"{", b"{}", b'"x"', b"NaN", b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe{}"]
            )
        )
    if kind == 2:
        return json.dumps(draw(_VALUES)).encode()
    fields = dict(valid)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(_NAMES)
        how = draw(st.integers(0, 3))
        if how == 0:
            fields.pop(name, None)
        elif how == 1 and name in ("classes", "kinds"):
            fields[name] = draw(_RUNS)
        else:
            fields[name] = draw(_VALUES)
    if fields.get("base") == 0:  # the revision that exists: with all other fields left right it would be a right change
        fields["base"] = 7
    return json.dumps(fields).encode()


def test_malformed_requests_do_nothing(site, opened):
    # The change is refused even where hypothesis leaves all its fields right: it claims a revision that does not exist.
    valid = site.change(base=7)
    root, before = site.desk.study.root, contents(site.desk.study.root)
    met: dict[int, int] = {}

    def attempt(method, path, body, headers, query):
        opened["watching"] = True
        try:
            status, _, _ = site.request(method, path, body, headers, query)
        finally:
            opened["watching"] = False
        met[status] = met.get(status, 0) + 1
        assert status < 500
        assert method in ("GET", "HEAD") or status >= 400, "a malformed change was acknowledged"

    # Drawing takes longer than answering, so each draw is tried on five addresses.
    @settings(max_examples=ATTEMPTS // 5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(_METHODS, _ROUTES, _IDS, bodies(valid), _HEADERS, st.binary(max_size=20))
    def attempts(method, route, name, body, headers, query):
        attempt("POST", "/api/labels/img0000", body, [], query)
        attempt("POST", f"/api/labels/{name}", body, headers, query)
        attempt("POST", "/api/labels/img0001", body, headers, query)
        attempt("GET", route.format(name), b"", [], query)
        attempt(method, route.format(name), body, headers, query)

    attempts()
    assert contents(root) == before
    assert sum(met.values()) >= ATTEMPTS
    assert {400, 403, 404, 405, 409, 413, 415, 421, 422} <= met.keys(), "the attempts did not reach every refusal"
    outside = [path for path in opened["paths"] if not Path(path).resolve().is_relative_to(root.resolve())]
    assert outside == []
