"""A headless Chromium that looks at pages: where texts are, in which colours, what is fetched.

What is measured: each text node's boxes (`Range.getClientRects`), as far as an ancestor that
scrolls or hides lets them be seen; text of `::before` is not among them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.servers import REQUIRE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# Boxes of a font are a little higher than its letters.
_SLACK = 2.0

_TEXTS = """
() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((value) => {
      const part = value / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  // What an element inherits in its own way: is it drawn, within what box, on which colour?
  const known = new Map();
  const around = (element) => {
    if (element === null) {
      const box = [-Infinity, -Infinity, Infinity, Infinity];
      return {hidden: false, behind: "rgb(255, 255, 255)", box};
    }
    if (known.has(element)) return known.get(element);
    const style = getComputedStyle(element);
    let {hidden, behind, box} = around(element.parentElement);
    hidden ||= style.display === "none";  // SVG text has boxes also then
    if (!/, 0\\)$|transparent/.test(style.backgroundColor)) behind = style.backgroundColor;
    if (element !== document.documentElement && style.overflowX !== "visible") {
      const its = element.getBoundingClientRect();
      box = [
        Math.max(box[0], its.left), Math.max(box[1], its.top),
        Math.min(box[2], its.right), Math.min(box[3], its.bottom),
      ];
    }
    const found = {hidden, behind, box, style};
    known.set(element, found);
    return found;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility()) continue;
    const {hidden, behind, box, style} = around(element);
    if (hidden) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const boxes = [...range.getClientRects()].map((its) => [
      Math.max(box[0], its.left), Math.max(box[1], its.top) + scrollY,
      Math.min(box[2], its.right), Math.min(box[3], its.bottom) + scrollY,
    ]).filter((its) => its[2] - its[0] > 0.5 && its[3] - its[1] > 0.5);
    if (!boxes.length) continue;
    const plot = element.closest("svg");
    const [front, back] = [
      luminance(element instanceof SVGElement ? style.fill : style.color), luminance(behind),
    ];
    found.push({
      text: node.data.trim(),
      boxes,
      size: parseFloat(style.fontSize),
      contrast: (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05),
      chart: plot ? plot.getAttribute("aria-labelledby") : null,
      style: element.getAttribute("class") || "",
    });
  }
  return found;
}
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A text as it is drawn.

    Attributes:
        boxes: left, top, right, bottom of each line, in pixels of the page.
        size: of its font, in pixels.
        contrast: of its colour to what is behind it, by WCAG.
        chart: what names the chart it stands in; None outside of charts.
        style: its element's classes.
    """

    text: str
    boxes: list[list[float]]
    size: float
    contrast: float
    chart: str | None
    style: str


@dataclass(frozen=True, slots=True)
class Watched:
    """A page that is open, every address it asked for, and what it complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def texts(self) -> list[Seen]:
        """All texts that can be seen, also further down."""
        return [Seen(**text) for text in self.page.evaluate(_TEXTS)]

    def sideways(self) -> int:
        """By how many pixels the page is wider than the window."""
        code = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        wider: int = self.page.evaluate(code)
        return wider


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser; skips the test (or fails, where it must not be missing) if there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        _missing(f"there is no browser ({', '.join(_NAMES)})")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("the package playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        yield browser
        browser.close()


def _missing(why: str) -> None:
    required = {name.strip() for name in os.environ.get(REQUIRE, "").split(",")}
    if "chromium" in required:
        pytest.fail(f"{why}, but {REQUIRE} asks for chromium")
    pytest.skip(why)


@contextmanager
def opened(browser: Browser, file: Path, **options: Any) -> Iterator[Watched]:
    """A file in a window of its own, without a network.

    Args:
        options: of playwright's `new_context`, as in `color_scheme="dark"`.
    """
    context = browser.new_context(offline=True, **options)
    watched = Watched(context.new_page())
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    watched.page.on("console", lambda message: watched.complaints.append(message.text))
    watched.page.goto(file.as_uri())
    yield watched
    context.close()


def overlaps(texts: list[Seen]) -> list[tuple[str, str]]:
    """Texts that are drawn over one another."""
    boxes = sorted((box[1], number, box) for number, seen in enumerate(texts) for box in seen.boxes)
    found, near = [], []
    for top, number, box in boxes:
        near = [other for other in near if other[1][3] - _SLACK > top]
        for other, its in near:
            across = min(box[2], its[2]) - max(box[0], its[0])
            if other != number and across > _SLACK and its[3] - box[1] > _SLACK:
                found.append((texts[other].text, texts[number].text))
        near.append((number, box))
    return found
