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


def test_the_slider_changes_tiles_captions_and_title(browser, pages):
    browser.open(pages["one"], width=1280)

    def shown() -> list[str]:
        return browser.evaluate(
            "['.frame-title', '.samples .value'].map((name) => document.querySelector(name).textContent)"
            ".concat([document.querySelector('.samples img').src])"
        )

    last = shown()
    assert last[0] == "After 24 iterations, 3,072 reward queries"
    browser.evaluate("document.querySelector('input').focus()")
    browser.press("ArrowLeft")
    assert shown()[0] == "After 20 iterations, 2,560 reward queries"
    browser.press("Home")
    first = shown()
    assert first[0] == "Before training"
    assert all(a != b for a, b in zip(first, last, strict=True))
    assert browser.evaluate("document.querySelector('.samples img').alt").endswith(", before training")
    assert browser.evaluate("document.querySelector('input').ariaValueText") == "Before training"
    browser.press("End")
    assert shown() == last
    assert browser.messages == []


@pytest.mark.parametrize("size", [(64, 64), (96, 40), (512, 512)])
def test_every_tile_shows_its_own_sample_in_its_shape(browser, tmp_path, size):
    number, columns, (width, height) = 11, 4, size
    colours = [((37 * index) % 256, (91 * index + 60) % 256, (151 * index + 120) % 256) for index in range(number)]
    folder = write_run(tmp_path / "run", iterations=4, samples=number)
    for iteration in (0, 4):
        sheet = Image.new("RGB", (columns * width, 3 * height))
        for index, colour in enumerate(colours):
            left, top = width * (index % columns), height * (index // columns)
            sheet.paste(colour, (left, top, left + width, top + height))
        file = folder.sample_files(iteration).tiles
        sheet.save(file)
        tiles = {"file": file.name, "columns": columns, "width": width, "height": height}
        samples = [{"prompt": str(index), "seed": index} for index in range(number)]  # no rewards: their own order
        change_record(folder, iteration, tiles=tiles, samples=samples)
    write_page([folder.read()], folder.report)
    browser.open(folder.report, width=1280)
    seen = browser.evaluate(
        """[...document.querySelectorAll('.samples img')].map((tile) => {
          const canvas = document.createElement('canvas'), pen = canvas.getContext('2d');
          pen.drawImage(tile, 0, 0, 1, 1);
          return [tile.clientWidth / tile.clientHeight, ...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
        })"""
    )
    assert len(seen) == number
    for colour, (ratio, *levels) in zip(colours, seen, strict=True):
        assert ratio == pytest.approx(width / height, rel=0.03)
        assert max(abs(a - b) for a, b in zip(levels, colour, strict=True)) <= 12


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
