"""One HTML page that needs nothing else: no script, no network, no file beside it."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from html import escape

DOTS_PER_PIXEL = 1.5  # of a picture, for each pixel that it is wide on the page

STYLE = """
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  -webkit-text-size-adjust: 100%; }
main { max-width: 1100px; margin: 0 auto; padding: 8px 16px 48px; overflow-wrap: anywhere; }
h1 { font-size: 28px; line-height: 1.25; } h2 { font-size: 22px; margin-top: 48px; border-top: 1px solid #ccc;
  padding-top: 16px; } h3 { font-size: 18px; margin-top: 28px; }
p, figcaption, li, summary { max-width: 75ch; } nav ul { padding-left: 20px; }
figure { margin: 20px 0; } figcaption, .note { font-size: 14px; color: #444; }
.row { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; } img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; } .scroll img { max-width: none; }
table { border-collapse: collapse; font-size: 14px; overflow-wrap: normal; }
th, td { padding: 3px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid #e2e2e2; }
th { vertical-align: bottom; } thead th { border-bottom: 2px solid #888; }
th:first-child, td.text, thead th.text { text-align: left; }
tbody th { font-weight: 600; } blockquote { margin: 12px 0; padding: 4px 16px; border-left: 4px solid #CC6677; }
summary { cursor: pointer; margin: 12px 0; }
"""


class Page:
    """A page that grows from top to bottom; everything that is written is escaped.

    Args:
        title: In the window's title and on top.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._sections: list[tuple[str, str]] = []

    def section(self, anchor: str, title: str) -> None:
        """Begin a section that the list on top links to."""
        self._sections.append((anchor, title))
        self._parts.append(f'<h2 id="{escape(anchor)}">{escape(title)}</h2>')

    def subsection(self, title: str) -> None:
        """Begin a part of a section."""
        self._parts.append(f"<h3>{escape(title)}</h3>")

    def say(self, text: str) -> None:
        """Write a paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def quote(self, text: str) -> None:
        """Write what somebody else says, an error for one."""
        self._parts.append(f"<blockquote>{escape(text)}</blockquote>")

    def table(
        self, head: Sequence[str], rows: Iterable[Sequence[str]], *, name: str, note: str, folded: str = ""
    ) -> None:
        """Write a table.

        Args:
            head: Above the columns.
            rows: Cells; the first of each row names it. Cells that do not look like numbers stand at the left.
            name: What it is called, for readers of the screen and tests.
            note: How to read it, below.
            folded: Show only this line at first; empty to show the table.
        """
        listed = [list(row) for row in rows]
        texts = [any(not _is_number(row[i]) for row in listed) for i in range(len(head))]
        top = "".join(f'<th scope="col"{_kind(t)}>{escape(c)}</th>' for c, t in zip(head, texts, strict=True))
        body = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td{_kind(t)}>{escape(c)}</td>" for c, t in zip(row[1:], texts[1:], strict=True))
            + "</tr>\n"
            for row in listed
        )
        label = escape(name)
        text = (
            f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{label}">'
            f'<table aria-label="{label}"><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>'
            f"<figcaption>{escape(note)}</figcaption></figure>"
        )
        self._parts.append(f"<details><summary>{escape(folded)}</summary>{text}</details>" if folded else text)

    def figures(self, pictures: Sequence[tuple[bytes, str]], note: str) -> None:
        """Show pictures side by side where there is room.

        Args:
            pictures: PNG files with what to say to those who do not see them.
            note: How to read them, below.
        """
        row = "".join(_image(content, alt) for content, alt in pictures)
        self._parts.append(f'<figure><div class="row">{row}</div><figcaption>{escape(note)}</figcaption></figure>')

    def wide_figure(self, picture: bytes, alt: str, note: str) -> None:
        """Show a picture in its own size; where it is wider than the page, it can be pushed sideways."""
        image = (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(alt)}">{_image(picture, alt)}</div>'
        )
        self._parts.append(f"<figure>{image}<figcaption>{escape(note)}</figcaption></figure>")

    def html(self) -> str:
        """Put the page together.

        Returns:
            The whole document.
        """
        links = "".join(f'<li><a href="#{escape(a)}">{escape(title)}</a></li>' for a, title in self._sections)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
            f'<link rel="icon" href="data:,">\n<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n'
            f"<body>\n<main>\n<h1>{escape(self.title)}</h1>\n<nav><ul>{links}</ul></nav>\n"
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )


def number(value: float, digits: int = 3) -> str:
    """Write a number for a table.

    Returns:
        With a true minus sign; a dash for what is not a number.
    """
    return "–" if value != value else f"{value:.{digits}f}".replace("-", "−")


def significant(value: float) -> str:
    """Write a number of unknown size for a table.

    Returns:
        Three digits of it.
    """
    return "–" if value != value else f"{value:#.3g}".rstrip(".").replace("-", "−")


def with_interval(value: float, ends: tuple[float, float] | None) -> str:
    """Write a number, with its interval if there is one.

    Returns:
        Such as "0.12 [0.10, 0.14]".
    """
    return number(value) if ends is None else f"{number(value)} [{number(ends[0])}, {number(ends[1])}]"


def _is_number(cell: str) -> bool:
    return cell.lstrip("−")[:1].isdigit() or cell in ("–", "")


def _kind(is_text: bool) -> str:
    return ' class="text"' if is_text else ""


def _image(content: bytes, alt: str) -> str:
    """Write a picture into the page.

    Returns:
        An element that knows its size.
    """
    width, height = (round(side / DOTS_PER_PIXEL) for side in struct.unpack(">II", content[16:24]))
    data = base64.b64encode(content).decode()
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(alt)}">'
