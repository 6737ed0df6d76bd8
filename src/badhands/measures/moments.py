"""Per-image moments of every cell: the one pass over tokens from which directions, distances and all nulls follow.

For every image, token class and kind of error that occurs ("group"), and every cell: n, sum x and sum x^2 per channel.
"""

import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from badhands.cells import Cell
from badhands.stats.threads import spread

BLOCK = 512
"""Tokens summed in float32 before they are added in float64."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The rows of the moments: one (image, class, kind) that has tokens. Images ascend."""

    image: np.ndarray
    """int32[g], image index."""
    label: np.ndarray
    """uint8[g], token class."""
    kind: np.ndarray
    """uint8[g], kind of error."""
    n: np.ndarray
    """int64[g], tokens."""
    of_token: np.ndarray
    """int32[tokens], the group of each token; -1 where its class is not counted."""

    @classmethod
    def of(cls, image: np.ndarray, label: np.ndarray, kind: np.ndarray, classes: Sequence[int]) -> "Groups":
        """Group tokens (arrays [tokens]) by image, class and kind; tokens of other classes belong to no group."""
        counted = np.flatnonzero(np.isin(label, classes))
        keys = np.stack([image[counted], label[counted], kind[counted]], axis=1).astype(np.int64).reshape(-1, 3)
        rows, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        of_token = np.full(len(image), -1, np.int32)
        of_token[counted] = inverse.reshape(-1)
        return cls(
            rows[:, 0].astype(np.int32), rows[:, 1].astype(np.uint8), rows[:, 2].astype(np.uint8), counts, of_token
        )

    def __len__(self) -> int:
        return len(self.image)


