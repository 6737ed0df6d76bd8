# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
"""The embedded model's parts, untrained: a real FluxPipeline with double and single blocks, only narrow.

Text encoders stay as they are initialised: captions have 25 words, and random frozen features tell them apart.
"""

import copy
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from badhands.tiny_hands.attributes import every_caption

LATENT_CHANNELS = 4
TEXT_TOKENS = 24
"""`max_sequence_length` of the embedded model: its longest caption and the end mark fit."""
STEPS = 20
SHIFT = math.exp(0.5)
"""exp(mu) of the scheduler's dynamic shift at 256 tokens (mu = base_shift = 0.5)."""
GUIDANCE_RANGE = (1.0, 5.0)
"""The guidance input exists as in FLUX.1-dev; training draws it at random here, so the model learns to ignore it."""


@dataclass(frozen=True)
class Preset:
    """A width; blocks, tokens, head size and VAE are the same in all presets."""

    heads: int

    @property
    def width(self) -> int:
        return 32 * self.heads


PRESETS = {"s": Preset(heads=3), "m": Preset(heads=4), "l": Preset(heads=6)}


def preset(name: str) -> Preset:
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def build_vae(widths: tuple[int, int] = (40, 80)) -> AutoencoderKL:
    """64 px -> 32 x 32 latents of 4 channels, of which 2 x 2 make one token of 4 px."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )


def build_transformer(size: Preset) -> FluxTransformer2DModel:
    """Three double and six single blocks."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=3,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=size.heads,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),
    )


def assemble(vae: AutoencoderKL, transformer: FluxTransformer2DModel, seed: int = 0) -> FluxPipeline:
    """A whole pipeline; tokenizers and frozen text encoders are made from `seed`, the same in every preset."""
    clip_tokenizer, t5_tokenizer = _tokenizers(every_caption())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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
                # The pooled embedding is read at this token: a wrong id gives every prompt the same one.
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
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=1000,
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=vae,
        text_encoder=clip.eval(),
        tokenizer=clip_tokenizer,
        text_encoder_2=t5.eval(),
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )


def save(pipe: FluxPipeline, folder: Path, dtype: torch.dtype) -> None:
    """Writes the diffusers folder, complete or not at all; the pipeline itself stays as it is."""
    stored = copy.deepcopy(pipe).to("cpu", dtype)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    stored.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _tokenizers(captions: list[str]) -> tuple[CLIPTokenizer, T5TokenizerFast]:
    """Byte-pair and unigram tokenizers whose pieces are the captions' own words."""
    split = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer, bpe.pre_tokenizer = normalizers.Lowercase(), split
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|startoftext|>", "<|endoftext|>"]
    bpe.train_from_iterator(
        captions,
        trainers.BpeTrainer(
            vocab_size=1024,
            special_tokens=specials,
            initial_alphabet=alphabet,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in _model(bpe)["merges"]]
    clip = CLIPTokenizer(vocab=bpe.get_vocab(), merges=merges, model_max_length=77)

    # Unigram training prunes rare words to letters; 25 words are listed sooner than learned. Letters catch the rest.
    words = sorted({word for text in captions for word in text.replace(",", "").split()})
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789.,!?'-:;()▁"))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -2.0) for word in words] + [(letter, -8.0) for letter in letters if letter != "▁a"]
    return clip, T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def _model(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())["model"]
