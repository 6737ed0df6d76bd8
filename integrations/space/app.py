"""A page for the curious: the embedded model draws a hand, and its probes say at every step whether it goes wrong.

python integrations/space/app.py                       # probes of the newest run of the embedded model
python integrations/space/app.py --probes me/my-probes # of a folder, or of a repo of the Hub
"""

import argparse
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
sys.path.insert(0, str(Path(__file__).parent))

import gradio as gr
from studio import MISS, Studio, View, open_probes

from badhands.tiny_hands.attributes import random_captions

ABOUT = """# Does it know that the hand will be bad?

A small FLUX draws a hand from noise, in 20 steps. Probes read its blocks while it works and say, patch by patch, how
likely the hand is bad: blue is good, orange is bad. The picture is the one that it draws without them."""

CAUTION = """P(bad) assumes this model's own rate of bad hands and says nothing about other models. The labels behind it
are an automatic judge's. In the first steps the probes know little. Somebody who looks at the picture of the same step
can tell at least as much (docs/findings.md)."""


def page(studio: Studio) -> gr.Blocks:
    """The page; one visitor draws at a time, the others wait their turn."""
    asked: dict[str, threading.Event] = defaultdict(threading.Event)
    captions = [text for text, _ in random_captions(40, seed=1)]

    def shown(view: View) -> list[Any]:
        return [view.told, view.strip, view.heatmap, gr.update(value=view.pictures, visible=bool(view.pictures))]

    def run(views: Iterator[View]) -> Iterator[list[Any]]:
        try:
            for view in views:
                yield shown(view)
        except ValueError as error:
            raise gr.Error(str(error)) from None

    def begin(request: gr.Request) -> threading.Event:
        asked[request.session_hash or ""] = event = threading.Event()
        return event

    def draw(prompt: str, seed: int | None, automatic: bool, request: gr.Request) -> Iterator[list[Any]]:
        yield from run(studio.draw(prompt or "", _whole(seed), begin(request), automatic))

    def best(prompt: str, seed: int | None, request: gr.Request) -> Iterator[list[Any]]:
        yield from run(studio.best_of(prompt or "", _whole(seed), begin(request)))

    def stop(request: gr.Request) -> None:
        asked[request.session_hash or ""].set()

    def leave(request: gr.Request) -> None:
        asked.pop(request.session_hash or "", threading.Event()).set()

    with gr.Blocks(title="badhands", analytics_enabled=False) as blocks:
        gr.Markdown(ABOUT)
        with gr.Row():
            prompt = gr.Dropdown(captions, value=captions[0], label="Prompt", allow_custom_value=True, scale=4)
            seed = gr.Number(3, label="Seed", precision=0, minimum=0, scale=1)
        automatic = gr.Checkbox(
            label=f"Stop bad ones by themselves and take the next seed (may lose {MISS:.0%} of the good ones)"
        )
        with gr.Row():
            drawing = gr.Button("Draw", variant="primary", elem_id="draw")
            four = gr.Button("Best of 4", elem_id="best")
            stopping = gr.Button("Stop", variant="stop", elem_id="stop")
        told = gr.Markdown(elem_id="told")
        gallery = gr.Gallery(show_label=False, columns=4, height="auto", visible=False, elem_id="gallery")
        strip = gr.Image(show_label=False, elem_id="strip", format="png", buttons=["download", "fullscreen"])
        heat = gr.Image(show_label=False, elem_id="heatmap", format="png", buttons=["download", "fullscreen"])
        gr.Markdown(CAUTION)
        outputs = [told, strip, heat, gallery]
        one_at_a_time = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
        drawing.click(draw, [prompt, seed, automatic], outputs, **one_at_a_time)
        four.click(best, [prompt, seed], outputs, **one_at_a_time)
        stopping.click(stop, queue=False)
        blocks.unload(leave)
    return blocks


def _whole(seed: int | None) -> int:
    return -1 if seed is None else int(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", default=os.environ.get("BADHANDS_PROBES"), help="a folder, or a repo of the Hub")
    parser.add_argument("--model", default="tiny_hands", help="tiny_hands, tiny_clean, tiny_s or tiny_l")
    parser.add_argument("--port", type=int, default=7860)
    given = parser.parse_args()
    try:
        studio = Studio(open_probes(given.probes, given.model), given.model)
    except ValueError as error:
        sys.exit(f"error: {error}")
    # On a Space the page must answer its proxy; elsewhere it is for this machine alone.
    page(studio).launch(server_name="0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1", server_port=given.port)


if __name__ == "__main__":
    main()
