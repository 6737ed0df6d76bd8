"""Stage 1: every planned image, drawn once. Its sketch first, then the picture, then its line in the manifest."""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from badhands.cells import Cell
from badhands.diffusion.fingerprint import differences
from badhands.diffusion.generation import Embedding
from badhands.diffusion.workers import Workers
from badhands.extraction.job import Job
from badhands.extraction.plan import Planned, check_plan
from badhands.extraction.renderer import Renderer
from badhands.study.journal import write_whole
from badhands.study.manifest import ImageEntry, pixel_sha256
from badhands.study.sketches import sketch_path, write_sketch
from badhands.study.study import Study

log = logging.getLogger(__name__)
T = TypeVar("T")
Generation = tuple[str, dict[str, Any]]
"""Fingerprint, and the facts behind it."""

ASKED = ("weights", "dtype", "quantization", "compile", "height", "width", "steps", "guidance", "max_sequence_length")
"""Facts of a fingerprint that a user chooses; the others say where and with what it ran."""


@dataclass(frozen=True)
class RenderTask:
    """One batch of images to draw."""

    root: Path
    fingerprint: str
    grid: tuple[int, int]
    images: tuple[Planned, ...]
    embeddings: tuple[Embedding, ...]
    sketch: Cell | None = None
    """The cell whose tokens are sketched on the way."""


def ready_images(job: Job, study: Study) -> dict[str, ImageEntry]:
    """Planned images that are in the manifest and have their picture, in the plan's order."""
    known = study.manifest.by_id
    return {p.id: known[p.id] for p in job.plan if p.id in known and study.image_path(p.id).exists()}


def open_study(job: Job, made_by: Generation) -> Study:
    """The study's folder, made if needed, and sound.

    Raises:
        ValueError: what does not fit: a picture, label or activation file that contradicts the manifest, images that
            were made from other prompts, sizes or settings.
    """
    study = Study.create(job.root)
    problems = study.check(absent=False)
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"study {study.root} does not fit together:\n  " + "\n  ".join(problems[:10]) + more)
    check_plan(job.plan, study.manifest.by_id, job.spec.height, job.spec.width)
    for fingerprint in sorted({entry.fingerprint for entry in study.manifest.entries}):
        stored = study.fingerprint(fingerprint)
        asked = differences(*({key: f.get(key) for key in ASKED} for f in (stored, made_by[1])))
        if asked:
            raise ValueError(f"study {study.name} was made otherwise ({'; '.join(asked)}): name another study=")
        ran = differences(stored, made_by[1])
        if ran:
            # No error: the replay's comparison with the stored pictures will show whether it matters.
            log.warning("images of study %s were made elsewhere: %s", study.name, "; ".join(ran))
    return study


def make_images(job: Job, study: Study, workers: Workers, made_by: Generation) -> dict[str, Embedding]:
    """Draw what is missing of this worker's share; returns the text embeddings that it needed."""
    ready = ready_images(job, study)
    missing = [planned for planned in job.mine if planned.id not in ready]
    if not missing:
        return {}
    fingerprint, facts = made_by
    study.write_fingerprint(fingerprint, facts)
    # All prompts, not only the missing ones': when the captures come, the transformer has taken the encoders' place.
    embeddings = workers.here.embed(planned.prompt.text for planned in job.mine)
    grid = (job.tokens.h, job.tokens.w)

    def tasks() -> Iterator[RenderTask]:
        for batch in batches(missing, job.spec.batch_size):
            done = ready_images(job, study) if job.shard.count > 1 else {}
            images = tuple(planned for planned in batch if planned.id not in done)
            bar.update(len(batch) - len(images))
            if images:
                texts = tuple(embeddings[planned.prompt.text] for planned in images)
                yield RenderTask(job.root, fingerprint, grid, images, texts, job.sketch)

    with tqdm(total=len(job.mine), initial=len(job.mine) - len(missing), desc="images", unit="image") as bar:
        for count in workers.map(render_batch, tasks()):
            bar.update(count)
    study.manifest.sort({planned.id: i for i, planned in enumerate(job.plan)})
    return embeddings


def render_batch(renderer: Renderer, task: RenderTask) -> int:
    """Draw and store one batch; returns its size."""
    study = Study(task.root)
    seeds = [planned.seed for planned in task.images]
    if task.sketch is None:
        pictures = renderer.render(task.embeddings, seeds)
    else:
        pictures = []
        sketched = renderer.sketch(task.embeddings, seeds, task.sketch)
        for planned, (picture, sketch) in zip(task.images, sketched, strict=True):
            write_sketch(sketch_path(task.root, task.fingerprint, planned.id), sketch, task.sketch)
            pictures.append(picture)
    for planned, picture in zip(task.images, pictures, strict=True):
        data = io.BytesIO()
        picture.convert("RGB").save(data, format="PNG")
        entry = ImageEntry(
            id=planned.id,
            prompt=planned.prompt.text,
            seed=planned.seed,
            fingerprint=task.fingerprint,
            sha256=pixel_sha256(picture),
            width=picture.width,
            height=picture.height,
            grid=task.grid,
            axes=planned.prompt.axes,
            prompt_id=planned.prompt.id,
        )
        write_whole(study.image_path(planned.id), data.getvalue())
        study.manifest.append(entry)
    return len(pictures)


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of `size`; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
