"""A published model's folder with random weights: the true architecture, before anyone accepts a licence.

Times, memory, disk and equality of bits do not depend on what the weights say.
"""

import gc
import json
from pathlib import Path
from typing import Any, Literal

import torch

from badhands.diffusion.families.published import PUBLISHED, Part, Published

Scale = Literal["full", "tiny"]

_CHAT = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ m.content if m.content is string else m.content[0].text }}"
    "{% endif %}{% endfor %}"
)
"""Only what the user says: a model of random weights heeds no system message."""


def published(path: str) -> Published:
    """The bundled configuration of a model.

    Raises:
        ValueError: there is none.
    """
    if path not in PUBLISHED:
        raise ValueError(f"the configuration of {path} is not bundled; there are those of {', '.join(PUBLISHED)}")
    return PUBLISHED[path]


def make_folder(folder: Path, path: str, scale: Scale, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Path:
    """Write the diffusers folder of a model with random weights, one component after the other.

    model_index.json comes last, so a folder that has it is complete.

    Args:
        path: a repo id of `PUBLISHED`.
        device: where the numbers are drawn; a GPU is much quicker.
    """
    import diffusers

    model = published(path)
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"_class_name": model.pipeline, "_diffusers_version": diffusers.__version__, **model.index}
    for number, (name, part) in enumerate(model.parts.items()):
        component = make_component(part, scale, dtype, device, seed + number)
        component.save_pretrained(folder / name)
        library = "diffusers" if hasattr(diffusers, part.cls) else "transformers"
        index[name] = [library, type(component).__name__]
        del component
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def count_values(part: Part, scale: Scale) -> int:
    """How many weights a component has, without making one."""
    if "Tokenizer" in part.cls or "Scheduler" in part.cls:
        return 0
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _network(part, scale).parameters())


def make_component(part: Part, scale: Scale, dtype: torch.dtype, device: torch.device, seed: int) -> Any:
    """One component: a tokenizer of bytes, a scheduler, or a network of random weights."""
    import diffusers

    options = part.sized(scale)
    if "Tokenizer" in part.cls:
        return make_tokenizer(part.cls, **options)
    if "Scheduler" in part.cls:
        return getattr(diffusers, part.cls)(**options)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), torch.random.fork_rng(devices=[]):
            model = _network(part, scale)
    finally:
        torch.set_default_dtype(before)
    return randomise(torch.nn.Module.to(model, device=device, dtype=dtype).eval(), seed)


def _network(part: Part, scale: Scale) -> torch.nn.Module:
    import diffusers
    import transformers

    options = part.sized(scale)
    if hasattr(diffusers, part.cls):
        return getattr(diffusers, part.cls)(**options)
    cls = getattr(transformers, part.cls)
    return cls(cls.config_class(**options))


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fill weights so that activations keep their size from layer to layer: unit gain, norms of one, biases of zero."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma") or (parameter.ndim == 1 and name.endswith("weight")):
            parameter.fill_(1.0)
        elif parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.zero_()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def make_tokenizer(cls: str, model_max_length: int) -> Any:
    """A tokenizer of the class whose pieces are bytes (T5: letters): nothing to train, nothing to download."""
    import transformers

    if cls == "T5TokenizerFast":
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.;:!?'-()/"
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
        return getattr(transformers, cls)(vocab=pieces, extra_ids=0, model_max_length=model_max_length)
    alphabet = _byte_characters()
    if cls == "CLIPTokenizer":
        pieces = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(c + "</w>" for c in alphabet)]
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=model_max_length)
    vocabulary = {piece: i for i, piece in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet])}
    made = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=model_max_length)
    made.chat_template = _CHAT
    return made


def _byte_characters() -> list[str]:
    """The printable stand-ins of the 256 bytes in byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
