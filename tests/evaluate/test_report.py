"""report.html in a real headless Chromium: it loads alone, and sorting, filters, sliders, clicks and keys work."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import dataset_trees as trees
import numpy as np
import pytest
from tiny import picture, tiny_spade

from fastspade.errors import InputError, MissingDependencyError
from fastspade.evaluate.dataset import read_dataset
from fastspade.evaluate.protocols import PROTOCOLS, crop_mask, describe
from fastspade.evaluate.report import Report
from fastspade.evaluate.runner import evaluate_category

pytestmark = pytest.mark.slow  # needs a browser

HOSTILE = "<img src=x onerror=alert(1)>&'.png"  # file names are data, never markup
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))), None
)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A report of three categories, one of them with nothing but good images, and what it was made from."""
    pytest.importorskip("plotly")
    root = trees.mvtec(tmp_path_factory.mktemp("report") / "set")
    (root / "bolt" / "test" / "good" / "002.png").rename(root / "bolt" / "test" / "good" / HOSTILE)
    categories = read_dataset(root, "mvtec")
    for i in range(3):
        trees.save(picture(i), root / "plain" / "train" / f"{i}.png")
        trees.save(picture(10 + i), root / "plain" / "good" / f"{i}.png")
    trees.save(trees.damaged(3)[0], root / "plain" / "bad" / "0.png")
    categories += read_dataset(root / "plain", "folder")
    report, results, tests = Report(), [], {}
    for category in categories:
        model = tiny_spade(keep_crop=True, resize=72, crop=64)
        result, scored = evaluate_category(category, model)
        report.add(category, result, scored, model, root)
        results.append(result)
        tests[category.name] = scored
    about = {
        "dataset": "</script><b>set", "layout": "mvtec", "fastspade": "1", "pro_fpr_limit": 0.3,
        "protocols": {name: describe(name, 72, 64) for name in PROTOCOLS},
        "options": {"k": 3, "kappa": 1}, "backbone": {"name": "tiny"},
    }  # fmt: skip
    path = root.parent / "report.html"
    path.write_text(report.html(results, about), encoding="utf-8")
    return path, dict(zip((category.name for category in categories), results)), tests, categories


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as runner:
        flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        opened = runner.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def open_page(made, browser):
    """Opens the report; at the end, no error was logged and nothing but the file was asked for."""
    problems, asked, contexts = [], [], []

    def open_it(**options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url) if not request.url.startswith(("data:", "blob:")) else None)
        page.goto(made[0].as_uri())
        page.wait_for_selector("html[data-ready=bolt]")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == [] and set(asked) == {made[0].as_uri()}


def scores(page) -> list[float]:
    return [float(text) for text in page.locator(".card .facts span:nth-child(2)").all_inner_texts()]


def set_slider(page, name: str, where: str) -> None:
    page.locator(name).focus()
    page.keyboard.press("Home" if where == "low" else "End")


def colored(page, layer: str) -> int:
    """How many pixels of the first card's panel differ from its photograph; cards are painted when in view."""
    page.locator(".card").first.scroll_into_view_if_needed()
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )  # sliders repaint in the next
    page.wait_for_function(
        "() => [...document.querySelector('.card').querySelectorAll('canvas')].every((c) => c.dataset.painted)"
    )
    return page.evaluate(
        """(layer) => {
          const pixels = (name) => {
            const canvas = document.querySelector(`.card canvas[data-layer=${name}]`);
            const copy = document.createElement('canvas');
            [copy.width, copy.height] = [canvas.width, canvas.height];
            const context = copy.getContext('2d', { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            return context.getImageData(0, 0, copy.width, copy.height).data;
          };
          const [photo, other] = [pixels('photo'), pixels(layer)];
          let count = 0;
          for (let i = 0; i < photo.length; i += 4) {
            const change = [0, 1, 2].map((c) => other[i + c] - photo[i + c]);
            // The white outline of the crop brightens all channels; colours do not.
            if (change.some((c) => Math.abs(c) > 20) && change.some((c) => c < -2)) count += 1;
          }
          return count;
        }""",
        layer,
    )


def test_summary_shows_the_metrics_and_sorts(open_page, made):
    page = open_page()
    rows = page.locator("#summary tbody tr")
    assert rows.locator("td:first-child").all_inner_texts() == ["bolt", "cap", "plain"]
    cells = rows.nth(0).locator("td").all_inner_texts()
    result = made[1]["bolt"]
    shown = [*result.image_metrics.values(), *result.pixel_metrics["official"].values()]
    assert cells[1:8] == [f"{100 * value:.2f}" for value in shown]
    assert rows.nth(2).locator("td").nth(7).inner_text() == "n/a"
    assert "no ground-truth masks" in rows.nth(2).locator("td").nth(7).get_attribute("title")
    page.select_option("#protocol", "paper")
    assert rows.nth(0).locator("td").nth(7).inner_text() == f"{100 * result.pixel_metrics['paper']['pro']:.2f}"
    assert "64 x 64" in page.locator("#protocol-text").inner_text()
    head = page.get_by_role("button", name="category")
    for direction, first in (("ascending", "bolt"), ("descending", "plain")):
        head.click()
        assert page.locator("#summary th").first.get_attribute("aria-sort") == direction
        assert rows.nth(0).locator("td").first.inner_text() == first
    page.get_by_role("button", name=re.compile("^PRO")).click()
    assert rows.nth(2).locator("td").first.inner_text() == "plain"  # n/a comes last
    rows.nth(2).get_by_role("button").click()
    page.wait_for_selector("html[data-ready=plain]")
    assert "no ground-truth masks" in page.locator("#chart-pro").inner_text()
    assert page.locator(".card").count() == 4 and "no ground truth" in page.locator(".card").first.inner_text()


