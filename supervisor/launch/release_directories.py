"""Where a release lies on this host: in `ROOT/releases/NAME`, and `ROOT/current` is a link to the
one that a start would run (the layout of Capistrano, ansistrano and Ansible's deploy_helper). It
only looks.
"""

from __future__ import annotations

import os

from ..settings.table import RELEASE, ROOT
from .recognition import Refused

RELEASES, CURRENT = "releases", "current"


def placed(root: str, command: tuple[str, ...], directory: str,
           release: str | None) -> tuple[tuple[str, ...], str, str | None]:
    """Command, directory and release of a generation, with root and release in the place of their
    names. Without a release, that which `current` leads to is meant, where a release is named.

    Raises:
        Refused: there is no such release.
    """
    if any(RELEASE in text for text in (*command, directory)):
        release = _there(root, release) if release is not None else current(root)

    def filled(text: str) -> str:
        return text.replace(ROOT, root).replace(RELEASE, release or "")

    return tuple(map(filled, command)), filled(directory), release


def current(root: str) -> str:
    """The release that `current` leads to.

    Raises:
        Refused: it leads to none.
    """
    link, releases = f"{root}/{CURRENT}", f"{root}/{RELEASES}"
    try:
        found = os.path.realpath(link, strict=True)
        inside, name = os.path.split(found)
        if os.path.samefile(inside, releases):
            return _there(root, name)
    except OSError as error:
        raise Refused(f"cannot start the release that {link} leads to: {error.strerror}") from None
    raise Refused(f"cannot start the release that {link} leads to: got {found}, expected a "
                  f"directory in {releases}")


def _there(root: str, release: str) -> str:
    directory = f"{root}/{RELEASES}"
    if "/" in release or release.startswith("."):
        raise Refused(f"no release {release!r}: expected the name of a directory in {directory}",
                      bad_input=True)
    if not os.path.isdir(f"{directory}/{release}"):
        raise Refused(f"no release {release!r} in {directory}")
    return release
