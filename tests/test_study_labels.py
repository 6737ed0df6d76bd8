import itertools
import json
import multiprocessing
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from badhands.study import journal
from badhands.study.choice import LabelChoice
from badhands.study.classes import BAD, GLOBAL, GOOD, LOCAL, NOT_HAND, UNLABELLED
from badhands.study.label_log import LabelLog
from badhands.study.labels import LabelRecord, choose_balanced, decode_runs, encode_runs, token_rows


def record(image_id="a", annotator="ann", classes=None, time="2026-01-01T00:00:00Z", **fields) -> LabelRecord:
    grid = np.full((4, 6), NOT_HAND, np.uint8) if classes is None else classes
    return LabelRecord(image_id, annotator, time, 3.5, grid, **fields)


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3)))
def test_run_lengths_read_back(grid):
    runs = encode_runs(grid)
    assert np.array_equal(decode_runs(json.loads(json.dumps(runs)), grid.shape), grid)
    assert all(a[0] != b[0] for a, b in itertools.pairwise(runs))


@pytest.mark.parametrize(
    "runs",
    [[[1, 23]], [[1, 25]], [[4, 24]], [[-1, 24]], [[1, 24, 0]], [[1, 0], [2, 24]], [[1.5, 24]], [[True, 24]], []],
)
def test_runs_that_do_not_fit_the_grid_are_refused(runs):
    with pytest.raises(ValueError):
        decode_runs(runs, (4, 6))


def test_a_record_reads_back():
    classes = np.full((4, 6), NOT_HAND, np.uint8)
    classes[1:3, 2:4] = BAD
    classes[0, 0] = UNLABELLED
    kinds = np.zeros((4, 6), np.uint8)
    kinds[1, 2:4] = LOCAL
    kinds[2, 2:4] = GLOBAL
    first = record(classes=classes, kinds=kinds, verdict="bad", note="naïve", accepted_proposal=True, confidence=0.5)
    again = LabelRecord.from_json(json.loads(json.dumps(first.to_json())))
    assert again.to_json() == first.to_json() and again.digest == first.digest
    assert np.array_equal(again.classes, classes) and np.array_equal(again.kinds, kinds)


def test_painted_tokens_decide_over_the_verdict():
    classes = np.full((4, 6), NOT_HAND, np.uint8)
    assert record(classes=classes, verdict="no_hand").hand_verdict == "no_hand"
    classes[0, 0] = GOOD
    assert record(classes=classes, verdict="bad").hand_verdict == "good"
    classes[0, 1] = BAD
    assert record(classes=classes, verdict="good").hand_verdict == "bad"


def test_records_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="kind of error"):
        record(kinds=np.full((4, 6), LOCAL, np.uint8))
    with pytest.raises(ValueError, match="same grid"):
        record(kinds=np.zeros((6, 4), np.uint8))
    with pytest.raises(ValueError, match="verdict"):
        record(verdict="ugly")
    with pytest.raises(ValueError, match="'grid' is missing"):
        LabelRecord.from_json({"image_id": "a", "annotator": "b", "classes": []})


def test_the_last_record_of_an_image_and_annotator_counts(tmp_path):
    log = LabelLog(tmp_path / "labels.jsonl")
    assert log.latest() == {} and log.revision("a", "ann") == 0
    log.append(record(note="first"))
    log.append(record(annotator="ben", note="other"))
    LabelLog(tmp_path / "labels.jsonl").append(record(note="second"))
    assert {key: r.note for key, r in log.latest().items()} == {("a", "ann"): "second", ("a", "ben"): "other"}
    assert log.revision("a", "ann") == 2
    assert not log.append_if_first(record(note="third")) and log.append_if_first(record("b"))
    assert [r.note for r in log.records()] == ["first", "other", "second", ""]


def test_a_torn_last_line_is_ignored_then_cut_off(tmp_path):
    path = tmp_path / "labels.jsonl"
    log = LabelLog(path)
    log.append(record("a"))
    whole = path.read_bytes()
    log.append(record("b"))
    line = path.read_bytes()[len(whole) :]
    for cut in range(1, len(line) - 1):
        path.write_bytes(whole + line[:cut])
        assert list(LabelLog(path).latest()) == [("a", "ann")]
    LabelLog(path).append(record("c"))
    assert list(LabelLog(path).latest()) == [("a", "ann"), ("c", "ann")]
    assert path.read_bytes().count(b"\n") == 2


def test_a_last_line_without_its_newline_counts_and_is_kept(tmp_path):
    path = tmp_path / "labels.jsonl"
    log = LabelLog(path)
    for name in ("a", "b"):
        log.append(record(name))
    path.write_bytes(path.read_bytes()[:-1])  # as an editor may leave it
    assert {name for name, _ in log.latest()} == {name for name, _ in LabelLog(path).latest()} == {"a", "b"}
    assert not log.append_if_first(record("b")) and log.revision("b", "ann") == 1
    reader = LabelLog(path)
    assert len(reader.latest()) == 2
    log.append(record("c"))
    assert [r.image_id for r in reader.records()] == ["a", "b", "c"] and len(reader.latest()) == 3
    assert path.read_bytes().endswith(b"}\n") and b"\n\n" not in path.read_bytes()
    path.write_bytes(path.read_bytes()[:-1])
    assert reader.revision("c", "ann") == 1
    with path.open("ab") as file:
        file.write(b"\n" + json.dumps(record("d").to_json()).encode() + b"\n")
    assert [name for name, _ in reader.latest()] == ["a", "b", "c", "d"]


