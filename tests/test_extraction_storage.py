"""extract.py may be killed, repeated, sharded and overlapped: the folder comes out the same. What is wrong is named."""

import multiprocessing
import os
import random
import threading
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

import fake_renderer as fake
from badhands.cells import Cell, grid
from badhands.extraction import bill, captures, images
from badhands.extraction.captures import psnr_db
from badhands.extraction.verdicts import Pause
from badhands.study.choice import LabelChoice, choice_path, read_choice
from badhands.study.classes import BAD, GOOD
from badhands.study.labels import LabelRecord
from badhands.study.manifest import Manifest
from badhands.study.prompts import Prompt
from badhands.study.study import Study
from entry_points import load

extract = load("extract").extract


def run(job, make=fake.FakeRenderer, made_by=fake.MADE_BY):
    return extract(job, make, made_by)


def finished(root, **changes):
    """A study from end to end: images, a person's labels, activations."""
    job = fake.make_job(root, **changes)
    with pytest.raises(Pause):
        run(job)
    fake.paint(root, [planned.id for planned in job.plan])
    return job, run(job)


def test_it_stops_for_people_and_names_the_command(tmp_path):
    job = fake.make_job(tmp_path / "studies" / "mine")
    with pytest.raises(Pause, match=r"18 of 18 images have no label yet") as pause:
        run(job)
    assert "python -m badhands.label study=mine" in str(pause.value)
    fake.paint(job.root, ["p1-s1", "p2-s2"])  # both good
    with pytest.raises(Pause, match="16 of 18"):
        run(job)
    said = LabelRecord("p0-s0", "ann", "2026", 1.0, np.zeros((4, 6), np.uint8), verdict="bad")
    for planned in job.plan:
        Study(job.root).labels.append(replace(said, image_id=planned.id))
    with pytest.raises(Pause, match="hands are painted on 0 only"):
        run(job)


def test_a_finished_study_holds_what_was_asked_and_a_second_run_changes_nothing(tmp_path):
    job, text = finished(tmp_path / "s")
    study = Study(job.root)
    assert study.check() == []
    cache = study.activations()
    assert cache.cells == job.cells and len(cache.images) == 12  # 6 bad, 6 good
    verdicts = {image_id: record.hand_verdict for (image_id, _), record in study.labels.latest().items()}
    assert sum(verdicts[info.id] == "bad" for info in cache.images) == 6
    assert cache.steps == {4: (0, 1.0), 1: (3, 0.25)}
    renderer = fake.FakeRenderer(job.spec)
    for i, info in enumerate(cache.images):
        rows = cache.tokens.image == i
        texts = renderer.embed([info.prompt])
        (replay,) = renderer.replay(
            [texts[info.prompt]], [info.seed], job.blocks, job.timesteps, [cache.tokens.token[rows]]
        )
        for cell in job.cells:
            assert torch.equal(cache.read(cell, rows), replay.tensors[cell])
        record = study.labels.latest()[info.id, "ann"]
        assert np.array_equal(record.classes.ravel()[cache.tokens.token[rows]], cache.tokens.label[rows])
        assert {GOOD, BAD} & set(cache.tokens.label[rows]) and (cache.tokens.label[rows] == 3).sum() == 5
    assert "12 of 12 chosen images" in text and "python train.py" in text
    before = fake.contents(job.root)
    run(job)
    assert fake.contents(job.root) == before


def _alone(delay):
    """In a forked child: a lock of its own for progress bars: a killed sibling leaves the inherited one locked."""
    tqdm.set_lock(threading.RLock())
    fake.FakeRenderer.delay = delay


def _child(job, delay):
    _alone(delay)
    try:
        run(job)
    except Pause:
        fake.paint(job.root, [p.id for p in job.plan if (p.id, "ann") not in Study(job.root).labels.latest()])
        run(job)


def _files(root):
    return sum(len(names) for _, _, names in os.walk(root))


