"""Accounts: what was seen is used, set aside or not taken, and a loss between the two shows."""

import csv

import pytest

from microseg_ray.accounts import Account, counted, file_account, write_accounts
from microseg_ray.quarantine import Failure


def test_the_line_and_the_table_say_the_same(tmp_path):
    account = Account("files", 7, 4, 1, {"hidden": 2, "never": 0})
    assert str(account) == "files: 7 seen = 4 used + 1 set aside + 2 not taken (2 hidden)"
    write_accounts(tmp_path / "accounting.csv", [account])
    with (tmp_path / "accounting.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "quantity": "files", "seen": "7", "used": "4", "set_aside": "1", "not_taken": "2", "reasons": "2 hidden",
    }  # fmt: skip


def test_a_loss_shows():
    account = file_account(["a", "b", "c"], ["a"], [Failure("b", "open", "damaged")], {})
    assert account.unaccounted == 1
    assert "1 unaccounted for" in str(account)


def test_a_remark_on_a_used_file_sets_nothing_aside():
    remarks = [Failure("a", "truth", "of no class"), Failure("b", "read", "x"), Failure("b", "shard 0,0", "y")]
    account = file_account(["a", "b"], ["a"], remarks, {"hidden": 3})
    assert (account.seen, account.used, account.set_aside, account.left, account.unaccounted) == (5, 1, 1, 3, 0)


@pytest.mark.parametrize("name", ["a\udcff", "a\nb", "\u202eb"])
def test_an_example_is_printable(name):
    (reason,) = counted([(name, "hidden")])
    assert reason.encode("utf-8")
    assert reason.isprintable()
