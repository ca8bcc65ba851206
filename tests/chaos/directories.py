"""Faults of files and directories: releases that vanish, a link that leads nowhere, settings that
nobody can read."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .faults import REFUSES, Fault
from .host import SETTINGS

if TYPE_CHECKING:
    from .host import Host


@dataclass
class LostRelease(Fault):
    """The directories of all releases are moved away, or may not be entered; who serves goes on,
    who starts can't."""

    kind: ClassVar[str] = "lost-release"
    lawful: ClassVar[frozenset[int]] = REFUSES
    how: str = "moved"

    @classmethod
    def drawn(cls, dice: random.Random) -> LostRelease:
        return cls(dice.uniform(0.5, 3.0), dice.choice(("moved", "closed")))

    def inject(self, host: Host) -> None:
        # Root enters everything: for it the closed directory is a file.
        if self.how == "closed" and os.geteuid() != 0:
            host.releases.chmod(0)
            return
        host.releases.rename(_aside(host))
        if self.how == "closed":
            host.releases.touch()

    def heal(self, host: Host) -> None:
        if _aside(host).exists():
            host.releases.unlink(missing_ok=True)
            _aside(host).rename(host.releases)
        host.releases.chmod(0o755)

    def __str__(self) -> str:
        return f"{self.kind} {self.how}"


def _aside(host: Host) -> Path:
    return host.directory / "releases-aside"


@dataclass
class MovedLink(Fault):
    """`current` leads to nothing, to itself, to a file, or to an older release."""

    kind: ClassVar[str] = "moved-link"
    # what was to be a broken release may be a good one
    lawful: ClassVar[frozenset[int]] = REFUSES | {0}
    to: str = "nothing"

    @classmethod
    def drawn(cls, dice: random.Random) -> MovedLink:
        return cls(dice.uniform(0.5, 3.0), dice.choice(("nothing", "itself", "file", "older")))

    def inject(self, host: Host) -> None:
        host.point({
            "nothing": host.releases / "none", "itself": host.current, "file": host.settings,
            "older": host.releases / "code1"}[self.to])

    def heal(self, host: Host) -> None:
        host.activate(host.good)

    def __str__(self) -> str:
        return f"{self.kind} to {self.to}"


@dataclass
class BrokenSettings(Fault):
    """The settings of the master and of gunicorn are half written, or gone: upgrades and reloads
    are refused."""

    kind: ClassVar[str] = "broken-settings"
    lawful: ClassVar[frozenset[int]] = REFUSES
    which: str = "toml"

    @classmethod
    def drawn(cls, dice: random.Random) -> BrokenSettings:
        return cls(dice.uniform(0.5, 3.0), dice.choice(("toml", "gunicorn", "gone")))

    def inject(self, host: Host) -> None:
        if self.which == "gone":
            host.settings.unlink()
        elif self.which == "toml":
            host.write_settings(toml='max-surge = "half\n')
        else:
            host.write_settings(gunicorn=SETTINGS + "raise RuntimeError('half written')\n")

    def heal(self, host: Host) -> None:
        host.write_settings()

    def __str__(self) -> str:
        return f"{self.kind} {self.which}"
