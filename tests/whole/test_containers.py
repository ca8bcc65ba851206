"""The example Dockerfile and manifest: what they run is run, in a PID namespace, and their probes
say the truth."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..harness import BIN, DEADLINE, ROOT, get, wait_listening, wait_until
from ..system.test_attributes import as_root

CONTAINERS = ROOT / "examples" / "containers"


def dockerfile() -> dict[str, list[str]]:
    """Instruction → its arguments, in their order; lines that go on are joined."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"\\\n\s*", " ", (CONTAINERS / "Dockerfile").read_text())
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest)
    return found


def container() -> dict[str, Any]:
    manifest = yaml.safe_load((CONTAINERS / "kubernetes.yaml").read_text())
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]["containers"][0]
    return found


# The mount of the one directory is another one, and stays as it is.
SEALED = """mount --bind "$0" "$0"
for each in / /dev/shm; do mount -o remount,bind,ro "$each"; done
test ! -w /tmp; test ! -w /dev/shm; test ! -w .; test -w "$0"
exec "$@"
"""


class Pod:
    """A command as PID 1 of a namespace, with the environment of the image. `sealed`: in a mount
    namespace of its own too, where nothing can be written to but `place`."""

    def __init__(self, command: list[str], place: Path, app: Path, sealed: bool = False) -> None:
        self.environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}", "EINHORNPY_SOCKET_PATH": f"{place}/app.sock",
            "HOME": "/", "IMPORT_SECONDS": "0.3"}
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
             *(["sh", "-ec", SEALED, str(place)] if sealed else []), *command], cwd=app,
            env=self.environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def run(self, command: list[str]) -> int:
        return subprocess.run(command, env=self.environment, cwd="/", capture_output=True,
                              timeout=DEADLINE).returncode

    def init(self) -> int:
        (child,
         ) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)


@pytest.fixture
def app(place: Path) -> Path:
    shutil.copytree(ROOT / "examples" / "wsgi_app", place / "app")
    return place / "app"


def port_free(words: list[str]) -> list[str]:
    return [word.replace("0.0.0.0:8000", "127.0.0.1:0") for word in words]


@as_root
def test_the_probes_of_the_manifest(place: Path, app: Path) -> None:
    spec = container()
    probes = {name: spec[name]["exec"]["command"] for name in ("readinessProbe", "livenessProbe")}
    pod = Pod(port_free(spec["args"]), place, app)
    try:
        assert pod.run(probes["readinessProbe"]) in (0, 3, 69)
        wait_listening(place / "app.sock")
        assert pod.run(["einhornpy", "status", "--wait", "--timeout", "60"]) == 0
        assert [pod.run(probe) for probe in probes.values()] == [0, 0]
        # An upgrade in the pod keeps it ready.
        upgrade = subprocess.Popen(["einhornpy", "upgrade"], env=pod.environment,
                                   stdout=subprocess.DEVNULL)
        during = set()
        while upgrade.poll() is None:
            during.add(pod.run(probes["readinessProbe"]))
        assert upgrade.returncode == 0
        assert during == {0}
        # A release that was refused leaves the old one serving.
        (app / "app.py").write_text("raise RuntimeError('broken')\n")
        assert pod.run(["einhornpy", "upgrade"]) == 5
        assert [pod.run(probe) for probe in probes.values()] == [0, 0]
        os.kill(pod.init(), signal.SIGSTOP)
        os.kill(pod.init(), signal.SIGCONT)
        os.kill(pod.init(), signal.SIGTERM)
        assert pod.process.wait(DEADLINE) == 0
        assert [pod.run(probe) for probe in probes.values()] == [69, 1]
    finally:
        if pod.process.poll() is None:
            pod.process.kill()
        pod.process.communicate()


@as_root
def test_the_command_and_the_health_check_of_the_image(place: Path, app: Path) -> None:
    image = dockerfile()
    command, check = json.loads(image["CMD"][0]), json.loads(
        image["HEALTHCHECK"][0].partition("CMD ")[2])
    assert image["STOPSIGNAL"] == ["SIGTERM"]
    pod = Pod(port_free(command), place, app)
    try:
        wait_listening(place / "app.sock")
        wait_until(lambda: pod.run(check) == 0, "a healthy container")
        os.kill(pod.init(), signal.SIGTERM)
        assert pod.process.wait(DEADLINE) == 0
        assert pod.run(check) == 69
    finally:
        if pod.process.poll() is None:
            pod.process.kill()
        pod.process.communicate()


@as_root
@pytest.mark.parametrize(("worker_class", "app_name"), [
    ("sync", "app:wsgi"), ("gthread", "app:wsgi"), ("gevent", "app:wsgi"),
    ("asgi", "asgi_app:asgi"), ("uvicorn_worker.UvicornWorker", "asgi_app:asgi")])
def test_the_directory_of_the_socket_is_all_that_is_written_to(place: Path, app: Path,
                                                               worker_class: str,
                                                               app_name: str) -> None:
    """Neither we nor gunicorn makes a file anywhere else, and those that docs/containers.md names
    are all."""
    (run := place / "run").mkdir()
    pod = Pod(["einhornpy", "-n", "1", "-b", f"unix:{run}/app", "--web", f"unix:{run}/web", "--",
               "gunicorn", "-k", worker_class, app_name], run, app, sealed=True)
    try:
        wait_listening(run / "app.sock")
        assert pod.run(["einhornpy", "status", "--wait", "--timeout", "60"]) == 0
        assert get(f"{run}/app")[0] == 200
        wait_until(lambda: (run / "web").exists(), "the page")
        assert get(f"{run}/web", "/metrics")[0] == 200
        for command in ("upgrade", "reload"):
            assert pod.run(["einhornpy", command]) == 0
        made = {"app", "web", "app.sock", "app.notify", "app.lock", "app.metrics"}
        assert set(os.listdir(run)) == made
        told = (ROOT / "docs" / "containers.md").read_text()
        assert all(f"`{name}`" in told for name in made if name.startswith("app."))
        os.kill(pod.init(), signal.SIGTERM)
        assert pod.process.wait(DEADLINE) == 0
        assert os.listdir(run) == []
    finally:
        if pod.process.poll() is None:
            pod.process.kill()
        print(pod.process.communicate()[1])


def test_the_manifest_leaves_time_to_drain() -> None:
    manifest = yaml.safe_load(
        (CONTAINERS / "kubernetes.yaml").read_text())["spec"]["template"]["spec"]
    spec = manifest["containers"][0]
    graceful = int(spec["args"][spec["args"].index("--graceful-timeout") + 1])
    pause = int(spec["lifecycle"]["preStop"]["exec"]["command"][1])
    assert manifest["terminationGracePeriodSeconds"] >= graceful + pause
    mounted = {each["mountPath"] for each in spec["volumeMounts"]}
    (socket_path,) = (each["value"] for each in spec["env"]
                      if each["name"] == "EINHORNPY_SOCKET_PATH")
    assert os.path.dirname(socket_path) in mounted
    assert {each["name"]
            for each in spec["volumeMounts"]} == {each["name"] for each in manifest["volumes"]}
