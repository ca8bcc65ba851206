"""The list of gunicorn's settings in docs/gunicorn.md is the installed gunicorn's, and each row is
true. What a worker has become of its settings is compared with gunicorn's own worker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from einhornpy.worker.gunicorn_settings import NOT_OURS
from gunicorn.config import KNOWN_SETTINGS

from ..gunicorns import Gunicorn, Start
from ..harness import APPS, EXAMPLE, Master, get, wait_until
from ..http2 import certificate
from ..whole.test_docs import generator

page = generator("generate_gunicorn")
Kind = page.Kind


def test_the_page_has_the_settings_of_the_installed_gunicorn() -> None:
    """A new gunicorn's new setting needs a row in docs/generate_gunicorn.py."""
    known = [setting.name for setting in KNOWN_SETTINGS]
    assert list(page.ROWS) == known
    text = page.PAGE.read_text()
    assert text == page.page(text)


def test_what_is_not_ours_is_what_the_adapter_names() -> None:
    assert sorted(NOT_OURS) == page.of_kind(Kind.NOT_OURS)


# --- not ours, without effect, refused: one master ---

VALUES = {
    "control_socket": '"elsewhere.ctl"', "control_socket_mode": "0o666",
    "dirty_graceful_timeout": "3", "dirty_post_fork": "lambda arbiter, worker: None",
    "dirty_threads": "2", "dirty_timeout": "7", "dirty_worker_exit": "lambda arbiter, worker: None",
    "dirty_worker_init": "lambda worker: None", "dirty_workers": "2",
    "on_dirty_starting": "lambda arbiter: None", "pre_exec": "lambda server: None",
    "reuse_port": "True", "worker_tmp_dir": '"/dev/shm"',
    "tmp_upload_dir": '"/dev/shm"', "enable_stdio_inheritance": "True"}
REFUSED = {"daemon": "True", "check_config": "True", "print_config": "True",
           "dirty_apps": '["app:Task"]'}


def conf_of(values: dict[str, str]) -> str:
    return "workers = 1\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


def test_what_has_no_effect_is_named_once_and_what_cannot_be_is_refused(
        start: Start, place: Path) -> None:
    shutil.copy(EXAMPLE / "app.py", place)
    conf = place / "gunicorn.conf.py"
    assert sorted(VALUES) == sorted(page.of_kind(Kind.NOT_OURS) + page.of_kind(Kind.NO_EFFECT))
    assert sorted(REFUSED) == page.of_kind(Kind.REFUSED)
    conf.write_text(conf_of(VALUES))
    master = start("-b", "127.0.0.1:0", "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    assert get(master.address)[0] == 200

    def named() -> list[str]:
        return re.findall('gunicorn settings not ours settings="?([^"\n]*)', master.log())

    everything = ", ".join(page.of_kind(Kind.NOT_OURS))
    assert named() == [everything]
    assert master.cli("upgrade").returncode == 0
    assert named() == [everything]
    # What is said with gunicorn's own value changes nothing.
    conf.write_text(conf_of({"reuse_port": "True", "pre_exec": "lambda server: None", "worker_tmp_dir": "None"}))
    assert master.cli("upgrade").returncode == 0
    assert named() == [everything, "pre_exec, reuse_port"]
    assert not (place / "elsewhere.ctl").exists()
    for name, value in REFUSED.items():
        conf.write_text(conf_of({name: value}))
        result = master.cli("upgrade")
        assert result.returncode == 5
        assert f"gunicorn's settings cannot be read: ValueError: {name} " in result.stderr
    assert get(master.address)[0] == 200


# --- the master's ---


def test_what_is_the_masters_counts_and_is_overruled_by_the_flag_that_the_row_names(
        start: Start, place: Path) -> None:
    (place / "app.py").write_text(
        "import json, os\n\ndef wsgi(environ, start_response):\n"
        "    start_response('200 OK', [])\n    return [json.dumps(dict(os.environ)).encode()]\n")
    (place / "gunicorn.conf.py").write_text(
        "bind = ['unix:g.unix', '127.0.0.1:0']\nbacklog = 77\nworkers = 2\nmax_requests = 3\n"
        "max_requests_jitter = 2\ntimeout = 17\ngraceful_timeout = 9\numask = 0o027\n"
        "pidfile = 'g.pid'\nproc_name = 'shop'\n"
        "def post_worker_init(worker):\n"
        "    open('graceful', 'w').write(str(worker.cfg.graceful_timeout))\n")
    master = start("--", "gunicorn", "app:wsgi")
    document = master.wait_ready()
    recorder = master.record()
    found = {
        "bind": [each["address"].split(":")[0] for each in document["listeners"]],
        "backlog": document["listeners"][1]["backlog"],
        "workers": document["target"],
        "pidfile": (place / "g.pid").read_text(),
        "proc_name": document["name"],
        "umask": (place / "g.unix").stat().st_mode & 0o777,
        "graceful_timeout": (place / "graceful").read_text(),
        "timeout": json.loads(get(str(place / "g.unix"))[1])["WATCHDOG_USEC"],}
    assert found == {
        "bind": ["unix", "127.0.0.1"], "backlog": 77, "workers": 2, "pidfile": f"{master.pid}\n",
        "proc_name": "shop", "umask": 0o750, "graceful_timeout": "8.1", "timeout": "17000000"}
    for _ in range(2 * (3 + 2)):
        assert get(str(place / "g.unix"))[0] == 200
    assert re.search("served [345] requests", recorder.wait_for("worker-due")["reason"])
    of_limit = {"max_requests", "max_requests_jitter"}
    assert sorted({*found, *of_limit}) == page.of_kind(Kind.MASTERS)
    assert master.stop() == 0
    flags = {"--bind": "127.0.0.1:0", "--number": "1", "--max-requests": "100",
             "--max-requests-jitter": "1", "--timeout": "30", "--graceful-timeout": "5",
             "--pidfile": "h.pid", "--command-name": "web"}
    # The template's own is tested with preloading.
    assert {row.flag for row in page.ROWS.values() if row.flag} == {*flags, "--preload"}
    other = start(*(word for each in flags.items() for word in each), "--", "gunicorn", "app:wsgi")
    other.wait_ready()
    line = other.wait_log("gunicorn settings overruled")
    for name in page.of_kind(Kind.MASTERS):
        if name not in ("backlog", "umask"):  # of what is bound by --bind nobody makes these
            assert f"{name} ({page.ROWS[name].flag} wins)" in line


# --- honoured, in the worker or in the template: as in gunicorn's own worker ---

HOOKS = {"on_starting": 1, "on_reload": 1, "when_ready": 1, "pre_fork": 2, "post_fork": 2,
         "worker_int": 1, "worker_abort": 1, "pre_request": 2, "post_request": 4, "child_exit": 2,
         "worker_exit": 2, "nworkers_changed": 3, "on_exit": 1, "ssl_context": 2}
TAIL = "def post_worker_init(worker):\n    settings_state.of(worker)\n"
HEAD = "import settings_state\nfrom settings_state import HERE\n"
LOGGING = {
    "version": 1, "disable_existing_loggers": False,
    "root": {"level": "WARNING", "handlers": ["file"]},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "shop.log"}},
    "loggers": {"shop": {"level": "INFO", "handlers": ["file"]},
                "gunicorn.error": {"level": "INFO", "handlers": ["file"]}},}
