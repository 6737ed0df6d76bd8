"""The probes of a run as one folder: what the watcher, the labelling app and other people's scripts load.

`probes.safetensors` holds one tensor a head, cell and part (`good/single.8/t20/weight`); `card.json` says what they
are.
Weights apply to raw activations: standardisation is folded in, so a probe is one dot product.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from badhands.cells import Cell, in_order
from badhands.probes.readout import Readout

HEADS = ("hand", "good", "image")
"""hand: is the token hand? good: is a hand token part of a good hand? image: is the hand good, read from the mean of
its tokens by the headline's ridge; applied to single tokens its logits average to the image's."""
VECTORS = ("directions", "midpoints", "random_directions")
FORMAT = 1


@dataclass(frozen=True)
class Probes:
    """Probes of every cell, with the vectors that steer and the thresholds that abort."""

    readouts: Mapping[tuple[str, Cell], Readout]
    directions: Mapping[Cell, Tensor]
    """[d] float32: mean of good tokens - mean of bad tokens, raw activations (Eq. 1): adding it makes hands better."""
    midpoints: Mapping[Cell, Tensor]
    """[d] float32: midpoint of the two class means."""
    steps: Mapping[int, tuple[int, float, int]]
    """timestep -> (step, sigma, number of steps of the schedule)."""
    thresholds: Mapping[Cell, Mapping[float, float]] = field(default_factory=dict)
    """cell -> {share of good images that may be lost -> image score}: stop an image that scores below it."""
    random_directions: Mapping[Cell, Tensor] = field(default_factory=dict)
    """[m, d] float32: draws from the within-class covariance of tokens, each as long as `directions[cell]`."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """What JSON can hold: fingerprint, generation, study, probe, scores per cell, date, commit."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        return in_order(cell for _, cell in self.readouts)

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(head for head in HEADS if any(h == head for h, _ in self.readouts))

    @property
    def fingerprint(self) -> str | None:
        return self.card.get("fingerprint")

    @property
    def bad_rate(self) -> float:
        """The share of bad hands that P(bad) assumes: the model's own, before the study balanced its classes."""
        return float(self.card.get("bad_rate") or 0.5)

    def at_rate(self, bad_rate: float) -> "Probes":
        """The same probes, calibrated to another share of bad hands.

        Raises:
            ValueError: it is not between 0 and 1.
        """
        if not 0 < bad_rate < 1:
            raise ValueError(f"bad_rate={bad_rate}: give the share of bad hands among hands, between 0 and 1")
        return replace(self, card={**self.card, "bad_rate": bad_rate})

    def shift(self, head: str) -> float:
        """Added to a calibrated logit of good: Platt's fit is for equal classes, Bayes' rule moves it to the rate."""
        return 0.0 if head == "hand" else math.log((1 - self.bad_rate) / self.bad_rate)

    @property
    def image_head(self) -> str:
        """The head that scores images: `image`, or in older artefacts `good`."""
        return "image" if "image" in self.heads else "good"

    @property
    def width(self) -> int:
        return next(iter(self.readouts.values())).width

    def readout(self, head: str, cell: Cell) -> Readout:
        """Raises ValueError for a head or cell that was not trained, naming what there is."""
        try:
            return self.readouts[head, cell]
        except KeyError:
            if head not in self.heads:
                raise ValueError(f"these probes have no head {head!r}: use one of {', '.join(self.heads)}") from None
            have = ", ".join(str(c) for c in self.cells if (head, c) in self.readouts)
            raise ValueError(f"no {head} probe was trained on {cell}: use one of {have}") from None

    def logit(self, head: str, cell: Cell, x: Tensor) -> Tensor:
        """Signed score of tokens; positive means hand, or good.

        Args:
            x: [..., d] raw activations of this cell, any dtype.

        Returns:
            [...] float32.
        """
        return self.readout(head, cell).logit(x)

    def p_bad(self, cell: Cell, x: Tensor) -> Tensor:
        """P(bad) of tokens x [..., d], given that they are hand, calibrated to `bad_rate`: [...] float32 in 0..1."""
        return 1 - self.readout("good", cell).probability(x, self.shift("good"))

    def p_hand(self, cell: Cell, x: Tensor) -> Tensor:
        """Calibrated P(hand) of tokens x [..., d]: [...] float32 in 0..1."""
        return self.readout("hand", cell).probability(x)

    def image_score(self, cell: Cell, x: Tensor, hand_mask: Tensor | None = None) -> float:
        """Logit of the mean hand token: low means a bad hand. The score that `thresholds` refer to.

        Args:
            x: [n, d] tokens of one image; hand_mask: bool[n], None: all are hand.

        Returns:
            nan where no token is hand.
        """
        if hand_mask is not None:
            x = x[hand_mask.to(x.device)]
        return self.logit(self.image_head, cell, x).mean().item() if len(x) else float("nan")

    def image_p_bad(self, cell: Cell, x: Tensor, hand_mask: Tensor | None = None) -> float:
        """P(bad) of the image's hand, calibrated to `bad_rate`; nan where no token is hand. Arguments as above."""
        slope, offset = self.readout(self.image_head, cell).platt
        logit = slope * self.image_score(cell, x, hand_mask) + offset + self.shift(self.image_head)
        return 1 / (1 + math.exp(min(logit, 700.0)))

    def to(self, device: str | torch.device) -> "Probes":
        """A copy whose tensors lie on `device`."""

        def vectors(of: Mapping[Cell, Tensor]) -> dict[Cell, Tensor]:
            return {cell: v.to(device) for cell, v in of.items()}

        return replace(
            self,
            readouts={key: readout.to(device) for key, readout in self.readouts.items()},
            directions=vectors(self.directions),
            midpoints=vectors(self.midpoints),
            random_directions=vectors(self.random_directions),
        )

    def save(self, folder: Path | str) -> Path:
        """Write `probes.safetensors` and `card.json` into `folder` (made if missing)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for (head, cell), readout in self.readouts.items():
            tensors |= readout.tensors(f"{head}/{cell}")
        for name in VECTORS:
            tensors |= {f"{name}/{cell}": v for cell, v in getattr(self, name).items()}
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, folder / "probes.safetensors")
        card = {
            **self.card,
            "format": FORMAT,
            "heads": list(self.heads),
            "cells": [str(cell) for cell in self.cells],
            "width": self.width,
            "steps": {str(t): list(step) for t, step in self.steps.items()},
            "thresholds": {str(c): {str(k): v for k, v in of.items()} for c, of in self.thresholds.items()},
        }
        (folder / "card.json").write_text(json.dumps(card, indent=1, default=str) + "\n")
        return folder

    def with_card(self, card: dict[str, Any]) -> "Probes":
        """The same probes with another card."""
        return replace(self, card=card)

    def push_to_hub(
        self,
        repo: str,
        *,
        license: str,
        base_model: str | None = None,
        run: Path | str | None = None,
        private: bool = True,
    ) -> str:
        """Send them with a model card to the Hugging Face Hub; returns the address. See `badhands.probes.hub.push`."""
        from badhands.probes.hub import push

        return push(self, repo, license=license, base_model=base_model, run=run, private=private)

    @classmethod
    def from_hub(cls, repo: str, *, revision: str | None = None, **check: Any) -> "Probes":
        """Probes of a Hub repo; `check` is what `load` checks (fingerprint, width, generation)."""
        from badhands.probes.hub import pull

        return cls.load(pull(repo, revision=revision), **check)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        fingerprint: str | None = None,
        width: int | None = None,
        generation: Mapping[str, Any] | None = None,
    ) -> "Probes":
        """Read a folder written by `save`.

        Args:
            fingerprint: of the generation the probes will watch; None: take any (watching will then be on your word).
            width: channels of its blocks.
            generation: the dictionary behind `fingerprint`; with it a refusal says what differs.

        Raises:
            ValueError: no probes there, another fingerprint, another width.
        """
        folder = Path(folder)
        if not (folder / "card.json").is_file() or not (folder / "probes.safetensors").is_file():
            raise ValueError(f"no probes in {folder}: give the probes/ folder of a run, or run train.py first")
        card = json.loads((folder / "card.json").read_text())
        trained_on = f"{card.get('model', 'a model')} (fingerprint {card.get('fingerprint')})"
        if width is not None and width != card["width"]:
            raise ValueError(
                f"probes in {folder} read {card['width']} channels and were trained on {trained_on}; "
                f"this model has {width}: train probes on this model"
            )
        if fingerprint is not None and fingerprint != card.get("fingerprint"):
            raise ValueError(
                f"probes in {folder} were trained on {trained_on}, not on fingerprint {fingerprint}"
                f"{_difference(card.get('generation') or {}, generation or {})}: "
                "train probes on this model, or watch that one"
            )
        tensors = load_file(folder / "probes.safetensors")
        readouts: dict[tuple[str, Cell], Readout] = {}
        vectors: dict[str, dict[Cell, Tensor]] = {name: {} for name in VECTORS}
        for key, tensor in tensors.items():
            kind, name = key.split("/", 1)
            kind = "midpoints" if kind == "means" else kind  # as 0.1.0 wrote them
            if kind in vectors:
                vectors[kind][Cell.parse(name)] = tensor
            elif name.endswith("/weight"):
                cell = name.removesuffix("/weight")
                readouts[kind, Cell.parse(cell)] = Readout.of(tensors, f"{kind}/{cell}")
        steps = {int(t): (int(s[0]), float(s[1]), int(s[2])) for t, s in card["steps"].items()}
        thresholds = {Cell.parse(c): {float(k): v for k, v in of.items()} for c, of in card["thresholds"].items()}
        return cls(
            readouts, vectors["directions"], vectors["midpoints"], steps, thresholds, vectors["random_directions"], card
        )


def _difference(trained: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """`; differing: steps (20, here 28)`, or nothing where one side is unknown."""
    if not trained or not present:
        return ""
    keys = [k for k in {**trained, **present} if str(trained.get(k)) != str(present.get(k))]
    return "; differing: " + ", ".join(f"{k} ({trained.get(k)}, here {present.get(k)})" for k in keys) if keys else ""
