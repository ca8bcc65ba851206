"""Where settings come from: the command line wins, then `EINHORNPY_*`, a TOML file, defaults. Every
value remembers its place. Nothing is bound, opened for writing or started here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.worker_environment import FOR_WORKERS
from . import parsers
from .contradictions import contradictions
from .declaring import ENVIRONMENT_PREFIX, Setting
from .table import ROOT, SETTINGS, Settings

LARGEST_FILE = 1 << 20
# Tables of a file that hold settings of one kind: `root` in [releases] is releases-root.
TABLES = ("releases",)
# Of a wrong value, in a message.
LONGEST_SHOWN = 200
# Given to workers by a master; a master started by a worker must not take them for settings.
NOT_SETTINGS = {
    "EINHORNPY_GENERATION", "EINHORNPY_WORKER", "EINHORNPY_ADAPTER", "EINHORNPY_RETIRE_SIGNAL",
    "EINHORNPY_STATUS", "EINHORNPY_RELEASE_DIRECTORY", "EINHORNPY_CURRENT_DIRECTORY",
    "EINHORNPY_WORKS_ON", *FOR_WORKERS}
# What Kubernetes gives every pod of each Service (Service, "Environment variables"); no setting may
# have such a name.
OF_KUBERNETES = re.compile(
    "_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)?)$")
_Source = dict[str, tuple[Any, str]]


class BadSetting(ValueError):
    """One line: where the value stands, what it is, what was expected."""


def load(flags: Mapping[str, Any], command: Sequence[str], environ: Mapping[str, str],
         directory: str, configuration: str | None = None) -> Settings:
    """Merge every source into `Settings`.

    Args:
        flags: setting → text (or list of texts, or bool), as given on the command line; `config`
            names the TOML file.
        command: the worker's command line; empty to take it from the environment or the file.
        environ: the process environment.
        directory: the absolute directory that relative paths and the default `--chdir` start from.
        configuration: the text of the TOML file, where it was read before.

    Raises:
        BadSetting: a key or value is wrong, or no command was given anywhere.
    """
    config = _config(flags, environ)
    if configuration is None and config is not None:
        configuration = _read(config, directory)
    given = _from_file(config, configuration) | _from_environment(environ) | _from_flags(flags)
    if command:
        given["command"] = (tuple(command), "command line")
    if "command" not in given:
        raise BadSetting(
            "no command: expected one to run as a worker, after -- (einhornpy -- gunicorn app:wsgi)"
        )
    values = {name: value for name, (value, _) in given.items()}
    for name, setting in SETTINGS.items():
        value = values[name] if name in values else setting.default_after(values)
        if name == "chdir" and values["releases_root"] is not None:
            value = value.replace(ROOT, values["releases_root"])
        if setting.parse is parsers.path and value is not None:
            value = os.path.join(directory, value) if value else directory
        values[name] = value
    settings = Settings(**values, origin={name: place for name, (_, place) in given.items()},
                        configuration=configuration)
    for line in contradictions(settings):
        raise BadSetting(line)
    return settings


def named_file(flags: Mapping[str, Any], environ: Mapping[str, str], directory: str) -> str:
    """The path of the TOML file that counts, `FILE` where there is none."""
    config = _config(flags, environ)
    return "FILE" if config is None else _path(config, directory)


def _config(flags: Mapping[str, Any], environ: Mapping[str, str]) -> str | None:
    return flags.get("config") or environ.get(f"{ENVIRONMENT_PREFIX}CONFIG") or None


def _path(config: str, directory: str) -> str:
    return os.path.join(directory, os.path.expanduser(config))


def _from_flags(flags: Mapping[str, Any]) -> _Source:
    found: _Source = {}
    for key, value in flags.items():
        if key == "config":
            continue
        if key not in SETTINGS:  # a master of another version was given it
            raise BadSetting(f"--{_named(key.replace('_', '-'))}: no such setting")
        place = SETTINGS[key].flags[-1]
        found[key] = (_parse(SETTINGS[key], value, place), place)
    return found


def _from_environment(environ: Mapping[str, str]) -> _Source:
    found: _Source = {}
    for variable, value in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in NOT_SETTINGS:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if key == "config":
            continue
        if key == "command":
            if words := _split(value, variable):
                found[key] = (tuple(words), variable)
            continue
        if key not in SETTINGS:  # see `strays`
            continue
        setting = SETTINGS[key]
        texts = _split(value, variable, setting.secret) if setting.many else value
        found[key] = (_parse(setting, texts, variable), variable)
    return found


def strays(environ: Mapping[str, str]) -> list[str]:
    """The variables with our prefix that are no settings, each with what may have been meant. They
    are nobody's fault: Kubernetes makes some of a Service's name."""
    found = []
    for variable in sorted(environ):
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if (not variable.startswith(ENVIRONMENT_PREFIX) or variable in NOT_SETTINGS
                or key in SETTINGS or key in ("config", "command")):
            continue
        near = None if OF_KUBERNETES.search(variable) else _nearest(key)
        meant = near and ENVIRONMENT_PREFIX + near.replace("-", "_").upper()
        found.append(_named(variable) + (f" (did you mean {meant}?)" if meant else ""))
    return found


def _from_file(config: str | None, text: str | None) -> _Source:
    if config is None or text is None:
        return {}
    found: _Source = {}
    for key, value in _flat(_document(config, text)):
        place, name = f"{config}: {_named(key)}", key.replace("-", "_").replace(".", "_")
        if name == "command":
            found[name] = (_command(value, place), place)
        elif name in SETTINGS:
            setting = SETTINGS[name]
            pairs = isinstance(value, dict) and setting.parse in (parsers.pair, parsers.label)
            found[name] = (_parse(setting, _pairs(value) if pairs else value, place), place)
        else:
            raise BadSetting(f"{place}: no such setting{_near(name, key)}")
    return found


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Its keys and values; a table that holds settings of one kind (`[releases]`) as these."""
    for key, value in document.items():
        if key in TABLES and isinstance(value, dict):
            yield from ((f"{key}.{inner}", each) for inner, each in value.items())
        else:
            yield key, value


