"""Probes attached to a running pipeline: what they say of every patch, block by block, at every step they know."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from badhands.cells import Cell, in_order
from badhands.diffusion.families import family_of_pipe
from badhands.diffusion.preview import decode
from badhands.diffusion.taps import Moment, StepEnd, Taps
from badhands.probes.artifact import Probes
from badhands.probes.steps import match_steps
from badhands.watch.fitting import check_model, choose_blocks
from badhands.watch.policies import Policy

log = logging.getLogger(__name__)

SLOW = 1.0
"""Seconds from which on a quicker way to decode a preview is named."""

LEAST_HAND = 3
"""Fewer hand tokens are no hand: the image score is nan, and no policy acts on it."""


@dataclass
class Frame:
    """One step as the probes saw it. B counts the batch members still alive, n the tokens, row-major on the grid."""

    generation: int
    """Counts the pipeline calls inside one `watch`, from 0."""
    step: int
    timestep: int
    num_steps: int
    sigma: float
    members: tuple[int, ...]
    """Batch members still alive, by their place in the batch that the generation began with."""
    cells: tuple[Cell, ...]
    """The trained cells that were read: their timestep is the training schedule's."""
    hand_logit: dict[str, np.ndarray]
    """Block -> float32[B, n]; positive means hand."""
    good_logit: dict[str, np.ndarray]
    """Block -> float32[B, n]; positive means good."""
    p_hand: dict[str, np.ndarray]
    """Block -> float32[B, n], calibrated."""
    p_bad: dict[str, np.ndarray]
    """Block -> float32[B, n], calibrated; says something on hand tokens only."""
    hand: dict[str, np.ndarray]
    """Block -> bool[B, n]: tokens that the hand head calls hand."""
    score: dict[str, np.ndarray]
    """Block -> float32[B]: logit of the mean hand token, low means a bad hand; nan where no hand was found."""
    image_p_bad: dict[str, np.ndarray]
    """Block -> float32[B]: P(bad) of the hand, calibrated to the probes' bad rate; nan where no hand was found."""
    xt_variance: np.ndarray
    """float32[B]: variance of the step's latent over tokens and channels."""
    x0_change: np.ndarray
    """float32[B, n]: log variance of the predicted clean latent over the watched steps so far; -inf at the first."""
    x0: Tensor | None = None
    """[B, n, c] float32 on the CPU: the clean latent predicted at this step, kept where a preview was asked for."""

    def place(self, member: int) -> int:
        """Row of a batch member in the arrays.

        Raises:
            ValueError: it had been dropped before this step.
        """
        if member not in self.members:
            raise ValueError(f"member {member} was not alive at timestep {self.timestep}")
        return self.members.index(member)


