"""Which directory a release is, and which release a generation is of. It only looks."""

from __future__ import annotations

import os

from ...shared import releases
from ..core.generation import Recipe
from ..settings.table import RELEASE, ROOT, Settings
from .recognition import Refused


def placed(root: str, command: tuple[str, ...], directory: str,
           release: str | None) -> tuple[tuple[str, ...], str, str | None]:
    """Command, directory and release of a generation, with root and release in the place of their
    names. Without a release, that which `current` leads to is meant, where a release is named.

    Raises:
        Refused: there is no such release.
    """
    if names_release(command, directory):
        release = _there(root, release) if release is not None else current(root)

    def filled(text: str) -> str:
        return text.replace(ROOT, root).replace(RELEASE, release or "")

    return tuple(map(filled, command)), filled(directory), release


def names_release(command: tuple[str, ...], directory: str) -> bool:
    """Whether what is run is that of a release."""
    return any(RELEASE in text for text in (*command, directory))


def running_release(recipe: Recipe, settings: Settings) -> str | None:
    """The release in whose directory, below the root, a generation runs; None where it is none."""
    root, release = settings.releases_root, recipe.release
    if (root is None or release is None or not releases.is_there(root, release)
            or not names_release(settings.command, settings.chdir)):
        return None
    place = os.path.realpath(releases.directory(root, release))
    ways = (recipe.directory, recipe.program, *recipe.words, *recipe.command)
    found = any(f"{os.path.realpath(way)}/".startswith(f"{place}/")
                for way in ways if way.startswith("/"))
    return release if found else None


def current(root: str) -> str:
    """The release that `current` leads to.

    Raises:
        Refused: it leads to none.
    """
    link = f"{root}/{releases.CURRENT}"
    try:
        name = releases.linked(root)
    except OSError as error:
        better = ("--rollback goes back to one that was proven" if _has_proven(root) else
                  "RELEASE --first brings the first one")
        raise Refused(f"cannot start the release that {link} leads to: {error.strerror}; "
                      f"einhornpy deploy --config FILE {better}") from None
    if name is None:
        raise Refused(f"cannot start the release that {link} leads to: got "
                      f"{os.path.realpath(link)}, expected a directory in "
                      f"{releases.directory(root)}")
    return _there(root, name)


def _has_proven(root: str) -> bool:
    try:
        return bool(releases.proven(releases.known(root)))
    except OSError:
        return False


def _there(root: str, release: str) -> str:
    directory = releases.directory(root)
    if not releases.is_name(release):
        raise Refused(f"no release {release!r}: expected the name of a directory in {directory}",
                      bad_input=True)
    if not releases.is_there(root, release):
        raise Refused(f"no release {release!r} in {directory}")
    if not releases.is_complete(root, release):
        raise Refused(f"release {release!r} in {directory} is not prepared, or not yet: "
                      f"einhornpy deploy {release} makes it anew")
    return release
