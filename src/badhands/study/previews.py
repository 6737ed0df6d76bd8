"""Previews of an image: the predicted clean picture at each captured timestep, which a person or a detector could see.

They stand beside the activations as what a block has to beat: a baseline that looks at the picture so far.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from badhands.study.journal import write_whole
from badhands.study.manifest import check_id

KEY = "timesteps"


def preview_path(root: Path, fingerprint: str, image_id: str) -> Path:
    return root / "previews" / fingerprint / f"{check_id(image_id)}.png"


def write_previews(path: Path, pictures: Mapping[int, Image.Image], longest: int) -> None:
    """Write one PNG: the pictures below one another, noise first, no side longer than `longest` px.

    Pictures of other timesteps that the file holds already are kept. The file appears whole or not at all.
    """
    rows = {t: _fitted(picture, longest) for t, picture in pictures.items()}
    if path.exists():
        rows = {**read_previews(path), **rows}
    order = sorted(rows, reverse=True)
    info = PngInfo()
    info.add_text(KEY, " ".join(map(str, order)))
    data = io.BytesIO()
    Image.fromarray(np.concatenate([rows[t] for t in order])).save(data, format="PNG", pnginfo=info)
    write_whole(path, data.getvalue())


def read_previews(path: Path) -> dict[int, NDArray[np.uint8]]:
    """Timestep -> uint8[h, w, 3].

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as stored:
            timesteps = [int(t) for t in stored.info[KEY].split()]
            pixels = np.asarray(stored.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: run extract.py with capture.previews above 0") from None
    except (OSError, SyntaxError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as previews ({error}): remove it and run extract.py again") from None
    return dict(zip(timesteps, np.split(pixels, len(timesteps)), strict=True))


def preview_timesteps(path: Path) -> tuple[int, ...]:
    """The timesteps that the file holds; none if there is no file."""
    return tuple(read_previews(path)) if path.exists() else ()


def _fitted(picture: Image.Image, longest: int) -> NDArray[np.uint8]:
    picture = picture.convert("RGB")
    scale = longest / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(picture)
