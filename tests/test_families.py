"""Every family, on tiny random pipelines of its real classes: the rows are true, and the picture is left alone."""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict
from PIL import Image

import family_forwards
from badhands.cells import Cell
from badhands.diffusion.blocks import TokenGrid, block_names, width
from badhands.diffusion.capture import capture
from badhands.diffusion.families import family_of, family_of_pipe
from badhands.diffusion.families.published import PUBLISHED
from badhands.diffusion.fingerprint import fingerprint
from badhands.diffusion.generation import encode, generate, generate_latents
from badhands.diffusion.models import ModelSpec, load_pipeline, token_grid
from badhands.diffusion.moments import AllDropped
from badhands.diffusion.preview import decode, load_tiny_vae
from badhands.diffusion.random_model import count_values, make_folder
from badhands.diffusion.taps import Taps
from badhands.extraction.job import Job
from badhands.extraction.verdicts import Pause
from badhands.home import CONF_DIR
from badhands.study.classes import BAD, GOOD, NOT_HAND
from badhands.study.label_log import LabelLog
from badhands.study.labels import LabelRecord
from badhands.study.study import Study
from badhands.watch import watch
from badhands.watch.__main__ import run as watch_command
from entry_points import load
from watch_probes import make_probes

STEPS, GUIDANCE, HEIGHT, WIDTH = 3, 3.0, 24, 32  # 6 x 8 tokens of 4 px
PROMPTS = ["a fist", "a hand with all of its five fingers spread"]  # of different length
ROWS = {
    "black-forest-labs/FLUX.1-dev": family_forwards.flux,
    "black-forest-labs/FLUX.2-klein-base-4B": family_forwards.flux2,
    "black-forest-labs/FLUX.2-klein-4B": family_forwards.flux2,
    "black-forest-labs/FLUX.2-dev": family_forwards.flux2,
    "Tongyi-MAI/Z-Image": family_forwards.z_image,
    "Qwen/Qwen-Image": family_forwards.qwen,
    "stabilityai/stable-diffusion-3.5-medium": family_forwards.sd3,
    "lodestones/Chroma1-HD": family_forwards.chroma,
}


