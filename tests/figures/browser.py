"""JupyterLab and a real browser, as tests run them: in folders of their own, with nothing left running."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException, WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

# Seconds after which what hangs is given up. Nothing is measured by them.
PATIENCE = 60
RUN_PATIENCE = 300
SETTINGS = {
    # Outputs stay in the page when they are scrolled out of sight.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}

# An error looks like other text on standard error, so the page's own model of the notebook is asked.
_FIRST_ERROR = """
    const cells = window.jupyterapp.shell.currentWidget.content.model.toJSON().cells;
    for (const [place, cell] of cells.entries())
        for (const output of cell.outputs ?? [])
            if (output.output_type === "error")
                return [place, `${output.ename}: ${output.evalue}`];
    return null;
"""
_PIXELS = """
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [arguments[0].naturalWidth, arguments[0].naturalHeight];
    canvas.getContext("2d").drawImage(arguments[0], 0, 0);
    return canvas.toDataURL();
"""


def programs() -> tuple[str, str]:
    """The paths of Chromium and its driver. Without them a test is skipped, or fails where CI is set."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = "no browser; apt-get install chromium chromium-driver"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Home:
    """A made-up user's folder, and the environment of what runs there."""

    folder: Path
    environment: dict[str, str]


@contextmanager
def home() -> Iterator[Home]:
    """A new user with empty settings. At the end every process of theirs is killed and the folder removed."""
    with tempfile.TemporaryDirectory(prefix="rdslib-browser-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        places = (
            "TMPDIR",
            "XDG_CONFIG_HOME",
            "XDG_CACHE_HOME",
            "XDG_DATA_HOME",
            "XDG_RUNTIME_DIR",
            "IPYTHONDIR",
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "MPLCONFIGDIR",
            "RDSLIB_HOME",
        )
        own = {place: f"{name}/{place.lower()}" for place in places}
        for path in own.values():
            Path(path).mkdir()
        foreign = ("JUPYTER", "JPY_", "IPY", "MPL", "XDG_", "HF_", "RDSLIB_")
        others = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        try:
            yield Home(folder, {**others, **own, "HOME": name, "HF_HUB_OFFLINE": "1"})
        finally:
            # More than once: one may just be starting another.
            for _ in range(10):
                family = _family(name)
                for process in family:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(family, timeout=5)
            assert not family, f"still running: {family}"


def _family(folder: str) -> set[psutil.Process]:
    """Every process whose home is `folder`, and what they have started."""
    found = set()
    for process in psutil.process_iter():
        # A process that is ending, or another user's, has no environment to be read.
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("HOME") == folder:
                found |= {process, *process.children(recursive=True)}
    return found


@contextmanager
def chromium(home: Home) -> Iterator[WebDriver]:
    """A headless Chromium that reaches this machine alone."""
    browser, driver_path = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        "disable-extensions",
        "disable-background-networking",
        "disable-component-update",
        "no-first-run",
        "no-proxy-server",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"user-data-dir={home.folder / 'chromium'}",
        "window-size=1280,1000",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The path is given, so that Selenium looks for no driver and downloads none.
    service = webdriver.ChromeService(driver_path, env=home.environment)
    driver = webdriver.Chrome(options, service)
    try:
        # The browser's own first page loads things of its own.
        driver.get("about:blank")
        yield driver
    finally:
        with suppress(WebDriverException):
            driver.quit()


@contextmanager
def screen(driver: WebDriver, width: int, height: int) -> Iterator[None]:
    """In the meantime, a screen of another size; a narrow one is a phone's."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@contextmanager
def theme(driver: WebDriver, name: str) -> Iterator[None]:
    """In the meantime, what the person prefers: light or dark."""
    wanted = {"features": [{"name": "prefers-color-scheme", "value": name}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def brightness(colour: str) -> int:
    """The sum of red, green and blue, of at most 255 each, of a colour as the browser computes it."""
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def width_wanted(driver: WebDriver) -> int:
    """How wide a page needs the window to be so that it does not scroll sideways, as it is laid out now."""
    return driver.execute_script("""
        const page = document.documentElement;
        return window.innerWidth + page.scrollWidth - page.clientWidth""")


def requests(driver: WebDriver) -> list[str]:
    """The addresses that pages have asked for since this was last called."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    # A data: address is as long as its picture.
    return [each["request"]["url"][:200] for each in sent]


def complaints(driver: WebDriver) -> list[str]:
    """Warnings and errors of the console since this was last called."""
    entries = driver.get_log("browser")
    return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]


def head(table: WebElement, column: int) -> WebElement:
    """What is clicked on to sort a table by a column."""
    return table.find_elements(By.CSS_SELECTOR, "thead th > button")[column]


def column(table: WebElement, number: int) -> list[str]:
    """The words of a column of a table, without its head."""
    cells = table.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({number + 1})")
    return [each.text.split("\n")[0] for each in cells]


def words_at(point: WebElement) -> str:
    """What a point of a picture shows beside itself; nothing while it is not met."""
    words = """const shown = getComputedStyle(arguments[0], "::after");
        return shown.display === "none" || shown.content === "none" ? "" : arguments[0].ariaLabel;"""
    return point.parent.execute_script(words, point)


