"""A real master whose environment, command line, hooks and failing app are full of secrets: none of
them is told to anybody."""

from __future__ import annotations

import grp
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from einhornpy.control import show
from einhornpy.supervisor.core import observe
from einhornpy.supervisor.core.generation import Recipe
from einhornpy.supervisor.core.pool import Policy, Pool
from einhornpy.supervisor.reporting import generations

from ..harness import APPS, DEADLINE, EINHORNPY, EXAMPLE, Master, get
from ..reporting.test_redaction import SHA
from ..system.test_attributes import NOBODY, as_root

Start = Callable[..., Master]
BASE64, HEX = "Zm9v+mFy/zXk92mQpLz8TnVb3RwY7cD5fGhJkL4q==", "b1946ac92492d2347c6235b4d2611184b1946ac9"
ENVIRONMENT = {
    "DB_PWD": f"one{HEX}",
    "DATABASE_URL": f"postgres://shop:two/{BASE64}@db.example.com:5432/shop",
    "ADO": f"Server=db;Password=three {HEX};",
    "STORAGE": f"AccountName=shop;AccountKey=four{BASE64};EndpointSuffix=core.windows.net",
    "HOOK": f"https://example.com/?token=five{HEX}",
    "JWT_OF": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzaXgifQ.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "HEADER": f"Bearer seven{BASE64}",
    "REPOSITORY": f"https://eight{HEX}@example.com/x.git",
    "KEY_IN_PEM": f"-----BEGIN PRIVATE KEY-----\n{BASE64}\n-----END PRIVATE KEY-----",
    "PLAIN": BASE64[::-1],
    "REDIS_PASSWORD": "correct horse 9 battery",
}
# What must never be read anywhere.
TELLTALES = [
    "two/", "three ", "four", "five", "seven", "eight", "nine", "ten1", "eleven", BASE64[:12],
    BASE64[::-1][:16], HEX[:12], "dozjgNryP4J3", "eyJzdWIi", "correct horse",
]
SCRIPT = """if test -e broken; then
    echo "OperationalError: cannot reach $DATABASE_URL with $ADO nor with '$REDIS_PASSWORD'" >&2
    echo "$KEY_IN_PEM" >&2
    exit 3
fi
exec "$0" "$@" """
WORKER = [
    sys.executable,
    str(APPS / "worker.py"), "notify", "--password", f"nine{HEX}", f"--token=ten1{HEX}"]


def has_no_secret(said: str, where: str) -> None:
    found = [telltale for telltale in TELLTALES if telltale in said]
    assert not found, f"{where} tells {found}: {said}"


