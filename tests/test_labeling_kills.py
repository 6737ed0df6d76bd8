"""A hundred kills of the server under a page that paints: nothing that was acknowledged is lost, and nothing else."""

import os
import random
import signal
import time
import urllib.request
from multiprocessing import get_context

from badhands.study.labels import LabelLog
from badhands.study.study import Study
from demo_study import make_study
from labeling_site import chromium, free_port, open_page, settled

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


def serve(root: str, port: int) -> None:
    """One life of the server, in a process of its own."""
    import uvicorn

    from badhands.labeling.app import create_app
    from badhands.labeling.desk import Desk
    from badhands.labeling.guard import Access

    uvicorn.run(create_app(Desk(Study(root)), Access()), port=port, log_level="error", lifespan="off")


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
    # A fork server that has imported the app already starts a life in milliseconds.
    context = get_context("forkserver")
    context.set_forkserver_preload(["uvicorn", "badhands.labeling.app"])
    life = None

    def start():
        process = context.Process(target=serve, args=(str(study.root), port), daemon=True)
        process.start()
        wait_until_it_answers(port)
        return process

    life = start()
    try:
        with chromium() as browser:
            page = open_page(browser, f"http://127.0.0.1:{port}", fragment="#paint/img0000")
            page.evaluate(PAINT)
            for _ in range(KILLS):
                page.wait_for_timeout(rng.uniform(5, 160))
                os.kill(life.pid, signal.SIGKILL)
                life.join()
                life = start()
            page.evaluate("clearInterval(painting)")
            settled(page)
            sent, saved = page.evaluate("sent"), page.evaluate("saved")
            states = page.evaluate(
                "[...badhands.study.states].map(([key, state]) => [key.split('#')[0], [...state.classes]])"
            )
    finally:
        life.kill()
        life.join()

    records = [record for record in LabelLog(study.labels.path).records() if record.annotator == "anna"]
    stored = {record.change: record.to_json()["classes"] for record in records}
    assert len(saved) > KILLS / 2, "too few changes were acknowledged for the test to mean anything"
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
