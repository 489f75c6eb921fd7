"""The page of `mmlop serve` in a real browser: it shows what the service answers, obeys the keyboard, and fits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import torch
from make_adapter import make_adapter
from photos import photo
from playwright.sync_api import Browser, Locator, Page, Route, expect

from mmlop import backbone as backbones
from mmlop.adapter import Reported
from mmlop.probe import ProbeShape
from mmlop.prompts import PromptShape

if TYPE_CHECKING:
    from chromium import Watched

    Visit = Callable[..., Watched]

pytest_plugins = ["chromium"]
pytestmark = pytest.mark.slow

PHONE, DESKTOP = 390, 1280  # pixels
DIGITS = tuple(f"digit {name}" for name in ("one", "two", "three", "four", "five", "six"))
LETTERS = tuple(f"letter {name}" for name in "abcdefg")
HOSTILE = ("<script>window.hit = 1</script>", '"><img src=x onerror="window.hit = 1">', "long" * 50, "a long name " * 20)
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Fields that a phone would zoom into.
SMALL = """() => [...document.querySelectorAll("input, textarea")].filter(field =>
  parseFloat(getComputedStyle(field).fontSize) < 16).map(field => field.id)"""
# What a user does who has the file in another window.
HANDED = """([id, kind, name, bytes]) => {
  const handed = new DataTransfer();
  handed.items.add(new File([new Uint8Array(bytes)], name));
  const event = kind === "drop" ? new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: handed})
    : new ClipboardEvent(kind, {bubbles: true, cancelable: true, clipboardData: handed});
  document.getElementById(id).dispatchEvent(event);
}"""


@dataclass(frozen=True)
class Service:
    """A real `mmlop serve`."""

    url: str

    def ask(self, adapter: str, picture: Path, classes: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        """Labels and percentages as the page should show them."""
        query = urlencode({"adapter": adapter, "classes": classes}, doseq=True)
        with urllib.request.urlopen(f"{self.url}predict?{query}", picture.read_bytes(), timeout=30) as answer:
            labels = json.load(answer)["predictions"][0]["labels"]
        shares = [f"{100 * one['score']:.1f} %" if one["score"] >= 0.0005 else "< 0.1 %" for one in labels]
        return list(zip((one["label"] for one in labels), shares, strict=True))

    def refusal(self, path: str, body: bytes | None = None) -> str:
        """The service's sentence."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(self.url + path, body, timeout=30)
        sentence: str = json.load(refused.value)["detail"]
        return sentence


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = make_adapters(tmp_path_factory.mktemp("page") / "adapters")
    command = [sys.executable, "-m", "mmlop.cli", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            found = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert found, said
            yield Service(f"{found[0]}/")
        finally:
            process.terminate()


def make_adapters(folder: Path) -> Path:
    clip = backbones.load("mini")
    prompts = PromptShape(2, 3, 2, clip.vision_width, clip.text_width)
    template = {"template": "a picture of a {}.", "anchor_templates": ("a picture of a {}.",)}
    report = {name: Reported(mean=91.25, std=0.5, seeds=3) for name in ("base", "novel", "hm")}
    digits = make_adapter(clip, 1, prompts, classes=DIGITS, report=report, **template)
    letters = make_adapter(clip, 2, prompts, classes=LETTERS, **template)
    digits.save(folder / "digits")
    letters.save(folder / "letters")
    shape = ProbeShape(len(HOSTILE), clip.embed_dim)
    info = letters.info.model_copy(update={"shape": shape, "classes": HOSTILE, "drift_correction": False})
    weights = {name: torch.ones(size) for name, size in shape.factors.items()}
    replace(letters, factors=weights, info=info).save(folder / "probe")
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return photo(tmp_path / "noise.png", 1, (60, 50))


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Visit]:
    """Open the page in a window of its own, with an adapter chosen by the link."""
    from chromium import Watched

    contexts = []

    def opened(adapter: str | None = "digits", width: int = DESKTOP, dark: bool = False) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light")
        contexts.append(context)
        watched = Watched(context.new_page())
        page = watched.page
        page.set_default_timeout(15_000)
        loud = ("error", "warning")
        page.on("console", lambda said: watched.complaints.append(said.text) if said.type in loud else None)
        page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        own = ("data:", "blob:", service.url)
        page.on("request", lambda asked: None if asked.url.startswith(own) else watched.requests.append(asked.url))
        page.goto(service.url + ("" if adapter is None else f"?adapter={adapter}"))
        return watched

    yield opened
    for context in contexts:
        context.close()


