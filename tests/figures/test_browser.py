"""What a person sees: notebooks in JupyterLab and the report, in a real browser without a network."""

from __future__ import annotations

import re
import shutil
from itertools import pairwise
from pathlib import Path

import papermill
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from rdslib.figures import FIGURES, draw
from rdslib.figures.base import human
from rdslib.figures.notebook import run_notebooks
from rdslib.figures.report import write_report
from rdslib.figures.typeset import Cell, Part, Tables
from tests.figures import browser

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(request):
    """A user who has all of `tiny` but its selections, which notebooks then make."""
    browser.programs()
    artifacts = request.getfixturevalue("tiny_home") / "artifacts"
    with browser.home() as home:
        there = Path(home.environment["RDSLIB_HOME"]) / artifacts.name
        shutil.copytree(artifacts, there, ignore=shutil.ignore_patterns("select"))
        yield home


@pytest.fixture(scope="module")
def lab(home):
    with browser.jupyterlab(home, NOTEBOOKS) as lab:
        yield lab


@pytest.fixture(scope="module")
def driver(home):
    with browser.chromium(home) as driver:
        yield driver


@pytest.fixture
def open_notebook(driver, lab):
    """Opens a notebook by its name; its kernel ends with the test."""
    yield lambda name: browser.Notebook(driver, lab, name)
    driver.get("about:blank")
    lab.stop_kernels()


# Of each kind one: points, shares, a table of scores, a table of counts.
IN_REPORT = ["fig1_pareto", "fig7_sources_by_method", "tab1_single_task", "tab5_pool_sources"]


@pytest.fixture(scope="module")
def report(home):
    """The page of some figures and tables of `tiny`."""
    folder = home.folder / "figures"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDSLIB_HOME", home.environment["RDSLIB_HOME"])
        assert [name for name, _ in run_notebooks(IN_REPORT, "tiny", "both", folder)] == IN_REPORT
    return write_report("tiny", folder, home.folder / "report.html")


@pytest.fixture(params=[(390, 844), (1280, 900)], ids=["phone", "desktop"])
def screen(driver, request):
    """The browser on a screen of this width and height."""
    with browser.screen(driver, *request.param):
        yield request.param


def set_parameters(lab, name, **parameters):
    """Write parameters into the lab's copy of a notebook, as `rds run` gives them."""
    path = str(lab.folder / name)
    papermill.execute_notebook(path, path, parameters, prepare_only=True, progress_bar=False)


def test_a_figure_appears(open_notebook, tmp_path):
    """As a newcomer does it: the parameters are typed over, then Run All Cells."""
    notebook = open_notebook("fig1_pareto.ipynb")
    notebook.replace('"mini"', "tiny")
    notebook.replace("None", f'"{tmp_path}"')
    notebook.run_all()
    assert notebook.headings()[0].startswith("Figure 1: ")
    ((width, height),) = notebook.pictures()
    assert width > 300
    assert height > 200
    assert "minus Random (bal.)" in notebook.outputs()
    assert {f"fig1_pareto.{kind}" for kind in ("png", "svg", "csv", "json")} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_a_table_appears(open_notebook, lab, tmp_path):
    set_parameters(lab, "tab1_single_task.ipynb", profile="tiny", out=str(tmp_path))
    notebook = open_notebook("tab1_single_task.ipynb")
    notebook.run_all()
    assert notebook.headings()[0].startswith("Table 1: ")
    published, measured, numbers = notebook.tables()
    assert ["Random (bal.)", "42.2", "41.1"] in published
    assert [cell.split("\n")[0] for cell in measured[0]] == ["Method", "Sums", "Reverse", "Average"]
    cells = [cell for row in measured if row[0] == "RDS+" for cell in row[1:]]
    # From two pools, for two tasks and on average; each score has its interval in small print under it.
    assert len(cells) == 2 * 3
    assert all(re.fullmatch(r"[\d.]+\n[\d.]+ to [\d.]+", cell) for cell in cells)
    assert numbers[0][:3] == ["origin", "pool", "selected"]
    # A table of a notebook that was just run can be sorted.
    (table, *_) = notebook.all(".jp-OutputArea-output table")
    before = browser.column(table, 0)
    browser.head(table, 2).click()
    notebook.wait(lambda: browser.column(table, 0) != before, "the rows stay")
    scores = [float(cell) for cell in browser.column(table, 2) if cell != "\N{EN DASH}"]
    assert scores == sorted(scores)


