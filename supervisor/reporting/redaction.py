"""What may be told of environments, command lines and what apps say: nothing that looks secret.

A secret is known by its name (`DB_PWD`), by its place (`://user:HERE@`), by its form (a JWT, a key
in PEM), or because nobody would have thought of it: a run of letters and digits that is no word.
Each is a line of a table below. The secrets of an environment are hidden wherever they stand, as
words, in any spelling. What is no secret stays as it is. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
Fact = TypeVar("Fact")

# --- by name ---

# Anywhere in a name, or as a whole word of it: `PGPASSWORD`, `accountKey`, `DB_PW`, `--key`; but
# neither `COMPASS` nor `KeyError`.
_SECRET = (
    r"(?:(?i:pass[-_ ]?(?:wor[dt]|wd|phrase|code|key)|pwd|secret|token|credential"
    r"|authori[sz]ation|signature|dsn|cookie|fernet|mnemonic|basic[-_]?auth|pw(?![a-z])"
    r"|(?:api|access|account|private|shared|signing|encryption|master|service|client|license)"
    r"[-_ .]?key"
    r"|(?<![a-z])(?:pass|key|o?auth2?|salt|jwt|sig|otp|pin|pepper|creds?|session[-_]?id|bearer)"
    r"(?![a-z])"
    r"|(?<!by)(?<!com)pass(?![a-z]))"
    r"|(?<=[a-z])(?:Key|Pass|Auth|Salt|Jwt|Pin)(?![a-z])|(?<=_)KEYS(?![A-Za-z]))")
_SECRET_NAME = re.compile(_SECRET)
_ORDINARY_NAMES = {"PWD", "OLDPWD"}
# How secrets are dealt with, not what they are: `PASSWORD_MIN_LENGTH`, `SESSION_COOKIE_NAME`.
_OF_A_SETTING = (
    r"(?:(?i:[-_.](?:names?|prefix|suffix|length|len|size|age|ttl|timeout|expir[a-z]*|algorithms?"
    r"|methods?|backends?|types?|domain|samesite|secure|httponly|parallelism|validators|hashers))"
    r"|(?<=[a-z])(?:Name|Prefix|Length|Size|Age|Timeout|Algorithm|Type))")
_NAME_OF_SETTING = re.compile(rf"{_OF_A_SETTING}$")
# No secret, whatever it is called.
_ORDINARY = re.compile(r"(?i)(?:true|false|yes|no|on|off|none|null|nil|undefined|-?\d{1,3})")
# Where a secret is, not what it is: `PASSWORD_FILE=/run/secrets/db`, `SSH_AUTH_SOCK=…`.
_NAME_OF_PLACE = re.compile(r"(?i)(?:file|path|dir|sock|socket|root|home)$")
_PLACE = re.compile(r"/[\w./+@:-]*$")
_NAME_OF_REVISION = re.compile(
    r"(?i)(?<![a-z])(?:sha|commit|revision|rev|release|version|build|digest|tag|slug)(?![a-z])")
_REVISION = re.compile(r"(?:[a-z0-9]+[:-])?v?[0-9a-f]{7,64}$")

# --- by place and form: a pattern, and what stays of it ---

_FORMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), stays) for pattern, stays in (
        # A key or certificate in PEM, also one that has lost its end, or whose line breaks are
        # written as `\n`.
        (r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|$)", MASK),
        # A JSON web token (RFC 7519), with or without its end.
        (r"\beyJ[\w-]{8,}(?:\.[\w-]*)*", MASK),
        # Tokens that say themselves whose they are; a part of one may have been hidden already.
        (r"\b(?:(?:A[KS]IA|AIza|ya29\.|SG\.|sk-|xox[a-z]-|glpat-|npm_|pypi-|hf_|dop_v1_"
         r"|shp[a-z]{2}_|github_pat_|gh[a-z]_|(?:sk|pk|rk|whsec)_(?:live_|test_)?"
         r"|AGE-SECRET-KEY-)[\w.~+/=*-]{12,})", MASK),
        # A header, to its end.
        (r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:key|token|auth)[\w-]*)"
         r"(\\?[\"']?\s*[:=]\s*)[^\r\n\"']+", rf"\1\2{MASK}"),
        (r"(?i)\b(bearer\s+)[\w.~+/=*-]{8,}", rf"\1{MASK}"),
        # `://user:password@`: to the last @ of the word, since a password may hold one, and a
        # slash. Not a port, a path and a query.
        (r"(://[^\s/@:?#]*):(?!\d{1,5}/[^\s@]*\?)[^\s<>]*@", rf"\1:{MASK}@"),
        # `user:password@host` without a scheme; but not `registry:5000/image@sha256:…`.
        (r"(?<![\w/:.@-])([\w.%+-]+):[^\s/@:][^\s@]*@(?=[\w\[])(?!sha\d+:)", rf"\1:{MASK}@"),
        # What some programs take on their command lines.
        (r"(?<!\S)((?:-u\s*|--(?:proxy-)?user[=\s]\s*)[\"']?[^\s:\"']+):"
         r"(?!\d+[\"']?(?:\s|$))[^\s\"']+", rf"\1:{MASK}"),
        (r"\b((?:mysql|mariadb)[\w-]*(?=\s)[^|;&\n]{0,200}?\s-p|sshpass\s+-p\s*"
         r"|redis-cli(?=\s)[^|;&\n]{0,200}?\s-a\s+)(?:'[^']*'|\"[^\"]*\"|[^\s'\"]+)",
         rf"\1{MASK}"),
        # `Password=a b c;` in a connection string: to the semicolon.
        (rf"((?:^|(?<=;))(?=[\w \"']*?{_SECRET})[\w \"']++=\s*)(?!\*\*\*)"
         r"(?:\"[^\"]*\"|'[^']*'|[^;\r\n]*)(?=;)", rf"\1{MASK}"),
    ))
# Looked for before it is taken, so that no long word is gone through more than once.
_NAMED = rf"(?=[\w.-]*?{_SECRET})(?![\w.-]*{_OF_A_SETTING}(?![\w.-]))[\w.-]++"
# `name=value`, `"name": "value"`, `?name=value&`.
_ASSIGNED = re.compile(
    rf"(?P<before>[?&])?(?<![\w.-])(?P<name>{_NAMED})(?P<sign>[\\\"'\]]*\s*(?:=>|:=|==?|:)\s*)"
    r"(?P<value>\\?\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|(?(before)[^\s;&#]+|[^\s;]+))")
# `--name value`.
_FLAG = re.compile(rf"(?<![\w.-])(?P<name>-{_NAMED})(?P<sign>\s+)"
                   r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s;]+)")
_ANOTHER_FLAG = re.compile(r"--?[a-z]+(?:-[a-z]+)*(?:=.*)?$")
# `://token@`, where it is neither a user's name nor the beginning of a path (`://host/@user`).
_USER = re.compile(r"(?<=://)[^\s@:?#]+(?=@)")
# All of a variable: its password may hold blanks.
_URL = re.compile(r"([a-z][\w+.-]*://[^\s/@:?#]*:)(?!\d{1,5}/[^\s@]*\?)(.+)@", re.DOTALL)
# A longer text may have been cut, even in the middle of a secret.
_MAYBE_CUT, _LEAST_LEFT = 150, 4
_CUT_URL = re.compile(r"(://[^\s/@:?#]*:)(?!\d{1,5}$)[^\s/@]+$")
# `mysql -pSECRET`, `sshpass -p SECRET`: by the name of the program.
_FLAGS_OF_PROGRAMS = {"mysql": "-p", "mysqldump": "-p", "mysqladmin": "-p", "mariadb": "-p",
                      "mariadb-dump": "-p", "sshpass": "-p", "redis-cli": "-a"}
# `--user user:password`, as curl has it; but `--user 1000:1000` is none.
_USER_FLAGS = ("-u", "--user", "--proxy-user")
_USER_AND_PASSWORD = re.compile(r"(?![0-9]+:[0-9]+$)[^:]*:.*", re.DOTALL)
_TAKE_NO_NEXT_WORD = ("mysql", "maria")  # their `-p` alone asks for the password

# --- by entropy ---

# The pairs of letters that make up nine tenths of English and of the names in programs: each row
# is a first letter and those that follow it.
_COMMON = frozenset(row[0] + letter for row in """
    abcdgilmnprstuvy baelou caehiklortu dadeiosu eacdefgilmnpqrstvxy faeioru gehirsu haeiot
    iabcdefglmnoprstv ke ladeilostuy maeiopu nacdefginostuv ocdlmnoprstuvw paeiloprtu qu
    racdegikmnorstuy sacehiopstu tacehiorstuwy ubcelmnprst vaei waehio xct yp ze
    """.split() for letter in row[1:])  # noqa: SIM905  a table of words is easier to read
_TOKEN = re.compile(r"[A-Za-z0-9_+/=.~-]{16,}")
_RUN = re.compile(r"[A-Za-z0-9]+")
_PLAIN = re.compile(r"[A-Za-z]?[a-z]+|[A-Z]+|[0-9]+")
_HEX = re.compile(r"(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]+"
                  r"|(?=[A-F]*[0-9])(?=[0-9]*[A-F])[0-9A-F]+")
# Words, a number or the name of a file: what may stand beside a secret in a path.
_BESIDE = re.compile(r"[A-Za-z]?[a-z_.-]+|[A-Z_]+|[0-9.]+")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_WORDS = re.compile(r"(?:[A-Za-z]?[a-z]+|[A-Z]+)"
                    r"(?:[-_.()'\[\],]+(?:[A-Za-z]?[a-z]+|[A-Z]+))*[-_.()'\[\],]*")
# So many bits each character of a run takes, at least, to be no word; so long is such a run, or
# such shorter ones of one token together.
_BITS, _LONG, _SHORT, _LONG_TOGETHER = 3.8, 16, 5, 16
# Fields of a log entry.
_TOLD_AS_IT_IS = {"release", "outcome", "kind", "how"}
# Nobody reads a longer text, and to search it would be work. Most of what is told is short, and
# has no sign that could begin a secret.
_LONGEST = 8192
_NOTHING = re.compile(r"[\w ./%]{0,12}")
# A shorter value would be found where it isn't meant; and of digits, a year.
_LEAST_KNOWN, _LEAST_DIGITS = 4, 5
# A line of a longer secret, or a secret in another spelling, is a secret too.
_LEAST_LINE = 8


class Redaction:
    """Tells texts without their secrets. `releases`: names that anybody may see, though a digest
    looks like a secret. `known`: secrets that are hidden wherever they stand (`secrets_of`), as
    whole words."""

    def __init__(self, releases: Collection[str] = (), known: Collection[str] = ()) -> None:
        self._releases = tuple(releases)
        self._known = tuple(sorted(known, key=len, reverse=True))
        self._line = lru_cache(2048)(self.text)  # the same lines are asked for again and again

    def text(self, text: str, strict: bool = False) -> str:
        """What an app or a command has said. `strict`: it is a setting, not prose: after the name
        of a secret comes one, whatever it looks like, and a number in hexadecimal is one (in prose
        it is an identifier)."""
        if len(text) > _LONGEST and strict:
            return f"{MASK} ({len(text)} characters)"
        text = self._without_known(text)
        if _NOTHING.fullmatch(text):
            return text
        if len(text) > _LONGEST:
            # Not half a word: one could be half a secret.
            return f"{self.text(text[:_LONGEST].rpartition(' ')[0]) or MASK} …"
        if len(text) >= _MAYBE_CUT:
            text = _CUT_URL.sub(rf"\1{MASK}", text)
        for pattern, stays in _FORMS:
            text = pattern.sub(stays, text)
        text = _USER.sub(lambda found: self._user(found[0]), text)
        for pattern in (_ASSIGNED, _FLAG):
            text = pattern.sub(lambda found: self._assigned(found, strict), text)
        return _TOKEN.sub(lambda found: self._token(found, strict), text)

    def _without_known(self, text: str) -> str:
        for secret in self._known:
            if secret in text:
                # A long one is no part of a word by chance.
                by_chance = len(secret) < _LEAST_LINE or _is_word(secret)
                text = (re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text) if by_chance
                        else text.replace(secret, MASK))
        if len(text) < _MAYBE_CUT:
            return text
        for secret in self._known:
            begin = text.find(secret[:_LEAST_LEFT], max(0, len(text) - len(secret)))
            while begin >= 0:
                if secret.startswith(text[begin:]) and not text[begin - 1: begin].isalnum():
                    return text[:begin] + MASK
                begin = text.find(secret[:_LEAST_LEFT], begin + 1)
        return text

    def lines(self, lines: Iterable[str]) -> list[str]:
        """Lines that followed one another: a key in PEM is several."""
        told, in_key = [], False
        for line in lines:
            ends = "-----END " in line
            told.append(MASK if in_key else self._line(line))
            in_key = not ends and (in_key or "-----BEGIN " in line)
        return told

    def value(self, name: str, value: str) -> str:
        """A variable of an environment."""
        if _is_secret_value(name, value):
            return MASK
        if _NAME_OF_REVISION.search(name) and _REVISION.match(value):
            return value
        if "://" in value[:64] and (url := _URL.match(value)):
            value = f"{url[1]}{MASK}{value[url.end(2):]}"
        return self.text(value, strict=True)

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """A whole one, sorted by name."""
        return {name: self.value(name, value) for name, value in sorted(environment.items())}

    def command(self, words: Sequence[str]) -> list[str]:
        """A command line."""
        told: list[str] = []
        flag = program = ""
        for word in words:
            short = _FLAGS_OF_PROGRAMS.get(program)
            secret_flag = _is_secret(flag) or (flag == short
                                               and not program.startswith(_TAKE_NO_NEXT_WORD))
            if flag and secret_flag and not _ANOTHER_FLAG.match(word):
                told.append(MASK)
            elif short and word.startswith(short) and word != short:
                told.append(f"{short}{MASK}")
            elif flag in _USER_FLAGS and _USER_AND_PASSWORD.fullmatch(word):
                told.append(f"{word.partition(':')[0]}:{MASK}")
            else:
                told.append(self._word(word))
            flag = word if word.startswith("-") and "=" not in word else ""
            basename = word.rpartition("/")[2]
            program = basename if basename in _FLAGS_OF_PROGRAMS else program
        return told

    def _word(self, word: str) -> str:
        """A word of a command line that says by itself what it is."""
        name, equals, value = word.partition("=")
        user = name in _USER_FLAGS and ":" in value
        if equals and not user and re.fullmatch(r"-*[A-Za-z_][\w.-]*", name):
            return f"{name}={self.value(name.lstrip('-'), value)}"
        return self.text(word, strict=True)

    def fact(self, event: Fact) -> Fact:
        """An event that may be told: what an app or a command has said is in some of them."""
        said: dict[str, Any] = {}
        for name in ("reason", "error"):
            text = getattr(event, name, None)
            if isinstance(text, str):
                said[name] = self.text(text)
        lines = getattr(event, "lines", ())
        if lines:
            said["lines"] = tuple(self.lines(lines))
        findings = getattr(event, "findings", ())
        if findings:
            said["findings"] = tuple(replace(each, what=self.text(each.what)) for each in findings)
        return replace(event, **said) if said else event  # type: ignore[type-var]

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a log entry. `release` is told as it is, and so are the few
        words that programs go by; `check` is a command."""
        return {key: self.text(value, strict=key == "check")
                if isinstance(value, str) and key not in _TOLD_AS_IT_IS else value
                for key, value in fields.items()}

    def _assigned(self, found: re.Match[str], strict: bool) -> str:
        name, sign, value = found["name"], found["sign"], found["value"]
        if value.startswith(MASK) or (name in _ORDINARY_NAMES and value.startswith("/")):
            return found[0]
        # `KEY=VALUE` is our own advice.
        if _ORDINARY.fullmatch(value.strip("\\\"',.)]}")) or value.rstrip(",.") == "VALUE":
            return found[0]
        quoted = value.lstrip("\\")[:1] in ("'", '"') and len(value) > 1
        # `invalid token: unexpected end`, and a line of source: `token = next(tokens)`.
        in_prose = not strict and not quoted and sign[-1:].isspace()
        if in_prose and _is_word(value.rstrip(".,:")):
            return found[0]
        return found[0][: found.start("value") - found.start()] + MASK

    def _user(self, user: str) -> str:
        if "/" in user:
            return MASK if _TOKEN.sub(lambda found: self._token(found, True),
                                      user) != user else user
        return user if _is_word(user) else MASK

    def _token(self, found: re.Match[str], strict: bool) -> str:
        """A run of letters, digits and the signs of base 64, of paths and of names."""
        token = found[0]
        if found.string.endswith(("@sha256:", "@sha512:"), 0, found.start()):
            return token  # the digest of an image
        before = found.string[max(0, found.start() - 200): found.start()]
        in_url = re.search(r"://[^\s/]*(?:/[^\s]*)?$", before) or token.startswith("//")
        is_path = not in_url and re.match(r"(?:~|\.{1,2})?/", token)
        hidden = self._random_runs(token, strict and not is_path)
        if strict:
            hidden += [uuid for uuid in _UUID.findall(token) if not self._is_release(uuid)]
        if not hidden:
            return token
        if is_path or in_url or "=" in token.rstrip("="):
            return self._in_parts(token, hidden)
        return MASK

    def _random_runs(self, token: str, hexadecimal: bool) -> list[str]:
        """The runs of letters and digits in it that are no words. `hexadecimal`: nor are those."""
        runs = [run for run in _RUN.findall(token)
                if len(run) >= _SHORT and self._is_random(run, hexadecimal)]
        found = [run for run in runs if len(run) >= _LONG]
        # Short ones could be words of another language, unless digits or capitals stand among
        # their letters.
        short = [run for run in runs if not _PLAIN.fullmatch(run)]
        if sum(map(len, short)) >= _LONG_TOGETHER and not self._is_release(token):
            found += short
        return found

    def _in_parts(self, token: str, hidden: list[str]) -> str:
        """A path or a list, without the parts that are no word. What stands beside a secret belongs
        to it as like as not, since base 64 has slashes."""
        parts = re.split(r"([/=]+(?!$))", token)
        gone = {at for at, part in enumerate(parts) if any(run in part for run in hidden)}
        doubtful = {at for at, part in enumerate(parts) if len(part) >= _SHORT
                    and not _BESIDE.fullmatch(part) and not self._is_release(part)}
        while beside := {at for at in doubtful - gone if at - 2 in gone or at + 2 in gone}:
            gone |= beside
        return "".join(MASK if at in gone else part for at, part in enumerate(parts))

    def _is_release(self, text: str) -> bool:
        return any(text in release or (len(release) > 6 and release in text)
                   for release in self._releases)

    def _is_random(self, run: str, hexadecimal: bool) -> bool:
        if self._is_release(run) or run.isdigit():
            return False
        if _HEX.fullmatch(run):
            return hexadecimal
        return _bits(run) >= _BITS * (len(run) - 1)


