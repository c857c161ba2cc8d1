"""The playground in a real browser: headless Chromium, at desktop and phone width, light and dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from guardrail_gateway import GatewaySettings, Playground, create_app, read_keys
from guardrail_gateway.testing import ScriptedUpstream, serving
from guardrail_plugin.testing import ScriptedGuardian

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
KEY = "0123456789abcdef"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH, and CHROMIUM does not name one"),
    # Its driver leaves sockets and a loop to the interpreter's end.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        # Containers run as root, where Chromium has no sandbox; the only page it sees is ours.
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def url(upstream: tuple[ScriptedUpstream, str], guardian: ScriptedGuardian) -> Iterator[str]:
    settings = GatewaySettings(upstream=upstream[1], port=0, upstream_timeout_s=60.0)
    page = Playground()
    with serving(create_app(settings, guardian=guardian, observers=[page], pages=page.pages), settings) as base:
        yield f"{base}/playground"


@contextmanager
def opened(browser: Browser, url: str, *, width: int = 1280, dark: bool = False) -> Iterator[Page]:
    """Open the page; at the end nothing may have gone wrong in it, or have been asked of another host."""
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    wrong: list[str] = []
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # A 401 is what a page without a key is meant to get.
    page.on(
        "console", lambda told: wrong.append(told.text) if told.type == "error" and "401" not in told.text else None
    )
    page.on("request", lambda request: None if request.url.startswith(url[:20]) else wrong.append(request.url))
    page.goto(url)
    try:
        yield page
    finally:
        context.close()
    assert [told for told in wrong if not told.startswith("data:")] == []


def ask(page: Page, message: str) -> None:
    page.get_by_label("What a user would write").fill(message)
    page.get_by_role("button", name="Send").click()
    sync_api.expect(page.locator("#status")).to_contain_text("Done", timeout=30_000)


def test_an_answer_is_released(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        ask(page, "hello")
        sync_api.expect(page.locator("#released")).to_contain_text("And the third one, too.")
        sync_api.expect(page.locator("#held-count")).to_have_text("0")
        assert page.locator(".rail .badge").all_inner_texts() == ["✓ Allowed", "✓ Allowed"]
        sync_api.expect(page.locator("#times")).to_contain_text("Model")
        sync_api.expect(page.locator("#rows tr").first).to_contain_text("Answer")


def test_blocked_text_is_never_in_the_page(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        ask(page, "evil answer")
        sync_api.expect(page.locator("#released .instead")).to_have_text("I can't help with that.")
        sync_api.expect(page.locator("#held-told")).to_contain_text("never left")
        assert int(page.locator("#held-count").inner_text()) > 0
        assert "take the bomb" not in page.content()
        ask(page, "a bomb")
        sync_api.expect(page.locator("#held-told")).to_contain_text("never saw the message")
        sync_api.expect(page.locator("#rails")).to_contain_text("S9 Indiscriminate Weapons")


def test_the_slider_decides_anew_without_asking(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        ask(page, "a bomb")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/ask") else None)
        slider = page.get_by_label("Threshold")
        sync_api.expect(page.locator("#what-if")).to_contain_text("Blocked (as it was)")
        slider.focus()
        page.keyboard.press("End")
        sync_api.expect(page.locator("#what-if")).to_contain_text("Allowed (it was: ✕ Blocked)")
        assert page.locator(".bar.over").count() == 0
        page.keyboard.press("Home")
        sync_api.expect(page.locator("#what-if")).to_contain_text("Blocked (as it was)")
        assert asked == []


def test_the_keyboard_alone(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        page.keyboard.press("Tab")
        sync_api.expect(page.get_by_text("Skip to the message")).to_be_focused()
        page.get_by_label("What a user would write").focus()
        page.keyboard.type("hello")
        page.keyboard.press("Control+Enter")
        sync_api.expect(page.locator("#status")).to_contain_text("Done", timeout=30_000)


def test_text_is_never_markup(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        ask(page, "<img src=x onerror=alert(1)> a bomb")
        assert page.locator("img").count() == 0


def test_trouble_is_shown(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        page.get_by_label("What a user would write").fill("busy")
        page.get_by_role("button", name="Send").click()
        sync_api.expect(page.get_by_role("alert").filter(has_text="overloaded")).to_be_visible(timeout=30_000)
        sync_api.expect(page.get_by_role("button", name="Send")).to_be_enabled()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True), (320, False)])
def test_it_fits(browser: Browser, url: str, tmp_path: Path, width: int, dark: bool) -> None:
    with opened(browser, url, width=width, dark=dark) as page:
        ask(page, "evil answer")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            "() => [...document.querySelectorAll('button, select, input:not([type=checkbox]), textarea')]"
            ".filter((e) => e.offsetParent && e.getBoundingClientRect().height < 44).map((e) => e.id)"
        )
        assert small == []
        assert page.screenshot(path=tmp_path / f"{width}.png", full_page=True)


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(browser: Browser, url: str, dark: bool) -> None:
    with opened(browser, url, dark=dark) as page:
        tokens = ("ink", "quiet", "accent", "allow", "block", "escalate", "edge", "card", "on-accent")
        found = page.evaluate(
            "(names) => names.map((n) => getComputedStyle(document.documentElement).getPropertyValue(`--${n}`).trim())",
            list(tokens),
        )
        colours = dict(zip(tokens, found, strict=True))
        for name in ("ink", "quiet", "accent", "allow", "block", "escalate"):
            assert contrast(colours[name], colours["card"]) >= 4.5, name
        assert contrast(colours["edge"], colours["card"]) >= 3.0
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two #rrggbb colours."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_key_is_asked_for(
    browser: Browser, upstream: tuple[ScriptedUpstream, str], guardian: ScriptedGuardian
) -> None:
    settings = GatewaySettings(upstream=upstream[1], port=0, keys=read_keys([f"me:{KEY}"]))
    page = Playground()
    app = create_app(settings, guardian=guardian, observers=[page], pages=page.pages)
    with serving(app, settings) as base, opened(browser, f"{base}/playground") as shown:
        key = shown.get_by_label("Bearer key")
        sync_api.expect(key).to_be_focused()
        key.fill("not the key at all")
        key.press("Enter")
        sync_api.expect(shown.get_by_role("alert").filter(has_text="does not know")).to_be_visible()
        key.fill(KEY)
        key.press("Enter")
        sync_api.expect(key).to_be_hidden()
        ask(shown, "hello")
        assert KEY not in shown.content()
        assert shown.evaluate("() => localStorage.length + sessionStorage.length + document.cookie.length") == 0
