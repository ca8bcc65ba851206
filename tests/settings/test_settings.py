"""Settings from three sources: who wins, where each value came from, and one clear line for
whatever is wrong."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from einhornpy.supervisor.settings.declaring import Setting
from einhornpy.supervisor.settings.sources import OF_KUBERNETES, BadSetting, load, strays
from einhornpy.supervisor.settings.table import SETTINGS, Settings
from hypothesis import given
from hypothesis import strategies as st

from ..harness import DEADLINE, EINHORNPY

# Per setting: a good text, what it means, and a bad text.
SAMPLES: dict[str, tuple[str, Any, str]] = {
    "number": ("3", 3, "0"), "bind": (":80", (":80",), ""),
    "ack_mode": ("notify", "notify", "soon"), "max_surge": ("2", 2, "x"),
    "ready_timeout": ("9.5", 9.5, "0"), "min_ready_seconds": ("1", 1.0, "nan"),
    "graceful_timeout": ("7", 7.0, "inf"), "timeout": ("5", 5.0, ""),
    "einhorn": ("1", True, "maybe"), "max_failures": ("0", 0, "-1"), "stop_signal": ("int", "SIGINT", "SIGNOTHING"),
    "command_name": ("web", "web", "a/b"), "socket_path": ("s", "/dir/s", ""),
    "pidfile": ("/p", "/p", ""), "kill_children_on_exit": ("false", False, "maybe"),
    "releases_root": ("shop", "/dir/shop", ""), "releases_fetch": ("git", "git", ""),
    "releases_prepare": ("make", "make", ""), "releases_resolve": ("x", "x", ""),
    "releases_timeout": ("5min", 300.0, "0"), "releases_keep": ("3", 3, "0"), "chdir": ("sub", "/dir/sub", ""), "env": ("A=b=c", (("A", "b=c"),),
                                              "A"), "warm_up": ("/x?y=1", ("/x?y=1",), "x"),
    "release": ("r1", "r1", ""), "progress_timeout": ("10min", 600.0,
                                                      "10x"), "max_requests": ("500", 500, "-1"),
    "max_requests_jitter": ("50", 50, "x"), "max_lifetime": ("6h", 21600.0, "h"),
    "max_lifetime_jitter": ("90s", 90.0, "-5s"), "max_memory": ("400M", 400 << 20, "much"),
    "max_memory_hard": ("1.5GiB", 3 << 29, "-1"), "min_available_memory": ("64k", 65536, "1.2.3M"),
    "reload_exit_code": ("75", 75, "256"), "on_upgrade_start": ("true", "true", ""),
    "on_upgrade_start_first": ("1", True, "maybe"), "on_upgrade_end": ("a b", "a b", ""),
    "on_upgrade_failed": ("x", "x", ""), "on_worker_ready": ("x", "x",
                                                             ""), "on_worker_exit": ("x", "x", ""),
    "hook_timeout": ("5", 5.0, "0"), "backlog": ("100", 100, "70000"), "max_unacked": ("2", 2, "0"),
    "seconds": ("2", 2.0, "-1"), "socket_mode": ("0660", 0o660, "abc"),
    "socket_group": ("www", "www", ""), "observers": ("adm", "adm",
                                                      ""), "command_socket_as_fd": ("1", True, "2"),
    "lockfile": ("l", "/dir/l", ""), "drop_env_var": ("SECRET", ("SECRET",),
                                                      ""), "user": ("www-data", "www-data",
                                                                    ""), "group": ("33", "33", ""),
    "nice": ("-5:10", (-5, 10),
             "20"), "rlimit": ("nofile=65536:unlimited", (("nofile", 65536, -1),),
                               "nofiles=3"), "cpu_affinity": ("0,2-4", (0, 2, 3, 4),
                                                              "all"), "umask": ("027", 0o27, "9"),
    "judge": ("yes", True, "maybe"), "judge_tolerance": ("1, 1.5", (1.0, 1.5), "0.5"),
    "judge_after": ("50", 50, "-1"), "judge_unsure": ("refuse", "refuse", "wait"),
    "watch": ("5min", 300.0, "-1"),
    "warm_up_per_worker": ("yes", True, "2"), "preload": ("strict", "strict", "sometimes"),
    "preload_file": ("app.py", "/dir/app.py", ""), "oom_score_adj": ("-500", -500,
                      "1001"), "reexec_as": ("a 'b c'", ("a", "b c"),
                                             "'"), "labels": ("region=eu", (("region", "eu"),),
                                                              "1=x"), "web": ("127.0.0.1:9110",
                                                                              "127.0.0.1:9110", ""),
    "web_user": ("nobody", "nobody",
                 ""), "web_host": ("Shop.example", ("shop.example",),
                                   "shop:80"), "statsd": ("stats:8125", ("stats:8125",), "stats"),
    "graphite": ("[::1]:2003", ("[::1]:2003",),
                 "x:0"), "webhook": ("https://x/y?z", ("https://x/y?z",),
                                     "ftp://x"), "log_format": ("json", "json",
                                                                "xml"), "log_to": ("journal",
                                                                                   "journal",
                                                                                   "mars"),
    "log_file": ("log", "/dir/log",
                 ""), "worker_output": ("prefix", "prefix",
                                        "both"), "quiet": ("yes", True,
                                                           "2"), "verbose": ("on", True, "2"),}
each_option = pytest.mark.parametrize("option", SETTINGS.values(), ids=lambda option: option.name)


def from_flags(option: Setting, text: str) -> Settings:
    value: Any = [text] if option.many else text
    return load({option.name: value}, ["app"], {}, "/dir")


@each_option
def test_every_setting_from_every_source(option: Setting, tmp_path: Path) -> None:
    good, meaning, _ = SAMPLES[option.name]
    variable = f"EINHORNPY_{option.name.upper()}"
    file = tmp_path / "f.toml"
    file.write_text(
        f"{option.name.replace('_', '-')} = {json.dumps([good] if option.many else good)}\n")
    for place, settings in [
        (option.flags[-1], from_flags(option, good)),
        (variable, load({}, ["app"], {variable: good}, "/dir")),
        (f"{file}: {option.name.replace('_', '-')}", load({"config": str(file)}, ["app"], {},
                                                          "/dir")),]:
        assert getattr(settings, option.name) == meaning
        assert settings.origin[option.name] == place
        assert settings.given(option.name)
    assert not load({}, ["app"], {}, "/dir").given(option.name)


@each_option
def test_every_wrong_value_is_one_line_that_names_the_place(option: Setting,
                                                            tmp_path: Path) -> None:
    bad = SAMPLES[option.name][2]
    with pytest.raises(BadSetting) as caught:
        from_flags(option, bad)
    line = str(caught.value)
    # it may be a secret
    got = "one that is not shown here" if option.name in ("webhook", "env") else repr(bad)
    assert line.startswith(f"{option.flags[-1]}: got {got}, expected ")
    assert "\n" not in line
    if bad:
        variable = f"EINHORNPY_{option.name.upper()}"
        with pytest.raises(BadSetting, match=f"^{variable}: got {got}, expected "):
            load({}, ["app"], {variable: bad}, "/dir")


def test_the_table_of_releases(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"

    def loaded(text: str) -> Settings:
        file.write_text(text)
        return load({"config": str(file)}, ["app"], {}, "/dir")

    assert loaded("[releases]\nroot = 'shop'\n").releases_root == "/dir/shop"
    assert loaded("[releases]\nroot = 'shop'\n").chdir == "/dir/shop/releases/{release}"
    assert loaded("chdir = '{root}/app'\n[releases]\nroot = '/srv'\n").chdir == "/srv/app"
    for text, line in (("[releases]\nroot = 5\n", "f.toml: releases.root: got 5, expected "),
                       ("[releases]\nrot = 'x'\n", "f.toml: releases.rot: no such setting, did you "
                        "mean root?"), ("releases = 5\n", "f.toml: releases: no such ")):
        with pytest.raises(BadSetting, match=re.escape(line)):
            loaded(text)


def test_command_line_then_environment_then_file(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("number = 1\nmax_surge = 1\nready-timeout = 1\ncommand = 'from file'\n")
    environment = {
        "EINHORNPY_NUMBER": "2", "EINHORNPY_MAX_SURGE": "2", "EINHORNPY_CONFIG": str(file)}
    settings = load({"number": "3"}, [], environment, "/dir")
    assert (settings.number, settings.max_surge, settings.ready_timeout) == (3, 2, 1.0)
    assert settings.command == ("from", "file")
    assert load({}, ["mine"], environment, "/dir").command == ("mine",)


@pytest.mark.parametrize(("content", "line"), [
    ("nonsense = 1\n", "f.toml: nonsense: no such setting; expected one of command, einhorn, "),
    ("workr-output = 'json'\n",
     "f.toml: workr-output: no such setting, did you mean worker-output?"),
    ("webhook = 'hooks.example/secret'\n",
     "f.toml: webhook: got one that is not shown here, expected a URL such as https://HOST/PATH"),
    ("number = \n", "f.toml: not TOML"),
    ("env = ['PASSWORD hunter2']\n",
     "f.toml: env: got one that is not shown here, expected KEY=VALUE"),
    ("on-upgrade-end = ['tell --token hunter2']\n",
     "f.toml: on-upgrade-end: got ['tell --token ***, expected"),
    ("number = true\n", "f.toml: number: got True"),
    ("command = 3\n", "f.toml: command: got 3, expected a list of words"),
    ("bind = [3]\n", "f.toml: bind: got 3, expected"),
    ("command = 'a \"b'\n",
     "f.toml: command: got 'a \"b', expected words as a shell would read them: No closing quotation"
     ), ('command = ["a\\u0000"]\n', r"f.toml: command: got ['a\x00'], expected a list of words"),
    (f"max-memory = '{'9' * 400}'\n",
     f"f.toml: max-memory: got '{'9' * 199}… (402 characters), expected a size such as 400M"),
    (f"number = {'[' * 5000}\n", "cannot read the configuration f.toml: it is nested too deeply"),
    (f"number{'.a' * 5000} = 1\n",
     "f.toml: number: got something that is too large to be shown, expected a whole number"),
    (f"number = 0x{'f' * 5000}\n",
     "f.toml: number: got something that is too large to be shown, expected a whole number"),
    (f"number = {'9' * 5000}\n", "f.toml: not TOML"),
    (f"env = {{A = 0x{'f' * 5000}}}\n",
     "f.toml: env: got one that is not shown here, expected KEY=VALUE"),
    ("env = {A = {B = 1}}\n", "f.toml: env: got one that is not shown here, expected KEY=VALUE"),
    ("labels = {region = ['eu']}\n", "f.toml: labels: got ('region', ['eu']), expected KEY=VALUE"),
    ("cpu-affinity = '" + "0-9999," * 2000 + "1'\n", "expected at most 10000 cores"),
    ('"a\\nb\\u001b" = 1\n', r"f.toml: 'a\nb\x1b': no such setting"),
    ("#" * (1 << 20) + "#", "f.toml: it is longer than 1 MiB"),])
def test_wrong_files(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "f.toml").write_text(content)
    with pytest.raises(BadSetting) as caught:
        load({"config": "f.toml"}, ["app"], {}, str(tmp_path))
    assert line in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("variable", "value", "line"),
                         [("EINHORNPY_NUMBER", "\udcff" * 1000, r"EINHORNPY_NUMBER: got '\udcff"),
                          ("EINHORNPY_WEBHOOK", "https://secret 'x",
                           "EINHORNPY_WEBHOOK: got some that are not shown here, expected words"),])
def test_odd_variables_are_one_line(variable: str, value: str, line: str) -> None:
    with pytest.raises(BadSetting) as caught:
        load({}, ["app"], {variable: value}, "/dir")
    assert str(caught.value).startswith(line)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


SERVICE = {
    "SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "80", "SERVICE_PORT_HTTP": "80",
    "PORT": "tcp://10.0.0.1:80", "PORT_80_TCP": "tcp://10.0.0.1:80", "PORT_80_TCP_PROTO": "tcp",
    "PORT_80_TCP_PORT": "80", "PORT_80_TCP_ADDR": "10.0.0.1"}


@pytest.mark.parametrize("service", ["EINHORNPY", "EINHORNPY_WEB", "EINHORNPY_SOCKET"])
def test_what_kubernetes_makes_of_a_services_name_is_no_setting(service: str) -> None:
    environment = {f"{service}_{name}": value for name, value in SERVICE.items()}
    assert load({}, ["app"], environment, "/dir") == load({}, ["app"], {}, "/dir")
    assert strays(environment) == sorted(environment)
    assert not any(OF_KUBERNETES.search(each.variable) for each in SETTINGS.values())


def test_a_stray_variable_is_named_with_what_was_meant() -> None:
    environment = {
        "EINHORNPY_NUMBR": "x", "EINHORNPY_A\nB": "1", "EINHORNPY_\udcff": "1", "EINHORNPY_": "",
        "EINHORNPY_NUMBER": "3", "EINHORNPY_CONFIG": "", "EINHORNPY_COMMAND": "app",
        "EINHORNPY_GENERATION": "4", "EINHORNPY_ASGI_APP": "app:app", "EINHORN_PORT": "tcp://x",
        "PORT": "80"}
    assert load({}, [], environment, "/dir").number == 3
    assert strays(environment) == [
        "EINHORNPY_", r"'EINHORNPY_A\nB'", "EINHORNPY_NUMBR (did you mean EINHORNPY_NUMBER?)",
        r"'EINHORNPY_\udcff'"]


def test_one_text_from_the_environment_is_not_split() -> None:
    assert load({}, ["app"], {"EINHORNPY_RELEASE": "it's"}, "/dir").release == "it's"


def test_a_setting_that_this_version_does_not_know_is_one_line() -> None:
    with pytest.raises(BadSetting, match=r"^--invented-later: no such setting$"):
        load({"invented_later": "1"}, ["app"], {}, "/dir")


@pytest.mark.parametrize(
    "content", ["command = 'a \"b'", f"max-memory = '{'9' * 400}'", f"number = {'[' * 5000}"])
def test_a_file_full_of_nonsense_is_one_line_and_exit_code_2(tmp_path: Path, content: str) -> None:
    (tmp_path / "f.toml").write_text(content)
    for program in ([], ["unit"]):
        ended = subprocess.run([EINHORNPY, *program, "--config", "f.toml", "--", "sleep", "1"],
                               cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr


def test_defaults_depend_on_the_command() -> None:
    settings = load({}, ["/opt/My App/run.sh"], {}, "/dir")
    assert (settings.command_name, settings.stop_signal, settings.chdir) == ("run.sh", "SIGTERM",
                                                                             "/dir")
    assert load({"ack_mode": "manual"}, ["app"], {}, "/dir").stop_signal == "SIGUSR2"
    assert load({}, ["/opt/my app"], {}, "/dir").command_name == "my_app"


def test_an_ack_that_comes_after_its_timeout_is_refused() -> None:
    with pytest.raises(BadSetting, match="no worker could ever become ready"):
        load({"ack_mode": "60", "ready_timeout": "60"}, ["app"], {}, "/dir")


values = st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.booleans(),
                   st.lists(st.text(max_size=5), max_size=3))


@given(
    st.dictionaries(st.sampled_from([*SETTINGS]), values, max_size=4),
    st.dictionaries(st.sampled_from([each.variable for each in SETTINGS.values()]),
                    st.text(max_size=20), max_size=3))
def test_any_values_are_taken_or_refused(flags: dict[str, Any], environment: dict[str,
                                                                                  str]) -> None:
    try:
        assert isinstance(load(flags, ["app"], environment, "/dir"), Settings)
    except BadSetting as error:
        assert str(error)
