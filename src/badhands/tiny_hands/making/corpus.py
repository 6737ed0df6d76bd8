# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
"""What trainings share: the VAE, and hands encoded by it. Each is made once, by whichever training comes first."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file

from badhands.tiny_hands.making.autoencoder import AutoencoderTraining, encode_tokens, psnr, render_pool, round_trip
from badhands.tiny_hands.making.loop import Limits, fit
from badhands.tiny_hands.making.pipeline import build_vae
from badhands.tiny_hands.making.sampling import caption_index


@dataclass(frozen=True)
class VaeSettings:
    """How the VAE is trained, and the folder that keeps it."""

    folder: str
    renders: int
    batch_size: int
    lr: float
    seed: int
    limits: Limits
    widths: tuple[int, int] = (40, 80)

    def __post_init__(self) -> None:
        if self.renders < 2 or self.batch_size < 1 or self.lr <= 0:
            raise ValueError(f"{self}: a VAE needs at least 2 renders, a batch_size and lr above 0")


@dataclass(frozen=True)
class CorpusSettings:
    """Which hands a transformer is trained on."""

    hands: int
    bad_share: float
    """Of hands with a planted error that the caption does not mention."""
    seed: int

    def __post_init__(self) -> None:
        if self.hands < 1 or not 0 <= self.bad_share <= 1:
            raise ValueError(f"{self}: hands must be at least 1, and bad_share lie between 0 and 1")

    def file(self, vae: VaeSettings) -> Path:
        """Beside the VAE that encoded it: without that VAE it is worth nothing."""
        return Path(vae.folder) / f"corpus-{self.hands}-{self.bad_share:g}-{self.seed}.safetensors"


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Waits until no other process is making `file`; the lock ends with the process, however that ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(file.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def the_vae(settings: VaeSettings, device: torch.device | str) -> AutoencoderKL:
    """The trained VAE, in float32 on `device`; trained now if it is not there yet."""
    folder, device = Path(settings.folder) / "vae", torch.device(device)
    with alone(folder):
        if not (folder / "config.json").exists():
            torch.manual_seed(settings.seed)
            vae = build_vae(settings.widths)
            renders, _ = render_pool(settings.renders, settings.seed, device)
            module = AutoencoderTraining(vae, renders, settings.batch_size, settings.lr)
            fit(module, settings.limits, folder.with_name("vae-training.pt"), "vae")
            vae.eval().requires_grad_(False)
            held_out = render_pool(128, settings.seed + 500_000, device)[0].float() / 255
            quality = float(psnr(round_trip(vae, held_out), held_out).mean())
            print(f"vae: {module.samples} samples in {module.elapsed:.0f} s, {quality:.1f} dB", flush=True)
            temporary = folder.with_name("vae.tmp")
            vae.to("cpu").save_pretrained(temporary)
            temporary.rename(folder)
    vae = AutoencoderKL.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return vae.to(device).eval().requires_grad_(False)


def make_corpus(corpus: CorpusSettings, vae: VaeSettings, device: torch.device | str) -> None:
    """Writes `corpus.file(vae)` unless it is there: bfloat16 latents [n, 256, 16], int64 caption indices [n]."""
    file, device = corpus.file(vae), torch.device(device)
    with alone(file):
        if file.exists():
            return
        renders, codes = render_pool(corpus.hands, corpus.seed + 1_000, device, corpus.bad_share)
        codec = the_vae(vae, device)
        latents = torch.cat([encode_tokens(codec, part.float() / 255).bfloat16() for part in renders.split(512)])
        temporary = file.with_suffix(".tmp")
        save_file({"latents": latents.cpu(), "captions": caption_index(codes).cpu()}, temporary)
        temporary.rename(file)
