"""The page in a real Chromium: what one does there is what stands on disk."""

import re

import numpy as np
import pytest

from badhands.label import desk
from badhands.label.access import access_for, addresses
from badhands.study.classes import BAD, GLOBAL, GOOD, NOT_HAND
from badhands.study.label_log import LabelLog
from demo_study import make_study
from label_site import chromium, open_page, served, settled


@pytest.fixture(scope="module")
def browser():
    with chromium("--host-resolver-rules=MAP *.test 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study", images=12)


@pytest.fixture
def wide(tmp_path):
    return make_study(tmp_path / "wide", images=2, size=(256, 128), patch=16)


def on_disk(study, image_id=None, annotator="anna"):
    latest = {key[0]: record for key, record in LabelLog(study.labels.path).latest().items() if key[1] == annotator}
    return latest[image_id] if image_id else latest


def drag(page, *points):
    """Drag the mouse through these points, given in tokens (x, y)."""
    for number, (x, y) in enumerate(points):
        at = page.evaluate("([x, y]) => badhands.view.toWindow(x, y)", [x, y])
        page.mouse.move(*at, steps=4)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def seen(page):
    """Wait for the picture: before it is drawn nothing is said of it."""
    page.wait_for_function("() => badhands.view.drawn")


def decide(page, keys):
    """Triage keys, each once the picture is seen; what was shown for each."""
    shown = []
    for key in keys:
        seen(page)
        shown.append(page.evaluate("[badhands.item.id, badhands.item.repeat]"))
        page.keyboard.press(key)
        page.wait_for_function(
            "([id, repeat]) => badhands.item?.id !== id || badhands.item.repeat !== repeat", arg=shown[-1]
        )
    return shown


def here(page):
    return page.evaluate("badhands.item && badhands.item.id")


def test_triage_paint_undo_reload_and_find_the_same_mask_on_disk(browser, study):
    with served(study) as address:
        page = open_page(browser, address)
        names = [name for name, _ in decide(page, "1212")]
        settled(page)
        assert {name: on_disk(study)[name].verdict for name in names} == dict(
            zip(names, ["good", "bad"] * 2, strict=True)
        )

        page.keyboard.press("s")
        text = page.inner_text("#done-text")
        assert text == "0 of 4 images painted, 4 left, more may come: 8 not triaged yet"
        first = here(page)
        page.keyboard.press("2")
        drag(page, (3.5, 4.5), (10.5, 4.5))
        page.keyboard.press("r")
        page.keyboard.press("1")
        drag(page, (2.5, 9.5), (5.5, 12.5))
        page.keyboard.press("3")
        page.keyboard.press("f")
        drag(page, (0.5, 0.5), (0.5, 0.5))
        settled(page)
        record = on_disk(study, first)
        assert (record.classes[9:13, 2:6] == GOOD).all()
        assert (record.classes[4, 3:11] == BAD).all()
        assert (record.classes == NOT_HAND).sum() == 256 - (record.classes == GOOD).sum() - (
            record.classes == BAD
        ).sum()
        assert record.verdict == "bad"
        assert record.seconds > 0

        page.keyboard.press("z")
        page.keyboard.press("z")
        settled(page)
        assert not (on_disk(study, first).classes == GOOD).any()
        page.keyboard.press("Shift+Z")
        settled(page)
        kept = on_disk(study, first).classes
        assert (kept == GOOD).sum() == 16 and not (kept == NOT_HAND).any()

        page.reload()
        page.wait_for_function("() => window.badhands && badhands.item")
        assert here(page) == first
        shown = page.evaluate("[...badhands.state.classes]")
        assert shown == kept.ravel().tolist()