def test_widgets_answer(open_notebook, lab, driver, home):
    """In each part another choice shows something else, and nothing is fetched from elsewhere."""
    set_parameters(lab, "explore.ipynb", profile="tiny")
    browser.requests(driver)
    notebook = open_notebook("explore.ipynb")
    notebook.run_all()

    near = notebook.part("1.")
    assert "Nearest to it by RDS+" in near.text()
    by_rds = near.rows()
    assert by_rds
    other = next(name for name in near.choices("Method") if name != "RDS+")
    near.choose("Method", other)
    notebook.wait(lambda: f"Nearest to it by {other}" in near.text(), "the method stays")
    to_first = near.rows()
    assert len(to_first) == len(by_rds)
    assert to_first != by_rds
    query = next(each for each in near.choices("Query") if each != near.chosen("Query"))
    near.choose("Query", query)
    # The choice is the query's number and its beginning, in one line.
    notebook.wait(lambda: query.partition(": ")[2] in " ".join(near.text().split()), "the query stays")
    notebook.wait(lambda: near.rows() != to_first, "the samples stay")

    for heading in ("2.", "4."):
        drawn = notebook.part(heading)
        shown = drawn.picture()
        drawn.choose("Method", drawn.choices("Method")[0])
        shown = drawn.another_picture(shown)
        drawn.type_number("Budget", 5)
        drawn.another_picture(shown)

    # The mouse meets, over the map, the names of points.
    mark = notebook.part("4.").marks()[0]
    assert browser.words_at(mark) == ""
    ActionChains(driver).move_to_element(mark).perform()
    assert ", " in browser.words_at(mark)

    compared = notebook.part("3.")
    rows = compared.rows()
    first = compared.choices("First")[1]
    compared.choose("First", first)
    notebook.wait(lambda: f"{first} only" in compared.text(), "the method stays")
    assert compared.rows() != rows
    rows = compared.rows()
    compared.type_number("Budget", 7)
    notebook.wait(lambda: "Of 7 samples each" in compared.text(), "the budget stays")
    assert compared.rows() != rows

    saved = home.folder / "saved"
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(saved)})
    notebook.all("a[download]")[0].click()
    notebook.wait(lambda: len([*saved.glob("picks-*-5.csv")]) == 1, "the picks are not saved")

    # In a dark theme words stand out, and in a narrow window nothing is cut off.
    notebook.use_theme("JupyterLab Dark")
    paper = notebook.all(".jp-OutputArea-output")[0].value_of_css_property("background-color")
    for part in ("table th", "table td", ".widget-label", ".widget-html-content p", "a[download]", "select"):
        ink = notebook.all(f".jp-OutputArea-output {part}")[0].value_of_css_property("color")
        assert browser.brightness(ink) - browser.brightness(paper) > 250, part
    with browser.screen(driver, 700, 900):
        wide = (
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.scrollWidth > e.clientWidth)"
        )
        for part in (".widget-hbox", ".widget-vbox", ".rds-shown"):
            assert driver.execute_script(wide, f".jp-OutputArea-output {part}") == [], part

    asked = browser.requests(driver)
    assert asked
    assert [url for url in asked if not url.startswith((lab.url, "data:", "blob:"))] == []