# Three, since some exclude each other.
CONFIGURATIONS = {
    "tls": HEAD + "".join(
        f"def {name}({', '.join('abcd'[:arity])}):\n    return None\n"
        for name, arity in HOOKS.items()) + f"logconfig_dict = {LOGGING!r}\n" + """
ssl_context = lambda conf, default: default()
wsgi_app = "app:wsgi"
worker_class, threads, worker_connections, keepalive = "gthread", 3, 77, 5
limit_request_line, limit_request_fields, limit_request_field_size = 4000, 50, 4096
sendfile = False
chdir = HERE + "/sub"
raw_env = ["SHOP_COLOUR=green=blue"]
user, group, initgroups = 65534, 65534, True
secure_scheme_headers = {"X-SCHEME": "https"}
forwarded_allow_ips = proxy_allow_ips = uwsgi_allow_ips = "10.0.0.1"
accesslog, errorlog, loglevel = HERE + "/access.log", HERE + "/error.log", "debug"
access_log_format = "%(m)s"
capture_output = True
disable_redirect_access_to_syslog, syslog = True, True
syslog_addr = "unix://" + HERE + "/syslog#dgram"
syslog_prefix, syslog_facility = "shop", "daemon"
statsd_host, dogstatsd_tags, statsd_prefix = "127.0.0.1:9", "a:b", "shop"
enable_backlog_metric = True
pythonpath = HERE + "/packages"
proxy_protocol = "v1"
keyfile, certfile, ca_certs = HERE + "/key", HERE + "/certificate", HERE + "/certificate"
ssl_version = __import__("ssl").PROTOCOL_TLS_SERVER
cert_reqs, suppress_ragged_eofs, do_handshake_on_connect, ciphers = 1, False, True, "HIGH"
http_protocols, http2_cleartext = "h2,h1", True
http2_max_concurrent_streams, http2_initial_window_size = 50, 70000
http2_max_frame_size, http2_max_header_list_size = 20000, 30000
permit_obsolete_folding = strip_header_spaces = casefold_http_method = True
permit_unconventional_http_method = permit_unconventional_http_version = True
forwarder_headers, header_map, http_parser = "SCRIPT_NAME", "dangerous", "python"
root_path = "/shop"
control_socket_disable = True
""" + TAIL,
    "paste": HEAD + """
import gunicorn.glogging
class Logger(gunicorn.glogging.Logger):
    pass
logger_class = Logger
logconfig = HERE + "/logging.ini"
reload, reload_engine, reload_extra_files = True, "poll", [HERE + "/extra"]
protocol = "uwsgi"
raw_paste_global_conf = ["colour=green"]
""" + TAIL,
    "asgi": HEAD + """
logconfig_json = HERE + "/logging.json"
worker_class, asgi_loop, asgi_lifespan = "asgi", "asyncio", "off"
preload_app = True
asgi_disconnect_grace_period, websocket_max_message_size = 5, 1000
spew = True
""" + TAIL,}
ARGUMENTS = {"tls": (), "paste": ("--paste", "shop.ini"), "asgi": ("asgi_app:asgi", )}
SHOP_INI = "[app:main]\npaste.app_factory = shop:make\n"
SHOP = "import app\n\ndef make(global_conf, **_):\n    return app.wsgi\n"
LOGGING_INI = """
[loggers]
keys = root, shop
[handlers]
keys = file
[formatters]
keys =
[logger_root]
level = WARNING
handlers = file
[logger_shop]
level = INFO
handlers = file
qualname = shop
[handler_file]
class = FileHandler
args = ("shop.log", )
"""