def sizes(pictures: list[WebElement]) -> list[tuple[int, int]]:
    """The natural widths and heights of pictures; 0 for one that is broken."""
    for each in pictures:
        WebDriverWait(each.parent, PATIENCE).until(lambda _, each=each: each.get_property("complete"))
    return [(each.get_property("naturalWidth"), each.get_property("naturalHeight")) for each in pictures]


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that runs, and the folder of its notebooks."""

    url: str
    token: str
    folder: Path

    def request(self, path: str, method: str = "GET") -> Any:
        """Ask the server's own interface; returns what it answers."""
        # Past any proxy that the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        headers = {"Authorization": f"token {self.token}"}
        question = urllib.request.Request(f"{self.url}api/{path}", method=method, headers=headers)
        with opener.open(question, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or "null")

    def stop_kernels(self) -> None:
        """End the notebooks' processes."""
        for session in self.request("sessions"):
            self.request(f"sessions/{session['id']}", "DELETE")


@contextmanager
def jupyterlab(home: Home, notebooks: Path) -> Iterator[Lab]:
    """A JupyterLab on a free port, over a copy of `notebooks`."""
    folder = home.folder / "notebooks"
    shutil.copytree(notebooks, folder, ignore=shutil.ignore_patterns(".*"))
    for name, settings in SETTINGS.items():
        path = home.folder / f"jupyter_config_dir/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    token = secrets.token_hex(16)
    options = {
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.extension_manager": "readonly",
        "ServerApp.allow_root": True,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.open_browser": False,
        "ServerApp.port": 0,
        "ServerApp.root_dir": folder,
    }
    command = [sys.executable, "-m", "jupyterlab", *(f"--{key}={value}" for key, value in options.items())]
    log = home.folder / "jupyterlab.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=home.environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )
    try:
        # The server writes where it is once it listens.
        written = home.folder / f"jupyter_runtime_dir/jpserver-{process.pid}.json"
        deadline = time.monotonic() + PATIENCE
        while not (written.is_file() and written.read_text("utf-8").endswith("}")):
            assert process.poll() is None, f"JupyterLab ended:\n{log.read_text('utf-8')}"
            assert time.monotonic() < deadline, f"JupyterLab does not start:\n{log.read_text('utf-8')}"
            time.sleep(0.1)
        yield Lab(json.loads(written.read_text("utf-8"))["url"], token, folder)
    finally:
        process.kill()
        process.wait()


