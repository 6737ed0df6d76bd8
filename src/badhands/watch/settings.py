"""What the command was asked to do, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from badhands.cells import Cell, grid
from badhands.diffusion.fingerprint import fingerprint
from badhands.diffusion.spec import ModelSpec
from badhands.home import OUTPUTS
from badhands.probes.artifact import Probes
from badhands.watch.compatibility import best_block, choose_blocks, early_timesteps, ranked_blocks
from badhands.watch.directions import Direction
from badhands.watch.policies import Abort, Best, Policy, Steer
from badhands.watch.region import Region
from badhands.watch.repaint import Repair


@dataclass(frozen=True)
class PolicyChoice:
    """`policy` of the configuration."""

    name: Literal["none", "abort", "best", "steer", "repair"] = "none"
    blocks: tuple[str, ...] | None = None
    """None: the one that speaks first and best in the training study."""
    timesteps: tuple[int, ...] | None = None
    """Of the training schedule; None: those within the first fifth of the steps (abort: the last of them)."""
    miss: float | None = None
    """abort: share of good images that may be stopped."""
    strength: float = 1.0
    """steer: how many times the difference of means is added."""
    where: Literal["hand", "all"] = "hand"
    direction: Direction = "mean"
    """steer: see `directions.steering`."""
    n: int = 1
    """best: seeds started together."""
    keep: int = 1
    """best: how many of them are finished."""
    at: int | None = None
    """best: timestep of the training schedule after which the choice falls; None: the last one within the first fifth
    of the steps."""
    tries: int = 2
    """repair: at most so many times."""
    redo: float = 0.5
    """repair: share of the steps that are drawn again."""
    region: Region = "hand"
    """repair: what is drawn again."""
    p_bad: float = 0.5
    """repair: calibrated P(bad) of a finished hand from which on it is drawn again."""

    def __post_init__(self) -> None:
        if self.name not in ("none", "abort", "best", "steer", "repair"):
            raise ValueError(f"policy.name={self.name}: use none, abort, best, steer or repair")
        if self.name == "best" and not 1 <= self.keep < self.n:
            raise ValueError(f"policy.n={self.n} policy.keep={self.keep}: start more seeds than you keep, and keep one")

    def cells(self, probes: Probes) -> tuple[Cell, ...]:
        """Where the policy acts.

        Raises:
            ValueError: a block or timestep that has no probe.
        """
        blocks = choose_blocks(probes, self.blocks or ranked_blocks(probes)[:1])
        early = early_timesteps(probes)
        once = self.name in ("abort", "best")
        timesteps: Sequence[int] = self.timesteps or (early[-1:] if once else early)
        if self.name == "best" and self.at is not None:
            timesteps = (self.at,)
        for timestep in timesteps:
            if timestep not in probes.steps:
                have = ", ".join(str(t) for t in sorted(probes.steps, reverse=True))
                which = "at" if self.name == "best" else "timesteps"
                raise ValueError(f"policy.{which}: {timestep} was not trained; there are {have}")
        return grid(blocks, timesteps)

    def build(self, probes: Probes) -> Policy | None:
        """The policy; None for `none`, and for `repair`, which begins when a picture is finished.

        Raises:
            ValueError: no threshold, no direction, an unknown cell.
        """
        if self.name == "abort":
            return Abort.of(probes, self.cells(probes), self.miss)
        if self.name == "steer":
            return Steer.of(probes, self.cells(probes), self.strength, self.where, kind=self.direction)
        if self.name == "best":
            if self.timesteps is not None or (self.blocks and len(self.blocks) > 1):
                raise ValueError("policy=best decides once: give policy.at and at most one of policy.blocks")
            timestep = self.cells(probes)[0].timestep
            (block,) = self.blocks or (best_block(probes, timestep),)
            return Best(Cell(block, timestep), self.keep)
        return None

    def repairing(self) -> Repair | None:
        """How finished pictures are repaired; None for all but `repair`."""
        return Repair(self.tries, self.redo, self.region, self.p_bad) if self.name == "repair" else None


def find_probes(model: str, folder: str | None = None) -> Path:
    """The given folder, or the newest run's probes of this model.

    Raises:
        ValueError: there are none.
    """
    if folder is not None:
        return Path(folder).expanduser()
    cards = sorted((OUTPUTS / "runs").glob("**/probes/card.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    others: list[str] = []
    for card in cards:
        name = str(Probes.load(card.parent).card.get("model"))
        if name == model:
            return card.parent
        others.append(name)
    if others:
        raise ValueError(
            f"no run has probes of {model}; there are some of {', '.join(dict.fromkeys(others))}: "
            f"watch one with model={others[0]}, or run python train.py model={model}"
        )
    raise ValueError(
        f"no run under {OUTPUTS / 'runs'} has probes: run python extract.py model={model} and "
        f"python train.py model={model}, or give probes=..."
    )


def load_probes(folder: Path, spec: ModelSpec) -> Probes:
    """Probes that were trained on the spec's weights in its dtype; the number of steps may differ (sigmas are matched).

    Raises:
        ValueError: they were not; the message says what differs.
    """
    probes = Probes.load(folder)
    trained: dict[str, Any] = dict(probes.card.get("generation") or {})
    if trained:
        present = fingerprint(spec)[1]
        differ = [k for k in ("weights", "dtype", "quantization") if k in trained and trained[k] != present[k]]
        if differ:
            what = ", ".join(f"{k} ({trained[k]}, here {present[k]})" for k in differ)
            raise ValueError(
                f"probes in {folder} were trained on {probes.card.get('model')}; differing from {spec.name}: {what}: "
                "watch that model (model=...), or train probes on this one"
            )
    return probes
