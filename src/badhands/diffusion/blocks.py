"""Where the image tokens lie in each diffusion transformer, as data: another model is a row here, not a fork."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from badhands.cells import PSEUDO_BLOCKS, block_key


@dataclass(frozen=True)
class Family:
    """One list of transformer blocks of a model."""

    path: str
    """Attribute of the transformer that holds the list."""
    depth: str
    """Key of the transformer's config that holds the list's length."""
    index: int | None
    """Which element of the block's output tuple holds the image tokens; None: the output is a tensor."""
    order: Literal["image", "text_image", "image_text"] = "image"
    """What that tensor holds along its token axis."""


@dataclass(frozen=True)
class Layout:
    """Where to find the image tokens of one transformer class."""

    double: Family | None
    single: Family | None
    patch: int = 2
    """Latent pixels along one side of a token."""
    guidance_batch: Literal["separate", "uncond_first"] = "separate"
    """Classifier-free guidance: two calls of the transformer, conditional first, or one call at twice the batch."""


def _flux_like(index: int = 1, single_index: int | None = None, order: str = "text_image", **extra: Any) -> Layout:
    double = Family("transformer_blocks", "num_layers", index)
    return Layout(double, Family("single_transformer_blocks", "num_single_layers", single_index, order), **extra)  # type: ignore[arg-type]


LAYOUTS: Mapping[str, Layout] = {
    "FluxTransformer2DModel": _flux_like(single_index=1, order="image"),
    "Flux2Transformer2DModel": _flux_like(),
    "ChromaTransformer2DModel": _flux_like(),
    "QwenImageTransformer2DModel": Layout(Family("transformer_blocks", "num_layers", 1), None),
    "SD3Transformer2DModel": Layout(Family("transformer_blocks", "num_layers", 1), None, guidance_batch="uncond_first"),
    "AuraFlowTransformer2DModel": Layout(
        Family("joint_transformer_blocks", "num_mmdit_layers", 1),
        Family("single_transformer_blocks", "num_single_dit_layers", None, "text_image"),
        guidance_batch="uncond_first",
    ),
    "CogView4Transformer2DModel": Layout(Family("transformer_blocks", "num_layers", 0), None),
    "PixArtTransformer2DModel": Layout(
        None, Family("transformer_blocks", "num_layers", None), guidance_batch="uncond_first"
    ),
    "SanaTransformer2DModel": Layout(
        None, Family("transformer_blocks", "num_layers", None), patch=1, guidance_batch="uncond_first"
    ),
}
"""Rows seen to hold in diffusers 0.42. Only the FLUX row is tested end to end here."""

PUBLISHED_CONFIGS: Mapping[str, dict[str, Any]] = {
    f"black-forest-labs/FLUX.1-{name}": {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": 128,
        "guidance_embeds": name == "dev",
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    }
    for name in ("dev", "schnell")
}
"""transformer/config.json of models that one may want to plan for before downloading them."""


def layout(config: Mapping[str, Any]) -> Layout:
    """The layout of a transformer, from its config.

    Raises:
        ValueError: no row for this class.
    """
    name = str(config.get("_class_name"))
    if name not in LAYOUTS:
        raise ValueError(
            f"no layout for {name}: add a row to LAYOUTS in diffusion/blocks.py (known: {', '.join(LAYOUTS)})"
        )
    return LAYOUTS[name]


def block_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Every block of the model in network order, `double.0, ..., single.0, ...`, from its config alone."""
    rows = layout(config)
    families = (("double", rows.double), ("single", rows.single))
    return tuple(f"{kind}.{i}" for kind, f in families if f is not None for i in range(int(config[f.depth])))


def width(config: Mapping[str, Any]) -> int:
    """Channels of the residual stream: d."""
    return int(config["num_attention_heads"]) * int(config["attention_head_dim"])


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


def find_block(transformer: torch.nn.Module, config: Mapping[str, Any], name: str) -> tuple[torch.nn.Module, Family]:
    """The module called `name` and the row that says where its image tokens lie."""
    check_blocks(config, [name])
    kind, index = name.split(".")
    family = getattr(layout(config), kind)
    assert family is not None
    return getattr(transformer, family.path)[int(index)], family


def image_tokens(output: Any, family: Family, count: int) -> torch.Tensor:
    """The image-token part of a block's output: a view [B, count, d], no copy."""
    stream = output if family.index is None else output[family.index]
    if family.order == "text_image":
        return stream[:, stream.shape[1] - count :]
    return stream[:, :count]


def with_image_tokens(output: Any, family: Family, tokens: torch.Tensor) -> Any:
    """The block's output with its image tokens [B, n, d] replaced, text left as it was."""
    stream = output if family.index is None else output[family.index]
    if family.order == "text_image":
        stream = torch.cat([stream[:, : stream.shape[1] - tokens.shape[1]], tokens], dim=1)
    else:
        stream = torch.cat([tokens, stream[:, tokens.shape[1] :]], dim=1)
    if family.index is None:
        return stream
    return tuple(stream if i == family.index else part for i, part in enumerate(output))


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
