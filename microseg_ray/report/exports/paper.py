r"""Tables to paste into a paper: LaTeX (package booktabs) and Markdown, of the same cells.

Values are rounded to two digits of the half-width of their interval; the CSV and Parquet tables hold all digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.names import text
from microseg_ray.report.exports.reading import Published, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PaperTable", "latex", "markdown", "paper_tables", "rounded"]

MOST_MICROGRAPHS = 30
"""With more micrographs only groups and the archive have rows: a table of a paper has an end."""

PARTS = ("combined", "micrographs", "sampling")
"""Whose interval is shown: the first that there is."""

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "`": r"\textasciigrave{}",
        # A star or a bracket at the start of a row is an argument of the line end before it.
        "[": "{[}",
        "*": "{*}",
        "\u00b5": r"\textmu{}",
        "\u03bc": r"\textmu{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)
_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in r"\`*_[]<>|~&#$!"})


@dataclass(frozen=True)
class PaperTable:
    """A table of texts.

    Attributes:
        label: For references.
        caption: What it shows.
        columns: The head.
        rows: Texts of the cells.
        numeric: The first column that holds numbers; those from there on are right-aligned.
        after: The first column behind them that holds texts again, or None.
    """

    label: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: int
    after: int | None = None

    def aligned(self, left: str, right: str) -> list[str]:
        """A mark for each column: one for texts, another for numbers."""
        places = range(self.numeric, len(self.columns) if self.after is None else self.after)
        return [right if place in places else left for place in range(len(self.columns))]


def rounded(value: float | None, low: float | None = None, high: float | None = None) -> tuple[str, str]:
    """A value and its interval, to two digits of the half-width; four digits of the value without an interval.

    Example:
        >>> rounded(0.123456, 0.1012, 0.1467), rounded(12345.678), rounded(0.2, 0.2, 0.2), rounded(None)
        (('0.123', '[0.101, 0.147]'), ('12346', '-'), ('0.2000', '[0.2000, 0.2000]'), ('-', '-'))
    """
    if value is None or not math.isfinite(value):
        return "-", "-"
    known = low is not None and high is not None
    if value == 0 and not known:
        return "0", "-"
    half = (high - low) / 2 if low is not None and high is not None else 0.0
    digits = 1 - _exponent(half) if half > 0 else 3 - _exponent(value)
    places = min(max(digits, 0), 12)
    return f"{value:.{places}f}", f"[{low:.{places}f}, {high:.{places}f}]" if known else "-"


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def paper_tables(published: Published) -> list[PaperTable]:
    """Area fractions with intervals, means between micrographs, stereology; a table without rows is left out."""
    folder = published.folder
    groups = rows_of(folder, "groups")
    micrographs = max((int(row["micrographs"]) for row in groups if row["scope"] == "archive"), default=0)
    every = micrographs <= MOST_MICROGRAPHS
    intervals = rows_of(
        folder, "intervals", lambda row: row["part"] in PARTS and (every or row["scope"] != "micrograph")
    )
    made = [_areas(intervals), _groups(groups), _stereology(rows_of(folder, "stereology"))]
    return [table for table in made if table.rows]


def shown_intervals(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One row for each scope and class: the first of `PARTS` that has an interval, else `sampling`; groups before the archive."""
    best: dict[tuple[str, str, int], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["scope"], row["name"], row["class_index"])
        rank = _rank(row)
        if key not in best or rank < _rank(best[key]):
            best[key] = row
    order = {"micrograph": 0, "group": 1, "archive": 2}
    return sorted(best.values(), key=lambda row: (order[row["scope"]], row["name"], row["class_index"]))


def _rank(row: Mapping[str, Any]) -> int:
    place = PARTS.index(row["part"])
    return place if row["low"] is not None else len(PARTS) + (len(PARTS) - place)


def place_name(row: Mapping[str, Any], column: str = "name") -> str:
    """The micrograph, group or archive of a row; `column` holds the name."""
    return "all micrographs" if row["scope"] == "archive" else text(row[column])


def _areas(rows: Sequence[Mapping[str, Any]]) -> PaperTable:
    cells = []
    for row in shown_intervals(rows):
        percent = [None if row[key] is None else 100 * row[key] for key in ("estimate", "low", "high")]
        said = row["part"] if row["low"] is not None else "none"
        what = (place_name(row), row["class_name"], str(row["micrographs"]), _percent(row["area_fraction"]))
        cells.append((*what, *rounded(*percent), said, row["reason"]))
    return PaperTable(
        "areas",
        "Area fractions with 95 % confidence intervals. Segmented: the share of the pixels in the masks. Interval by: sampling "
        "(two-point correlation within the micrographs), micrographs (spread between micrographs, Student's t), combined "
        "(corrected by a test set where there is one, with the model's error).",
        ("", "class", "n", "segmented / %", "area fraction / %", "95 % interval / %", "interval by", "note"),
        tuple(cells),
        2,
        6,
    )