def quiet(watched: Watched) -> bool:
    """No complaint, but for the browser's own line about an answer that is a refusal."""
    told = [line for line in watched.complaints if not line.startswith("Failed to load resource")]
    return told == [] and watched.requests == []


def give(page: Page, *files: Path) -> None:
    page.get_by_label("Choose pictures").set_input_files(files)


def shows(page: Page, expected: list[tuple[str, str]], place: int = 0) -> None:
    """Wait for these labels and percentages, in this order, beside a picture."""
    figure = page.locator("figure").nth(place)
    expect(figure.locator(".name")).to_have_text([label for label, _ in expected])
    expect(figure.locator(".share")).to_have_text([share for _, share in expected])


def choose(page: Page, adapter: str) -> None:
    field = page.get_by_role("combobox", name="Adapter")
    field.fill(adapter)
    field.press("Enter")


def alert(page: Page, beside: str) -> Locator:
    return page.locator(f"#{beside}-error")


def fact(page: Page, term: str) -> Locator:
    return page.locator("dt", has_text=re.compile(f"^{term}$")).locator("xpath=following-sibling::dd[1]")


def test_it_is_small_and_needs_nothing_else(service: Service) -> None:
    with urllib.request.urlopen(service.url) as answer:
        html, policy = answer.read(), answer.headers["Content-Security-Policy"]
    assert len(html) < 30_000
    assert not re.search(rb"(src|href)=[\"']?(https?:)?//", html)
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_labels_are_those_that_the_service_answers(visit: Visit, service: Service, picture: Path) -> None:
    watched = visit(adapter=None)  # the first of the list, then
    page, other = watched.page, photo(picture.parent / "other.png", 2)
    give(page, picture)
    shows(page, service.ask("digits", picture))
    widths = page.locator("figure .bar span").evaluate_all(
        "bars => bars.map(bar => bar.offsetWidth / bar.parentElement.clientWidth)"
    )
    shares = [float(re.sub("[< %]", "", share)) / 100 for _, share in service.ask("digits", picture)]
    assert widths == pytest.approx(shares, abs=0.01)
    preview = page.locator("figure img")
    assert preview.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [60, 50]
    give(page, other, picture)
    shows(page, service.ask("digits", other), 0)
    shows(page, service.ask("digits", picture), 1)
    assert watched.complaints == []
    assert quiet(watched)


def test_a_change_of_adapter_or_classes_scores_the_same_picture(visit: Visit, service: Service, picture: Path) -> None:
    watched = visit()
    page = watched.page
    give(page, picture)
    shows(page, service.ask("digits", picture))
    choose(page, "letters")
    shows(page, service.ask("letters", picture))
    assert page.url.endswith("?adapter=letters")
    page.get_by_label("Other class names").fill("digit one, letter b\n\n  digit two ")
    page.get_by_role("button", name="Score").click()
    shows(page, service.ask("letters", picture, ("digit one", "letter b", "digit two")))
    choose(page, "probe")
    shows(page, service.ask("probe", picture))
    expect(page.get_by_label("Other class names")).to_be_disabled()
    assert watched.complaints == []
    assert quiet(watched)


def test_pictures_are_dropped_and_pasted(visit: Visit, service: Service, picture: Path) -> None:
    page, other = visit().page, photo(picture.parent / "other.png", 2)
    page.evaluate(HANDED, ["drop", "drop", "dropped.png", list(picture.read_bytes())])
    shows(page, service.ask("digits", picture))
    page.evaluate(HANDED, ["classes", "paste", "pasted.png", list(other.read_bytes())])
    shows(page, service.ask("digits", other))
    expect(page.locator("figcaption")).to_have_text(["pasted.png"])


def test_the_card_is_beside_it(visit: Visit, service: Service) -> None:
    watched = visit()
    page = watched.page
    with urllib.request.urlopen(f"{service.url}adapters/digits") as answer:
        about: dict[str, Any] = json.load(answer)
    expect(fact(page, "Data set")).to_have_text(about["dataset"])
    expect(fact(page, "Accuracy")).to_have_text(re.compile(r"^87\.5 %"))
    expect(fact(page, "Novel classes")).to_have_text("91.2 ± 0.5 %")
    expect(fact(page, "Trained numbers")).to_have_text(f"{about['trainable']:,}")
    expect(fact(page, "Seed")).to_have_text(str(about["origin"]["seed"]))
    expect(fact(page, "Data")).to_have_attribute("title", about["origin"]["data_hash"])
    page.get_by_text("Its card").click()
    expect(page.locator("#card h3")).to_have_text("mmlop adapter for pets")
    expect(page.locator("#card table").first).to_be_visible()
    choose(page, "letters")  # no halves of its classes were measured
    expect(fact(page, "Novel classes")).to_have_count(0)
    assert quiet(watched)


