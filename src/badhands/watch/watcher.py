"""Probes attached to a running pipeline: what they say of every patch, block by block, at every step they know."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from badhands.cells import Cell, in_order
from badhands.diffusion.moments import Moment, StepEnd
from badhands.diffusion.readback import Readback
from badhands.diffusion.taps import Taps
from badhands.probes.artifact import Probes
from badhands.probes.steps import match_steps
from badhands.watch.compatibility import check_model, choose_blocks
from badhands.watch.frame import Frame
from badhands.watch.keeping import save
from badhands.watch.policies import Policy
from badhands.watch.seen import Seen

LEAST_HAND = 3
"""Fewer hand tokens are no hand: the image score is nan, and no policy acts on it."""


class Watched(Seen):
    """What a watch saw, ready to be written down."""

    def save(self, folder: Path | str, *, members: Sequence[int] | None = None, title: str = "") -> Path:
        """Write strip, animation, step pictures, scores.csv and page of the last generation into `folder`."""
        return save(self, Path(folder), members, title)


class watch:
    """`with watch(pipe, probes, policy) as seen: image = pipe(...).images[0]`: any diffusers call, any number of them.

    The picture is bit-identical with and without it, unless a policy changes it. Nothing is decoded while the
    transformer works: previews keep the predicted clean latent and are decoded when looked at. With true CFG the
    conditional call is read (and steered). When a policy stops every member of a batch, the pipeline call ends with
    `badhands.diffusion.moments.AllDropped`; when it stops some, the call returns the others.

    Args:
        pipe: a diffusers pipeline of the model that the probes were trained on.
        probes: their heads `hand` and `good`.
        policy: `Abort`, `Steer`, or None to look only.
        blocks: which to watch; None is every one that has a probe.
        previews: True keeps one at every watched step, k at every k-th, False none.
        preview_scale: decode previews this much smaller (2 or 4 for FLUX, where decoding takes long).
        preview_vae: another decoder for previews (`load_tiny_vae`); the finished image has the pipeline's own.
        p_hand: calibrated P(hand) from which on a token is called hand.
        on_frame: called with (seen, frame) at the end of every watched step, which then waits for the device. Without
            it a step is read while the next one is drawn, unless the policy acts in it.

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
        on_frame: Callable[[Watched, Frame], None] | None = None,
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
        self.seen = Watched(pipe, probes, choose_blocks(probes, (*chosen, *acting)), preview_scale, preview_vae)
        self._taps = Taps(pipe, self.seen.blocks, on_block=self._on_block, on_step=self._on_step)
        self._generation = -1
        self._cells = frozenset(cell for head, cell in probes.readouts if head == "good")
        self._heads: dict[Cell, _Heads] = {}

    def __enter__(self) -> Watched:
        self._taps.__enter__()
        return self.seen

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._taps.__exit__(kind, error, trace)

    def _begin(self, moment: Moment, device: torch.device) -> None:
        self._generation = moment.generation
        self.seen.grid = self._taps.grid
        self.seen.matched = match_steps(self.seen.probes.steps, self.seen.pipe.scheduler.sigmas.tolist())
        missing = {cell.timestep for cell in self._acting} - set(self.seen.matched.values())
        if missing:
            raise ValueError(
                f"the policy acts at trained timesteps {sorted(missing, reverse=True)}, and no step of this schedule "
                "has their sigma: generate with the training study's number of steps, or choose other timesteps"
            )
        read = [Cell(block, t) for block in self.seen.blocks for t in self.seen.matched.values()]
        new = [cell for cell in read if cell in self._cells and cell not in self._heads]
        # Here, before much is queued: a copy to the device waits for all that is, which cost 3 ms for every cell.
        self._heads |= _Heads.of(self.seen.probes, new, device) if new else {}
        self._logits: dict[Cell, Tensor] = {}
        self._sums: tuple[Tensor, Tensor, int] | None = None
        self._watched = 0

    def _on_block(self, moment: Moment, block: str, tokens: Tensor) -> Tensor | None:
        if moment.generation != self._generation:
            self._begin(moment, tokens.device)
        trained = self.seen.matched.get(moment.timestep)
        if moment.branch or trained is None or (cell := Cell(block, trained)) not in self._cells:
            return None
        logits = self._logits[cell] = self._heads[cell](tokens)
        if self._policy is None or cell not in self._acting:
            return None
        # What is recorded is what the block put out; the change shows in the cells that follow.
        return self._policy.change(cell, tokens, self._heads[cell].p_hand(logits) >= self._p_hand)

    def _on_step(self, event: StepEnd) -> None:
        moment, seen = event.moment, self.seen
        if moment.generation not in seen.first:
            seen.first[moment.generation] = event.x_t.cpu()
        seen.evaluations += len(moment.members) * (2 if self._taps.doubled else moment.branch + 1)
        if self._logits:
            cells = in_order(self._logits)
            self.seen.expect(self._frame(event, cells))
            asked = self._policy is not None and not self._acting.isdisjoint(cells)
            if asked or self._on_frame is not None or moment.timestep == 1:
                self._answer(event, seen.frames[-1])
            else:
                seen.settle(but=1)  # what the last step said has arrived by now
        if moment.timestep == 1 and self._every:
            seen.last[moment.generation] = event.x_next.cpu()
            seen.final_members[moment.generation] = tuple(m for m in moment.members if m not in event.dropped)
            if event.dropped:
                kept = [i for i, member in enumerate(moment.members) if member not in event.dropped]
                seen.last[moment.generation] = event.x_next[kept].cpu()

    def _answer(self, event: StepEnd, frame: Frame) -> None:
        """Do what the policy and the caller want after a step."""
        if self._policy is not None:
            stopped = self._policy.stop(frame)
            self.seen.stopped |= {(frame.generation, member): frame.timestep for member in stopped}
            event.drop(stopped)
        if self._on_frame is not None:
            self._on_frame(self.seen, frame)

    def _frame(self, event: StepEnd, cells: tuple[Cell, ...]) -> Callable[[], Frame]:
        """What the step says, on its way to the host: called, it gives the frame."""
        moment, x0 = event.moment, event.x0()
        heads = [self._heads[cell] for cell in cells]
        kept = x0 if self._every and self._watched % self._every == 0 else x0[:0]
        on_the_way = Readback(
            torch.stack([self._logits[cell] for cell in cells]),
            event.x_t.float().var(dim=(1, 2)),
            self._changed(x0, moment.members),
            kept,
        )
        self._logits = {}
        self._watched += 1

        def frame() -> Frame:
            logits, variance, changed, clean = on_the_way.get()
            return Frame(
                moment.generation, moment.step, moment.timestep, moment.num_steps, moment.sigma, moment.members, cells,
                **_verdicts(cells, heads, logits, self._p_hand), xt_variance=variance.numpy(),
                x0_change=changed.numpy(), x0=clean if len(clean) else None,
            )  # fmt: skip

        return frame

    def _changed(self, x0: Tensor, members: tuple[int, ...]) -> Tensor:
        """Log variance over the watched steps, averaged over channels [B, n]."""
        if self._sums is None:
            self._sums, self._rows = (torch.zeros_like(x0), torch.zeros_like(x0), 0), members
        keep = [self._rows.index(member) for member in members]
        total, squares, count = self._sums
        if len(keep) < len(self._rows):
            total, squares, self._rows = total[keep], squares[keep], members
        self._sums = total, squares, count = total + x0, squares + x0.square(), count + 1
        variance = (squares / count - (total / count).square()).clamp(min=0).mean(-1)
        return torch.log(variance + 1e-8) if count > 1 else torch.full_like(variance, -torch.inf)


