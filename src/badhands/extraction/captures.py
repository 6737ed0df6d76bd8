"""Stage 3: each chosen image is made again with hooks on; its activations count only if it is the same picture."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from badhands.cells import Cell, in_order
from badhands.diffusion.fingerprint import differences
from badhands.diffusion.generation import Embedding
from badhands.diffusion.workers import Workers
from badhands.extraction.images import Generation, batches
from badhands.extraction.job import Job
from badhands.extraction.renderer import Renderer, Replay
from badhands.study.activation_file import ImageFile, NotFinite, named, write_image
from badhands.study.labels import LabelRecord, token_rows
from badhands.study.manifest import ImageEntry, pixel_sha256
from badhands.study.previews import preview_path, preview_timesteps, write_previews
from badhands.study.study import Study

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is to be captured of one image."""

    entry: ImageEntry
    tokens: NDArray[np.int32]
    """[n], ascending."""
    classes: NDArray[np.uint8]
    kinds: NDArray[np.uint8]
    cells: tuple[Cell, ...]
    """Empty: all is there."""
    previews: tuple[int, ...]
    """Timesteps whose preview is missing."""
    replace: bool
    """The file there was made for other labels or tokens."""
    annotator: str
    label_digest: str


@dataclass(frozen=True)
class ReplayTask:
    """One batch to be replayed, all with the same cells."""

    root: Path
    fingerprint: str
    tolerance: float | None
    longest: int
    """Side of the previews, px."""
    timesteps: tuple[int, ...]
    cells: tuple[Cell, ...]
    images: tuple[Wanted, ...]
    embeddings: tuple[Embedding, ...]


@dataclass(frozen=True)
class Refusal:
    """An image that was not captured."""

    image_id: str
    fingerprint: str
    reason: str
    differs: bool
    """The replay made another picture."""


def wanted_of(job: Job, study: Study, entry: ImageEntry, record: LabelRecord) -> Wanted:
    """The tokens of an image and the cells that its file lacks.

    Raises:
        ValueError: the label lies on another grid, or the file is damaged.
    """
    if record.grid != entry.grid:
        raise ValueError(f"label of {entry.id} by {record.annotator}: its grid {record.grid} is not {entry.grid}")
    tokens = token_rows(record, job.not_hand_tokens, job.labels.seed, entry.id)
    classes = record.classes.ravel()[tokens]
    kinds = np.zeros_like(classes) if record.kinds is None else record.kinds.ravel()[tokens]
    cells, replace = job.cells, False
    path = study.activation_path(entry.fingerprint, entry.id)
    if path.exists():
        file = ImageFile(path)
        there = (file.tokens, file.table("classes").numpy(), file.table("kinds").numpy())
        same = all(np.array_equal(a, b) for a, b in zip(there, (tokens, classes, kinds), strict=True))
        replace = not same or file.meta.get("label_digest") != record.digest
        # A changed label changes the tokens: then the cells of earlier captures are taken anew as well.
        cells = in_order((*job.cells, *file.cells)) if replace else in_order(set(job.cells) - set(file.cells))
    previews: tuple[int, ...] = ()
    if job.previews:
        there = preview_timesteps(preview_path(study.root, entry.fingerprint, entry.id))
        previews = tuple(t for t in job.timesteps if t not in there)
    return Wanted(entry, tokens, classes, kinds, cells, previews, replace, record.annotator, record.digest)


def capture_images(
    job: Job,
    study: Study,
    chosen: Mapping[str, LabelRecord],
    workers: Workers,
    made_by: Generation,
    embeddings: dict[str, Embedding],
) -> list[Refusal]:
    """Replay and store what is missing of this worker's share; returns what was refused, which is also logged.

    Args:
        chosen: image id -> label, of all shares.
        embeddings: texts encoded already.

    Raises:
        ValueError: every image was refused.
    """
    fingerprint, facts = made_by
    entries, share = study.manifest.by_id, {planned.id for planned in job.mine}
    wanted = [
        wanted_of(job, study, entries[image_id], record) for image_id, record in chosen.items() if image_id in share
    ]
    missing = [w for w in wanted if w.cells or w.previews]
    if not missing:
        return []
    lacking = [w.entry.prompt for w in missing if w.entry.prompt not in embeddings]
    if lacking:
        embeddings = embeddings | workers.here.embed(lacking)

    def tasks() -> Iterator[ReplayTask]:
        for cells in dict.fromkeys(w.cells for w in missing):
            group = [w for w in missing if w.cells == cells]  # what is missing of previews may differ inside it
            for batch in batches(group, job.spec.batch_size):
                texts = tuple(embeddings[w.entry.prompt] for w in batch)
                yield ReplayTask(
                    job.root, fingerprint, job.tolerance, job.previews, job.timesteps, cells, tuple(batch), texts
                )

    refused: list[Refusal] = []
    total = len(wanted)
    with tqdm(total=total, initial=total - len(missing), desc="activations", unit="image") as bar:
        for task, problems in workers.map(replay_batch, tasks(), store_batch):
            refused += problems
            bar.update(len(task.images))
    for line in explain(study, refused, facts):
        log.warning(line)
    if len(refused) == len(missing):
        reasons = " ".join(explain(study, refused, facts))
        raise ValueError(f"none of {len(missing)} images could be captured. {reasons}")
    return refused


