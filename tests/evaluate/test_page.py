"""The page in a real browser, from disk, without network."""

import io
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from foolbox_carescale.evaluate import AttackConfig, Evaluation, Results, evaluate, write_report
from foolbox_carescale.evaluate.report.aggregate import aggregate
from foolbox_carescale.evaluate.report.page import page as html
from tests.evaluate import synthetic

pytestmark = pytest.mark.usefixtures("without_figures")

NUMBERS = re.compile(r"^M[-\d.,LHVMz ]+$")


@pytest.fixture
def visit(chromium):
    """Opens a page without network; when the test ends, nothing may have gone wrong in it."""
    context = chromium.new_context(offline=True, viewport={"width": 1200, "height": 900})
    wrong = []

    def opened(path):
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: allowed(request.url))
        page.goto(path.as_uri())
        return page

    def allowed(url):
        if not url.startswith(("file:", "data:")) or url.count("file:") > 1:
            wrong.append(f"asked for {url}")

    yield opened
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def real(tmp_path_factory, without_figures):
    """Two runs of the bundled model, three norms, and their reports: of one and of both."""
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for name, steps in (("one", 2), ("two", 6)):
        attacks = {
            "noise": AttackConfig("L2AdditiveGaussianNoiseAttack", [2.0, 10.0]),
            "foolbox_pgd": AttackConfig("L2PGD", [0.25, 0.5, 2.0], params={"steps": steps}),
            "clip_aware_pgd": AttackConfig(
                "L2ClipAwarePGD", [0.25, 0.5, 2.0], params={"steps": steps}
            ),
            "linf": AttackConfig("LinfPGD", [0.02], params={"steps": steps}),
        }
        runs.append(evaluate(Evaluation(attacks=attacks, samples=24, output=str(folder / name))))
    write_report(runs[0])
    write_report(*runs, output=folder / "both")
    return folder


def test_curves_are_drawn_in_every_norm_with_finite_coordinates(visit, real):
    page = visit(real / "one" / "report.html")
    assert page.title() == "Robustness of shufflenet_v2_x0_5 on digits"
    for tab, series in (("L2", 4), ("Linf", 1)):  # three attacks and their worst case
        page.get_by_role("tab", name=tab, exact=True).click()
        panel = page.get_by_role("tabpanel")
        assert panel.count() == 1
        drawn = panel.locator("svg").first.locator("g.series path.curve")
        assert drawn.count() == series
        for i in range(drawn.count()):
            assert NUMBERS.match(drawn.nth(i).get_attribute("d"))
        assert panel.locator("svg").first.bounding_box()["height"] > 200
    assert "NaN" not in page.content()
    assert "undefined" not in page.inner_text("main")


def test_the_page_shows_the_numbers_of_the_results(visit, real):
    from foolbox_carescale.evaluate import Results

    page = visit(real / "one" / "report.html")
    shown = page.get_by_role("tabpanel").locator("section", has_text="Robust accuracy").nth(1)
    text = shown.inner_text()
    for setting in Results.load(real / "one").summary():
        if setting.p == 2:
            assert f"{setting.robust_accuracy:.3f}" in text


def test_the_page_rounds_each_number_once_and_as_the_tables_do(visit, tmp_path):
    epsilons = np.linspace(0.5, 2, 16).tolist()
    results = synthetic.run(tmp_path / "run", epsilons=epsilons, samples=32)
    write_report(results)
    panel = visit(tmp_path / "run" / "report.html").get_by_role("tabpanel")
    shown = panel.locator("table tbody td").all_inner_texts()
    (run,) = aggregate([results])
    for series in run.series:
        for point in series.points:
            ratio = point.spread("norm_over_epsilon")
            low, high = point.interval
            assert f"{point.accuracy:.3f}\n{low:.2f}–{high:.2f}" in shown  # noqa: RUF001
            assert f"{ratio.mean:.3f}\nmin {ratio.low:.3f}" in shown
    ties = [point.accuracy * 32 % 4 == 2 for one in run.series for point in one.points]
    assert any(ties)  # such as 0.0625, of which a browser's own rounding makes 0.063


