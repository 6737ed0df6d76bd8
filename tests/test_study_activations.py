import threading

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from badhands.cells import Cell, grid
from badhands.study.activations import ActivationCache, ImageInfo, write_image
from badhands.study.classes import BAD, GOOD, NOT_HAND

CELLS = grid(["double.1", "single.2"], [20, 3])
META = {"prompt": "a hand", "seed": 3, "grid": [4, 6], "steps": {20: (0, 1.0), 3: (17, 0.123456789)}}
TOKENS = np.array([2, 5, 9, 23], np.int32)
CLASSES = np.array([GOOD, BAD, NOT_HAND, BAD], np.uint8)
KINDS = np.array([0, 1, 0, 2], np.uint8)


def tensors(seed: int, cells=CELLS, n=4, d=8) -> dict[Cell, torch.Tensor]:
    made = {}
    for cell in cells:
        generator = torch.Generator().manual_seed(seed * 1000 + hash(str(cell.sort_key)) % 997)
        made[cell] = torch.randn(n, d, generator=generator).to(torch.bfloat16)
    return made


def write(folder, image_id, seed, cells=CELLS, **changes):
    return write_image(folder, image_id, tensors(seed, cells), TOKENS, CLASSES, KINDS, {**META, **changes})


def test_what_is_written_reads_back_bit_for_bit(tmp_path):
    for i, name in enumerate(["a", "b", "c"]):
        write(tmp_path, name, i)
    cache = ActivationCache(tmp_path)
    assert [info.id for info in cache.images] == ["a", "b", "c"] and cache.images[0].grid == (4, 6)
    assert cache.cells == CELLS and cache.missing == {} and cache.dtype == torch.bfloat16
    assert cache.steps == {20: (0, 1.0), 3: (17, 0.123456789)}
    assert cache.tokens.token.tolist() == TOKENS.tolist() * 3
    assert cache.tokens.image.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert cache.tokens.label.tolist() == CLASSES.tolist() * 3 and cache.tokens.kind.tolist() == KINDS.tolist() * 3
    for cell in CELLS:
        expected = torch.cat([tensors(i)[cell] for i in range(3)])
        assert torch.equal(cache.read(cell), expected) and cache.width(cell) == 8
        rows = np.array([11, 0, 5, 4, 0])
        assert torch.equal(cache.read(cell, rows), expected[rows])
        mask = cache.tokens.label == BAD
        assert torch.equal(cache.read(cell, mask), expected[torch.from_numpy(mask)])
        assert torch.equal(cache.read_image(1)[cell], tensors(1)[cell])
        assert torch.equal(cache.read_image(2, [cell])[cell], tensors(2)[cell])


def test_images_can_be_chosen_and_ordered(tmp_path):
    for i, name in enumerate(["a", "b", "c"]):
        write(tmp_path, name, i)
    cache = ActivationCache(tmp_path, [ImageInfo("c", "p", 0, (4, 6)), ImageInfo("a", "p", 0, (4, 6))])
    assert torch.equal(cache.read(CELLS[0]), torch.cat([tensors(2)[CELLS[0]], tensors(0)[CELLS[0]]]))
    with pytest.raises(ValueError, match="lacks the activations of nobody"):
        ActivationCache(tmp_path, [ImageInfo("nobody", "p", 0, (4, 6))])


def test_equal_content_gives_equal_bytes_whatever_the_order_of_the_captures(tmp_path):
    once = write(tmp_path / "once", "a", 1, grid(["double.1", "single.2"], [20, 3])).read_bytes()
    write(tmp_path / "late", "a", 1, [CELLS[3], CELLS[1]])
    twice = write(tmp_path / "late", "a", 1, [CELLS[2], CELLS[0], CELLS[1]]).read_bytes()
    assert once == twice
    assert [path.name for path in (tmp_path / "late").iterdir()] == ["a.safetensors"]


def test_cells_that_some_images_lack_are_named(tmp_path):
    write(tmp_path, "a", 1)
    write(tmp_path, "b", 2, CELLS[:3])
    cache = ActivationCache(tmp_path)
    assert cache.cells == CELLS[:3] and cache.missing == {CELLS[3]: ("b",)}
    with pytest.raises(ValueError, match=r"single\.2/t3 cannot be read, 1 of 2 images lack it"):
        cache.read(CELLS[3])


def test_other_tokens_or_labels_are_not_mixed_into_a_file(tmp_path):
    path = write(tmp_path, "a", 1, CELLS[:2])
    before = path.read_bytes()
    for tokens, classes in (([2, 5, 9, 22], CLASSES), (TOKENS, [GOOD, GOOD, NOT_HAND, BAD])):
        with pytest.raises(ValueError, match="other tokens or labels"):
            write_image(tmp_path, "a", tensors(1), np.array(tokens, np.int32), np.array(classes, np.uint8), KINDS, META)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_and_nothing_is_written(tmp_path, value):
    bad = tensors(1)
    bad[CELLS[2]][1, 3] = value
    with pytest.raises(ValueError, match=r"image a: activations of single\.2/t20 are not finite"):
        write_image(tmp_path, "a", bad, TOKENS, CLASSES, KINDS, META)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = write(tmp_path, "broken", 1)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"broken\.safetensors is damaged"):
        ActivationCache(tmp_path)


def test_steps_that_disagree_are_refused(tmp_path):
    write(tmp_path, "a", 1)
    write(tmp_path, "b", 1, steps={20: (0, 1.0), 3: (17, 0.5)})
    with pytest.raises(ValueError, match="timestep 3"):
        ActivationCache(tmp_path)


def test_writers_at_the_same_time_lose_no_cells(tmp_path):
    threads = [threading.Thread(target=write, args=(tmp_path, "a", 1, [cell])) for cell in CELLS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ActivationCache(tmp_path).cells == CELLS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_file_is_byte_for_byte_what_safetensors_writes(tmp_path, dtype):
    cells = [Cell("single.0", 3), Cell("x0", 20), Cell("double.1", 12)]
    tensors = {cell: torch.randn(5, 7)[:, :4].to(dtype) for cell in cells}  # not contiguous
    path = write_image(
        tmp_path, "a", tensors, np.arange(5, dtype=np.int32), np.ones(5, np.uint8), np.zeros(5, np.uint8),
        {"prompt": "Hände", "seed": 0, "grid": [8, 8], "steps": {t: (20 - t, t / 20) for t in (3, 12, 20)}},
    )  # fmt: skip
    with safe_open(path, "pt") as file:
        meta, names = file.metadata(), file.keys()
        content = {name: file.get_tensor(name) for name in names}
    assert all(torch.equal(content[str(cell)], tensor) for cell, tensor in tensors.items())
    assert path.read_bytes() == save(content, meta)