def replay_batch(renderer: Renderer, task: ReplayTask) -> list[Replay]:
    """The pictures of a batch, made again."""
    blocks = list(dict.fromkeys(cell.block for cell in task.cells)) or ["x0"]  # only previews are missing
    timesteps = list(dict.fromkeys(cell.timestep for cell in task.cells)) or task.timesteps
    seeds = [w.entry.seed for w in task.images]
    previews = tuple(t for t in task.timesteps if any(t in w.previews for w in task.images))
    return renderer.replay(task.embeddings, seeds, blocks, timesteps, [w.tokens for w in task.images], previews)


def store_batch(task: ReplayTask, replays: list[Replay]) -> list[Refusal]:
    """Store what is true of a batch; returns what is not. The next batch is being drawn meanwhile."""
    study = Study(task.root)
    found = [_store(study, task, wanted, replay) for wanted, replay in zip(task.images, replays, strict=True)]
    return [refusal for refusal in found if refusal is not None]


def _store(study: Study, task: ReplayTask, wanted: Wanted, replay: Replay) -> Refusal | None:
    entry = wanted.entry
    noted: dict[str, Any] = {}
    if pixel_sha256(replay.image) != entry.sha256:
        psnr = round(psnr_db(np.asarray(study.verified(entry)), np.asarray(replay.image.convert("RGB"))), 2)
        if task.tolerance is None or psnr < task.tolerance:
            return Refusal(entry.id, entry.fingerprint, f"the replay is another picture (PSNR {psnr} dB)", True)
        noted = {"replay_psnr": psnr, "replay_fingerprint": task.fingerprint}
    try:
        if task.cells:
            _write_activations(study, task, wanted, replay, noted)
    except NotFinite as error:
        return Refusal(entry.id, entry.fingerprint, f"activations are not finite in {named(error.cells)}", False)
    if wanted.previews:
        write_previews(preview_path(study.root, entry.fingerprint, entry.id), replay.previews, task.longest)
    return None


def _write_activations(study: Study, task: ReplayTask, wanted: Wanted, replay: Replay, noted: dict[str, Any]) -> None:
    entry = wanted.entry
    used = {cell.timestep for cell in task.cells}
    meta = {
        "prompt": entry.prompt,
        "prompt_id": entry.prompt_id,
        "axes": entry.axes,
        "seed": entry.seed,
        "grid": list(entry.grid),
        "steps": {t: pair for t, pair in replay.steps.items() if t in used},
        "image_sha256": entry.sha256,
        "annotator": wanted.annotator,
        "label_digest": wanted.label_digest,
        **noted,
    }
    folder = study.activations_folder(entry.fingerprint)
    tensors = {cell: replay.tensors[cell] for cell in task.cells}
    write_image(folder, entry.id, tensors, wanted.tokens, wanted.classes, wanted.kinds, meta, replace=wanted.replace)


def explain(study: Study, refused: Sequence[Refusal], facts: dict[str, Any]) -> list[str]:
    """One line a reason: which images, and for other pictures what differs between then and now."""
    lines = []
    for key in dict.fromkeys((r.fingerprint, r.differs) for r in refused):
        group = [r for r in refused if (r.fingerprint, r.differs) == key]
        names = ", ".join(f"{r.image_id}: {r.reason}" for r in group[:3])
        more = f" and {len(group) - 3} more" if len(group) > 3 else ""
        line = f"nothing was written for {len(group)} images ({names}{more})."
        if key[1]:
            changed = differences(study.fingerprint(key[0]), facts)
            cause = "; ".join(changed) or "nothing in the fingerprint, so the model's kernels are not deterministic"
            line += (
                f" Between then and now differs: {cause}. Use the same setting, or allow a PSNR: replay.tolerance=40"
            )
        lines.append(line)
    return lines


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures, dB; infinite for equal ones, 0 for pictures of unequal size."""
    if a.shape != b.shape:
        return 0.0
    mse = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if mse == 0 else 10 * float(np.log10(255**2 / mse))
