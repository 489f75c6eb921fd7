"""A real browser for pages; a plugin (``pytest_plugins = ["chromium"]``)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Watched:
    """A page, and what it complained of or asked for while it was open."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # but for the page itself and what is written in it


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a display."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.fail("There is no Chromium: install the package `chromium` (apt-get install chromium).")
    with sync_playwright() as playwright:
        # Without its sandbox, which root may not have; /dev/shm is small in containers.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser) -> Callable[..., Watched]:
    """Open the page of a file in a window of its own."""

    def opened(file: Path, width: int, dark: bool = False, scripts: bool = True) -> Watched:
        scheme: Literal["dark", "light"] = "dark" if dark else "light"
        size: ViewportSize = {"width": width, "height": 800}
        page = browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=scripts).new_page()
        watched = Watched(page)
        loud = ("error", "warning")
        page.on("console", lambda said: watched.complaints.append(said.text) if said.type in loud else None)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        own = ("data:", file.as_uri())
        page.on("request", lambda asked: None if asked.url.startswith(own) else watched.requests.append(asked.url))
        page.goto(file.as_uri())
        return watched

    return opened
