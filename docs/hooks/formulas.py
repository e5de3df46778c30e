"""Convert formulas to MathML, which browsers show without a script or a font."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# The output of the extension arithmatex for $...$ and $$...$$.
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula of a page."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    tag, inline, display = found.groups()
    if display is None:
        return convert(html.unescape(inline))
    mathml = convert(html.unescape(display), display="block")
    return f'<{tag} class="formula">{mathml}</{tag}>'
