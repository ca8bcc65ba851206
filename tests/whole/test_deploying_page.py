"""docs/deploying.md as somebody follows it on an empty machine: with a real repository, from the
first release to the way back."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from ..harness import BIN, DEADLINE, EXAMPLE, ROOT, Master, base_environment, free_port, wait_until
from ..shop import Shop

Start = Callable[..., Master]
PAGE = (ROOT / "docs" / "deploying.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_from_an_empty_machine_to_the_way_back(place: Path, start: Start) -> None:
    port = free_port()

    def here(text: str) -> str:
        return text.replace("/srv/shop", f"{place}/shop").replace("127.0.0.1:8000",
                                                                  f"127.0.0.1:{port}")

    environment = base_environment(place) | {
        "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "GIT_AUTHOR_NAME": "me",
        "GIT_AUTHOR_EMAIL": "me@example.com", "GIT_COMMITTER_NAME": "me",
        "GIT_COMMITTER_EMAIL": "me@example.com"}

    def typed(line: str) -> str:
        done = subprocess.run(["/bin/sh", "-ec", here(line)], env=environment, cwd=place,
                              capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    typed(blocks("sh")[0])
    Path(here("/srv/shop.toml")).write_text(here(blocks("toml")[0]))
    seen = []
    for block in blocks("console")[:2]:
        said = ""
        for line in block.splitlines():
            if not line.startswith("$ "):
                # What others than git and the clock have made is as the page says.
                assert re.search("[0-9a-f]{12}", line) or line in said.splitlines(), line
            elif line.endswith(" &"):
                command = here(line).removeprefix("$ einhornpy ").removesuffix(" &").split()
                start(*command, environment=environment, cwd=place)
                wait_until(lambda: list(place.glob("run/einhornpy/*.sock")), "a master")
            else:
                said = typed(line.removeprefix("$ "))
                seen.append(said)
    assert re.match(r"main is release [0-9a-f]{12}\nfetch ", seen[0])
    assert len(re.findall("^[0-9a-f]{12} +proven ", seen[-1], re.MULTILINE)) == 3
    assert typed("readlink /srv/shop/current").startswith("releases/")


def test_the_example_app_asks_for_a_release_for_whoever_has_the_token(place: Path,
                                                                      start: Start) -> None:
    shop = Shop(place)
    shop.configure(settings={"command": ["gunicorn", "-k", "gthread", "app:wsgi"], "number": 1,
                             "ack-mode": "auto", "bind": ["127.0.0.1:0"]}, prepare=None)
    for name in ("v1", "v2"):
        (shop.origin / name).mkdir()
        (shop.origin / name / "app.py").write_text((EXAMPLE / "app.py").read_text())
    shop.first("v1")
    master = start("--config", str(shop.config), environment={"DEPLOY_TOKEN": "secret"})
    master.wait_ready()

    def post(token: str) -> str:
        return subprocess.run(
            ["curl", "-s", "-X", "POST", "-w", "%{http_code}", "-H", f"Authorization: {token}",
             "http://{}:{}/deploy/v2".format(*master.address)], capture_output=True, text=True,
            timeout=DEADLINE, check=True).stdout

    for wrong in ("", "Bearer ", "Bearer wrong", "secret"):
        assert post(wrong) == "who are you?\n403"
    assert post("Bearer secret") == "generation 2\n202"
    master.wait_status(lambda status: status["release"] == "v2" and status["gate"] == "ready")
    wait_until(lambda: shop.current == "v2", "current moved", master.log)
