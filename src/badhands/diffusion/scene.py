"""A model at work: texts encoded, encoders let go, transformer loaded, pictures drawn. Every command uses it."""

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from badhands.diffusion.generation import Embedding, embed_prompts, encode, generate, generate_latents
from badhands.diffusion.models import ModelSpec, load_pipeline
from badhands.diffusion.preview import decode


@dataclass(frozen=True)
class Pair:
    """One picture to be made."""

    prompt: str
    seed: int


class Scene:
    """One model. The text encoders and the transformer never lie in memory together, unless `pipe` brings both.

    Args:
        prompts: encoded at once; `embed` takes more.
        pipe: a pipeline that is loaded already, with its text encoders.
    """

    def __init__(self, spec: ModelSpec, prompts: Iterable[str] = (), pipe: Any = None) -> None:
        silence_loading()
        self.spec = spec
        self.embeddings: dict[str, Embedding] = {}
        self._given, self._pipe = pipe, pipe
        self.embed(prompts)

    def embed(self, prompts: Iterable[str]) -> dict[str, Embedding]:
        """Embeddings of these prompts; missing ones are encoded, for which the transformer makes room."""
        wanted = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in wanted if prompt not in self.embeddings]
        if missing and self._given is not None:
            self.embeddings |= encode(self._given, missing, self.spec.max_sequence_length)
        elif missing:
            self.free()
            self.embeddings |= embed_prompts(self.spec, missing)
        return {prompt: self.embeddings[prompt] for prompt in wanted}

    @property
    def pipe(self) -> Any:
        """The pipeline without text encoders, loaded when first asked for."""
        if self._pipe is None:
            self._pipe = load_pipeline(self.spec, "image")
        return self._pipe

    def free(self) -> None:
        """Let the transformer go; it comes back when it is asked for."""
        self._pipe = self._given
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def draw(self, embeddings: Sequence[Embedding], seeds: Sequence[int]) -> torch.Tensor:
        """Final packed latents [n, tokens, c] of up to one batch, filled up to the spec's size."""
        return generate_latents(self.pipe, embeddings, seeds, self.spec)

    def latents(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Final packed latents [n, tokens, c] of the pairs that nothing stopped, as one batch of exactly their number.

        Raises:
            AllDropped: a policy stopped all of them.
        """
        spec = replace(self.spec, batch_size=len(pairs))
        return generate_latents(self.pipe, [self.embeddings[p.prompt] for p in pairs], [p.seed for p in pairs], spec)

    def pictures(self, latents: torch.Tensor) -> list[Image.Image]:
        """Decoded, one at a time."""
        return decode(self.pipe, latents, self.spec.height, self.spec.width)

    def generate(self, pairs: Sequence[Pair]) -> Iterator[Image.Image]:
        """Pictures of any number of pairs, in batches of the spec's size."""
        embeddings = [self.embeddings[pair.prompt] for pair in pairs]
        return generate(self.pipe, embeddings, [pair.seed for pair in pairs], self.spec)


def silence_loading() -> None:
    """No bars of loading: they would break up the commands' own."""
    from diffusers.utils.logging import disable_progress_bar as of_diffusers
    from transformers.utils.logging import disable_progress_bar as of_transformers

    of_diffusers()
    of_transformers()