def _verdicts(cells: tuple[Cell, ...], heads: "list[_Heads]", logits: Tensor, least: float) -> dict[str, Any]:
    """The fields of a frame that come from logits float32[cells, B, n, 3], each a dictionary by block."""
    slope, offset = (
        torch.tensor([getattr(head, name) for head in heads])[:, None, None] for name in ("slope", "offset")
    )
    p = torch.sigmoid(slope * logits + offset)
    hand = p[..., 0] >= least
    count = hand.sum(-1)
    mean = (logits[..., -1] * hand).sum(-1) / count.clamp(min=1)
    score = torch.where(count < LEAST_HAND, torch.nan, mean)
    fields = {
        "hand_logit": logits[..., 0], "good_logit": logits[..., 1], "p_hand": p[..., 0], "p_bad": 1 - p[..., 1],
        "hand": hand, "score": score, "image_p_bad": 1 - torch.sigmoid(slope[..., 0, -1] * score + offset[..., 0, -1]),
    }  # fmt: skip
    arrays = {name: values.numpy() for name, values in fields.items()}
    return {name: {cell.block: of[i] for i, cell in enumerate(cells)} for name, of in arrays.items()}


class _Heads:
    """The readouts of a cell: hand, good, and what scores the image; linear ones as one product."""

    _weight: Tensor
    _bias: Tensor

    def __init__(self, probes: Probes, cell: Cell) -> None:
        heads = ("hand", "good", probes.image_head)
        self._all = [probes.readout(head, cell) for head in heads]
        self.slope = [readout.platt[0] for readout in self._all]
        """Of calibrated logits: of hand, of good for a token, of good for the image."""
        self.offset = [readout.platt[1] + probes.shift(head) for readout, head in zip(self._all, heads, strict=True)]
        self._linear = all(readout.hidden is None for readout in self._all)

    @classmethod
    def of(cls, probes: Probes, cells: Sequence[Cell], device: torch.device) -> "Mapping[Cell, _Heads]":
        """Of many cells at once, their tensors on the device: the weights of all of them go there in one copy."""
        found = {cell: cls(probes, cell) for cell in cells}
        if not all(heads._linear for heads in found.values()):
            moved = probes.to(device)
            found = {cell: cls(moved, cell) for cell in cells}
            for heads in found.values():
                heads._linear = False
            return found
        readouts = [heads._all for heads in found.values()]
        weight = torch.stack([torch.stack([one.weight for one in three], -1) for three in readouts]).to(device)
        bias = torch.tensor([[one.bias for one in three] for three in readouts]).to(device)
        for i, heads in enumerate(found.values()):
            heads._weight, heads._bias = weight[i], bias[i]
        return found

    def __call__(self, tokens: Tensor) -> Tensor:
        """[B, n, d] -> [B, n, 3] float32 logits."""
        if self._linear:
            return tokens.float() @ self._weight + self._bias
        return torch.stack([readout.logit(tokens) for readout in self._all], -1)

    def p_hand(self, logits: Tensor) -> Tensor:
        """Calibrated P(hand), from logits [..., 3]."""
        return torch.sigmoid(self.slope[0] * logits[..., 0] + self.offset[0])
