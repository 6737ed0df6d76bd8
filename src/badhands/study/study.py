"""A study: one folder that holds its images, labels and activations, and can check itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from badhands.home import OUTPUTS
from badhands.study.choice import Choice
from badhands.study.journal import remove_unfinished, write_whole
from badhands.study.label_log import LabelLog
from badhands.study.labels import LabelRecord
from badhands.study.manifest import ImageEntry, Manifest, check_id, pixel_sha256
from badhands.study.previews import preview_path, read_previews

if TYPE_CHECKING:  # torch takes seconds and 200 MB, which the labelling page does not need
    from badhands.study.activations import ActivationCache


def study_folder(name: str | Path) -> Path:
    """`outputs/studies/<name>` for a bare name; anything with a slash is a path."""
    return Path(name).expanduser() if "/" in str(name) else OUTPUTS / "studies" / check_id(str(name))


class Study:
    """An existing study.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"there is no study at {self.root}: make it with `python extract.py`")
        self.manifest = Manifest(self.root / "manifest.jsonl")
        self.labels = LabelLog(self.root / "labels.jsonl")

    @classmethod
    def create(cls, root: Path | str) -> "Study":
        """Make the folder if needed, and clear away the temporary files of killed writers."""
        for folder in ("images", "fingerprints", "activations"):
            (Path(root) / folder).mkdir(parents=True, exist_ok=True)
        study = cls(root)
        for folder in (study.root, *(path for path in study.root.rglob("*") if path.is_dir())):
            remove_unfinished(folder)
        return study

    @property
    def name(self) -> str:
        return self.root.name

    def image_path(self, image_id: str) -> Path:
        return self.root / "images" / f"{check_id(image_id)}.png"

    def image(self, image_id: str) -> Image.Image:
        """The stored picture, RGB.

        Raises:
            ValueError: it is not in the manifest, missing, unreadable, or its pixels are not those of the manifest.
        """
        entry = self.manifest.by_id.get(image_id)
        if entry is None:
            raise ValueError(f"{self.root}: the manifest has no image {image_id!r}")
        return self.verified(entry)

    def fingerprint_path(self, fingerprint: str) -> Path:
        return self.root / "fingerprints" / f"{fingerprint}.json"

    def fingerprint(self, fingerprint: str) -> dict[str, Any]:
        """What the generation depended on, in full.

        Raises:
            ValueError: it is not recorded.
        """
        path = self.fingerprint_path(fingerprint)
        if not path.is_file():
            raise ValueError(f"{path} is missing: the study does not know how its images {fingerprint} were made")
        return json.loads(path.read_text())

    def write_fingerprint(self, fingerprint: str, content: dict[str, Any]) -> None:
        """Record it once; it never changes, since its name is its hash."""
        path = self.fingerprint_path(fingerprint)
        if not path.exists():
            write_whole(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    def activations_folder(self, fingerprint: str) -> Path:
        return self.root / "activations" / fingerprint

    def activation_path(self, fingerprint: str, image_id: str) -> Path:
        return self.activations_folder(fingerprint) / f"{check_id(image_id)}.safetensors"

    def previews(self, image_id: str) -> dict[int, NDArray[np.uint8]]:
        """Predicted clean pictures of an image: timestep -> uint8[h, w, 3].

        Raises:
            ValueError: it has none, or the file is damaged.
        """
        return read_previews(preview_path(self.root, self.manifest.by_id[image_id].fingerprint, image_id))

    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprints that have activations."""
        folder = self.root / "activations"
        return tuple(sorted(path.name for path in folder.glob("*") if any(path.glob("*.safetensors"))))

    def activations(self, fingerprint: str | None = None, choice: Choice | None = None) -> "ActivationCache":
        """The activation cache, images in the manifest's order.

        Args:
            fingerprint: None takes the only one there is.
            choice: read its images alone, but those that were refused; None: every file of the folder.

        Raises:
            ValueError: there are none, or several to choose from, or a chosen image has no file.
        """
        from badhands.study.activations import ActivationCache

        if fingerprint is None:
            found = self.fingerprints()
            if len(found) != 1:
                named = f"several, name one of {', '.join(found)}" if found else "none yet, run `python extract.py`"
                raise ValueError(f"study {self.name} has activations of {named}")
            fingerprint = found[0]
        folder = self.activations_folder(fingerprint)
        position = {entry.id: i for i, entry in enumerate(self.manifest.entries)}
        ids = None if choice is None else set(choice.ids) - set(choice.refused)
        whole = ActivationCache(folder, ids=ids)
        ordered = sorted(whole.images, key=lambda info: (position.get(info.id, len(position)), info.id))
        return ActivationCache(folder, ordered, opened=whole)

    def relabelled(self, choice: Choice) -> list[str]:
        """Images of the choice whose label has changed (or gone) since they were chosen."""
        records: dict[str, list[LabelRecord]] = {}
        for (image_id, _), record in self.labels.latest().items():
            records.setdefault(image_id, []).append(record)
        counting = {image.id: choice.rule.counting(records.get(image.id, [])) for image in choice.images}
        return [
            image.id
            for image in choice.images
            if (record := counting[image.id]) is None or record.digest != image.label_digest
        ]

    def check(self, pixels: bool = True, absent: bool = True) -> list[str]:
        """Everything in the folder that does not fit together, one sentence each; empty when all is well.

        Args:
            pixels: also decode every picture and compare its hash.
            absent: name pictures that are not there; extract.py makes them again.
        """
        return list(self._problems(pixels, absent))

    def _problems(self, pixels: bool, absent: bool) -> Iterator[str]:
        try:
            entries = self.manifest.entries
        except ValueError as error:
            yield str(error)
            return
        by_id: dict[str, ImageEntry] = {}
        texts: dict[str, str] = {}
        for entry in entries:
            if entry.id in by_id:
                yield f"manifest.jsonl: two lines have the id {entry.id!r}; remove one"
            by_id[entry.id] = entry
            if entry.prompt_id and texts.setdefault(entry.prompt_id, entry.prompt) != entry.prompt:
                yield f"manifest.jsonl: two prompts have the id {entry.prompt_id!r}: image {entry.id} has the second"
            if not self.fingerprint_path(entry.fingerprint).is_file():
                yield f"image {entry.id}: fingerprints/{entry.fingerprint}.json is missing"
            try:
                if not self.image_path(entry.id).exists():
                    if absent:
                        yield f"image {entry.id}: {self.image_path(entry.id)} is missing"
                elif pixels:
                    self.verified(entry)
            except ValueError as error:
                yield str(error)
        yield from self._label_problems(by_id)
        for path in sorted((self.root / "activations").glob("*/*.safetensors")):
            yield from self._activation_problems(path, by_id)

    def _label_problems(self, by_id: dict[str, ImageEntry]) -> Iterator[str]:
        try:
            records: list[LabelRecord] = list(self.labels.latest().values())
        except ValueError as error:
            yield f"labels.jsonl: {error}"
            return
        for record in records:
            entry = by_id.get(record.image_id)
            if entry is None:
                yield f"labels.jsonl: {record.annotator} labelled {record.image_id!r}, which the manifest lacks"
            elif record.grid != entry.grid:
                yield (
                    f"labels.jsonl: {record.annotator}'s label of {record.image_id!r} is on a grid of "
                    f"{record.grid[0]} x {record.grid[1]}, the image has {entry.grid[0]} x {entry.grid[1]} tokens"
                )

    def _activation_problems(self, path: Path, by_id: dict[str, ImageEntry]) -> Iterator[str]:
        from badhands.study.activation_file import ImageFile

        try:
            file = ImageFile(path)
        except ValueError as error:
            yield str(error)
            return
        entry = by_id.get(path.stem)
        if entry is None:
            yield f"{path}: activations of an image that the manifest lacks; remove the file"
        elif tuple(file.meta["grid"]) != entry.grid or (
            len(file) and file.tokens.max() >= entry.grid[0] * entry.grid[1]
        ):
            yield f"{path}: its tokens do not lie on the image's grid of {entry.grid[0]} x {entry.grid[1]}"
        elif path.parent.name != entry.fingerprint:
            yield f"{path}: the image was made with fingerprint {entry.fingerprint}; remove the file"

    def verified(self, entry: ImageEntry) -> Image.Image:
        """The entry's picture, RGB; raises ValueError as `image`."""
        path = self.image_path(entry.id)
        try:
            if path.exists() and not path.is_file():  # a pipe would make us wait for its writer
                raise ValueError(f"image {entry.id}: {path} is not a file; remove it and run extract again")
            with Image.open(path) as stored:
                if stored.size != (entry.width, entry.height):  # told before a huge picture is decoded
                    raise ValueError(
                        f"image {entry.id}: {path} has {stored.width} x {stored.height} px, the manifest says "
                        f"{entry.width} x {entry.height}; the pixels are not those of the manifest"
                    )
                image = stored.convert("RGB")
        except FileNotFoundError:
            raise ValueError(f"image {entry.id}: {path} is missing") from None
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"image {entry.id}: {path} cannot be read as a picture ({error})") from None
        if pixel_sha256(image) != entry.sha256:
            raise ValueError(
                f"image {entry.id}: the pixels of {path} are not those of the manifest; the file was changed. "
                "Restore it, or remove it and run extract again"
            )
        return image