def test_refusals_are_said_beside_what_is_refused(visit: Visit, service: Service, picture: Path) -> None:
    watched = visit()
    page, text = watched.page, picture.parent / "text.png"
    text.write_text("no picture at all")
    give(page, text, picture)
    shows(page, service.ask("digits", picture), 1)
    sentence = service.refusal("predict?adapter=digits", text.read_bytes())
    expect(page.locator("figure").first.get_by_role("alert")).to_have_text(sentence)
    give(page, picture)
    page.get_by_label("Other class names").fill("digit one, zebra")
    page.get_by_label("Other class names").blur()
    sentence = service.refusal("predict?adapter=digits&classes=digit%20one&classes=zebra", picture.read_bytes())
    expect(alert(page, "classes")).to_have_text(sentence)
    expect(page.get_by_label("Other class names")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("figure li")).to_have_count(0)
    page.get_by_label("Other class names").fill("")
    page.get_by_label("Other class names").blur()
    shows(page, service.ask("digits", picture))
    expect(alert(page, "classes")).to_be_empty()
    choose(page, "nobody/7")
    expect(alert(page, "adapter")).to_have_text(service.refusal("adapters/nobody/7"))
    expect(page.get_by_role("heading", name="About the adapter")).to_be_hidden()
    expect(page.locator("figure li")).to_have_count(0)
    assert quiet(watched)


def test_a_late_answer_does_not_take_the_place_of_a_newer_one(visit: Visit, service: Service, picture: Path) -> None:
    page = visit().page
    held: list[Route] = []
    page.route(re.compile("predict.*adapter=digits"), lambda route: held.append(route))
    give(page, picture)
    expect(page.get_by_role("status")).to_have_text("Scoring 1 picture…")
    expect(page.locator("figure")).to_have_attribute("aria-busy", "true")
    choose(page, "letters")
    shows(page, service.ask("letters", picture))
    assert len(held) == 1
    held[0].continue_()
    page.wait_for_timeout(300)
    shows(page, service.ask("letters", picture))
    expect(page.locator("figure")).to_have_attribute("aria-busy", "false")


def test_it_says_when_the_service_is_out_of_reach_and_goes_on_when_it_is_back(
    visit: Visit, service: Service, picture: Path
) -> None:
    watched = visit()
    page = watched.page
    give(page, picture)
    answered = service.ask("digits", picture)
    shows(page, answered)
    page.context.set_offline(True)
    page.get_by_role("button", name="Score").click()
    expect(alert(page, "service")).to_have_text(re.compile("^The service does not answer"))
    expect(page.locator("figure li")).to_have_count(0)
    page.context.set_offline(False)
    page.get_by_role("button", name="Score").click()
    shows(page, answered)
    expect(alert(page, "service")).to_be_empty()
    assert quiet(watched)


def test_it_is_worked_by_the_keyboard_alone(visit: Visit, service: Service, picture: Path) -> None:
    page = visit().page
    keys = page.keyboard
    page.on("filechooser", lambda chooser: chooser.set_files(picture))  # long before it is needed: it takes effect late
    expect(fact(page, "Data set")).to_be_visible()
    keys.press("Tab")
    keys.type("letters")
    keys.press("Enter")
    expect(page).to_have_url(re.compile("adapter=letters$"))
    keys.press("Tab")
    assert page.locator("#drop").evaluate("zone => getComputedStyle(zone).outlineStyle") == "solid"
    keys.press("Enter")
    shows(page, service.ask("letters", picture))
    keys.press("Tab")
    keys.type("digit one\ndigit two")
    keys.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Score"
    keys.press("Enter")
    shows(page, service.ask("letters", picture, ("digit one", "digit two")))
    keys.press("Tab")
    keys.press("Enter")
    assert page.locator("#own").evaluate("own => own.open")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_fits_and_names_of_classes_run_nothing(
    visit: Visit, service: Service, tmp_path: Path, width: int, dark: bool
) -> None:
    watched = visit("probe", width, dark)
    page = watched.page
    give(page, photo(tmp_path / f"{'name' * 40}.png", 3, (400, 30)), photo(tmp_path / "tall.png", 4, (20, 700)))
    shows(page, service.ask("probe", tmp_path / "tall.png"), 1)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate("() => window.hit") is None
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) / 3 > 128) != dark
    assert page.evaluate(SMALL) == []
    assert watched.complaints == []
    assert quiet(watched)
