"""The pages in a real browser: nothing is loaded, everything works by mouse and by keyboard, nothing is cut off."""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources

import pytest

from monai_ddad.evaluation.report import write_comparison

selenium = pytest.importorskip("selenium", reason="needs selenium")
axe = pytest.importorskip("axe_core_python", reason="needs axe-core-python")

from selenium.webdriver import Chrome, ChromeOptions, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

LAPTOP, PHONE = 1280, 390
PAGES = ("report", "volumes", "unlabelled", "comparison")


@pytest.fixture(scope="session")
def browser():
    """One headless Chromium for all tests."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def addresses(report, written_run, tmp_path_factory):
    """Addresses of the pages by name."""
    comparison = tmp_path_factory.mktemp("comparison") / "comparison.html"
    write_comparison(written_run(), written_run(seed=3, preset="default"), comparison)
    files = {
        "report": report(file_names=True, synthetic_data=True).path,
        "volumes": report(volumes=True).path,
        "unlabelled": report(labelled=False).path,
        "comparison": comparison,
    }
    return {name: path.as_uri() for name, path in files.items()}


@pytest.fixture
def visit(browser, addresses):
    """Return a function that opens a page at a width, in light or dark colours, and empties the logs before."""

    def go(name="report", width=LAPTOP, scheme="light"):
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == PHONE}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get(addresses[name])
        return browser

    return go


def shown(browser):
    """Rows of the cards that are seen, in the order in which they are."""
    seen = "return [...document.querySelectorAll('.card')].filter((card) => card.checkVisibility())"
    return browser.execute_script(seen + ".map((card) => Number(card.dataset.row))")


def rows(browser, kind=""):
    """Rows of all cards, or of those of a kind, in the order of the list."""
    cards = (
        "return [...document.querySelectorAll('.card')].filter((card) => card.dataset.kind.startsWith(arguments[0]))"
    )
    return sorted(browser.execute_script(cards + ".map((card) => Number(card.dataset.row))", kind))


def by_score(browser):
    """Rows of all cards, the lowest score first."""
    cards = (
        "return [...document.querySelectorAll('.card')].map((card) => [Number(card.dataset.score), card.dataset.row])"
    )
    return [int(row) for _, row in sorted(browser.execute_script(cards))]


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()


def tab_to(browser, selector):
    """Press Tab until the element has the focus."""
    for _ in range(100):
        press(browser, Keys.TAB)
        if browser.execute_script("return document.activeElement.matches(arguments[0])", selector):
            return browser.switch_to.active_element
    raise AssertionError(f"Tab does not reach {selector}")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_a_page_opens_without_errors_or_requests_and_nothing_sticks_out(visit, name, width):
    browser = visit(name, width)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requested if not url.startswith("data:")] == [browser.current_url]
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    wide = "return [...document.querySelectorAll('body *:not(.scroll *):not(.skip)')]"
    wide += ".filter((part) => part.getBoundingClientRect().right > innerWidth + 1).map((part) => part.outerHTML)"
    assert browser.execute_script(wide) == []
    broken = "return [...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert browser.execute_script(broken) == 0


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(LAPTOP, "light"), (LAPTOP, "dark"), (PHONE, "light")])
def test_axe_finds_nothing(visit, name, width, scheme):
    browser = visit(name, width, scheme)
    browser.execute_script(resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
    assert any(rule["id"] == "color-contrast" for rule in found["passes"])


def test_dark_surroundings_make_the_page_dark(visit):
    ground = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(visit(scheme="light").execute_script(ground)) > 200
    assert max(visit(scheme="dark").execute_script(ground)) < 60


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_a_click_on_a_kind_shows_that_kind_alone(visit, width):
    browser = visit(width=width)
    assert shown(browser) == rows(browser)
    for button in browser.find_elements(By.CSS_SELECTOR, "[data-filter]")[::-1]:  # ends with all of them
        kind = button.get_attribute("data-filter")
        button.click()
        assert shown(browser) == rows(browser, kind)
        pressed = browser.find_elements(By.CSS_SELECTOR, "[data-filter][aria-pressed=true]")
        assert pressed == [button]
        assert f"({len(shown(browser))})" in button.text
        told = browser.find_element(By.CSS_SELECTOR, "[role=status]").text
        assert told == f"{len(shown(browser))} of {len(rows(browser))} images are shown."


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_a_kind_is_chosen_by_keyboard(visit, key):
    browser = visit()
    tab_to(browser, "[data-filter=false-negative]")
    press(browser, key)
    assert shown(browser) == rows(browser, "false-negative")
    assert 0 < len(shown(browser)) < len(rows(browser))


def test_the_order_is_chosen_by_mouse_and_keeps_the_kind(visit):
    browser = visit()
    lowest = by_score(browser)
    select = Select(browser.find_element(By.ID, "order"))
    for value, expected in (("highest", lowest[::-1]), ("lowest", lowest), ("position", sorted(lowest))):
        select.select_by_value(value)
        assert shown(browser) == expected
    browser.find_element(By.CSS_SELECTOR, "[data-filter=true-positive]").click()
    select.select_by_value("highest")
    kept = rows(browser, "true-positive")
    assert shown(browser) == [row for row in lowest[::-1] if row in kept]


def test_the_order_is_chosen_by_keyboard(visit):
    browser = visit()
    lowest = by_score(browser)
    tab_to(browser, "#order")
    press(browser, Keys.ARROW_DOWN)
    assert shown(browser) == lowest[::-1]
    press(browser, Keys.ARROW_DOWN)
    assert shown(browser) == lowest


@pytest.mark.parametrize("by_keyboard", [False, True])
def test_overlays_lie_on_the_images_and_are_taken_off(visit, by_keyboard):
    browser = visit()
    image, overlay = browser.find_elements(By.CSS_SELECTOR, ".card:first-child img")
    assert image.rect == overlay.rect
    button = tab_to(browser, "#overlays") if by_keyboard else browser.find_element(By.ID, "overlays")
    for on in (False, True):
        press(browser, Keys.SPACE) if by_keyboard else button.click()
        assert overlay.is_displayed() == on
        assert image.is_displayed()
        assert button.get_attribute("aria-pressed") == str(on).lower()


def test_the_first_tab_leads_past_the_header(visit):
    browser = visit()
    press(browser, Keys.TAB)
    link = browser.switch_to.active_element
    assert link.text == "Skip to the content"
    assert link.rect["y"] >= 0
    press(browser, Keys.ENTER)
    assert browser.switch_to.active_element.tag_name == "main"
    press(browser, Keys.TAB)
    assert browser.execute_script("return document.activeElement.closest('main') !== null")


@pytest.mark.parametrize("name", PAGES)
def test_tab_reaches_everything_that_reacts_or_scrolls_and_shows_where_it_is(visit, name):
    browser = visit(name, PHONE)
    expected = browser.execute_script(
        "return [...document.querySelectorAll('a, button, select, .scroll')].filter((part) => part.offsetParent || "
        "part.className === 'skip')"
    )
    reached = []
    for _ in expected:
        press(browser, Keys.TAB)
        part = browser.switch_to.active_element
        assert part.value_of_css_property("outline-style") == "solid"
        reached.append(part)
    assert reached == expected


def test_without_a_program_all_images_and_overlays_are_seen(visit, browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        visit()
        assert not browser.find_element(By.ID, "controls").is_displayed()
        assert shown(browser) == rows(browser)
        image, overlay = browser.find_elements(By.CSS_SELECTOR, ".card:first-child img")
        assert overlay.is_displayed()
        assert overlay.rect["x"] >= image.rect["x"] + image.rect["width"]
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize(
    ("tag", "attribute", "value"),
    [
        ("script", "textContent", "window.intruder = true"),
        ("style", "textContent", "body { display: none }"),
        ("img", "src", "https://example.invalid/picture.png"),
    ],
)
def test_the_policy_stops_what_is_not_the_page_s_own(visit, tag, attribute, value):
    browser = visit()
    add = "const part = document.createElement(arguments[0]); part[arguments[1]] = arguments[2];"
    browser.execute_script(add + "document.body.append(part)", tag, attribute, value)
    assert browser.execute_script("return [window.intruder, document.body.offsetHeight > 0]") == [None, True]
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
