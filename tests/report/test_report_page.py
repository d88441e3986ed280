"""The page in a real browser: Debian's chromium, driven by Playwright; skipped without them."""

import math
import shutil
import time

import numpy as np
import pytest

from helpers.report_folders import make_land_cover_map, make_maps, make_outdir
from helpers.tiny_data import PALETTE, write_tiff
from report import write_report
from utils.figures.colours import SAFE
from utils.rasters.masks import write_mask
from utils.schemes import SECOND

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install -r requirements-dev.txt"
)
if CHROMIUM is None:
    pytest.skip("no chromium: apt-get install chromium", allow_module_level=True)


def wait_until(page, expression: str, timeout_s: float = 10) -> None:
    """Asks until it is true; the page's security policy forbids Playwright's own way."""
    deadline = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def map_page(tmp_path_factory):
    """A map of 60 x 40 pixels: rows 0..9 water -> building, the last row without data."""
    root = tmp_path_factory.mktemp("map")
    return write_report(make_maps(root / "town", root / "in"))


@pytest.fixture(scope="module")
def tiles_page(tmp_path_factory):
    """Four test tiles with truth; the first half predicted, in the first two."""
    return write_report(make_outdir(tmp_path_factory.mktemp("tiles"), tiles=4), images=4)


class Opened:
    """A page, with what it complained of and asked for."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        wait_until(self.page, "viewers.every((viewer) => viewer.tile.pixels)")

    def __enter__(self):
        return self.page

    def __exit__(self, *error):
        outside = [u for u in self.requests if not u.startswith(("file:", "data:", "blob:"))]
        self.context.close()
        if error[0] is None:
            assert self.complaints == [] and outside == []


@pytest.fixture
def opened(browser):
    return lambda path, **options: Opened(browser, path, **options)


def point(page, x: float, y: float) -> tuple[float, float]:
    """Pixels on the screen of a place in the stage, given as shares of it."""
    stage = page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def colour_at(page, side: int, x: float, y: float) -> list[int]:
    """RGBA of the overlay of date 1 or 2."""
    return page.evaluate(
        """([side, x, y]) => {
          const canvas = document.querySelectorAll(".stage canvas")[side - 1];
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
          copy.drawImage(canvas, 0, 0);
          const [px, py] = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
          return [...copy.getImageData(px, py, 1, 1).data];
        }""",
        [side, x, y],
    )


def test_hover_names_from_and_to(opened, map_page):
    with opened(map_page) as page:
        hint = page.locator(".stage .hint")
        assert hint.is_hidden()
        page.mouse.move(*point(page, 0.2, 0.1))
        assert hint.text_content() == "water → building\nprobability of change 90 %"
        page.mouse.move(*point(page, 0.2, 0.6))
        assert hint.text_content() == "unchanged\nprobability of change 0 %"
        page.mouse.move(*point(page, 0.2, 0.99))
        assert hint.text_content() == "no data"
        page.mouse.move(0, 0)
        assert hint.is_hidden()


def test_dragging_moves_the_divider(opened, map_page):
    with opened(map_page) as page:
        divider = page.get_by_role("slider", name="Divider")
        assert divider.get_attribute("aria-valuenow") == "50"
        page.mouse.move(*point(page, 0.5, 0.5))
        page.mouse.down()
        page.mouse.move(*point(page, 0.25, 0.5), steps=4)
        page.mouse.up()
        assert abs(int(divider.get_attribute("aria-valuenow")) - 25) <= 1
        clip = page.evaluate("getComputedStyle(document.querySelector('.after')).clipPath")
        assert abs(float(clip.rstrip("%)").split()[-1]) - 25) <= 1
        page.mouse.move(*point(page, 0.8, 0.5))  # no button: it stays
        assert abs(int(divider.get_attribute("aria-valuenow")) - 25) <= 1


def test_keys_move_the_divider_within_its_range(opened, map_page):
    with opened(map_page) as page:
        divider = page.get_by_role("slider", name="Divider")
        divider.focus()
        steps = {"ArrowRight": 52, "ArrowLeft": 50, "PageDown": 40, "Home": 0, "End": 100}
        for key, value in {**steps, "ArrowUp": 100}.items():
            divider.press(key)
            assert divider.get_attribute("aria-valuenow") == str(value), key


def test_focus_is_visible(opened, map_page):
    with opened(map_page) as page:
        seen = []
        for _ in range(8):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(
                """() => {
                  const at = document.activeElement, shown = at.querySelector(":scope > .grip");
                  return [at.classList[0] || at.id, getComputedStyle(shown || at).outlineStyle];
                }"""
            ))  # fmt: skip
        names = [name for name, _ in seen]
        assert names[:7] == ["skip", "palette", "stage", "divider", "show", "opacity", "mode"]
        assert all(style == "solid" for _, style in seen[:7]), seen


def test_keys_read_the_map_out(opened, map_page):
    with opened(map_page) as page:
        page.locator(".stage").focus()
        page.keyboard.press("Shift+ArrowUp")
        reading = page.get_by_role("status")
        assert "unchanged; probability" in reading.text_content()
        for _ in range(3):
            page.keyboard.press("Shift+ArrowUp")
        assert "water → building; probability of change 90 %" in reading.text_content()
        assert page.locator(".cross").is_visible()


def test_overlay_is_switched_off_and_faded(opened, map_page):
    with opened(map_page) as page:
        canvas = page.locator(".side canvas").first
        opacity = "(canvas) => Number(getComputedStyle(canvas).opacity)"
        assert canvas.evaluate(opacity) == 0.7
        page.get_by_label("Opacity").fill("30")
        assert canvas.evaluate(opacity) == 0.3
        page.get_by_label("Changes").uncheck()
        assert canvas.evaluate(opacity) == 0
        page.get_by_label("Changes").check()
        assert canvas.evaluate(opacity) == 0.3


def test_overlay_has_the_classes_of_its_date_in_the_chosen_palette(opened, map_page):
    with opened(map_page) as page:
        assert colour_at(page, 1, 0.5, 0.1) == [*SAFE["blue"], 255]
        assert colour_at(page, 2, 0.5, 0.1) == [*SAFE["vermilion"], 255]
        assert colour_at(page, 2, 0.5, 0.6)[3] == 0  # unchanged: clear
        page.get_by_label("Colours").select_option("own")
        assert colour_at(page, 1, 0.5, 0.1) == [*SECOND.palette[1], 255]
        assert colour_at(page, 2, 0.5, 0.1) == [*SECOND.palette[5], 255]
        page.locator(".mode").select_option("change")
        assert colour_at(page, 1, 0.5, 0.1) == colour_at(page, 2, 0.5, 0.1)


def test_no_data_is_hatched_and_nothing_else(opened, map_page):
    with opened(map_page) as page:
        hatched = page.evaluate(
            """() => {
              const canvas = document.querySelectorAll(".stage canvas")[1];
              const { data } = canvas.getContext("2d").getImageData(0, 0, 60, 40), found = [];
              for (let i = 0; i < 60 * 40; i++)
                if (data.slice(4 * i, 4 * i + 4).join() === "140,140,140,255") found.push(i);
              return found;
            }"""
        )
        assert hatched == [39 * 60 + x for x in range(60) if (x + 39) % 4 == 0]
        assert page.locator(".swatch.no-data").is_visible()


def test_change_within_a_class_is_called_so(opened, tmp_path):
    out = make_maps(tmp_path / "town", tmp_path / "in")
    place = {"left": 500000, "top": 5000000, "crs": "EPSG:32633", "pixel_m": 10, "nodata": 255}
    code = np.zeros((1, 40, 60), np.uint8)
    code[:, :10] = 1 + 3 * 6 + 3
    for name, values in (
        ("transition", code),
        ("date1", 4 * (code > 0)),
        ("date2", 4 * (code > 0)),
    ):
        write_tiff(out / f"{name}.tif", values.astype(np.uint8), **place)
    with opened(write_report(out)) as page:
        page.mouse.move(*point(page, 0.2, 0.1))
        assert page.locator(".stage .hint").text_content().startswith("within tree\n")
        text = page.locator("body").inner_text()
        assert "all of it within tree." in text and "tree → tree" not in text
        assert "“within tree”: changed, but both dates are tree." in text


def test_labels_of_a_labelling_are_no_changes(opened, tmp_path):
    outdir = make_outdir(tmp_path, tiles=2)
    masks = outdir / "masks" / "train"
    (outdir / "masks" / "test").rename(masks)
    (masks / "labelling.json").write_text("{}")
    for date in (1, 2):
        write_mask(masks / f"im{date}" / "00000.png", np.full((32, 32), 4, np.uint8), PALETTE)
    with opened(write_report(outdir)) as page:
        page.mouse.move(*point(page, 0.2, 0.1))
        assert page.locator(".stage .hint").text_content() == "tree"
        assert page.locator(".mode option").all_text_contents() == ["classes"]
        assert page.get_by_role("checkbox", name="Classes").count() == 1


def test_rows_of_the_overview_lead_to_their_maps(opened, tmp_path):
    for name in ("east", "west"):
        make_maps(tmp_path / "out" / name, tmp_path / name)
    with opened(write_report(tmp_path / "out")) as page:
        page.get_by_role("link", name="west").click()
        assert page.evaluate("location.hash") == "#section-1"
        heading = page.get_by_role("heading", name="west")
        wait_until(page, "scrollY > 500")
        assert heading.is_visible()
        for width in (1280, 320):
            page.set_viewport_size({"width": width, "height": 740})
            wait_until(page, f"document.documentElement.scrollWidth <= {width}")


def test_tiles_are_chosen_and_compared_with_the_truth(opened, tiles_page):
    with opened(tiles_page) as page:
        buttons = page.locator(".gallery button")
        assert buttons.count() == 4
        assert buttons.first.get_attribute("aria-pressed") == "true"
        buttons.nth(3).click()
        wait_until(page, "viewers[0].tile === viewers[0].tiles[3] && viewers[0].tile.pixels")
        assert buttons.nth(3).get_attribute("aria-pressed") == "true"
        assert "worst" in buttons.nth(3).text_content()
        page.locator(".mode").select_option("errors")
        assert page.locator(".legend.errors").is_visible()
        kinds = page.evaluate(
            """() => {
              const canvas = document.querySelectorAll(".stage canvas")[1];
              const { data } = canvas.getContext("2d").getImageData(0, 0, 32, 32), rows = [{}, {}];
              for (let i = 0; i < data.length; i += 4)
                if (data[i + 3]) rows[i < data.length / 2 ? 0 : 1][data.slice(i, i + 3).join()] = 1;
              return rows.map(Object.keys);
            }"""
        )
        right, missed = "0,158,115", "0,114,178"
        assert kinds == [[right], [missed]]  # the second half was called unchanged
        page.mouse.move(*point(page, 0.5, 0.9))
        assert "truth:" in page.locator(".stage .hint").text_content()


def test_land_cover_lies_on_the_right_of_the_divider(opened, tmp_path):
    path = write_report(make_land_cover_map(tmp_path / "town", tmp_path / "in"))
    with opened(path) as page:
        assert colour_at(page, 2, 0.2, 0.5) == [*SAFE["green"], 255]
        assert colour_at(page, 1, 0.2, 0.5)[3] == 0  # the image alone
        page.mouse.move(*point(page, 0.9, 0.5))
        assert page.locator(".stage .hint").text_content() == "water\nprobability 80 %"


def test_touch_drags_the_divider_and_a_tap_reads(opened, map_page):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with opened(map_page, **phone) as page:
        page.touchscreen.tap(*point(page, 0.8, 0.1))
        assert "water → building" in page.get_by_role("status").text_content()
        divider = page.get_by_role("slider", name="Divider")
        assert divider.get_attribute("aria-valuenow") == "50"
        client = page.context.new_cdp_session(page)
        places = [point(page, share, 0.5) for share in (0.5, 0.4, 0.3)]
        for kind, place in zip(("touchStart", "touchMove", "touchMove"), places, strict=True):
            touch = [{"x": place[0], "y": place[1]}]
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touch})
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert abs(int(divider.get_attribute("aria-valuenow")) - 30) <= 1


def test_nothing_is_wider_than_the_screen(opened, tiles_page):
    with opened(tiles_page) as page:
        for width in (1280, 768, 360, 320):
            page.set_viewport_size({"width": width, "height": 740})
            wait_until(page, f"document.documentElement.scrollWidth <= {width}")


def test_controls_are_large_enough_for_fingers_and_have_names(opened, tiles_page):
    with opened(tiles_page, viewport={"width": 360, "height": 740}) as page:
        for control in page.locator("select, input, button, summary, [role=slider]").all():
            box = control.bounding_box()
            label = control.locator("xpath=ancestor-or-self::label")
            tall = label.first.bounding_box()["height"] if label.count() else box["height"]
            assert max(tall, box["height"]) >= 24, control.evaluate("(e) => e.outerHTML")
            assert control.evaluate("(e) => (e.labels?.[0] || e).textContent.trim() || e.ariaLabel")


def test_dark_theme_reads_as_well(opened, tiles_page):
    texts = """() => {
      const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map((v) => v / 255)
          .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (e) => {
        const colour = getComputedStyle(e).backgroundColor;
        return colour !== "rgba(0, 0, 0, 0)" || !e.parentElement ? colour : ground(e.parentElement);
      };
      return [...document.querySelectorAll("p, h1, h2, h3, h4, dt, dd, li, th, td, small, label, " +
        "figcaption, caption, select, summary, code, .tag, svg text:not(.cell)")].map((e) => {
        const style = getComputedStyle(e), ink = e instanceof SVGElement ? style.fill : style.color;
        const pair = [light(ink), light(ground(e))].sort((a, b) => a - b);
        return [(pair[1] + 0.05) / (pair[0] + 0.05), e.outerHTML.slice(0, 80)];
      });
    }"""
    for scheme in ("light", "dark"):
        with opened(tiles_page, color_scheme=scheme) as page:
            found = page.evaluate(texts)
            assert len(found) > 50
            worst = min(found, key=lambda pair: pair[0])
            assert not math.isnan(worst[0]) and worst[0] >= 4.5, (scheme, worst)


def test_print_shows_both_dates_side_by_side_and_all_options(opened, map_page, tmp_path):
    with opened(map_page) as page:
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        before, after = (
            page.locator(f".side.{side}").bounding_box() for side in ("before", "after")
        )
        assert before["x"] + before["width"] <= after["x"] and before["y"] == after["y"]
        assert before["width"] / before["height"] == pytest.approx(60 / 40, rel=0.02)
        assert page.locator(".divider").is_hidden() and page.locator(".controls").is_hidden()
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == 0
        assert len(page.pdf()) > 10_000


def test_no_script_of_others_runs(opened, map_page, tmp_path):
    text = map_page.read_text(encoding="utf-8")
    path = tmp_path / "page.html"
    path.write_text(text.replace("<main", "<script>window.evil = 1</script><main", 1))
    with pytest.raises(AssertionError), opened(path) as page:  # the console tells
        assert page.evaluate("window.evil === undefined")
