"""The page of the example service, in a headless browser."""

import io
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest

for module in ("PIL", "falcon", "gunicorn", "prometheus_client", "sklearn", "threadpoolctl", "uvicorn_worker"):
    pytest.importorskip(module, reason=f"the service extra is not installed: no {module}")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser extra is not installed: no playwright")

from PIL import Image, ImageDraw  # noqa: E402

from examples.service import training  # noqa: E402
from examples.service.client import running  # noqa: E402
from examples.service.parameters import save  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)}")
ONE = [(150, 40), (150, 240)]
SEVEN = [(70, 50), (210, 50), (130, 240)]


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def address(request, tmp_path_factory):
    model = tmp_path_factory.mktemp("cache") / "digits.npz"
    save(model, training.train()[0])
    with running(request.param, model, tmp_path_factory.mktemp("log") / "log", workers=1, threads=1) as service:
        yield f"http://127.0.0.1:{service.port}/"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address, request):
    # A phone for the tests of touch.
    phone = {"viewport": {"width": 375, "height": 667}, "has_touch": True, "is_mobile": True}
    context = browser.new_context(**(phone if "finger" in request.node.name else {}))
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    outside = []
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.goto(address)
    yield page
    assert not outside      # nothing comes from elsewhere
    assert not [error for error in errors if not re.search("500|400|ERR_FAILED", error)]
    context.close()


def result(page):
    """The digit that the page names, after it has one, and its probabilities."""
    page.wait_for_function("document.getElementById('answer').textContent.startsWith('This is')")
    assert re.fullmatch(r"With folded batch norms: the same digit; probabilities differ by at most \d\.\de[-+]\d+\.",
                        page.text_content("#agreement"))
    page.wait_for_function("document.getElementById('times').textContent")
    times = re.fullmatch(r"Median time of 5: without folding ([\d.]+) ms \(([\d.]+) ms with the connection\), "
                         r"folded ([\d.]+) ms \(([\d.]+) ms with the connection\)\.", page.text_content("#times"))
    assert 0 < float(times[1]) < float(times[2]) + 0.1
    shares = [float(text.rstrip(" %")) for text in page.locator("#bars .number").all_text_contents()]
    assert sum(shares) == pytest.approx(100, abs=0.6)
    digit = int(re.fullmatch(r"This is a (\d)\.", page.text_content("#answer"))[1])
    assert digit == int(np.argmax(shares))
    return digit


def corner(page):
    box = page.locator("#pad").bounding_box()
    return box["x"], box["y"], box["width"] / 280


def test_draw_with_the_mouse(page):
    x, y, scale = corner(page)
    for stroke, digit in ((SEVEN, 7), (ONE, 1)):
        page.click("#clear")
        assert page.text_content("#answer") == "No digit yet."
        page.mouse.move(x + scale * stroke[0][0], y + scale * stroke[0][1])
        page.mouse.down()
        for i, j in stroke[1:]:
            page.mouse.move(x + scale * i, y + scale * j, steps=20)
        page.mouse.up()
        assert result(page) == digit


def ink(page, canvas):
    """The number of dark pixels."""
    return page.evaluate("""name => { const c = document.getElementById(name);
        const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
        return data.filter((value, k) => k % 4 === 0 && value < 128 && data[k + 3] > 0).length; }""", canvas)


def test_clear_leaves_nothing(page):
    x, y, scale = corner(page)
    page.mouse.move(x + 150 * scale, y + 40 * scale)
    page.mouse.down()
    page.mouse.move(x + 150 * scale, y + 240 * scale, steps=20)
    page.mouse.up()
    assert result(page) == 1
    assert ink(page, "pad") > 1000
    assert ink(page, "seen") > 0
    page.click("#clear")
    assert (ink(page, "pad"), ink(page, "seen"), page.text_content("#times")) == (0, 0, "")


def test_a_second_finger_does_not_draw(page):
    x, y, scale = corner(page)
    touch = page.context.new_cdp_session(page)
    first, second = ({"x": x + scale * i, "y": y + scale * 60, "id": k} for k, i in enumerate((60, 200)))

    def after(kind, *points):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")     # after its events
        return ink(page, "pad")

    alone = after("touchStart", first)
    assert after("touchStart", first, second) == alone > 100
    second["y"] += scale * 100
    assert after("touchMove", first, second) == alone
    first["y"] += scale * 100
    assert after("touchMove", first, second) > 2 * alone
    after("touchEnd")


def test_draw_with_a_finger(page):
    x, y, scale = corner(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")    # fits a phone
    touch = page.context.new_cdp_session(page)
    points = [(a[0] + (b[0] - a[0]) * t / 10, a[1] + (b[1] - a[1]) * t / 10)
              for a, b in pairwise(SEVEN) for t in range(11)]
    for kind, (i, j) in [("touchStart", points[0]), *(("touchMove", point) for point in points[1:])]:
        point = {"x": x + scale * i, "y": y + scale * j}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert result(page) == 7


def test_draw_with_the_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pad"
    assert page.is_visible("#cursor")
    page.keyboard.press("Space")
    assert page.get_attribute("#cursor", "class") == "down"
    above = page.locator("#cursor").bounding_box()["y"]
    for _ in range(16):
        page.keyboard.press("ArrowDown")
    assert page.locator("#cursor").bounding_box()["y"] - above == pytest.approx(160 * corner(page)[2], abs=1)
    assert result(page) == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "clear"
    assert not page.is_visible("#cursor")
    page.keyboard.press("Enter")
    assert page.text_content("#answer") == "No digit yet."
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "photo"


def test_a_photograph(page):
    # Grey ink on paper with uneven light, off the centre.
    light = np.tile(np.linspace(170, 235, 400), (300, 1)).astype(np.uint8)
    picture = Image.fromarray(light)
    ImageDraw.Draw(picture).line([(150, 60), (230, 60), (180, 200)], fill=60, width=18, joint="curve")
    file = io.BytesIO()
    picture.save(file, "JPEG")
    page.set_input_files("#photo", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
    assert result(page) == 7


def test_what_is_no_photograph(page):
    page.set_input_files("#photo", {"name": "photo.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for_selector("#answer.error")
    assert page.text_content("#answer").startswith("The photograph cannot be read: ")


@pytest.mark.parametrize(("answer", "text"), [
    ({"status": 500, "json": {"title": "Out of order"}}, "The service failed: Out of order"),
    ({"status": 500, "body": "no JSON"}, "The service failed: status 500"),
    ({"status": 400, "json": {"title": "Bad", "description": "64 bytes expected"}},
     "The service refused the drawing: 64 bytes expected"),
    (None, "The service cannot be reached: Failed to fetch")])
def test_an_error_of_the_service(page, answer, text):
    page.route("**/predict", lambda route: route.abort() if answer is None else route.fulfill(**answer))
    page.click("#pad")
    page.wait_for_selector("#answer.error")
    assert page.text_content("#answer") == text


def test_a_service_without_times(page):
    def without(route):
        answer = route.fetch()
        route.fulfill(response=answer, headers={
            name: value for name, value in answer.headers.items() if name != "server-timing"})

    page.route("**/predict*", without)
    page.click("#pad")
    page.wait_for_function("document.getElementById('times').textContent")
    assert "without folding not reported (" in page.text_content("#times")
