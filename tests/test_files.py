"""Output files: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from edgeconv.errors import InputError
from edgeconv.files import atomic_output, check_output, write_text


def test_outputs_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_text("kept")
    (tmp_path / "link").symlink_to("in")
    for name, message in (
        (".", "--plot .* is a directory"),
        ("none/out", "there is no directory"),
        ("link", "is read"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            check_output("--plot", tmp_path / name, [tmp_path / "gone", tmp_path / "in"])
        assert caught.value.remedy
    check_output("--plot", tmp_path / "in", [tmp_path / "other"])
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)
    with pytest.raises(InputError, match="is closed"):
        check_output("--plot", tmp_path / "out")
    assert entries(tmp_path) == {"in": "kept", "link": "kept"}


def entries(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_new_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "out.json", "‖x‖")
    (tmp_path / "other").touch()
    assert (tmp_path / "out.json").read_text(encoding="utf-8") == "‖x‖"
    assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    write_text(tmp_path / "out.json", "again")
    assert entries(tmp_path) == {"out.json": "again", "other": ""}


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_interruption_leaves_what_was_there(tmp_path: Path, existing: bool, error: type[BaseException]) -> None:
    if existing:
        (tmp_path / "out").write_text("before")

    def write_half() -> None:
        with atomic_output(tmp_path / "out") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert entries(tmp_path) == ({"out": "before"} if existing else {})


def test_target_is_untouched_until_the_block_ends(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    with atomic_output(tmp_path / "out") as temporary:
        assert temporary.parent == tmp_path, "a move between file systems is not atomic"
        temporary.write_text("after")
        assert (tmp_path / "out").read_text() == "before"
    assert entries(tmp_path) == {"out": "after"}


def test_full_disk_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))  # the kernel's own refusal, as with a full disk
    try:
        with pytest.raises(InputError, match=r"cannot write .*out: File too large\.") as caught:
            write_text(tmp_path / "out", "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "make room" in caught.value.remedy
    assert entries(tmp_path) == {"out": "before"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_of_the_last_steps_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(InputError, match="No space left on device"):
        write_text(tmp_path / "out", "text")
    assert entries(tmp_path) == {}


def test_places_that_take_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    for path, message in (
        (tmp_path / "missing" / "out", "No such file or directory"),
        (tmp_path / "file" / "out", "Not a directory"),
        (tmp_path, "not a regular file"),
        (tmp_path / ("n" * 300), "File name too long"),
        ("/dev/null", "not a regular file"),
    ):
        with pytest.raises(InputError, match=message), atomic_output(path) as temporary:
            temporary.write_text("never")
    assert entries(tmp_path) == {"file": "before"}
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_name_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "text")
    write_text(tmp_path / ("ñ" * 127), "text")
    assert len(entries(tmp_path)) == 2
