"""Pairs of prompt and seed that no study has seen."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from badhands.diffusion.models import ModelSpec
from badhands.diffusion.scene import Pair, Scene
from badhands.probes.artifact import Probes
from badhands.study.prompts import HANDS, load_prompts

__all__ = ["FIRST_SEED", "Pair", "Scene", "find_judge", "fresh_pairs", "made_with", "referee", "study_prompts"]

FIRST_SEED = 1_000_000
"""Of fresh pairs; the seeds of studies start at 0."""


def fresh_pairs(
    source: str, count: int, *, known: Collection[str] = (), first_seed: int = FIRST_SEED, shuffle: int = 1
) -> list[Pair]:
    """`count` pairs; the first of a longer list are those of a shorter.

    Args:
        source: `tiny_hands` (captions of the embedded models), `hands`, or a prompt file.
        known: prompts of the study, left out unless nothing else is there (then only the seeds are fresh).
        shuffle: seed of the choice of prompts.
    """
    if source == "tiny_hands":
        from badhands.tiny_hands.attributes import every_caption

        texts = every_caption()
    else:
        texts = [prompt.text for prompt in load_prompts(HANDS if source == "hands" else source)]
    unseen = [text for text in texts if text not in set(known)] or texts
    order = np.random.default_rng(shuffle).permutation(len(unseen))
    return [Pair(unseen[order[i % len(order)]], first_seed + i) for i in range(count)]


def study_prompts(name: str | None) -> set[str]:
    """Prompts of the study that probes were trained on; empty where the study is not on this machine."""
    from badhands.study.study import Study, study_folder

    if not name or not study_folder(name).is_dir():
        return set()
    return {entry.prompt for entry in Study(study_folder(name)).manifest.entries}


def referee(spec: ModelSpec) -> Any:
    """The judge that decides an experiment.

    Raises:
        ValueError: there is none for this model.
    """
    judge = find_judge(spec)
    if judge is None:
        raise ValueError("the experiments need a referee: they run with the embedded models (model=tiny_hands)")
    return judge


def made_with(spec: ModelSpec, probes: Probes, pairs: Sequence[Pair], source: str) -> dict[str, Any]:
    """What an experiment's table stands on: continued with anything else, it would mix two experiments."""
    return {"probes": probes.fingerprint, "card_date": probes.card.get("date"), "model": spec.name, "steps": spec.steps,
            "first_seed": pairs[0].seed, "prompts": source}  # fmt: skip


def find_judge(spec: ModelSpec) -> Any:
    """The judge of the embedded models, where it knows pictures of this size; None elsewhere."""
    from badhands.tiny_hands.judge import Judge
    from badhands.tiny_hands.renderer import SIZE

    if (spec.height, spec.width) != (SIZE, SIZE):
        return None
    return Judge.load()