def lay_out(directory: Path, name: str) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    for each in (APPS / "settings_state.py", EXAMPLE / "app.py", EXAMPLE / "asgi_app.py"):
        shutil.copy(each, directory)
    for folder in ("sub", "packages"):
        (directory / folder).mkdir()
    for file, text in (("named.conf.py", CONFIGURATIONS[name]), ("shop.ini", SHOP_INI),
                       ("shop.py", SHOP), ("logging.ini", LOGGING_INI), ("extra", ""),
                       ("logging.json", json.dumps(LOGGING)), ("state", "")):
        (directory / file).write_text(text)
    (directory / "state").chmod(0o666)
    if name == "tls":
        for path in certificate(directory):
            path.chmod(0o644)


@pytest.fixture
def syslogs(place: Path) -> Iterator[Callable[[Path], None]]:
    """Who listens at `syslog` of a directory."""
    sockets = []

    def listen(directory: Path) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sockets.append(listener)
        listener.bind(str(directory / "syslog"))
        (directory / "syslog").chmod(0o666)

    yield listen
    for each in sockets:
        each.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_worker_becomes_of_its_settings_what_it_does_under_gunicorn(
        start: Start, place: Path, syslogs: Callable[[Path], None]) -> None:
    place.chmod(0o755)
    states: dict[tuple[str, str], dict[str, Any]] = {}
    theirs, masters = [], []
    try:
        for name, arguments in ARGUMENTS.items():
            words = ("-c", "named.conf.py", "-b", "127.0.0.1:0", *arguments)
            for side in ("gunicorn", "einhornpy"):
                lay_out(place / name / side, name)
                syslogs(place / name / side)
            theirs.append(Gunicorn(place / name / "gunicorn", words, {}))
            masters.append(start("-n", "1", "-c", name, "--", "gunicorn", *words,
                                 directory=place / name / "einhornpy"))
        for number, name in enumerate(ARGUMENTS):
            for side, server in (("gunicorn", theirs[number]), ("einhornpy", masters[number])):
                states[name, side] = wait_until(
                    partial(parsed, place / name / side / "state", server),
                    f"the state of {name} under {side}", server.log)
    finally:
        for server in theirs:
            server.signal(signal.SIGTERM)
        for server in theirs:
            server.wait_exit()
    changed: set[str] = set()
    ours = {*page.of_kind(Kind.MASTERS), *page.of_kind(Kind.NOT_OURS)}
    for name in ARGUMENTS:
        there, here = states[name, "gunicorn"], states[name, "einhornpy"]
        for each in ours:
            del there["settings"][each], here["settings"][each]
        changed |= {key for key, value in there["settings"].items()
                    if value != there["default"][key]}
        assert here == there, name
    honoured = {*page.of_kind(Kind.HONOURED), *page.of_kind(Kind.TEMPLATE)}
    assert honoured <= changed, honoured - changed


def parsed(file: Path, server: Gunicorn | Master) -> Any:
    assert server.process.poll() is None, server.log()
    try:
        return json.loads(file.read_text())
    except ValueError:
        return None


def test_a_worker_that_reloads_is_replaced(start: Start, place: Path) -> None:
    """By whatever file: the app's, and one more that was named."""
    app, extra = place / "app.py", place / "shop.toml"
    text = ("def wsgi(environ, start_response):\n    start_response('200 OK', [])\n"
            "    return [b'one']\n")
    app.write_text(text)
    extra.write_text("")
    master = start("-n", "1", "-b", "127.0.0.1:0", "--", "gunicorn", "--reload",
                   "--reload-engine", "poll", "--reload-extra-file", str(extra), "app:wsgi")
    pid = master.wait_ready()["workers"][0]["pid"]
    app.write_text(text.replace("one", "two"))
    for file in (app, extra):
        wait_until(partial(gone_of, file, pid), "the worker gone", master.log)
        pid = master.wait_ready()["workers"][0]["pid"]
        assert get(master.address)[1] == "two"


def gone_of(file: Path, pid: int) -> bool:
    """Whether the worker is gone; until then the file is a little newer each time, since a worker
    has to have looked once before it sees a change."""
    newer = file.stat().st_mtime + 1
    os.utime(file, (newer, newer))
    return not Path(f"/proc/{pid}").exists()
