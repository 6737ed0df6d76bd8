"""The diffusion transformers that can go through a study, one file each.

A new family is a file here, a line in `FAMILIES`, a configuration in conf/model/, and a row in tests/test_families.py.
"""

from collections.abc import Mapping
from typing import Any

from badhands.diffusion.families.base import BlockList, Call, Embedding, Family
from badhands.diffusion.families.chroma import Chroma
from badhands.diffusion.families.flux import Flux
from badhands.diffusion.families.flux2 import Flux2
from badhands.diffusion.families.qwen_image import QwenImage
from badhands.diffusion.families.sd3 import StableDiffusion3
from badhands.diffusion.families.z_image import ZImage

__all__ = ["FAMILIES", "BlockList", "Call", "Embedding", "Family", "family_of", "family_of_pipe"]

FAMILIES: Mapping[str, Family] = {
    family.transformer: family for family in (Flux(), Flux2(), ZImage(), QwenImage(), StableDiffusion3(), Chroma())
}
"""Class of the transformer -> its family."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a transformer, from its config.

    Raises:
        ValueError: there is none for this class.
    """
    name = str(config.get("_class_name"))
    if name not in FAMILIES:
        known = ", ".join(f"{family.name} ({kind})" for kind, family in FAMILIES.items())
        raise ValueError(
            f"{name} has no family: write one beside src/badhands/diffusion/families/flux.py, or use one of {known}"
        )
    return FAMILIES[name]


def family_of_pipe(pipe: Any) -> Family:
    """The family of a loaded pipeline, by its transformer, or by its class where the transformer was left out.

    Raises:
        ValueError: there is none.
    """
    transformer = getattr(pipe, "transformer", None)
    if transformer is not None:
        return family_of({"_class_name": type(transformer).__name__})
    name = type(pipe).__name__
    for family in FAMILIES.values():
        if name in family.pipelines:
            return family
    raise ValueError(f"{name} has no family: it is none of the pipelines in diffusion/families")
