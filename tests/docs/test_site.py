"""The site as a reader meets it: built strictly, in a real browser, with nothing from elsewhere."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from foolbox_carescale import perturb

ROOT = Path(__file__).parents[2]
ELSEWHERE = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object|link|form)\b[^>]*"
    r"""(?:src|srcset|href|data|action)=["']?(?:https?:)?//|(?:url\(|@import )["']?(?:https?:)?//"""
)
# One of each kind: the scripts of all are the same, but for what these have beside them.
IN_BROWSER = ("index", "idea/index", "mathematics/index", "attacks/index", "api/operator/index")

# as in an environment with the docs extra alone, which has no framework
BUILD = """
import sys
sys.modules |= dict.fromkeys(["jax", "matplotlib", "pyarrow", "sklearn", "tensorflow", "torch"])
from mkdocs.__main__ import cli
cli()
"""

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; .ci/run has built it already and says where."""
    if "SITE" in os.environ:
        return Path(os.environ["SITE"])
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The site served on this machine, as search needs it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(chromium, address):
    """A tab that fails its test when anything but the site is asked for, or goes wrong."""
    wrong = []
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    own = (address, "data:", "blob:")
    tab.on("request", lambda r: r.url.startswith(own) or wrong.append(f"asked for {r.url}"))
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    yield tab
    tab.close()
    assert wrong == []


def test_no_page_names_anything_of_elsewhere_to_load(site):
    paths = [path for kind in ("*.html", "*.css") for path in site.rglob(kind)]
    assert len(paths) >= 25
    for path in paths:
        found = ELSEWHERE.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found[0]}"


def test_pages_ask_for_nothing_from_elsewhere(page, address):
    for name in IN_BROWSER:
        page.goto(f"{address}{name}.html")
        assert page.title()


def test_search_finds_an_operator(page, address):
    page.goto(address, wait_until="networkidle")
    page.locator("input[data-md-component=search-query]").click()  # loads the index
    page.locator("input[data-md-component=search-query]").press_sequentially("steepest_step")
    page.wait_for_selector(".md-search-result__item")
    assert "steepest" in page.locator(".md-search-result__list").inner_text()


def test_figure_computes_what_the_operator_computes(page, address):
    page.goto(address + "idea/")
    page.get_by_text("another direction").click()
    for order, p in (("1", 1), ("2", 2), ("3", 3), ("inf", np.inf)):
        check_figure(page, order, p)


def check_figure(page, order, p):
    sample = page.evaluate("JSON.parse(document.getElementById('sample').textContent)")
    x, delta = (np.array([values]) for values in (sample["x"], sample["directions"][1]))
    page.locator("[data-order]").select_option(order)
    seen = set()
    for place in (0, 300, 900, 1000):
        page.locator("[data-epsilon]").fill(str(place))
        shown = {
            name: float(page.locator(f"[data-{name}]").inner_text())
            for name in ("target", "norm-naive", "norm-exact", "reachable")
        }
        exact = np.linalg.norm(perturb(x, delta, shown["target"], p=p) - x, ord=p, axis=1)
        scale = shown["target"] / np.linalg.norm(delta, ord=p, axis=1)
        naive = np.linalg.norm(np.clip(x + scale * delta, 0, 1) - x, ord=p, axis=1)
        assert shown["norm-exact"] == pytest.approx(exact[0], abs=2e-3)
        expected = min(shown["target"], shown["reachable"])
        assert shown["norm-exact"] == pytest.approx(expected, abs=2e-3)
        assert shown["norm-naive"] == pytest.approx(naive[0], abs=2e-3)
        seen.add(page.locator("[data-exact] rect").first.get_attribute("fill"))
        assert page.locator("[data-beyond]").is_visible() == (place == 1000)
    assert len(seen) > 1 or p == 1


def test_every_formula_became_mathml(site):
    text = (site / "mathematics" / "index.html").read_text()
    assert text.count("<math") > 100
    assert "arithmatex" not in text
    # what the converter does not know it leaves as it is
    content = re.sub(r"<(script|style|head).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.findall(r"\\[a-z]+", content)


def test_catalogue_has_every_attack(site):
    from foolbox_carescale import attacks

    text = (site / "attacks" / "index.html").read_text()
    for attack in attacks.REGISTERED:
        assert attack.__name__ in text
    assert text.count("gradients and") >= 10


def test_files_that_pages_link_to_are_part_of_the_site(site):
    assert (site / "experiments" / "quickstart.yaml").is_file() or (
        site / "experiments" / "efficientnet_lite.yaml"
    ).is_file()
    assert (site / "results" / "strength.png").is_file()
