"""Will the model fit? Said before any weight is loaded, with the setting that fits."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
_SHRUNK = {"nf4": 0.56, "int8": 1.05}
"""Bytes a value of a quantized weight, with its scales."""


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
