"""Tables on a terminal of 80 columns: names wrap, and no figure is cut."""

from types import SimpleNamespace

from microseg_ray.jobs.tables import print_areas, print_objects

NAME = "a_long_name_of_a_micrograph_0123456789.tif"


def name_in(printed):
    """The names of the first column, put together again."""
    cells = [line.split("\u2502")[1].strip() for line in printed.splitlines() if line.startswith("\u2502")]
    return "".join(cells)


def test_figures_of_objects_are_whole(capsys):
    row = SimpleNamespace(
        micrograph=NAME,
        class_name="secondary precipitate",
        object_count=123456,
        inside_count=100000,
        density_per_mm2=633612.3,
        number_d50=0.0813712,
        unit="um",
    )
    print_objects([row], {}, "")
    printed = capsys.readouterr().out
    assert all(figure in printed for figure in ("123456", "100000", "6.336e+05", "0.08137 um"))
    assert name_in(printed) == NAME


def test_figures_of_areas_are_whole(capsys):
    row = SimpleNamespace(
        micrograph=NAME,
        class_name="secondary precipitate",
        pixel_count=1234567890,
        area_fraction=0.54421,
        area_um2=1234567.8,
        pixel_size_um_y=0.012345,
        pixel_size_um_x=0.012345,
    )
    print_areas([row])
    printed = capsys.readouterr().out
    assert all(figure in printed for figure in ("1234567890", "0.54421", "1.23457e+06", "0.012345 x 0.012345"))
    assert name_in(printed) == NAME