def test_a_click_on_a_column_sorts_the_table_and_a_second_click_reverses_it(visit, real):
    page = visit(real / "one" / "report.html")
    table = page.get_by_role("tabpanel").locator("table").first

    def column():
        settings = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
        return [setting.split("\n")[0] for setting in settings]

    head = table.locator("thead th:nth-child(3) button")
    head.click()
    assert table.locator("thead th:nth-child(3)").get_attribute("aria-sort") == "ascending"
    rising = column()
    numbers = [float(setting) for setting in rising if setting]
    assert len(numbers) == 3
    assert numbers == sorted(numbers)
    assert rising[-1] == ""  # what was not measured comes last, either way
    head.click()
    assert [float(setting) for setting in column() if setting] == sorted(numbers, reverse=True)
    assert column()[-1] == ""


def test_tabs_switch_by_click_and_by_key(visit, real):
    page = visit(real / "one" / "report.html")
    chosen = page.locator("[role=tab][aria-selected=true]")
    assert chosen.inner_text() == "L2"
    page.get_by_role("tab", name="Linf").click()
    assert page.locator("[role=tabpanel]:visible").get_attribute("aria-label") == "Linf"
    page.keyboard.press("ArrowRight")
    assert chosen.inner_text() == "L2"
    assert page.locator("[role=tabpanel]:visible").get_attribute("aria-label") == "L2"


def test_the_legend_hides_series_and_the_tooltip_shows_numbers(visit, real):
    page = visit(real / "one" / "report.html")
    entry = page.get_by_role("button", name="clip_aware_pgd", exact=True)
    group = page.locator("svg g.series[data-series='2']").first
    dot = group.locator("path.dot").first
    dot.hover()
    tip = page.locator("#tip").inner_text()
    assert tip.startswith("clip_aware_pgd\nepsilon 0.25\nrobust accuracy ")
    assert "of 24)" in tip
    entry.click()
    assert entry.get_attribute("aria-pressed") == "false"
    assert not dot.is_visible()
    page.get_by_role("button", name="linear epsilon").first.click()  # draws anew
    assert not dot.is_visible()
    entry.click()
    assert dot.is_visible()


def test_distributions_follow_quantity_and_epsilon(visit, real):
    page = visit(real / "one" / "report.html")
    card = page.locator("section:visible", has_text="Distributions over")
    before = card.locator(".rows").inner_text()
    card.locator("select").first.select_option("backward_passes")
    assert card.locator(".rows").inner_text() != before
    card.locator("select").last.select_option("10")
    assert card.locator(".rows").inner_text().startswith("noise")


def test_the_browser_shows_images_of_the_sample_that_was_chosen(visit, real):
    page = visit(real / "one" / "report.html")
    gallery = page.locator(".gallery img")
    assert gallery.count() == 4 * 3
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth === 32)")
    first = gallery.nth(1).get_attribute("src")
    page.locator(".thumbs button").nth(1).click()
    assert gallery.nth(1).get_attribute("src") != first
    assert page.locator(".gallery figure").count() == 4


def test_each_run_says_over_which_samples_it_is_compared(visit, tmp_path):
    runs = [
        synthetic.run(tmp_path / name, samples=samples)
        for name, samples in (("first", 50), ("second", 50), ("third", 30))
    ]
    write_report(*runs, output=tmp_path / "report")
    page = visit(tmp_path / "report" / "report.html")
    text = page.locator("section:visible", has_text="Robust accuracy minus that of").inner_text()
    for run in ("interval: second over the 50", "paired; third over the 30"):
        assert f"{run} samples that both have, paired" in text


