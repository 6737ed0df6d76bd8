# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
"""`python -m badhands.tiny_hands.train`: renders hands, trains the VAE and the transformer, saves a diffusers folder.

Each stage goes on from its last checkpoint when the same command is run again; a finished stage is not run twice.
"""

from dataclasses import dataclass
from pathlib import Path

import hydra
import lightning as L
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from badhands import CONF_DIR
from badhands.tiny_hands.autoencoder import AutoencoderTraining
from badhands.tiny_hands.flow import EMA_EVERY, FlowTraining, embed_captions, encode_corpus
from badhands.tiny_hands.pipeline import Preset, assemble, build_transformer, build_vae, preset, save


@dataclass(frozen=True)
class Stage:
    """How long and how one of the two models is trained."""

    steps: int
    batch_size: int
    lr: float

    def __post_init__(self) -> None:
        if self.steps < 40 or self.batch_size < 1 or self.lr <= 0:
            raise ValueError(f"{self}: a stage needs steps >= 40, batch_size >= 1 and lr > 0")


class Steps(IterableDataset):
    """Counts for ever: a batch is made on the device from the seed of its step, so nothing is loaded."""

    def __iter__(self):
        while True:
            yield torch.zeros(())


class Progress(Callback):
    """Step bar with loss, rate and time left that goes on where a resumed run starts."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.bar = tqdm(total=trainer.max_steps, initial=trainer.global_step, unit="step", mininterval=2)
        self.bar.set_description(type(module).__name__)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step % 50 == 0:
            numbers = {k.split("/")[-1]: f"{v:.4g}" for k, v in trainer.progress_bar_metrics.items()}
            self.bar.set_postfix(numbers, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, *_: object) -> None:
        self.bar.close()


class Snapshots(Callback):
    """Keeps the averaged weights at even shares of the training, in bfloat16: weak checkpoints for the judge."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        assert isinstance(module, FlowTraining)
        due = int(module.progress() * self.count)
        if due > len(list(self.folder.glob("*.safetensors"))):
            self.folder.mkdir(parents=True, exist_ok=True)
            weights = {k: v.to(torch.bfloat16).cpu().contiguous() for k, v in module.ema.module.state_dict().items()}
            save_file(weights, self.folder / f"step-{trainer.global_step:06d}.safetensors")


def fit(
    module: L.LightningModule, stage: Stage, folder: Path, trainer: dict, logger: Logger | bool, extra: list[Callback]
) -> None:
    """Trains `module` for the stage's steps, from `folder/last.ckpt` if it is there."""
    keep = ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=trainer.pop("save_every"))
    runner = L.Trainer(
        max_steps=stage.steps,
        callbacks=[Progress(), keep, *extra],
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=50,
        **trainer,
    )
    last = folder / "last.ckpt"
    runner.fit(module, DataLoader(Steps(), batch_size=None), ckpt_path=str(last) if last.exists() else None)


def start_from(folder: Path, size: Preset) -> tuple[AutoencoderKL, FluxTransformer2DModel]:
    """VAE and transformer of a saved pipeline, in float32, to train on; ValueError if none of that size is there."""
    if not (folder / "model_index.json").exists():
        raise ValueError(f"start={folder}: no pipeline there; name a folder that an earlier training saved, or null")
    vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32, local_files_only=True)
    transformer = FluxTransformer2DModel.from_pretrained(
        folder / "transformer", dtype=torch.float32, local_files_only=True
    )
    if transformer.config.num_attention_heads * transformer.config.attention_head_dim != size.width:
        raise ValueError(f"start={folder}: its transformer has another width than the preset ({size.width})")
    return vae.requires_grad_(False), transformer.train()


def train_vae(size: Preset, stage: Stage, work: Path, seed: int, trainer: dict, logger: Logger | bool) -> AutoencoderKL:
    """The VAE of `work/vae`, trained if it is not there yet."""
    if (work / "vae" / "config.json").exists():
        return AutoencoderKL.from_pretrained(work / "vae", dtype=torch.float32, local_files_only=True)
    torch.manual_seed(seed)
    vae = build_vae(size)
    module = AutoencoderTraining(vae, stage.steps, stage.batch_size, stage.lr, seed)
    fit(module, stage, work / "vae-training", trainer, logger, [])
    vae.eval().requires_grad_(False)
    vae.to("cpu", torch.float32).save_pretrained(work / "vae")
    return vae


def train_transformer(
    cfg: DictConfig, vae: AutoencoderKL, transformer: FluxTransformer2DModel, work: Path, logger: Logger | bool
) -> None:
    """Trains on the encoded corpus and writes the whole pipeline to `cfg.out`."""
    stage = Stage(**cfg.transformer)
    pipe = assemble(vae, transformer, seed=0)
    device = torch.device("cuda" if cfg.trainer.accelerator == "gpu" else "cpu")
    prompts, pooled = embed_captions(pipe)
    latents, captions = encode_corpus(vae.float(), cfg.data.hands, cfg.data.bad_share, cfg.seed, device)
    module = FlowTraining(
        transformer,
        steps=stage.steps,
        batch_size=stage.batch_size,
        lr=stage.lr,
        warmup=cfg.warmup,
        ema_decay=cfg.ema_decay,
        seed=cfg.seed,
        minutes=cfg.minutes,
    )
    module.use(latents, captions, prompts.to(device), pooled.to(device))
    if cfg.compile != "none":
        transformer.compile(mode=cfg.compile)
    snapshots = Snapshots(work / "snapshots", cfg.snapshots)
    fit(module, stage, work / "transformer-training", dict(cfg.trainer), logger, [snapshots])
    transformer.load_state_dict({k: v.cpu() for k, v in module.ema.module.state_dict().items()})
    save(assemble(vae.to("cpu"), transformer.to("cpu").eval(), seed=0), Path(cfg.out))
    print(f"saved {cfg.out} after {module.ema.n_averaged.item() * EMA_EVERY} steps, {module.elapsed:.0f} s")


def use_snapshot(folder: Path, snapshot: Path) -> None:
    """Puts a snapshot's weights into a saved pipeline folder: a shorter training of the same run."""
    target = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(snapshot), target, metadata={"format": "pt"})


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="tiny_hands")
def main(cfg: DictConfig) -> None:
    if not 0 <= cfg.data.bad_share <= 1:
        raise ValueError(f"data.bad_share={cfg.data.bad_share} must lie between 0 and 1")
    torch.set_float32_matmul_precision("high")
    # Seen on one H100 with torch 2.11: an illegal memory access in the attention's backward pass at head size 32.
    torch.backends.cuda.enable_cudnn_sdp(False)
    size, work = preset(cfg.preset), Path(cfg.work)
    work.mkdir(parents=True, exist_ok=True)
    logger = instantiate(cfg.training_logger) if cfg.training_logger else False
    if cfg.start:
        vae, transformer = start_from(Path(cfg.start), size)
    else:
        vae = train_vae(size, Stage(**cfg.vae), work, cfg.seed, dict(cfg.trainer), logger)
        torch.manual_seed(cfg.seed)
        transformer = build_transformer(size)
    train_transformer(cfg, vae, transformer, work, logger)


if __name__ == "__main__":
    main()
