"""extract.py on a real (random, tiny) FluxPipeline: configuration, replay, capture, judge, bill."""

import socket
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from badhands.cells import Cell
from badhands.extraction.bill import make_bill, print_bill, trial
from badhands.extraction.job import Job
from badhands.extraction.renderer import PipelineRenderer
from badhands.extraction.sketch import sketch_rows
from badhands.extraction.verdicts import Pause, record_of
from badhands.home import CONF_DIR
from badhands.study.classes import BAD, GLOBAL, GOOD, NOT_HAND
from badhands.study.prompts import HANDS, load_prompts
from badhands.study.sketches import read_sketch, sketch_path
from badhands.study.study import Study
from entry_points import load
from tiny_pipeline import make_pipeline

entry = load("extract")


def options(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("extract", list(overrides))
    resolved = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    make_pipeline(seed=0, scale=8.0, dtype=torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tiny(folder, root, *overrides: str) -> Job:
    job = Job.of(
        options(
            f"model.path={folder}",
            f"study={root}/study",
            "images=6",
            "workers=1",
            "model.steps=4",
            "model.batch_size=4",
            "capture.timesteps=[20,10]",
            "capture.blocks=[double.1,single.4]",
            "capture.not_hand_tokens=7",
            "labels.match=[]",
            *overrides,
        )
    )
    torch.set_num_threads(1)
    return job


@pytest.fixture
def judge(monkeypatch):
    """Every third hand bad, one unsure, one without a hand; all in one corner."""
    from badhands.tiny_hands.judge import Judge

    def verdict(pixels):
        i = seen.setdefault(pixels.tobytes(), len(seen))
        mask = np.zeros((16, 16), bool)
        mask[2:5, 3:6] = True
        kind = {0: "bad", 3: "bad", 4: "abstain", 5: "no_hand"}.get(i, "good")
        return SimpleNamespace(
            verdict=kind, kind="global" if kind == "bad" else None, confidence=0.912345, fingers=4, token_mask=mask
        )

    seen: dict[bytes, int] = {}
    fake = SimpleNamespace(judge=lambda images: [verdict(image) for image in images])
    monkeypatch.setattr(Judge, "load", classmethod(lambda cls: fake))


def test_pictures_and_activations_do_not_depend_on_what_else_is_in_the_batch(folder, tmp_path):
    job = tiny(folder, tmp_path)
    renderer = PipelineRenderer(job.spec)
    texts = renderer.embed(planned.prompt.text for planned in job.plan)
    embeddings = [texts[planned.prompt.text] for planned in job.plan]
    pictures = [*renderer.render(embeddings[:4], [0, 1, 2, 3]), *renderer.render(embeddings[4:], [4, 5])]
    tokens = [np.array([3 + i, 77, 200], np.int32) for i in range(6)]

    def replay(*which):
        made = renderer.replay(
            [embeddings[i] for i in which], list(which), job.blocks, job.timesteps, [tokens[i] for i in which]
        )
        return dict(zip(which, made, strict=True))

    first = replay(0, 1, 2, 3) | replay(4, 5)
    for which in ((5, 1), (3, 4, 0, 2), (2,), (1, 5, 4, 0)):
        for i, again in replay(*which).items():
            assert again.image.tobytes() == pictures[i].tobytes() == first[i].image.tobytes()
            assert set(again.tensors) == set(job.cells)
            assert all(torch.equal(rows, first[i].tensors[cell]) for cell, rows in again.tensors.items())
    assert len({picture.tobytes() for picture in pictures}) == 6
    cell = Cell("single.2", 2)
    assert cell not in job.cells and job.sketch is not None
    for i, (picture, sketch) in enumerate(renderer.sketch(embeddings[:4], [0, 1, 2, 3], cell)):
        assert picture.tobytes() == pictures[i].tobytes(), "sketching changes no picture"
        (again,) = renderer.replay([embeddings[i]], [i], [cell.block], [cell.timestep], [np.arange(256)])
        assert np.array_equal(sketch, sketch_rows(again.tensors[cell]))


def test_a_study_on_a_diffusers_folder_holds_the_rows_that_a_plain_hook_sees(folder, tmp_path, judge):
    job = tiny(folder, tmp_path)
    text = entry.extract(job)
    study = Study(job.root)
    assert study.check() == [] and "4 of 4 chosen images" in text
    for drawn in study.manifest.entries:
        named, sketch = read_sketch(sketch_path(study.root, drawn.fingerprint, drawn.id), 256)
        assert named == str(job.sketch) and np.isfinite(sketch).all() and sketch.std() > 0.1
    records = {image_id: record for (image_id, _), record in study.labels.latest().items()}
    verdicts = {image_id: record.verdict for image_id, record in records.items()}
    assert list(verdicts.values()).count("good") == 2 and list(verdicts.values()).count("no_hand") == 1
    assert len(verdicts) == 5  # one abstained
    cache = study.activations()
    assert cache.cells == job.cells and cache.dtype == torch.bfloat16 and cache.width(job.cells[-1]) == 128
    assert [cell.block for cell in cache.cells[:4]] == ["xt", "xt", "x0", "x0"] and cache.width(cache.cells[0]) == 32
    assert sorted(cache.steps, reverse=True) == [4, 2] and cache.steps[4] == (0, 1.0)

    from badhands.diffusion.generation import generate_latents
    from badhands.diffusion.models import load_pipeline

    pipe = load_pipeline(job.spec, "all")
    seen = []
    block = pipe.transformer.single_transformer_blocks[4]
    hook = block.register_forward_hook(lambda module, args, output: seen.append(output[1].clone()))
    texts = PipelineRenderer(job.spec).embed(info.prompt for info in cache.images)
    generate_latents(pipe, [texts[i.prompt] for i in cache.images], [i.seed for i in cache.images], job.spec)
    hook.remove()
    for timestep, step in ((4, 0), (2, 2)):
        cell = next(cell for cell in job.cells if str(cell) == f"single.4/t{timestep}")
        expected = torch.cat([seen[step][i, cache.tokens.token[cache.tokens.image == i]] for i in range(4)])
        assert torch.equal(cache.read(cell), expected)
    before = sorted((path, path.stat().st_mtime_ns) for path in job.root.rglob("*.*"))
    entry.extract(job)
    assert sorted((path, path.stat().st_mtime_ns) for path in job.root.rglob("*.*")) == before


def test_a_judges_word_becomes_a_label():
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    said = SimpleNamespace(verdict="bad", kind="global", confidence=0.87654321, fingers=6, token_mask=mask)
    record = record_of("a", "judge", said, (16, 16))
    assert record is not None and record.hand_verdict == "bad" and record.confidence == 0.8765 and record.time == ""
    assert (record.classes[mask] == BAD).all() and (record.classes[~mask] == NOT_HAND).all()
    assert record.kinds is not None and (record.kinds[mask] == GLOBAL).all() and not record.kinds[~mask].any()
    said.verdict, said.kind = "good", None
    good = record_of("a", "judge", said, (16, 16))
    assert good is not None and (good.classes[mask] == GOOD).all() and good.note == "6 fingers"
    said.verdict = "no_hand"
    none = record_of("a", "judge", said, (16, 16))
    assert none is not None and none.verdict == "no_hand" and not none.painted
    said.verdict = "abstain"
    assert record_of("a", "judge", said, (16, 16)) is None


def test_shards_of_judged_images_wait_for_each_other(folder, tmp_path, judge):
    job = tiny(folder, tmp_path, "shard=0/2")
    with pytest.raises(Pause, match="Shard 0/2 has made its images; 3 of 6 are still to come"):
        entry.extract(job)
    text = entry.extract(tiny(folder, tmp_path, "shard=1/2"))
    assert "2 of 4 chosen images" in text or "1 of 4" in text or "3 of 4" in text
    assert "4 of 4 chosen images" in entry.extract(tiny(folder, tmp_path))


@pytest.mark.parametrize(
    ("overrides", "cells", "steps"),
    [
        (["model=flux_dev", "labels=painted"], 64, 20),
        (["model=flux_dev", "capture=dense", "labels=painted"], 11 * 20, 20),
        (["model=flux_dev", "capture=all", "labels=painted"], 59 * 20, 20),
        (["model=flux_schnell", "labels=painted"], 8 * 4, 4),
    ],
)
def test_the_bill_of_flux_needs_no_weights_and_no_network(tmp_path, monkeypatch, overrides, cells, steps):
    def offline(*_, **__):
        raise OSError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", offline)
    job = Job.of(options(*overrides, f"study={tmp_path}/nothing"))
    text = entry.dry_run(job)
    bill = make_bill(job)
    assert bill.cells == cells and bill.images == 500 and bill.captures_left == 500 and len(job.prompts) == 544
    assert (job.tokens.h, job.tokens.w, job.tokens.patch) == (64, 64, 16)
    blocks = cells // steps if steps == 4 or len(job.timesteps) == 20 else 8
    per_token = sum(128 if block in ("xt", "x0") else 6144 for block in job.blocks) * len(job.timesteps)
    assert len(job.blocks) == blocks
    assert abs(bill.capture_bytes - job.preview_bytes - bill.tokens * per_token) < 50_000
    assert "weights of black-forest-labs/FLUX.1" in text and f"{500 * steps * 2:,} transformer evaluations" in text
    assert not (tmp_path / "nothing").exists()


def test_the_bill_knows_what_is_there(folder, tmp_path, judge):
    job = tiny(folder, tmp_path)
    before = make_bill(job)
    assert (before.images_left, before.captures_left, before.tokens_known) == (6, 6, False)
    assert trial(job, PipelineRenderer(job.spec)) > 0
    entry.extract(job)
    after = make_bill(job)
    assert (after.images_left, after.captures, after.captures_left, after.labelled) == (0, 4, 0, 4)
    assert after.tokens == 9 + 7 and after.bytes_left == 0
    files = list(job.root.glob("activations/*/*.safetensors"))
    assert all(path.stat().st_size <= after.capture_bytes for path in files)
    dense = replace(job, timesteps=(4, 3, 2, 1))
    assert make_bill(dense).captures_left == 4 and "at most" not in print_bill(dense, make_bill(dense), 0.5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["shard=8/8"], "shard=8/8"),
        (["shard=one"], "write 0/8"),
        (["images=0"], "images=0"),
        (["seeds=-1"], "seeds=-1"),
        (["capture.blocks=[single.6]"], r"no block single\.6: it has double\.0 to double\.2, single\.0 to single\.5"),
        (["capture.blocks=[attention.3]"], "unknown block"),
        (["capture.timesteps=[21]"], r"timesteps \[21\]"),
        (["capture.latents=[x1]"], "use xt and x0"),
        (["capture.not_hand_tokens=-1"], "not_hand_tokens=-1"),
        (["replay.tolerance=-3"], "give a PSNR"),
        (["labels.source=guess"], "use judge or painted"),
        (["prompts.source=poems"], "use hands or tiny_hands"),
        (["prompts.file=/nowhere.csv"], "there is no such file"),
        (["model.height=66"], "multiples of 4 px"),
        (["model.path=/nowhere/at/all"], "no such folder"),
        (["study=.hidden"], "cannot be an id"),
        (["workers=0"], "workers=0"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_sentence(folder, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        _ = tiny(folder, tmp_path, *overrides).plan


def test_a_file_of_prompts_takes_the_place_of_the_set(folder, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,prompt,style\nx,a hand,photo\ny,two hands,oil\n")
    job = tiny(folder, tmp_path, f"prompts.file={path}")
    assert [planned.id for planned in job.plan] == ["x-s0", "y-s1", "x-s2", "y-s3", "x-s4", "y-s5"]
    assert job.plan[1].prompt.axes == {"style": "oil"}


def test_the_hands_set_is_large_distinct_and_has_its_axes():
    prompts = load_prompts(HANDS)
    assert len(prompts) >= 500 and len({p.text.lower() for p in prompts}) == len(prompts)
    axes = {"style", "setting", "scale", "position", "action", "people"}
    assert all(set(p.axes) == axes and all(p.axes.values()) for p in prompts)
    assert len({p.axes["style"] for p in prompts}) >= 10 and len({p.axes["action"] for p in prompts}) >= 50
    assert all(p.text == " ".join(p.text.split()) and len(p.text) < 200 for p in prompts)
