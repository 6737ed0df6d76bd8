"""Frames a second of the labelling page while one paints 1024 x 1024 px, 4,096 tokens, in Chromium without a GPU.

python tests/benchmarks/labeling.py [seconds]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from demo_study import make_study
from labeling_site import chromium, open_page, served

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


if __name__ == "__main__":
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    for side, token, width in [(1024, 16, 3), (1024, 16, 12), (64, 4, 3)]:
        row = measure((side, side), token, width, duration)
        print(f"{side} x {side} px, {(side // token) ** 2} tokens, brush {width}: {row['fps']:.1f} frames a second, "
              f"95 % of frames within {row['frame_p95_ms']:.1f} ms, script {row['script_p95_ms']:.1f} ms a frame "
              f"({row['painted']} tokens painted)")  # fmt: skip