def secrets_of(environment: Mapping[str, str]) -> set[str]:
    """The values that are secrets by their names, and the passwords of URLs, in every spelling."""
    found: set[str] = set()
    for name, value in environment.items():
        if _is_secret_value(name, value):
            found |= _spellings(value)
        elif "://" in value[:64] and (url := _URL.match(value)):
            found |= _spellings(url[2]) | _spellings(unquote(url[2]))
    return found


@lru_cache(4096)
def _spellings(secret: str) -> frozenset[str]:
    """How it may stand in a text. None where it is too short to be found."""
    if len(secret.strip()) < (_LEAST_DIGITS if secret.isdigit() else _LEAST_KNOWN):
        return frozenset()
    lines = [line.strip() for line in secret.splitlines()]
    parts = {secret, secret.strip(), *(line for line in lines if len(line) >= _LEAST_LINE)}
    spelled = set(parts)
    for part in parts:
        data = part.encode(errors="surrogateescape")
        percent = {quote(data), quote(data, safe=""), quote_plus(data)}
        spelled |= percent | {re.sub("%..", lambda two: two[0].lower(), each) for each in percent}
        spelled |= {json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1],
                    repr(part)[1:-1], repr(data)[2:-1]}
    return frozenset(spelled)


def _is_secret_value(name: str, value: str) -> bool:
    """Whether a variable is a secret by its name."""
    is_place = _NAME_OF_PLACE.search(name) and _PLACE.match(value)
    return (value != "" and _is_secret(name) and not is_place
            and not _ORDINARY.fullmatch(value))


@lru_cache(4096)
def _is_secret(name: str) -> bool:
    return (name not in _ORDINARY_NAMES and _SECRET_NAME.search(name) is not None
            and _NAME_OF_SETTING.search(name) is None)


def _is_word(text: str) -> bool:
    """Whether it is made of words: what prose may say after the name of a secret."""
    return _WORDS.fullmatch(text) is not None and _bits(text) < _BITS * max(len(text) - 1, 3)


def _bits(run: str) -> float:
    """How many bits it takes, about, to say each character after the one before to somebody who
    expects words."""
    bits = 0.0
    for one, other in pairwise(run):
        if not (one.isalnum() and other.isalnum()):
            bits += 2.3
        elif one.isdigit() and other.isdigit():
            bits += 3.3
        elif one.isdigit() or other.isdigit():
            bits += 5.0
        elif one.islower() and other.isupper():
            bits += 4.5  # `camelCase`
        else:
            bits += 2.3 if one.lower() + other.lower() in _COMMON else 6.5
    return bits
