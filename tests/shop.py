"""A shop of releases for tests: a root, an origin from which they are fetched, and a configuration.
Its workers are shells, so that a start costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from einhornpy.shared import releases
from einhornpy.shared.releases import Record, State

from .harness import DEADLINE, EINHORNPY, Master, base_environment

GOOD, BAD = "#!/bin/sh\nexec sleep 1000\n", "#!/bin/sh\necho no such module >&2\nexit 3\n"


class Shop:
    """`root`: where releases come to. `origin`: what they are fetched from: a directory each."""

    def __init__(self, place: Path, **table: Any) -> None:
        self.place, self.root, self.origin = place, place / "shop", place / "origin"
        self.root.mkdir()
        self.origin.mkdir()
        self.config = place / "shop.toml"
        self.configure(**table)

    def configure(self, *, settings: Mapping[str, Any] | None = None, **table: Any) -> None:
        """Write the configuration. `table`: of [releases]; None leaves one out."""
        known = {
            "root": str(self.root), "fetch": f'cp -R "{self.origin}/$1/." "$2"',
            "prepare": 'test ! -e unpreparable && echo "prepared $1" > prepared'} | table
        lines = {
            "command": ["{root}/releases/{release}/web"], "number": 2, "ack-mode": "0.1",
            "min-ready-seconds": 0, "max-failures": 1, "seconds": 0} | dict(settings or {})
        self.config.write_text("".join(
            f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
            + "[releases]\n" + "".join(f"{key} = {json.dumps(value)}\n"
                                       for key, value in known.items() if value is not None))

    def publish(self, *names: str, web: str = GOOD) -> None:
        """Make releases that can be fetched."""
        for name in names:
            (self.origin / name).mkdir()
            program = self.origin / name / "web"
            program.write_text(web)
            program.chmod(0o755)

    def deploy(self, *words: str, environment: Mapping[str, str] | None = None,
               ) -> subprocess.CompletedProcess[str]:
        """Run `einhornpy deploy`."""
        return self.run("deploy", *words, environment=environment)

    def run(self, *words: str, environment: Mapping[str, str] | None = None,
            ) -> subprocess.CompletedProcess[str]:
        """Run a command of einhornpy's, which finds the shop's master alone."""
        return subprocess.run([EINHORNPY, *words], env=self.environment | dict(environment or {}),
                              capture_output=True, text=True, timeout=DEADLINE, cwd=self.place,
                              check=False)

    def begin(self, *words: str, environment: Mapping[str, str] | None = None,
              ) -> subprocess.Popen[str]:
        """Start `einhornpy deploy`, and leave it running."""
        return subprocess.Popen([EINHORNPY, "deploy", *words], text=True, stdin=subprocess.DEVNULL,
                                env=self.environment | dict(environment or {}), cwd=self.place,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @property
    def environment(self) -> dict[str, str]:
        return base_environment(self.place)

    def first(self, name: str) -> None:
        """Let a start run this release."""
        done = self.deploy(name, "--first", "--config", str(self.config))
        assert done.returncode == 0, done.stderr

    def serve(self, start: Callable[..., Master], name: str) -> Master:
        """A master that runs this release, the first one."""
        self.first(name)
        master = start("--config", str(self.config))
        master.wait_ready()
        return master

    @property
    def current(self) -> str | None:
        return releases.current(str(self.root))

    def record(self, name: str) -> Record | None:
        return releases.read(str(self.root), name)

    def state(self, name: str) -> State | None:
        found = self.record(name)
        return None if found is None else found.state

    def names(self) -> list[str]:
        """Everything that lies in `releases/`, but for the records of what is there."""
        found = sorted(os.listdir(self.root / "releases"))
        return [each for each in found if not (each.startswith(".") and each.endswith(".json")
                                               and each[1:-5] in found)]


def serving(master: Master) -> str | None:
    """The release that serves."""
    release: str | None = master.status()["release"]
    return release
