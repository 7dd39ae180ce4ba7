"""Files and folders that are there as a whole or not at all."""

from pathlib import Path

import pytest

from talktune.errors import UserError
from talktune.files import whole_file, whole_folder


def test_a_file_is_replaced_and_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    with whole_file(link) as out:
        out.write(b"new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_an_exception_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def interrupted() -> None:
        with whole_file(file) as out:
            out.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def test_what_is_no_plain_file_is_written_directly() -> None:
    with whole_file(Path("/dev/null")) as out:
        out.write(b"anything")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("below", ["no-such-folder/file", "a-folder"])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "a-folder").mkdir()
    with pytest.raises(UserError, match=f"{below} cannot be written"), whole_file(tmp_path / below):
        pass


def test_a_folder_takes_the_place_of_an_older_one_and_of_what_a_killed_run_left(tmp_path: Path) -> None:
    target, left = tmp_path / "new" / "target", tmp_path / "new" / ".target.tmp"
    for folder in (target, left):
        folder.mkdir(parents=True)
        (folder / "old").write_text("old")
    with whole_folder(target) as partial:
        (partial / "file").write_text("whole")
        assert (target / "old").exists()
    assert [p.name for p in target.iterdir()] == ["file"]
    assert not left.exists()
