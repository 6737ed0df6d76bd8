"""A random FluxPipeline, small enough to be built anew in every test: 3 double and 6 single blocks, 64 x 64 px images.

Everything is made in code: no file, no network. 16 x 16 image tokens of 4 px, width 128 by default.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from badhands.diffusion.random_model import make_tokenizer

NEGATIVE = "bad hand"


def make_pipeline(
    seed: int = 0,
    *,
    guidance_embeds: bool = True,
    num_double: int = 3,
    num_single: int = 6,
    num_heads: int = 4,
    head_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
) -> FluxPipeline:
    """A FluxPipeline with random weights; equal arguments give equal weights.

    Call it with `height=64, width=64` (multiples of 4) and `max_sequence_length=32`: the defaults are slow.

    Args:
        seed: of the weights.
        guidance_embeds: as FLUX.1-dev (True) or FLUX.1-schnell (False).
        num_double, num_single, num_heads, head_dim: the transformer's shape; width is num_heads * head_dim.
        dtype: of all weights.
        scale: multiplies the transformer's output projection, so that pictures of different prompts differ more.
    """
    rotary = {16: (2, 6, 8), 32: (4, 14, 14)}.get(head_dim)
    if rotary is None:
        raise ValueError(f"head_dim={head_dim}: use 16 or 32")
    clip_tokenizer, t5_tokenizer = make_tokenizer("CLIPTokenizer", 77), make_tokenizer("T5TokenizerFast", 512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=32,
            num_layers=num_double,
            num_single_layers=num_single,
            attention_head_dim=head_dim,
            num_attention_heads=num_heads,
            joint_attention_dim=64,
            pooled_projection_dim=64,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=rotary,
        )
        transformer.proj_out.weight.data.mul_(scale)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(16, 32),
            layers_per_block=1,
            latent_channels=8,
            norm_num_groups=8,
            sample_size=64,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
            force_upcast=False,
        )
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(clip_tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                projection_dim=64,
                max_position_embeddings=77,
                bos_token_id=clip_tokenizer.bos_token_id,
                eos_token_id=clip_tokenizer.eos_token_id,
                pad_token_id=clip_tokenizer.pad_token_id,
            )
        )
        t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5_tokenizer),
                d_model=64,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                is_encoder_decoder=False,
                use_cache=False,
                tie_word_embeddings=False,
            )
        )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=1000,
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=vae.eval(),
        text_encoder=clip.eval(),
        tokenizer=clip_tokenizer,
        text_encoder_2=t5.eval(),
        tokenizer_2=t5_tokenizer,
        transformer=transformer.eval(),
    ).to(dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_tiny(folder: str | Path, seed: int = 0, **options) -> Path:
    """Write `make_pipeline(seed, **options)` as a diffusers folder and return its path."""
    folder = Path(folder)
    make_pipeline(seed, **options).save_pretrained(folder)
    return folder