def test_undo_has_no_limit_and_ends_at_the_beginning(browser, study):
    with served(study) as address:
        page = open_page(browser, address, fragment="#paint/img0000")
        page.evaluate("""() => {
          for (let i = 0; i < 300; i++) {
            const classes = badhands.state.classes.slice();
            classes[i % 256] = 1 + i % 3;
            badhands.change({ classes, verdict: "bad" });
          }
        }""")
        last = page.evaluate("[...badhands.state.classes]")
        page.evaluate("() => { for (let i = 0; i < 299; i++) badhands.undo(); }")
        page.keyboard.press("z")
        assert page.evaluate("badhands.state.classes.some(Boolean)") is False
        page.evaluate("() => { for (let i = 0; i < 300; i++) badhands.redo(); }")
        assert page.evaluate("[...badhands.state.classes]") == last
        settled(page)
        assert on_disk(study, "img0000").classes.ravel().tolist() == last


def test_a_grid_that_is_not_square_by_the_keyboard_alone(browser, wide):
    with served(wide) as address:
        page = open_page(browser, address, fragment="#paint/img0001")
        assert page.evaluate("[badhands.view.size.h, badhands.view.size.w]") == [8, 16]
        page.keyboard.press("1")
        page.keyboard.press("[")
        page.keyboard.press("[")
        page.keyboard.press("ArrowUp")  # the cursor appears in the middle: row 4, column 8
        for _ in range(3):
            page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("r")  # a rectangle by its corners
        page.keyboard.press("2")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        settled(page)
        classes = on_disk(wide, "img0001").classes
        assert classes.shape == (8, 16)
        assert np.argwhere(classes == GOOD).tolist() == [[4, 8], [4, 9], [4, 10], [4, 11]]
        assert np.argwhere(classes == BAD).tolist() == [[6, 10], [6, 11], [7, 10], [7, 11]]
        page.keyboard.press("g")
        page.keyboard.press("n")
        settled(page)
        record = on_disk(wide, "img0001")
        assert (record.kinds == GLOBAL).sum() == 4
        assert not (record.classes == 0).any()
        page.keyboard.press("x")  # a good hand has no kind of error
        settled(page)
        record = on_disk(wide, "img0001")
        assert (record.classes == GOOD).sum() == 8 and record.kinds is None
        page.keyboard.press("Delete")
        page.keyboard.press("a")  # a lasso by its corners
        for move in ["Space", "ArrowLeft", "ArrowLeft", "Space", "ArrowUp", "ArrowUp", "Space", "Enter"]:
            page.keyboard.press(move)
        settled(page)
        assert (on_disk(wide, "img0001").classes == BAD).sum() >= 5


def test_touch_paints_with_one_finger_and_zooms_with_two(browser, study):
    with served(study) as address:
        page = open_page(browser, address, fragment="#paint/img0000", has_touch=True)
        session = page.context.new_cdp_session(page)

        def touch(kind, *points):
            where = [page.evaluate("([x, y]) => badhands.view.toWindow(x, y)", list(point)) for point in points]
            fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(where)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

        touch("touchStart", (4.5, 4.5))
        touch("touchMove", (8.5, 4.5))
        touch("touchEnd")
        settled(page)
        painted = on_disk(study, "img0000").classes
        assert (painted[4, 4:9] == BAD).all()
        zoom = page.evaluate("badhands.view.zoom")
        touch("touchStart", (6, 8))
        touch("touchStart", (6, 8), (9, 8))
        touch("touchMove", (4, 8), (12, 8))
        touch("touchEnd")
        assert page.evaluate("badhands.view.zoom") > 1.3 * zoom
        assert page.evaluate("[...badhands.state.classes]") == painted.ravel().tolist()  # the pinch painted nothing


def test_a_proposal_is_accepted_with_one_key_and_marked_so(browser, study):
    with served(study) as address:
        page = open_page(browser, address, fragment="#paint/img0001")
        page.wait_for_selector("#proposals:not([hidden])")
        page.keyboard.press("p")
        settled(page)
        record, judge = on_disk(study, "img0001"), on_disk(study, "img0001", "judge")
        assert record.accepted_proposal
        assert np.array_equal(record.classes, judge.classes)
        page.keyboard.press("z")
        settled(page)
        assert not on_disk(study, "img0001").accepted_proposal