_READING = threading.Lock()


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums by group and cell. `source` may be an open npz file: a cell is read when it is asked for."""

    groups: Groups
    cells: tuple[Cell, ...]
    source: Mapping[str, Any]
    rows: np.ndarray | None = None
    """int[g], where the groups lie in the source; None: as they come."""

    def sums(self, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """(sum x, sum x^2), float64[g, d]."""
        with _READING:  # zipfile of Python 3.12 does not bear two threads: "Overlapped entries", "Bad CRC-32"
            first, second = self.source[f"{cell}.sum"], self.source[f"{cell}.sumsq"]
        if self.rows is not None:
            first, second = first[self.rows], second[self.rows]
        return first.astype(np.float64), second.astype(np.float64)

    def grouped(self, groups: Groups) -> "Moments":
        """The same sums for groups of the same tokens under other labels, such as shuffled ones."""
        first = np.unique(groups.of_token, return_index=True)[1][-len(groups) :]
        rows = self.groups.of_token[first]
        assert np.array_equal(self.groups.n[rows], groups.n) and len(groups) == len(self.groups), "the same tokens"
        return Moments(groups, self.cells, self.source, rows)

    @classmethod
    def load(cls, path: Path | str) -> "Moments":
        source = np.load(path)
        groups = Groups(*(source[name] for name in ("image", "label", "kind", "n", "of_token")))
        return cls(groups, tuple(Cell.parse(str(name)) for name in source["cells"]), source)


class GroupSums:
    """Sums of the groups of one image after the other; buffers are kept, since fresh memory costs more than the sums.

    The one-hot matrix product adds up `BLOCK` tokens in float32 (float64 for float32 input), then blocks in float64. A
    16-bit activation cannot hold a spread below 1/256 of its mean, so float32 loses less than 1 % of any variance.
    """

    def __init__(self) -> None:
        self._raw = torch.empty(0)
        self._work = torch.empty(0)

    def raw(self, n: int, d: int, dtype: torch.dtype) -> Tensor:
        """[n, d] to read an image into; holds until the next call."""
        if self._raw.dtype != dtype or self._raw.numel() < n * d:
            self._raw = torch.empty(n * d, dtype=dtype)
        return self._raw[: n * d].view(n, d)

    def __call__(self, x: Tensor, member: Tensor, out: Tensor) -> None:
        """(sum x, sum x^2) of each group into `out`.

        Args:
            x: [n, d] of one image, any float dtype.
            member: [groups, n], 1 where a token belongs to a group (`membership`).
            out: [2, groups, d], float32 for 16-bit x, else float64.
        """
        n, d = x.shape
        dtype = torch.float64 if x.element_size() > 2 else torch.float32
        if self._work.dtype != dtype or self._work.numel() < min(n, BLOCK) * d:
            self._work = torch.empty(min(n, BLOCK) * d, dtype=dtype)
        if n <= BLOCK:
            work = self._work[: n * d].view(n, d).copy_(x)
            torch.mm(member.to(dtype), work, out=out[0])
            torch.mm(member.to(dtype), work.square_(), out=out[1])
            return
        total = torch.zeros(2, len(member), d, dtype=torch.float64)
        for begin in range(0, n, BLOCK):
            ours = member[:, begin : begin + BLOCK].to(dtype)
            work = self._work[: ours.shape[1] * d].view(-1, d)
            work.copy_(x[begin : begin + BLOCK])
            total[0] += ours @ work
            total[1] += ours @ work.square_()
        out.copy_(total)


def membership(group: Tensor, groups: int) -> Tensor:
    """float32[groups, n] from int64[n]: 0..groups-1, or -1 for tokens to leave out."""
    return (group == torch.arange(groups)[:, None]).float()


def stream_moments(
    read_into: Callable[[int, Cell, Tensor], None],
    token_image: np.ndarray,
    groups: Groups,
    forms: Mapping[Cell, tuple[int, torch.dtype]],
    path: Path,
    budget: int = 2**30,
    threads: int | None = None,
) -> Moments:
    """Read every image once, save its sums as `path` (npz) and open it.

    Memory stays below `budget` bytes and the images being read: when the sums of all cells are larger, cells are done
    in portions, each tensor of the cache still being read once. Images are shared out over `threads`.

    Args:
        read_into: (image index, cell, [n_i, d]) fills the tensor with all tokens of that image, in table order.
        token_image: int32[tokens], ascending image index of each token.
        forms: width and dtype of every cell, cells in order.
    """
    path = Path(path)
    images = np.unique(groups.image)
    partial = path.with_name(path.name + ".partial")
    local = threading.local()
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in ("image", "label", "kind", "n", "of_token"):
            _write(archive, name, getattr(groups, name))
        _write(archive, "cells", np.array([str(cell) for cell in forms]))
        for portion in _portions({cell: d for cell, (d, _) in forms.items()}, len(groups), budget):
            sums = {cell: torch.empty(2, len(groups), forms[cell][0], dtype=_kept(forms[cell][1])) for cell in portion}

            def add(image: int, sums: dict[Cell, Tensor] = sums) -> None:
                if not hasattr(local, "summed"):
                    local.summed = GroupSums()
                first, last = np.searchsorted(groups.image, [image, image + 1])
                rows = slice(*np.searchsorted(token_image, [image, image + 1]))
                member = membership(torch.from_numpy(groups.of_token[rows].astype(np.int64) - first), int(last - first))
                for cell, into in sums.items():
                    x = local.summed.raw(member.shape[1], *forms[cell])
                    read_into(image, cell, x)
                    local.summed(x, member, into[:, first:last])

            spread(add, images.tolist(), threads)
            for cell in portion:
                _write(archive, f"{cell}.sum", sums[cell][0].numpy())
                _write(archive, f"{cell}.sumsq", sums[cell][1].numpy())
    partial.replace(path)
    return Moments.load(path)


def _portions(width: Mapping[Cell, int], groups: int, budget: int) -> Iterator[tuple[Cell, ...]]:
    """Cells in order, as many together as have room for their sums."""
    portion: list[Cell] = []
    used = 0
    for cell, d in width.items():
        need = 16 * groups * d
        if portion and used + need > budget:
            yield tuple(portion)
            portion, used = [], 0
        portion.append(cell)
        used += need
    if portion:
        yield tuple(portion)


def _kept(dtype: torch.dtype) -> torch.dtype:
    """Sums of 16-bit values: float32 keeps more digits of them than the values had."""
    return torch.float64 if dtype.itemsize > 2 else torch.float32


def _write(archive: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    with archive.open(name + ".npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(values))
