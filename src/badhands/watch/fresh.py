"""Pairs of prompt and seed that no study has seen."""

import logging
from collections.abc import Collection
from typing import Any

import numpy as np

from badhands.diffusion.scene import Pair
from badhands.diffusion.spec import ModelSpec
from badhands.study.prompts import HANDS, load_prompts

log = logging.getLogger(__name__)

FIRST_SEED = 1_000_000
"""Of fresh pairs; the seeds of studies start at 0."""


def fresh_pairs(
    source: str,
    count: int,
    *,
    known: Collection[str] = (),
    first_seed: int = FIRST_SEED,
    shuffle: int = 1,
    prompts: int | None = None,
) -> list[Pair]:
    """`count` pairs; the first of a longer list are those of a shorter.

    Args:
        source: `tiny_hands` (captions of the embedded models), `hands`, or a prompt file.
        known: prompts of the study, left out unless nothing else is there (then only the seeds are fresh).
        shuffle: seed of the choice of prompts.
        prompts: at most this many different ones, each then with several seeds.
    """
    if source == "tiny_hands":
        from badhands.tiny_hands.attributes import every_caption

        texts = every_caption()
    else:
        texts = [prompt.text for prompt in load_prompts(HANDS if source == "hands" else source)]
    unseen = [text for text in texts if text not in set(known)] or texts
    order = np.random.default_rng(shuffle).permutation(len(unseen))[:prompts]
    return [Pair(unseen[order[i % len(order)]], first_seed + i) for i in range(count)]


def study_prompts(name: str | None) -> set[str]:
    """Prompts of the study that probes were trained on; empty where the study is not on this machine."""
    from badhands.study.study import Study, study_folder

    if not name:
        return set()
    if not study_folder(name).is_dir():
        log.warning("study %s is not on this machine: its prompts cannot be kept out of the fresh ones", name)
        return set()
    return {entry.prompt for entry in Study(study_folder(name)).manifest.entries}


def find_judge(spec: ModelSpec) -> Any:
    """The judge of the embedded models, on the model's device, where it knows pictures of this size; None elsewhere."""
    from badhands.tiny_hands.judge import Judge
    from badhands.tiny_hands.renderer import SIZE

    if (spec.height, spec.width) != (SIZE, SIZE):
        return None
    return Judge.load().to(spec.torch_device())
