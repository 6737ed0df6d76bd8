"""Which model, and everything about its run that can change a picture: checked before anything is loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from badhands.home import shipped

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ModelSpec:
    """One model and everything about its run that can change a picture."""

    name: str
    path: str
    """A local diffusers folder (relative: also from the checkout), or a repo id (black-forest-labs/FLUX.1-dev)."""
    height: int
    width: int
    steps: int
    guidance: float
    revision: str | None = None
    dtype: str = "bfloat16"
    max_sequence_length: int = 512
    """Tokens of text; where padding is attended to, it changes the picture."""
    offload: str = "none"
    """none, model (one sub-model on the GPU at a time), or group (layers travel; slowest, least memory)."""
    quantization: str = "none"
    """none, nf4 or int8 (bitsandbytes, on a GPU): a different model, so part of the fingerprint."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    compile: bool = False
    """Compile the transformer's blocks: quicker, and other last bits, so part of the fingerprint."""
    batch_size: int = 1
    """Pictures are always made in batches of exactly this size: the last bits depend on it."""

    def __post_init__(self) -> None:
        for name in ("height", "width", "steps", "batch_size", "max_sequence_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"model.{name}={value!r}: it must be a positive whole number")
        choices = {"dtype": DTYPES, "offload": ("none", "model", "group"), "quantization": ("none", "nf4", "int8")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"model.{name}={getattr(self, name)!r}: use one of {', '.join(allowed)}")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"model.device={self.device!r}: use auto, cpu, cuda or cuda:1")
        if not self.path:
            raise ValueError(
                "model.path is empty: give a local diffusers folder or a repo id, e.g. model.path=/data/flux"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "ModelSpec":
        """From a `model` config group; keys that are not the spec's (images, post_blocks, ...) are left out."""
        return cls(**{f.name: options[f.name] for f in fields(cls) if f.name in options})

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a repo id.

        Raises:
            ValueError: no such folder, and not the form of a repo id.
        """
        for candidate in (Path(self.path).expanduser(), shipped(self.path)):
            if candidate.is_dir():
                return candidate.resolve()
        if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", self.path):
            return None
        raise ValueError(f"model.path={self.path}: there is no such folder; give a diffusers folder or a repo id")

    def torch_device(self) -> torch.device:
        """Where the model runs.

        Raises:
            ValueError: a GPU is asked for and there is none.
        """
        have = torch.cuda.is_available()
        device = torch.device(("cuda" if have else "cpu") if self.device == "auto" else self.device)
        if device.type == "cuda" and not have:
            raise ValueError(f"model.device={self.device}, but no GPU was found: use model.device=cpu")
        for name in ("offload", "quantization"):
            if getattr(self, name) != "none" and device.type != "cuda":
                raise ValueError(
                    f"model.{name}={getattr(self, name)} needs a GPU and none is used: set model.{name}=none"
                )
        return device

    def devices(self, count: int) -> tuple[str, ...]:
        """`model.device` of each of `count` worker processes: every visible GPU in turn, or one device for all."""
        if self.torch_device().type != "cuda" or ":" in self.device:
            return (self.device,) * count
        cards = torch.cuda.device_count()
        return tuple(f"cuda:{i % cards}" for i in range(count))
