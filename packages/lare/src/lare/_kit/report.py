"""One self-contained HTML page: text, tables and pictures, no scripts, nothing loaded."""

from __future__ import annotations

import html
import io
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from .errors import ReportError
from .files import write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The policy makes the promise hold even for a picture that somebody slips a link into.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark;
  --ink: #1c1c1e; --page: #fff; --line: #d4d4d8; --soft: #f4f4f5; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e8; --page: #17171a; --line: #3f3f46; --soft: #232327; }}
}}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; padding-bottom: .3rem; }}
th, td {{ padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }}
thead th {{ background: var(--soft); }}
td.number, th.number {{ text-align: right; }}
figure {{ margin: 1.5rem 0; }}
figure svg {{ max-width: 100%; height: auto; background: #fff; border-radius: 4px; }}
figcaption, caption {{ font-size: .9rem; opacity: .85; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


class Report:
    """Collects the parts of a page and writes it.

    All text is escaped: pass plain text, not markup.

    Args:
        title: heading and window title.

    Example:
        >>> report = Report("Two runs").paragraph("Lower is better.")
        >>> report = report.table(["run", "loss"], [["a", 0.5], ["b", 0.25]])
        >>> '<td class="number">0.25</td>' in report.html()
        True
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._figures = 0

    def heading(self, text: str) -> Report:
        """Add a heading.

        Args:
            text: plain text.

        Returns:
            This report, so that calls can be chained.
        """
        return self._add(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str) -> Report:
        """Add a paragraph; an empty line starts another.

        Args:
            text: plain text.

        Returns:
            This report.
        """
        for part in text.split("\n\n"):
            self._add(f"<p>{html.escape(part.strip())}</p>")
        return self

    def preformatted(self, text: str) -> Report:
        """Add text whose spaces and line ends stay, such as a table made for a terminal.

        Args:
            text: plain text.

        Returns:
            This report.
        """
        # The parser of a page drops one line end after <pre>, which must not be one of the text.
        return self._add(f'<div class="wide"><pre>\n{html.escape(text)}</pre></div>')

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = ""
    ) -> Report:
        """Add a table.

        Args:
            columns: headings.
            rows: cells; numbers are aligned right, floats shown with four significant digits,
                everything else by ``str``. A None is an empty cell.
            caption: one line above the table.

        Returns:
            This report.

        Raises:
            ReportError: if a row has not one cell per column.
        """
        table = [list(row) for row in rows]
        for row in table:
            if len(row) != len(columns):
                raise ReportError(
                    f"a row has {len(row)} cells and the table {len(columns)} columns "
                    f"({', '.join(columns)}): {row}"
                )
        # A heading stands over its column: right where the column is one of numbers.
        numeric = [
            bool(table) and all(_is_number(row[index]) for row in table)
            for index in range(len(columns))
        ]
        head = "".join(
            _cell("th", name, number=number) for name, number in zip(columns, numeric, strict=True)
        )
        body = "\n".join(
            "<tr>" + "".join(_cell("td", cell, number=_is_number(cell)) for cell in row) + "</tr>"
            for row in table
        )
        title = f"<caption>{html.escape(caption)}</caption>\n" if caption else ""
        return self._add(
            f'<div class="wide"><table>\n{title}<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>"
        )

    def figure(self, figure: Figure, caption: str) -> Report:
        """Add a matplotlib figure as inline SVG; the figure itself is not changed.

        Args:
            figure: the figure, with its axes labelled.
            caption: one line under it, which screen readers read instead of it.

        Returns:
            This report.
        """
        from matplotlib import rc_context

        self._figures += 1
        # The salt names the parts of the picture: the same each time it is drawn, and different
        # from those of the other pictures of this page.
        settings = {"svg.hashsalt": f"{self.title}/{self._figures}", "svg.fonttype": "none"}
        metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
        stream = io.StringIO()
        with rc_context(settings):
            figure.savefig(stream, format="svg", bbox_inches="tight", metadata=metadata)
        text = stream.getvalue()
        svg = text[text.index("<svg") :]  # a page takes neither XML declaration nor doctype
        label = html.escape(caption)
        return self._add(
            f'<figure role="img" aria-label="{label}">\n{svg}'
            f"<figcaption>{label}</figcaption>\n</figure>"
        )

    def html(self) -> str:
        """The page.

        Returns:
            A complete HTML document.
        """
        return PAGE.format(title=html.escape(self.title), body="\n".join(self._parts))

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page in one step.

        Args:
            path: the file, such as ``report.html``; its folder is made where it is missing.

        Returns:
            The path that was written.
        """
        return write_text_atomic(path, self.html())

    def _add(self, part: str) -> Report:
        self._parts.append(part)
        return self


def _is_number(value: object) -> TypeGuard[numbers.Real]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if not _is_number(value) or isinstance(value, numbers.Integral):
        return str(value)
    number = float(value)
    # Four digits, without an exponent as long as people read the number more easily so.
    return f"{number:.0f}" if 1e3 <= abs(number) < 1e12 else f"{number:.4g}"


def _cell(tag: str, value: object, *, number: bool) -> str:
    shown = _shown(value)
    mark = ' class="number"' if number else ""
    return f"<{tag}{mark}>{html.escape(shown)}</{tag}>"
