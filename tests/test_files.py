"""Whole-or-absent writes, and that no other module writes or deletes by hand."""

import ast
import errno
import json
import os
from pathlib import Path

import filelock
import pytest

from microseg_ray import files
from microseg_ray.errors import RunMismatchError, StoreError

PACKAGE = Path(files.__file__).parent.parent

# Renames, syncs and deletions of paths. `str.replace` takes two arguments or more, `Path.replace` one.
BY_HAND = {"fsync", "rmtree", "unlink", "rmdir", "removedirs", "renames", "rename", "flock", "remove_tree"}
MODULES = {"os", "shutil", "fcntl"}


def by_hand(source: str) -> list[str]:
    """Calls that only files.py may make, as `line: name`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".partial"):
            found.append(f"{node.lineno}: {node.value!r}")
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, node.func.value
        of_module = isinstance(owner, ast.Name) and owner.id in MODULES
        path_replace = name == "replace" and len(node.args) == 1 and not node.keywords
        if name in BY_HAND or path_replace or (of_module and name in {"replace", "remove", "truncate", "move"}):
            found.append(f"{node.lineno}: {ast.unparse(node.func)}")
    return found


def test_only_files_renames_syncs_and_deletes():
    allowed = {
        # How zarr names its own unfinished files.
        "runs/store/masks.py": {"'*.partial'"},
        "recognition.py": {"'.partial'"},
        # A lock that many hold at once, which `sole_writer` is not; it is taken inside `sole_writer`, so there are locks.
        "fence.py": {"fcntl.flock"},
    }
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("files/"):
            found = [line for line in by_hand(path.read_text()) if line.split(": ", 1)[1] not in allowed.get(name, ())]
            assert not found, f"{name}: {found}; use microseg_ray.files"


@pytest.mark.parametrize(
    "line",
    [
        "os.replace(a, b)",
        "path.replace(target)",
        "shutil.rmtree(a)",
        "path.unlink(missing_ok=True)",
        "os.remove(a)",
        "os.fsync(3)",
        "path.rename(b)",
        "p = a.with_suffix('.partial')",
    ],
)
def test_the_search_finds(line):
    assert by_hand(line)


def test_the_search_leaves_strings_alone():
    assert not by_hand("text.replace('a', 'b'); replace(row, name='x'); items.remove(3)")


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_raises_leaves_the_older_file(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), files.whole(tmp_path / "a.txt") as partial:  # noqa: PT012
        partial.write_text("half")
        1 / 0  # noqa: B018
    assert (tmp_path / "a.txt").read_text() == "old"
    assert _left(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(tmp_path / "a.json", {})
    assert not _left(tmp_path)


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / "a.txt").symlink_to("theirs")
    files.write_text(tmp_path / "a.txt", "ours")
    assert (tmp_path / "theirs").read_text() == "kept"
    assert (tmp_path / "a.txt").read_text() == "ours"


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(StoreError, match="another output folder"):
        files.write_text(tmp_path / "a.txt", "ours")


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not _left(tmp_path)


def test_a_folder_is_whole_or_absent(tmp_path):
    with files.whole_folder(tmp_path / "a") as partial:
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "file").write_text("1")
    with pytest.raises(StoreError, match="not replaced"), files.whole_folder(tmp_path / "a") as partial:
        partial.mkdir()
    with pytest.raises(ZeroDivisionError), files.whole_folder(tmp_path / "a", lambda _: True) as partial:  # noqa: PT012
        partial.mkdir()
        1 / 0  # noqa: B018
    assert (tmp_path / "a" / "deep" / "file").read_text() == "1"
    with files.whole_folder(tmp_path / "a", lambda _: True) as partial:
        partial.mkdir()
    assert _left(tmp_path) == ["a"]
    assert not _left(tmp_path / "a")


def test_a_linked_folder_is_never_replaced(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    (tmp_path / "a").symlink_to("theirs")
    with pytest.raises(StoreError, match="not replaced"), files.whole_folder(tmp_path / "a", lambda _: True) as partial:
        partial.mkdir()
    files.delete_folder(tmp_path / "a")
    assert _left(tmp_path / "theirs") == ["file"]


def test_a_second_writer_is_refused_and_the_lock_ends(tmp_path):
    with files.sole_writer(tmp_path), pytest.raises(RunMismatchError, match="another job"), files.sole_writer(tmp_path):
        pass
    with files.sole_writer(tmp_path):
        pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("flock")])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, error):
    def no_lock(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", no_lock)
    with pytest.raises(StoreError, match=r"no file locks .* local disk"), files.sole_writer(tmp_path):
        pass


def test_a_move_takes_no_name_that_is_taken(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    with pytest.raises(StoreError, match="not replaced"):
        files.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "b"


def test_json_sorts_and_converts(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": {1}, "a": 0}, sort_keys=True, default=list)
    assert list(json.loads((tmp_path / "a.json").read_text()).items()) == [("a", 0), ("b", [1])]
