"""The report in a real browser: what its reader does, and what hostile data cannot do to it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from services.influence.worker.report import ReportSource, write_report
from tests.report_full import HOSTILE, full_source
from tests.report_sources import CREATED, JOB, Album, large_source

IDS = tuple(f"folder/sample-{place}.png" for place in range(7))
LABELS = tuple(f"class {place}" for place in range(7))
MAX_SECONDS = 4.0
"""Twice the promise, the best of three: other work on the machine must not fail this."""

Open = Callable[..., AbstractContextManager[Page]]


class Reports(NamedTuple):
    large: Path
    full: Path
    hostile: Path
    empty: Path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For this module only: while it is there, nothing else in this thread can run an event loop."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium on the PATH, which is not installed")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    folder = tmp_path_factory.mktemp("reports")
    found = Reports(*(folder / f"{name}.html" for name in Reports._fields))
    write_report(found.large, large_source(findings=2000))
    write_report(found.full, full_source(IDS, LABELS))
    write_report(found.hostile, full_source(HOSTILE, HOSTILE))
    write_report(found.empty, ReportSource(job=JOB, created=CREATED))
    return found


@pytest.fixture
def open_report(browser: Browser) -> Open:
    """Opens a report; fails where the page complains, or asks for anything outside its own file."""

    @contextmanager
    def opened(path: Path, fragment: str = "", **options: Any) -> Iterator[Page]:
        context = browser.new_context(viewport=options.pop("viewport", {"width": 1360, "height": 900}), **options)
        page = context.new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: faults.append(request.url) if _outside(request.url, path) else None)
        page.goto(path.as_uri() + fragment)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready]")
        yield page
        context.close()
        assert faults == []

    return opened


def _outside(url: str, path: Path) -> bool:
    return not url.startswith(("data:", path.as_uri()))


def _lay_everything_out(page: Page) -> None:
    """Sections off the screen, which the page leaves for later, too."""
    sections = page.locator("main > section")
    sections.evaluate_all("all => all.forEach((each) => (each.style.contentVisibility = 'visible'))")


def rows_of(page: Page, name: str) -> Locator:
    return page.locator(f'[data-listing="{name}"] tbody tr')


def listing(page: Page, name: str) -> Locator:
    return page.locator(f'[data-listing="{name}"]')


def test_two_thousand_findings_and_a_thousand_pictures_open_quickly(reports: Reports, open_report: Open) -> None:
    assert reports.large.stat().st_size < 15_000_000
    seconds = []
    for _ in range(3):
        with open_report(reports.large) as page:
            pictures = page.evaluate(
                "Object.keys(JSON.parse(document.getElementById('pictures').textContent).samples).length"
            )
            elements = page.evaluate("document.querySelectorAll('*').length")
            seconds.append(page.evaluate("performance.getEntriesByName('report-ready')[0].startTime") / 1000)
            expect(listing(page, "findings").locator(".tally")).to_have_text("2,000 rows")
            assert pictures >= 1000
            assert elements < 10_000  # only the pages that are shown
    assert min(seconds) < MAX_SECONDS


def test_a_click_and_a_key_sort(reports: Reports, open_report: Open) -> None:
    with open_report(reports.large) as page:
        head = listing(page, "issues").locator("th", has_text="Label wrong")
        for direction, first in (("descending", "train-000000"), ("ascending", "train-001099")):
            head.get_by_role("button").press("Enter") if direction == "ascending" else head.get_by_role(
                "button"
            ).click()
            assert head.get_attribute("aria-sort") == direction
            expect(rows_of(page, "issues").first).to_contain_text(first)
            expect(head.get_by_role("button")).to_be_focused()


def test_text_and_kinds_filter(reports: Reports, open_report: Open) -> None:
    with open_report(reports.large) as page:
        findings = listing(page, "findings")
        findings.get_by_role("button", name="label issue", exact=True).click()
        expect(findings.locator(".tally")).to_have_text("1,000 of 2,000 rows")
        findings.get_by_role("searchbox").fill("train-00012")
        expect(findings.locator(".tally")).to_have_text("10 of 2,000 rows")
        assert all("label issue" in text for text in rows_of(page, "findings").all_inner_texts())
        findings.get_by_role("searchbox").fill("no such thing")
        expect(findings).to_contain_text("Nothing matches the filter.")


def test_pages_turn(reports: Reports, open_report: Open) -> None:
    with open_report(reports.large) as page:
        findings = listing(page, "findings")
        before = rows_of(page, "findings").first.inner_text()
        findings.get_by_role("button", name="Next page").click()
        expect(findings.locator(".pager")).to_contain_text("Page 2 of 80")
        assert rows_of(page, "findings").first.inner_text() != before
        findings.get_by_role("button", name="Last page").click()
        expect(findings.get_by_role("button", name="Next page")).to_be_disabled()


def test_search_jumps_to_a_sample_and_from_there_to_its_row(reports: Reports, open_report: Open) -> None:
    with open_report(reports.large) as page:
        page.keyboard.press("/")
        page.keyboard.type("train-000777")
        expect(page.get_by_role("option").first).to_contain_text("train-000777")
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("heading").first).to_have_text("train-000777")
        assert page.url.endswith("#sample=train-000777")
        dialog.get_by_role("button", name="Label issues: place 778 of 4,000").click()
        expect(dialog).to_be_hidden()
        row = page.locator("tr.target")
        expect(row).to_contain_text("train-000777")
        expect(row).to_be_in_viewport()
        expect(row).to_be_focused()


def test_links_to_samples_and_classes_open(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full, "#sample=folder%2Fsample-1.png") as page:
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("test sample")  # the id stands in both splits
        expect(dialog).to_contain_text("train sample")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert "#" not in page.url
        page.goto(reports.full.as_uri() + "#sample=nobody")
        expect(dialog).to_contain_text("nothing about a sample of this id")
        page.goto(reports.full.as_uri() + "#class=class%200")
        expect(page.locator(".case.target")).to_contain_text("class 0")


@pytest.mark.parametrize("section", ["Label issues", "All findings", "Provenance"])
def test_navigation_lands_on_the_section(reports: Reports, open_report: Open, section: str) -> None:
    with open_report(reports.large) as page:
        link = page.get_by_role("navigation", name="Sections").get_by_role("link", name=section)
        link.click()
        target = page.locator(link.get_attribute("href") or "")
        expect(target.get_by_role("heading", level=2)).to_be_in_viewport()
        if section != "Provenance":  # the end of the page
            expect(link).to_have_attribute("aria-current", "true")
            assert 0 < target.evaluate("section => section.getBoundingClientRect().top") < 120


def test_an_id_can_be_copied(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full) as page:
        page.get_by_role("button", name="Copy sample id folder/sample-4.png").first.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("sample id copied")
        page.locator("#search").focus()
        page.keyboard.press("Control+V")
        expect(page.locator("#search")).to_have_value("folder/sample-4.png")


def test_the_keyboard_goes_through_rows(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full) as page:
        rows = rows_of(page, "issues")
        rows.first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        expect(rows.nth(2)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("folder/sample-2.png")
        page.keyboard.press("Escape")
        expect(rows.nth(2)).to_be_focused()
        page.keyboard.press("End")
        expect(rows.last).to_be_focused()


def test_the_first_tab_skips_to_the_content(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full) as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()


def _background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_dark_comes_from_the_system_and_from_the_switch(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full, color_scheme="dark") as page:
        dark = _background(page)
    with open_report(reports.full, color_scheme="light") as page:
        light = _background(page)
        switch = page.get_by_role("button", name="Theme")
        switch.click()
        assert _background(page) == light
        switch.click()
        assert _background(page) == dark != light
        assert page.evaluate("localStorage.getItem('eif-report-theme')") == "dark"
        # What is stored is there before the page is; a reload may come before the browser has written it.
        page.context.add_init_script("localStorage.setItem('eif-report-theme', 'dark')")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert _background(page) == dark


def test_hostile_ids_and_labels_stay_text(reports: Reports, open_report: Open) -> None:
    with open_report(reports.hostile) as page:
        assert page.evaluate("window.pwned === undefined")
        assert page.locator("img[onerror], script[src]").count() == 0
        assert page.locator("script").count() == 3
        for name in ("issues", "findings", "advice", "duplicates", "quality"):
            assert HOSTILE[0] in (listing(page, name).text_content() or "")
        assert HOSTILE[5] in (listing(page, "rollups").text_content() or "")
        for hostile in HOSTILE:
            page.evaluate("id => { location.hash = '#sample=' + encodeURIComponent(id) }", hostile)
            expect(page.get_by_role("dialog").locator("h2").first).to_have_text(
                re.compile(re.escape(hostile.split()[0]))
            )
            assert page.get_by_role("dialog").locator("h2 bdi").first.text_content() == hostile
            page.keyboard.press("Escape")
        _lay_everything_out(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_everything_has_a_name(reports: Reports, open_report: Open) -> None:
    with open_report(reports.hostile) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        images = page.locator("img")
        assert images.count() >= 20
        assert all(images.evaluate_all("all => all.map((image) => image.alt.length > 10)"))
        assert page.locator("svg.plot").count() == 4
        assert all(page.locator("svg.plot").evaluate_all("all => all.map((plot) => plot.getAttribute('aria-label'))"))
        named = "(each) => each.ariaLabel || each.textContent.trim() || each.querySelector('img[alt]')"
        assert page.locator("button, a").evaluate_all(f"all => all.filter((each) => !({named})(each)).length") == 0
        assert page.locator("input:not([aria-label]), select:not([aria-label])").count() == 0
        levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map((each) => Number(each.tagName[1]))")
        assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_overview_compares_with_the_previous_audit(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full) as page:
        expect(page.locator('[data-figure="recall_at_1"]')).to_contain_text("+5.0 points better")
        expect(page.locator('[data-figure="confusion_pairs"]')).to_contain_text("+1 worse")
        expect(page.locator(".verdict")).to_contain_text("FAIL")
        expect(page.locator(".changes")).to_contain_text("1 new")
        listing(page, "findings").get_by_role("button", name="fixed", exact=True).click()
        expect(rows_of(page, "findings")).to_have_count(1)


def test_a_confusion_shows_its_pair_who_is_behind_it_and_why(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full) as page:
        card = page.locator(".case").first
        expect(card).to_contain_text("0.125")
        assert card.locator(".harmful .score").all_inner_texts() == ["+1.50", "+0.500"]
        assert card.locator(".helpful .score").all_inner_texts() == [
            "\u22123.50",
            "\u22122.50",
            "\u22121.50",
            "\u22120.500",
        ]
        expect(card.locator(".harmful")).to_contain_text("rank 1 (1\u20136)")
        card.get_by_role("button", name="Why they look alike").click()
        picture = page.get_by_role("dialog").get_by_alt_text("Parts of")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 160


@pytest.mark.parametrize("width", [400, 700, 1000])
def test_nothing_sticks_out(reports: Reports, open_report: Open, width: int) -> None:
    for path in (reports.hostile, reports.large):
        with open_report(path, viewport={"width": width, "height": 900}) as page:
            _lay_everything_out(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_audit_without_findings_says_so(reports: Reports, open_report: Open) -> None:
    with open_report(reports.empty) as page:
        for section in page.locator("main > section").all():
            expect(section.locator(".empty").first).to_be_visible()
        expect(page.locator("table, .case, svg.plot")).to_have_count(0)


def test_paper_has_no_controls(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full, color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        expect(page.locator(".side")).to_be_hidden()
        expect(page.locator(".bar").first).to_be_hidden()
        assert _background(page) == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(26, 31, 39)"


def test_figures_and_plots_need_no_javascript(reports: Reports, open_report: Open) -> None:
    with open_report(reports.full, java_script_enabled=False) as page:
        expect(page.locator(".card").first).to_be_visible()
        expect(page.locator("svg.plot").first).to_be_visible()
        assert "need JavaScript" in (page.locator("noscript").text_content() or "")


def test_motion_is_left_out_where_it_is_unwanted(reports: Reports, open_report: Open) -> None:
    for wish, seconds in (("reduce", "0s"), ("no-preference", "0.2s")):
        with open_report(reports.full, reduced_motion=wish) as page:
            assert page.evaluate("getComputedStyle(document.getElementById('status')).transitionDuration") == seconds


def test_foreign_scripts_and_styles_do_not_run(reports: Reports, open_report: Open, tmp_path: Path) -> None:
    text = reports.full.read_text().replace("<main ", "<script>window.pwned = 1</script><main ", 1)
    changed = tmp_path / "changed.html"
    changed.write_text(text)
    with pytest.raises(AssertionError, match="Content Security Policy"), open_report(changed) as page:
        assert page.evaluate("window.pwned") is None


def test_pictures_are_asked_for_by_need(tmp_path: Path) -> None:
    album = Album()
    write_report(tmp_path / "report.html", large_source(findings=400, album=album))
    assert ("train", "train-000000") in album.asked[:40]
    assert len(album.asked) == len(set(album.asked))