def test_the_report_opens_from_disk(report, driver, screen):
    width, height = screen
    browser.requests(driver), browser.complaints(driver)
    driver.get(report.as_uri())
    assert browser.width_wanted(driver) == width
    driver.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.width_wanted(driver) == width

    headings = driver.find_elements("css selector", "h1, h2, h3, h4, h5, h6")
    levels = [int(each.tag_name[1]) for each in headings]
    assert all(each.text for each in headings)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert levels.count(2) == len(IN_REPORT) + 1
    assert all(not each.get_attribute("src") for each in driver.find_elements("tag name", "script"))

    pictures = driver.find_elements("tag name", "img")
    assert pictures
    assert all(each.get_attribute("alt").strip() for each in pictures)
    assert all(min(size) > 0 for size in browser.sizes(pictures))

    links = driver.find_elements("css selector", "nav a")
    assert len(links) == len(IN_REPORT)
    for link in links:
        link.click()
        target = driver.find_element("css selector", ":target")
        assert target.text.startswith(link.text.split("\n")[0])
        top = driver.execute_script("return arguments[0].getBoundingClientRect().y", target)
        contents = driver.find_element("css selector", "nav")
        box = driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", contents)
        # The contents stay in view, and hide nothing.
        assert box["top"] >= 0
        assert -1 < top < height
        assert top >= box["bottom"] or box["right"] < width / 2
    assert {url.partition(":")[0] for url in browser.requests(driver)} == {"file", "data"}
    assert browser.complaints(driver) == []


def test_the_report_begins_with_what_was_found_who_and_where(report, driver, screen):
    driver.get(report.as_uri())
    above = "//main/p[not(preceding-sibling::section)]"
    texts = [each.text for each in driver.find_elements("xpath", above)]
    assert texts[0].startswith("Published in the paper, 10k samples of 5.8M, picked for one task at a time: ")
    assert "the best of 8 methods is RDS+, with 50.5" in texts[0]
    assert re.search(r"RDS\+ is [\d.]+ (above|below) Random \(bal.\) \(95% interval of the diff", texts[1])
    assert "Ivison" in texts[2]
    links = [each.get_attribute("href") for each in driver.find_elements("xpath", f"{above}//a")]
    assert [link.split("/")[2] for link in links] == ["arxiv.org", "github.com", "huggingface.co"]


RUDE = "<img src=x onerror='document.title=1'>"
SCORES = {
    RUDE: "0.9", "Ten": "10", "Minus": "\N{MINUS SIGN}3.5", "None": "\N{EN DASH}", "Empty": "",
    "Large": "1,234", "Small": "12.5 to 20", "k": "2k",
}  # fmt: skip


def test_tables_are_sorted_by_click_and_by_key(home, driver):
    rows = [[Cell(name), Cell(score, "9 to 10")] for name, score in SCORES.items()]
    groups = [[Cell("First", bold=True), Cell("")], *rows, [Cell("Second", bold=True), Cell("")]]
    groups += [[Cell("b"), Cell("2")], [Cell("a"), Cell("1")], [Cell("Total"), Cell("3")]]
    page = home.folder / "sorted.html"
    tables = Tables([Part(RUDE, [], [Cell(RUDE), Cell("Score", "n = 8")], groups)], [])
    page.write_text(f"<title>0</title>{tables._repr_html_() * 2}", encoding="utf-8")
    browser.requests(driver), browser.complaints(driver)
    driver.get(page.as_uri())
    first, second = driver.find_elements("tag name", "table")

    def shown():
        return [cell.split("\n")[0] for cell in browser.column(first, 0)]

    before = shown()
    up = ["Minus", RUDE, "Ten", "Small", "Large", "k"]
    missing = ["None", "Empty"]
    rest = ["Second", "a", "b", "Total"]
    browser.head(first, 1).click()
    assert shown() == ["First", *up, *missing, *rest]
    assert browser.head(first, 1).find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    browser.head(first, 1).send_keys(Keys.ENTER)
    assert shown() == ["First", *up[::-1], *missing, "Second", "b", "a", "Total"]
    browser.head(first, 1).send_keys(Keys.SPACE)
    assert shown() == before
    # By name, and the other table stays.
    browser.head(first, 0).click()
    assert shown() == ["First", *sorted(SCORES, key=str.casefold), *rest]
    assert browser.column(second, 0) == before
    # By keys alone.
    driver.execute_script("document.activeElement.blur()")
    ActionChains(driver).send_keys(Keys.TAB).perform()
    assert "rds-sort" in driver.switch_to.active_element.get_attribute("class")
    assert driver.title == "0"
    assert not driver.find_elements("tag name", "img")
    assert {url.partition(":")[0] for url in browser.requests(driver)} == {"file"}
    assert browser.complaints(driver) == []


