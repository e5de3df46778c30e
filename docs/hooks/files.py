"""Add files outside docs/ that pages link to, under their own path.

So a link such as ``../experiments/quickstart.yaml`` works in a checkout and on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")
SNIPPET = re.compile(r'^--8<-- "([^":]+)', re.MULTILINE)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files that pages link to, and the figures of included results."""
    wanted = set()
    for page in files.documentation_pages():
        text = page.content_string
        for link in LINK.findall(text):
            if (path := _outside(page.src_uri, link)) is not None:
                wanted.add((path, path))
        for included in SNIPPET.findall(text):
            folder = posixpath.dirname(page.src_uri)
            whole = text + (ROOT / included).read_text(encoding="utf-8")
            for picture in (ROOT / included).parent.glob("*.png"):
                if f"({picture.name})" in whole:
                    source = picture.relative_to(ROOT).as_posix()
                    wanted.add((posixpath.join(folder, picture.name), source))
    for uri, source in sorted(wanted):
        if not (ROOT / source).is_file():
            continue  # MkDocs reports the broken link
        file = File.generated(config, uri, abs_src_path=str(ROOT / source))
        if uri not in str(config.nav):
            file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point these links to their place on the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def inside(found: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, found[1])
        return found[1] if path is None else posixpath.relpath(path, folder or ".")

    return LINK.sub(inside, markdown)


def _outside(page: str, link: str) -> str | None:
    """Return the path in the repository that a link of docs/``page`` names; None inside docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") else path
