"""Sketches: 64 numbers a token of every image, kept while it is drawn, for masks that learn from the first labels.

Activations are captured for labelled tokens alone; a sketch holds all tokens of one cell, small enough to keep always:
0.5 MB for 4,096 tokens. It is a random projection, which keeps distances (Johnson and Lindenstrauss 1984), of the
layer-normalised token, so that a few massive channels do not drown the others.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from badhands.cells import Cell
from badhands.study.journal import write_whole
from badhands.study.manifest import check_id

CHANNELS = 64
SEED = 20251125
"""Of the projection: the same for every study, so that sketches of two machines belong together."""


def projection(width: int) -> NDArray[np.float32]:
    """float32[width, CHANNELS]: Gaussian, scaled so that a layer-normalised token gives numbers of variance one."""
    rng = np.random.default_rng(SEED)
    return (rng.standard_normal((width, CHANNELS)) / np.sqrt(width)).astype(np.float32)


def sketch_path(root: Path, fingerprint: str, image_id: str) -> Path:
    return root / "sketches" / fingerprint / f"{check_id(image_id)}.safetensors"


def write_sketch(path: Path, sketch: NDArray[np.float16], cell: Cell) -> None:
    """Write float16[tokens, CHANNELS] of one cell; the file appears whole or not at all."""
    if sketch.dtype != np.float16 or sketch.ndim != 2 or sketch.shape[1] != CHANNELS:
        raise ValueError(f"a sketch is float16[tokens, {CHANNELS}], not {sketch.dtype}{list(sketch.shape)}")
    write_whole(path, save({str(cell): np.ascontiguousarray(sketch)}, {"seed": str(SEED)}))


def read_sketch(path: Path, tokens: int) -> tuple[str, NDArray[np.float16]]:
    """The cell's name, and float16[tokens, CHANNELS].

    Raises:
        ValueError: the file is missing, damaged, or of another number of tokens.
    """
    try:
        ((cell, sketch),) = load(path.read_bytes()).items()
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a sketch ({error}): draw the image again") from None
    if sketch.dtype != np.float16 or sketch.shape != (tokens, CHANNELS):
        raise ValueError(f"{path}: {sketch.dtype}{list(sketch.shape)}, the image has {tokens} tokens")
    return cell, sketch
