"""Self-contained HTML: templates in pages/, one style sheet, pictures as data URIs."""

import base64
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

PAGES = Path(__file__).parent / "pages"

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGES),
    autoescape=True,  # prompts and notes are other people's text
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """A page of `pages/` with its style inside; it loads nothing from elsewhere."""
    css = Markup((PAGES / "page.css").read_text())
    return _ENVIRONMENT.get_template(template).render(css=css, **values)


def data_uri(png: bytes | Path) -> str:
    """The picture itself, as an address."""
    content = png.read_bytes() if isinstance(png, Path) else png
    return "data:image/png;base64," + base64.b64encode(content).decode()
