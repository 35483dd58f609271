"""Workbook, tables to paste and plots of a run: all values, no formula, what is missing, and equal bytes."""

from __future__ import annotations

import csv
import hashlib
import math
import re
import shutil
import subprocess

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.figures.statistics import plot_intervals, plot_sizes
from microseg_ray.report.exports.paper import PaperTable, latex, markdown, rounded, shown_intervals
from microseg_ray.report.exports.reading import TABLES, Published
from microseg_ray.report.exports.workbook import write_workbook
from microseg_ray.runs.folder import EXPORTS
from tests.runs.measured import make_run, rows_of

EVIL = "=1+1|b & $x_1 <b>.tif"


def sheets_of(path):
    """Every sheet as rows of values; the reader is not the writer."""
    book = openpyxl.load_workbook(path, read_only=True)
    return {sheet.title: [list(row) for row in sheet.iter_rows(values_only=True)] for sheet in book}


@pytest.fixture(scope="module")
def measured(tmp_path_factory, request):
    """A measured run of three finished micrographs and one half done, one of them with a name that is a formula."""
    from microseg_ray.cli import main

    sizes = dict.fromkeys((EVIL, "a_2.tif", "a_3.tif", "b_1.tif"), (0.5, 0.5))
    folder = make_run(tmp_path_factory.mktemp("exports"), sizes, unfinished=("b_1.tif",))
    assert main(["measure", "--run", str(folder), "--objects.intensity", "false"]) == 0
    return folder


def test_the_workbook_holds_the_values_of_all_tables(measured):
    sheets = sheets_of(measured / "statistics.xlsx")
    assert list(sheets) == ["about", "columns", *TABLES]
    for name in TABLES:
        titles, *rows = sheets[name]
        # The headings are words, each with one column of the CSV.
        named = {title: column for sheet, title, column in sheets["columns"][1:] if sheet == name}
        assert list(named) == titles
        assert not [title for title in titles if "_" in title]
        head = [named[title] for title in titles]
        wanted = rows_of(measured / f"{name}.csv")
        # Summaries come first, where a sheet that is too long still has them.
        key = {
            "object_sizes": "micrograph",
            **dict.fromkeys(("intervals", "boundaries", "anisotropy", "chords", "correlation"), "scope"),
        }.get(name)
        wanted.sort(key=lambda row: key is not None and row[key] not in {"", "group", "archive"})
        assert len(rows) == len(wanted) > 0
        assert set(head) <= set(wanted[0])
        # A column that is left out of a sheet has no value, or is said elsewhere.
        for column in set(wanted[0]) - set(head):
            assert name == "objects" or all(row[column] == "" for row in wanted), column
        for row, cells in zip(wanted, rows, strict=True):
            for column, cell in zip(head, cells, strict=True):
                text = row[column]
                if isinstance(cell, bool):
                    assert text == str(cell).lower()
                elif isinstance(cell, int | float):
                    assert float(text) == pytest.approx(cell, rel=1e-14)
                else:
                    assert text == (cell or "")


def test_a_name_that_looks_like_a_formula_is_text(measured):
    book = openpyxl.load_workbook(measured / "statistics.xlsx")
    cells = [cell for row in book["areas"].iter_rows() for cell in row if cell.value == EVIL]
    assert len(cells) == 3
    assert all(cell.data_type == "s" and cell.hyperlink is None for cell in cells)
    assert not [cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.data_type == "f"]


def test_a_half_done_run_is_marked_in_each(measured, microseg):
    said = "micrographs that are not finished and are in no figure: 1"
    assert ["state", f"PARTIAL: {said}"] in sheets_of(measured / "statistics.xlsx")["about"]
    for name in ("tables.md", "tables.tex"):
        assert said in (measured / name).read_text(encoding="utf-8")
    assert microseg("report", "--run", measured).code == 0
    page = (measured / "report.html").read_text(encoding="utf-8")
    assert said in page
    assert page.count("data:image/svg+xml") == 3
    for name in ("statistics.xlsx", "tables.tex", "plots/sizes.png", "intervals.csv"):
        assert f'href="{name}"' in page
    assert "=1+1|b &amp; $x_1 &lt;b&gt;.tif" in page