def test_a_dead_server_is_red_and_the_work_is_sent_when_it_returns(browser, study):
    with served(study) as address:
        port = int(address.rsplit(":", 1)[1])
        page = open_page(browser, address, fragment="#paint/img0000")
        settled(page)
    drag(page, (3.5, 4.5), (10.5, 4.5))
    page.wait_for_selector("#dead:not([hidden])")
    assert "1 change kept" in page.inner_text("#dead")
    red = page.evaluate("getComputedStyle(document.querySelector('#dead')).backgroundColor")
    assert red == "rgb(176, 0, 32)"
    drag(page, (3.5, 6.5), (10.5, 6.5))
    shown = page.evaluate("[...badhands.state.classes]")
    assert ("img0000", "anna") not in LabelLog(study.labels.path).latest()
    # The tab is closed with the change unsent; another one of the same browser finds and sends it.
    page.close(run_before_unload=False)
    with served(study, port) as address:
        again = page.context.new_page()
        again.script_errors = []
        again.goto(f"{address}/?annotator=anna#paint/img0000")
        again.wait_for_function("() => window.badhands && badhands.item")
        again.wait_for_function("() => badhands.study.revisions.get('img0000#0') > 0", timeout=15000)
        settled(again)
        assert again.is_hidden("#dead")
        assert (
            on_disk(study, "img0000").classes.ravel().tolist() == shown == again.evaluate("[...badhands.state.classes]")
        )


def test_from_another_machine_by_plain_http_the_page_works(browser, study):
    """Under a name that is not loopback a browser withholds what it gives to secure contexts alone."""
    access = access_for("0.0.0.0", None, ("lab.test",))
    with served(study, access=access) as address:
        port, token = int(address.rsplit(":", 1)[1]), f"&token={access.token}"
        lan = next(one for one in addresses("0.0.0.0", port, access.token) if "127.0.0.1" not in one)
        for who, there in [("anna", lan.split("/?")[0]), ("ben", f"http://lab.test:{port}")]:
            page = open_page(browser, there, who, query=token)
            assert page.evaluate("window.isSecureContext") is False
            page.keyboard.press("1")
            settled(page)
            assert len(on_disk(study, annotator=who)) == 1
        foreign = browser.new_page().goto(f"http://evil.test:{port}/?annotator=eve{token}")
        assert foreign and foreign.status == 421


def test_what_keeps_the_page_from_starting_stands_in_red(browser, study):
    with served(study) as address:
        page = browser.new_page()
        for break_it, words in [
            (lambda: page.route("**/page/plan.js", lambda route: route.abort()), "could not be loaded"),
            (lambda: page.route("**/api/study?*", lambda route: route.fulfill(status=400, json={"error": "no JSON"})),
             "no JSON"),
            (lambda: page.route("**/api/study?*", lambda route: route.fulfill(body="<html>")), "not valid JSON"),
        ]:  # fmt: skip
            break_it()
            page.goto(f"{address}/?annotator=anna")
            page.wait_for_selector("#dead:not([hidden])")
            page.wait_for_function("words => document.querySelector('#dead').innerText.includes(words)", arg=words)
            page.unroute_all()


def test_a_full_browser_storage_still_sends(browser, study):
    with served(study) as address:
        page = open_page(browser, address)
        page.evaluate("""() => { let size = 1 << 20; localStorage.setItem("filler", "");
          const add = () => localStorage.setItem("filler", localStorage.getItem("filler") + "x".repeat(size));
          while (size) try { add(); } catch { size >>= 1; }
        }""")
        page.route("**/api/labels/*", lambda route: route.abort())
        page.keyboard.press("2")
        page.wait_for_selector("#dead:not([hidden])")
        assert "leave it open" in page.inner_text("#dead")
        page.unroute_all()
        settled(page)
        assert len(on_disk(study)) == 1
        page.wait_for_selector("#dead", state="hidden")


