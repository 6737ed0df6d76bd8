"""What the project has to know of one diffusion transformer; a family says it in one file beside this one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange


@dataclass(frozen=True)
class BlockList:
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
class Embedding:
    """What the text encoders say of one prompt, on the CPU."""

    prompt_embeds: torch.Tensor
    """[tokens, d_text]"""
    pooled_prompt_embeds: torch.Tensor | None = None
    """[d_pooled], where the model takes one."""
    mask: torch.Tensor | None = None
    """[tokens], where the model masks padding."""
    negative: "Embedding | None" = None
    """Of the prompt that classifier-free guidance turns away from; None where the model has no such guidance."""


@dataclass(frozen=True)
class Call:
    """What one call of the transformer works on."""

    batch: int
    """Images in it; with guidance in one call, both halves."""
    grid: tuple[int, int]
    """Rows and columns of image tokens."""
    device: torch.device


class Family:
    """One architecture. A subclass states where it differs from FLUX.1; nothing else in the project knows its name.

    Blocks are named by what they do: `double.i` keeps text and image in streams of their own, `single.i` works on one
    sequence of both. `i` counts within the list, from 0.
    """

    name: ClassVar[str]
    transformer: ClassVar[str]
    """Class of the transformer."""
    pipelines: ClassVar[tuple[str, ...]]
    """Pipeline classes that draw from a prompt alone; the first is the one that a message names."""
    double: ClassVar[BlockList | None] = None
    single: ClassVar[BlockList | None] = None
    patch: ClassVar[int] = 2
    """Latent pixels along one side of a token."""
    guidance_batch: ClassVar[Literal["separate", "uncond_first", "cond_first"]] = "separate"
    """Classifier-free guidance: two calls of the transformer, conditional first, or one call at twice the batch."""
    negative: ClassVar[str | None] = ""
    """Prompt of the unconditional branch; None: the model is guided by an embedded scale alone."""
    longest_text: ClassVar[int] = 512
    """Text tokens that the pipeline takes at most."""
    pads_to_neighbours: ClassVar[bool] = False
    """Whether a batch is padded to its longest prompt: then a picture depends on the others of its batch."""
    quantized: ClassVar[tuple[str, ...]] = ("transformer", "text_encoder")
    """Components that model.quantization makes smaller."""
    float32_latents: ClassVar[bool] = False
    """Whether the pipeline keeps latents in float32 whatever the model's dtype."""
    tiny_vae: ClassVar[str | None] = None
    """Repo of an AutoencoderTiny for these latents, for quick previews."""

    # What the configs say -------------------------------------------------------------------------------------------

    def width(self, config: Mapping[str, Any]) -> int:
        """Channels of the residual stream: d."""
        return int(config["num_attention_heads"]) * int(config["attention_head_dim"])

    def latent_channels(self, config: Mapping[str, Any]) -> int:
        """Channels of one token of the packed latent."""
        return int(config["in_channels"])

    def halvings(self, vae: Mapping[str, Any]) -> int:
        """How often the VAE halves the picture's sides."""
        return len(vae["block_out_channels"]) - 1

    def latent_pixel(self, pipe: Any) -> int:
        """Pixels of the picture along one side of a latent pixel."""
        return int(pipe.vae_scale_factor)

    # Text -----------------------------------------------------------------------------------------------------------

    def negative_of(self, pipe: Any) -> str | None:
        """Prompt of the unconditional branch for this pipeline; None where it has none."""
        return self.negative

    def encode(self, pipe: Any, prompt: str, longest: int) -> Embedding:
        """The embedding of one prompt, without its negative."""
        raise NotImplementedError

    # One call of the pipeline ---------------------------------------------------------------------------------------

    def arguments(self, embeddings: Sequence[Embedding], guidance: float, device: torch.device) -> dict[str, Any]:
        """What the pipeline's call takes for these prompts and this guidance."""
        raise NotImplementedError

    def look(self, pipe: Any, transformer: Any, args: tuple, kwargs: Mapping[str, Any]) -> Call:
        """Batch and token grid of a call of the transformer.

        Raises:
            ValueError: it holds other image tokens than those of the picture, so places on the grid would be wrong.
        """
        ids, hidden = kwargs["img_ids"], kwargs["hidden_states"]
        kind, rows, columns = ids.reshape(-1, ids.shape[-1])[:, :3].amax(0).tolist()
        if kind or hidden.shape[1] != (rows + 1) * (columns + 1):
            raise ValueError(
                f"{type(pipe).__name__} was given reference images: their tokens stand among the picture's. "
                "Draw from a prompt alone"
            )
        return Call(hidden.shape[0], (int(rows) + 1, int(columns) + 1), hidden.device)

    def batches_guidance(self, pipe: Any) -> bool:
        """Whether this generation passes both branches in one call."""
        return self.guidance_batch != "separate" and bool(pipe.do_classifier_free_guidance)

    # Latents --------------------------------------------------------------------------------------------------------

    def pack(self, latent: torch.Tensor) -> torch.Tensor:
        """The pipeline's latent as tokens [B, n, c], row-major; packed ones stay as they are."""
        if latent.ndim == 3:
            return latent
        return rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch)

    def unpack(self, packed: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Inverse of `pack`: [B, n, c] to [B, C, rows, columns] of latent pixels, as the transformer knows them."""
        h, w = grid
        return rearrange(packed, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=self.patch, q=self.patch)

    def denormalise(self, latents: torch.Tensor, vae: Any) -> torch.Tensor:
        """Latents [B, C, H, W] in the VAE's own scale."""
        return latents / vae.config.scaling_factor + vae.config.shift_factor

    def pixels(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Decoded [B, 3, H, W] in -1..1, of latents in the VAE's own scale."""
        return vae.decode(latents, return_dict=False)[0]


def stacked(tensors: Sequence[torch.Tensor | None], device: torch.device) -> torch.Tensor | None:
    """One tensor of a whole batch on the device; None where the model has none."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present).to(device) if present else None


def negatives(embeddings: Sequence[Embedding]) -> list[Embedding]:
    """The negatives of a batch; empty where there are none."""
    return [e.negative for e in embeddings if e.negative is not None]
