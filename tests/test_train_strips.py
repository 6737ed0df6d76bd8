"""The watched pictures of a run are fresh, and show good and bad hands as far as there are any."""

import pandas as pd
import pytest
from PIL import Image

from badhands.diffusion.spec import ModelSpec
from badhands.study.manifest import ImageEntry
from badhands.watch.fresh_strips import draw_strips, fresh_pairs, shown_blocks
from tiny_pipeline import save_tiny
from watch_probes import make_probes

STEPS = 4


def entries(count: int, prompts: int = 3) -> list[ImageEntry]:
    return [ImageEntry(f"i{k}", f"hand {k % prompts}", 10 + k, "f" * 12, "", 64, 64, (16, 16)) for k in range(count)]


def test_pairs_are_new_and_spread_over_the_prompts():
    known = {(entry.prompt, entry.seed) for entry in entries(9)}
    pairs = fresh_pairs(entries(9), 6)
    assert len(set(pairs)) == 6 and not known & set(pairs) and min(seed for _, seed in pairs) == 19
    assert {prompt for prompt, _ in pairs} == {"hand 0", "hand 1", "hand 2"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six pictures at most, of which a referee calls every third good."""
    folder = tmp_path_factory.mktemp("strips")
    (folder / "tables").mkdir()
    save_tiny(folder / "model")
    spec = ModelSpec("tiny", str(folder / "model"), 64, 64, STEPS, 3.5, dtype="float32", max_sequence_length=16,
                     device="cpu", batch_size=2)  # fmt: skip
    calls: list[Image.Image] = []

    def referee(image: Image.Image) -> str:
        calls.append(image)
        return "good" if len(calls) % 3 == 0 else "bad"

    probes = make_probes(steps=STEPS)
    written = draw_strips(probes, spec, entries(9), folder, 2, referee)
    return folder, written, calls, probes


def test_good_and_bad_are_shown_and_drawing_stops_when_both_are(drawn):
    _, written, calls, _ = drawn
    assert sorted(path.stem.split("_")[-1] for path in written) == ["bad", "good"]
    assert len(calls) == 4  # two batches of two: the third picture was the first good one


def test_each_strip_is_a_picture_with_its_scores_in_the_table(drawn):
    folder, written, _, probes = drawn
    table = pd.read_csv(folder / "tables" / "strips.csv")
    assert set(table["verdict"]) == {"good", "bad"} and table["seed"].min() >= 19
    assert set(table["block"]) == set(shown_blocks(probes))
    assert all(Image.open(path).width > 400 for path in written)
