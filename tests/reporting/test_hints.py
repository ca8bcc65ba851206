"""What the log says at the start of a server's own ways, as far as its command line tells."""

from __future__ import annotations

import pytest
from einhornpy.supervisor.reporting import hints


@pytest.mark.parametrize(("command", "reasons"), [
    ("uvicorn --fd 3 --limit-max-requests 1000 app:app", ["--limit-max-requests it leaves"]),
    ("python -m uvicorn --limit-max-requests=9 --workers 2 a:b", ["limit-max", "--workers it"]),
    ("/srv/bin/uvicorn --fd 3 --reload app:app", ["--reload it restarts"]),
    ("env A=B hypercorn --max-requests 5 a:b", ["--max-requests it leaves"]),
    ("hypercorn --max-requests-jitter 5 a:b", []),
    ("python manage.py runserver 8000", ["runserver restarts"]),
    ("python manage.py runserver --noreload", []),
    ("python manage.py migrate", []),
    ("gunicorn --max-requests 5 a:b", []),
    ("uvicorn --limit-concurrency 5 a:b", []),
    ("waitress-serve --max-requests a:b", []),])
def test_what_a_command_line_tells(command: str, reasons: list[str]) -> None:
    told = list(hints.about_own_ways(command.split(), {}))
    assert len(told) == len(reasons)
    for entry, reason in zip(told, reasons, strict=True):
        assert reason in entry.fields["reason"]


def test_what_an_environment_tells() -> None:
    (entry,) = hints.about_own_ways(["uvicorn", "a:b"], {"UVICORN_LIMIT_MAX_REQUESTS": "7"})
    assert "einhornpy.worker.asgi" in entry.fields["better"]


def test_what_is_not_ours_is_named_where_it_has_changed() -> None:
    (entry,) = hints.about_ignored(["reuse_port", "pre_exec"])
    assert entry.fields["settings"] == "pre_exec, reuse_port"
    assert not list(hints.about_ignored(["reuse_port", "pre_exec"], ["pre_exec", "reuse_port"]))
    assert not list(hints.about_ignored([], ["pre_exec"]))
    assert list(hints.about_ignored(["pre_exec"], ["reuse_port"]))
