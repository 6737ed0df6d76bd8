"""The activation cache of a study: every image's file seen as one table of tokens, read without loading it whole."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from badhands.cells import Cell, in_order
from badhands.study.activation_file import ImageFile, check_same_steps, write_image

__all__ = ["ActivationCache", "ImageInfo", "TokenTable", "write_image"]


@dataclass(frozen=True)
class ImageInfo:
    """One image of the cache."""

    id: str
    prompt: str
    seed: int
    grid: tuple[int, int]
    """Tokens (h, w)."""


@dataclass(frozen=True, eq=False)
class TokenTable:
    """One entry a captured token; the rows of one image are contiguous, images in the cache's order."""

    image: NDArray[np.int32]
    """[n], index into `ActivationCache.images`."""
    token: NDArray[np.int32]
    """[n], row-major index on the token grid."""
    label: NDArray[np.uint8]
    """[n], UNLABELLED, GOOD, BAD or NOT_HAND."""
    kind: NDArray[np.uint8]
    """[n], UNKNOWN_KIND, LOCAL or GLOBAL."""

    def __len__(self) -> int:
        return len(self.image)


class ActivationCache:
    """The activations of one study and fingerprint, read without loading them: see `Study.activations`.

    Args:
        folder: holds the `<id>.safetensors` files.
        images: which images, in which order; None takes every file, by id.
        ids: with images=None, which of the files.
        opened: another cache of the folder, whose files need not be opened again.

    Raises:
        ValueError: no files, a file that is missing or damaged, cells of unequal width or dtype, steps that disagree.
    """

    def __init__(
        self,
        folder: Path | str,
        images: Sequence[ImageInfo] | None = None,
        ids: Collection[str] | None = None,
        opened: "ActivationCache | None" = None,
    ):
        self.folder = Path(folder)
        if images is None and ids is None:
            paths = sorted(self.folder.glob("*.safetensors"))
        else:
            names = sorted(ids or ()) if images is None else [info.id for info in images]
            paths = [self.folder / f"{name}.safetensors" for name in names]
        known = {file.path: file for file in opened.files} if opened is not None else {}
        if images is not None or ids is not None:
            absent = [path.stem for path in paths if path not in known and not path.exists()]
            if absent:
                raise ValueError(f"{self.folder} lacks the activations of {_some(absent)}: run extract.py")
        if not paths:
            raise ValueError(f"{self.folder} holds no activations: run extract.py first")
        self.files = tuple(known[path] if path in known else ImageFile(path) for path in paths)
        self.meta: tuple[dict[str, Any], ...] = tuple(file.meta for file in self.files)
        """Per image, what `write_image` was given: prompt, seed, grid, steps, label digest ..."""
        self.images = tuple(images) if images is not None else tuple(map(_info, self.files))
        of_file = {file.cells: set(file.cells) for file in self.files}  # of most, the same
        held = [of_file[file.cells] for file in self.files]
        self.cells: tuple[Cell, ...] = in_order(set.intersection(*of_file.values()))
        """Cells that every image has, in network order."""
        self.missing: dict[Cell, tuple[str, ...]] = {
            cell: tuple(info.id for info, cells in zip(self.images, held, strict=True) if cell not in cells)
            for cell in in_order(set.union(*of_file.values()))
            if cell not in self.cells
        }
        """Cells that only some images have, with the images that lack them."""
        self.tokens = self._token_table()
        self.steps: dict[int, tuple[int, float]] = self._common_steps()
        """Timestep (counts down) -> (step index, sigma)."""
        for cell in self.cells:
            forms = {(file.shape(cell)[1], file.dtype(cell)) for file in self.files}
            if len(forms) > 1:
                raise ValueError(f"{self.folder}: {cell} has several widths or dtypes: {forms}; remove the odd files")
        counts = np.array([len(file) for file in self.files])
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts

    def width(self, cell: Cell) -> int:
        """Channels d of the cell."""
        return self.files[0].shape(cell)[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the blocks' activations."""
        return self.files[0].dtype(self.cells[-1]) if self.cells else torch.float32

    def read(self, cell: Cell, rows: NDArray[Any] | None = None) -> torch.Tensor:
        """[n, d] in the stored dtype: all rows of the token table, or the given row indices (or boolean mask), in
        the given order. One copy, from file to tensor.

        Raises:
            ValueError: not every image has the cell.
        """
        if cell not in self.cells:
            lack = self.missing.get(cell)
            who = f"{len(lack)} of {len(self.images)} images lack it" if lack else "no image has it"
            raise ValueError(f"{self.folder}: {cell} cannot be read, {who}; run extract.py with a capture that has it")
        width, dtype = self.width(cell), self.files[0].dtype(cell)
        if rows is None:
            out = torch.empty(len(self.tokens), width, dtype=dtype)
            for file, start, end in zip(self.files, self._starts, self._ends, strict=True):
                file.read_into(str(cell), out[start:end])
            return out
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        out = torch.empty(len(rows), width, dtype=dtype)
        words = out.view({1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}[dtype.itemsize]).numpy()
        owner = self.tokens.image[rows]
        order = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[order], np.arange(len(self.files) + 1))
        for i in np.unique(owner):
            where = order[bounds[i] : bounds[i + 1]]
            words[where] = self.files[i].mapped(cell)[rows[where] - self._starts[i]]
        return out

    def read_image(self, i: int, cells: Sequence[Cell] | None = None) -> dict[Cell, torch.Tensor]:
        """{cell: [n_i, d]} of image i; all cells of `self.cells` come as views of one buffer."""
        file = self.files[i]
        if cells is None:
            everything = file.read_all()
            return {cell: everything[cell] for cell in self.cells}
        found = {}
        for cell in cells:
            found[cell] = torch.empty(file.shape(cell), dtype=file.dtype(cell))
            file.read_into(str(cell), found[cell])
        return found

    def _token_table(self) -> TokenTable:
        counts = [len(file) for file in self.files]
        classes, kinds = ([file.tables[name] for file in self.files] for name in ("classes", "kinds"))
        return TokenTable(
            image=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            token=np.concatenate([file.tokens for file in self.files]),
            label=np.concatenate(classes),
            kind=np.concatenate(kinds),
        )

    def _common_steps(self) -> dict[int, tuple[int, float]]:
        known: dict[str, list[Any]] = {}
        for file in self.files:
            check_same_steps(known, file.meta["steps"], file.path)
            known |= file.meta["steps"]
        timesteps = sorted(map(int, known), reverse=True)
        return {t: (int(known[str(t)][0]), float(known[str(t)][1])) for t in timesteps}


def _info(file: ImageFile) -> ImageInfo:
    height, width = file.meta["grid"]
    return ImageInfo(file.path.stem, file.meta["prompt"], int(file.meta["seed"]), (int(height), int(width)))


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
