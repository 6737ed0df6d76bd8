"""The labelling page in Chromium without a GPU: frames a second while one paints, and how it bears many labels.

python tests/benchmarks/labeling.py [seconds]     painting 1024 x 1024 px, 4,096 tokens
python tests/benchmarks/labeling.py many          5,000 images of 4,096 tokens with 50,000 records
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from badhands.study.classes import BAD, GOOD
from badhands.study.labels import LabelRecord

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from demo_study import make_study
from label_site import chromium, free_port, open_page, served

MEASURE = """async (seconds) => {
  const canvas = badhands.view.mask.canvas, frames = [], work = [];
  const at = (x, y) => { const [clientX, clientY] = badhands.view.toWindow(x, y); return { clientX, clientY }; };
  const fire = (type, where) => canvas.dispatchEvent(new PointerEvent(type, {
    ...where, pointerId: 1, pointerType: "mouse", button: 0, buttons: 1, bubbles: true, cancelable: true }));
  canvas.setPointerCapture = () => {};  // the pointer is not a real one
  const { h, w } = badhands.view.size, start = performance.now();
  let step = 0, before = await new Promise(requestAnimationFrame);
  while (performance.now() - start < seconds * 1000) {
    // A stroke of 60 frames, three samples in each, then the save that follows it.
    const began = performance.now();
    if (step % 60 === 0) fire("pointerdown", at(w / 2, h / 2));
    for (let i = 0; i < 3; i++) {
      const t = (step * 3 + i) / 40;
      fire("pointermove", at(w / 2 + w * 0.45 * Math.sin(t), h / 2 + h * 0.45 * Math.sin(1.3 * t)));
    }
    if (step % 60 === 59) fire("pointerup", at(w / 2, h / 2));
    work.push(performance.now() - began);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - before);
    before = now;
    step++;
  }
  return { frames, work, painted: badhands.state.classes.filter(Boolean).length };
}"""


def measure(size: tuple[int, int], patch: int, brush: int, seconds: float) -> dict[str, float]:
    """Frames a second and the 95th percentile of the frame time, in ms, while painting."""
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder) / "study", images=1, size=size, patch=patch)
        with served(study) as address, chromium() as browser:
            page = open_page(browser, address, fragment="#paint/img0000", viewport={"width": 1440, "height": 1100})
            page.wait_for_selector("#proposals:not([hidden])")
            page.evaluate("(size) => { badhands.painter.size = size; }", brush)
            page.evaluate(MEASURE, 1)  # warm up
            result = page.evaluate(MEASURE, seconds)
    frames = np.array(result["frames"])
    return {
        "fps": 1000 / frames.mean(),
        "frame_p95_ms": float(np.percentile(frames, 95)),
        "script_p95_ms": float(np.percentile(result["work"], 95)),
        "painted": result["painted"],
    }


def make_many(root: Path, images: int, records: int) -> None:
    """A study whose every image a person has labelled, painted with 60 runs or so; ten records an image."""
    study = make_study(root, images=images, size=(128, 128), patch=2, judged=False)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(records):
        classes = np.zeros((64, 64), np.uint8)
        top, left = rng.integers(0, 34, 2)
        for row in range(top, top + 30):
            classes[row, left : left + rng.integers(10, 30)] = BAD if number % 2 else GOOD
        record = LabelRecord(
            f"img{number % images:04d}",
            "anna" if number // images % 2 else "judge",
            "2026-01-01T00:00:00Z",
            9.0,
            classes,
            change=f"{number:08d}",
        )
        lines.append(json.dumps(record.to_json(), separators=(",", ":")) + "\n")
    study.labels.path.write_text("".join(lines))


def many(images: int = 5000, records: int = 50_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, port = Path(folder) / "study", free_port()
        make_many(root, images, records)
        print(f"labels.jsonl: {(root / 'labels.jsonl').stat().st_size / 1e6:.0f} MB")
        command = [sys.executable, "-m", "badhands.label", f"study={root}", f"port={port}", "browser=false"]
        started = time.perf_counter()
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{port}"
            while True:
                try:
                    urllib.request.urlopen(f"{address}/api/alive").close()
                    break
                except OSError:
                    time.sleep(0.05)
            print(f"server up after {time.perf_counter() - started:.1f} s")
            with chromium() as browser:
                for attempt in range(3):
                    started = time.perf_counter()
                    page = open_page(browser, address, fragment="#triage/img0000")
                    print(f"page {attempt}: {time.perf_counter() - started:.2f} s to the first picture")
                page.select_option("#filter", "all")
                took = page.evaluate("""async () => {
                  const times = [];
                  const drawn = async () => { while (!badhands.view.drawn) await new Promise(requestAnimationFrame); };
                  for (let i = 0; i < 12; i++) {
                    await drawn();
                    const before = performance.now();
                    dispatchEvent(new KeyboardEvent("keydown", { key: i % 2 ? "1" : "2" }));
                    await new Promise(requestAnimationFrame);
                    await drawn();
                    times.push(performance.now() - before);
                  }
                  return times;
                }""")
            print(f"triage key to the next picture: median {np.median(took):.0f} ms, worst {max(took):.0f} ms")
            status = Path(f"/proc/{server.pid}/status").read_text()
            print(next(line for line in status.splitlines() if line.startswith("VmHWM")))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["many"]:
        many()
        sys.exit()
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    for side, token, width in [(1024, 16, 3), (1024, 16, 12), (64, 4, 3)]:
        row = measure((side, side), token, width, duration)
        print(f"{side} x {side} px, {(side // token) ** 2} tokens, brush {width}: {row['fps']:.1f} frames a second, "
              f"95 % of frames within {row['frame_p95_ms']:.1f} ms, script {row['script_p95_ms']:.1f} ms a frame "
              f"({row['painted']} tokens painted)")  # fmt: skip
