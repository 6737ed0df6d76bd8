# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
"""Trains the embedded transformer by rectified flow on encoded renders, on good hands only unless told otherwise.

x_t = (1 - sigma) x0 + sigma noise, velocity = noise - x0 (Liu et al. 2022, arXiv:2209.03003); sigma is logit-normal
(Esser et al. 2024, arXiv:2403.03206) and shifted as the scheduler shifts it at 256 tokens.
"""

import math
import time

import lightning as L
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.attributes import VOCABULARY, every_caption
from badhands.tiny_hands.autoencoder import encode_tokens
from badhands.tiny_hands.pipeline import GUIDANCE_RANGE, TEXT_TOKENS
from badhands.tiny_hands.renderer import render

SHIFT = math.exp(0.5)
"""exp(mu) of the scheduler's dynamic shift at 256 tokens (mu = base_shift = 0.5)."""
EMA_EVERY = 8
"""Steps between updates of the average; its decay is adapted."""
EMPTY_CAPTION = 0.05
"""Share of training hands whose caption is dropped, so that true CFG has an unconditional branch."""


def caption_index(codes: Tensor) -> Tensor:
    """int64 [n]: where in `every_caption()` the caption of attribute codes [n, 7] stands."""
    index = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    for i, words in enumerate(VOCABULARY.values()):
        index = index * len(words) + codes[:, i]
    return index


@torch.no_grad()
def embed_captions(pipe: FluxPipeline) -> tuple[Tensor, Tensor]:
    """Text embeddings of every caption and, last, of the empty one: [k, tokens, 64] and pooled [k, 64]."""
    captions = [*every_caption(), ""]
    parts = [
        pipe.encode_prompt(captions[i : i + 256], captions[i : i + 256], max_sequence_length=TEXT_TOKENS)[:2]
        for i in range(0, len(captions), 256)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


@torch.no_grad()
def encode_corpus(
    vae: AutoencoderKL, size: int, bad_share: float, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`size` rendered hands as packed bfloat16 latents [size, 256, 32], and their caption indices int64 [size]."""
    latents, captions = [], []
    vae = vae.to(device)
    with tqdm(total=size, desc="render and encode", unit="hand", disable=size < 4096) as bar:
        for start in range(0, size, 1024):
            count = min(1024, size - start)
            hands = sample_hands(count, seed * 7_919 + 1 + start, bad_share).to(device)
            images = render(hands).images
            latents += [encode_tokens(vae, part).to(torch.bfloat16) for part in images.split(256)]
            captions.append(caption_index(hands.codes))
            bar.update(count)
    return torch.cat(latents), torch.cat(captions)


class FlowTraining(L.LightningModule):
    """One transformer and its exponential moving average; batches are drawn from the corpus by the step's own seed."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        *,
        steps: int,
        batch_size: int,
        lr: float,
        warmup: int,
        ema_decay: float,
        seed: int,
        minutes: float | None = None,
    ) -> None:
        """`minutes` on the clock, if given, end the training and shape the learning rate instead of `steps`."""
        super().__init__()
        self.transformer = transformer
        self.ema = AveragedModel(transformer, multi_avg_fn=get_ema_multi_avg_fn(ema_decay**EMA_EVERY))
        self.minutes, self.elapsed, self.clock = minutes, 0.0, 0.0
        self.steps, self.batch_size, self.lr, self.warmup, self.seed = steps, batch_size, lr, warmup, seed
        self.corpus: tuple[Tensor, ...] = ()
        ids = torch.zeros(16, 16, 3)
        ids[..., 1] += torch.arange(16)[:, None]
        ids[..., 2] += torch.arange(16)[None]
        self.register_buffer("image_ids", ids.reshape(256, 3), persistent=False)
        self.register_buffer("text_ids", torch.zeros(TEXT_TOKENS, 3), persistent=False)

    def use(self, latents: Tensor, captions: Tensor, prompts: Tensor, pooled: Tensor) -> None:
        """Hands over the corpus (see `encode_corpus`, `embed_captions`), already on the device to train on."""
        self.corpus = (latents, captions, prompts, pooled)

    def training_step(self, _: Tensor, __: int) -> Tensor:
        latents, captions, prompts, pooled = self.corpus
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        n, device = self.batch_size, self.device
        pick = torch.randint(len(latents), (n,), generator=g).to(device, non_blocking=True)
        sigma = torch.sigmoid(torch.randn(n, generator=g))
        sigma = (SHIFT * sigma / (1 + (SHIFT - 1) * sigma)).to(device, non_blocking=True)
        guidance = torch.rand(n, generator=g) * (GUIDANCE_RANGE[1] - GUIDANCE_RANGE[0]) + GUIDANCE_RANGE[0]
        dropped = (torch.rand(n, generator=g) < EMPTY_CAPTION).to(device, non_blocking=True)
        text = torch.where(dropped, len(prompts) - 1, captions[pick])
        x0 = latents[pick].float()
        noise = torch.randn(x0.shape, generator=None, device=device)
        x_t = torch.lerp(x0, noise, sigma[:, None, None])
        velocity = self.transformer(
            hidden_states=x_t,
            timestep=sigma,
            guidance=guidance.to(device, non_blocking=True),
            pooled_projections=pooled[text],
            encoder_hidden_states=prompts[text],
            txt_ids=self.text_ids,
            img_ids=self.image_ids,
            return_dict=False,
        )[0]
        loss = F.mse_loss(velocity.float(), noise - x0)
        if self.global_step % 50 == 0:
            self.log("flow/loss", loss, prog_bar=True)
        return loss

    def progress(self, step: int | None = None) -> float:
        """Share of the training that is done, 0..1, by the clock or by steps."""
        if self.minutes is None:
            return (self.global_step if step is None else step) / self.steps
        return self.elapsed / (60 * self.minutes)

    def on_train_batch_end(self, *_: object) -> None:
        if self.global_step % EMA_EVERY == 0:
            self.ema.update_parameters(self.transformer)
        # The first step compiles and is not counted.
        now = time.monotonic()
        self.elapsed += now - self.clock if self.clock else 0.0
        self.clock = now
        if self.minutes is not None and self.progress() >= 1:
            self.trainer.should_stop = True

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, **_: object
    ) -> None:
        """Lightning clips no fused optimizer, because of float16's loss scaling; bfloat16 has none."""
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.transformer.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["elapsed"] = self.elapsed

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.elapsed = checkpoint["elapsed"]

    def configure_optimizers(self) -> dict:
        decay = [p for p in self.transformer.parameters() if p.ndim > 1]
        rest = [p for p in self.transformer.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, self.lr, betas=(0.9, 0.99), fused=True)

        def rate(step: int) -> float:
            ramp = min(1.0, (step + 1) / self.warmup)
            return ramp * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress(step)))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
