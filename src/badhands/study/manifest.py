"""The list of a study's images: what each was made from, and the hash of its pixels."""

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from badhands.study.journal import Journal

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def check_id(text: str) -> str:
    """An id becomes a file name, so: 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot.

    Raises:
        ValueError: it is not such.
    """
    if not isinstance(text, str) or _ID.fullmatch(text) is None:
        raise ValueError(f"{text!r} cannot be an id: use 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot")
    return text


def pixel_sha256(image: Image.Image) -> str:
    """sha256 over the size and the raw RGB bytes: the same for every lossless way to store the picture."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


@dataclass(frozen=True)
class ImageEntry:
    """One line of `manifest.jsonl`."""

    id: str
    prompt: str
    seed: int
    fingerprint: str
    """12 hex digits: everything that changes the generation, see `fingerprints/<fingerprint>.json`."""
    sha256: str
    """`pixel_sha256` of the picture."""
    width: int
    height: int
    """Pixels."""
    grid: tuple[int, int]
    """Tokens (h, w)."""
    axes: dict[str, str] = field(default_factory=dict)
    """The prompt's fields (style, scale ...), to split results by."""
    prompt_id: str = ""

    def __post_init__(self) -> None:
        check_id(self.id)
        object.__setattr__(self, "grid", (int(self.grid[0]), int(self.grid[1])))
        height, width = self.grid
        if height < 1 or width < 1 or self.height % height or self.width % width:
            raise ValueError(
                f"image {self.id}: a token grid of {height} x {width} does not divide {self.height} x {self.width} px"
            )

    @property
    def patch(self) -> int:
        """Pixel size of one token."""
        return self.height // self.grid[0]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "ImageEntry":
        """Inverse of `asdict`.

        Raises:
            ValueError: a field is missing, unknown, or does not fit.
        """
        try:
            return cls(**{**row, "grid": tuple(row["grid"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"manifest line of {row.get('id')!r}: {error}") from None


@dataclass
class Manifest:
    """`manifest.jsonl`, append-only."""

    path: Path
    _journal: "_ById" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self._journal = _ById(self.path)
        self._reading = threading.Lock()

    def append(self, entry: ImageEntry) -> bool:
        """Add an image, on disk when this returns. An entry that is there already (another worker's) is left alone.

        Raises:
            ValueError: another image has this id.
        """

        def known() -> bool:
            row = self._journal.by_id.get(entry.id)
            if row is not None and ImageEntry.from_json(row) != entry:
                raise ValueError(f"{self.path} has another image {entry.id!r}: use another id or another study")
            return row is not None

        return self._journal.append(asdict(entry), unless=known)

    @property
    def entries(self) -> tuple[ImageEntry, ...]:
        """All images, in the order of the file."""
        return tuple(self._read().parsed)

    @property
    def by_id(self) -> Mapping[str, ImageEntry]:
        """Raises ValueError where two lines have one id."""
        read = self._read()
        if len(read.entry_of) < len(read.parsed):
            seen: set[str] = set()
            twice = next(entry.id for entry in read.parsed if entry.id in seen or seen.add(entry.id))
            raise ValueError(f"{self.path}: two lines have the id {twice!r}; remove one")
        return read.entry_of

    def _read(self) -> "_ById":
        """The journal with all its lines parsed, each once: some ask for an image at a time, and from threads."""
        with self._reading:
            rows, parsed = self._journal.rows(), self._journal.parsed
            for row in rows[len(parsed) :]:
                entry = ImageEntry.from_json(row)
                parsed.append(entry)
                self._journal.entry_of.setdefault(entry.id, entry)
            return self._journal

    def sort(self, order: Mapping[str, int]) -> None:
        """Bring the lines into this order of ids (unknown ids last, as they stood): several workers, one file."""
        self._journal.sort(key=lambda row: order.get(row["id"], len(order)))


class _ById(Journal):
    """A journal that finds the first line of an id without reading through all of them."""

    def _forget(self) -> None:
        super()._forget()
        self.by_id: dict[Any, dict[str, Any]] = {}
        self.parsed: list[ImageEntry] = []
        self.entry_of: dict[str, ImageEntry] = {}

    def _take(self, row: dict[str, Any], start: int, size: int) -> None:
        super()._take(row, start, size)
        self.by_id.setdefault(row.get("id"), row)