def test_a_refusal_is_told_in_the_servers_words_and_tried_again(browser, study):
    with served(study) as address:
        page = open_page(browser, address)
        for number, (status, words) in enumerate(
            [(401, "open the address with ?token=..."), (507, "the study could not be written: Read-only file system")]
        ):
            answer = {"status": status, "json": {"error": words}}
            page.route("**/api/labels/*", lambda route, _, answer=answer: route.fulfill(**answer))
            page.keyboard.press("2")
            page.wait_for_selector("#dead:not([hidden])")
            assert words[1:] in page.inner_text("#dead") and "1 change kept" in page.inner_text("#dead")
            if number:
                page.wait_for_timeout(3500)  # that the server is alive does not make the words go away
                assert words[1:] in page.inner_text("#dead")
            page.unroute_all()
            settled(page)
            page.wait_for_selector("#dead", state="hidden")
            assert len(on_disk(study)) == number + 1


def two_tabs(browser, address):
    one = open_page(browser, address, fragment="#paint/img0000")
    other = one.context.new_page()
    other.script_errors = []
    other.goto(f"{address}/?annotator=anna#paint/img0000")
    other.wait_for_function("() => window.badhands && badhands.item")
    return one, other  # the second is in front: Chromium slows a page in the background


def test_two_tabs_follow_each_other(browser, study):
    with served(study) as address:
        one, other = two_tabs(browser, address)
        drag(one, (3.5, 4.5), (10.5, 4.5))
        settled(one)
        other.wait_for_function("() => badhands.state.classes.some(Boolean)")
        assert other.evaluate("[...badhands.state.classes]") == one.evaluate("[...badhands.state.classes]")


@pytest.mark.parametrize("choice", ["mine", "theirs"])
def test_two_tabs_that_lost_sight_of_each_other_ask_what_shall_stand(browser, study, choice):
    with served(study) as address:
        one, other = two_tabs(browser, address)
        other.evaluate("badhands.channel.close()")  # as in two browsers
        drag(one, (3.5, 4.5), (10.5, 4.5))
        settled(one)
        first = on_disk(study, "img0000").classes
        drag(other, (3.5, 9.5), (10.5, 9.5))
        other.wait_for_selector("#conflict[open]")
        assert np.array_equal(on_disk(study, "img0000").classes, first)  # nothing overwritten before the answer
        mine = other.evaluate("[...badhands.state.classes]")
        other.click(f"#conflict button[value={choice}]")
        settled(other)
        expected, lost = (mine, first.ravel().tolist()) if choice == "mine" else (first.ravel().tolist(), mine)
        assert on_disk(study, "img0000").classes.ravel().tolist() == expected
        other.keyboard.press("z")  # the one not chosen is an undo away
        assert other.evaluate("[...badhands.state.classes]") == lost


def test_every_tenth_image_is_shown_again_and_the_set_is_balanced(browser, study, monkeypatch):
    monkeypatch.setattr(desk, "REPEAT_AFTER", 1)
    with served(study) as address:
        page = open_page(browser, address)
        order = page.evaluate("badhands.study.order")
        marks = []
        shown = []
        for key in "222111111" + "3333":
            marks.append(page.inner_text("#stage") + page.inner_text("#thumbs [aria-current=true]"))
            shown += decide(page, key)
        page.wait_for_selector("#finished", state="visible")
        assert shown == [*[[image_id, 0] for image_id in order[:11]], [order[9], 1], [order[11], 0]]
        assert not any("again" in mark or "repeat" in mark for mark in marks)
        assert page.inner_text("#done-text") == "12 of 12 images triaged, 0 left, 1 seen twice"
        settled(page)
        assert LabelLog(study.labels.path).latest_of_all()[order[9], "anna", 1].verdict == "no_hand"
        page.click("#finished button[value=paint]")
        assert "0 of 6 images painted" in page.inner_text("#done-text")
        assert here(page) == order[0]
        page.select_option("#filter", "no_hand")
        assert page.inner_text("#listed") == "4 images"  # three and the repetition
        page.select_option("#filter", "disagreements")
        page.wait_for_selector("#thumbs >> text=not as judge")


