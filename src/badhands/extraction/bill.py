"""What a run will cost, before it costs it: images, cells, tokens, disk, time."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from badhands.extraction.images import ready_images
from badhands.extraction.job import Job
from badhands.extraction.renderer import Renderer
from badhands.extraction.verdicts import chosen_ids, records_by_image, strata_of
from badhands.study.activation_file import ImageFile
from badhands.study.classes import BAD, GOOD
from badhands.study.labels import LabelRecord
from badhands.study.study import Study

HEADER_BYTES = 20_000
"""Of one activation file: header and token table."""


@dataclass(frozen=True)
class Bill:
    """Counts and bytes of one job; `left` is what is not on disk yet."""

    images: int
    images_left: int
    labelled: int
    """Images with painted (or judged) hand tokens."""
    captures: int
    """Images to be captured; before there are labels, all of them: the most that can come."""
    captures_left: int
    cells: int
    tokens: float
    """Captured tokens an image, mean."""
    tokens_known: bool
    image_bytes: int
    """One picture and its sketch, at most."""
    capture_bytes: int
    """One image's activations."""
    free: int
    where: Path

    @property
    def bytes_left(self) -> int:
        return self.images_left * self.image_bytes + self.captures_left * self.capture_bytes

    def check_disk(self) -> None:
        """Raises ValueError if what is left does not fit."""
        if self.bytes_left > self.free:
            raise ValueError(
                f"not enough disk: {size(self.bytes_left)} are to be written, {self.where} has {size(self.free)} free; "
                "set BADHANDS_OUTPUTS to a folder on a larger disk, or lower images= or the capture"
            )


def make_bill(job: Job, labels: Mapping[str, LabelRecord] | None = None) -> Bill:
    """Look at what is there and count. `labels` are those that count, None if unknown: then those in the study."""
    study = Study(job.root) if job.root.is_dir() else None
    ready = ready_images(job, study) if study else {}
    if labels is None:
        counting = {i: job.labels.counting(records) for i, records in records_by_image(study).items()} if study else {}
        labels = {image_id: record for image_id, record in counting.items() if record is not None}
    plan = {planned.id for planned in job.plan}
    painted = {i: record for i, record in labels.items() if record.painted and i in plan}
    verdicts = {i: record.hand_verdict for i, record in painted.items()}
    both = {"good", "bad"} <= set(verdicts.values())
    chosen = chosen_ids(job, verdicts, strata_of(job, verdicts)) if both else list(verdicts)
    mine = [planned.id for planned in job.mine]
    if chosen:
        rows = [_tokens(record, job.not_hand_tokens) for record in (painted[i] for i in chosen)]
        tokens = float(np.mean(rows))
        share = [i for i in mine if i in set(chosen)]
    else:
        tokens = min(len(job.tokens), job.not_hand_tokens + job.hand_share * len(job.tokens))
        # People label between two runs: what they will choose is billed and checked then.
        share = mine
    done = sum(_complete(job, study, i) for i in share) if study and ready else 0
    per_token = sum(job.cell_bytes(cell) for cell in job.cells)
    return Bill(
        images=len(mine),
        images_left=sum(i not in ready for i in mine),
        labelled=len(painted),
        captures=len(share),
        captures_left=len(share) - done,
        cells=len(job.cells),
        tokens=tokens,
        tokens_known=bool(chosen),
        image_bytes=job.spec.height * job.spec.width * 3 + 4096 + job.sketch_bytes,
        capture_bytes=round(tokens * per_token) + HEADER_BYTES + job.preview_bytes,
        free=shutil.disk_usage(_existing(job.root)).free,
        where=_existing(job.root),
    )


def print_bill(job: Job, bill: Bill, seconds: float | None) -> str:
    """The bill as text. `seconds` are those of one image, from `trial`; None: no weights here."""
    spec, evaluations = job.spec, (bill.images_left + bill.captures_left) * job.spec.steps
    guess = "" if bill.tokens_known else " (a guess before there are labels)"
    most = "" if bill.tokens_known else "at most "
    if seconds is None:
        clock = f"unknown: the weights of {spec.path} are not on this machine"
    else:
        total = (bill.images_left + bill.captures_left) * seconds / job.workers
        clock = f"{most}{duration(total)}: {seconds:.2f} s an image, {job.workers} workers (trial batch)"
    rows = [
        ("study", str(job.root)),
        ("model", f"{spec.path}, {spec.height} x {spec.width} px, {spec.steps} steps, {spec.dtype}"),
        ("prompts", f"{len(job.prompts)}, for example {job.prompts[0].text!r}"),
        ("images", f"{bill.images}, of which {bill.images - bill.images_left} are there"),
        ("labels", f"{job.labels.source}, {bill.labelled} images with hands labelled so far"),
        ("captures", f"{most}{bill.captures} images, of which {bill.captures - bill.captures_left} are there"),
        ("cells", f"{bill.cells} = {len(job.blocks)} blocks x {len(job.timesteps)} timesteps: {', '.join(job.blocks)}"),
        ("timesteps", ", ".join(map(str, job.timesteps))),
        ("tokens", f"about {bill.tokens:.0f} an image{guess}"),
        (
            "disk",
            f"{most}{size(bill.bytes_left)} to write, {size(bill.capture_bytes)} an image; {size(bill.free)} free",
        ),
        ("work", f"{most}{evaluations:,} transformer evaluations"),
        ("time", clock),
    ]
    return "\n".join(f"{name:<10} {value}" for name, value in rows)


def trial(job: Job, renderer: Renderer) -> float:
    """Seconds that one image takes: a batch is drawn (after one to warm up where batches are small) and thrown away."""
    planned = job.plan[: job.spec.batch_size]
    texts = renderer.embed(p.prompt.text for p in planned)
    elapsed = 0.0
    for _ in range(2):
        start = time.perf_counter()
        renderer.render([texts[p.prompt.text] for p in planned], [p.seed for p in planned])
        elapsed = time.perf_counter() - start
        if elapsed > 20:
            break
    return elapsed / len(planned)


def size(number: float) -> str:
    """Bytes as text."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _tokens(record: LabelRecord, not_hand: int) -> int:
    hand = int(np.sum((record.classes == GOOD) | (record.classes == BAD)))
    return hand + min(not_hand, record.classes.size - hand)


def _complete(job: Job, study: Study, image_id: str) -> bool:
    entry = study.manifest.by_id.get(image_id)
    if entry is None:
        return False
    path = study.activation_path(entry.fingerprint, image_id)
    return path.exists() and set(job.cells) <= set(ImageFile(path).cells)


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
