# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
"""Trains the embedded transformer by rectified flow on encoded renders.

x_t = (1 - sigma) x0 + sigma noise, velocity = noise - x0 (Liu et al. 2022, arXiv:2209.03003); sigma is logit-normal
(Esser et al. 2024, arXiv:2403.03206) and shifted as the scheduler shifts it at 256 tokens.

On a GPU the whole step (forward, backward, clipping, both optimisers, the average) is one CUDA graph round a compiled
transformer. On a CPU the same step runs eagerly.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional as F

from badhands.tiny_hands.making.muon import Muon
from badhands.tiny_hands.making.pipeline import GUIDANCE_RANGE, LATENT_CHANNELS
from badhands.tiny_hands.making.sampling import Text, shifted

EMPTY_CAPTION = 0.05
"""Share of training hands whose caption is dropped, so that true CFG has an unconditional branch."""
DECAY = 0.2
"""Last share of the training, in which the rate falls to zero."""


@dataclass(frozen=True)
class FlowSettings:
    """How one transformer is trained."""

    batch_size: int
    lr: float
    warmup: int
    """Steps over which the rate rises."""
    ema_decay: float
    """A step, of the average of the weights, which is what is kept."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.lr <= 0 or self.warmup < 1 or not 0 <= self.ema_decay < 1:
            raise ValueError(f"{self}: batch_size, lr and warmup must be positive, and ema_decay lie in 0..1")


def rate(step: int, progress: float, warmup: int) -> float:
    """Share of the highest learning rate: up over `warmup` steps, constant, and linearly to 0 in the last fifth."""
    return min(1.0, (step + 1) / warmup) * max(0.0, min(1.0, (1 - progress) / DECAY))


def is_inner_matrix(name: str, p: Tensor) -> bool:
    """Attention and MLP matrices of the blocks are Muon's; embeddings, modulation and output are AdamW's."""
    return p.ndim == 2 and "blocks" in name and "norm" not in name


class FlowTraining:
    """One transformer, the average of its weights, and two optimisers."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        text: Text,
        hands: int,
        settings: FlowSettings,
        device: torch.device,
    ) -> None:
        """`fill` must hand over the corpus of `hands` latents before the first step."""
        self.device, self.settings, self.text = device, settings, text
        self.batch_size = settings.batch_size
        self.samples, self.elapsed = 0, 0.0
        self.transformer = transformer.to(device).train()
        self.average = copy.deepcopy(self.transformer).eval().requires_grad_(False)
        self.latents = torch.zeros(hands, 256, 4 * LATENT_CHANNELS, dtype=torch.bfloat16, device=device)
        self.captions = torch.zeros(hands, dtype=torch.int64, device=device)
        named = list(self.transformer.named_parameters())
        self.params = [p for _, p in named]
        self.muon = Muon(p for name, p in named if is_inner_matrix(name, p))
        rest = [p for name, p in named if not is_inner_matrix(name, p)]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        on_gpu = device.type == "cuda"
        self.rate: float | Tensor = torch.zeros((), device=device) if on_gpu else 0.0
        self.adam = torch.optim.AdamW(groups, self.rate, betas=(0.9, 0.99), fused=True, capturable=on_gpu)
        self._start_adam(rest)
        self._loss, self._steps = torch.zeros((), device=device), 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def _start_adam(self, params: list[Tensor]) -> None:
        """Makes the optimiser's state now, so that it stays where a graph or a checkpoint finds it."""
        for p in params:
            p.grad = torch.zeros_like(p)
        self.adam.step()
        for p in params:
            self.adam.state[p]["step"].zero_()
            p.grad = None

    def fill(self, latents: Tensor, captions: Tensor) -> None:
        """The corpus: bfloat16 [hands, 256, 16] and, int64 [hands], the index of each caption."""
        self.latents.copy_(latents)
        self.captions.copy_(captions)

    def _backward(self) -> None:
        n, device = self.batch_size, self.device
        pick = torch.randint(len(self.latents), (n,), device=device)
        sigma = shifted(torch.sigmoid(torch.randn(n, device=device)))
        guidance = torch.rand(n, device=device) * (GUIDANCE_RANGE[1] - GUIDANCE_RANGE[0]) + GUIDANCE_RANGE[0]
        dropped = torch.rand(n, device=device) < EMPTY_CAPTION
        which = torch.where(dropped, self.text.empty, self.captions[pick])
        x0 = self.latents[pick].float()
        noise = torch.randn_like(x0)
        x_t = torch.lerp(x0, noise, sigma[:, None, None])
        loss = F.mse_loss(self.text.velocity(self.transformer, x_t, sigma, guidance, which), noise - x0)
        loss.backward()
        self._loss += loss.detach()

    def _whole_step(self) -> None:
        self._backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.muon.step(self.rate)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), self.params, 1 - self.settings.ema_decay)

    def _forget_gradients(self) -> None:
        for p in self.params:
            p.grad = None

    def compile(self) -> None:
        """On a GPU: compiles the transformer and records the step. Weights and optimisers are left as they were."""
        if self.device.type != "cuda":
            return
        before = copy.deepcopy(self.state())
        random = torch.cuda.get_rng_state(self.device)
        self.transformer.compile()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._forget_gradients()
                self._whole_step()
        torch.cuda.current_stream().wait_stream(side)
        self._forget_gradients()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._whole_step()
        self.load(before)
        torch.cuda.set_rng_state(random, self.device)
        self._loss.zero_()

    def step(self, progress: float) -> None:
        now = self.settings.lr * rate(self.samples // self.batch_size, progress, self.settings.warmup)
        if isinstance(self.rate, Tensor):
            self.rate.fill_(now)
        else:
            self.rate = now
            for group in self.adam.param_groups:
                group["lr"] = now
        if self._graph is not None:
            self._graph.replay()
        else:
            self._forget_gradients()
            self._whole_step()
        self._steps += 1

    def loss(self) -> float:
        mean = float(self._loss) / max(1, self._steps)
        self._loss.zero_()
        self._steps = 0
        return mean

    def state(self) -> dict[str, Any]:
        """Tensors that the training changes; not copies."""
        adam = [self.adam.state[p] for group in self.adam.param_groups for p in group["params"]]
        return {
            "weights": [p.data for p in self.params],
            "average": [p.data for p in self.average.parameters()],
            "muon": list(self.muon.state.values()),
            "adam": [s[name] for s in adam for name in ("step", "exp_avg", "exp_avg_sq")],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Copies in place: a recorded graph knows its tensors by their addresses."""
        for name, own in self.state().items():
            for mine, given in zip(own, state[name], strict=True):
                if mine.shape != given.shape:
                    raise ValueError(f"{name}: a tensor of {list(given.shape)} where {list(mine.shape)} is wanted")
                mine.copy_(given)
