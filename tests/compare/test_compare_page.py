"""comparison.html in a headless browser."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT
from helpers.records import make_run
from PIL import Image

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

COLOR_SCHEME = "prefers-color-scheme"
OPTIONS = ["headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"]
OPTIONS += ["disable-component-update", "disable-sync", "window-size=1400,1000"]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two protocols; three objectives and two models under the first."""
    runs, out = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("out")
    for k, nll in ((1, 87.0), (5, 86.0), (50, 85.0)):
        for seed in (0, 1):
            make_run(runs, k=k, nll=nll + seed / 10, seed=seed, pictures=True)
        make_run(runs, k=k, nll=nll + 1, objective="vae", pictures=True, ais_gain=0.4)
        folder = make_run(runs, k=k, nll=nll - 1.5, model="two_layer", pictures=True, encoder_gaps=(1.25, 0.5))
        Image.new("RGB", (585, 1245)).save(folder / "figures" / "posteriors.png")
    make_run(runs, objective="vr</script><b>x", k=50, nll=84.0, objective__alpha=0.5)
    make_run(runs, protocol="omniglot/burda", nll=108.0)
    make_run(runs, seed=5, status="failed", error="it broke")
    return write(runs, out)


def write(runs: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "iwae_lab.compare", str(runs), "--out", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return out / "comparison.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    for option in [*OPTIONS, f"user-data-dir={profile.name}"]:
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
        profile.cleanup()


@pytest.fixture
def page(browser: Any, page_path: Any) -> Iterator[Any]:
    """The page, freshly loaded; afterwards there must be no console error and no request but for the page."""
    browser.get_log("performance")
    browser.get(page_path.as_uri())
    wait_for(browser, "return document.querySelectorAll('#curves .scatterlayer .trace').length > 0")
    yield browser
    assert browser.get_log("browser") == []
    requested = [entry["message"] for entry in browser.get_log("performance")]
    requested = [message for message in requested if '"Network.requestWillBeSent"' in message]
    assert all("comparison.html" in message or '"url":"data:' in message for message in requested)
    assert requested


def wait_for(browser: Any, script: str) -> None:
    for _ in range(100):
        if browser.execute_script(script):
            return
        time.sleep(0.05)
    raise AssertionError(f"still false: {script}")


def column(browser: Any, table: str, index: int) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(cell => cell.innerText)"
    return browser.execute_script(script, f"#{table} tbody td:nth-child({index})")


def click(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_tables_sort(page):
    click(page, "#results th:nth-child(5) button")  # k=50
    found = [float(text.split()[0]) for text in column(page, "results", 5)]
    assert found == sorted(found) and len(found) == 4
    click(page, "#results th:nth-child(5) button")
    assert [float(text.split()[0]) for text in column(page, "results", 5)] == found[::-1]
    assert page.execute_script("return document.querySelector('#results th:nth-child(5)').ariaSort") == "descending"
    click(page, "#results th:nth-child(3) button")  # k=1, which one row lacks: it comes last
    assert column(page, "results", 3)[-1] == ""
    click(page, "#runs th:nth-child(4) button")
    ks = [int(text) for text in column(page, "runs", 4)]
    assert ks == sorted(ks)


def test_a_filter_chooses_rows_runs_lines_and_grids(page):
    box = page.find_element("id", "filter")
    box.send_keys("iwae one_layer k=5")
    wait_for(page, "return document.getElementById('count').innerText === '2 of 13 runs'")
    assert set(column(page, "runs", 4)) == {"5"} and len(column(page, "runs", 4)) == 2
    assert len(column(page, "results", 1)) == 1
    wait_for(page, "return document.querySelectorAll('#nll .scatterlayer .trace').length === 2")  # with the paper's
    box.clear()
    box.send_keys("nothing like it")
    wait_for(page, "return document.getElementById('results').innerText.startsWith('No run')")


def test_hovering_shows_values(page):
    for plot, expected in (
        ("nll", "nats"),
        ("units", "active units"),
        ("curves", "epochs"),
        ("variances", "units near"),
        ("tightness", "nats"),
        ("thresholds", "as the paper's authors count"),
    ):
        mark = page.find_elements("css selector", f"#{plot} .points path")[-1]
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
        webdriver.ActionChains(page).move_to_element(mark).perform()
        wait_for(page, f"return document.querySelector('#{plot} .hoverlayer .hovertext') !== null")
        assert expected in page.find_element("css selector", f"#{plot} .hoverlayer").text


def test_ticked_runs_are_plotted_and_their_samples_stand_side_by_side(page):
    lines = "return document.querySelectorAll('#curves .scatterlayer .trace').length"
    assert page.execute_script(lines) == 4  # one a row
    images = "return [...document.querySelectorAll('#grids img')].map(image => image.naturalWidth)"
    wait_for(page, "return document.querySelector('#grids img').complete")
    assert page.execute_script(images) == [300, 300, 300]  # the fourth has none
    click(page, "#runs tbody tr:first-child input")
    wait_for(page, f"{lines} === 5")
    click(page, ".controls .quiet:nth-child(3)")  # none
    wait_for(page, f"{lines} === 0")


def test_tightness_and_thresholds_are_drawn_and_ais_where_it_was_made(page):
    lines = "return [...document.querySelectorAll('#tightness .js-line')].map(line => line.style.strokeDasharray)"
    assert sum(bool(dashes) for dashes in page.execute_script(lines)) == 1
    titles = [page.find_element("css selector", f"#{plot} .xtitle").text for plot in ("tightness", "thresholds")]
    assert titles[0] == "samples k" and titles[1].startswith("log₁₀ threshold")
    steps = """return [...document.querySelectorAll('#thresholds .js-line')].map(line => line.getTotalLength() > 0)"""
    assert page.execute_script(steps) == [True] * 4


def test_another_picture_can_be_chosen(page):
    shown = "return [...document.querySelectorAll('#grids img')].map(image => image.src)"
    samples = page.execute_script(shown)
    options = "return [...document.querySelectorAll('#grid option')].map(option => option.value)"
    assert page.execute_script(options) == ["samples", "interpolations", "posteriors"]
    choose = "const grid = document.getElementById('grid'); grid.value = 'interpolations'; grid.onchange()"
    page.execute_script(choose)
    others = page.execute_script(shown)
    assert len(others) == len(samples) == 3 and not set(others) & set(samples)
    assert "The page holds the interpolations of" in page.find_element("id", "missing").text
    page.execute_script(choose.replace("interpolations", "posteriors"))
    wait_for(page, "return document.querySelector('#grids img').complete")
    size = "const image = document.querySelector('#grids img'); return [image.naturalWidth, image.naturalHeight]"
    assert page.execute_script(size) == [300, 638]
    assert "their true posterior p(z | x)" in page.find_element("id", "missing").text
    page.execute_script(choose.replace("interpolations", "samples"))


def test_what_the_encoder_costs_stands_beside_the_results(page):
    heads = [head.text for head in page.find_elements("css selector", "#runs thead th")]
    gaps = {column(page, "runs", heads.index(name) + 1)[-1] for name in ("approximation", "amortization")}
    assert gaps == {"1.25 ± 0.05", "0.50 ± 0.05"}
    assert "approximation 1.25, amortization 0.50" in page.find_element("id", "results").text
    click(page, "nav button:nth-child(2)")  # where no run has them
    assert "approximation" not in page.find_element("id", "runs").text


@pytest.mark.slow
def test_rows_of_one_result_are_named_beside_their_marks(page, tmp_path):
    make_run(tmp_path / "runs", k=50)
    make_run(tmp_path / "runs", k=5, objective="stl")
    page.get(write(tmp_path / "runs", tmp_path / "out").as_uri())
    wait_for(page, "return document.querySelectorAll('#nll .point').length > 0")
    names = [label.text for label in page.find_elements("css selector", "#nll .ytick text")]
    assert names == ["iwae, k=50", "stl, k=5"]
    assert page.execute_script("return document.querySelectorAll('#nll .js-line').length") == 0


@pytest.mark.slow
def test_what_no_run_has_is_not_shown(page, tmp_path):
    folder = make_run(tmp_path / "runs")
    (folder / "metrics.csv").unlink()
    page.get(write(tmp_path / "runs", tmp_path / "out").as_uri())
    wait_for(page, "return document.querySelectorAll('#tightness .js-line').length > 0")
    assert not page.find_element("id", "training").is_displayed()
    assert not page.find_element("id", "pictures").is_displayed()


@pytest.mark.slow
def test_a_page_of_no_results_opens(page, tmp_path):
    make_run(tmp_path / "runs", status="failed", error="it broke")
    page.get(write(tmp_path / "runs", tmp_path / "out").as_uri())
    assert "it broke" in page.find_element("id", "notes").text


def test_protocols_stand_apart(page):
    tabs = [tab.text for tab in page.find_elements("css selector", "nav button")]
    assert tabs == ["mnist/dynamic 13", "omniglot/burda 1"]
    click(page, "nav button:nth-child(2)")
    assert column(page, "runs", 6) == ["108.00 ± 0.20†"]
    assert "mnist" not in page.find_element("tag name", "main").text
    assert "it broke" in page.find_element("id", "notes").text


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_never_scrolls_sideways(page, width):
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        wait_for(page, "return document.documentElement.scrollWidth <= innerWidth")
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_and_plots_follow_the_color_scheme(page):
    look = """const style = (selector) => getComputedStyle(document.querySelector(selector));
              return [style("body").backgroundColor, style("#nll .ytitle").fill].join()"""
    looks = set()
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": COLOR_SCHEME, "value": scheme}]})
        wait_for(page, f"return matchMedia('({COLOR_SCHEME}: {scheme})').matches")
        time.sleep(0.5)
        looks.add(page.execute_script(look))
    backgrounds, titles = zip(*(found.split("),") for found in looks), strict=True)
    assert len(set(backgrounds)) == len(set(titles)) == 2


@pytest.mark.slow
def test_one_run_is_a_mark_and_its_histogram_stands_on_the_axis(page, tmp_path):
    make_run(tmp_path / "runs", k=50)
    page.get(write(tmp_path / "runs", tmp_path / "out").as_uri())
    wait_for(page, "return document.querySelectorAll('#variances .point').length > 0")
    assert page.execute_script("return document.querySelectorAll('#nll .js-line').length") == 0
    assert page.find_element("css selector", "#nll .xtitle").text == "test NLL (nats), k=50"
    edges = """const bars = [...document.querySelectorAll('#variances .point')].map(bar => bar.getBoundingClientRect());
               const axis = document.querySelector('#variances .xtick text').getBoundingClientRect();
               return [Math.max(...bars.map(bar => bar.bottom)), axis.top]"""
    bottom, labels = page.execute_script(edges)
    assert 0 <= labels - bottom < 15
    ticks = page.find_elements("css selector", "#variances .ytick text")
    assert ticks[0].text == "0" and len(ticks) >= 2
