"""How a template is started: gunicorn by its own name, and behind something else."""

from __future__ import annotations

from einhornpy.supervisor.launch.recognition import Gunicorn
from einhornpy.supervisor.launch.template_command import template_command


def test_gunicorn_by_its_own_name_is_run_by_its_python() -> None:
    gunicorn = Gunicorn("/venv/bin/python", ("-w", "2", "app:wsgi"), options=("-s",))
    assert template_command(gunicorn, {"A": "1", "PYTHONPATH": "/lib"}, 9, "{}") == (
        ("/venv/bin/python", "-s", "/proc/self/fd/9", "-w", "2", "app:wsgi"),
        {"A": "1", "PYTHONPATH": "/lib", "EINHORNPY_ADAPTER": "{}"})


def test_something_else_runs_as_typed_and_finds_the_adapter_first() -> None:
    gunicorn = Gunicorn("/usr/bin/nice", ("gunicorn", "app:wsgi"), wrapped=True)
    for theirs, expected in ((None, "/proc/self/fd/9"), ("", "/proc/self/fd/9"),
                             ("/lib::/more", "/proc/self/fd/9:/lib::/more")):
        given = {} if theirs is None else {"PYTHONPATH": theirs}
        command, environment = template_command(gunicorn, given, 9, "{}")
        assert command == ("/usr/bin/nice", "gunicorn", "app:wsgi")
        assert environment == {"PYTHONPATH": expected, "EINHORNPY_ADAPTER": "{}"}
