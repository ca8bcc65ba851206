"""What looks like a secret is never told, whatever it is called; and what is none stays
readable."""

from __future__ import annotations

import json
import random
import re
import string
import time
from dataclasses import replace
from urllib.parse import quote, quote_plus

import pytest
from einhornpy.supervisor.core.generation import Finding
from einhornpy.supervisor.core.template_facts import TemplateReady
from einhornpy.supervisor.reporting.redaction import MASK, Redaction, secrets_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"
ALPHABETS = {
    "letters and digits": string.ascii_letters + string.digits,
    "base 64": string.ascii_letters + string.digits + "+/",
    "base 64 for URLs": string.ascii_letters + string.digits + "-_",
    "base 32": string.ascii_uppercase + "234567",
    "hexadecimal": "0123456789abcdef",
}
# Whatever a password manager makes; what a URL, a shell or a connection string would want escaped
# is left out of each shape below.
PUNCTUATION = string.ascii_letters + string.digits + "!#$%*+,-./:<=>@[]^_{|}~"

# Where the name or the place gives it away, whatever it looks like.
VARIABLES = [
    ("DB_PWD", "{}"), ("PGPASSWORD", "{}"), ("DBPASS", "{}"), ("SMTP_PASS", "{}"), ("X_PW", "{}"),
    ("SECRET_KEY", "{}"), ("apiToken", "{}"), ("STRIPE_KEY", "{}"), ("SENTRY_DSN", "{}"),
    ("DJANGO_SALT", "{}"), ("jwtKey", "{}"), ("PASSWORD_FILE", "x{}"), ("CREDENTIALS", "a {} b"),
    ("COOKIE_SIGNATURE", "{}"),
]
VALUES = [
    "postgres://shop:{}@db:5432/shop", "amqp://:{}@queue/", "redis://:{}@[::1]:6379/0",
    "shop:{}@db.example.com:3306", "Server=db;Uid=shop;Password={};Database=shop",
    "Server=db;PWD={}", "host=db user=shop password={}", "SharedAccessKey={}",
    "AccountName=shop;AccountKey={};EndpointSuffix=core.windows.net",
    "https://example.com/hook?token={}", "https://example.com/?a=1&api_key={}&b=2",
    "https://example.com/?X-Amz-Signature={}", '{{"user": "shop", "password": "{}"}}',
    "{{'secret': '{}'}}", '{{\\"password\\": \\"{}\\"}}', "password: {}", "token={}",
    "Authorization: Bearer {}", "Bearer {}", "Authorization: Basic {}", "X-Api-Key: {}",
    "Cookie: session={}; theme=dark", "--password {}", "--db-password={}",
    "mysql --user shop --password '{}' db", "sh -c 'curl -H \"Authorization: token {}\"'",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\\n{}", "sk_live_{}", "ghp_{}",
]
# Where it is known by its looks alone.
BARE = [
    "{}", "x {} y", "a,{},b", "'{}'", "https://{}@example.com", "{}@example.com", "a={}",
    "https://hooks.example.com/services/T0/{}",
]
COMMANDS = [
    ["serve", "--password", "{}"], ["serve", "--token={}"], ["serve", "-password", "{}"],
    ["curl", "-u", "bob:{}", "http://x/"], ["env", "DB_PWD={}", "serve"],
    ["sh", "-c", "exec serve --secret {}"], ["serve", "postgres://shop:{}@db/shop"],
    ["serve", "--header", "Authorization: Bearer {}"], ["serve", "--db", "Server=db;Password={};"],
    ["serve", "--api-key", "{}", "--debug"],
]


@st.composite
def secrets(draw: st.DrawFn, alphabet: str | None = None) -> str:
    """At least 160 bits that nobody can guess: hypothesis chooses the dice, since it likes simple
    texts better."""
    letters = alphabet or ALPHABETS[draw(st.sampled_from(sorted(ALPHABETS)))]
    dice = random.Random(draw(st.integers(0, 2**64)))
    return "".join(dice.choice(letters) for _ in range(draw(st.integers(40, 80))))


