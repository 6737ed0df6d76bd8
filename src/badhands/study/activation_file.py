"""One image's activations on disk: a safetensors file with a tensor a cell and a row a captured token."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from badhands.cells import Cell, in_order
from badhands.study.journal import folder_lock, write_locked
from badhands.study.manifest import check_id

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_TABLE = {"tokens": torch.int32, "classes": torch.uint8, "kinds": torch.uint8}
REQUIRED_META = ("prompt", "seed", "grid", "steps")


def write_image(
    folder: Path,
    image_id: str,
    tensors: Mapping[Cell, torch.Tensor],
    tokens: NDArray[np.int32],
    classes: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    meta: Mapping[str, Any],
    replace: bool = False,
) -> Path:
    """Write `<folder>/<image_id>.safetensors`, or add cells to it; it appears complete or not at all.

    Args:
        tensors: [n, d] per cell, in the dtype the model ran in. A cell that the file already holds stays as it is.
        tokens: int32[n], row-major indices on the token grid, ascending.
        classes: uint8[n], the labels of these tokens.
        kinds: uint8[n], of their errors.
        replace: forget the file that is there, instead of adding to it.
        meta: JSON values. Needed: `prompt`, `seed`, `grid` [h, w], `steps` {timestep: [step, sigma]}.

    Raises:
        NotFinite: a value is not finite.
        ValueError: the file there has other tokens or labels.
    """
    check_id(image_id)
    n = len(tokens)
    missing = [key for key in REQUIRED_META if key not in meta]
    assert not missing, f"meta lacks {missing}"
    steps = {str(t): [int(step), float(sigma)] for t, (step, sigma) in meta["steps"].items()}
    for cell, tensor in tensors.items():
        assert tensor.ndim == 2 and tensor.shape[0] == n, f"{cell}: {tuple(tensor.shape)} for {n} tokens"
        assert str(cell.timestep) in steps, f"{cell}: its timestep has no step and sigma"
    odd = tuple(cell for cell, tensor in tensors.items() if not is_finite(tensor))
    if odd:
        raise NotFinite(image_id, odd)
    labels = {
        "tokens": torch.from_numpy(np.ascontiguousarray(tokens, np.int32)),
        "classes": torch.from_numpy(np.ascontiguousarray(classes, np.uint8)),
        "kinds": torch.from_numpy(np.ascontiguousarray(kinds, np.uint8)),
    }
    assert all(table.shape == (n,) for table in labels.values())

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{image_id}.safetensors"
    with folder_lock(folder):
        content = {str(cell): tensor.detach().cpu().contiguous() for cell, tensor in tensors.items()}
        merged = dict(meta)
        if path.exists() and not replace:
            old = ImageFile(path)
            if any(not torch.equal(old.table(name), labels[name]) for name in _TABLE):
                raise ValueError(f"{path} holds other tokens or labels; remove the file, then run extract again")
            content |= {str(cell): tensor for cell, tensor in old.read_all().items()}
            check_same_steps(old.meta["steps"], steps, path)
            merged = {**meta, **old.meta}
            steps = {**steps, **old.meta["steps"]}
        merged["steps"] = dict(sorted(steps.items(), key=lambda item: -int(item[0])))
        write_locked(path, _parts({**content, **labels}, json.dumps(merged, sort_keys=True)))
    return path


class NotFinite(ValueError):
    """Activations that hold an infinity or not-a-number: nothing is written of the image."""

    def __init__(self, image_id: str, cells: tuple[Cell, ...]) -> None:
        self.cells = cells
        super().__init__(f"image {image_id}: activations of {named(cells)} are not finite; nothing was written for it")


def named(cells: Sequence[Cell], most: int = 3) -> str:
    """The first cells, and how many more there are."""
    return ", ".join(map(str, cells[:most])) + (f" and {len(cells) - most} more" if len(cells) > most else "")


def _parts(tensors: Mapping[str, torch.Tensor], meta: str) -> list[bytes | memoryview]:
    """The bytes of a safetensors file as they lie in memory: its own writer copies every tensor twice before the first
    byte is on disk. Wider dtypes come first, as there, so that all are aligned."""
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name in _TABLE, name))
    header: dict[str, Any] = {"__metadata__": {"badhands": meta}}
    body: list[bytes | memoryview] = []
    end = 0
    for name in names:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        if tensor.nbytes:
            body.append(tensor.view(-1).view(torch.uint8).numpy().data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *body]


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is infinite or not-a-number; both reach the extremes, for which no mask is made."""
    return not tensor.numel() or all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


