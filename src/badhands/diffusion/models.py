"""Which model, and how to run it: a checked spec, and a pipeline loaded from it."""

import importlib.util
import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from badhands.diffusion.blocks import TokenGrid
from badhands.diffusion.families import Family, family_of
from badhands.diffusion.families.published import published_config
from badhands.diffusion.memory import check_memory, folder_values, keep_freed_memory, ways_to_run
from badhands.diffusion.spec import ModelSpec

_TEXT = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
_IMAGE = ("transformer", "vae")


def transformer_config(spec: ModelSpec) -> dict[str, Any]:
    """The transformer's config.json, before any weight is read; for published models without a network.

    Raises:
        ValueError: it cannot be had.
    """
    return _component_config(spec, "transformer")


def family_for(spec: ModelSpec) -> Family:
    """The family of the spec's model, and that the spec suits it.

    Raises:
        ValueError: no family, or a setting that this family cannot keep true.
    """
    family = family_of(transformer_config(spec))
    if spec.max_sequence_length > family.longest_text:
        raise ValueError(
            f"model.max_sequence_length={spec.max_sequence_length}: {family.name} takes at most {family.longest_text}"
        )
    if family.pads_to_neighbours and spec.batch_size > 1:
        raise ValueError(
            f"model.batch_size={spec.batch_size}: {family.name} pads a batch to its longest prompt, so a picture would "
            "depend on its neighbours and could not be made again alone; use model.batch_size=1"
        )
    if spec.compile:
        import diffusers

        if not getattr(getattr(diffusers, family.transformer), "_repeated_blocks", None):
            raise ValueError(f"model.compile=true: diffusers cannot compile the blocks of {family.name}; set it false")
    return family


def token_grid(spec: ModelSpec) -> TokenGrid:
    """The grid of image tokens at the spec's size, from the configs alone.

    Raises:
        ValueError: height or width do not fit the model.
    """
    family = family_for(spec)
    return TokenGrid.of(spec.height, spec.width, 2 ** family.halvings(_component_config(spec, "vae")) * family.patch)


def load_pipeline(spec: ModelSpec, part: Literal["all", "text", "image"] = "all") -> Any:
    """The diffusers pipeline of `spec`, on its device, in its dtype, with a silent progress bar.

    Args:
        spec: local folders are read without a network.
        part: `text` loads the text encoders alone, `image` everything but them. Encoding all prompts with the first and
            then loading the second keeps the two large models from lying in memory together.

    Raises:
        ValueError: a missing or damaged folder, a size that does not fit, no GPU, a missing library: one sentence each.
    """
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    device = spec.torch_device()
    token_grid(spec)
    family = family_for(spec)
    options: dict[str, Any] = {"dtype": spec.torch_dtype, **_quantized(spec, family, part)}
    folder = spec.folder or _download(spec)
    try:
        index = check_folder(folder)
        check_pipeline(index, family, spec.path)
        _check_memory(spec, family, folder, part, device)
        for names, unwanted in ((_TEXT, part == "image"), (_IMAGE, part == "text")):
            options |= {name: None for name in names if unwanted and name in index}
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"{spec.path} cannot be loaded as a pipeline ({first}): download it again") from error
    pipe.set_progress_bar_config(disable=True)
    if spec.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif spec.offload == "group":
        pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(device)
    if device.type == "cpu":
        keep_freed_memory()
        _align(pipe)
    if spec.compile and pipe.transformer is not None:
        pipe.transformer.compile_repeated_blocks()
    return pipe


def check_pipeline(index: Mapping[str, Any], family: Family, path: str) -> None:
    """Pass if the folder's pipeline is one that draws from a prompt alone.

    Raises:
        ValueError: an editing pipeline, or one of another family.
    """
    found = index.get("_class_name")
    if found not in family.pipelines:
        raise ValueError(
            f"{path} is a {found}, and {family.name} draws with {' or '.join(family.pipelines)}: give the "
            "text-to-image model; pictures made from other pictures are not studied"
        )