def hidden(secret: str, told: str) -> bool:
    """Whether nothing of it can be read that would be of use."""
    return not any(secret[start: start + 12] in told for start in range(len(secret) - 11))


@given(st.sampled_from(VARIABLES), secrets(PUNCTUATION))
def test_a_secret_by_its_name(variable: tuple[str, str], secret: str) -> None:
    name, shape = variable
    assert Redaction().environment({name: shape.format(secret)}) == {name: MASK}


@settings(max_examples=400)
@given(st.sampled_from(VALUES), secrets())
@example("postgres://shop:{}@db/shop", "pa/ss@word:with/everything")
@example("Server=db;Password={};Database=shop", "three short words")
@example("password='{}'", "three short words")
@example("https://u:{}@example.com/x?y=z@w", "8080/abc")
@example("sk_live_{}", "iS0oPgfJt6fCKVZdFrm2WPTIZg0AiGOr+CPG3+/WIctb")
def test_a_secret_by_its_place(shape: str, secret: str) -> None:
    text = shape.format(secret)
    redaction = Redaction()
    for told in (redaction.value("OPTIONS", text), redaction.text(text, strict=True)):
        assert hidden(secret, told), told
        assert MASK in told
    if not secret.isalpha() and " " not in secret:
        assert hidden(secret, redaction.text(f"ValueError: cannot use {text}"))


@settings(max_examples=400)
@given(st.sampled_from(BARE), secrets())
@example("a={}", "VP68SydeQCjWD3I8u2ZPFmjC8PkPQBPo6wmIhXZIeFss//135ls+hqhu")
@example("a={}", "M1WqccRFYRW9eHMh1Sgi6Wv/NiL1x6RQ33php9V4/wCEpiPUn8YS")
def test_a_secret_by_its_looks(shape: str, secret: str) -> None:
    told = Redaction().value("OPTIONS", shape.format(secret))
    assert hidden(secret, told), told
    if not set(secret) <= set(ALPHABETS["hexadecimal"]):
        assert hidden(secret, Redaction().text(f"ValueError: {shape.format(secret)}"))


@settings(max_examples=200)
@given(st.sampled_from(COMMANDS), secrets())
def test_a_secret_in_a_command_line(shape: list[str], secret: str) -> None:
    words = [word.replace("{}", secret) for word in shape]
    told = Redaction().command(words)
    assert len(told) == len(words)
    assert hidden(secret, "\n".join(told)), told
    assert hidden(secret, Redaction().text(" ".join(words), strict=True))


@given(st.sampled_from(VALUES + BARE), secrets(), st.booleans())
def test_told_twice_is_told_once(shape: str, secret: str, strict: bool) -> None:
    once = Redaction().text(shape.format(secret), strict)
    assert Redaction().text(once, strict) == once


@given(st.text(), st.booleans())
def test_any_text_can_be_told(text: str, strict: bool) -> None:
    Redaction().text(text, strict)
    Redaction().command(text.split())
    Redaction().lines(text.split("\n"))


def test_a_key_over_several_lines() -> None:
    dice = random.Random(1)
    key = ["".join(dice.choice(ALPHABETS["base 64"]) for _ in range(64))
           for _ in range(20)] + ["abc="]
    lines = [
        "before", "x -----BEGIN EC PRIVATE KEY-----", *key, "-----END EC PRIVATE KEY-----", "after"]
    assert Redaction().lines(lines) == ["before", f"x {MASK}", *[MASK] * 22, "after"]


def test_very_long_values_cost_little() -> None:
    assert Redaction().value("X", "pwd" * 100_000) == f"{MASK} (300000 characters)"
    Redaction().text("pwd" * 100_000)
    Redaction().text("a" * 8000 + "=" * 100)
    Redaction().text("://" * 3000)


