"""Draws with the embedded model and tells, step by step, what its probes say: pictures and words, no page."""

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image, ImageDraw
from torch import Tensor

from badhands import Abort, Cell, Probes
from badhands.diffusion.moments import AllDropped
from badhands.diffusion.scene import Pair, Scene
from badhands.diffusion.spec import ModelSpec
from badhands.figures.palette import FAINT, INK, PAPER
from badhands.home import CONF_DIR
from badhands.probes.hub import pull
from badhands.tiny_hands.attributes import attributes_of
from badhands.watch import Frame, Seen
from badhands.watch.compatibility import early_block, early_timesteps, ranked_blocks
from badhands.watch.fresh import find_judge
from badhands.watch.overlay import colours, font
from badhands.watch.settings import find_probes, load_probes
from badhands.watch.strip import film_strip
from badhands.watch.watcher import watch

MISS = 0.2
"""Share of good hands that the automatic stop may lose at its one decision."""
TRIES = 10
"""Seeds that the automatic stop goes through before it gives up."""


@dataclass(frozen=True)
class View:
    """What the page shows at one moment."""

    told: str
    strip: Image.Image | None = None
    heatmap: Image.Image | None = None
    pictures: list[tuple[Image.Image, str]] = field(default_factory=list)
    """Of a draw of several seeds, with a line each."""


@dataclass(frozen=True)
class Asked:
    """Stops everything when `stop` is set; besides, what another policy stops."""

    stop_all: threading.Event
    other: Abort | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.other.cells if self.other else ()

    def change(self, cell: Cell, tokens: Tensor, hand: Tensor) -> Tensor | None:
        return None

    def stop(self, frame: Frame) -> set[int]:
        if self.stop_all.is_set():
            return set(frame.members)
        return self.other.stop(frame) if self.other else set()


