"""The page of one picture, from a file and from the live server, in a real Chromium; the server refuses strangers."""

import json
import urllib.error
import urllib.request

import pytest
import torch

from badhands.watch import watch
from badhands.watch.page import page_data
from badhands.watch.serve import Live
from label_site import chromium
from tiny_pipeline import make_pipeline
from watch_probes import make_probes


def draw(pipe, **options):
    with watch(pipe, make_probes(), **options) as seen:
        pipe("a hand", height=64, width=64, num_inference_steps=4, max_sequence_length=16, output_type="latent",
             generator=torch.Generator().manual_seed(0))  # fmt: skip
    return seen


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline(seed=2, scale=3.0)


def get(address, **headers):
    return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=5)


def test_the_page_in_a_browser_from_a_file_and_live(pipe, tmp_path):
    seen = draw(pipe)
    page_file = seen.save(tmp_path, title="a <b>hand</b>") / "page.html"
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.route("http://**", lambda route: errors.append(route.request.url))
        page.goto(page_file.as_uri())
        assert page.inner_text("#title") == "a <b>hand</b>" and page.inner_text("#state") == "finished"
        page.select_option("#block", "double.1")
        page.evaluate("() => { slider.value = 1; slider.dispatchEvent(new Event('input')); }")
        assert "step 2/4 · timestep 3" in page.inner_text("#when") and "double.1" in page.inner_text("#when")
        frame = seen.frames[1]
        token = int(frame.hand["double.1"][0].argmax())
        assert page.inner_text("#score") == f"P(bad) {float(frame.image_p_bad['double.1'][0]):.2f}"
        assert "not recorded" in page.inner_text("#trust")
        assert page.inner_text("#where") == "step 2 of 4, timestep 3" == page.get_attribute("#slider", "aria-valuetext")
        box = page.locator("#view").bounding_box()
        assert box is not None
        row, column = divmod(token, 16)
        page.mouse.move(box["x"] + (column + 0.5) * box["width"] / 16, box["y"] + (row + 0.5) * box["height"] / 16)
        assert f"P(bad) {frame.p_bad['double.1'][0][token]:.3f}" in page.inner_text("#hover")
        pixels = "() => Array.from(view.getContext('2d').getImageData(0, 0, view.width, view.height).data).join()"
        page.focus("#view")
        page.keyboard.press("ArrowDown")
        assert f"row {min(row + 1, 15)}, column {column}:" in page.inner_text("#hover")
        page.keyboard.press("Home")
        page.select_option("#block", "single.2")
        assert "held-out images of its study this cell reaches AUROC 0.70" in page.inner_text("#trust")
        page.keyboard.press("Escape")
        tinted = page.evaluate(pixels)
        page.uncheck("#tint")
        assert page.evaluate(pixels) != tinted
        page.unroute("http://**")

        shown: list[str] = []
        with Live(0) as live:
            page.goto(live.address)
            page.wait_for_function("() => state.textContent === 'loading the model'")
            live.begin("live hand")
            page.wait_for_function("() => state.textContent.startsWith('waiting')")

            def on_frame(seen, frame):
                live.on_frame(seen, frame)
                page.wait_for_function("(n) => data.frames.length === n", arg=len(seen.frames))
                shown.append(page.inner_text("#state"))

            live.finish(draw(pipe, on_frame=on_frame))
            page.wait_for_function("() => state.textContent === 'finished' && !final.hidden")
            with page.expect_response("**/frames*") as answer:
                pass
            assert "final" not in answer.value.json(), "the finished picture is sent once"
            live.begin("the next one")
            page.wait_for_function("() => data.frames.length === 0 && final.hidden")
            live.finish(draw(pipe, on_frame=live.on_frame))
        # The server is gone at once, as with watch.linger=false: the page has heard of the end and keeps the picture.
        page.wait_for_function("() => state.textContent.startsWith('finished · the watch has ended')")
        assert page.evaluate("data.frames.length === 4 && !final.hidden")
        assert shown == ["step 1 of 4", "step 2 of 4", "step 3 of 4", "step 4 of 4"]
        assert errors == []


def test_a_cell_that_is_no_better_than_a_coin_gives_no_verdict(pipe, tmp_path):
    probes = make_probes()
    probes.card["scores"]["single.2/t4"] = {"image_auroc": 0.49}
    with watch(pipe, probes) as seen:
        pipe("a hand", height=64, width=64, num_inference_steps=4, max_sequence_length=16, output_type="latent",
             generator=torch.Generator().manual_seed(0))  # fmt: skip
    blocks = page_data(seen)["frames"][0]["blocks"]
    assert blocks["single.2"]["auroc"] == 0.49 and blocks["double.1"]["auroc"] is None
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 360, "height": 640})
        page.goto((seen.save(tmp_path) / "page.html").as_uri())
        page.select_option("#block", "single.2")
        page.fill("#slider", "0")
        assert page.inner_text("#score") == "no verdict" and "no better than a coin" in page.inner_text("#trust")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_server_answers_this_machine_alone_and_a_taken_port_is_told():
    with Live(0) as live:
        assert get(live.address).status == 200 and json.load(get(live.address + "frames?have=x&run=9"))["frames"] == []
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            with pytest.raises(urllib.error.HTTPError, match=r"421|403"):
                get(live.address + "frames", **headers)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(live.address + "../etc/passwd")
        with pytest.raises(ValueError, match=rf"cannot serve at 127.0.0.1:{live.port} .*watch\.port="), Live(live.port):
            pass