ORDINARY = f"""\
PATH=/srv/shop/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/bin:/home/deploy/.pyenv/shims
PWD=/srv/shop/releases/{SHA}
OLDPWD=/
HOME=/home/deploy
LANG=en_GB.UTF-8
LC_ALL=C.UTF-8
TZ=Europe/Berlin
TERM=xterm-256color
SHELL=/bin/bash
USER=deploy
HOSTNAME=shop-7d9c5b6f4d-x2x5z
SHLVL=1
_=/usr/bin/env
PYTHONPATH=/srv/shop:/srv/lib
PYTHON_VERSION=3.12.1
VIRTUAL_ENV=/home/u/.cache/pypoetry/virtualenvs/shop-K3x9aZpQ-py3.11
LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2
NODE_OPTIONS=--max-old-space-size=4096
WEB_CONCURRENCY=4
DATABASE_HOST=db-1.internal.example.com:5432
REDIS_URL=redis://cache.example.com:6379/0
HTTP_PROXY=http://proxy:3128
SITE=https://shop.example.com:8443/path?page=2&sort=name
MAIL_FROM=shop@example.com
REPOSITORY=ssh://git@github.com/example/shop
GUNICORN_CMD_ARGS=--workers 4 --bind 0.0.0.0:8000 --timeout 30
DJANGO_SETTINGS_MODULE=shop.settings.production
GIT_COMMIT={SHA}
IMAGE_DIGEST=sha256:{SHA}9f86d081884c7d659a2feaa0
SENTRY_RELEASE=shop@1.2.3
HEROKU_SLUG_COMMIT={SHA}
VERSION=v1.2.3-rc.4
IMAGE=registry.example.com:5000/shop/web:2026-01-02
ECS_CLUSTER=shop-production
AWS_REGION=eu-central-1
RATE=0.25
XDG_RUNTIME_DIR=/run/user/1000
SSH_AUTH_SOCK=/run/user/1000/keyring/ssh
DB_PASSWORD_FILE=/run/secrets/db
KEYBOARD=us
COMPASS=north
STARTED=20260102T030405Z
NUMBER=12345678901234567890123
DEBUG=false
LS_COLORS=rs=0:di=01;34:ln=01;36:*.tar=01;31
LESSOPEN=| /usr/bin/lesspipe %s
EMPTY=
API_TOKEN_EMPTY=
PASSWORD_MIN_LENGTH=12
PASS_THROUGH=yes
TOKENIZERS_PARALLELISM=false
SESSION_COOKIE_NAME=sid
SESSION_COOKIE_AGE=1209600
CACHE_KEY_PREFIX=shopcache
AUTH_BACKEND=shop.auth.Ldap
PINNED=registry/app:1.2.3@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
GREETING=Guten Tag, wie geht es Ihnen?
""".splitlines()


@pytest.mark.parametrize("variable", ORDINARY)
def test_ordinary_values_stay(variable: str) -> None:
    name, _, value = variable.partition("=")
    assert Redaction().value(name, value) == value


@pytest.mark.parametrize(
    "words",
    [[
        "gunicorn", "--workers", "4", "--bind", "unix:/run/shop.sock", "--keyfile",
        "/etc/ssl/shop.pem", "shop.wsgi:application"],
     [
         "python3.12", "-m", "uvicorn", "shop.main:create_app", "--factory", "--host", "0.0.0.0",
         "--port", "8000", "--log-level=info"], ["sh", "-c", 'exec node server.js --port "$PORT"'],
     ["celery", "-A", "shop", "worker", "--concurrency=4", "-Q", "default,mail"],
     ["docker-entrypoint", "--user", "1000:1000"],
     ["env", "LANG=C.UTF-8", "TZ=UTC", "/srv/shop/releases/" + SHA + "/bin/serve"],])
def test_ordinary_commands_stay(words: list[str]) -> None:
    assert Redaction().command(words) == words