def started(start: Start, place: Path, *arguments: str) -> Master:
    given = [word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
    master = start("-n", "1", "-m", "notify", "--max-failures", "1", "--release", SHA,
                   "-d", f"{place}/x.sock", *given, *arguments, "--", "sh", "-c", SCRIPT, *WORKER)
    master.wait_ready()
    return master


def test_nobody_is_told_a_secret(start: Start, place: Path) -> None:
    hooks = [word for name in ("upgrade-end", "upgrade-failed", "worker-exit")
             for word in (f"--on-{name}", f"cat >> {place}/told; exit 1")]
    master = started(start, place, "--web", "127.0.0.1:0", "--worker-output", "prefix", *hooks)
    recorder = master.record()
    check = f"true --token eleven{HEX}"
    said = {"upgrade": master.cli("upgrade", "--release", SHA, "--canary", "1", "--hold", "0.2",
                                  "--check", check)}
    assert said["upgrade"].returncode == 0, said["upgrade"].stderr
    (place / "broken").touch()
    said["failed"] = master.cli("upgrade", "--release", "bad")
    assert said["failed"].returncode == 5
    assert (
        "cannot reach postgres://shop:***@db.example.com:5432/shop with Server=db;Password=***; "
        "nor with '***'") in said["failed"].stderr
    for command in (["status"], ["history"], ["show", "1"], ["show", "2"], ["show", "3"]):
        said[f"{command}"] = master.cli(*command)
        said[f"{command} as JSON"] = master.cli(*command, "--json")
    for line in ("state", "show generation=3"):
        said[f"shell: {line}"] = master.cli("shell", "-e", line)
    for where, result in said.items():
        has_no_secret(result.stdout + result.stderr, where)
    for path in ("/status", "/readyz"):
        has_no_secret(get(master.web_address, path)[1], path)
    recorder.wait_for("upgrade-ended", 2)
    for event in (*recorder.recent, *recorder.events):
        has_no_secret(json.dumps(event), "events")
    assert "token ***" in recorder.wait_for("hold-begun")["check"]
    shown = json.loads(said["['show', '1'] as JSON"].stdout)
    assert shown["release"] == SHA
    assert shown["environment"][
        "STORAGE"] == "AccountName=shop;AccountKey=***;EndpointSuffix=core.windows.net"
    assert shown["environment"]["PATH"] == master.environment["PATH"]
    assert shown["command"][-5:] == [*WORKER[:-3], "--password", "***", "--token=***"][-5:]
    assert f"release    {SHA}" in said["['show', '1']"].stdout
    assert SHA in said["['history']"].stdout
    master.stop()
    has_no_secret((place / "told").read_text(), "a hook's document")
    # What a worker prints is the app's own, and goes to the log as it is.
    log = "\n".join(line for line in master.log().splitlines() if " stderr| " not in line)
    has_no_secret(log, "the log")


def test_secrets_of_a_generation_that_is_being_made_are_secrets_already(start: Start,
                                                                        place: Path) -> None:
    """Its environment is that of no generation yet, when the app's own settings fail with it."""
    shutil.copy(EXAMPLE / "app.py", place / "app.py")
    conf, file = place / "gunicorn.conf.py", place / "f.toml"
    conf.write_text("")
    file.write_text("number = 1\nbind = '127.0.0.1:0'\n")
    master = start("--config", str(file), "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    file.write_text(file.read_text() +
                    "[env]\nDB_PASSWORD = 'New-Sommer2026!'\nSMTP_PASSWORD = 'letmein'\n")
    conf.write_text(
        "import os\nraise ValueError(' '.join([os.environ['DB_PASSWORD'], "
        "os.environ['SMTP_PASSWORD']]))\n"
    )
    assert master.cli("reload").returncode == 0
    upgraded = master.cli("upgrade")
    assert upgraded.returncode == 5
    assert "ValueError: *** ***" in upgraded.stderr
    for said in (upgraded, master.cli("status"), master.cli("history", "--json")):
        assert "Sommer" not in said.stdout + said.stderr
        assert "letmein" not in said.stdout + said.stderr


def test_what_was_expected_is_told_as_it_is(place: Path) -> None:
    for given, expected in [
        ("--labels=x", "got 'x', expected KEY=VALUE, where KEY is a letter"),
        ("--labels=pid=4", "expected another KEY: log lines and metrics have a pid"),
        ("--env=API_KEY", "got one that is not shown here, expected KEY=VALUE"),
        ("--rlimit=--token hunter2", "got '--token ***, expected NAME=SOFT")]:
        ended = subprocess.run([EINHORNPY, given, "--", "true"], cwd=place, capture_output=True,
                               text=True, timeout=DEADLINE)
        assert ended.returncode == 2
        assert expected in ended.stderr


@as_root
def test_observers_see_no_value_of_the_environment(start: Start, place: Path) -> None:
    place.chmod(0o777)
    group = grp.getgrgid(NOBODY.pw_gid).gr_name
    master = started(start, place, "--observers", group, "--env", "GREETING=hello")
    script = ('$s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!;'
              'print $s $ARGV[1] . "\\n"; $s->flush; print scalar <$s>')
    answers: dict[int, dict[str, Any]] = {}
    for uid in (0, 65000):
        found = subprocess.run(
            ["/usr/bin/perl", "-MIO::Socket::UNIX", "-e", script, master.path,
             '{"command": "show", "args": {"generation": 1}}'], user=uid, group=NOBODY.pw_gid,
            extra_groups=[], capture_output=True, text=True, timeout=DEADLINE)
        answers[uid] = json.loads(found.stdout)["result"]
    assert answers[0]["environment"]["GREETING"] == "hello"
    assert answers[65000]["environment"] == dict.fromkeys(answers[0]["environment"], "***")
    assert answers[65000] | {"environment": {}} == answers[0] | {"environment": {}}


def two_generations(before: Recipe, after: Recipe) -> Pool:
    pool = observe.new_pool(before, 1, Policy())
    second = replace(pool.generations[1], number=2, recipe=after)
    return replace(pool, generations={**pool.generations, 2: second}, current=2, newest=2)


def recipe(environment: dict[str, str], *command: str) -> Recipe:
    return Recipe(command, "/srv", environment, SHA, None)


def test_that_a_secret_differs_is_told_but_not_how() -> None:
    before = recipe(
        {"API_TOKEN": "old", "DB": "postgres://u:old@h/d", "LANG": "C", "GONE_KEY": "x"}, "serve",
        "--password", "old")
    after = recipe({"API_TOKEN": "new", "DB": "postgres://u:new@h/d", "LANG": "de", "NEW_KEY": "y"},
                   "serve", "--password", "new")
    document = generations.generation_document(two_generations(before, after), 2, values=True)
    told = {each["what"]: (each["before"], each["after"], each["secret"])
            for each in document["changes"]}
    url = "postgres://u:***@h/d"
    assert told == {
        "command": (["serve", "--password", "***"], ["serve", "--password", "***"], True),
        "environment API_TOKEN": ("***", "***", True), "environment DB": (url, url, True),
        "environment LANG": ("C", "de", False), "environment GONE_KEY": ("***", None, True),
        "environment NEW_KEY": (None, "***", True)}
    text = show.generation(document)
    assert f"  environment DB: {url} -> {url} (what differs is secret)\n" in text
    assert "  environment LANG: C -> de\n" in text
    assert "old" not in json.dumps(document) + text
    looked_at = generations.generation_document(two_generations(before, after), 2, values=False)
    assert [each for each in looked_at["changes"] if each["what"] == "environment LANG"] == [
        {"what": "environment LANG", "before": "***", "after": "***", "secret": True}]