class Seen:
    """What a watch saw. `frames` grows while the image is being made and stays when it is interrupted."""

    def __init__(
        self, pipe: Any, probes: Probes, blocks: tuple[str, ...], preview_scale: int, preview_vae: Any = None
    ) -> None:
        self.pipe, self.probes, self.blocks = pipe, probes, blocks
        self.preview_scale, self.preview_vae = preview_scale, preview_vae
        self._slow_told = False
        self.frames: list[Frame] = []
        self.grid: tuple[int, int] = (0, 0)
        """Rows and columns of tokens."""
        self.matched: dict[int, int] = {}
        """Timestep of this schedule -> of the training schedule."""
        self.last: dict[int, Tensor] = {}
        """Generation -> final packed latents [B, n, c] on the CPU, of finished generations with previews."""
        self.final_members: dict[int, tuple[int, ...]] = {}
        """Generation -> members that were finished."""
        self.stopped: dict[tuple[int, int], int] = {}
        """(generation, member) -> timestep after which a policy stopped it."""
        self.evaluations = 0
        """Images passed through the transformer, one a step and living member (two with true CFG)."""
        self._decoded: dict[tuple[int, int, int], Image.Image] = {}

    def of(self, generation: int = -1) -> list[Frame]:
        """Frames of one generation; -1 is the last that was seen."""
        if generation < 0 and self.frames:
            generation = self.frames[-1].generation
        return [frame for frame in self.frames if frame.generation == generation]

    def size(self) -> tuple[int, int]:
        """(height, width) of the picture in px."""
        patch = self.pipe.vae_scale_factor * 2
        return self.grid[0] * patch, self.grid[1] * patch

    def preview(self, frame: Frame, member: int = 0) -> Image.Image | None:
        """The predicted clean image of a step, decoded when first asked for; None where none was kept.

        Full size divided by `preview_scale`: then the latent is averaged before it is decoded, which a large VAE does
        that much squared faster.
        """
        if frame.x0 is None:
            return None
        key = (frame.generation, frame.step, member)
        if key not in self._decoded:
            self._decoded[key] = self._decode(frame.x0[frame.place(member)][None])
        return self._decoded[key]

    def final(self, generation: int = -1, member: int = 0) -> Image.Image | None:
        """The finished image of a member, decoded; None if it was stopped or interrupted."""
        if generation < 0 and self.frames:
            generation = self.frames[-1].generation
        members = self.final_members.get(generation, ())
        if member not in members:
            return None
        key = (generation, -1, member)
        if key not in self._decoded:
            packed = self.last[generation][members.index(member)][None]
            (self._decoded[key],) = decode(self.pipe, packed, *self.size(), scale=self.preview_scale)
        return self._decoded[key]

    def _decode(self, packed: Tensor) -> Image.Image:
        height, width = self.size()
        start = time.perf_counter()
        (picture,) = decode(self.pipe, packed, height, width, scale=self.preview_scale, vae=self.preview_vae)
        seconds = time.perf_counter() - start
        if seconds > SLOW and self.preview_vae is None and not self._slow_told:
            self._slow_told = True
            tiny = family_of_pipe(self.pipe).tiny_vae
            quicker = "watch.preview_scale=4" + (f" or watch.preview=taef ({tiny})" if tiny else "")
            log.warning("a preview takes %.1f s to decode: %s is quicker", seconds, quicker)
        return picture

    def hand_found(self, member: int = 0, generation: int = -1) -> bool:
        """Whether any block found a hand in any step."""
        return any(
            np.isfinite(frame.score[block][frame.place(member)])
            for frame in self.of(generation)
            if member in frame.members
            for block in self.blocks
        )

    def rows(self) -> pd.DataFrame:
        """A line for each generation, member, step and block: image score, hand tokens, variances."""
        lines = [
            {
                "generation": frame.generation, "member": member, "block": cell.block, "timestep": frame.timestep,
                "step": frame.step, "sigma": frame.sigma, "trained_timestep": cell.timestep,
                "score": float(frame.score[cell.block][i]),
                "p_bad": float(frame.image_p_bad[cell.block][i]),
                "tokens": int(frame.hand[cell.block][i].sum()),
                "xt_variance": float(frame.xt_variance[i]),
                "x0_change": _mean(frame.x0_change[i], frame.hand[cell.block][i]),
                "stopped": self.stopped.get((frame.generation, member)) == frame.timestep,
            }
            for frame in self.frames for i, member in enumerate(frame.members) for cell in frame.cells
        ]  # fmt: skip
        return pd.DataFrame(lines)

    def save(self, folder: Path | str, *, members: Sequence[int] | None = None, title: str = "") -> Path:
        """Write strip, animation, step pictures, scores.csv and page of the last generation into `folder`."""
        from badhands.watch.keeping import save

        return save(self, Path(folder), members, title)


