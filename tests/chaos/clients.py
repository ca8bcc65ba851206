"""What operators and deploy tools do, several at once, each by the real command line."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Collection

from .host import Host, Result

# What is done how often. Each is a method of Client.
WEIGHTS = {"deploy": 6, "broken": 3, "canary": 2, "judged": 3, "slow": 1, "rollback": 2, "hup": 1,
           "scale": 3, "recycle": 3, "pause": 2, "abort": 1, "reload": 3, "status": 3, "look": 2}
# What a deploy tool is told where releases have no place just now; it gives up then.
NO_PLACE = (FileNotFoundError, NotADirectoryError, PermissionError)


class Client(threading.Thread):
    """One of them. It gives one command after the other until it is told to `finish`. `without`:
    operations that it leaves out."""

    def __init__(self, host: Host, dice: random.Random, without: Collection[str]) -> None:
        super().__init__(daemon=True)
        self._host, self._dice = host, dice
        self._finish = threading.Event()
        self._weights = {name: weight for name, weight in WEIGHTS.items() if name not in without}
        self.results: list[Result] = []
        self.error: BaseException | None = None
        self.start()

    def finish(self) -> None:
        self._finish.set()

    def run(self) -> None:
        try:
            while not self._finish.is_set():
                name = self._dice.choices(list(self._weights), list(self._weights.values()))[0]
                getattr(self, f"_{name}")()
                self._finish.wait(self._dice.uniform(0.0, 0.5))
        except BaseException as error:  # the driver's own: told by the driver
            self.error = error

    def _ask(self, name: str, *words: str) -> Result:
        result = self._host.ask(name, *words)
        self.results.append(result)
        return result

    def _deploy(self, *words: str, name: str = "deploy", how: str = "good") -> None:
        host = self._host
        with host.deploying, contextlib.suppress(*NO_PLACE):
            code = host.new_release(how)
            host.activate(code)
            result = self._ask(name, "upgrade", "--release", code, "--json", *words)
            if result.code == 0 and how == "good":
                host.good = code
            else:
                host.activate(host.good)

    def _canary(self) -> None:
        self._deploy("--canary", "1", "--hold", str(self._dice.choice((0.2, 1))), "--check", "true",
                     name="canary")

    def _judged(self) -> None:
        self._deploy("--canary", "1", "--hold", str(self._dice.choice((1, 4))), "--judge",
                     "--watch", str(self._dice.choice((0.5, 3))), name="judged")

    def _slow(self) -> None:
        self._deploy("--canary", "1", "--hold", "12", "--judge", "--watch", "3", name="slow",
                     how="slow")

    def _broken(self) -> None:
        host = self._host
        with host.deploying, contextlib.suppress(*NO_PLACE):
            code = host.new_release(self._dice.choice(("import", "import", "unhealthy", "exit")))
            host.activate(code)
            try:
                self._ask("broken", "upgrade", "--release", code, "--json")
            finally:
                host.activate(host.good)

    def _rollback(self) -> None:
        self._ask("rollback", "rollback", "--json")

    def _hup(self) -> None:
        with self._host.deploying:  # somebody else's link may be half way
            self._host.story.tell("  hup")
            self._host.story.count("operations hup")
            if self._host.alive():
                os.kill(self._host.master.pid, signal.SIGHUP)

    def _scale(self) -> None:
        self._ask("scale", "scale", str(self._host.number + self._dice.choice((-1, 0, 1, 2))))

    def _recycle(self) -> None:
        self._ask("recycle", "recycle", str(self._dice.randrange(self._host.number)))

    def _pause(self) -> None:
        if self._ask("pause", "pause").code == 0:
            self._finish.wait(self._dice.uniform(0.1, 1.0))
            self._ask("resume", "resume")

    def _abort(self) -> None:
        self._ask("abort", "abort")

    def _reload(self) -> None:
        self._ask("reload", "reload")

    def _status(self) -> None:
        self._ask("status", "status", "--json")

    def _look(self) -> None:
        self._ask("look", *self._dice.choice((("history",), ("list",), ("shell", "-e", "tally"))))
