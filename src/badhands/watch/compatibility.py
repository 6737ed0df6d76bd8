"""Do these probes fit this pipeline, and which of its steps do they know?"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from badhands.cells import PSEUDO_BLOCKS, Cell, block_key
from badhands.diffusion.families import family_of_pipe
from badhands.diffusion.fingerprint import folder_hash
from badhands.probes.artifact import Probes


def check_model(pipe: Any, probes: Probes) -> None:
    """Refuse a pipeline that the probes were not trained on, as far as it tells where it comes from.

    Raises:
        ValueError: another width, blocks that it does not have, other weights.
    """
    here = family_of_pipe(pipe).width(pipe.transformer.config)
    trained_on = f"{probes.card.get('model', 'another model')} (fingerprint {probes.fingerprint})"
    if here != probes.width:
        raise ValueError(
            f"these probes read {probes.width} channels and were trained on {trained_on}; this model has {here}: "
            "train probes on this model"
        )
    for head in ("hand", "good"):
        if head not in probes.heads:
            raise ValueError(f"these probes have no head {head!r}: train with tokens that are not hands in the labels")
    trained = (probes.card.get("generation") or {}).get("weights")
    present = weights_of(pipe, str(trained)) if trained else None
    if present is not None and present != trained:
        raise ValueError(
            f"these probes were trained on {trained_on}, weights {trained}; this pipeline has {present}: "
            "load that model, or train probes on this one"
        )


def weights_of(pipe: Any, like: str) -> str | None:
    """The weights entry of the pipeline's fingerprint, in the form of `like`; None where it cannot be known.

    A pipeline remembers the folder it was loaded from, not what was done to its weights afterwards.
    """
    folder = Path(str(getattr(getattr(pipe, "config", {}), "get", lambda *_: "")("_name_or_path", "") or ""))
    if not folder.name or not folder.is_dir():
        return None
    if like.startswith(("sha256:", "sampled:")):
        return _hash(folder, max(path.stat().st_mtime_ns for path in folder.glob("*/*")))
    path, _, commit = like.rpartition("@")
    return f"{path}@{folder.name}" if folder.parent.name == "snapshots" and len(commit) == len(folder.name) else None


@lru_cache(maxsize=8)
def _hash(folder: Path, _written: int) -> str:
    """Once for many watches of one pipeline; `_written` changes when the folder does."""
    return folder_hash(folder)


def choose_blocks(probes: Probes, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Blocks to watch in network order; None is every block that has a probe.

    Raises:
        ValueError: a block without a probe.
    """
    have = sorted({cell.block for cell in probes.cells} - set(PSEUDO_BLOCKS), key=block_key)
    if wanted is None:
        return tuple(have)
    for block in wanted:
        if block not in have:
            raise ValueError(f"watch.blocks: no probe was trained on {block}: use some of {', '.join(have)}")
    return tuple(sorted(set(wanted), key=block_key))


def ranked_blocks(probes: Probes, share: float = 0.2) -> list[str]:
    """Blocks by their best out-of-fold image AUROC within the first `share` of the steps, best first; blocks without
    a score there follow in network order from the last.

    Ranked by the training study alone: no fresh image is looked at.
    """
    scores: Mapping[str, Mapping[str, float]] = probes.card.get("scores") or {}
    best: dict[str, float] = dict.fromkeys(reversed(choose_blocks(probes, None)), 0.0)
    for cell in probes.cells:
        step, _, num_steps = probes.steps[cell.timestep]
        if cell.block in best and step + 1 <= max(1, share * num_steps):
            best[cell.block] = max(best[cell.block], float(scores.get(str(cell), {}).get("image_auroc", 0.0)))
    return sorted(best, key=lambda block: -best[block])


def main_block(probes: Probes, blocks: Sequence[str]) -> str:
    """The one of `blocks` that speaks first and best."""
    return next(block for block in ranked_blocks(probes) if block in blocks)


def best_block(probes: Probes, timestep: int, measure: str = "image_auroc") -> str:
    """The block that tells best at one trained timestep, by the training study; the last of equals."""
    scores: Mapping[str, Mapping[str, float]] = probes.card.get("scores") or {}
    blocks = [block for block in choose_blocks(probes, None) if ("good", Cell(block, timestep)) in probes.readouts]
    return max(reversed(blocks), key=lambda block: scores.get(str(Cell(block, timestep)), {}).get(measure, 0.0))


def early_timesteps(probes: Probes, share: float = 0.2) -> tuple[int, ...]:
    """Trained timesteps within the first `share` of the steps, counting down; at least the first one."""
    order = sorted(probes.steps, key=lambda t: probes.steps[t][0])
    early = [t for t in order if probes.steps[t][0] + 1 <= share * probes.steps[t][2]]
    return tuple(early or order[:1])


def early_block(probes: Probes) -> str:
    """The block that speaks first and best; see `ranked_blocks`."""
    return ranked_blocks(probes)[0]