class Notebook:
    """A notebook in the browser, worked with as a person does: by mouse, keys and menus."""

    def __init__(self, driver: WebDriver, lab: Lab, name: str) -> None:
        """Open `name` in a JupyterLab with nothing else open, and wait until it is all there."""
        self.driver = driver
        cells = json.loads((lab.folder / name).read_text("utf-8"))["cells"]
        driver.get(f"{lab.url}lab/tree/{name}?reset&token={lab.token}")
        self.wait(lambda: len(self.all(".jp-Notebook-cell")) == len(cells), f"{name} does not open")
        self.wait(self._is_idle, "the kernel does not start")

    def wait(self, done: Callable[[], Any], otherwise: str, patience: float = PATIENCE) -> Any:
        """Wait until `done()` is true, and return it. Fails with `otherwise` when it never is."""
        waiting = WebDriverWait(self.driver, patience, 0.2, [StaleElementReferenceException])
        try:
            return waiting.until(lambda _: done())
        except TimeoutException:
            raise AssertionError(f"after {patience} s: {otherwise}") from None

    def all(self, selector: str) -> list[WebElement]:
        """The elements of the notebook that a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, f".jp-NotebookPanel {selector}")

    def replace(self, old: str, new: str) -> None:
        """Double-click a word of a code cell, and type another."""
        path = f"//div[contains(@class, 'jp-CodeCell')]//*[contains(@class, 'cm-line')]//span[text()='{old}']"
        # A first click makes the cell one that is edited, which draws its words anew.
        self.driver.find_element(By.XPATH, path).click()
        word = self.wait(lambda: self.driver.find_element(By.XPATH, path), f"{old} is gone")
        ActionChains(self.driver).double_click(word).send_keys(new).perform()

    def run_all(self) -> None:
        """Choose Run All Cells in the menu Run, and wait until every code cell has run without an error."""
        menus = self.driver.find_elements(By.CSS_SELECTOR, ".lm-MenuBar-item")
        next(menu for menu in menus if menu.text == "Run").click()
        item = ".lm-Menu-item[data-command='runmenu:run-all']"
        self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, item), "the menu does not open")
        self.driver.find_element(By.CSS_SELECTOR, item).click()
        self.wait(self._has_run, "the notebook does not end", RUN_PATIENCE)
        self.assert_no_error()

    def use_theme(self, name: str) -> None:
        """Choose a theme, as in the menu Settings."""
        choose = "return window.jupyterapp.commands.execute('apputils:change-theme', {theme: arguments[0]})"
        self.driver.execute_script(choose, name)
        chosen = "return document.body.dataset.jpThemeName"
        self.wait(lambda: self.driver.execute_script(chosen) == name, "the theme stays")

    def outputs(self) -> str:
        """The words of all outputs."""
        return "\n".join(each.text for each in self.all(".jp-OutputArea-output"))

    def assert_no_error(self) -> None:
        """Fail with the first error that a cell ends in, scrolled to where a screenshot has it."""
        if found := self.driver.execute_script(_FIRST_ERROR):
            place, error = found
            self.driver.execute_script("arguments[0].scrollIntoView()", self.all(".jp-Notebook-cell")[place])
            raise AssertionError(f"cell {place + 1} ends in {error}")

    def headings(self) -> list[str]:
        """The headings of the Markdown cells, without the sign of a link that follows each."""
        return [each.text.rstrip("\N{PILCROW SIGN}") for each in self.all(".jp-MarkdownCell :is(h1, h2, h3)")]

    def part(self, heading: str) -> Part:
        """What the code cell after a heading shows."""
        path = (
            f"//div[contains(@class, 'jp-MarkdownCell')][.//h2[starts-with(., '{heading}')]]"
            "/following-sibling::div[contains(@class, 'jp-CodeCell')][1]"
            "//div[contains(@class, 'jp-OutputArea-output')]"
        )
        shown = self.wait(lambda: self.driver.find_elements(By.XPATH, path), f"no output after {heading!r}")
        return Part(self, shown[0])

    def pictures(self) -> list[tuple[int, int]]:
        """The natural width and height of each picture in an output; 0 if it is none."""
        return sizes(self.all(".jp-OutputArea-output img"))

    def tables(self) -> list[list[list[str]]]:
        """The words of each HTML table in an output: its rows, and their cells."""
        words = """return [...document.querySelectorAll(".jp-NotebookPanel .jp-OutputArea-output table")].map(
            table => [...table.rows].map(row => [...row.cells].map(cell => cell.innerText)))"""
        return self.driver.execute_script(words)

    def _is_idle(self) -> bool:
        return bool(self.all(".jp-Notebook-ExecutionIndicator[data-status='idle']"))

    def _has_run(self) -> bool:
        """Whether every code cell has its number; at once if one has failed, as no further ones will run."""
        self.assert_no_error()
        # A kernel that has died is told of in a dialog.
        dialogs = [each.text for each in self.driver.find_elements(By.CSS_SELECTOR, ".jp-Dialog")]
        assert not dialogs, dialogs[0]
        prompts = [each.text for each in self.all(".jp-CodeCell .jp-InputPrompt")]
        return self._is_idle() and all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts)


class Part:
    """Widgets under one heading, and what they show."""

    def __init__(self, notebook: Notebook, output: WebElement) -> None:
        self.notebook = notebook
        self._output = output
        notebook.wait(lambda: self._all(".jupyter-widgets"), "no widgets appear")

    def choices(self, label: str) -> list[str]:
        """What the dropdown with a label offers."""
        return [option.text for option in self._dropdown(label).options]

    def chosen(self, label: str) -> str:
        """What is chosen in the dropdown with a label."""
        return self._dropdown(label).first_selected_option.text

    def choose(self, label: str, option: str) -> None:
        """Choose an option of the dropdown with a label."""
        self._dropdown(label).select_by_visible_text(option)

    def type_number(self, label: str, number: int) -> None:
        """Type over the number beside the slider with a label."""
        shown = self._control(label).find_element(By.CSS_SELECTOR, ".widget-readout")
        keys = ActionChains(self.notebook.driver).double_click(shown)
        keys.send_keys(str(number), Keys.ENTER).perform()

    def text(self) -> str:
        """The words that the controls show."""
        return "\n".join(each.text for each in self._all(".widget-html-content"))

    def rows(self) -> list[str]:
        """The rows of the tables, without their heads."""
        return [each.text for each in self._all(".widget-html-content tr:has(td)")]

    def picture(self) -> str:
        """The picture's pixels, as text that can be compared."""
        (shown,) = self._all("img")
        assert min(sizes([shown])[0]) > 0, "the picture is broken"
        return self.notebook.driver.execute_script(_PIXELS, shown)

    def marks(self) -> list[WebElement]:
        """What lies over the picture and says on hover what it is; the topmost first."""
        return self._all(".rds-point")[::-1]

    def another_picture(self, before: str) -> str:
        """The picture, once it is another one than before."""
        self.notebook.wait(lambda: self.picture() != before, "the picture stays")
        return self.picture()

    def _all(self, selector: str) -> list[WebElement]:
        return self._output.find_elements(By.CSS_SELECTOR, selector)

    def _control(self, label: str) -> WebElement:
        found = [each for each in self._all(".widget-inline-hbox") if each.text.split("\n")[0] == label]
        assert len(found) == 1, f"{len(found)} controls are labelled {label!r}"
        return found[0]

    def _dropdown(self, label: str) -> Select:
        return Select(self._control(label).find_element(By.TAG_NAME, "select"))