def _groups(rows: Sequence[Mapping[str, Any]]) -> PaperTable:
    cells = []
    for row in rows:
        mean, spread = row["mean_area_fraction"], row["sd_area_fraction"]
        shown = [_percent(value) for value in (row["area_fraction"], mean)]
        deviation = _percent(spread) if spread is not None else "one micrograph" if row["micrographs"] == 1 else "-"
        known = (place_name(row, "group"), row["class_name"], str(row["micrographs"]))
        cells.append((*known, *shown, deviation, _percent(row["coverage"])))
    return PaperTable(
        "groups",
        "Area fractions of all pixels together, and mean and standard deviation of the micrographs' fractions. Coverage is the "
        "measured share of the specimen.",
        ("", "class", "n", "pooled / %", "mean / %", "SD / %", "coverage / %"),
        tuple(cells),
        2,
    )


def _stereology(rows: Sequence[Mapping[str, Any]]) -> PaperTable:
    cells = []
    for row in rows:
        figures = rounded(row["mean"], row["low"], row["high"])
        accuracy = rounded(row["relative_accuracy_percent"])[0]
        what = (row["quantity"].replace("_", " "), row["unit"])
        cells.append(
            (place_name(row), row["class_name"], *what, str(row["fields"]), *figures, accuracy, row["standard"])
        )
    return PaperTable(
        "stereology",
        "Stereology: mean of n fields, 95 % confidence interval t s / sqrt(n), and relative accuracy.",
        ("", "class", "quantity", "unit", "n", "mean", "95 % interval", "relative accuracy / %", "standard"),
        tuple(cells),
        4,
        8,
    )


def _percent(value: float | None) -> str:
    return rounded(None if value is None else 100 * value)[0]


def latex(tables: Sequence[PaperTable], published: Published) -> str:
    r"""The tables as LaTeX, each in a `table` with caption and label.

    Example:
        >>> from pathlib import Path
        >>> table = PaperTable("a", "100 %", ("class", "n"), (("a_b", "3"),), 1)
        >>> print(latex([table], Published(Path("/r/run"), "f0", 0, 0)))
        % \usepackage{booktabs}
        \begin{table}
        \caption{100 \%}
        \label{tab:a}
        \begin{tabular}{lr}
        \toprule
        class & n \\
        \midrule
        a\_b & 3 \\
        \bottomrule
        \end{tabular}
        \end{table}
        <BLANKLINE>
    """
    lines = [r"% \usepackage{booktabs}"]
    for table in tables:
        caption = f"{table.caption} {published.partial}." if published.partial else table.caption
        kinds = "".join(table.aligned("l", "r"))
        lines += [r"\begin{table}", rf"\caption{{{_tex(caption)}}}", rf"\label{{tab:{table.label}}}"]
        lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _tex_row(table.columns), r"\midrule"]
        lines += [_tex_row(row) for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join([*lines, ""])


def _tex(cell: str) -> str:
    return text(cell).translate(_LATEX).replace("--", "-{}-")


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"


def markdown(tables: Sequence[PaperTable], published: Published) -> str:
    r"""The tables as Markdown (GitHub's and Pandoc's pipe tables).

    Example:
        >>> from pathlib import Path
        >>> table = PaperTable("a", "A.", ("class", "n"), (("a|b", "3"),), 1)
        >>> print(markdown([table], Published(Path("/r/run"), "f0", 2, 0)))
        **PARTIAL: micrographs that are not finished and are in no figure: 2**
        <BLANKLINE>
        A.
        <BLANKLINE>
        | class | n |
        | --- | ---: |
        | a\|b | 3 |
        <BLANKLINE>
    """
    lines = [f"**{_md(published.partial)}**", ""] if published.partial else []
    for table in tables:
        kinds = table.aligned("---", "---:")
        lines += [_md(table.caption), "", _md_row(table.columns), f"| {' | '.join(kinds)} |"]
        lines += [*map(_md_row, table.rows), ""]
    return "\n".join(lines)


def _md(cell: str) -> str:
    return text(cell).translate(_MARKDOWN)


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_md, cells))} |"
