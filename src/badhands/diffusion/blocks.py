"""The blocks of a diffusion transformer by name, the image tokens in what they put out, and the token grid."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from badhands.cells import PSEUDO_BLOCKS, block_key
from badhands.diffusion.families import BlockList, family_of


def block_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Every block of the model in network order, `double.0, ..., single.0, ...`, from its config alone."""
    family = family_of(config)
    lists = (("double", family.double), ("single", family.single))
    return tuple(f"{kind}.{i}" for kind, rows in lists if rows is not None for i in range(int(config[rows.depth])))


def width(config: Mapping[str, Any]) -> int:
    """Channels of the residual stream: d."""
    return family_of(config).width(config)


def check_blocks(config: Mapping[str, Any], names: Iterable[str] | Literal["all"]) -> tuple[str, ...]:
    """The names in network order, without repeats; `all` is every block.

    Raises:
        ValueError: a name that this model does not have (pseudo-blocks xt and x0 are always there).
    """
    have = block_names(config)
    if names == "all":
        return have
    wanted = sorted(set(names), key=block_key)
    wrong = [name for name in wanted if name not in have and name not in PSEUDO_BLOCKS]
    if wrong:
        counts = {kind: sum(name.startswith(kind) for name in have) for kind in ("double", "single")}
        ranges = ", ".join(f"{kind}.0 to {kind}.{n - 1}" for kind, n in counts.items() if n)
        raise ValueError(f"this model has no block {', '.join(wrong)}: it has {ranges}")
    return tuple(wanted)


def find_block(transformer: torch.nn.Module, config: Mapping[str, Any], name: str) -> tuple[torch.nn.Module, BlockList]:
    """The module called `name` and the list that says where its image tokens lie."""
    check_blocks(config, [name])
    kind, index = name.split(".")
    rows = getattr(family_of(config), kind)
    return getattr(transformer, rows.path)[int(index)], rows


def image_tokens(output: Any, rows: BlockList, count: int) -> torch.Tensor:
    """The image-token part of a block's output: a view [B, count, d], no copy."""
    stream = output if rows.index is None else output[rows.index]
    if rows.order == "text_image":
        return stream[:, stream.shape[1] - count :]
    return stream[:, :count]


def with_image_tokens(output: Any, rows: BlockList, tokens: torch.Tensor) -> Any:
    """The block's output with its image tokens [B, n, d] replaced, text left as it was."""
    stream = output if rows.index is None else output[rows.index]
    if rows.order == "text_image":
        stream = torch.cat([stream[:, : stream.shape[1] - tokens.shape[1]], tokens], dim=1)
    else:
        stream = torch.cat([tokens, stream[:, tokens.shape[1] :]], dim=1)
    if rows.index is None:
        return stream
    return tuple(stream if i == rows.index else part for i, part in enumerate(output))


@dataclass(frozen=True)
class TokenGrid:
    """The image tokens of one picture: row-major, `h` rows by `w` columns, each `patch` pixels square."""

    h: int
    w: int
    patch: int

    @classmethod
    def of(cls, height: int, width: int, patch: int) -> "TokenGrid":
        """The grid of a height x width px picture.

        Raises:
            ValueError: a size that is no positive multiple of `patch` (diffusers would shrink it with a warning).
        """
        if height < patch or width < patch or height % patch or width % patch:
            raise ValueError(f"{height} x {width} px: height and width must be positive multiples of {patch} px")
        return cls(height // patch, width // patch, patch)

    def __len__(self) -> int:
        return self.h * self.w

    def box(self, token: int) -> tuple[int, int, int, int]:
        """Pixel box (x0, y0, x1, y1) of a token, right and bottom edges exclusive."""
        if not 0 <= token < len(self):
            raise ValueError(f"token {token} is outside the grid of {self.h} x {self.w}")
        row, column = divmod(token, self.w)
        return (
            column * self.patch,
            row * self.patch,
            (column + 1) * self.patch,
            (row + 1) * self.patch,
        )

    def token(self, x: int, y: int) -> int:
        """The token that covers pixel (x, y)."""
        if not (0 <= x < self.w * self.patch and 0 <= y < self.h * self.patch):
            raise ValueError(
                f"pixel ({x}, {y}) is outside the picture of {self.w * self.patch} x {self.h * self.patch} px"
            )
        return (y // self.patch) * self.w + x // self.patch
