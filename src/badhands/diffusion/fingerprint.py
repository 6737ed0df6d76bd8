"""Everything that can change a generated picture, written down: equal fingerprints should give equal pixels."""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from badhands.diffusion.spec import ModelSpec

_WHOLE = 2 * 2**30
_SAMPLE = 2**20


def fingerprint(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """Twelve hex digits, and the dictionary that they stand for. Needs the model's files, not the model.

    Offload is left out: it moves weights, and does not change a product of them.
    """
    device = spec.torch_device()
    facts: dict[str, Any] = {
        "weights": _weights(spec),
        "dtype": spec.dtype,
        "quantization": spec.quantization,
        "height": spec.height,
        "width": spec.width,
        "steps": spec.steps,
        "guidance": float(spec.guidance),
        "max_sequence_length": spec.max_sequence_length,
        "batch_size": spec.batch_size,
        "device": _device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    if spec.compile:  # left out otherwise: studies made before there was a choice keep their fingerprint
        facts["compile"] = True
    return short(facts), facts


def short(facts: Mapping[str, Any]) -> str:
    """Twelve hex digits of the dictionary."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def differences(stored: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """One line for each fact that differs: `device: A then, B now`."""
    return [
        f"{key}: {stored.get(key)} then, {present.get(key)} now"
        for key in sorted(set(stored) | set(present))
        if stored.get(key) != present.get(key)
    ]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return (
            f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        )
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def _weights(spec: ModelSpec) -> str:
    folder = spec.folder
    if folder is not None:
        return folder_hash(folder)
    return f"{spec.path}@{_commit(spec) or spec.revision or 'main'}"


def _commit(spec: ModelSpec) -> str | None:
    """The commit of the copy in the local cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(spec.path, "model_index.json", revision=spec.revision)
    return Path(found).parent.name if isinstance(found, str) else None


def folder_hash(folder: Path) -> str:
    """Hash of the weights, configs and tokenizers in a diffusers folder.

    Up to 2 GiB every byte counts. Beyond, a large weight file counts by its length and 65 even samples of 1 MiB,
    the first of which holds its header: seconds instead of minutes, at the price of missing an edit between samples.
    """
    files = sorted(
        p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json", ".txt", ".model") and p.is_file()
    )
    whole = sum(p.stat().st_size for p in files) <= _WHOLE
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}\n".encode())
        with path.open("rb") as stream:
            if whole or size <= 65 * _SAMPLE:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
            else:
                for i in range(65):
                    stream.seek(i * (size - _SAMPLE) // 64)
                    digest.update(stream.read(_SAMPLE))
    return ("sha256:" if whole else "sampled:") + digest.hexdigest()[:16]