def test_charts_are_drawn_with_their_areas(open_page, made):
    page = open_page()
    for name in ("image", "pixel", "pro", "scores"):
        assert page.locator(f"#chart-{name} svg").count() > 0
    assert page.locator("#chart-pro").get_attribute("aria-label") == "; ".join(
        f"{protocol}: {100 * made[1]['bolt'].pixel_metrics[protocol]['pro']:.2f} %" for protocol in PROTOCOLS
    )
    drawn = page.evaluate("document.getElementById('chart-image').data[0]")
    assert np.trapezoid(drawn["y"], drawn["x"]) == pytest.approx(made[1]["bolt"].image_metrics["image_roc_auc"])
    assert page.evaluate("document.getElementById('chart-scores').layout.shapes[0].x0") == made[1]["bolt"].threshold.image


def test_gallery_sorts_and_filters(open_page, made):
    page = open_page()
    wanted = sorted((one.scored.score for one in made[2]["bolt"]), reverse=True)
    assert scores(page) == pytest.approx(wanted, rel=1e-3)
    page.select_option("#sort", "score-up")
    assert scores(page) == pytest.approx(wanted[::-1], rel=1e-3)
    page.select_option("#sort", "name")
    names = page.locator(".card .name").all_inner_texts()
    assert f"bolt/test/good/{HOSTILE}" in names and page.locator("img").count() == 0
    page.select_option("#kind", "cut")
    assert page.locator(".card").count() == 2 and "2 of 7" in page.locator("#shown").inner_text()
    page.fill("#text", "001")
    assert page.locator(".card .name").all_inner_texts() == ["bolt/test/cut/001.png"]
    page.select_option("#kind", "")
    page.fill("#text", "onerror")
    assert page.locator(".card").count() == 1
    page.fill("#text", "")
    set_slider(page, "#image-threshold", "high")  # nothing is called a defect: all four defects are missed
    page.select_option("#verdict", "missed")
    assert page.locator(".card").count() == 4
    page.select_option("#verdict", "alarm")
    assert page.locator(".card").count() == 0


def test_the_image_slider_moves_verdicts_and_line(open_page, made):
    page = open_page()
    start = made[1]["bolt"].threshold.image
    called = sum(one.scored.score > start for one in made[2]["bolt"])
    assert page.locator("#verdicts").inner_text().startswith(f"{called} of 7 called defects")
    set_slider(page, "#image-threshold", "low")
    assert page.locator("#verdicts").inner_text() == "7 of 7 called defects: 4 right, 0 missed, 3 false alarms"
    assert page.locator('.card[data-verdict="alarm"]').count() == 3
    low = page.evaluate("document.getElementById('chart-scores').layout.shapes[0].x0")
    assert low < min(one.scored.score for one in made[2]["bolt"])
    set_slider(page, "#image-threshold", "high")
    assert page.locator("#verdicts").inner_text() == "0 of 7 called defects: 3 right, 4 missed, 0 false alarms"
    page.click("#reset")
    assert page.locator("#verdicts").inner_text().startswith(f"{called} of 7 called defects")


def test_the_mask_slider_redraws_masks_and_rates(open_page, made):
    page = open_page()
    low, high = (f([one.scored.anomaly_map for one in made[2]["bolt"]]) for f in (np.min, np.max))
    calibrated = colored(page, "mask")
    outlined = "[...document.querySelectorAll('.card canvas[data-layer=heat]')].map((c) => c.toDataURL()).join()"
    before = page.evaluate(outlined)
    set_slider(page, "#pixel-threshold", "high")
    assert colored(page, "mask") == 0 and page.evaluate(outlined) != before  # the heat map's outline went with the mask
    assert "0.0 % of defect pixels" in page.locator("#mask-rates").inner_text()
    set_slider(page, "#pixel-threshold", "low")
    everything = colored(page, "mask")
    assert everything > calibrated >= 0 and everything > 0.7 * 176 * 176  # the crop, less what is mask-coloured already
    page.locator("#pixel-threshold").evaluate(
        "(s, v) => { s.value = v; s.dispatchEvent(new Event('input')); }", float((low + high) / 3)
    )
    half = float(page.locator("#pixel-threshold").input_value())
    truth = np.stack([crop_mask(one.mask, one.scored.crop, (64, 64)) for one in made[2]["bolt"]])
    masked = np.stack([one.scored.anomaly_map for one in made[2]["bolt"]]) > half
    shown = re.search(r"masked: ([\d.]+) % of defect pixels, ([\d.]+) % of the others", page.locator("#mask-rates").inner_text())
    assert float(shown[1]) == pytest.approx(100 * masked[truth].mean(), abs=2)  # maps are kept in 256 levels
    assert float(shown[2]) == pytest.approx(100 * masked[~truth].mean(), abs=2)
    assert colored(page, "truth") > 0 and colored(page, "heat") > 0


