"""Benchmarks are no tests, but they must follow the code: a name that moved cost a run on a lent GPU."""

import importlib
import sys

import pytest

from badhands.home import ROOT

FOLDER = ROOT / "tests" / "benchmarks"
WITHOUT = {"labeling": "playwright"}
"""What some of them need that not everybody has installed."""


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_every_benchmark_can_be_imported(name, monkeypatch):
    if name in WITHOUT:
        pytest.importorskip(WITHOUT[name])
    monkeypatch.setattr(sys, "path", [str(FOLDER), str(FOLDER.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [name])
    before = set(sys.modules)
    try:
        importlib.import_module(name)
    finally:
        for module in set(sys.modules) - before:
            if getattr(sys.modules[module], "__file__", None) and str(FOLDER) in str(sys.modules[module].__file__):
                del sys.modules[module]


def test_the_whole_train_is_timed_on_a_study_made_without_a_model(tmp_path, monkeypatch, capsys):
    """The study of the benchmark is one that train.py reads: 20 images, 2 cells, both classes, stages told."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    from full_study import Size, write_study

    from badhands.study.choice import LabelChoice, read_choice
    from badhands.study.selection import Selection, design_of, select
    from badhands.study.study import Study

    size = Size(images=20, hand=6, other=3, width=16, blocks=("single.1",), timesteps=(20, 3), side=16, previews=32)
    write_study(tmp_path / "made", size)
    study = Study(tmp_path / "made")
    choice = read_choice(study.root, LabelChoice("judge", "judge"))
    cache = select(study.activations(None, choice), Selection(size.blocks, size.timesteps))
    assert not study.check() and not study.relabelled(choice)
    assert len(cache.cells) == 6 and len(cache.tokens) == 20 * 9 and design_of(cache).good.sum() == 10
    assert len(study.previews(cache.images[0].id)) == 2
    again = write_study(tmp_path / "made", size)
    assert again == pytest.approx(write_study(tmp_path / "made", size))
