"""The configurations of published models, so that a study can be planned and rehearsed before anything is downloaded.

Sizes of the networks as their model cards and configs give them; what is not named here is the class's default. The
`tiny` entries shrink a network to a few thousand parameters and keep its structure: for tests and quick rehearsals.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """One component of a pipeline: its class, and what its constructor (or its config's) takes."""

    cls: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] = field(default_factory=dict)

    def sized(self, scale: str) -> dict[str, Any]:
        """The constructor's arguments at `full` or `tiny` scale."""
        return merged(self.config, self.tiny) if scale == "tiny" else dict(self.config)


@dataclass(frozen=True)
class Published:
    """One model: its pipeline class, components by name, and values of model_index.json."""

    pipeline: str
    parts: Mapping[str, Part]
    index: Mapping[str, Any] = field(default_factory=dict)


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with `changes`, one level deep inside dictionaries."""
    return {
        **config,
        **{k: {**config.get(k, {}), **v} if isinstance(v, Mapping) else v for k, v in changes.items()},
    }


_VOCABULARY = {"vocab_size": 300}
_SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, **_VOCABULARY}
_KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "norm_num_groups": 32,
    "sample_size": 1024, "use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True,
}  # fmt: skip
_KL_TINY = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4, "sample_size": 32,
}  # fmt: skip

FLUX_VAE = Part("AutoencoderKL", {**_KL, "scaling_factor": 0.3611, "shift_factor": 0.1159}, _KL_TINY)
SD3_VAE = Part("AutoencoderKL", {**_KL, "scaling_factor": 1.5305, "shift_factor": 0.0609}, _KL_TINY)
FLUX2_VAE = Part("AutoencoderKLFlux2", {}, _KL_TINY)
QWEN_VAE = Part(
    "AutoencoderKLQwenImage",
    {},
    {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [False],
     "latents_mean": [-0.7, 0.1, 0.4, -0.2], "latents_std": [2.8, 1.4, 2.3, 0.9]},
)  # fmt: skip

T5_XXL = Part(
    "T5EncoderModel",
    {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
     "feed_forward_proj": "gated-gelu", "is_encoder_decoder": False, "use_cache": False, "tie_word_embeddings": False},
    {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2, **_VOCABULARY},
)  # fmt: skip
_CLIP = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
_CLIP_TINY = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16,
    "vocab_size": 600,
}  # fmt: skip
_CLIP_L = {
    **_CLIP, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768,
}  # fmt: skip
CLIP_L = Part("CLIPTextModel", _CLIP_L, _CLIP_TINY)
CLIP_L_PROJECTED = Part("CLIPTextModelWithProjection", _CLIP_L, _CLIP_TINY)
CLIP_G_PROJECTED = Part(
    "CLIPTextModelWithProjection",
    {**_CLIP, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
     "projection_dim": 1280, "hidden_act": "gelu"},
    _CLIP_TINY,
)  # fmt: skip
_QWEN3_4B = {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 40960, "rope_theta": 1e6,
    "tie_word_embeddings": True,
}  # fmt: skip
# FLUX.2 klein reads layer 27, so it cannot have fewer.
QWEN3_CAUSAL = Part("Qwen3ForCausalLM", _QWEN3_4B, {**_SMALL, "head_dim": 8, "num_hidden_layers": 28})
QWEN3 = Part("Qwen3Model", _QWEN3_4B, {**_SMALL, "head_dim": 8, "num_hidden_layers": 3})
MISTRAL_24B = Part(
    "Mistral3ForConditionalGeneration",
    {"text_config": {"model_type": "mistral", "vocab_size": 131072, "hidden_size": 5120, "intermediate_size": 32768,
                     "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
     "vision_config": {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                       "num_attention_heads": 16, "head_dim": 64, "image_size": 1540, "patch_size": 14},
     "tie_word_embeddings": False},
    {"text_config": {**_SMALL, "head_dim": 8, "num_hidden_layers": 31},
     "vision_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "head_dim": 8, "image_size": 28}},
)  # fmt: skip
QWEN25_VL = Part(
    "Qwen2_5_VLForConditionalGeneration",
    {"text_config": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                     "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 128000},
     "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584}},
    {"text_config": {**_SMALL, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}},
     "vision_config": {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 16, "depth": 1, "num_heads": 2,
                       "fullatt_block_indexes": [0]}},
)  # fmt: skip


def _tokenizer(cls: str, longest: int = 512) -> Part:
    return Part(cls, {"model_max_length": longest})


_CLIP_WORDS, _T5_WORDS = _tokenizer("CLIPTokenizer", 77), _tokenizer("T5TokenizerFast")
_QWEN_WORDS = _tokenizer("Qwen2Tokenizer", 8192)


def _scheduler(**changes: Any) -> Part:
    base = {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5,
            "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}  # fmt: skip
    return Part("FlowMatchEulerDiscreteScheduler", {**base, **changes})


_ROPE = (2, 6, 8)
_NARROW = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32}


def _flux(guided: bool) -> Published:
    transformer = Part(
        "FluxTransformer2DModel",
        {"patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
         "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
         "guidance_embeds": guided, "axes_dims_rope": (16, 56, 56)},
        {**_NARROW, "in_channels": 16, "num_single_layers": 3, "pooled_projection_dim": 16, "axes_dims_rope": _ROPE},
    )  # fmt: skip
    scheduler = _scheduler() if guided else _scheduler(shift=1.0, use_dynamic_shifting=False)
    return Published("FluxPipeline", {
        "scheduler": scheduler, "text_encoder": CLIP_L, "tokenizer": _CLIP_WORDS, "text_encoder_2": T5_XXL,
        "tokenizer_2": _T5_WORDS, "transformer": transformer, "vae": FLUX_VAE,
    })  # fmt: skip


def _flux2(klein: bool, **index: Any) -> Published:
    full = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
            "guidance_embeds": False} if klein else {}  # fmt: skip
    tiny = {**_NARROW, "in_channels": 16, "num_single_layers": 3, "joint_attention_dim": 48,
            "axes_dims_rope": (4, 4, 4, 4)}  # fmt: skip
    words = _QWEN_WORDS if klein else _tokenizer("PreTrainedTokenizerFast", 8192)
    return Published("Flux2KleinPipeline" if klein else "Flux2Pipeline", {
        "scheduler": _scheduler(), "vae": FLUX2_VAE, "text_encoder": QWEN3_CAUSAL if klein else MISTRAL_24B,
        "tokenizer": words, "transformer": Part("Flux2Transformer2DModel", full, tiny),
    }, index)  # fmt: skip


def _z_image(shift: float) -> Published:
    tiny = {"in_channels": 4, "dim": 32, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
            "cap_feat_dim": 16, "axes_dims": [4, 6, 6]}  # fmt: skip
    return Published("ZImagePipeline", {
        "scheduler": _scheduler(shift=shift, use_dynamic_shifting=False), "vae": FLUX_VAE, "text_encoder": QWEN3,
        "tokenizer": _QWEN_WORDS, "transformer": Part("ZImageTransformer2DModel", {}, tiny),
    })  # fmt: skip


def _sd35(depth: int, **changes: Any) -> Published:
    width = 64 * depth
    full = {"sample_size": 128, "num_layers": depth, "attention_head_dim": 64, "num_attention_heads": depth,
            "joint_attention_dim": 4096, "caption_projection_dim": width, "pooled_projection_dim": 2048,
            "in_channels": 16, "out_channels": 16, "pos_embed_max_size": 192, "qk_norm": "rms_norm",
            **changes}  # fmt: skip
    tiny = {**_NARROW, "num_layers": 3, "in_channels": 4, "out_channels": 4, "caption_projection_dim": 32,
            "pooled_projection_dim": 32, "sample_size": 16, "pos_embed_max_size": 24}  # fmt: skip
    if "dual_attention_layers" in changes:
        tiny |= {"dual_attention_layers": (0,)}
    return Published("StableDiffusion3Pipeline", {
        "transformer": Part("SD3Transformer2DModel", full, tiny),
        "scheduler": _scheduler(use_dynamic_shifting=False), "vae": SD3_VAE, "text_encoder": CLIP_L_PROJECTED,
        "tokenizer": _CLIP_WORDS, "text_encoder_2": CLIP_G_PROJECTED, "tokenizer_2": _CLIP_WORDS,
        "text_encoder_3": T5_XXL, "tokenizer_3": _T5_WORDS,
    })  # fmt: skip


PUBLISHED: Mapping[str, Published] = {
    "black-forest-labs/FLUX.1-dev": _flux(guided=True),
    "black-forest-labs/FLUX.1-schnell": _flux(guided=False),
    "black-forest-labs/FLUX.2-klein-base-4B": _flux2(klein=True, is_distilled=False),
    "black-forest-labs/FLUX.2-klein-4B": _flux2(klein=True, is_distilled=True),
    "black-forest-labs/FLUX.2-dev": _flux2(klein=False),
    "Tongyi-MAI/Z-Image": _z_image(shift=6.0),
    "Tongyi-MAI/Z-Image-Turbo": _z_image(shift=3.0),
    "Qwen/Qwen-Image": Published("QwenImagePipeline", {
        "scheduler": _scheduler(shift=1.0, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02,
                                time_shift_type="exponential"),
        "vae": QWEN_VAE, "text_encoder": QWEN25_VL, "tokenizer": _QWEN_WORDS,
        "transformer": Part("QwenImageTransformer2DModel", {},
                            {**_NARROW, "num_layers": 3, "in_channels": 16, "out_channels": 4,
                             "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6)}),
    }),
    "stabilityai/stable-diffusion-3.5-large": _sd35(38),
    "stabilityai/stable-diffusion-3.5-medium": _sd35(
        24, pos_embed_max_size=384, dual_attention_layers=tuple(range(13))
    ),
    "lodestones/Chroma1-HD": Published("ChromaPipeline", {
        "scheduler": _scheduler(shift=1.0, use_dynamic_shifting=False), "vae": FLUX_VAE, "text_encoder": T5_XXL,
        "tokenizer": _T5_WORDS,
        "transformer": Part("ChromaTransformer2DModel", {},
                            {**_NARROW, "in_channels": 16, "num_single_layers": 3, "axes_dims_rope": _ROPE,
                             "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 2}),
    }),
}  # fmt: skip
"""Repo id -> the model."""


def published_config(path: str, component: str) -> dict[str, Any] | None:
    """The component's config of a published model, complete with its class's defaults; None for another model."""
    import inspect

    import diffusers

    if path not in PUBLISHED:
        return None
    part = PUBLISHED[path].parts[component]
    signature = inspect.signature(getattr(diffusers, part.cls).__init__)
    defaults = {k: p.default for k, p in signature.parameters.items() if p.default is not inspect.Parameter.empty}
    return {**defaults, **part.config, "_class_name": part.cls}
