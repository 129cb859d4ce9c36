"""The report page as a browser without network shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from headless_browser import CHROMIUM, Browser
from PIL import Image
from synthetic_run import change_record, write_run

from ddpo.report.page import write_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: apt-get install chromium)")

LONG = "a very long prompt " * 6 + "withoutanyspace" * 8


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = [
        write_run(folder / "emoji", samples=9),
        write_run(folder / "rwr-with-a-long-name-that-has-no-place", iterations=8, algorithm="rwr", prompts=(LONG,)),
        write_run(folder / "begun", iterations=0, planned=40, samples=2),
    ]
    records = [run.read() for run in runs]
    write_page(records[:1], folder / "one.html")
    write_page(records, folder / "several.html")
    write_page(records[2:], folder / "begun.html")
    return {name: folder / f"{name}.html" for name in ("one", "several", "begun")}


@pytest.mark.parametrize("name", ["one", "several", "begun"])
@pytest.mark.parametrize("width", [375, 1280])
def test_no_overflow_no_error_no_fetch(browser, pages, name, width):
    browser.open(pages[name], width=width)
    browser.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.messages == []
    assert browser.fetched == [pages[name].resolve().as_uri()]


def test_a_page_that_breaks_these_rules_is_caught(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<div style='width:2000px'>wide</div><img src='http://example.org/x.png'><script>nothing()</script>"
    )
    browser.open(page, width=375)
    assert not browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert any("nothing is not defined" in message for message in browser.messages)
    assert "http://example.org/x.png" in browser.fetched


def test_the_slider_changes_pictures_captions_and_title(browser, pages, tmp_path):
    browser.open(pages["one"], width=1280)

    def shown() -> tuple[str, str, str]:
        return (
            browser.evaluate("document.querySelector('.frame-title').textContent"),
            browser.evaluate("document.querySelector('.samples .value').textContent"),
            browser.evaluate("getComputedStyle(document.querySelector('.samples .tile')).backgroundImage"),
        )

    def picture(name: str) -> bytes:
        browser.evaluate("document.querySelector('.gallery').scrollIntoView()")
        browser.screenshot(tmp_path / name, whole=False)
        box = browser.evaluate(
            "(() => { const box = document.querySelector('.samples .tile').getBoundingClientRect();"
            "return [box.left, box.top, box.right, box.bottom]; })()"
        )
        with Image.open(tmp_path / name) as shot:
            return shot.crop(tuple(round(side) for side in box)).tobytes()

    last, last_picture = shown(), picture("last.png")
    assert last[0] == "After 24 iterations, 3,072 reward queries"
    browser.evaluate("document.querySelector('input[type=range]').focus()")
    browser.press("ArrowLeft")
    assert shown()[0] == "After 20 iterations, 2,560 reward queries"
    browser.press("Home")
    first = shown()
    assert first[0] == "Before training"
    assert all(a != b for a, b in zip(first, last, strict=True))
    assert picture("first.png") != last_picture
    assert browser.evaluate("document.querySelector('.samples .tile').ariaLabel") == "a cat, before training"
    assert browser.evaluate("document.querySelector('input[type=range]').ariaValueText") == "Before training"
    browser.press("End")
    assert shown() == last
    assert browser.messages == []


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (512, 512)])
def test_every_tile_shows_its_own_picture_to_the_edge(browser, tmp_path, size):
    number = 11
    colours = [((37 * index) % 256, (91 * index + 60) % 256, (151 * index + 120) % 256) for index in range(number)]
    folder = write_run(tmp_path / "run", iterations=4, samples=number)
    columns, (width, height) = 4, size
    for iteration in (0, 4):
        sheet = Image.new("RGB", (columns * width, 3 * height))
        for index, colour in enumerate(colours):
            sheet.paste(colour, (width * (index % columns), height * (index // columns), *_end(index, columns, size)))
        sheet.save(folder.sample_files(iteration).tiles)
        tiles = {
            "file": folder.sample_files(iteration).tiles.name,
            "columns": columns,
            "width": width,
            "height": height,
        }
        change_record(folder, iteration, tiles=tiles)
    write_page([folder.read()], folder.report)
    browser.open(folder.report, width=1280)
    browser.evaluate(
        "document.styleSheets[0].insertRule('.tile { border-radius: 0 !important; box-shadow: none !important }')"
    )
    browser.screenshot(tmp_path / "whole.png")
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.samples .tile')].map((tile) => tile.getBoundingClientRect())"
        ".map((box) => [box.left, box.top + scrollY, box.right, box.bottom + scrollY])"
    )
    assert len(boxes) == number
    with Image.open(tmp_path / "whole.png") as shot:
        for colour, (left, top, right, bottom) in zip(colours, boxes, strict=True):
            assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.02)
            for x in (left + 2, (left + right) / 2, right - 3):
                for y in (top + 2, (top + bottom) / 2, bottom - 3):
                    seen = shot.convert("RGB").getpixel((round(x), round(y)))
                    assert max(abs(a - b) for a, b in zip(seen, colour, strict=True)) <= 12, (x, y)


def _end(index: int, columns: int, size: tuple[int, int]) -> tuple[int, int]:
    return size[0] * (index % columns + 1), size[1] * (index // columns + 1)


def test_play_runs_through_the_evaluations(browser, pages):
    browser.open(pages["one"], width=1280)
    browser.evaluate("document.querySelector('.play').click()")
    assert browser.evaluate("document.querySelector('.frame-title').textContent") == "Before training"
    assert browser.evaluate("document.querySelector('.play').textContent") == "Pause"
    browser.evaluate("document.querySelector('.play').click()")
    assert browser.evaluate("document.querySelector('.play').textContent") == "Play"


def test_the_curve_reads_out_under_the_pointer_and_by_keys(browser, pages):
    browser.open(pages["one"], width=375)
    browser.evaluate("document.querySelector('.area').scrollIntoView({block: 'center'})")
    assert browser.evaluate("document.querySelector('.readout').hidden")
    left, top, width = browser.evaluate(
        "(() => { const box = document.querySelector('.area').getBoundingClientRect();"
        "return [box.left, box.top, box.width]; })()"
    )
    browser.move_pointer(left + width / 3, top + 20)  # a third of 3,072 reward queries
    assert browser.evaluate("document.querySelector('.readout .head').textContent") == "1,024 reward queries"
    browser.evaluate("document.querySelector('.area').focus()")
    browser.press("ArrowRight")
    assert browser.evaluate("document.querySelector('.readout .head').textContent") == "1,152 reward queries"
    browser.press("End")
    assert browser.evaluate("document.querySelector('.readout .head').textContent") == "3,072 reward queries"
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(("dark", "brighter"), [(False, "ground"), (True, "ink")])
def test_themes(browser, pages, dark, brighter):
    browser.open(pages["one"], width=1280, dark=dark)

    def brightness(name: str) -> float:
        colour = browser.evaluate(f"getComputedStyle(document.body).{name}")
        levels = [float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        return sum(levels) / 3

    ink, ground = brightness("color"), brightness("backgroundColor")
    assert abs(ink - ground) > 150
    assert (ink > ground) is (brighter == "ink")


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_contrast(browser, pages, dark):
    """WCAG AA: 4.5 to 1 between a text and the ground behind it."""
    browser.open(pages["several"], width=1280, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    poor = browser.evaluate(
        """(() => {
          const levels = (colour) => colour.match(/[\\d.]+/g).map(Number);
          const luminance = (rgb) => rgb.slice(0, 3).map((level) => level / 255)
            .map((level) => level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4)
            .reduce((sum, level, index) => sum + level * [0.2126, 0.7152, 0.0722][index], 0);
          const ground = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const found = levels(getComputedStyle(at).backgroundColor);
              if (found.length < 4 || found[3] > 0) return found;
            }
            return [255, 255, 255];
          };
          const poor = [];
          for (const element of document.querySelectorAll('main *')) {
            const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
            if (!own || !element.checkVisibility()) continue;
            const pair = [luminance(levels(getComputedStyle(element).color)), luminance(ground(element))];
            const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            if (contrast < 4.5) poor.push(`${element.className || element.tagName} ${contrast.toFixed(2)}`);
          }
          return [...new Set(poor)];
        })()"""
    )
    assert poor == []


def test_print_unfolds_everything(browser, pages):
    browser.open(pages["several"], width=1280)
    folded = browser.evaluate("document.querySelectorAll('details:not([open])').length")
    assert folded > 0
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert browser.evaluate("document.querySelectorAll('details:not([open])').length") == folded