def test_tables_of_the_report_are_sorted(report, driver):
    driver.get(report.as_uri())
    table = driver.find_elements("css selector", "section[aria-labelledby=tab5_pool_sources] table")[0]
    before = browser.column(table, 0)
    browser.head(table, 0).click()
    assert browser.column(table, 0) == [*sorted(before[:-1], key=str.casefold), "Total"]


@pytest.mark.parametrize("name", ["fig1_pareto", "fig3_flops", "fig4_scaling"])
def test_points_name_themselves(name, home, driver, screen):
    rows = FIGURES[name].published()
    rows = rows.assign(method=rows["method"].replace("rds", RUDE)).dropna(subset="score")
    page = home.folder / "figure.html"
    page.write_text(f"<title>0</title>{draw(name, rows)._repr_html_()}", encoding="utf-8")
    browser.requests(driver), browser.complaints(driver)
    driver.get(page.as_uri())
    points = driver.find_elements("css selector", ".rds-point")
    assert len(points) == len(rows)
    assert not any(map(browser.words_at, points))
    ActionChains(driver).move_to_element(points[-1]).perform()
    assert browser.words_at(points[-1]) == points[-1].get_attribute("aria-label")
    # By keys: one at a time, each with all that is known of it.
    ActionChains(driver).move_to_element_with_offset(points[0], 0, 60).perform()
    words = []
    for point in points:
        ActionChains(driver).send_keys(Keys.TAB).perform()
        assert driver.switch_to.active_element == point
        words.append(browser.words_at(point).split("\n"))
    assert {first for first, *_ in words} >= {RUDE, "Random (bal.)"}
    budgets = {
        f"{human(row.budget)} samples selected from {human(row.pool_size)}" for row in rows.itertuples()
    }
    assert {second for _, second, *_ in words} == budgets
    scores = {f"mean score of 7 tasks: {score:.1f}" for score in rows["score"]}
    assert {third for _, _, third, _ in words} == scores
    assert all(
        re.fullmatch(r"[\d.]+\N{MULTIPLICATION SIGN}10[⁰¹²³⁴⁵⁶⁷⁸⁹]+ FLOPs", fourth) for *_, fourth in words
    )
    assert driver.title == "0"
    assert len(driver.find_elements("tag name", "img")) == 1
    assert {url.partition(":")[0] for url in browser.requests(driver)} == {"file", "data"}
    assert browser.complaints(driver) == []


def test_both_panels_of_the_report_are_seen(report, driver, screen):
    width, _ = screen
    driver.get(report.as_uri())
    published, measured = driver.find_elements("css selector", "section[aria-labelledby=fig1_pareto] img")
    boxes = [
        driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", each)
        for each in (published, measured)
    ]
    assert all(0 <= box["left"] < box["right"] <= width for box in boxes)
    assert (boxes[0]["bottom"] <= boxes[1]["top"]) == (width < 600)
    assert "Measured here" in measured.get_attribute("alt")


def test_the_report_has_a_dark_theme(report, driver):
    colours = {}
    for name in ("light", "dark"):
        with browser.theme(driver, name):
            driver.get(report.as_uri())
            for part in ("body", "nav a", "pre", "section p"):
                ink = driver.find_element("css selector", part).value_of_css_property("color")
                paper = driver.find_element("tag name", "body").value_of_css_property("background-color")
                colours[name, part] = [browser.brightness(each) for each in (ink, paper)]
    assert all((ink < paper) == (theme == "light") for (theme, _), (ink, paper) in colours.items())
    assert all(abs(ink - paper) > 250 for ink, paper in colours.values())
