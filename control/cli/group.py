"""The group of all commands. Each is imported when it is called for: `status` is in a hurry."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Which module has a command of this name; `run` is made when it is asked for, see run.py.
COMMANDS = {
    "abort": "upgrade", "completion": "completion", "events": "looking", "history": "looking",
    "list": "looking", "pause": "upgrade", "recycle": "workers", "reload": "lifetime",
    "resume": "upgrade", "rollback": "upgrade", "run": "run", "scale": "workers",
    "shell": "shell", "show": "looking", "signal": "workers", "status": "status",
    "stop": "lifetime", "top": "looking", "unit": "run", "upgrade": "upgrade",
    "version": "looking"}


class Group(click.Group):
    """Knows its commands by `COMMANDS`. Without one, `run` is meant."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[name]}", __package__)
        if name == "run":
            made: click.Command = module.run_command()
            return made
        return next(each for each in vars(module).values()
                    if isinstance(each, click.Command) and each.name == name)

    def list_commands(self, context: click.Context) -> list[str]:
        return ["run", *(name for name in COMMANDS if name != "run")]

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """While a shell completes a line, the words before are read here as `main` reads those of a
        whole one."""
        if context.resilient_parsing and args:
            if args[0] == "unit":
                args = ["run", *args[2 if args[1:2] == ["--user"] else 1:]]
            elif args[0] not in COMMANDS:
                args = ["run", *args]
        return super().parse_args(context, args)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        run = self.get_command(context, "run") if incomplete.startswith("-") else None
        if run is not None:
            return run.shell_complete(click.Context(run, parent=context), incomplete)
        return super().shell_complete(context, incomplete)


@click.group(cls=Group,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
def cli() -> None:
    """Keep an app's workers ready on one host, and replace their code without anyone noticing.

    \b
      einhornpy -n 4 -b 127.0.0.1:8000 -- gunicorn app:wsgi    run it
      einhornpy status                                         is this host done?
      einhornpy upgrade                                        roll it

    Without a command's name, `run` is meant.
    """