def test_a_clicked_pixel_shows_its_match(open_page, made):
    page = open_page()
    page.select_option("#sort", "name")
    page.locator(".card").nth(1).click()
    name = page.locator("#detail-title").inner_text()
    one = next(one for one in made[2]["bolt"] if name.endswith(f"{one.test.kind}/{one.test.path.name}"))
    canvas = page.locator("#detail-test")
    page.wait_for_function("document.getElementById('detail-normal').width > 300")
    box = canvas.bounding_box()
    for row, column in ((0, 0), (3, 12), (15, 7)):
        x, y = (4 + (column + 0.5) * 4) / 72, (4 + (row + 0.5) * 4) / 72  # 16 places of 4 pixels; the crop starts at 4 of 72
        canvas.click(position={"x": x * box["width"], "y": y * box["height"]})
        text = page.locator("#match").inner_text()
        image = int(one.scored.matched_image[row, column])
        place = int(one.scored.matched_x[row, column]), int(one.scored.matched_y[row, column])
        rank = one.scored.neighbors.tolist().index(image) + 1
        assert text.startswith(f"Place ({column}, {row}) of 16 x 16")
        assert f"Nearest: bolt/train/good/{image:03d}.png, place ({place[0]}, {place[1]}), number {rank} of its 3" in text
        assert page.locator("#normal-name").inner_text() == f"Matched normal image bolt/train/good/{image:03d}.png"
    canvas.click(position={"x": 1, "y": 1})  # outside the crop: the nearest place
    assert page.locator("#match").inner_text().startswith("Place (0, 0)")


def test_everything_works_from_the_keyboard(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the images"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "card"
    page.keyboard.press("Enter")
    title = page.locator("#detail-title").inner_text()
    assert page.evaluate("document.activeElement.id") == "detail-test"
    before = re.match(r"Place \((\d+), (\d+)\)", page.locator("#match").inner_text())
    page.keyboard.press("ArrowLeft" if int(before[1]) else "ArrowRight")
    page.keyboard.press("ArrowUp" if int(before[2]) else "ArrowDown")
    after = re.match(r"Place \((\d+), (\d+)\)", page.locator("#match").inner_text())
    assert all(abs(int(before[i]) - int(after[i])) == 1 for i in (1, 2))
    page.locator("#next").focus()
    page.keyboard.press("Enter")
    assert page.locator("#detail-title").inner_text() != title
    page.locator("#previous").focus()
    page.keyboard.press("Enter")
    page.locator('input[value="mask"]').focus()
    page.keyboard.press("Space")
    assert page.locator('input[value="mask"]').is_checked()
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == title
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, select, input')].filter((e) => !e.textContent.trim() && !(e.labels && e.labels.length)).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_sideways_scrolling(open_page, scheme):
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True, device_scale_factor=2)
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    page.locator(".card").first.tap()
    page.wait_for_selector("#detail[open]")
    assert page.evaluate("document.getElementById('detail').scrollWidth <= innerWidth")
    page.locator("#close").tap()

    def brightness() -> float:
        return page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")[0]

    assert (brightness() < 80) == (scheme == "dark")
    page.locator("#theme").tap()
    assert (brightness() < 80) == (scheme == "light")


def test_the_page_holds_no_address_that_could_be_loaded(made):
    text = made[0].read_text(encoding="utf-8")
    page = re.sub(r"<script>.*?</script>", "", text, count=1, flags=re.S)  # plotly names addresses that it does not load
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
    assert "default-src 'none'" in text and text.count("</script>") == 3
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert data["about"]["dataset"] == "</script><b>set"


def test_fewer_images_can_be_shown(made):
    _, results, tests, categories = made
    report = Report(images=3)
    model = tiny_spade(keep_crop=True, resize=72, crop=64).fit([str(path) for path in categories[0].train])
    report.add(categories[0], results["bolt"], tests["bolt"], model, made[0].parent)
    shown = [image["score"] for image in report._categories[0]["images"]]
    every = sorted(one.scored.score for one in tests["bolt"])
    assert shown == [every[0], every[3], every[6]]
    with pytest.raises(InputError, match="report-images"):
        Report(images=0)


def test_without_plotly_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(MissingDependencyError, match=r"fastspade\[eval\]"):
        Report()


def test_every_file_of_the_page_is_installed():
    """The wheel takes the package folder whole; each part the page is made of lies in it."""
    import fastspade.evaluate.report as package

    page = Path(package.__file__).parent / "page"
    assert {path.name for path in page.iterdir()} == {"page.html", "style.css", *package.SCRIPTS}
