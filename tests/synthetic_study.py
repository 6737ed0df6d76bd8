"""A whole study folder, made without a model: pictures, labels, and activations with a planted difference."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from badhands.cells import Cell
from badhands.study.activations import ActivationCache, write_image
from badhands.study.choice import Choice, ChosenImage, LabelChoice
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry, pixel_sha256
from badhands.study.study import Study
from synthetic_cache import Planted, write_cache

FINGERPRINT = "0123456789ab"


Change = Callable[[int, Cell, Tensor], Tensor]


def write_study(root: Path, change: Change = lambda image, cell, x: x, **planted: object) -> Planted:
    """The study at `root`, from `synthetic_cache.write_cache(**planted)`; 64 x 64 pictures, blue or orange by class.

    `change` is done to the activations of every image and cell.
    """
    known = write_cache(root / "plain", **planted)  # pyright: ignore[reportArgumentType]
    plain = ActivationCache(root / "plain")
    study = Study.create(root)
    study.write_fingerprint(FINGERPRINT, {"model": "synthetic"})
    for i, (info, meta) in enumerate(zip(plain.images, plain.meta, strict=True)):
        bad = known.image_class[i] == 2
        pixels = np.random.default_rng(i).integers(0, 60, (64, 64, 3), np.uint8)
        image = Image.fromarray(pixels + np.array([140, 90, 40] if bad else [40, 90, 140], np.uint8))
        image.save(study.image_path(info.id))
        study.manifest.append(
            ImageEntry(info.id, info.prompt, info.seed, FINGERPRINT, pixel_sha256(image), 64, 64, info.grid)
        )
        mine = plain.tokens.image == i
        token, label, kind = (getattr(plain.tokens, name)[mine] for name in ("token", "label", "kind"))
        classes, kinds = (np.zeros(info.grid[0] * info.grid[1], np.uint8) for _ in range(2))
        classes[token], kinds[token] = label, np.where(label == 2, kind, 0)
        record = LabelRecord(info.id, "judge", "", 0.0, classes.reshape(info.grid), kinds.reshape(info.grid))
        study.labels.append(record)
        meta = {**meta, "annotator": "judge", "label_digest": record.digest}
        values = {cell: change(i, cell, x) for cell, x in plain.read_image(i).items()}
        write_image(study.activations_folder(FINGERPRINT), info.id, values, token, label, kind, meta)
    records = study.labels.latest()
    rule = LabelChoice("judge", "judge")
    verdicts = {name: record.hand_verdict for (name, _), record in records.items()}
    images = tuple(ChosenImage(i, str(v), "judge", records[i, "judge"].digest, "") for i, v in verdicts.items())
    count = {v: sum(verdict == v for verdict in verdicts.values()) for v in ("good", "bad")}
    Choice(rule, images, labelled=sum(count.values()), bad=count["bad"]).write(study.root)
    return known
