"""The page for the curious: what it draws, stops and keeps, and the page itself in a browser."""

import importlib
import itertools
import sys
import threading
import time

import numpy as np
import pytest

from badhands import watch
from badhands.diffusion.scene import Pair, Scene
from badhands.home import ROOT
from badhands.tiny_hands.attributes import random_captions
from label_site import chromium
from watch_probes import make_probes

CAPTION = random_captions(1, seed=1)[0][0]
TIMESTEPS = (20, 17, 12, 3)


@pytest.fixture(scope="module")
def space():
    sys.path.insert(0, str(ROOT / "integrations" / "space"))
    try:
        yield importlib.import_module("studio"), importlib.import_module("app")
    finally:
        sys.path.remove(str(ROOT / "integrations" / "space"))
        for name in ("studio", "app"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def studio(space):
    """The embedded model with random probes of its schedule, whose image scores differ between seeds."""
    spec = space[0].model_spec("tiny_hands")
    scheduler = Scene(spec).pipe.scheduler
    scheduler.set_timesteps(sigmas=[1 - k / 20 for k in range(20)], mu=0.5)
    return space[0].Studio(make_probes(20, timesteps=TIMESTEPS, sigmas=scheduler.sigmas.tolist(), hand_bias=3.0))


def drawn(studio, pairs):
    """Scores by member at the cell of the choice, and pictures, drawn apart from the page's own code."""
    scene = Scene(studio.scene.spec, [pair.prompt for pair in pairs])
    plain = scene.pictures(scene.latents(pairs))
    with watch(scene.pipe, studio.probes) as seen:
        scene.latents(pairs)
    (frame,) = [frame for frame in seen.frames if studio.cell in frame.cells]
    return frame.score[studio.cell.block], plain


def test_a_picture_is_the_one_drawn_without_probes_and_every_watched_step_is_a_view(studio):
    views = list(studio.draw(CAPTION, 3, threading.Event()))
    assert [view.told for view in views[:-1]] == [f"step {21 - t} of 20" for t in TIMESTEPS]
    assert "seed 3: finished" in views[-1].told and "the judge" in views[-1].told
    assert views[0].strip.width < views[1].strip.width < views[2].strip.width
    heat = [np.array(view.heatmap) for view in views]
    assert all((a != b).any() for a, b in itertools.pairwise(heat[:4]))
    _, (plain,) = drawn(studio, [Pair(CAPTION, 3)])
    final = views[-1].strip.crop((86 + 4 * 154, 64, 86 + 4 * 154 + 148, 64 + 148))
    assert (np.array(final) == np.array(plain.resize((148, 148), 1))).all()


def test_stop_ends_the_drawing_at_the_next_watched_step_and_the_next_one_draws_to_its_end(studio):
    stop = threading.Event()
    views = []
    for view in studio.draw(CAPTION, 3, stop):
        views.append(view)
        stop.set()
    assert views[-1].told == "seed 3: stopped by you after 4 of 20 steps"
    left = studio.draw(CAPTION, 3, threading.Event())
    next(left)
    left.close()  # a visitor who closes the page
    assert "finished" in list(studio.draw(CAPTION, 4, threading.Event()))[-1].told


def test_the_automatic_stop_goes_on_to_the_first_seed_whose_score_is_high_enough(studio):
    abort = studio.abort()
    ((cell, threshold),) = abort.thresholds.items()
    scores = []
    for seed in range(10):
        scene = Scene(studio.scene.spec, [CAPTION])
        with watch(scene.pipe, studio.probes) as seen:
            scene.latents([Pair(CAPTION, seed)])
        scores.append(next(float(f.score[cell.block][0]) for f in seen.frames if cell in f.cells))
        if not scores[-1] < threshold:
            break
    told = list(studio.draw(CAPTION, 0, threading.Event(), automatic=True))[-1].told.split("\n\n")
    assert len(told) == len(scores)
    assert all("stopped by its score after 4 of 20" in line for line in told[:-1])
    assert ("finished" in told[-1]) == (not scores[-1] < threshold)


def test_the_best_of_four_is_the_one_with_the_highest_score(studio):
    scores, plain = drawn(studio, [Pair(CAPTION, seed) for seed in range(4)])
    last = list(studio.best_of(CAPTION, 0, threading.Event()))[-1]
    kept = int(np.argmax(scores))
    assert np.ptp(scores) > 0 and f"kept seed {kept}:" in last.told
    assert [("kept" in line) for _, line in last.pictures] == [k == kept for k in range(4)]
    for (shown, _), picture in zip(last.pictures, plain, strict=True):
        assert (np.array(shown) == np.array(picture.resize((256, 256), 3))).all()


@pytest.mark.parametrize(("prompt", "seed", "said"), [("a cat", 3, "is not a caption"), (CAPTION, -1, "from 0 on")])
def test_a_prompt_or_seed_that_cannot_be_drawn_is_told_before_anything_is_drawn(studio, prompt, seed, said):
    for views in (studio.draw(prompt, seed, threading.Event()), studio.best_of(prompt, seed, threading.Event())):
        with pytest.raises(ValueError, match=said):
            next(views)


def test_the_page_draws_stops_and_keeps_the_best_in_a_browser(space, studio, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    slow = threading.Event()
    view = studio.view

    def patient(*args, **kwargs):
        if slow.is_set():
            time.sleep(1.0)
        return view(*args, **kwargs)

    monkeypatch.setattr(studio, "view", patient)
    blocks = space[1].page(studio)
    _, address, _ = blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False)
    try:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1200, "height": 1400})
            page.set_default_timeout(60_000)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.route("https://**", lambda route: route.abort())  # fonts; the page works without a network
            page.goto(address)
            page.click("#draw")
            page.wait_for_selector("#told:has-text('seed 3: finished')")
            for name in ("strip", "heatmap"):
                page.wait_for_function(f"document.querySelector('#{name} img').naturalWidth > 300")
            page.click("#best")
            page.wait_for_selector("#told:has-text('the highest score of 4')")
            page.wait_for_selector("#gallery:has-text('kept')")
            slow.set()
            page.click("#draw")
            page.wait_for_selector("#told:has-text('step 1 of 20')")
            page.click("#stop")
            page.wait_for_selector("#told:has-text('stopped by you after')")
            assert errors == []
    finally:
        blocks.close()