def _read(config: str, directory: str) -> str:
    path = _path(config, directory)
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode()
    except OSError as error:
        raise BadSetting(f"cannot read the configuration {path}: {error.strerror}") from None
    except ValueError as error:
        raise _not_toml(config, error) from None
    if len(content) > LARGEST_FILE:
        raise BadSetting(
            f"cannot read the configuration {config}: it is longer than {LARGEST_FILE >> 20} MiB")
    return text


def _document(config: str, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise BadSetting(
            f"cannot read the configuration {config}: it is nested too deeply") from None
    except ValueError as error:  # besides TOML's own: a number with more digits than Python reads
        raise _not_toml(config, error) from None


def _not_toml(config: str, error: ValueError) -> BadSetting:
    return BadSetting(
        f"cannot read the configuration {_named(config)}: not TOML: {_named(str(error))}")


def _command(value: Any, place: str) -> tuple[str, ...]:
    words = _split(value, place) if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(
            isinstance(word, str) and "\0" not in word for word in words):
        raise BadSetting(f"{place}: got {_shown(words)}, expected a list of words")
    return tuple(words)


def _pairs(table: dict[str, Any]) -> Any:
    """A table of TOML as texts `KEY=VALUE`, as far as its values are no tables or lists."""
    with contextlib.suppress(ValueError):  # a number with more digits than Python prints
        return [
            each if isinstance(each[1], dict | list) else f"{each[0]}={each[1]}"
            for each in table.items()]
    return table


def _parse(setting: Setting, value: Any, place: str) -> Any:
    def parse(item: Any) -> Any:
        try:
            return setting.parse(item)
        except ValueError as error:
            got = "one that is not shown here" if setting.secret else _shown(item)
            raise BadSetting(f"{place}: got {got}, expected {error}") from None

    if not setting.many:
        return parse(value)
    return tuple(parse(item) for item in (value if isinstance(value, list | tuple) else [value]))


def _split(value: str, place: str, secret: bool = False) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        got = "some that are not shown here" if secret else _shown(value)
        raise BadSetting(
            f"{place}: got {got}, expected words as a shell would read them: {error}") from None


def _shown(value: Any) -> str:
    """A wrong value in a message: on one line, not all of a long one, and without what looks secret
    in it."""
    from ..reporting.redaction import Redaction  # a start that is well needs it not

    try:
        shown = Redaction().text(repr(value), strict=True)
    except (ValueError, RecursionError):
        return "something that is too large to be shown"
    return shown if len(
        shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}… ({len(shown)} characters)"


def _named(key: str) -> str:
    """A key that somebody else chose, in a message."""
    return key if key.isprintable() and len(key) <= LONGEST_SHOWN else _shown(key)


def _near(name: str, key: str) -> str:
    """What was meant, or, where nothing is like it, what there is. In a table as it is called
    there."""
    near, table = _nearest(name), key.partition(".")[0]
    if near and "." in key and near.startswith(f"{table}-"):
        near = near.removeprefix(f"{table}-")
    return f", did you mean {near}?" if near else f"; expected one of {', '.join(_known())}"


def _nearest(key: str) -> str | None:
    import difflib

    near = difflib.get_close_matches(key.replace("_", "-"), _known(), 1)
    return near[0] if near else None


def _known() -> list[str]:
    return ["command", *(each.key for each in SETTINGS.values())]