def test_a_repeat_comes_after_its_lag_or_not_at_all(browser, study):
    with served(study) as address:
        page = open_page(browser, address)
        assert page.evaluate("badhands.study.lag") == 50
        items = page.evaluate("""async () => {
          const { withRepeats } = await import("/page/plan.js");
          const ids = [...Array(200).keys()].map(String);
          const again = new Set(ids.filter((_, i) => i % 10 === 9));
          return withRepeats(ids, again, 50).map((item) => [item.id, item.repeat]);
        }""")
    for image_id in map(str, range(9, 200, 10)):
        if int(image_id) < 149:
            between = items[items.index([image_id, 0]) + 1 : items.index([image_id, 1])]
            assert sum(not repeat for _, repeat in between) == 50
        else:
            assert [image_id, 1] not in items


def test_a_held_key_labels_one_image(browser, study):
    with served(study) as address:
        page = open_page(browser, address)
        seen(page)
        page.keyboard.down("2")
        for _ in range(8):  # what the system sends while the key is down
            page.keyboard.down("2")
            page.wait_for_timeout(30)
        page.keyboard.up("2")
        settled(page)
        assert len(on_disk(study)) == 1
        first = next(iter(on_disk(study)))
        assert f"{first}: some hand bad" in page.inner_text("#confirmed")
        page.click("#take-back")
        page.wait_for_function("id => badhands.item.id === id", arg=first)
        settled(page)
        assert on_disk(study, first).verdict is None and page.is_hidden("#confirmed")


def test_nothing_is_said_of_a_picture_that_is_not_drawn(browser, study):
    with served(study) as address:
        context = browser.new_context()
        page = context.new_page()
        waiting = []
        page.route("**/api/images/*", lambda route: waiting.append(route))
        page.goto(f"{address}/?annotator=anna")
        page.wait_for_function("() => window.badhands && badhands.item")
        page.script_errors = []
        page.keyboard.press("1")
        assert "Wait for the picture" in page.inner_text("#toast")
        page.keyboard.press("s")
        page.keyboard.press("s")
        assert page.evaluate("badhands.outbox.lastSaved") is None and on_disk(study) == {}
        for route in waiting:
            route.continue_()
        seen(page)
        page.unroute_all(behavior="ignoreErrors")
        page.keyboard.press("1")
        settled(page)
        assert len(on_disk(study)) == 1


@pytest.mark.parametrize("touch", [False, True])
def test_the_buttons_speak_of_the_hand_that_was_touched_last(browser, study, touch):
    with served(study) as address:
        page = open_page(browser, address, fragment="#paint/img0001", has_touch=touch)
        seen(page)
        page.evaluate("() => { badhands.painter.size = 1; }")

        def at(x, y):
            return page.evaluate("([x, y]) => badhands.view.toWindow(x, y)", [x, y])

        def press(selector):
            page.tap(selector) if touch else page.click(selector)

        for x, y in [(2.5, 2.5), (12.5, 12.5)]:
            page.touchscreen.tap(*at(x, y)) if touch else page.mouse.click(*at(x, y))
        press("#flip")
        settled(page)
        classes = on_disk(study, "img0001").classes
        assert (classes[12, 12], classes[2, 2]) == (GOOD, BAD)
        assert page.evaluate("[...badhands.view.touched]") == [12 * 16 + 12]
        press("#tools [value=pan]")
        page.touchscreen.tap(*at(2.5, 2.5)) if touch else page.mouse.click(*at(2.5, 2.5))
        press("#kinds [value='2']")
        settled(page)
        record = on_disk(study, "img0001")
        assert record.kinds[2, 2] == GLOBAL and record.kinds[12, 12] == 0
        assert page.evaluate("[...badhands.view.touched]") == [2 * 16 + 2]


