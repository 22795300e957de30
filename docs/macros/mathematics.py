"""Formulas of notebooks as MathML, which browsers draw by themselves: no script from another machine."""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

# Code is left alone; what stands between dollars, with no tag in it, is a formula.
_PARTS = re.compile(r"(<(pre|code|script|style)\b.*?</\2>)|\$\$([^$<]+)\$\$|\$([^$<]+)\$", flags=re.DOTALL)


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Convert the formulas of a page, as mkdocs asks of a hook."""
    return _PARTS.sub(_convert, html) if page.file.src_uri.endswith(".ipynb") else html


def _convert(found: re.Match[str]) -> str:
    code, _, block, inline = found.groups()
    if code:
        return code
    return convert(unescape(block or inline), display="block" if block else "inline")
