"""How a template is started: gunicorn by its own name, and behind something else."""

from __future__ import annotations

from einhornpy.supervisor.launch.programs import Program
from einhornpy.supervisor.launch.recognition import Gunicorn
from einhornpy.supervisor.launch.template_command import Run, by_itself, template_command


def test_gunicorn_by_its_own_name_is_run_by_its_python() -> None:
    gunicorn = Gunicorn("/venv/bin/python", ("-w", "2", "app:wsgi"), options=("-s",))
    assert template_command(gunicorn, {"A": "1", "PYTHONPATH": "/lib"}, 9, "{}") == Run(
        ("/venv/bin/python", "-s", "/proc/self/fd/9", "-w", "2", "app:wsgi"),
        {"A": "1", "PYTHONPATH": "/lib", "EINHORNPY_ADAPTER": "{}"})


def test_something_else_runs_as_typed_and_finds_the_adapter_first() -> None:
    gunicorn = Gunicorn("/usr/bin/nice", ("gunicorn", "app:wsgi"), wrapped=True)
    for theirs, expected in ((None, "/proc/self/fd/9"), ("", "/proc/self/fd/9"),
                             ("/lib::/more", "/proc/self/fd/9:/lib::/more")):
        given = {} if theirs is None else {"PYTHONPATH": theirs}
        assert template_command(gunicorn, given, 9, "{}") == Run(
            ("/usr/bin/nice", "gunicorn", "app:wsgi"),
            {"PYTHONPATH": expected, "EINHORNPY_ADAPTER": "{}"})


def test_a_program_runs_as_it_would_without_a_template() -> None:
    program = Program(("/usr/bin/python3", "/srv/consume.py", "-v"), "/srv/consume.py",
                      "/usr/bin/python3")
    assert template_command(program, {"A": "1"}, 9, "{}") == Run(
        program.words, {"A": "1", "EINHORNPY_ADAPTER": "{}"}, program.program, program.interpreter)
    assert by_itself(program) == {"by_itself": True}


def test_a_file_is_loaded_by_the_python_of_the_command() -> None:
    program = Program(("/venv/bin/python", "/srv/app.py", "-v"), "", "", "/srv/preloaded.py")
    assert template_command(program, {}, 9, "{}").words == ("/venv/bin/python", "/proc/self/fd/9")
    assert by_itself(program) == {"file": "/srv/preloaded.py", "arguments": ["/srv/app.py", "-v"]}