class Studio:
    """The embedded model with its probes and its judge.

    Raises:
        ValueError: the probes are of another model.
    """

    def __init__(self, probes: Probes, model: str = "tiny_hands") -> None:
        self.scene = Scene(model_spec(model))
        self.probes, self.judge = probes, find_judge(self.scene.spec)
        best = ranked_blocks(probes)[:2]
        self.rows = [block for block in dict.fromkeys(cell.block for cell in probes.cells) if block in best]
        """Blocks of the film strip: the two that speak first and best in the training study."""
        self.cell = best_cell(probes)
        """Where the best of several is chosen."""

    def draw(self, prompt: str, seed: int, stop: threading.Event, automatic: bool = False) -> Iterator[View]:
        """One picture, a view a watched step; with `automatic`, a bad one is stopped and the next seed taken.

        Raises:
            ValueError: a prompt that the model never learned the words of, or a seed below 0.
        """
        self.check(prompt, seed)
        abort = self.abort() if automatic else None
        log: list[str] = []
        for now in range(seed, seed + (TRIES if automatic else 1)):
            pairs, last = [Pair(prompt, now)], View("")
            for seen in self.steps(pairs, Asked(stop, abort)):
                last = self.view(seen, pairs, "\n\n".join([*log, _at(seen)]))
                yield last
            if stop.is_set() and seen.final() is None:
                log.append(f"seed {now}: stopped by you after {seen.evaluations} of {self.scene.spec.steps} steps")
            elif seen.final() is None:
                log.append(
                    f"seed {now}: stopped by its score after {seen.evaluations} of {self.scene.spec.steps} steps"
                )
                continue
            else:
                log.append(f"seed {now}: finished, {self.verdict(seen, 0)}")
            break
        else:
            log.append(f"none of {TRIES} seeds came through: take another prompt or seed")
        yield self.view(seen, pairs, "\n\n".join(log))

    def best_of(self, prompt: str, seed: int, stop: threading.Event, count: int = 4) -> Iterator[View]:
        """`count` seeds at once; the one with the highest score at the study's best cell is kept.

        Raises:
            ValueError: a prompt that the model never learned the words of, or a seed below 0.
        """
        self.check(prompt, seed)
        pairs = [Pair(prompt, seed + k) for k in range(count)]
        for seen in self.steps(pairs, Asked(stop)):
            yield self.view(seen, pairs, _at(seen), self.gallery(seen, pairs))
        scores = {k: score_at(seen, self.cell, k) for k in range(count)}
        found = {k: score for k, score in scores.items() if score is not None and np.isfinite(score)}
        if not found:
            yield self.view(seen, pairs, "stopped before anything could be chosen", self.gallery(seen, pairs))
            return
        kept = max(found, key=lambda k: found[k])
        told = f"kept seed {seed + kept}: the highest score of {count} at {self.cell}"
        if seen.final(member=kept) is not None:
            told += "; " + self.verdict(seen, kept)
        yield self.view(seen, pairs, told, self.gallery(seen, pairs, kept), kept)

    def steps(self, pairs: Sequence[Pair], policy: Asked) -> Iterator[Seen]:
        """Draw the pairs as one batch in a thread that waits at every watched step until the next one is asked for."""
        news: queue.Queue[Any] = queue.Queue()
        onwards = threading.Semaphore(0)
        self.scene.embed({pair.prompt for pair in pairs})

        def pause(seen: Seen, frame: Frame) -> None:
            news.put(seen)
            onwards.acquire()

        def work() -> None:
            end = None
            try:
                with watch(self.scene.pipe, self.probes, policy, on_frame=pause), contextlib.suppress(AllDropped):
                    self.scene.latents(pairs)
            except Exception as error:
                end = error
            news.put(end)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        found: Any = None
        try:
            while isinstance(found := news.get(), Seen):
                yield found
                onwards.release()
            if found is not None:
                raise found
        finally:
            if isinstance(found, Seen):  # the visitor has left in the middle: the model belongs to the next one
                policy.stop_all.set()
                onwards.release(self.scene.spec.steps)
            thread.join()

    def view(self, seen: Seen, pairs: Sequence[Pair], told: str, pictures: Sequence[Any] = (), member: int = 0) -> View:
        """Strip and heatmap of one member."""
        title = f"{pairs[member].prompt} · seed {pairs[member].seed}"
        strip = film_strip(seen, self.rows, member=member, title=title)
        return View(told, strip, heatmap(seen, member), list(pictures))

    def gallery(self, seen: Seen, pairs: Sequence[Pair], kept: int | None = None) -> list[tuple[Image.Image, str]]:
        """Every member as it is now, or finished, with its P(bad) at the block of the choice."""
        shown = []
        for member, pair in enumerate(pairs):
            frame = [f for f in seen.of() if member in f.members][-1]
            picture = seen.final(member=member) or seen.preview(frame, member)
            assert picture is not None
            bad = float(frame.image_p_bad[self.cell.block][frame.place(member)])
            line = f"seed {pair.seed}: " + (f"P(bad) {bad:.2f}" if np.isfinite(bad) else "no hand found")
            shown.append((picture.resize((256, 256), Image.Resampling.BICUBIC), line + " · kept" * (member == kept)))
        return shown

    def verdict(self, seen: Seen, member: int) -> str:
        """The last words of the study's best block, and the judge's."""
        block, frame = self.cell.block, seen.frames[-1]
        bad = float(frame.image_p_bad[block][frame.place(member)])
        told = f"P(bad) {bad:.2f} at {block}/t{frame.timestep}" if np.isfinite(bad) else "the probe found no hand"
        final = seen.final(member=member)
        if self.judge is None or final is None:
            return told
        return f"{told}; the judge, which sees the finished picture alone, calls it {self._judged(final)}"

    def _judged(self, picture: Image.Image) -> str:
        return self.judge.judge(np.array(picture)[None])[0].verdict

    def abort(self) -> Abort:
        """One decision, early: at the block that speaks first and best, at the end of the first fifth."""
        cell = Cell(early_block(self.probes), early_timesteps(self.probes)[-1])
        return Abort.of(self.probes, [cell], MISS)

    def check(self, prompt: str, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed {seed}: give a whole number from 0 on")
        attributes_of(prompt)


def heatmap(seen: Seen, member: int = 0) -> Image.Image:
    """P(bad) of the hand by block (row) and trained timestep (column), as far as it has been drawn."""
    frames = {seen.matched[f.timestep]: f for f in seen.of() if member in f.members}
    timesteps = sorted({cell.timestep for cell in seen.probes.cells}, reverse=True)
    wide, high, left, top = 64, 30, 96, 62
    page = Image.new("RGB", (left + wide * len(timesteps) + 8, top + high * len(seen.blocks) + 8), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((8, 6), "P(bad) of the hand, by block and timestep (noise → image)", fill=INK, font=font(14))
    for column, timestep in enumerate(timesteps):
        x, frame = left + column * wide, frames.get(timestep)
        draw.text((x + 16, 36), f"t{timestep}", fill=INK, font=font(13))
        for row, block in enumerate(seen.blocks):
            y = top + row * high
            bad = float(frame.image_p_bad[block][frame.place(member)]) if frame and block in frame.score else None
            fill = FAINT if bad is None or np.isnan(bad) else tuple(int(v) for v in colours(np.array(bad)))
            draw.rectangle((x, y, x + wide - 3, y + high - 3), fill=fill if frame else PAPER, outline=FAINT)
            if bad is not None:
                ink = PAPER if abs(bad - 0.5) > 0.35 else INK
                draw.text((x + 14, y + 6), "no hand" if np.isnan(bad) else f"{bad:.2f}", fill=ink, font=font(12))
    for row, block in enumerate(seen.blocks):
        draw.text((8, top + row * high + 6), block, fill=INK, font=font(13))
    return page


def score_at(seen: Seen, cell: Cell, member: int) -> float | None:
    """The member's image score at a trained cell; None where it did not come so far."""
    for frame in seen.of():
        if cell in frame.cells and member in frame.members:
            return float(frame.score[cell.block][frame.place(member)])
    return None


def best_cell(probes: Probes) -> Cell:
    """The cell with the best out-of-fold image AUROC in the training study."""
    scores = probes.card.get("scores") or {}
    return max(probes.cells, key=lambda cell: float(scores.get(str(cell), {}).get("image_auroc", 0.0)))


def model_spec(name: str) -> ModelSpec:
    """The spec of a model of conf/model/, one picture a batch."""
    options = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "model" / f"{name}.yaml"))
    assert isinstance(options, dict)
    return ModelSpec.of({**{str(k): v for k, v in options.items()}, "batch_size": 1})


def open_probes(given: str | None, model: str) -> Probes:
    """From a folder, a repo of the Hub, or (None) the newest run of this model.

    Raises:
        ValueError: there are none, or they were trained on other weights.
    """
    local = given is None or Path(given).expanduser().is_dir()
    return load_probes(find_probes(model, given) if local else pull(str(given)), model_spec(model))


def _at(seen: Seen) -> str:
    frame = seen.frames[-1]
    return f"step {frame.step + 1} of {frame.num_steps}"
