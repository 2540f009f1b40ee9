"""One HTML page that holds everything: templates beside this file, pictures as data."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from . import format as form

PNG_PIXELS_PER_INCH = 170
CSS_PIXELS_PER_INCH = 105


@dataclass(frozen=True)
class Picture:
    """A picture of the page: the PNG's name beside it, its bytes and what to say where it can't be seen."""

    name: str
    png: bytes
    alt: str

    @property
    def width(self) -> int:
        """Width on the page in CSS pixels at which all pictures have letters of one size."""
        return int.from_bytes(self.png[16:20], "big") * CSS_PIXELS_PER_INCH // PNG_PIXELS_PER_INCH

    @property
    def uri(self) -> str:
        """The picture as a `data:` address."""
        return png_uri(self.png)


def write_page(template: str, values: Mapping[str, object], pictures: list[Picture], out: Path) -> Path:
    """`out/index.html` from `template`, and every picture as `out/<name>.png` beside it.

    The page appears whole or not at all: a reader who reloads during the writing sees the old one.
    """
    out.mkdir(parents=True, exist_ok=True)
    html = _environment().get_template(template).render(**values)
    for picture in pictures:
        (out / f"{picture.name}.png").write_bytes(picture.png)
    page = out / "index.html"
    unfinished = out / ".index.html.part"
    unfinished.write_text(html, encoding="utf-8")
    unfinished.replace(page)
    return page


def png_uri(png: bytes) -> str:
    """PNG bytes as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": form.number,
        "percent": form.percent,
        "interval": form.interval,
        "percent_interval": form.percent_interval,
        "signed": form.signed,
        "chance": form.chance,
        "duration": form.duration,
        "plain": form.plain,
        "breakable": _breakable,
    }
    return environment


def _breakable(text: str) -> Markup:
    """Escaped text that may break after a slash, an underscore and the dots of names, not of numbers."""
    return Markup(re.sub(r"([/_]|\.(?=[A-Za-z_]))", r"\1<wbr>", str(escape(text))))
