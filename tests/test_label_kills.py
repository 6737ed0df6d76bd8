"""A hundred kills of the server under a page that paints: nothing that was acknowledged is lost, and nothing else."""

import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from badhands.study.label_log import LabelLog
from badhands.study.study import Study
from demo_study import make_study
from label_site import chromium, free_port, open_page, settled

KILLS = 100

PAINT = """() => {
  window.sent = []; window.saved = [];
  const put = badhands.outbox.put.bind(badhands.outbox);
  badhands.outbox.put = (item, payload) => {
    const change = put(item, payload);
    sent.push({ change, image: item.id, classes: payload.classes });
    return change;
  };
  badhands.outbox.addEventListener("saved", ({ detail }) => saved.push(detail.change));
  const ids = badhands.study.order;
  let stroke = 0;
  window.painting = setInterval(() => {
    if (stroke % 7 === 6) badhands.open({ id: ids[Math.floor(stroke / 7) % ids.length], repeat: 0 });
    const classes = badhands.state.classes.slice();
    for (let i = 0; i < 5; i++) classes[(stroke * 11 + i) % classes.length] = 1 + stroke % 3;
    badhands.change({ classes, verdict: "bad" });
    stroke++;
  }, 12);
}"""


class Lives:
    """Servers of one study on one port, one after the other."""

    def __init__(self, study: Study, port: int):
        script = Path(__file__).with_name("label_lives.py")
        self.port = port
        self.mother = subprocess.Popen(
            [sys.executable, str(script), str(study.root), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self) -> None:
        assert self.mother.stdin and self.mother.stdout
        print(file=self.mother.stdin, flush=True)
        self.child = int(self.mother.stdout.readline())
        wait_until_it_answers(self.port)

    def kill(self) -> None:
        os.kill(self.child, signal.SIGKILL)
        while True:
            try:
                os.kill(self.child, 0)
            except ProcessLookupError:
                return
            time.sleep(0.001)


def wait_until_it_answers(port: int) -> None:
    for _ in range(2000):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/alive", timeout=1).close()
            return
        except OSError:
            time.sleep(0.005)
    raise AssertionError("the server did not come up")


def test_no_acknowledged_change_is_lost(tmp_path):
    study, port, rng = make_study(tmp_path / "study", images=6), free_port(), random.Random(0)
    lives = Lives(study, port)
    try:
        lives.start()
        with chromium() as browser:
            page = open_page(browser, f"http://127.0.0.1:{port}", fragment="#paint/img0000")
            page.evaluate(PAINT)
            for number in range(KILLS):
                if number % 2:  # on a busy machine a life may be too short to save anything; every second one is not
                    page.wait_for_function("known => saved.length > known", arg=page.evaluate("saved.length"))
                time.sleep(rng.uniform(0, 0.1))
                lives.kill()
                lives.start()
            page.evaluate("clearInterval(painting)")
            settled(page)
            sent, saved = page.evaluate("sent"), page.evaluate("saved")
            states = page.evaluate("[...badhands.study.states].map(([key, s]) => [key.split('#')[0], [...s.classes]])")
        lives.kill()
    finally:
        lives.mother.kill()
        lives.mother.wait()

    records = [record for record in LabelLog(study.labels.path).records() if record.annotator == "anna"]
    stored = {record.change: record.to_json()["classes"] for record in records}
    assert len(saved) >= KILLS / 2, "too few changes were acknowledged for the test to mean anything"
    assert set(saved) <= stored.keys()
    assert len(stored) == len(records), "a change was stored twice"
    painted = {one["change"]: one["classes"] for one in sent}
    assert all(painted[change] == classes for change, classes in stored.items())
    latest = LabelLog(study.labels.path).latest()
    for image_id, classes in states:
        assert latest[image_id, "anna"].classes.ravel().tolist() == classes
    order = [one["change"] for one in sent]
    for image_id in {one["image"] for one in sent}:
        positions = [order.index(record.change) for record in records if record.image_id == image_id]
        assert positions == sorted(positions), "changes of one image are stored in another order than they were made"
