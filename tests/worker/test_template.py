"""The process in the place of gunicorn's arbiter, without a master: settings, hooks, forks, and what
becomes of each when somebody is killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..harness import EXAMPLE, get, reap_leftovers
from ..template import Template
from .test_gunicorn import CLASSES

Begin = Callable[..., Template]


@pytest.fixture
def site(place: Path) -> Path:
    for name in ("app.py", "asgi_app.py"):
        shutil.copy(EXAMPLE / name, place / name)
    return place


@pytest.fixture
def begin(site: Path) -> Iterator[Begin]:
    """Start templates of the example app; afterwards nothing is left."""
    made: list[Template] = []

    def factory(*arguments: str, conf: str = "", **options: Any) -> Template:
        if conf:
            (site / "gunicorn.conf.py").write_text(conf)
        made.append(Template(site, *(arguments or ("app:wsgi",)), **options))
        return made[-1]

    yield factory
    for each in made:
        each.close()
    assert not reap_leftovers()


@pytest.mark.parametrize(("worker_class", "app"), CLASSES, ids=[name for name, _ in CLASSES])
def test_workers_of_every_class_serve_and_leave(begin: Begin, worker_class: str, app: str) -> None:
    template = begin("-k", worker_class, app)
    assert template.settings()["worker_class"] == worker_class
    for number in (1, 2):  # of the same template, one after the other
        worker = template.fork(number, EINHORNPY_RELEASE=f"r{number}")
        assert worker.said() == {"command": "worker:ack", "pid": worker.pid, "framework": None}
        assert get(template.address) == (200, f"r{number} {worker.pid}\n")
        assert os.getpgid(worker.pid) == worker.pid
        assert worker.stop() in (0, -signal.SIGTERM)  # uvicorn's way
        assert "Traceback" not in worker.printed()
    assert template.leave() == 0
    assert "Traceback" not in template.printed()
