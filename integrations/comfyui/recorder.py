"""Reads a FLUX model's blocks through ComfyUI's own patches and keeps what the probes say at every step.

ComfyUI replaces a block by `set_model_patch_replace(fn, "dit", "double_block" | "single_block", i)`; `fn(args, extra)`
calls `extra["original_block"](args)` and returns its output, here untouched, so the image stays as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from badhands import Cell
from badhands.probes.artifact import Probes
from badhands.probes.steps import match_steps

LEAST_HAND = 3
"""Fewer hand tokens are no hand, as everywhere in badhands: the score is nan then, and nothing is stopped."""
KEY = "badhands"
SAME_SIGMA = 1e-3
"""Samplers with half steps call the model at other noise levels too; those are not read."""


class Stopped(Exception):
    """Raised inside a model call to end a sampling that is not worth finishing."""


@dataclass
class Reading:
    """One block at one step. B images, h x w tokens, all float32 on the CPU."""

    cell: Cell
    """Of the training schedule."""
    step: int
    sigma: float
    p_hand: torch.Tensor
    p_bad: torch.Tensor
    """[B, h, w], calibrated."""
    hand: torch.Tensor
    """bool[B, h, w]"""
    score: torch.Tensor
    """[B]: mean image logit over hand tokens, low means a bad hand; nan without a hand."""
    token_score: torch.Tensor
    """[B]: the same of the token head, for recalibration."""


@dataclass
class Recorder:
    """What one patched model saw in its last sampling."""

    probes: Probes
    blocks: tuple[str, ...]
    p_hand: float = 0.5
    verdict: "Callable[[Reading], bool] | None" = None
    """Asked after every reading; True ends the sampling with `Stopped`."""
    readings: list[Reading] = field(default_factory=list)
    _text: int = 0
    _grid: tuple[int, int] = (0, 0)

    def patch(self, model: Any) -> Any:
        """A clone of a MODEL whose watched blocks are read; replacements made by others are called as before."""
        clone = model.clone()
        there = clone.model_options.get("transformer_options", {}).get("patches_replace", {}).get("dit", {})
        for block in self.blocks:
            stream, number = block.split(".")
            name, index = f"{stream}_block", int(number)
            read = self._replacement(block, there.get((name, index)))
            clone.set_model_patch_replace(read, "dit", name, index)
        clone.add_wrapper_with_key("outer_sample", KEY, self._on_sampling)
        clone.add_wrapper_with_key("diffusion_model", KEY, self._on_model)
        return clone

    def _on_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self.readings = []
        return executor(*args, **kwargs)

    def _on_model(
        self, executor: Any, x: torch.Tensor, timestep: Any, context: torch.Tensor, *args: Any, **kw: Any
    ) -> Any:
        """The sizes that a single block does not tell: how many text tokens stand before the image's, and its grid."""
        self._text = context.shape[1]
        self._grid = (x.shape[-2] + 1) // 2, (x.shape[-1] + 1) // 2
        return executor(x, timestep, context, *args, **kw)

    def _replacement(self, block: str, before: Any) -> Callable[[dict, dict], dict]:
        def read(args: dict, extra: dict) -> dict:
            out = before(args, extra) if before is not None else extra["original_block"](args)
            first = 0 if block.startswith("double") else self._text
            count = self._grid[0] * self._grid[1]
            self._read(block, out["img"][:, first : first + count], args.get("transformer_options") or {})
            return out

        return read

    def _read(self, block: str, tokens: torch.Tensor, options: dict) -> None:
        """tokens: [chunks * B, n, d], one chunk a condition; the conditional one (0) is read."""
        chunks = options.get("cond_or_uncond") or [0]
        schedule, sigma = options.get("sample_sigmas"), options.get("sigmas")
        if 0 not in chunks or schedule is None or sigma is None:
            return
        levels, now = [float(s) for s in schedule], float(sigma.flatten()[0])
        step = min(range(len(levels)), key=lambda k: abs(levels[k] - now))
        if abs(levels[step] - now) > SAME_SIGMA or any(r.step == step and r.cell.block == block for r in self.readings):
            return
        total = sum(level > 0 for level in levels)
        timestep = match_steps(self.probes.steps, levels).get(total - step)
        if timestep is None or ("good", cell := Cell(block, timestep)) not in self.probes.readouts:
            return
        reading = self.read_tokens(cell, tokens.chunk(len(chunks))[chunks.index(0)], step, now)
        self.readings.append(reading)
        if self.verdict is not None and self.verdict(reading):
            raise Stopped(str(cell))

    def read_tokens(self, cell: Cell, x: torch.Tensor, step: int, sigma: float) -> Reading:
        """x: [B, n, d] image tokens, row-major on the grid."""
        shape = (x.shape[0], *self._grid)
        p_hand = self.probes.p_hand(cell, x)
        hand = p_hand >= self.p_hand

        def mean(head: str) -> torch.Tensor:
            logit = self.probes.logit(head, cell, x)
            total, count = (logit * hand).sum(1), hand.sum(1)
            return torch.where(count >= LEAST_HAND, total / count.clamp(min=1), torch.nan).float().cpu()

        maps = [m.reshape(shape).cpu() for m in (p_hand, self.probes.p_bad(cell, x), hand)]
        return Reading(cell, step, sigma, *maps, mean(self.probes.image_head), mean("good"))

    def of_block(self, block: str) -> list[Reading]:
        """Readings of one block, first step first.

        Raises:
            ValueError: nothing was read there.
        """
        found = [reading for reading in self.readings if reading.cell.block == block]
        if not found:
            raise ValueError(
                f"badhands has read nothing in {block}: sample with the patched model first, with the size and number "
                "of steps that the probes were trained at (steps are matched by sigma)"
            )
        return found


def watched_blocks(probes: Probes) -> tuple[str, ...]:
    """Double and single blocks that have a probe, in network order."""
    return tuple(dict.fromkeys(c.block for c in probes.cells if c.block.startswith(("double.", "single."))))


def best_block(probes: Probes) -> str:
    """The block with the highest AUROC in the probes' card; the last one where the card has none."""
    scores = {cell: max(of.values(), default=0.0) for cell, of in (probes.card.get("scores") or {}).items() if of}
    blocks = watched_blocks(probes)
    best = [
        cell.split("/")[0] for cell in sorted(scores, key=lambda cell: scores[cell]) if cell.split("/")[0] in blocks
    ]
    return best[-1] if best else blocks[-1]
