"""Streaming sums equal sums over everything at once, whatever the portions, threads and dtypes."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from badhands.cells import Cell
from badhands.measures.contrasts import Contrast, make_contrast
from badhands.measures.moments import Groups, GroupSums, Moments, membership, stream_moments
from badhands.study.activations import ActivationCache
from synthetic_cache import write_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moments")
    write_cache(folder, images=12, prompts=6, d=20, mixed=0.5, seed=3)
    return ActivationCache(folder)


def groups_of(cache) -> Groups:
    tokens = cache.tokens
    return Groups.of(tokens.image, tokens.label, tokens.kind, (1, 2, 3))


def stream(cache, path, **more) -> Moments:
    return stream_moments(reader(cache), cache.tokens.image, groups_of(cache), forms(cache), path, **more)


def reader(cache):
    return lambda image, cell, out: cache.files[image].read_into(str(cell), out)


def forms(cache):
    return {cell: (cache.width(cell), cache.dtype) for cell in cache.cells}


@pytest.mark.parametrize("budget", [1, 2**30])
def test_streaming_equals_batch(cache, tmp_path, budget):
    found = stream(cache, tmp_path / "moments.npz", budget=budget, threads=2)
    assert found.cells == cache.cells
    for cell in cache.cells:
        x = cache.read(cell).double().numpy()
        total, squares = found.sums(cell)
        for g in range(len(found.groups)):
            mine = x[found.groups.of_token == g]
            assert len(mine) == found.groups.n[g] > 0
            np.testing.assert_allclose(total[g], mine.sum(0), rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(squares[g], (mine**2).sum(0), rtol=1e-5)


def test_reading_a_saved_file_gives_the_same(cache, tmp_path):
    first = stream(cache, tmp_path / "moments.npz")
    again = Moments.load(tmp_path / "moments.npz")
    assert again.cells == first.cells
    np.testing.assert_array_equal(again.sums(cache.cells[3])[1], first.sums(cache.cells[3])[1])
    assert not list(tmp_path.glob("*.partial"))


def test_every_tensor_is_read_once(cache, tmp_path):
    seen: list[tuple[int, Cell]] = []

    def read(image, cell, out):
        seen.append((image, cell))
        reader(cache)(image, cell, out)

    stream_moments(read, cache.tokens.image, groups_of(cache), forms(cache), tmp_path / "m.npz", budget=20_000)
    assert len(seen) == len(set(seen)) == len(cache.images) * len(cache.cells)


def test_long_images_are_added_up_in_float64():
    """700 tokens of a massive channel: one float32 sum would be off by whole units."""
    x = torch.full((700, 2), 4096.0) + torch.linspace(-1, 1, 700)[:, None]
    group = torch.arange(700) % 2
    group[5] = -1
    out = torch.empty(2, 2, 2, dtype=torch.float64)
    GroupSums()(x, membership(group, 2), out)
    total, squares = out
    for g in range(2):
        mine = x[group == g].double()
        np.testing.assert_allclose(total[g], mine.sum(0), rtol=1e-12)
        np.testing.assert_allclose(squares[g], mine.square().sum(0), rtol=1e-12)


def test_unlabelled_tokens_belong_to_no_group():
    image, label = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 3, 0], np.uint8)
    groups = Groups.of(image, label, np.array([0, 0, 2, 0, 0], np.uint8), (1, 2, 3))
    assert groups.of_token.tolist() == [-1, 0, 1, 2, -1]
    assert groups.n.tolist() == [1, 1, 1]
    assert groups.kind.tolist() == [0, 2, 0]


def test_contrasts_pick_the_right_tokens():
    """Image 0 good, 1 bad and local, 2 bad of both kinds and mixed, 3 bad of unknown kind, 4 without a hand."""
    rows = [(0, 1, 0), (0, 3, 0), (1, 2, 1), (1, 3, 0), (2, 1, 0), (2, 2, 1), (2, 2, 2), (3, 2, 0), (4, 3, 0)]
    image, label, kind = (np.array(column) for column in zip(*rows, strict=True))
    groups = Groups.of(image, label, kind, (1, 2, 3))

    def picked(name: str) -> tuple[list, list, Contrast]:
        one = make_contrast(groups, name, 5)
        ends = [*one.starts[1:], len(one.group)]
        sides = {True: [], False: []}
        for begin, end, good in zip(one.starts, ends, one.good, strict=True):
            sides[bool(good)] += [rows[g] for g in one.group[begin:end]]
        return sorted(sides[True]), sorted(sides[False]), one

    good, bad, one = picked("good_vs_bad")
    assert good == [(0, 1, 0), (2, 1, 0)] and bad == [(1, 2, 1), (2, 2, 1), (2, 2, 2), (3, 2, 0)]
    assert one.counts == (1, 3) and len(one.good) == 5
    good, bad, _ = picked("good_vs_local")
    assert good == [(0, 1, 0), (2, 1, 0)] and bad == [(1, 2, 1), (2, 2, 1)]
    good, bad, one = picked("good_vs_global")
    assert good == [(0, 1, 0), (2, 1, 0)] and bad == [(2, 2, 2)]
    good, bad, _ = picked("not_hand")
    assert good == [(0, 3, 0)] and bad == [(1, 3, 0)]
    tokens = one.rows_of_tokens(groups.of_token)
    assert [bool(r >= 0) for r in tokens] == [r in ((0, 1, 0), (2, 1, 0), (2, 2, 2)) for r in rows]


def test_image_weighting_counts_each_image_once():
    image, label = np.array([0, 0, 0, 1, 2, 2]), np.array([1, 1, 1, 1, 2, 2])
    groups = Groups.of(image, label, np.zeros(6, int), (1, 2))
    one = make_contrast(groups, "good_vs_bad", 3, "image")
    x = np.array([[3.0], [3.0], [3.0], [9.0], [1.0], [5.0]])
    sums = np.array([[9.0], [9.0], [6.0]])
    np.testing.assert_allclose(one.take(sums)[:, 0], [x[:3].mean(), 9.0, 3.0])
    assert one.n.tolist() == [1, 1, 1] and one.tokens.tolist() == [3, 1, 2]


def test_threads_take_turns_at_the_file():
    """Two at once broke it on Python 3.12, seen on a machine of 32 cores."""

    class File(dict):
        inside = 0

        def __missing__(self, name):
            File.inside += 1
            assert File.inside == 1, "a second thread came in"
            time.sleep(0.002)
            File.inside -= 1
            return np.ones((2, 3), np.float32)

    cells = [Cell("single.0", t) for t in range(1, 21)]
    moments = Moments(Groups.of(*np.zeros((3, 1), np.int64), (0,)), tuple(cells), File())
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(moments.sums, cells))) == 20