class watch:
    """`with watch(pipe, probes, policy) as seen: image = pipe(...).images[0]`: any diffusers call, any number of them.

    The picture is bit-identical with and without it, unless a policy changes it. Nothing is decoded while the
    transformer works: previews keep the predicted clean latent and are decoded when looked at. With true CFG the
    conditional call is read (and steered). When a policy stops every member of a batch, the pipeline call ends with
    `badhands.diffusion.taps.AllDropped`; when it stops some, the call returns the others.

    Args:
        pipe: a diffusers pipeline of the model that the probes were trained on.
        probes: their heads `hand` and `good`.
        policy: `Abort`, `Steer`, or None to look only.
        blocks: which to watch; None is every one that has a probe.
        previews: True keeps one at every watched step, k at every k-th, False none.
        preview_scale: decode previews this much smaller (2 or 4 for FLUX, where decoding takes long).
        preview_vae: another decoder for previews (`load_tiny_vae`); the finished image has the pipeline's own.
        p_hand: calibrated P(hand) from which on a token is called hand.
        on_frame: called with (seen, frame) at the end of every watched step.

    Raises:
        ValueError: at entry, probes of another model, a block without a probe, a policy without threshold; at the first
            step, a schedule that the probes do not know.
    """

    def __init__(
        self,
        pipe: Any,
        probes: Probes,
        policy: Policy | None = None,
        *,
        blocks: Sequence[str] | None = None,
        previews: bool | int = True,
        preview_scale: int = 1,
        preview_vae: Any = None,
        p_hand: float = 0.5,
        on_frame: Callable[[Seen, Frame], None] | None = None,
    ) -> None:
        check_model(pipe, probes)
        chosen = choose_blocks(probes, blocks)
        if preview_scale not in (1, 2, 4):
            raise ValueError(f"watch.preview_scale={preview_scale}: use 1, 2 or 4")
        if not 0 < p_hand < 1:
            raise ValueError(f"watch.p_hand={p_hand}: it is a probability between 0 and 1")
        self._every = int(previews)
        if self._every < 0:
            raise ValueError(f"watch.previews={previews}: use true, false, or k for every k-th watched step")
        self._policy, self._p_hand, self._on_frame = policy, p_hand, on_frame
        acting = {cell.block for cell in policy.cells} if policy else set()
        self._acting = frozenset(policy.cells) if policy else frozenset()
        self.seen = Seen(pipe, probes, choose_blocks(probes, (*chosen, *acting)), preview_scale, preview_vae)
        self._taps = Taps(pipe, self.seen.blocks, on_block=self._on_block, on_step=self._on_step)
        self._generation = -1
        self._cells = frozenset(cell for head, cell in probes.readouts if head == "good")
        self._heads: dict[Cell, _Heads] = {}

    def __enter__(self) -> Seen:
        self._taps.__enter__()
        return self.seen

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._taps.__exit__(kind, error, trace)

    def _begin(self, moment: Moment) -> None:
        self._generation = moment.generation
        self.seen.grid = self._taps.grid
        self.seen.matched = match_steps(self.seen.probes.steps, self.seen.pipe.scheduler.sigmas.tolist())
        missing = {cell.timestep for cell in self._acting} - set(self.seen.matched.values())
        if missing:
            raise ValueError(
                f"the policy acts at trained timesteps {sorted(missing, reverse=True)}, and no step of this schedule "
                "has their sigma: generate with the training study's number of steps, or choose other timesteps"
            )
        self._logits: dict[Cell, Tensor] = {}
        self._sums: tuple[Tensor, Tensor, int] | None = None
        self._watched = 0

    def _on_block(self, moment: Moment, block: str, tokens: Tensor) -> Tensor | None:
        if moment.generation != self._generation:
            self._begin(moment)
        trained = self.seen.matched.get(moment.timestep)
        if moment.branch or trained is None or (cell := Cell(block, trained)) not in self._cells:
            return None
        if cell not in self._heads:
            self._heads[cell] = _Heads(self.seen.probes, cell, tokens.device)
        logits = self._logits[cell] = self._heads[cell](tokens)
        if self._policy is None or cell not in self._acting:
            return None
        # What is recorded is what the block put out; the change shows in the cells that follow.
        return self._policy.change(cell, tokens, self._heads[cell].probability(logits, 0) >= self._p_hand)

    def _on_step(self, event: StepEnd) -> None:
        moment, seen = event.moment, self.seen
        seen.evaluations += len(moment.members) * (2 if self._taps.doubled else moment.branch + 1)
        if self._logits:
            frame = self._frame(event)
            seen.frames.append(frame)
            if self._policy is not None:
                stopped = self._policy.stop(frame)
                seen.stopped |= {(moment.generation, member): moment.timestep for member in stopped}
                event.drop(stopped)
            if self._on_frame is not None:
                self._on_frame(seen, frame)
        if moment.timestep == 1 and self._every:
            seen.last[moment.generation] = event.x_next.cpu()
            seen.final_members[moment.generation] = tuple(m for m in moment.members if m not in event.dropped)
            if event.dropped:
                kept = [i for i, member in enumerate(moment.members) if member not in event.dropped]
                seen.last[moment.generation] = event.x_next[kept].cpu()

    def _frame(self, event: StepEnd) -> Frame:
        moment = event.moment
        cells = in_order(self._logits)
        logits = torch.stack([self._logits[cell] for cell in cells]).cpu()  # one wait for the device a step
        hand_logit, good_logit, p_hand, p_bad, hand, score, image_p_bad = ({} for _ in range(7))
        for cell, found in zip(cells, logits, strict=True):
            heads, name = self._heads[cell], cell.block
            hand_logit[name], good_logit[name] = found[..., 0].numpy(), found[..., 1].numpy()
            p_hand[name], p_bad[name] = heads.probability(found, 0).numpy(), 1 - heads.probability(found, 1).numpy()
            hand[name] = p_hand[name] >= self._p_hand
            count = torch.from_numpy(hand[name].sum(1))
            mean = (found * torch.from_numpy(hand[name])[..., None]).sum(1) / count.clamp(min=1)[:, None]
            mean[count < LEAST_HAND] = torch.nan
            score[name], image_p_bad[name] = mean[:, -1].numpy(), 1 - heads.probability(mean, -1).numpy()
        x0 = event.x0()
        frame = Frame(
            moment.generation, moment.step, moment.timestep, moment.num_steps, moment.sigma, moment.members, cells,
            hand_logit, good_logit, p_hand, p_bad, hand, score, image_p_bad,
            xt_variance=event.x_t.float().var(dim=(1, 2)).cpu().numpy(), x0_change=self._changed(x0, moment.members),
            x0=x0.cpu() if self._every and self._watched % self._every == 0 else None,
        )  # fmt: skip
        self._logits = {}
        self._watched += 1
        return frame

    def _changed(self, x0: Tensor, members: tuple[int, ...]) -> np.ndarray:
        """Log variance over the watched steps, averaged over channels [B, n]."""
        if self._sums is None:
            self._sums, self._rows = (torch.zeros_like(x0), torch.zeros_like(x0), 0), members
        keep = [self._rows.index(member) for member in members]
        total, squares, count = self._sums
        if len(keep) < len(self._rows):
            total, squares, self._rows = total[keep], squares[keep], members
        self._sums = total, squares, count = total + x0, squares + x0.square(), count + 1
        variance = (squares / count - (total / count).square()).clamp(min=0).mean(-1)
        return (torch.log(variance + 1e-8) if count > 1 else torch.full_like(variance, -torch.inf)).cpu().numpy()


class _Heads:
    """The readouts of a cell: hand, good, and what scores the image; linear ones as one product."""

    def __init__(self, probes: Probes, cell: Cell, device: torch.device) -> None:
        heads = ("hand", "good", probes.image_head)
        self._all = [probes.readout(head, cell) for head in heads]
        self._shift = [probes.shift(head) for head in heads]
        self._linear = all(readout.hidden is None for readout in self._all)
        self._weight = torch.stack([readout.weight for readout in self._all], -1).to(device) if self._linear else None
        self._bias = torch.tensor([readout.bias for readout in self._all], device=device)

    def __call__(self, tokens: Tensor) -> Tensor:
        """[B, n, d] -> [B, n, 3] float32 logits."""
        if self._weight is not None:
            return tokens.float() @ self._weight + self._bias
        return torch.stack([readout.logit(tokens) for readout in self._all], -1)

    def probability(self, logits: Tensor, head: int) -> Tensor:
        """Calibrated, from logits [..., 3]: of hand (0), of good for a token (1) or for the image (-1)."""
        slope, offset = self._all[head].platt
        return torch.sigmoid(slope * logits[..., head] + offset + self._shift[head])


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].mean()) if where.any() else float("nan")
