"""A labelled study as a dataset that anybody can load: parquet with pictures and labels, masks, a card. And back.

    README.md                         the card
    data/images.parquet               a row an image: picture, prompt, seed, size, grid, hash of the pixels, fingerprint
    data/labels.parquet               a row a label: token classes and kinds row-major on the grid, verdict, annotator
    masks/<annotator>/<image>.png     the same labels as pictures (values: badhands.label.exchange.png_masks)
    fingerprints/<fingerprint>.json   what the generation depended on

Activations stay where they are: extract.py makes them again from these files, pixel for pixel.
"""

import json
from collections import Counter
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from badhands.label.changes import JUDGE
from badhands.label.exchange.png_masks import write_masks
from badhands.study.labels import VERDICTS, LabelRecord
from badhands.study.manifest import ImageEntry, pixel_sha256
from badhands.study.privacy import pseudonyms, refuse_private, texts_of, without_paths
from badhands.study.study import Study

COLUMNS = ("image_id", "annotator", "time", "seconds", "verdict", "note", "accepted_proposal", "confidence", "repeat")
"""Of a label, beside its token classes and kinds."""


def export_study(study: Study, folder: Path, *, license: str, names: bool = False) -> Path:
    """Write the dataset into `folder`, which must be empty or missing.

    Args:
        license: as the Hub writes it; images of a model follow that model's licence.
        names: the annotators have agreed to their names, notes and times being published. Without it people become
            annotator_1, annotator_2, ..., and notes and times of day are left out.

    Raises:
        ValueError: something private in a prompt or a label, a folder that is not empty, a picture that was changed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: give a new folder with out=")
    entries = list(study.manifest.entries)
    records = list(study.labels.latest().values())
    if not entries or not records:
        raise ValueError(f"study {study.name} has {len(entries)} images and {len(records)} labels: both are needed")
    known = pseudonyms((record.annotator for record in records), (JUDGE,))
    if not names:
        records = [replace(r, annotator=known[r.annotator], note="", time="", change="") for r in records]
    records = [replace(record, change="") for record in records]
    fingerprints = {name: without_paths(study.fingerprint(name)) for name in {e.fingerprint for e in entries}}
    refuse_private(
        [
            *((f"the prompt of image {entry.id}", entry.prompt) for entry in entries),
            *(t for entry in entries for t in texts_of(entry.axes, f"image {entry.id}")),
            *((f"the note on image {record.image_id}", record.note) for record in records),
            *((f"the annotator of image {record.image_id}", record.annotator) for record in records),
            *(t for name, content in fingerprints.items() for t in texts_of(content, f"fingerprint {name}")),
        ]
    )
    (folder / "data").mkdir(parents=True)
    (folder / "fingerprints").mkdir()
    for name, content in fingerprints.items():
        (folder / "fingerprints" / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    rows = [_image_row(study, entry) for entry in tqdm(entries, desc="images", unit="image")]
    pd.DataFrame(rows).to_parquet(folder / "data" / "images.parquet", index=False)
    pd.DataFrame([_label_row(record) for record in records]).to_parquet(folder / "data" / "labels.parquet", index=False)
    write_masks(folder / "masks", {entry.id: entry for entry in entries}, records)
    (folder / "README.md").write_text(_card(study.name, entries, records, license, names))
    return folder


def import_study(folder: Path, root: Path) -> Study:
    """The study behind a dataset folder, at `root`: same images, prompts, seeds and labels.

    Raises:
        ValueError: no dataset of this form, a picture whose pixels are not those of its row, or a study already there.
    """
    parts = {name: folder / "data" / f"{name}.parquet" for name in ("images", "labels")}
    for path in parts.values():
        if not path.is_file():
            raise ValueError(f"{folder} is no published study: {path.relative_to(folder)} is missing")
    if root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} exists: name a new study with study=")
    images, labels = (pd.read_parquet(path).astype(object) for path in parts.values())
    pictures: list[tuple[ImageEntry, Image.Image]] = []
    for row in tqdm(images.to_dict("records"), desc="images", unit="image"):
        picture = Image.open(BytesIO(row["image"]["bytes"])).convert("RGB")
        entry = ImageEntry.from_json(
            {**{key: row[key] for key in ("id", "prompt", "fingerprint", "sha256", "prompt_id")},
             **{key: int(row[key]) for key in ("seed", "width", "height")},
             "grid": [int(v) for v in row["grid"]], "axes": json.loads(row["axes"])}
        )  # fmt: skip
        if pixel_sha256(picture) != entry.sha256:
            raise ValueError(
                f"{parts['images']}: the pixels of image {entry.id} are not those of its row; fetch it again"
            )
        pictures.append((entry, picture))
    grids = {entry.id: entry.grid for entry, _ in pictures}
    records = [_record(row, grids) for row in labels.to_dict("records")]
    study = Study.create(root)
    for path in sorted((folder / "fingerprints").glob("*.json")):
        study.write_fingerprint(path.stem, json.loads(path.read_text()))
    for entry, picture in pictures:
        picture.save(study.image_path(entry.id))
        study.manifest.append(entry)
    for record in records:
        study.labels.append(record)
    return study


def _image_row(study: Study, entry: ImageEntry) -> dict[str, Any]:
    stored = BytesIO()
    study.verified(entry).save(stored, "PNG")
    fields = asdict(entry)
    fields |= {"grid": list(entry.grid), "axes": json.dumps(entry.axes, sort_keys=True)}
    return {"image": {"bytes": stored.getvalue(), "path": f"{entry.id}.png"}, **fields}


def _label_row(record: LabelRecord) -> dict[str, Any]:
    kinds = None if record.kinds is None else record.kinds.ravel()
    return {
        **{name: getattr(record, name) for name in COLUMNS},
        "hand_verdict": record.hand_verdict,
        "classes": record.classes.ravel(),
        "kinds": kinds,
    }


def _record(row: dict[str, Any], grids: dict[str, tuple[int, int]]) -> LabelRecord:
    if row["image_id"] not in grids:
        raise ValueError(f"a label names image {row['image_id']!r}, which the dataset lacks: fetch it again")
    grid = grids[row["image_id"]]
    if len(row["classes"]) != grid[0] * grid[1]:
        raise ValueError(f"the label of image {row['image_id']!r} does not fill its grid of {grid}: fetch it again")
    kinds = row["kinds"]
    return LabelRecord(
        image_id=str(row["image_id"]),
        annotator=str(row["annotator"]),
        time=str(row["time"]),
        seconds=float(row["seconds"]),
        classes=np.asarray(row["classes"], np.uint8).reshape(grid),
        kinds=None if kinds is None else np.asarray(kinds, np.uint8).reshape(grid),
        verdict=row["verdict"] if row["verdict"] in VERDICTS else None,
        note=str(row["note"]),
        accepted_proposal=bool(row["accepted_proposal"]),
        confidence=None if pd.isna(row["confidence"]) else float(row["confidence"]),
        repeat=int(row["repeat"]),
    )


def _card(name: str, entries: list[ImageEntry], records: list[LabelRecord], license: str, names: bool) -> str:
    verdicts = Counter(record.hand_verdict or "no label" for record in records if not record.repeat)
    annotators = Counter(record.annotator for record in records)
    return "\n".join(
        [
            "---", f"license: {license}", "task_categories:", "- image-segmentation", "- image-classification",
            "tags:", "- badhands", "- text-to-image", "- generated-hands", f"pretty_name: badhands study {name}",
            f"size_categories:\n- {'n<1K' if len(entries) < 1000 else '1K<n<10K'}",
            "configs:", *(line for part in ("images", "labels") for line in
                          (f"- config_name: {part}", f"  data_files: data/{part}.parquet")),
            "dataset_info:", "- config_name: images", "  features:", "  - name: image", "    dtype: image", "---", "",
            f"# Study {name}: generated hands, labelled token by token", "",
            f"{len(entries)} images of {len({entry.prompt for entry in entries})} prompts, "
            f"{len(records)} labels: " + ", ".join(f"{n} {what}" for what, n in verdicts.most_common()) + ".", "",
            "Labels by " + ", ".join(f"{who} ({count})" for who, count in annotators.most_common()) + ". "
            + ("The annotators agreed to being named." if names else
               "People's names, notes and times of day are left out."), "",
            "Token classes: 0 unlabelled, 1 good hand, 2 bad hand, 3 not hand. Kinds of bad tokens: 1 local, 2 global "
            "error. Both lie row-major on the image's `grid` of tokens.", "",
            "    python -m badhands.publish repo=<this repo> study=mine back=true      # a study again", "",
            "## What not to conclude", "",
            "- A judge's labels are an instrument with errors; look at its card before you compare rates.",
            "- The prompts were chosen to show hands: the bad rate is theirs, not the model's in general.", "",
        ]
    )  # fmt: skip
