"""The page of one image: a step slider, a block selector, P(bad) under the pointer. One file, nothing loaded."""

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from badhands.cells import Cell
from badhands.probes.artifact import Probes
from badhands.watch.compatibility import main_block
from badhands.watch.frame import Frame
from badhands.watch.overlay import colours
from badhands.watch.seen import Seen

FILES = Path(__file__).parent / "page"
MAP = 33
"""Entries of the colour map that the page is given."""


def frame_data(seen: Seen, frame: Frame, member: int = 0) -> dict[str, Any]:
    """One step as JSON: the preview as a data URI; per block P(bad) of the image with the held-out AUROC of its cell
    (None: no verdict), and P in thousandths on the token grid."""
    i = frame.place(member)
    picture = seen.preview(frame, member)

    def thousandths(values: np.ndarray) -> list[int]:
        return np.rint(np.nan_to_num(values[i]) * 1000).astype(int).tolist()

    return {
        "step": frame.step, "timestep": frame.timestep, "num_steps": frame.num_steps, "sigma": round(frame.sigma, 4),
        "picture": None if picture is None else data_uri(picture),
        "blocks": {
            cell.block: {
                "p": _number(frame.image_p_bad[cell.block][i]), "auroc": held_out(seen.probes, cell),
                "score": _number(frame.score[cell.block][i]), "tokens": int(frame.hand[cell.block][i].sum()),
                "p_bad": thousandths(frame.p_bad[cell.block]), "p_hand": thousandths(frame.p_hand[cell.block]),
                "hand": frame.hand[cell.block][i].astype(int).tolist(),
            }
            for cell in frame.cells
        },
    }  # fmt: skip


def held_out(probes: Probes, cell: Cell) -> float | None:
    """Image AUROC of the cell on held-out images of the study, from the probes' card; None if it says nothing."""
    value = probes.card.get("scores", {}).get(str(cell), {}).get("image_auroc")
    return None if value is None else _number(value)


def head_data(seen: Seen, title: str) -> dict[str, Any]:
    """What belongs to all steps."""
    colour_map = ["#" + bytes(colour).hex() for colour in colours(np.linspace(0, 1, MAP))]
    return {
        "title": title, "grid": list(seen.grid), "blocks": list(seen.blocks), "colours": colour_map,
        "first": main_block(seen.probes, seen.blocks),
    }  # fmt: skip


def page_data(seen: Seen, member: int = 0, title: str = "") -> dict[str, Any]:
    """The whole page's data, of the last generation."""
    frames = [frame_data(seen, frame, member) for frame in seen.of() if member in frame.members]
    final = seen.final(member=member)
    stopped = seen.stopped.get((seen.of()[-1].generation, member)) if frames else None
    state = f"stopped after timestep {stopped}" if stopped else "finished" if final else "not finished"
    return {
        **head_data(seen, title), "frames": frames, "state": state, "final": None if final is None else data_uri(final),
    }  # fmt: skip


def write_page(seen: Seen, path: Path, *, member: int = 0, title: str = "") -> Path:
    """The page with its data, style and script inside."""
    data = json.dumps(page_data(seen, member, title)).replace("<", "\\u003c")  # a prompt must not end the script
    text = (FILES / "index.html").read_text(encoding="utf-8")
    text = text.replace("<!--style-->", f"<style>{(FILES / 'watch.css').read_text(encoding='utf-8')}</style>")
    text = text.replace("<!--title-->", html.escape(title or "badhands: watch"))
    script = (FILES / "watch.js").read_text(encoding="utf-8")
    text = text.replace(
        "<!--script-->", f'<script type="application/json" id="data">{data}</script>\n<script>{script}</script>'
    )
    path.write_text(text, encoding="utf-8")
    return path


def served_page() -> bytes:
    """The same page for a server: style, script and data come from their own addresses."""
    text = (FILES / "index.html").read_text(encoding="utf-8")
    text = text.replace("<!--style-->", '<link rel="stylesheet" href="watch.css">')
    text = text.replace("<!--title-->", "badhands: watch")
    return text.replace("<!--script-->", '<script src="watch.js"></script>').encode()


def data_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _number(value: Any) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