@lru_cache(maxsize=64)
def _cells(names: tuple[str, ...]) -> tuple[Cell, ...]:
    """The cells among the tensors of a file, which most files of a study have in common."""
    return in_order(Cell.parse(name) for name in names if name not in _TABLE)


class ImageFile:
    """The header of one activation file, checked; rows are read on demand.

    Raises:
        ValueError: the file is truncated or no activation file; the path is named.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= size - 8:
                    raise ValueError("its header is cut off")
                header = json.loads(file.read(length))
                self._start = 8 + length
                places = [header[name]["data_offsets"] for name in _TABLE]
                raw = [os.pread(file.fileno(), end - begin, self._start + begin) for begin, end in places]
            self.meta: dict[str, Any] = json.loads(header.pop("__metadata__")["badhands"])
            self._extents = {name: (_DTYPES[x["dtype"]], x["shape"], x["data_offsets"]) for name, x in header.items()}
            end = max(offsets[1] for _, _, offsets in self._extents.values())
            if size != self._start + end:
                raise ValueError(f"it has {size} bytes, its header says {self._start + end}")
            self.tables: dict[str, NDArray[Any]] = {
                name: np.frombuffer(data, np.int32 if name == "tokens" else np.uint8).copy()
                for name, data in zip(_TABLE, raw, strict=True)
            }
            """Labels: `tokens` int32[n], `classes` and `kinds` uint8[n]."""
            self.tokens = self.tables["tokens"]
            self.cells = _cells(tuple(self._extents))
        except (ValueError, KeyError, TypeError) as error:
            reason = error if isinstance(error, ValueError) else f"no {error}"
            raise ValueError(f"{path} is damaged ({reason}): remove it, then run extract again") from None

    def __len__(self) -> int:
        return len(self.tokens)

    def shape(self, cell: Cell) -> tuple[int, int]:
        n, d = self._extents[str(cell)][1]
        return (n, d)

    def dtype(self, cell: Cell) -> torch.dtype:
        return self._extents[str(cell)][0]

    def table(self, name: str) -> torch.Tensor:
        """`tokens`, `classes` or `kinds`: [n]."""
        return torch.from_numpy(self.tables[name].copy())

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Fill `out` (contiguous, of the stored shape and dtype) straight from the file: one copy."""
        begin, end = self._extents[name][2]
        assert out.is_contiguous() and out.numel() * out.element_size() == end - begin
        if end > begin:
            self._pread(out.view(-1).view(torch.uint8).numpy().data, self._start + begin)

    def read_all(self) -> dict[Cell, torch.Tensor]:
        """Every cell, as views of one buffer: {cell: [n, d]}."""
        span = max(offsets[1] for _, _, offsets in self._extents.values())
        data = torch.empty(span, dtype=torch.uint8)
        self._pread(data.numpy().data, self._start)
        found = {}
        for cell in self.cells:
            dtype, shape, (begin, end) = self._extents[str(cell)]
            found[cell] = data[begin:end].view(dtype).view(shape)
        return found

    def mapped(self, cell: Cell) -> NDArray[Any]:
        """The cell's rows as a memory map of unsigned integers of the stored width, [n, d]; nothing is read yet."""
        dtype, shape, (begin, _) = self._extents[str(cell)]
        word = np.dtype(f"u{dtype.itemsize}")
        return np.memmap(self.path, dtype=word, mode="r", offset=self._start + begin, shape=tuple(shape))

    def _pread(self, buffer: memoryview, offset: int) -> None:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            done = 0
            while done < len(buffer):
                got = os.preadv(handle, [buffer[done:]], offset + done)
                if got == 0:
                    raise ValueError(f"{self.path} is damaged (it became shorter while being read)")
                done += got
        finally:
            os.close(handle)


def check_same_steps(known: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError where a timestep has another (step, sigma) in `new`, the steps of the file at `path`."""
    for timestep in known.keys() & new.keys():
        if list(known[timestep]) != list(new[timestep]):
            raise ValueError(
                f"{path}: timestep {timestep} is (step, sigma) {new[timestep]} here and {known[timestep]} elsewhere; "
                "images of different sizes or step counts belong in different studies"
            )