ERRORS = rf"""\
ModuleNotFoundError: No module named 'shop_backend_extensions'
KeyError: 'DATABASE_PASSWORD'
KeyError: 'token'
File "/srv/shop/releases/{SHA}/shop/views.py", line 112, in <module>
exited with code 3
cannot import revision {SHA}
jwt.exceptions.InvalidTokenError: Signature verification failed
invalid token: unexpected end of file
AuthenticationError: bad user
psycopg.OperationalError: connection to server at "10.0.3.17", port 5432 failed: Connection refused
fe_sendauth: no password supplied
request 123e4567-e89b-12d3-a456-426614174000 failed
token = next(self.tokens)
the warm-up of /healthz answered 500 Internal Server Error, expected 2xx
2026-01-02T03:04:05Z web worker ready index=2 pid=4711
argument --password: expected one argument
cannot read the secret: permission denied
ImportError: libpq.so.5: no such file
    from .authentication import BasicAuthentication, TokenAuthentication
~/.local/lib/python3.11/site-packages/django/core/handlers/wsgi.py
basic authentication failed, bearer of bad news
--labels: got 'pid=4', expected another KEY: log lines and metrics have a pid of their own
--env: got one that is not shown here, expected KEY=VALUE
sorted(rows, sort_key=None, api_key=null)
""".splitlines()


@pytest.mark.parametrize("text", ERRORS)
def test_ordinary_errors_stay(text: str) -> None:
    assert Redaction().text(text) == text


def test_a_release_is_never_hidden() -> None:
    release = "shop-" + "Xk92mQpLz8TnVb3RwY7cD5fG"
    redaction = Redaction([SHA, release])
    for value in (SHA, SHA[:12], release, f"/srv/{release}/bin",
                  f"https://artifacts.example.com/{SHA}.tar.gz", f"build of {SHA}"):
        assert redaction.value("WHATEVER", value) == value
        assert redaction.text(value) == value
    assert redaction.value("WHATEVER", SHA[::-1]) == MASK
    assert redaction.value("DEPLOY_TOKEN", SHA) == MASK


PLAIN_SECRETS = {
    "SECRET_KEY": "correcthorse", "API_TOKEN": "swordfish", "SMTP_PASSWORD": "hunter2",
    "REDIS_PASSWORD": "letmein", "STRIPE_KEY": "abcd", "ADMIN_PASSWORD": "production",}


@pytest.mark.parametrize(("name", "secret"), PLAIN_SECRETS.items())
def test_a_plain_word_that_is_a_secret_is_hidden_wherever_it_stands(name: str, secret: str) -> None:
    redaction = Redaction(known=secrets_of(PLAIN_SECRETS))
    assert redaction.text(secret) == MASK
    for text in ("RuntimeError: cannot log in with {}.", "a,'{}'!", "/srv/{}/x", "user:{}"):
        assert secret not in redaction.text(text.format(secret)), text
    assert redaction.lines([f"x {secret} y"]) == [f"x {MASK} y"]
    whole = f"x{secret}ly"
    assert redaction.text(f"{whole} stays {whole}") == f"{whole} stays {whole}"
    assert redaction.fields({"reason": secret,
                             "outcome": secret}) == {"reason": MASK, "outcome": secret}


@pytest.mark.parametrize("value", ["true", "No", "none", "12", "1234", "abc", ""])
def test_what_is_trivial_is_not_hunted(value: str) -> None:
    text = f"it is {value} today"
    assert Redaction(known=secrets_of({"APP_SECRET": value})).text(text) == text


def test_a_year_under_the_name_of_a_secret_is_still_none_to_show() -> None:
    assert Redaction().value("CARD_PIN", "1234") == MASK


@pytest.mark.parametrize("name", [
    "OAUTH", "BASICAUTH", "PASSKEY", "LDAP_BINDPW", "FERNET_KEYS", "MNEMONIC", "HMAC_KEYS"])