def test_runs_are_compared_with_intervals(visit, real):
    page = visit(real / "both" / "report.html")
    text = page.locator(
        "section:visible", has_text="Robust accuracy minus that of one"
    ).inner_text()
    assert "over the 24 samples that both have, paired" in text
    assert "clip_aware_pgd · two" in text
    chart = page.get_by_role("img", name="robust accuracy by epsilon, L2").first
    assert chart.locator("g.series").count() == 8
    colors = {
        chart.locator(f"g.series[data-series='{i}'] path.dot").first.evaluate(
            "(e) => getComputedStyle(e).fill"
        )
        for i in (0, 1, 2, 4, 5, 6)
    }
    assert len(colors) == 6
    config = page.locator("section", has_text="Differences between the configs").inner_text()
    assert "attacks.clip_aware_pgd.steps\t2\t6" in config


def test_all_norms_are_printed(visit, real):
    page = visit(real / "one" / "report.html")
    page.emulate_media(media="print")
    assert page.locator("[role=tabpanel]:visible").count() == 2
    for hidden in ("[role=tablist]", ".click", ".save", ".bar button", ".headline", ".thumbs"):
        assert page.locator(hidden).count() > 0
        assert page.locator(f"{hidden}:visible").count() == 0, hidden


@pytest.mark.parametrize(("width", "scheme"), [(380, "dark"), (1400, "light")])
def test_nothing_is_wider_than_the_window(visit, real, width, scheme):
    page = visit(real / "both" / "report.html")
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.reload()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    hint = page.get_by_text("scroll the table").first  # where columns are cut
    hint.wait_for(state="visible" if width < 700 else "hidden")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = max(map(int, re.findall(r"\d+", ground))) < 80
    assert dark == (scheme == "dark")


def test_names_and_configs_are_text_and_never_markup(visit, tmp_path):
    evil = "</script><img src=x onerror=alert(1)><script>alert(2)</script>$data"
    results = synthetic.run(
        tmp_path / "run",
        model=evil,
        config=f"model: {evil}\n",
        warnings=[{"code": "x", "message": evil, "remedy": "<b>so</b>"}],
    )
    page = visit(write_report(results)[0])
    assert page.locator("img, b b").count() == 0
    assert evil in page.locator("h3").first.inner_text()
    assert evil in page.locator("pre").inner_text()
    assert page.locator(".diagnostic").inner_text() == f"{evil} — <b>so</b>."


def test_twenty_attacks_a_thousand_classes_and_many_rows_make_a_page_that_opens(visit, tmp_path):
    results = synthetic.run(
        tmp_path / "run",
        attacks=20,
        epsilons=(0.5, 1),
        samples=2000,
        classes=1000,
        side=224,
        p=float("inf"),
        class_names=[f"an animal, number {i}" for i in range(1000)],
    )
    path = tmp_path / "report.html"
    path.write_text(html(aggregate([results])), encoding="utf-8")
    assert path.stat().st_size < 3_000_000
    page = visit(path)
    chart = page.get_by_role("img", name="robust accuracy by epsilon, Linf")
    assert chart.locator("path.curve").count() == 21
    assert "least robust classes" in page.locator("main").inner_text()
    assert " an animal (0/2)" in page.locator("main").inner_text()
    assert page.locator(".gallery figure").count() == 20
    assert page.evaluate("[...document.images].every((i) => i.naturalWidth > 20)")


def test_classes_have_their_names_where_all_runs_share_them(visit, tmp_path):
    names = [["cat, Felis", "<b>dog</b>"], ["cat, Felis", "wolf"]]
    results = [
        synthetic.run(tmp_path / run, attacks=1, epsilons=(0.5,), classes=2, class_names=own)
        for run, own in zip("ab", names, strict=True)
    ]

    def heads(runs):
        path = tmp_path / "report.html"
        path.write_text(html(aggregate(runs)), encoding="utf-8")
        section = visit(path).locator("section", has_text="Robust accuracy by class")
        return section.locator("th").all_inner_texts()[-2:]

    assert heads(results[:1]) == ["0 cat", "1 <b>dog</b>"]
    assert heads(results) == ["0 cat", "1"]


