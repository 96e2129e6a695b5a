"""The site: it is whole, and reads well on a phone and on a desk, by day and by night, without a network."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

from rdslib.figures.report import write_report
from tests.docs import site
from tests.figures import browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tiny_home, tmp_path_factory):
    """The folder of the site, with a report of `tiny`."""
    place = tmp_path_factory.mktemp("site")
    report = write_report("tiny", tiny_home / "figures", place / "report.html")
    return site.build(place, {"tiny": report})


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(built):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=built)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def driver():
    browser.programs()
    with browser.home() as home, browser.chromium(home) as driver:
        yield driver


def test_every_page_fits_and_asks_for_nothing_from_elsewhere(built, address, driver):
    pages = sorted(path.relative_to(built) for path in built.rglob("*.html"))
    assert len(pages) > 15
    browser.requests(driver), browser.complaints(driver)
    for page in pages:
        with browser.screen(driver, 1280, 900):
            driver.get(f"{address}/{page}")
            assert browser.width_wanted(driver) == 1280, page
        with browser.screen(driver, 390, 844):
            assert browser.width_wanted(driver) == 390, page
        levels = [
            int(each.tag_name[1]) for each in driver.find_elements("css selector", "h1, h2, h3, h4, h5")
        ]
        assert levels.count(1) == 1, page
        assert all(below - above <= 1 for above, below in pairwise(levels)), page
        assert all(min(size) > 0 for size in browser.sizes(driver.find_elements("tag name", "img"))), page
    own = (f"{address}/", "data:", "blob:")
    assert [url for url in browser.requests(driver) if not url.startswith(own)] == []
    assert browser.complaints(driver) == []


def test_tables_of_guides_are_sorted(address, driver):
    driver.get(f"{address}/docs/reproduce.html")
    table = driver.find_element("css selector", "article table")
    names = browser.column(table, 0)
    browser.head(table, 0).click()
    assert browser.column(table, 0) == sorted(names) != names


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_site_goes_by_the_theme_that_a_reader_prefers(address, driver, theme):
    with browser.theme(driver, theme):
        driver.get(f"{address}/docs/methods.html")
        for part in ("article", "article a", "article table", "article pre code"):
            element = driver.find_element("css selector", part)
            ink = browser.brightness(element.value_of_css_property("color"))
            paper = driver.find_element("tag name", "body").value_of_css_property("background-color")
            assert (ink < browser.brightness(paper)) == (theme == "light")


def test_the_api_is_described(built):
    page = (built / "docs" / "api.html").read_text(encoding="utf-8")
    for name in ("rdslib.select", "rdslib.explain", *site.AUTHORS):
        assert f'id="{name}"' in page
    assert "Raises" in page


def test_a_link_that_leads_nowhere_fails(built, tmp_path, monkeypatch):
    lost = tmp_path / "CHANGELOG.md"
    lost.write_text("# Changes\n\n[nowhere](nowhere.md)\n", encoding="utf-8")
    gather = site.gather

    def gathered(pages, reports):
        gather(pages, reports)
        lost.replace(pages / "CHANGELOG.md")

    monkeypatch.setattr(site, "gather", gathered)
    with pytest.raises(site.subprocess.CalledProcessError):
        site.build(tmp_path, {})