def test_more_names(name: str) -> None:
    assert Redaction().value(name, "two words") == MASK


ODD = 'New+Sommer/2026! "für" \\ x%'


@pytest.mark.parametrize("spelled", [
    quote(ODD),
    quote(ODD, safe=""),
    quote_plus(ODD),
    re.sub("%..", lambda found: found[0].lower(), quote(ODD)),
    json.dumps(ODD),
    json.dumps(ODD, ensure_ascii=False),
    repr(ODD),
    repr(ODD.encode()),])
def test_a_secret_in_another_spelling(spelled: str) -> None:
    told = Redaction(known=secrets_of({"DB_PASSWORD": ODD})).text(f"cannot reach {spelled} at all")
    assert "Sommer" not in told
    assert told.startswith("cannot reach ")
    assert told.endswith(" at all")


def test_the_password_of_a_url_is_a_secret_anywhere() -> None:
    environment = {
        "DATABASE_URL": "postgres://joe:pa ss%21@db/shop", "MIRROR": "https://mirror:8080/x"}
    redaction = Redaction(known=secrets_of(environment))
    assert redaction.environment(environment) == {
        "DATABASE_URL": "postgres://joe:***@db/shop", "MIRROR": environment["MIRROR"]}
    assert redaction.text(
        "FATAL: no such user, pa ss! was given") == "FATAL: no such user, *** was given"
    assert Redaction().value("DATABASE_URL", "postgres://joe:pa ss@h") == "postgres://joe:***@h"


@pytest.mark.parametrize("left", range(4, 12))
def test_a_secret_that_was_cut(left: int) -> None:
    redaction = Redaction(known=secrets_of({"DB_PASSWORD": "New-Sommer2026!"}))
    text = "x " * 240 + "with "
    assert redaction.text(text + "New-Sommer2026!"[:left]) == text + MASK
    assert Redaction().text(
        f"{text}postgres://joe:{'hunter2'[:left]}") == f"{text}postgres://joe:{MASK}"
    long = f"{'x ' * 4090}with New-Sommer2026! and more"
    assert "New" not in redaction.text(long)


def test_what_a_template_has_found_is_told_without_secrets() -> None:
    found = Finding("file", "/srv/New-Sommer2026!/x", "shop", "open it in each worker")
    ready = TemplateReady(1, 2.0, (found, replace(found, what="/srv/shop.db")))
    (first, second) = Redaction(known=["New-Sommer2026!"]).fact(ready).findings
    assert first == replace(found, what=f"/srv/{MASK}/x")
    assert second.what == "/srv/shop.db"


def test_each_line_of_a_secret_is_one() -> None:
    redaction = Redaction(known=secrets_of({"SSL_KEY": "the first line\nand the second"}))
    assert redaction.lines(["the first line", "and the second"]) == [MASK, MASK]


@pytest.mark.parametrize(
    "words", [["mysql", "-p{}", "db"], ["/usr/bin/mysqldump", "-u", "joe", "-p{}"],
              ["sshpass", "-p", "{}", "ssh", "h"], ["redis-cli", "-h", "cache", "-a", "{}"],
              ["curl", "-ujoe:{}", "http://h"], ["curl", "--user=joe:{}", "http://h"],
              ["curl", "--proxy-user", "joe:{}", "http://h"],])
def test_flags_of_some_programs(words: list[str]) -> None:
    filled = [word.replace("{}", "hunter") for word in words]
    assert Redaction().command(filled) == [word.replace("{}", MASK) for word in words]
    assert Redaction().text(" ".join(filled), strict=True) == " ".join(words).replace("{}", MASK)


def test_many_secrets_cost_little() -> None:
    environment = {f"KEY_{number}": f"secret number {number}" for number in range(100)}
    redaction, began = Redaction(known=secrets_of(environment)), time.process_time()
    for number in range(100):
        redaction.text(f"{number} " * 200)
    assert time.process_time() - began < 2.0
