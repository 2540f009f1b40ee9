"""Reading back what a report or a table shows."""

import io
from html.parser import HTMLParser

from rich.console import Console

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
INLINE = {"wbr", "span", "em", "strong"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps the text, the attributes and the tags of a page."""

    def __init__(self, html):
        super().__init__()
        self.open, self.problems, self.words, self.attributes, self.tags = [], [], [], [], []
        self.feed(html)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self.open]
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in INLINE:
            self.words.append(" ")
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def read(page):
    return Page(page.read_text(encoding="utf-8"))


def printed(table, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def row(text, name):
    return next(line for line in text.splitlines() if f" {name} " in line)