def test_tables_hold_the_figures_of_the_intervals(measured):
    row = next(
        row
        for row in rows_of(measured / "intervals.csv")
        if (row["scope"], row["part"], row["class_name"]) == ("archive", "micrographs", "grain")
    )
    value, ends = rounded(*(100 * float(row[key]) for key in ("estimate", "low", "high")))
    segmented = rounded(100 * float(row["area_fraction"]))[0]
    cells = ["all micrographs", "grain", "3", segmented, value, ends, "micrographs", ""]
    tex = (measured / "tables.tex").read_text(encoding="utf-8")
    assert " & ".join(cells).replace("[", "{[}") + r" \\" in tex
    assert tex.count(r"\toprule") == tex.count(r"\end{tabular}") == 3
    assert r"=1+1\textbar{}b \& \$x\_1 \textless{}b\textgreater{}.tif" in tex
    assert f"| {' | '.join(cells)} |".replace("[", r"\[").replace("]", r"\]") in (measured / "tables.md").read_text(
        "utf-8"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed (Debian: texlive-latex-recommended)"
)
def test_latex_compiles(measured, tmp_path):
    """pdfLaTeX takes the tables of a run, and every printable character of Latin-1 at the start and in the middle of a cell."""
    signs = [chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0x100)) if code != 0xAD]
    rows = tuple((sign, f"a{sign}b {sign}{sign}", "1") for sign in signs)
    tables = [
        PaperTable(f"t{n}", "100 % [a] & µm_2", ("a", "b", "n"), rows[n : n + 40], 2) for n in range(0, len(rows), 40)
    ]
    (tmp_path / "signs.tex").write_text(latex(tables, Published(tmp_path, "f0", 1, 2)), "utf-8")
    shutil.copy(measured / "tables.tex", tmp_path / "run.tex")
    inputs = r"\input{run}" + "\n" + r"\clearpage\input{signs}"
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{textcomp,booktabs}\begin{document}"
    (tmp_path / "paper.tex").write_text(f"{head}\n{inputs}\n\\end{{document}}\n", "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=120)
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said[-1500:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text("latin-1")
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_pictures_are_there_and_again_gives_equal_bytes(measured, microseg):
    def digests():
        files = [measured / name for name in EXPORTS if name != "plots"] + sorted((measured / "plots").iterdir())
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    before = digests()
    assert set(before) == {
        *("statistics.xlsx", "tables.md", "tables.tex"),
        *(f"{name}.{kind}" for name in ("intervals", "sizes", "correlation") for kind in ("png", "svg")),
    }
    with Image.open(measured / "plots/sizes.png") as picture:
        assert picture.size[0] > 500
    assert microseg("measure", "--run", measured, "--objects.intensity", "false").code == 0
    assert digests() == before
    # Without them the older ones do not stay behind the new tables.
    assert microseg("measure", "--run", measured, "--objects.intensity", "false", "--exports.write", "false").code == 0
    assert not [name for name in EXPORTS if (measured / name).exists()]


def test_rows_that_do_not_fit_are_named(tmp_path):
    pq.write_table(pa.table({"micrograph": ["a"] * 9, "object": range(9)}), tmp_path / "objects.parquet")
    scopes = ["micrograph"] * 8 + ["archive"]
    pq.write_table(pa.table({"scope": scopes, "x": range(9)}), tmp_path / "intervals.parquet")
    pq.write_table(pa.table({"micrograph": ["a"] * 9, "x": [math.nan] * 9}), tmp_path / "areas.parquet")
    notes = write_workbook(tmp_path / "a.xlsx", Published(tmp_path, "f0", 0, 0), most_rows=7)
    assert notes == [
        "sheet areas: the first 7 of 9 rows; all are in areas.csv and areas.parquet",
        "sheet intervals: the first 7 of 9 rows; all are in intervals.csv and intervals.parquet",
        "sheet objects: the first 7 of 9 rows; all are in objects.csv and objects.parquet",
    ]
    sheets = sheets_of(tmp_path / "a.xlsx")
    assert ["objects", "object", "object"] in sheets["columns"]
    assert [row[1] for row in sheets["objects"]] == ["object", *range(7)]
    assert [row[1] for row in sheets["intervals"]] == ["x", 8, *range(6)]
    assert len(sheets["areas"]) == 8
    assert [row[1] for row in sheets["about"] if row[0] == "rows left out"] == notes


def test_a_run_without_tables_has_a_workbook_that_says_so(tmp_path):
    assert write_workbook(tmp_path / "a.xlsx", Published(tmp_path, "f0", 2, 1), 10) == []
    (about,) = sheets_of(tmp_path / "a.xlsx").values()
    assert about[2][1].startswith("PARTIAL: micrographs that are not finished")


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_any_name_is_one_cell_of_each_table(names):
    table = PaperTable("a", "c", tuple("ab"), tuple((name, "1") for name in names), 1)
    said = Published(None, "", 0, 0)
    body = latex([table], said).split("\\midrule\n")[1].split("\n\\bottomrule")[0].split("\n")
    assert len(body) == len(names)
    for line in body:
        assert line.endswith(r" & 1 \\")
        # What TeX would read as syntax has its backslash; braces are balanced.
        bare = re.sub(r"\\[&%$#_{}]|\\text[a-z]+\{\}|\{\[\}|\{\*\}|-\{\}", "", line.removesuffix(r" & 1 \\"))
        assert not re.search(r"[\\&%$#_{}~^]", bare), line
        assert not line.startswith(("[", "*"))
    rows = markdown([table], said).splitlines()[4:]
    rows = [row for row in rows if row]
    assert len(rows) == len(names)
    for row in rows:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3
        assert "<" not in row.replace(r"\<", "")


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_rounding_keeps_a_tenth_of_the_half_width(value, half):
    assume(half > 1e-9 * abs(value))
    shown, ends = rounded(value, value - half, value + half)
    low, high = map(float, ends[1:-1].split(", "))
    for near, exact in ((float(shown), value), (low, value - half), (high, value + half)):
        assert near == pytest.approx(exact, abs=0.051 * half + 0.5 * (half > 10))


def test_the_interval_shown_is_the_first_that_there_is():
    base = {"scope": "archive", "name": "", "class_index": 0, "low": 0.1}
    rows = [{**base, "part": part} for part in ("sampling", "micrographs", "combined")]
    assert [row["part"] for row in shown_intervals(rows)] == ["combined"]
    rows[2]["low"] = None
    assert [row["part"] for row in shown_intervals(rows)] == ["micrographs"]
    rows[1]["low"] = rows[0]["low"] = None
    assert [row["part"] for row in shown_intervals(rows)] == ["sampling"]


def test_plots_take_names_that_matplotlib_would_read_as_its_own(tmp_path):
    rows = [
        {"name": name, "class_name": kind, "estimate": value, "low": low, "high": high}
        for name in ("_a$", "$b_$", "x" * 300)
        for kind in ("_hidden", "$\\frac$")
        for value, low, high in ((0.2, 0.1, 0.4),)
    ]
    rows += [{"name": "n", "class_name": "_hidden", "estimate": None, "low": None, "high": None}]
    rows += [
        {"name": f"m{number}", "class_name": "_hidden", "estimate": 0.0, "low": None, "high": None}
        for number in range(60)
    ]
    png, _ = plot_intervals(tmp_path / "a", rows, "said $")
    with Image.open(png) as picture:
        assert np.asarray(picture).std() > 0
    sizes = [
        {
            "class_name": "_hidden",
            "unit": unit,
            "diameter_from": 1,
            "diameter_to": 2,
            "number_share": share,
            "area_share": None,
        }
        for unit in ("um", "px")
        for share in (None, 1.0)
    ]
    plot_sizes(tmp_path / "b", sizes)
    assert "<svg" in (tmp_path / "b.svg").read_text("utf-8")


def test_csv_keeps_names_as_they_are(measured):
    with (measured / "areas.csv").open(newline="", encoding="utf-8") as file:
        assert EVIL in {row["micrograph"] for row in csv.DictReader(file)}