def test_the_later_line_is_the_newer_label_whatever_the_clocks_say(tmp_path):
    log = LabelLog(tmp_path / "labels.jsonl")
    log.append(record(annotator="ann", time="2026-02-02T00:00:00+00:00"))
    log.append(record(annotator="ben", time="2026-01-01T00:00:00+00:00"))
    newest = LabelChoice("painted", None).counting(list(log.latest().values()))
    assert newest is not None and newest.annotator == "ben"
    log.append(record(annotator="ann", time="2025-01-01T00:00:00+00:00"))
    assert [name for _, name in log.latest()] == ["ben", "ann"]


def test_a_pipe_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "labels.jsonl")
    with pytest.raises(ValueError, match="not a file"):
        LabelLog(tmp_path / "labels.jsonl").latest()
    with pytest.raises(ValueError, match="not a file"):
        LabelLog(tmp_path / "labels.jsonl").append(record())


def test_a_damaged_line_inside_is_named(tmp_path):
    path = tmp_path / "labels.jsonl"
    LabelLog(path).append(record("a"))
    path.write_bytes(path.read_bytes() + b"{oops\n")
    with pytest.raises(ValueError, match="line 2"):
        LabelLog(path).latest()


def _append_many(path, annotator):
    log = LabelLog(path)
    for i in range(25):
        log.append(record(f"i{i}", annotator))


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    path = tmp_path / "labels.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(path, f"w{k}")) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(LabelLog(path).latest()) == 100


def test_machine_labels_are_sorted_and_peoples_are_left_alone(tmp_path):
    log = LabelLog(tmp_path / "judge.jsonl")
    for name in ("b", "a"):
        log.append(LabelRecord(name, "judge", "", 0.0, np.full((2, 2), NOT_HAND, np.uint8)))
    log.sort_machine_labels({"a": 0, "b": 1})
    assert [r.image_id for r in log.records()] == ["a", "b"]
    log.append(record("0"))
    before = log.path.read_bytes()
    log.sort_machine_labels({"b": 0, "a": 1, "0": 2})
    assert log.path.read_bytes() == before


def test_the_balanced_choice_takes_all_bad_and_as_many_good():
    verdicts = {f"i{i}": "bad" if i % 5 == 0 else "good" if i % 5 < 4 else None for i in range(100)}
    chosen = choose_balanced(verdicts, seed=0)
    assert {i for i in chosen if verdicts[i] == "bad"} == {i for i, v in verdicts.items() if v == "bad"}
    assert sum(verdicts[i] == "good" for i in chosen) == 20 and len(chosen) == 40
    assert chosen == [i for i in verdicts if i in chosen] == choose_balanced(verdicts, seed=0)
    assert choose_balanced(verdicts, seed=1) != chosen
    assert choose_balanced({"a": "good", "b": "no_hand"}, 0) == []


def test_a_stratified_choice_is_balanced_inside_every_group():
    verdicts = {f"i{k}": "bad" if k % 4 else "good" for k in range(40)}
    strata = {image_id: "up" if k < 24 or k % 4 == 0 else "level" for k, image_id in enumerate(verdicts)}
    chosen = choose_balanced(verdicts, 0, strata)
    assert {strata[i] for i in chosen} == {"up"}, "a group of bad images alone gives none"
    assert sum(verdicts[i] == "good" for i in chosen) == sum(verdicts[i] == "bad" for i in chosen) == 10
    assert choose_balanced(verdicts, 0, dict.fromkeys(verdicts, "one")) == choose_balanced(verdicts, 0)


def test_token_rows_are_all_hand_tokens_and_a_seeded_sample_of_the_rest():
    classes = np.full((8, 8), NOT_HAND, np.uint8)
    classes[2:4, 2:4], classes[5, 5], classes[0] = BAD, GOOD, UNLABELLED
    r = record(classes=classes)
    rows = token_rows(r, 10, seed=0, image_id="a")
    flat = classes.ravel()
    assert rows.dtype == np.int32 and np.all(np.diff(rows) > 0)
    assert set(np.flatnonzero((flat == BAD) | (flat == GOOD))) <= set(rows.tolist())
    assert (flat[rows] == NOT_HAND).sum() == 10 and (flat[rows] == UNLABELLED).sum() == 0
    assert np.array_equal(rows, token_rows(r, 10, 0, "a"))
    assert not np.array_equal(rows, token_rows(r, 10, 1, "a")) and not np.array_equal(rows, token_rows(r, 10, 0, "b"))
    assert len(token_rows(r, 10_000, 0, "a")) == 5 + (flat == NOT_HAND).sum()


def test_a_long_torn_line_leaves_nothing_behind_a_short_one(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_bytes(b'{"image_id":"' + b"x" * 5000)
    LabelLog(path).append(record("a"))
    LabelLog(path).append(record("b"))
    assert list(LabelLog(path).latest()) == [("a", "ann"), ("b", "ann")]
    assert b"xx" not in path.read_bytes()


def test_a_file_is_never_seen_half_written(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    journal.write_whole(path, b"old")

    def die(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(journal.os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        journal.write_whole(path, b"new and longer")
    with pytest.raises(KeyboardInterrupt):
        journal.write_whole(tmp_path / "b.bin", b"new")
    assert path.read_bytes() == b"old" and not (tmp_path / "b.bin").exists()
    journal.remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
