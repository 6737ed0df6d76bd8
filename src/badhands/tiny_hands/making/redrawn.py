# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
"""An embedded pipeline that redraws renders, or draws from noise: its own hand-writing, on hands of which we know.

From little noise a sound hand comes back sound, with the model's own soft edges; from much noise a weak model brings it
back malformed.
"""

from pathlib import Path

import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor

from badhands.tiny_hands.anatomy import Hands
from badhands.tiny_hands.making.autoencoder import encode_tokens
from badhands.tiny_hands.making.sampling import Text, caption_index, draw
from badhands.tiny_hands.renderer import render


class Redrawer:
    """A saved pipeline, in float32 on `device`.

    Raises:
        ValueError: there is no pipeline in `folder`.
    """

    def __init__(self, folder: str | Path, device: str) -> None:
        if not (Path(folder) / "model_index.json").is_file():
            raise ValueError(f"no pipeline in {folder}: give the folder that holds its model_index.json")
        self.device = device
        pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self.text = Text(pipe, device)
        self.vae, self.transformer = pipe.vae.to(device), pipe.transformer.to(device)

    @torch.no_grad()
    def redraw(self, hands: Hands, step: int, g: torch.Generator) -> Tensor:
        """float [n, 3, 64, 64]: renders noised to the sigma of `step` (of 20) and finished; from noise alone at 0."""
        start = encode_tokens(self.vae, render(hands).images) if step else None
        return draw(self.transformer, self.vae, self.text, caption_index(hands.codes), g, start, step)
