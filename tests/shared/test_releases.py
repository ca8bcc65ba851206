"""What is known of releases on the disk: which one was proven before, what can't be read, and the
link that a start follows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from einhornpy.shared import releases
from einhornpy.shared.releases import State


@pytest.fixture
def root(tmp_path: Path) -> str:
    for name in ("a", "b", "c", "d"):
        (tmp_path / "releases" / name).mkdir(parents=True)
    return str(tmp_path)


def note(root: str, *told: tuple[str, State]) -> None:
    for name, state in told:
        releases.note(root, name, state, "somebody", 5.0)


def before(root: str, serving: str) -> str | None:
    return releases.before(releases.known(root), {serving})


def test_the_one_before_is_the_last_that_was_proven(root: str) -> None:
    assert before(root, "a") is None
    note(root, ("a", State.PROVEN), ("b", State.PROVEN), ("c", State.REFUSED),
         ("d", State.FETCHED))
    assert before(root, "b") == "a"
    note(root, ("a", State.PROVEN))  # somebody has gone back to it
    assert before(root, "a") == "b"
    note(root, ("b", State.PROVEN))
    assert before(root, "b") == "a"
    note(root, ("a", State.REFUSED))
    assert before(root, "b") is None


def test_the_order_is_not_that_of_the_clock(root: str) -> None:
    releases.note(root, "a", State.PROVEN, "somebody", 2000.0)
    releases.note(root, "b", State.PROVEN, "somebody", 1000.0)
    assert before(root, "c") == "b"


def test_what_was_known_stays_until_it_is_new(root: str) -> None:
    releases.note(root, "a", State.FETCHED, "ci", 1.0, size=4096)
    releases.note(root, "a", State.PROVEN, "ci", 2.0)
    releases.note(root, "a", State.REFUSED, "ops", 3.0, reason="it failed")
    found = releases.read(root, "a")
    assert found is not None
    assert (found.size, found.proven_at, found.at, found.by, found.reason) == (
        4096, 2.0, 3.0, "ops", "it failed")
    releases.forget(root, "a")
    releases.forget(root, "a")
    assert releases.read(root, "a") is None


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", "5", '{"release": "a"}', '{"release": "b", "state": "proven"}',
    '{"release": "a", "state": "good"}', '{"release": "a", "state": "proven", "order": "x"}',
    '{"release": "a", "state": "proven", "at": {}}', "[" * 100000])
def test_a_record_that_cannot_be_read_says_nothing(root: str, text: str) -> None:
    Path(root, "releases", ".a.json").write_text(text)
    assert releases.read(root, "a") is None
    note(root, ("b", State.PROVEN))
    assert releases.known(root).keys() == {"b"}


def test_what_is_no_directory_is_no_release(root: str) -> None:
    note(root, ("a", State.PROVEN))
    os.rmdir(f"{root}/releases/a")
    assert releases.known(root) == {}
    for name in ("", ".", "..", ".a", "a/b", "a\0b"):
        assert not releases.is_name(name)


def test_the_link_is_replaced_in_one_step_or_not_at_all(root: str) -> None:
    assert releases.current(root) is None
    for name in ("a", "b", "a"):
        releases.link(root, name)
        assert releases.current(root) == name
        assert os.readlink(f"{root}/current") == f"releases/{name}"
    os.unlink(f"{root}/current")
    os.symlink("/", f"{root}/current")
    assert releases.current(root) is None
    os.unlink(f"{root}/current")
    os.mkdir(f"{root}/current")
    with pytest.raises(OSError, match="directory"):
        releases.link(root, "a")
    assert sorted(os.listdir(root)) == ["current", "releases"]


def test_a_link_from_elsewhere_counts_too(root: str) -> None:
    """Capistrano's is absolute, and the root may itself be a link."""
    os.symlink(f"{root}/releases/c", f"{root}/current")
    assert releases.current(root) == "c"
    os.symlink(root, f"{root}/self")
    assert releases.current(f"{root}/self") == "c"


def test_a_record_that_cannot_be_written_leaves_the_old_one(root: str) -> None:
    note(root, ("a", State.PROVEN))
    os.mkdir(f"{root}/releases/.b.json")  # in the way
    with pytest.raises(OSError, match="directory"):
        note(root, ("b", State.PROVEN))
    assert sorted(os.listdir(f"{root}/releases")) == [".a.json", ".b.json", "a", "b", "c", "d"]


def test_what_is_no_file_keeps_nobody_waiting(root: str) -> None:
    """A pipe as a record had stopped the master for good."""
    os.mkfifo(f"{root}/releases/.a.json")
    os.symlink("/etc/passwd", f"{root}/releases/.b.json")
    assert (releases.read(root, "a"), releases.read(root, "b")) == (None, None)