@dataclass(frozen=True)
class Model:
    path: str
    spec: ModelSpec
    pipe: Any
    embeddings: list

    @property
    def blocks(self) -> tuple[str, ...]:
        return block_names({**self.pipe.transformer.config, "_class_name": type(self.pipe.transformer).__name__})

    def latents(self, **changes):
        return generate_latents(self.pipe, self.embeddings, [0, 1], replace(self.spec, **changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    @lru_cache
    def make(path: str) -> Model:
        folder = make_folder(tmp_path_factory.mktemp("model"), path, "tiny", torch.float32, torch.device("cpu"))
        spec = ModelSpec(path.split("/")[1], str(folder), HEIGHT, WIDTH, STEPS, GUIDANCE, dtype="float32",
                         max_sequence_length=48, device="cpu")  # fmt: skip
        if "Qwen" in path:
            spec = replace(spec, max_sequence_length=512)  # its template is long, in bytes
        pipe = load_pipeline(spec)
        embeddings = list(encode(pipe, PROMPTS, spec.max_sequence_length).values())
        return Model(path, replace(spec, batch_size=2), pipe, embeddings)

    return make


@pytest.fixture(params=ROWS)
def model(request, made) -> Model:
    return made(request.param)


def probes_of(model: Model):
    model.latents()  # sets the schedule
    return make_probes(STEPS, model.blocks, d=width(_config(model)), sigmas=model.pipe.scheduler.sigmas.tolist())


def _config(model: Model) -> dict:
    return {**model.pipe.transformer.config, "_class_name": type(model.pipe.transformer).__name__}


@torch.no_grad()
def test_rows_equal_a_forward_written_by_hand(model):
    """Of both branches, at every step, for prompts of different length in one batch, on a picture 24 px by 32."""
    tokens = [np.array([0, 7, 8, 30]), np.array([47, 9])]
    grid = token_grid(replace(model.spec, batch_size=1))
    assert (grid.h, grid.w) == (6, 8)
    with capture(model.pipe, ["xt", "x0"], range(1, STEPS + 1)) as latents:
        last = model.latents()
    sigmas = model.pipe.scheduler.sigmas
    x = torch.stack([latents.member(i)[Cell("xt", STEPS)] for i in (0, 1)])
    truth: dict[int, Any] = {}
    for step in range(STEPS):
        timestep = STEPS - step
        branches, v = ROWS[model.path](model.pipe.transformer, x, sigmas[step], model.embeddings, (6, 8), GUIDANCE)
        truth[timestep] = branches
        x0 = x - sigmas[step] * v
        for i in (0, 1):
            assert torch.equal(latents.member(i)[Cell("xt", timestep)], x[i])
            assert torch.equal(latents.member(i)[Cell("x0", timestep)], x0[i])
        x = x + (sigmas[step + 1] - sigmas[step]) * v
    assert torch.equal(x, last)
    assert torch.equal(x0, last)  # the last step lands on its own prediction
    guided = truth[STEPS][1] is not None
    for branch in (0, 1) if guided else (0,):
        with capture(model.pipe, model.blocks, range(1, STEPS + 1), tokens, branch=branch) as taken:
            model.latents()
        assert set(truth[STEPS][branch]) == set(model.blocks)
        for cell, rows in taken.items():
            expected = truth[cell.timestep][branch][cell.block]
            assert torch.equal(rows, torch.cat([expected[i][index] for i, index in enumerate(tokens)])), str(cell)
    if guided:  # control: the branches differ
        assert not any(torch.equal(truth[STEPS][0][b], truth[STEPS][1][b]) for b in model.blocks[1:])


def test_the_picture_is_the_same_with_capture_and_watch(model):
    plain = model.latents()
    probes = probes_of(model)
    with capture(model.pipe, model.blocks, [STEPS, 1]), watch(model.pipe, probes) as seen:
        assert torch.equal(model.latents(), plain)
    assert torch.equal(model.latents(), plain)
    assert seen.grid == (6, 8) and seen.size() == (HEIGHT, WIDTH) and len(seen.frames) == STEPS
    assert seen.evaluations == STEPS * 2 * (2 if model.embeddings[0].negative else 1)
    picture = seen.final(member=1)
    assert picture is not None and np.array_equal(picture, decode(model.pipe, plain, HEIGHT, WIDTH)[1])
    assert seen.preview(seen.frames[0]).size == (WIDTH, HEIGHT)


def _batched(model: Model) -> bool:
    return family_of_pipe(model.pipe).guidance_batch != "separate"


def test_any_picture_is_made_again_alone(model):
    family = family_of(_config(model))
    spec = replace(model.spec, batch_size=1 if family.pads_to_neighbours else 2)
    texts = [*model.embeddings, model.embeddings[0]]
    pictures = [picture.tobytes() for picture in generate(model.pipe, texts, [0, 1, 2], spec)]
    assert len(set(pictures)) == 3
    for which in ([2], [1, 0]):
        again = generate(model.pipe, [texts[i] for i in which], which, spec)
        assert [picture.tobytes() for picture in again] == [pictures[i] for i in which]


def test_decoding_is_the_pipelines_own(model):
    spec = replace(model.spec, batch_size=1)
    latents = generate_latents(model.pipe, model.embeddings[:1], [5], spec)
    arguments = family_of_pipe(model.pipe).arguments(model.embeddings[:1], GUIDANCE, torch.device("cpu"))
    own = model.pipe(height=HEIGHT, width=WIDTH, num_inference_steps=STEPS, **arguments,
                     generator=[torch.Generator().manual_seed(5)]).images[0]  # fmt: skip
    assert np.array_equal(decode(model.pipe, latents, HEIGHT, WIDTH)[0], own)
    assert decode(model.pipe, latents, HEIGHT, WIDTH, scale=2)[0].size == (WIDTH // 2, HEIGHT // 2)


def test_steering_reaches_the_conditional_branch_and_the_picture(model):
    plain, block = model.latents(), model.blocks[-2]
    added = torch.randn(width(_config(model)), generator=torch.Generator().manual_seed(0))

    def steer(strength, branch):
        def add(moment, name, tokens):
            return tokens + strength * added if moment.branch == branch and moment.timestep == 2 else None

        with Taps(model.pipe, [block], on_block=add):
            return model.latents()

    assert torch.equal(steer(0.0, 0), plain) and not torch.equal(steer(1.0, 0), plain)
    if model.embeddings[0].negative is not None:
        assert not torch.equal(steer(1.0, 1), steer(1.0, 0))


def test_a_picture_alone_in_its_batch_can_be_stopped(model):
    spec = replace(model.spec, batch_size=1)
    with pytest.raises(AllDropped), Taps(model.pipe, on_step=lambda step: step.drop([0])):
        generate_latents(model.pipe, model.embeddings[:1], [0], spec)
    if _batched(model):
        with pytest.raises(ValueError, match=r"keeps its batch together.*model.batch_size=1"):  # noqa: SIM117
            with Taps(model.pipe, on_step=lambda step: step.drop([0])):
                model.latents()
        return
    plain = model.latents()
    with Taps(model.pipe, on_step=lambda step: step.drop([0] if step.moment.timestep == 2 else [])):
        left = model.latents()
    assert left.shape[0] == 1 and torch.allclose(left[0], plain[1], atol=1e-4)


def test_block_compilation_leaves_rows_and_replay_as_they_are(made):
    """With the eager backend, so that only the hooks' way round compiled blocks is tried."""
    model = made("Tongyi-MAI/Z-Image")
    with capture(model.pipe, ["single.1"], [2]) as plain:
        latents = model.latents()
    torch._dynamo.reset()
    other = load_pipeline(replace(model.spec, batch_size=1))
    other.transformer.compile_repeated_blocks(backend="eager")
    with capture(other, ["single.1"], [2]) as taken:
        assert torch.equal(generate_latents(other, model.embeddings, [0, 1], model.spec), latents)
    assert torch.equal(taken[Cell("single.1", 2)], plain[Cell("single.1", 2)])
    torch._dynamo.reset()


def test_compilation_is_part_of_the_fingerprint_and_reaches_every_block(made):
    spec = replace(made("black-forest-labs/FLUX.1-dev").spec, batch_size=1)
    (plain, facts), (compiled, more) = fingerprint(spec), fingerprint(replace(spec, compile=True))
    assert plain != compiled and set(more) - set(facts) == {"compile"}  # without it, fingerprints of before stay
    transformer = load_pipeline(replace(spec, compile=True), "image").transformer
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    assert all(block._compiled_call_impl is not None for block in blocks)  # compiled at the first call, not yet


SIZES = {  # parameters of the transformer, in units of 10^9, as the model cards give them
    "black-forest-labs/FLUX.1-dev": 11.9, "black-forest-labs/FLUX.1-schnell": 11.9,
    "black-forest-labs/FLUX.2-klein-base-4B": 3.9, "black-forest-labs/FLUX.2-klein-4B": 3.9,
    "black-forest-labs/FLUX.2-dev": 32.2, "Tongyi-MAI/Z-Image": 6.2, "Tongyi-MAI/Z-Image-Turbo": 6.2,
    "Qwen/Qwen-Image": 20.4, "stabilityai/stable-diffusion-3.5-large": 8.1,
    "stabilityai/stable-diffusion-3.5-medium": 2.2, "lodestones/Chroma1-HD": 8.9,
}  # fmt: skip


@pytest.mark.parametrize("path", SIZES)
def test_a_bundled_configuration_has_the_size_of_the_published_model(path):
    assert count_values(PUBLISHED[path].parts["transformer"], "full") / 1e9 == pytest.approx(SIZES[path], abs=0.06)


ENCODERS = {  # the same of the text encoders
    "T5 XXL": ("black-forest-labs/FLUX.1-dev", "text_encoder_2", 4.76),
    "Qwen3 4B": ("black-forest-labs/FLUX.2-klein-base-4B", "text_encoder", 4.02),
    "Mistral Small 24B": ("black-forest-labs/FLUX.2-dev", "text_encoder", 24.0),
    "Qwen2.5-VL 7B": ("Qwen/Qwen-Image", "text_encoder", 8.29),
    "CLIP bigG": ("stabilityai/stable-diffusion-3.5-large", "text_encoder_2", 0.69),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_bundled_text_encoder_has_the_size_of_the_published_one(name):
    path, component, size = ENCODERS[name]
    assert count_values(PUBLISHED[path].parts[component], "full") / 1e9 == pytest.approx(size, abs=0.02)


def test_a_bundled_configuration_is_enough_to_plan(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for path in PUBLISHED:
        spec = ModelSpec("planned", path, 1024, 768, 20, 3.5, device="cpu")
        assert token_grid(spec) == TokenGrid(64, 48, 16)


# What a family cannot do truthfully ----------------------------------------------------------------------------------


def test_an_editing_pipeline_is_refused_before_a_weight_is_read(made, tmp_path):
    spec = made("black-forest-labs/FLUX.2-klein-base-4B").spec
    for component in ("transformer", "vae"):
        (tmp_path / component).mkdir()
        config = (Path(spec.path) / component / "config.json").read_text()
        (tmp_path / component / "config.json").write_text(config)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Flux2KleinKVPipeline"}))
    with pytest.raises(ValueError, match=r"is a Flux2KleinKVPipeline, and FLUX.2 draws with Flux2KleinPipeline or"):
        load_pipeline(replace(spec, path=str(tmp_path)))


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("Tongyi-MAI/Z-Image", {"batch_size": 2}, "pads a batch to its longest prompt.*use model.batch_size=1"),
        ("Qwen/Qwen-Image", {"batch_size": 2}, "pads a batch to its longest prompt"),
        ("Qwen/Qwen-Image", {"max_sequence_length": 1025}, "Qwen-Image takes at most 1024"),
        ("stabilityai/stable-diffusion-3.5-medium", {"compile": True}, "cannot compile the blocks of Stable"),
    ],
)
def test_settings_that_a_family_cannot_keep_true(made, path, options, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline(replace(made(path).spec, **{"batch_size": 1, **options}))


def test_reference_images_are_refused(made):
    from PIL import Image

    for path in ("black-forest-labs/FLUX.2-klein-base-4B", "black-forest-labs/FLUX.2-dev"):
        model = made(path)
        arguments = family_of_pipe(model.pipe).arguments(model.embeddings[:1], 1.0, torch.device("cpu"))
        with pytest.raises(ValueError, match="was given reference images"), capture(model.pipe, ["single.0"], [1]):
            model.pipe(image=Image.new("RGB", (64, 64)), height=24, width=32, num_inference_steps=1, **arguments)


def test_guidance_that_is_switched_off_in_the_middle_is_refused(made):
    model = made("Tongyi-MAI/Z-Image")
    arguments = family_of_pipe(model.pipe).arguments(model.embeddings[:1], 3.0, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"cfg_truncation=0.5 switches guidance off"), Taps(model.pipe):
        model.pipe(height=24, width=32, num_inference_steps=2, cfg_truncation=0.5, **arguments)


def test_skip_layer_guidance_is_refused(made):
    model = made("stabilityai/stable-diffusion-3.5-medium")
    arguments = family_of_pipe(model.pipe).arguments(model.embeddings[:1], 3.0, torch.device("cpu"))
    with pytest.raises(ValueError, match="called the transformer 2 times in a step"), Taps(model.pipe, ["double.2"]):
        model.pipe(height=24, width=32, num_inference_steps=10, skip_guidance_layers=[1],
                   skip_layer_guidance_stop=0.9, **arguments)  # fmt: skip


def test_too_little_memory_is_said_before_loading_with_the_setting_that_fits(made, monkeypatch):
    from badhands.diffusion import memory

    spec = replace(made("black-forest-labs/FLUX.1-dev").spec, batch_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(memory, "host_free_bytes", lambda: 1000)
        with pytest.raises(ValueError, match="needs about 0 GB on cpu, and 0 GB are free: no setting makes it fit"):
            load_pipeline(spec)
    values = {"transformer": 11_900_000_000, "vae": 84_000_000, "text_encoder_2": 4_760_000_000, "text_encoder": 10**8}
    sizes = memory.model_bytes(values, "image", 2, "none", ["transformer"])
    assert set(sizes) == {"transformer", "vae"} and sizes["transformer"] == 23.8e9
    assert memory.model_bytes(values, "text", 2, "nf4", ["text_encoder_2"])["text_encoder_2"] < 3e9
    monkeypatch.setattr(memory, "free_bytes", lambda device: 12e9)
    monkeypatch.setattr(memory, "host_free_bytes", lambda: 64e9)
    ways = {"as asked": (24e9, 0.0), "model.offload=model": (23.8e9, 24e9), "model.quantization=nf4": (7e9, 0.0)}
    with pytest.raises(ValueError, match=r"flux needs about 24 GB on cuda, and 12 GB are free: set model.quantization"):
        memory.check_memory("flux", ways, torch.device("cuda"))
    memory.check_memory("flux", {"as asked": (11e9, 0.0)}, torch.device("cuda"))


@pytest.mark.parametrize(
    ("error", "message"),
    [("GatedRepoError", "is gated: accept its licence on https://huggingface.co/nobody/nothing, then run `hf auth"),
     ("RepositoryNotFoundError", "is not on the Hub, or is private"),
     ("RevisionNotFoundError", "has no revision main")],
)  # fmt: skip
def test_what_the_hub_answers_is_told_in_one_sentence(monkeypatch, error, message):
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*_, **__):
        raise getattr(errors, error)("401 Client Error", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    spec = ModelSpec("gated", "nobody/nothing", 1024, 1024, 20, 3.5, revision="main", device="cpu")
    with pytest.raises(ValueError, match=message) as caught:
        token_grid(spec)
    assert "\n" not in str(caught.value)


# A whole study -------------------------------------------------------------------------------------------------------

STUDIES = {
    "black-forest-labs/FLUX.1-dev": "flux_dev", "black-forest-labs/FLUX.2-klein-base-4B": "flux2_klein_base",
    "Tongyi-MAI/Z-Image": "z_image", "Qwen/Qwen-Image": "qwen_image",
    "stabilityai/stable-diffusion-3.5-medium": "sd35", "lodestones/Chroma1-HD": "chroma",
}  # fmt: skip


def composed(name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        options = OmegaConf.to_container(compose(name, list(overrides)), resolve=True)
    assert isinstance(options, dict)
    return {str(key): value for key, value in options.items()}


@pytest.mark.parametrize("path", STUDIES)
def test_a_whole_study(made, path, tmp_path):
    """Pictures, labels, replay and capture, train.py, and one picture watched with the probes it made."""
    model = made(path)
    blocks = f"[{model.blocks[0]},{model.blocks[-1]}]"
    one = [f"model={STUDIES[path]}", "model.name=tiny", f"model.path={model.spec.path}", "model.dtype=float32",
           f"model.height={HEIGHT}", f"model.width={WIDTH}", f"model.steps={STEPS}", "model.device=cpu",
           f"model.max_sequence_length={model.spec.max_sequence_length}", "model.revision=null"]  # fmt: skip
    study = ["labels=painted", f"study={tmp_path}/study", f"capture.blocks={blocks}", "capture.timesteps=[20,10]",
             "capture.previews=16"]  # fmt: skip
    job = Job.of(composed("extract", *one, *study, "images=8", "workers=1", "prompts=hands"))
    with pytest.raises(Pause):
        load("extract").extract(job)
    for number, planned in enumerate(job.plan):
        classes = np.full((6, 8), NOT_HAND, np.uint8)
        classes[1:4, number % 5 : number % 5 + 3] = BAD if number % 2 else GOOD
        LabelLog(job.root / "labels.jsonl").append(LabelRecord(planned.id, "ann", "2026", 1.0, classes))
    assert "8 of 8 chosen images" in load("extract").extract(job)
    cache = Study(job.root).activations()
    assert {cell.block for cell in cache.cells} == {"xt", "x0", model.blocks[0], model.blocks[-1]}
    family = family_of_pipe(model.pipe)
    assert {cache.width(cell) for cell in cache.cells} == {
        family.latent_channels(_config(model)), family.width(_config(model))}  # fmt: skip

    run = tmp_path / "run"
    trained = [*one, *study, "debug=smoke", "data.images=null", "strips=0", "logger=none",
               "previews=false", "analysis.contrasts=[good_vs_bad]"]  # fmt: skip
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", trained, return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(run)
        HydraConfig.instance().set_config(cfg)
        del cfg["hydra"]
    load("train").main.__wrapped__(cfg)
    assert list(run.glob("*.html"))

    options = composed("watch", *one, "prompt=a hand", f"probes={run}/probes", "threads=1")
    watch_command(options, tmp_path / "watched")
    assert Image.open(tmp_path / "watched" / "image.png").size == (WIDTH, HEIGHT)
    assert (tmp_path / "watched" / "strip.png").is_file()


def test_previews_by_a_tiny_vae(made, tmp_path):
    model = made("black-forest-labs/FLUX.1-dev")
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), latent_channels=4,
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    tiny.save_pretrained(tmp_path / "taef")
    decoder = load_tiny_vae(model.pipe, str(tmp_path / "taef"))
    with watch(model.pipe, probes_of(model), preview_vae=decoder) as seen:
        latents = model.latents()
    with watch(model.pipe, probes_of(model)) as full:
        model.latents()
    quick, slow = (s.preview(s.frames[1], 1) for s in (seen, full))
    assert quick is not None and slow is not None and quick.size == slow.size == (WIDTH, HEIGHT)
    assert not np.array_equal(quick, slow)  # control: another decoder
    by_hand = tiny.decode(family_of_pipe(model.pipe).unpack(seen.frames[1].x0[1:], (6, 8)))
    assert np.array_equal(quick, model.pipe.image_processor.postprocess(by_hand.sample.detach())[0])
    assert np.array_equal(seen.final(member=0), decode(model.pipe, latents, HEIGHT, WIDTH)[0])
    with pytest.raises(ValueError, match=r"there is no AutoencoderTiny for Qwen-Image; use watch.preview=full"):
        load_tiny_vae(made("Qwen/Qwen-Image").pipe, "taef")
    AutoencoderTiny(latent_channels=16).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="decodes 16 channels to 8 times their size, this model has 4 and 2"):
        load_tiny_vae(model.pipe, str(tmp_path / "other"))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_tiny_vae(model.pipe, str(tmp_path / "none"))