def check_folder(folder: Path) -> dict[str, Any]:
    """model_index.json of a complete diffusers folder: every component there, no safetensors file cut short.

    Raises:
        ValueError: names the first thing that is wrong.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no diffusers folder: it has no model_index.json")
    try:
        index = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): download the model again") from error
    for name, value in index.items():
        if isinstance(value, list) and value[0] is not None and not (folder / name).is_dir():
            raise ValueError(f"{folder} is incomplete: {name}/ is missing; download the model again")
    for file in sorted(folder.glob("*/*.safetensors")):
        _check_length(file)
    return index


def _check_length(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        try:
            (length,) = struct.unpack("<Q", head)
            header = json.loads(stream.read(length)) if 8 + length <= size else None
        except (struct.error, ValueError):
            header = None
    ends = [v["data_offsets"][1] for k, v in (header or {}).items() if k != "__metadata__"]
    if header is None or 8 + length + max(ends, default=0) != size:
        raise ValueError(f"{file} is damaged or cut short ({size} bytes): download the model again")


def _component_config(spec: ModelSpec, component: str) -> dict[str, Any]:
    folder = spec.folder
    if folder is None:
        return published_config(spec.path, component) or _remote_config(spec, component)
    path = folder / component / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no complete diffusers folder: {component}/config.json is missing")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): download the model again") from error


@lru_cache(maxsize=16)
def _remote_config(spec: ModelSpec, component: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(spec.path, f"{component}/config.json", revision=spec.revision)
    except Exception as error:
        raise _cannot_be_had(spec, error) from error
    return json.loads(Path(file).read_text())


def _download(spec: ModelSpec) -> Path:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(spec.path, revision=spec.revision))
    except Exception as error:
        raise _cannot_be_had(spec, error) from error


def _cannot_be_had(spec: ModelSpec, error: BaseException) -> ValueError:
    """One sentence for what the Hub answered; diffusers wraps its errors, so their causes are looked at too."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, GatedRepoError):
            return ValueError(
                f"{spec.path} is gated: accept its licence on https://huggingface.co/{spec.path}, then run "
                "`hf auth login`, or give a folder: model.path=/data/model"
            )
        if isinstance(seen, RevisionNotFoundError):
            return ValueError(f"{spec.path} has no revision {spec.revision}: give another model.revision")
        if isinstance(seen, RepositoryNotFoundError):
            return ValueError(
                f"{spec.path} is not on the Hub, or is private and you are not logged in: check the name, or run "
                "`hf auth login`"
            )
        seen = seen.__cause__ or seen.__context__
    first = (str(error).strip() or repr(error)).splitlines()[0]
    return ValueError(f"{spec.path} cannot be fetched ({first}): connect to the network, or give a local folder")


def _check_memory(spec: ModelSpec, family: Family, folder: Path, part: str, device: torch.device) -> None:
    vae = _component_config(spec, "vae")
    ways = ways_to_run(spec, family, folder_values(folder), vae, part, on_gpu=device.type == "cuda")
    check_memory(spec.name, ways, device)


def _quantized(spec: ModelSpec, family: Family, part: str) -> dict[str, Any]:
    if spec.quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(f"model.quantization={spec.quantization} needs bitsandbytes: pip install bitsandbytes")
    from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig

    kwargs: dict[str, Any] = {"load_in_8bit": True}
    if spec.quantization == "nf4":
        kwargs = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": spec.torch_dtype}
    config = PipelineQuantizationConfig(
        quant_backend="bitsandbytes_4bit" if spec.quantization == "nf4" else "bitsandbytes_8bit",
        quant_kwargs=kwargs,
        components_to_quantize=[
            name for name in family.quantized if part == "all" or name.startswith("text") == (part == "text")
        ],
    )
    return {"quantization_config": config}


def _align(pipe: Any) -> None:
    """Copy weights to memory aligned as torch aligns its own.

    Files are mapped at odd addresses, and CPU kernels sum in another order there: without this a model loaded from disk
    differs in its last bits from the same model made in memory.
    """
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            for tensor in (*component.parameters(), *component.buffers()):
                if tensor.data_ptr() % 64:
                    tensor.data = tensor.data.clone()