def test_one_attack_at_one_epsilon_without_images_is_a_page_too(visit, tmp_path):
    results = synthetic.run(tmp_path / "run", attacks=1, epsilons=(0.5,), samples=1, classes=1)
    page = visit(write_report(results)[0])
    chart = page.get_by_role("img", name="robust accuracy by epsilon, L2")
    assert chart.locator("path.dot").count() == 1
    assert page.get_by_role("heading", name="Images").count() == 0


def test_a_minimum_norm_attack_has_steps_on_the_page_and_its_quantiles(visit, tmp_path):
    results = synthetic.run(tmp_path / "run", epsilons=(0.2, 0.8), samples=60, nearest=[1])
    found = results.minimum_norms()["attack_1"]
    page = visit(write_report(results)[0])
    chart = page.get_by_role("img", name="robust accuracy by epsilon, L2")
    fixed, stepped = (chart.locator(f"g.series[data-series='{i}'] path.curve") for i in (0, 1))
    assert "H" not in fixed.get_attribute("d")
    within = (found.norms > max(found.norms[found.norms > 0].min(), 0.2 / 3)) & (found.norms < 0.8)
    assert stepped.get_attribute("d").count("H") == within.sum() + 1  # and the right end
    for part in (stepped, chart.locator("g.series[data-series='1'] path.band")):
        assert NUMBERS.match(part.get_attribute("d"))
    card = page.locator("section:visible", has_text="Norm of the nearest adversarial example")
    cells = card.locator("tbody td").all_inner_texts()
    assert cells[0] == "attack_1"
    assert [float(cell) for cell in cells[1:]] == pytest.approx(
        [*(found.quantile(share) for share in (0.1, 0.5, 0.9)), 0], rel=1e-3
    )


def saved(page, button):
    """Click a button, and return the bytes of the file that it saves."""
    with page.expect_download() as download:
        button.click()
    return Path(download.value.path()).read_bytes()


def test_figures_and_tables_are_saved(visit, real):
    page = visit(real / "one" / "report.html")
    panel = page.get_by_role("tabpanel")
    figure = panel.locator(".save", has=page.get_by_role("button", name="SVG")).first
    text = saved(page, figure.get_by_role("button", name="SVG")).decode()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text  # it is drawn without the page
    assert "epsilon (L2)" in "".join(root.itertext())
    image = Image.open(io.BytesIO(saved(page, figure.get_by_role("button", name="PNG"))))
    assert image.size == (3 * int(root.get("width")), 3 * int(root.get("height")))
    assert len(image.convert("RGB").getcolors(2**20)) > 20

    table = panel.locator(".save", has=page.get_by_role("button", name="CSV")).first
    rows = saved(page, table.get_by_role("button", name="CSV")).decode().splitlines()
    assert rows[0].startswith('"attack","0.25"')
    summary = Results.load(real / "one").summary()
    pgd = next(row.split(",") for row in rows if row.startswith('"clip_aware_pgd"'))
    expected = [s.robust_accuracy for s in summary if s.attack == "clip_aware_pgd"]
    assert [float(value) for value in pgd[1:] if value] == pytest.approx(expected)
    lines = saved(page, table.get_by_role("button", name="LaTeX")).decode().splitlines()
    assert lines[0].startswith(r"\begin{tabular}{lr")
    assert any(line.startswith(r"clip\_aware\_pgd & ") for line in lines)


def test_the_address_keeps_what_is_shown(visit, real):
    page = visit(real / "one" / "report.html")
    page.get_by_role("tab", name="Linf", exact=True).click()
    page.get_by_role("tab", name="L2", exact=True).click()
    panel = page.get_by_role("tabpanel")
    panel.locator(".legend button").first.click()
    panel.get_by_label("at epsilon").select_option("2")
    page.reload()
    panel = page.get_by_role("tabpanel")
    assert page.get_by_role("tab", name="L2", exact=True).get_attribute("aria-selected") == "true"
    pressed = [b.get_attribute("aria-pressed") for b in panel.locator(".legend button").all()]
    assert pressed == ["false"] + ["true"] * (len(pressed) - 1)
    assert panel.get_by_label("at epsilon").input_value() == "2"
    assert panel.locator("svg").first.locator("g.series.off").count() == 1