def test_killed_20_times_and_resumed_the_folder_is_that_of_an_uninterrupted_run(tmp_path):
    whole, _ = finished(tmp_path / "whole", images=90)
    job = fake.make_job(tmp_path / "killed", images=90)
    dice, context, seen = random.Random(0), multiprocessing.get_context("fork"), set()
    for _ in range(20):
        target = _files(job.root) + dice.randint(3, 12)
        child = context.Process(target=_child, args=(job, 0.003))
        child.start()
        while _files(job.root) < target and child.is_alive():
            time.sleep(0.0005)
        time.sleep(dice.uniform(0, 0.01))
        child.kill()  # SIGKILL
        child.join()
        files = fake.contents(job.root)
        seen.add((sum(n.endswith(".png") for n in files), sum(n.endswith(".safetensors") for n in files)))
    assert len(seen) > 10, f"the kills hit too few different moments: {seen}"
    assert any(0 < made < 90 for made, _ in seen) and any(captured for _, captured in seen)
    with suppress(Pause):
        run(job)
    fake.paint(job.root, [p.id for p in job.plan if (p.id, "ann") not in Study(job.root).labels.latest()])
    run(job)
    assert fake.contents(job.root) == fake.contents(whole.root)


@pytest.mark.parametrize(("owner", "name"), [(images, "write_whole"), (Manifest, "append"), (captures, "write_image")])
def test_ended_before_any_single_write_it_goes_on(tmp_path, monkeypatch, owner, name):
    """The same at chosen points: the writes before it have happened, this one and all later ones have not."""
    whole, _ = finished(tmp_path / "whole", images=9)
    job = fake.make_job(tmp_path / "ended", images=9)
    original = getattr(owner, name)

    class Ended(BaseException):
        pass

    for when in range(12):
        calls = iter(range(1000))

        def dying(*args, calls=calls, when=when, **options):
            if next(calls) >= when:
                raise Ended
            return original(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying)
            try:
                run(job)
            except Pause:
                fake.paint(job.root, [p.id for p in job.plan])
            except Ended:
                pass
    run(job)
    assert fake.contents(job.root) == fake.contents(whole.root)


def test_shards_in_any_order_and_overlapping_make_the_same_files(tmp_path):
    whole, _ = finished(tmp_path / "whole")
    job = fake.make_job(tmp_path / "shards")
    for i in (2, 0, 1):
        with pytest.raises(Pause):
            run(replace(job, shard=fake.shard(i, 3)))
    fake.paint(job.root, [p.id for p in job.plan])
    context = multiprocessing.get_context("fork")
    jobs = [replace(job, shard=fake.shard(i, 3)) for i in (1, 0, 2)] + [job]  # the last takes everything at once
    children = [context.Process(target=_child, args=(j, 0.01)) for j in jobs]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert fake.contents(job.root) == fake.contents(whole.root)


def test_on_gpus_auto_is_a_process_a_card_and_the_files_are_those_of_one_worker(tmp_path, monkeypatch):
    """Three cards that are not there: the processes' renderers say which one they were given."""
    from badhands.diffusion.workers import Workers
    from badhands.extraction.job import _workers

    one, _ = finished(tmp_path / "one")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    spec = replace(fake.SPEC, device="auto")
    assert _workers("auto", spec, fake.shard(0, 1), 18) == 3 and spec.devices(4) == (*spec.devices(3), "cuda:0")
    assert _workers("auto", spec, fake.shard(0, 2), 18) == 1  # whoever starts shards gives each its card
    assert _workers("auto", replace(spec, device="cuda:1"), fake.shard(0, 1), 18) == 1
    with Workers(fake.FakeRenderer, spec, 3, 1) as workers:
        found: set[str] = set()
        for _ in range(30):  # on a busy machine the processes start seconds apart
            found |= set(workers.map(fake.device_of, [0.2] * 6))
            if len(found) == 3:
                break
    assert found == {"cuda:0", "cuda:1", "cuda:2"}
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    three, _ = finished(tmp_path / "three", spec=spec, workers=3)
    assert fake.contents(three.root) == fake.contents(one.root)