def test_previous_is_where_one_was_and_peeking_ends_with_the_key(browser, study):
    with served(study) as address:
        page = open_page(browser, address)
        names = [name for name, _ in decide(page, "222")]
        page.keyboard.press("s")
        for name in names[:2]:
            assert here(page) == name
            seen(page)
            drag(page, (3.5, 4.5), (6.5, 4.5))
            page.keyboard.press("Enter")
        assert here(page) == names[2]
        page.keyboard.press("PageUp")
        assert here(page) == names[1]  # painted, so no more in the list
        page.click("#previous")
        assert here(page) == names[0]  # and Enter does not click the button again
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert here(page) == names[2]
        page.keyboard.press("PageUp")
        mask = "badhands.view.mask.canvas.toDataURL()"
        seen(page)
        page.mouse.move(5, 5)
        page.wait_for_timeout(100)
        before = page.evaluate(mask)
        page.keyboard.down("h")
        page.wait_for_function(f"before => {mask} !== before", arg=before)
        page.keyboard.up("h")
        page.wait_for_function(f"before => {mask} === before", arg=before)


@pytest.mark.parametrize("size", [(390, 844), (320, 568), (640, 360), (720, 450), (1280, 720)])
def test_the_picture_keeps_half_of_the_window(browser, study, size):
    """390 x 844 is a phone; 640 x 360 a small notebook at 200 %."""
    width, height = size
    with served(study) as address:
        page = open_page(browser, address, viewport={"width": width, "height": height})
        decide(page, "2")
        for _ in ("triage", "paint"):
            box = page.locator("#view").bounding_box()
            assert box and box["height"] >= height / 2 and box["width"] >= width / 2
            overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0
            page.click("#modes [value=paint]")


def test_jump_note_and_where_one_left_off(browser, study):
    with served(study) as address:
        page = open_page(browser, address)
        page.keyboard.press("j")
        page.keyboard.type("0007")
        page.keyboard.press("Enter")
        page.wait_for_function("() => badhands.item.id === 'img0007'")
        page.keyboard.press("t")
        page.keyboard.type("thumb grows 1 2 3 z")
        page.keyboard.press("Escape")
        settled(page)
        assert on_disk(study, "img0007").note == "thumb grows 1 2 3 z"
        assert on_disk(study, "img0007").verdict is None  # what was typed were no keys
        again = page.context.new_page()
        again.goto(f"{address}/?annotator=anna")
        again.wait_for_function("() => window.badhands && badhands.item")
        assert here(again) == "img0007"


def test_every_control_has_a_name_and_every_text_its_contrast(browser, study):
    with served(study) as address:
        for scheme in ("light", "dark"):
            page = open_page(browser, address, fragment="#paint/img0001", color_scheme=scheme)
            page.wait_for_selector("#proposals:not([hidden])")
            nameless = page.evaluate("""() => {
              const controls = document.querySelectorAll("button, input, select, textarea, canvas[tabindex]");
              const named = (e) => e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length;
              return [...controls].filter((e) => !named(e)).map((e) => e.outerHTML);
            }""")
            assert nameless == []
            pairs = page.evaluate("""() => {
              const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                if (!/, 0\\)$|transparent/.test(c)) return c; } return "rgb(255, 255, 255)"; };
              return [...document.querySelectorAll("body *")].filter((e) => e.offsetParent && !e.closest(":disabled")
                  && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
                .map((e) => [getComputedStyle(e).color, ground(e), e.textContent.trim().slice(0, 30)]);
            }""")
            assert len(pairs) > 40
            for selector in (
                "#classes [aria-pressed=true]",
                "#tools [aria-pressed=true]",
                "#modes [aria-pressed=true]",
            ):
                page.hover(selector)
                style = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor, 'under the pointer']"
                pairs.append(page.eval_on_selector(selector, style))
            for text, ground, words in pairs:
                assert contrast(text, ground) >= 4.5, (scheme, words, text, ground)
            page.keyboard.press("?")
            assert page.locator("#help dt kbd").count() > 40
            page.close()


def contrast(a, b):
    """WCAG 2.2 contrast ratio of two computed colours."""

    def luminance(colour):
        channels = np.array([int(c) for c in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
