"""Take the picture of the report for the README: the page of the default run in a browser.

    python -m experiments.report_picture [--run RUN] [--output docs/images/report.png]

Without a run folder the default run is computed first. Needs Chromium, and Playwright's Python
package (`pip install playwright`).
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from foolbox_carescale.evaluate import Evaluation, Results, evaluate, write_report

SIZE = {"width": 1120, "height": 1270}


def main() -> None:
    """Compute the run, open its report and store the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images/report.png"))
    options = parser.parse_args()

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        parser.error("there is no Chromium")
    with tempfile.TemporaryDirectory() as folder:
        results = (
            Results.load(options.run)
            if options.run
            else evaluate(Evaluation(output=str(Path(folder) / "default")))
        )
        page_file = write_report(results, output=Path(folder) / "report")[0]
        with sync_playwright() as running:
            chromium = running.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = chromium.new_page(viewport=SIZE)
            page.goto(page_file.as_uri())
            page.get_by_role("tab", name="L2").click()
            picture = page.screenshot()
            chromium.close()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            options.output, optimize=True
        )
    print(f"wrote {options.output}, {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
