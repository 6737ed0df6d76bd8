"""What cannot be tapped truthfully, refused by name before a number is read."""

from typing import Any

import torch

_STALE = {
    "fbc_": "FirstBlockCache",
    "mag_cache": "MagCache",
    "sea_cache": "SeaCache",
    "taylorseer": "TaylorSeerCache",
    "faster_cache": "FasterCache",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcast",
    "text_kv_cache": "TextKVCache",
    "layer_skip": "LayerSkip",
    "cp_input": "context parallel",
    "cp_output": "context parallel",
}
"""How the names of diffusers hooks begin under which a block's output is not what it computed at that step."""


def refuse_untappable(transformer: Any, scheduler: Any) -> None:
    """Pass if the blocks of `transformer` put out, at every step, what they computed for the whole image.

    Raises:
        ValueError: a whole-model compilation (hooks never fire), an enabled cache (blocks repeat old values), context
            parallel (a block sees a part of the image), or a scheduler that does not tell its step.
    """
    if hasattr(transformer, "_orig_mod") or getattr(transformer, "_compiled_call_impl", None) is not None:
        raise ValueError(
            "the transformer is compiled as a whole, so hooks on its blocks would never fire: load it again and use "
            "transformer.compile_repeated_blocks()"
        )
    if hasattr(getattr(transformer, "forward", None), "_torchdynamo_orig_callable"):
        raise ValueError(
            "the transformer's forward is compiled as a whole, so hooks on its blocks would never fire: load it again "
            "and use transformer.compile_repeated_blocks()"
        )
    cache = getattr(transformer, "_cache_config", None)
    if cache is not None:
        raise ValueError(
            f"{type(cache).__name__} is enabled: blocks would repeat values of earlier steps. Call "
            "transformer.disable_cache() first"
        )
    parallel = getattr(transformer, "_parallel_config", None)
    if parallel is not None and getattr(parallel, "context_parallel_config", None) is not None:
        raise ValueError(
            "context parallel is enabled: a block sees a part of the image only. Load the model without it"
        )
    if isinstance(transformer, torch.nn.Module):
        for name in _diffusers_hooks(transformer):
            for beginning, what in _STALE.items():
                if name.startswith(beginning):
                    raise ValueError(
                        f"{what} is enabled (hook {name!r}): its blocks' outputs are not true. Remove it first"
                    )
    if not hasattr(scheduler, "step_index") or not hasattr(scheduler, "sigmas"):
        raise ValueError(
            f"{type(scheduler).__name__} does not tell its step index and sigma: use a scheduler such as "
            "FlowMatchEulerDiscreteScheduler"
        )


def _diffusers_hooks(transformer: torch.nn.Module) -> set[str]:
    registries = (getattr(module, "_diffusers_hook", None) for module in transformer.modules())
    return {name for registry in registries if registry is not None for name in registry.hooks}