def test_overlapping_workers_draw_the_images_of_one_study(tmp_path):
    whole, _ = finished(tmp_path / "whole")
    job = fake.make_job(tmp_path / "s")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_draw, args=(job,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    fake.paint(job.root, [p.id for p in job.plan])
    run(job)
    assert fake.contents(job.root) == fake.contents(whole.root)


def _draw(job):
    _alone(0.01)
    with pytest.raises(Pause):
        run(job)


def test_two_worker_processes_make_the_same_files(tmp_path):
    whole, _ = finished(tmp_path / "whole")
    two, _ = finished(tmp_path / "two", workers=2)
    assert fake.contents(two.root) == fake.contents(whole.root)


def test_a_denser_capture_adds_cells_and_keeps_the_others(tmp_path):
    job, _ = finished(tmp_path / "s")
    before = Study(job.root).activations()
    kept = {cell: before.read(cell) for cell in before.cells}
    dense = replace(job, timesteps=(4, 3, 2, 1))
    run(dense)
    whole, _ = finished(tmp_path / "whole", timesteps=(4, 3, 2, 1))
    assert fake.contents(job.root) == fake.contents(whole.root)
    after = Study(job.root).activations()
    assert after.cells == dense.cells and all(torch.equal(after.read(cell), rows) for cell, rows in kept.items())


def test_a_changed_label_is_captured_again_with_every_cell_of_before(tmp_path):
    job, _ = finished(tmp_path / "s")
    run(replace(job, timesteps=(4, 3, 1)))
    study = Study(job.root)
    name = study.activations().images[0].id
    record = study.labels.latest()[name, "ann"]
    record.classes[0, 0] = record.classes[1:3].max(where=record.classes[1:3] != 3, initial=0)
    study.labels.append(replace(record, time="2027"))
    assert study.relabelled(read_choice(job.root, job.labels)) == [name]
    run(job)
    cache = study.activations()
    assert (
        study.relabelled(read_choice(job.root, job.labels)) == []
        and cache.cells == grid(job.blocks, (4, 3, 1))
        and cache.missing == {}
    )
    assert 0 in cache.tokens.token[cache.tokens.image == 0]


def test_previews_are_kept_for_captured_timesteps_and_added_later_without_touching_activations(tmp_path):
    job, _ = finished(tmp_path / "s")
    study, before = Study(job.root), fake.contents(tmp_path / "s")
    name = read_choice(job.root, job.labels).ids[0]
    with pytest.raises(ValueError, match=r"is missing: run extract\.py with capture\.previews"):
        study.previews(name)
    run(replace(job, previews=12))
    seed = study.manifest.by_id[name].seed
    assert {t: (shown.shape, set(shown.ravel())) for t, shown in study.previews(name).items()} == {
        t: ((8, 12, 3), {10 * t + seed % 10}) for t in (4, 1)
    }
    after = fake.contents(tmp_path / "s")
    assert before.items() <= after.items() and len(list(job.root.glob("previews/*/*.png"))) == 12
    run(replace(job, previews=12, timesteps=(4, 3, 1)))
    assert list(study.previews(name)) == [4, 3, 1]


class Infinite(fake.FakeRenderer):
    def replay(self, *asked):
        made, seeds = super().replay(*asked), asked[1]
        for seed, replay in zip(seeds, made, strict=True):
            if seed == 3:
                replay.tensors[Cell("single.0", 4)][1, 2] = float("inf")
        return made


def test_an_image_with_activations_that_are_not_finite_is_named_and_the_run_goes_on(tmp_path, caplog):
    job = fake.make_job(tmp_path / "s")
    with pytest.raises(Pause):
        run(job)
    fake.paint(job.root, [p.id for p in job.plan])
    text = run(job, Infinite)
    assert "p3-s3: activations are not finite in single.0/t4" in caplog.text
    ids = {info.id for info in Study(job.root).activations().images}
    choice = read_choice(job.root, job.labels)
    assert choice.refused == ("p3-s3",) and len(Study(job.root).activations(choice=choice).images) == 11
    assert len(ids) == 11 and "p3-s3" not in ids and "11 of 12" in text and "refused      1" in text


class Elsewhere(fake.FakeRenderer):
    """Another machine: seed 3 comes out a little, seed 6 quite differently."""

    def render(self, embeddings, seeds):
        pictures = super().render(embeddings, seeds)
        return [self._changed(p, s) for p, s in zip(pictures, seeds, strict=True)]

    @staticmethod
    def _changed(picture, seed):
        pixels = np.array(picture)
        if seed == 3:
            pixels[0, 0, 0] ^= 1
        if seed == 6:
            pixels = 255 - pixels
        return Image.fromarray(pixels)


def test_a_replay_that_is_another_picture_is_not_written_and_the_difference_is_named(tmp_path, caplog):
    job = fake.make_job(tmp_path / "s")
    with pytest.raises(Pause):
        run(job)
    fake.paint(job.root, [p.id for p in job.plan])
    there = ("fa4e11111111", {**fake.MADE_BY[1], "device": "there"})
    run(job, Elsewhere, there)
    ids = {info.id for info in Study(job.root).activations().images}
    assert len(ids) == 10 and not ids & {"p3-s3", "p6-s6"}
    assert "nothing was written for 2 images" in caplog.text and "device: here then, there now" in caplog.text
    run(replace(job, tolerance=40.0), Elsewhere, there)
    cache = Study(job.root).activations(fake.MADE_BY[0])
    meta = {info.id: m for info, m in zip(cache.images, cache.meta, strict=True)}
    assert len(meta) == 11 and "p6-s6" not in meta
    assert read_choice(job.root, job.labels).refused == ("p6-s6",), "p3-s3 was refused before and is there now"
    assert meta["p3-s3"]["replay_psnr"] > 40 and meta["p3-s3"]["replay_fingerprint"] == there[0]
    assert "replay_psnr" not in meta["p0-s0"]


def test_if_no_image_can_be_replayed_the_run_fails_with_the_reason(tmp_path):
    job = fake.make_job(tmp_path / "s")
    with pytest.raises(Pause):
        run(job)
    fake.paint(job.root, [p.id for p in job.plan])

    class Inverted(Elsewhere):
        @staticmethod
        def _changed(picture, seed):
            return Image.fromarray(255 - np.array(picture))

    with pytest.raises(ValueError, match=r"none of 12 images could be captured.*not deterministic"):
        run(job, Inverted)


def test_psnr():
    a = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(a, a) == float("inf") and psnr_db(a, a[:2]) == 0
    assert psnr_db(a, a + np.uint8(1)) == pytest.approx(48.1308, abs=1e-3)


def test_damage_is_found_before_work_begins(tmp_path):
    job, _ = finished(tmp_path / "s")
    study = Study(job.root)
    pixels = np.array(study.image("p2-s2"))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(study.image_path("p2-s2"))
    path = next(iter(study.activations_folder(fake.MADE_BY[0]).glob("*.safetensors")))
    path.write_bytes(path.read_bytes()[:-3])
    study.labels.append(LabelRecord("ghost", "ann", "", 0.0, np.zeros((4, 6), np.uint8)))
    study.labels.append(LabelRecord("p5-s5", "ann", "", 0.0, np.zeros((6, 4), np.uint8)))
    with pytest.raises(ValueError) as error:
        run(job)
    for what in ("image p2-s2: the pixels", f"{path.name} is damaged", "'ghost'", "'p5-s5' is on a grid of 6 x 4"):
        assert what in str(error.value)


def test_a_picture_that_was_removed_is_drawn_again(tmp_path):
    job, _ = finished(tmp_path / "s")
    before = fake.contents(job.root)
    Study(job.root).image_path("p2-s2").unlink()
    run(job)
    assert fake.contents(job.root) == before


def test_other_prompts_sizes_or_settings_in_one_study_are_refused(tmp_path):
    job, _ = finished(tmp_path / "s")
    changed = (Prompt("p0", "another text"), *job.prompts[1:])
    with pytest.raises(ValueError, match="two prompts have the id 'p0'"):
        run(replace(job, prompts=changed))
    with pytest.raises(ValueError, match="16 x 24 px, the model now makes 32 x 24"):
        run(replace(job, spec=replace(job.spec, height=32)))
    with pytest.raises(ValueError, match=r"made otherwise .steps: 4 then, 8 now"):
        run(job, made_by=("x", {**fake.MADE_BY[1], "steps": 8}))


def test_more_images_extend_a_study(tmp_path):
    job, _ = finished(tmp_path / "s", images=12)
    more = fake.make_job(tmp_path / "s", images=18)
    run(more)  # labels of the first twelve are enough to go on
    assert len(Study(job.root).manifest.entries) == 18
    whole, _ = finished(tmp_path / "whole", images=18)
    assert fake.contents(job.root)["manifest.jsonl"] == fake.contents(whole.root)["manifest.jsonl"]


def test_growing_a_study_in_steps_gives_the_run_the_same_data_as_growing_it_at_once(tmp_path):
    job, _ = finished(tmp_path / "s", images=12)
    small = read_choice(job.root, job.labels)
    more = fake.make_job(tmp_path / "s", images=18)
    run(more)
    fake.paint(job.root, [planned.id for planned in more.plan[12:]])
    run(more)
    whole, _ = finished(tmp_path / "whole", images=18)
    grown = read_choice(job.root, job.labels)
    assert grown == read_choice(whole.root, whole.labels) and grown != small
    caches = [Study(root).activations(choice=grown) for root in (job.root, whole.root)]
    assert [c.images for c in caches[:1]] == [c.images for c in caches[1:]] and len(caches[0].images) == 12
    assert all(torch.equal(caches[0].read(cell), caches[1].read(cell)) for cell in job.cells)
    files = {path.stem for path in job.root.glob("activations/*/*.safetensors")}
    assert files >= set(grown.ids)


def test_images_that_were_captured_but_not_chosen_are_not_read(tmp_path):
    job, _ = finished(tmp_path / "s")
    run(replace(job, labels=replace(job.labels, balanced=False)))  # captures all 18
    study = Study(job.root)
    assert len(study.activations().images) == 18
    choice = read_choice(job.root, job.labels)
    assert {info.id for info in study.activations(choice=choice).images} == set(choice.ids) and len(choice.ids) == 12
    assert (choice.labelled, choice.bad) == (18, 6) and choice.bad_rate == 1 / 3
    study.activation_path(fake.MADE_BY[0], choice.ids[0]).unlink()
    with pytest.raises(ValueError, match="lacks the activations of p"):
        study.activations(choice=choice)


def test_a_choice_by_another_rule_is_refused_and_both_rules_are_named(tmp_path):
    job, _ = finished(tmp_path / "s")
    with pytest.raises(
        ValueError, match=r"no record of a choice by .*match=\[style\].*match=\[\].* or run `extract x`"
    ):
        read_choice(job.root, replace(job.labels, match=("style",)), "extract x")
    choice_path(job.root, job.labels).write_text("{")
    with pytest.raises(ValueError, match="remove it and run"):
        read_choice(job.root, job.labels)


def test_painted_labels_are_people_s_and_disagreements_are_told(tmp_path):
    job = fake.make_job(tmp_path / "s")
    with pytest.raises(Pause):
        run(job)
    ids = [p.id for p in job.plan]
    fake.paint(job.root, ids, annotator="judge")
    with pytest.raises(Pause, match="18 of 18 images have no label yet"):
        run(job)
    fake.paint(job.root, ids)
    other = Study(job.root).labels.latest()["p3-s3", "ann"]
    classes = np.where(other.classes == BAD, GOOD, other.classes)
    Study(job.root).labels.append(replace(other, annotator="ben", time="2027", classes=classes))
    assert "conflicts    1 images" in run(job)
    choice = read_choice(job.root, job.labels)
    assert choice.conflicts == ("p3-s3",) and (choice.labelled, choice.bad) == (18, 5)


def test_one_annotator_can_be_chosen_and_else_the_newest_label_counts(tmp_path):
    job = fake.make_job(tmp_path / "s")
    with pytest.raises(Pause):
        run(job)
    ids = [p.id for p in job.plan]
    fake.paint(job.root, ids)
    fake.paint(job.root, [*ids[1:], ids[0]], annotator="ben")
    run(replace(job, labels=LabelChoice("painted", "ben")))
    assert {m["annotator"] for m in Study(job.root).activations().meta} == {"ben"}


def test_not_enough_disk_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(bill.shutil, "disk_usage", lambda path: SimpleNamespace(free=1500))
    job = fake.make_job(tmp_path / "s")
    with pytest.raises(ValueError, match=r"not enough disk: .* are to be written, .* has 1.5 kB free"):
        run(job)
    assert not list((job.root / "images").iterdir())
