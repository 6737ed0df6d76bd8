"""Will the model fit? Said before any weight is loaded, with the setting that fits."""

import ctypes
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from badhands.diffusion.families import Family
from badhands.diffusion.spec import ModelSpec

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
_DRAWING = 500
"""Bytes a pixel that a pass through the transformer takes beside its weights, about."""
_GROUP = 3e9
"""On the device with offload=group: a few layers on their way."""
_SHRUNK = {"nf4": 0.56, "int8": 1.05}
"""Bytes a value of a quantized weight, with its scales."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, instead of giving it back to the system and asking for it again.

    A small network on a CPU frees and takes the same buffers at every layer; the system clears each page anew, which
    took a tenth of the processor's time (59,000 page faults an image, 4,000 with this). Nothing happens without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 << 20)  # the largest that it takes
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def folder_values(folder: Path) -> dict[str, int]:
    """Component -> how many values its weight files hold, read from their headers alone."""
    found: dict[str, int] = {}
    for file in sorted(folder.glob("*/*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        total = sum((v["data_offsets"][1] - v["data_offsets"][0]) // _BYTES.get(v["dtype"], 2) for v in header.values())
        found[file.parent.name] = found.get(file.parent.name, 0) + total
    return found


def model_bytes(
    values: Mapping[str, int], part: str, itemsize: int, quantization: str, quantized: Iterable[str]
) -> dict[str, float]:
    """Component -> bytes on the device, of the components that `part` (text, image, all) loads."""
    is_text = {name: name.startswith("text_encoder") for name in values}
    wanted = [n for n in values if part == "all" or is_text[n] == (part == "text")]
    per_value = _SHRUNK.get(quantization, itemsize)
    return {n: values[n] * (per_value if n in quantized else itemsize) for n in wanted}


def decoding_bytes(vae: Mapping[str, Any], height: int, width: int, itemsize: int) -> float:
    """Room that decoding one picture takes: about three activations at full size in the VAE's second width."""
    widths = vae.get("block_out_channels") or [vae.get("base_dim", 96)] * 2
    return 3.0 * height * width * widths[min(1, len(widths) - 1)] * itemsize


def ways_to_run(
    spec: ModelSpec, family: Family, values: Mapping[str, int], vae: Mapping[str, Any], part: str, *, on_gpu: bool
) -> dict[str, tuple[float, float]]:
    """Setting -> (bytes on the device, bytes on the host) while `part` is at work; the spec's own comes first.

    Args:
        values: component -> number of its weights.
        vae: the VAE's config.
        part: text, image or all, as `load_pipeline` takes it.
    """
    itemsize, pixels = spec.torch_dtype.itemsize, spec.height * spec.width
    decoding = decoding_bytes(vae, spec.height, spec.width, itemsize) if part != "text" else 0.0

    def way(offload: str, quantization: str) -> tuple[float, float]:
        parts = model_bytes(values, part, itemsize, quantization, family.quantized)
        total, largest = sum(parts.values()), max(parts.values(), default=0.0)
        drawing = _DRAWING * pixels
        if offload == "none" or not on_gpu:
            return total + max(drawing, decoding), 0.0
        working = largest if offload == "model" else min(_GROUP, largest)
        return max(working + drawing, parts.get("vae", 0.0) + decoding), total

    ways = {"as asked": way(spec.offload, spec.quantization)}
    if on_gpu:
        ways["model.offload=model"] = way("model", spec.quantization)
        if spec.quantization == "none":
            ways["model.quantization=nf4 (another model, so another study)"] = way(spec.offload, "nf4")
        ways["model.offload=group"] = way("group", spec.quantization)
    return ways


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return host_free_bytes()


def host_free_bytes() -> int:
    """Memory that this machine can still give to processes."""
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 2**62  # unknown: nothing is refused for it


def check_memory(name: str, ways: Mapping[str, tuple[float, float]], device: torch.device) -> None:
    """Pass if the way that was chosen fits.

    Args:
        name: of the model, for the message.
        ways: setting -> (bytes on the device, bytes on the host); the first is the chosen one, the others alternatives
            in order of preference.

    Raises:
        ValueError: it does not fit; names the first alternative that does, or says that none does.
    """
    free, host = free_bytes(device), host_free_bytes()
    chosen, *_ = ways

    def fits(way: str) -> bool:
        return ways[way][0] <= free and ways[way][1] <= host

    if fits(chosen):
        return
    needed, needed_host = ways[chosen]
    where, need, have = (str(device), needed, free) if needed > free else ("the host", needed_host, host)
    fitting = next((way for way in ways if way != chosen and fits(way)), None)
    advice = f"set {fitting}" if fitting else "no setting makes it fit: use a smaller model (docs/models.md) or machine"
    raise ValueError(f"{name} needs about {need / 1e9:.0f} GB on {where}, and {have / 1e9:.0f} GB are free: {advice}")
