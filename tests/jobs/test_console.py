"""What a job prints where no terminal is: lines that say something new."""

from microseg_ray.jobs.console import Bar


def test_a_bar_that_is_full_is_printed_once_however_often_it_is_updated(capsys):
    bar = Bar(None)
    for done in range(1, 201):
        bar.update("micrographs opened", 4, 4)
        bar.update("shards", done, 200, f"{done // 50} of 4 finished")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 5)[:5] for line in printed] == [
        ["micrographs", "opened:", "4", "of", "4"],
        ["shards:", "200", "of", "200", printed[1].split(" ", 5)[4]],
    ]


def test_a_second_round_of_the_same_name_is_printed(capsys):
    bar = Bar(None)
    for _ in range(2):
        bar.update("maps", 1, 2)
        bar.update("maps", 2, 2)
    assert len(capsys.readouterr().out.splitlines()) == 2
