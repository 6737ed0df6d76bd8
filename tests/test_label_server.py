"""The server's promises: on disk before it answers, nobody overwritten, nobody foreign let in."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest

from badhands.label import differences
from badhands.label.access import access_for, addresses, checked_hosts, checked_port, checked_token
from badhands.label.guard import Access
from badhands.study.classes import BAD, NOT_HAND
from badhands.study.label_log import LabelLog
from badhands.study.labels import LabelRecord
from badhands.study.study import Study
from demo_study import make_study
from label_site import InProcess, free_port

SAVE = "/api/labels/img0000"


@pytest.fixture
def site(tmp_path):
    return InProcess(make_study(tmp_path / "study", images=12))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """For requests that must change nothing."""
    return InProcess(make_study(tmp_path_factory.mktemp("labels") / "study", images=2))


def lines(site):
    return site.desk.study.labels.path.read_bytes()


def test_a_change_is_synced_to_disk_before_it_is_acknowledged(site, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (real(handle), synced.append(os.fstat(handle).st_size)))
    status, answer = site.json(
        "POST", SAVE, site.change(classes=[[BAD, 3], [NOT_HAND, 253]], verdict="bad", note="übel ✋")
    )
    assert (status, answer["revision"]) == (200, 1)
    assert synced == [len(lines(site))]
    record = LabelLog(site.desk.study.labels.path).latest()["img0000", "anna"]
    assert record.classes.shape == (16, 16)
    assert (record.classes == BAD).sum() == 3
    assert (record.verdict, record.note, record.seconds) == ("bad", "übel ✋", 1.5)
    label = site.json("GET", SAVE, query=b"annotator=anna")[1]["label"]
    assert label["classes"] == [[BAD, 3], [NOT_HAND, 253]]
    assert label["revision"] == 1


def test_a_full_disk_is_told_and_not_acknowledged(site, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, answer = site.json("POST", SAVE, site.change())
    assert status == 507
    assert "No space" in answer["error"]


def test_a_stale_change_is_refused_and_shown_the_present_label(site):
    assert site.json("POST", SAVE, site.change(change="a" * 8, verdict="good"))[0] == 200
    before = lines(site)
    status, answer = site.json("POST", SAVE, site.change(change="b" * 8, verdict="bad"))
    assert status == 409
    assert (answer["label"]["verdict"], answer["label"]["revision"]) == ("good", 1)
    assert lines(site) == before
    assert site.json("POST", SAVE, site.change(change="b" * 8, verdict="bad", base=1))[1]["revision"] == 2


def test_a_change_sent_twice_is_stored_once(site, monkeypatch):
    change = site.change(change="a" * 8, verdict="good")
    assert site.json("POST", SAVE, change)[0] == 200
    # The first server may have died before its sync: what is there already is synced before it is acknowledged.
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    status, answer = site.json("POST", SAVE, {**change, "own": ["a" * 8]})
    assert (status, answer["revision"]) == (200, 1)
    assert synced == [site.desk.study.labels.path.stat().st_ino]
    # A newer state that was built on the unanswered one passes; one built on something else does not.
    newer = site.change(change="c" * 8, verdict="bad")
    assert site.json("POST", SAVE, {**newer, "own": ["x" * 8]})[0] == 409
    assert site.json("POST", SAVE, {**newer, "own": ["a" * 8]})[1]["revision"] == 2


def test_a_repetition_never_becomes_the_label(site):
    site.json("POST", SAVE, site.change(verdict="good"))
    site.json("POST", SAVE, site.change(verdict="bad", repeat=1))
    labels = site.desk.study.labels
    assert labels.latest()["img0000", "anna"].verdict == "good"
    assert labels.latest_of_all()["img0000", "anna", 1].verdict == "bad"
    assert (labels.revision("img0000", "anna"), labels.revision("img0000", "anna", 1)) == (1, 1)
    overview = site.json("GET", "/api/study", query=b"annotator=anna")[1]
    assert overview["disagreements"] == {"img0000": ["yourself"]}
    assert overview["last"]["id"] == "img0000"
    assert len(overview["again"]) == 1  # every tenth of twelve


def test_other_study_is_not_written_to(site):
    before = lines(site)
    status, answer = site.json("POST", SAVE, site.change(study="other-12345678"))
    assert status == 409
    assert "study" in answer
    assert lines(site) == before


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"classes": [[0, 255]]}, 422),
        ({"classes": [[0, 4096]]}, 422),
        ({"kinds": [[0, 300]]}, 422),
        ({"classes": []}, 422),
        ({"classes": [[4, 256]]}, 400),
        ({"classes": [[0, 256], [1, 0]]}, 400),
        ({"classes": [[True, 256]]}, 400),
        ({"classes": [[0, 10**30]]}, 422),
        ({"kinds": [[1, 256]]}, 400),
        ({"verdict": "perfect"}, 400),
        ({"verdict": []}, 400),
        ({"annotator": "judge"}, 400),
        ({"annotator": "../anna"}, 400),
        ({"note": "\ud800"}, 400),
        ({"note": "x" * 2001}, 400),
        ({"seconds": -1}, 400),
        ({"seconds": 10**400}, 400),
        ({"repeat": 2}, 400),
        ({"base": True}, 400),
        ({"own": ["x"] * 1001}, 400),
        ({"change": ""}, 400),
        ({"extra": 1}, 400),
        ({"image_id": "img0001"}, 400),
    ],
)
def test_a_wrong_field_has_its_status_and_writes_nothing(untouched, fields, status):
    before = lines(untouched)
    assert untouched.json("POST", SAVE, untouched.change(**fields))[0] == status
    assert lines(untouched) == before


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/images/nobody", 404),
        ("/api/images/../manifest.jsonl", 404),
        ("/api/images/..", 404),
        ("/api/images/%2e%2e", 404),
        ("/api/thumbnails/.hidden", 404),
        ("/page/../app.py", 404),
        ("/page/..", 404),
        ("/page/app.py", 404),
        ("/api/labels/nobody", 404),
        ("/etc/passwd", 404),
    ],
)
def test_only_what_is_named_is_served(untouched, path, status):
    assert untouched.request("GET", path)[0] == status


def test_a_picture_that_is_a_link_or_was_changed_is_not_served(site, tmp_path):
    path = site.desk.study.image_path("img0001")
    secret = tmp_path / "secret.png"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)
    assert site.request("GET", "/api/images/img0001")[0] == 400
    site.desk.study.image_path("img0002").write_bytes(site.desk.study.image_path("img0003").read_bytes())
    assert site.request("GET", "/api/images/img0002")[0] == 400


def test_foreign_hosts_and_origins_are_refused(site):
    before = lines(site)
    for headers, status in [
        ([(b"host", b"evil.example")], 421),
        ([(b"host", b"127.0.0.1.evil.example:8000")], 421),
        ([(b"host", b"")], 421),
        ([(b"origin", b"http://evil.example")], 403),
        ([(b"origin", b"null")], 403),
        ([(b"origin", b"http://127.0.0.1:9999")], 403),
        ([(b"sec-fetch-site", b"cross-site")], 403),
        ([(b"content-type", b"text/plain")], 415),
        ([(b"content-length", b"99999999")], 413),
    ]:
        assert site.json("POST", SAVE, site.change(), headers=headers)[0] == status, headers
    assert site.json("POST", SAVE, {"note": "x" * (1 << 20)})[0] == 413
    assert lines(site) == before
    for headers in [[(b"origin", b"http://127.0.0.1:8000")], [(b"host", b"localhost")], [(b"host", b"[::1]:80")]]:
        assert site.request("GET", "/api/alive", headers=headers)[0] == 200, headers
    assert site.request("GET", "/api/images/img0000", headers=[(b"sec-fetch-site", b"cross-site")])[0] == 403


def test_every_answer_forbids_foreign_scripts_and_frames(site):
    for path in ["/", "/page/main.js", "/api/alive", "/nothing"]:
        headers = site.request("GET", path)[1]
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"


def test_beyond_this_machine_a_token_is_needed(tmp_path):
    with pytest.raises(ValueError, match="token"):
        Access(hosts=("192.168.1.5",))
    with pytest.raises(ValueError, match="16 characters"):
        Access(token="short")
    assert access_for("127.0.0.1", None, ()).token is None
    access = access_for("192.168.1.5", None, ())
    assert access.token is not None and len(access.token) >= 24
    site = InProcess(make_study(tmp_path / "study", images=1), Access(("192.168.1.5",), "s" * 20))
    host = (b"host", b"192.168.1.5:8000")
    assert site.request("GET", "/", headers=[host])[0] == 401
    assert site.request("GET", "/", headers=[host], query=b"token=wrong")[0] == 401
    assert site.request("GET", "/api/alive", headers=[host], query=b"token=" + b"s" * 20)[0] == 401
    status, headers, _ = site.request("GET", "/", headers=[host], query=b"annotator=anna&token=" + b"s" * 20)
    assert (status, headers["location"]) == (303, "/?annotator=anna")
    assert headers["set-cookie"].startswith(
        "badhands_token_8000="
    )  # a cookie of 8000 alone, or two servers would fight
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=strict" in headers["set-cookie"]
    cookie = (b"cookie", headers["set-cookie"].split(";")[0].encode())
    assert site.request("GET", "/api/alive", headers=[host, cookie])[0] == 200
    assert site.request("GET", "/api/alive", headers=[host, (b"authorization", b"Bearer " + b"s" * 20)])[0] == 200
    assert site.json("POST", SAVE, site.change(), headers=[host])[0] == 401


def test_proposals_come_from_the_judge_and_from_mask_folders(site):
    from PIL import Image

    folder = site.desk.study.root / "proposals" / "hand_probe"
    folder.mkdir(parents=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[8:24, 8:16] = 1
    Image.fromarray(mask).save(folder / "img0000.png")
    Image.fromarray(mask[:10]).save(folder / "img0001.png")  # of a wrong size: not offered
    judge, probe = site.json("GET", "/api/proposals/img0000")[1]
    assert (judge["source"], judge["quality"], probe["source"], probe["quality"]) == (
        "judge",
        True,
        "hand_probe",
        False,
    )
    assert sum(run for value, run in probe["classes"] if value == 1) == 8
    assert [one["source"] for one in site.json("GET", "/api/proposals/img0001")[1]] == ["judge"]


def test_a_server_at_every_address_answers_to_each_of_them_and_to_no_foreign_name(tmp_path):
    access = access_for("0.0.0.0", None, ("lab.example",))
    assert access.token
    with pytest.raises(ValueError, match="token"):
        Access(addresses=True)
    site = InProcess(make_study(tmp_path / "study", images=1), access)
    bearer = (b"authorization", b"Bearer " + access.token.encode())
    for host, status in [
        (b"192.168.1.5:8765", 200),
        (b"[2001:db8::7]:8765", 200),
        (b"lab.example:8765", 200),
        (b"evil.example", 421),
        (b"192.168.1.5.evil.example", 421),
        (b"0x7f000001", 421),
    ]:
        assert site.request("GET", "/api/alive", headers=[(b"host", host), bearer])[0] == status, host
        if status == 200:
            assert site.request("GET", "/api/alive", headers=[(b"host", host)])[0] == 401
    here, *elsewhere = addresses("0.0.0.0", 8765, "s" * 16, ("lab.example",))
    assert here.startswith("http://127.0.0.1:8765/?token=")
    assert elsewhere and not any("127.0.0.1" in one or "0.0.0.0" in one for one in elsewhere)
    assert f"http://lab.example:8765/?token={'s' * 16}" in elsewhere


@pytest.mark.parametrize(
    ("check", "value", "fix"),
    [
        (checked_port, 99999, "1 to 65535"),
        (checked_port, "http", "1 to 65535"),
        (checked_token, 1234567890123456, "a letter"),
        (checked_hosts, "name", r"hosts=\[name\]"),
        (checked_hosts, ["http://name"], "the name alone"),
        (checked_hosts, ["name:8000"], "without a port"),
        (checked_hosts, [8], "no list of names"),
    ],
)
def test_a_wrong_address_is_a_sentence(check, value, fix):
    with pytest.raises(ValueError, match=fix):
        check(value)


def test_pictures_that_are_pipes_loops_or_huge_are_sentences(site):
    path = site.desk.study.image_path
    for image_id in ("img0001", "img0002", "img0003"):
        path(image_id).unlink()
    os.mkfifo(path("img0001"))
    path("img0002").symlink_to(path("img0002"))
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)  # 10 GB of pixels in a file of 60 bytes
    path("img0003").write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    )
    for image_id, words in [("img0001", "not a file"), ("img0002", "link"), ("img0003", "cannot be read")]:
        for what in ("images", "thumbnails"):
            status, answer = site.json("GET", f"/api/{what}/{image_id}")
            assert status == 400 and words in answer["error"], (what, answer)
    folder = site.desk.study.root / "proposals" / "detector"
    folder.mkdir(parents=True)
    (folder / "img0000.png").write_bytes(path("img0003").read_bytes())
    os.mkfifo(folder / "img0004.png")
    for image_id in ("img0000", "img0004"):
        assert [one["source"] for one in site.json("GET", f"/api/proposals/{image_id}")[1]] == ["judge"]


def test_a_study_that_grows_while_it_is_read_is_always_answered(tmp_path):
    site = InProcess(make_study(tmp_path / "study", images=3, judged=False))
    study, desk = Study(site.desk.study.root), site.desk
    template = study.manifest.entries[0]
    done, failures, sizes = threading.Event(), [], []

    def read():
        while not done.is_set():
            try:
                sizes.append(len(json.loads(desk.overview("anna"))["images"]))
            except Exception as error:  # whatever it is would be a status of 400 or 500
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(60):
        study.manifest.append(replace(template, id=f"new{number:04d}"))
        study.labels.append(LabelRecord(f"new{number:04d}", "judge", "", 0.0, np.full((16, 16), NOT_HAND, np.uint8)))
    study.manifest.sort({f"new{number:04d}": 60 - number for number in range(60)})
    done.set()
    for reader in readers:
        reader.join()
    assert failures == [] and sizes == sorted(sizes)
    assert len(json.loads(desk.overview("anna"))["images"]) == 63


def test_each_label_is_compared_with_its_own_image_alone(tmp_path, monkeypatch):
    site = InProcess(make_study(tmp_path / "study", images=40))
    for number in range(40):
        site.json("POST", f"/api/labels/img{number:04d}", site.change(f"img{number:04d}", verdict="good"))
    compared = []
    real = differences.disagree
    monkeypatch.setattr(differences, "disagree", lambda a, b: (compared.append(1), real(a, b))[1])
    shown = json.loads(site.desk.overview("anna"))["disagreements"]
    assert len(compared) == 40
    assert shown == {f"img{number:04d}": ["judge"] for number in range(1, 40, 2)}


def test_ctrl_c_ends_a_server_with_half_a_change_in_its_hands(tmp_path):
    study, port = make_study(tmp_path / "study", images=1), free_port()
    command = [sys.executable, "-m", "badhands.label", f"study={study.root}", f"port={port}", "browser=false"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout and f"http://127.0.0.1:{port}/" in server.stdout.readline()
        client = connect(port)
        client.sendall(
            f"POST {SAVE} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            "Content-Length: 500\r\n\r\n{".encode()
        )
        idle = connect(port)
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)  # it waited for ever
        client.close(), idle.close()
    finally:
        server.kill()


def connect(port):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.02)


def test_the_page_is_served_without_what_only_training_needs():
    code = "import sys, badhands.label.__main__; print({'torch', 'pandas', 'diffusers', 'sklearn'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
