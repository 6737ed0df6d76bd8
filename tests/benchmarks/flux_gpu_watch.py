"""What watching costs: scores of all tokens at the study's cells, with and without previews."""

from collections.abc import Callable
from typing import Any

import torch

from badhands.diffusion.taps import Moment, StepEnd, Taps


def watching(s: Any) -> dict[str, Callable[[], Any]]:
    """Runs with linear probes read at every chosen cell for all tokens, results on the host at the end of each step."""
    device = s.pipe._execution_device
    width = s.pipe.transformer.inner_dim
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.randn(width, 2, generator=generator) for name in s.post_blocks}
    weights = {name: weight.to(device, s.spec.torch_dtype) for name, weight in random.items()}

    def run(every: int | None) -> Callable[[], Any]:
        def go() -> None:
            found: list[torch.Tensor] = []

            def on_block(moment: Moment, block: str, tokens: torch.Tensor) -> None:
                found.append(tokens @ weights[block])

            def on_step(step: StepEnd) -> None:
                for scores in found:
                    scores.float().sigmoid().cpu()
                found.clear()
                if every is not None and step.moment.step % every == 0:
                    s.decode(step.x0())

            with Taps(s.pipe, s.post_blocks, on_block=on_block, on_step=on_step, timesteps=s.post_timesteps):
                s.latents([0])

        return go

    return {"scores": run(None), "scores, preview each step": run(1), "scores, preview each 4th step": run(4)}