def test_the_header_says_when_and_on_what_the_run_was_made(visit, real):
    text = visit(real / "one" / "report.html").inner_text("main")
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC, .+ cores.*, seed 0", text)


def test_the_headline_follows_the_config_and_the_reader(visit, tmp_path):
    results = synthetic.run(
        tmp_path / "run",
        epsilons=(0.2, 0.8),
        nearest=[1],
        config="report: {epsilons: {L2: [0.2, 0.5]}}",
    )
    page = visit(write_report(results)[0])
    tiles = page.locator(".tile")
    robust = results.minimum_norms()["attack_1"].robust(0.5)
    assert "robust at L2 0.2, worst case over attacks" in tiles.nth(1).inner_text()
    text = tiles.nth(2).inner_text()
    assert text.startswith(f"{robust.mean():.3f}\n")
    assert "robust at L2 0.5, attack_1" in text
    page.get_by_label("L2:").select_option("0.8")
    page.reload()
    assert tiles.count() == 2
    assert "robust at L2 0.8, worst case over attacks" in tiles.nth(1).inner_text()


def test_the_worst_case_names_its_attacks(visit, real):
    page = visit(real / "one" / "report.html")
    entry = page.locator(".legend button", has_text="worst case over attacks").first
    assert entry.locator("small").inner_text() == "over noise, foolbox_pgd, clip_aware_pgd"
    page.get_by_role("tab", name="Linf", exact=True).click()  # one attack
    assert "worst case" not in page.get_by_role("tabpanel").inner_text()


def test_attacks_at_one_epsilon_stand_beside_each_other_with_their_intervals(visit, tmp_path):
    results = synthetic.run(tmp_path / "run", attacks=6, epsilons=(0.5,))
    page = visit(write_report(results)[0])
    chart = page.get_by_role("img", name="robust accuracy by epsilon, L2")
    assert chart.locator("path.whisker").count() == 7  # and the worst case
    boxes = [dot.bounding_box() for dot in chart.locator("path.dot").all()]
    assert len(boxes) == 7
    ends = sorted((box["x"], box["x"] + box["width"]) for box in boxes)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(ends))


def test_nothing_to_attack_is_said_in_words(visit, tmp_path):
    page = visit(write_report(synthetic.run(tmp_path / "run", clean=0.0))[0])
    assert page.locator(".tile").nth(1).inner_text().startswith("not attacked\n")
    settings = page.get_by_role("tabpanel").locator("table").first.locator("td:not(:first-child)")
    assert set(settings.all_inner_texts()) == {"not attacked"}


def test_dragging_zooms_into_curves_and_a_double_click_or_a_key_shows_all_again(visit, real):
    page = visit(real / "one" / "report.html")
    chart = page.get_by_role("img", name="robust accuracy by epsilon, L2").first
    whole = chart.inner_html()

    def drag(x, y, to_x, to_y):
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.mouse.down()
        page.mouse.move(box["x"] + to_x, box["y"] + to_y)
        page.mouse.up()

    drag(60, 100, 300, 250)
    assert page.get_by_role("button", name="reset zoom").is_visible()
    zoomed = chart.inner_html()
    page.reload()  # the address keeps it
    assert chart.locator("g[clip-path]").count() == 1
    assert re.sub(r"clip-\d+", "", chart.inner_html()) == re.sub(r"clip-\d+", "", zoomed)
    chart.dblclick(position={"x": 300, "y": 60})
    assert chart.inner_html() == whole
    drag(60, 100, 300, 110)  # along epsilon only
    chart.focus()
    before = page.url
    page.keyboard.press("ArrowRight")
    assert page.url != before
    page.keyboard.press("Escape")
    assert chart.inner_html() == whole
    assert page.evaluate("document.activeElement.tagName") == "svg"
