"""Which settings exclude each other, each in one line for whoever gave them. Pure; it refuses
nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from .parsers import AckMode, LogTo
from .table import GUESSED_ACK_SECONDS, RELEASE, Settings


def contradictions(settings: Settings) -> Iterator[str]:
    """What can't be meant, whatever is run."""
    places = settings.origin
    if isinstance(settings.ack_mode, float) and settings.ack_mode >= settings.ready_timeout:
        yield (f"{places['ack_mode']}: {settings.ack_mode:g} is not shorter than the ready timeout "
               f"of {settings.ready_timeout:g} s, so no worker could ever become ready")
    if 0 < settings.progress_timeout <= settings.min_ready_seconds:
        yield (f"{places['min_ready_seconds']}: {settings.min_ready_seconds:g} s is not shorter "
               f"than the progress timeout of {settings.progress_timeout:g} s, so no upgrade could "
               "ever be done")
    if 0 < settings.max_lifetime <= settings.min_ready_seconds:
        yield (f"{places['max_lifetime']}: {settings.max_lifetime:g} s are not more than the min "
               f"ready seconds, {settings.min_ready_seconds:g}, so every worker would be due "
               "before it counts")
    if settings.log_file is not None and settings.log_to is not LogTo.STDERR:
        yield (f"{places['log_file']}: the log goes to {settings.log_to} ({places['log_to']}): "
               "expected one of them")
    if settings.releases_root is None and RELEASE in settings.chdir:
        yield (f"{places['chdir']}: {settings.chdir} has {RELEASE} in it: expected "
               "--releases-root, where the releases are, too")
    if 0 < settings.max_memory_hard <= settings.max_memory:
        yield (f"{places['max_memory_hard']}: {settings.max_memory_hard} bytes are not more than "
               f"max memory, {settings.max_memory} bytes: expected more, or a worker is killed "
               "before it can be replaced")


def without_gunicorn(settings: Settings) -> Iterator[str]:
    """What can't be meant of workers that are not gunicorn's: those say little by themselves."""
    program = settings.command[0]
    if settings.ack_mode is AckMode.AUTO and settings.ready_timeout <= GUESSED_ACK_SECONDS:
        yield (f"--ready-timeout: {settings.ready_timeout:g} s is not longer than the "
               f"{GUESSED_ACK_SECONDS:g} s after which a worker is guessed to be ready: expected "
               "more, or -m notify, manual or SECONDS")
    if settings.warm_up:
        yield ("--warm-up: only gunicorn's workers can be warmed up from inside, and "
               f"{program} is not gunicorn")
    if settings.warm_up_per_worker:
        yield ("--warm-up-per-worker: only gunicorn's workers can be warmed up from inside, and "
               f"{program} is not gunicorn")
    if settings.max_requests:
        yield ("--max-requests: only gunicorn's workers count their requests, and "
               f"{program} is not gunicorn")
    if settings.ack_mode not in (AckMode.MANUAL, AckMode.NOTIFY):
        stands = settings.guessed_min_ready_seconds
        for flag, given in (("--progress-timeout", settings.progress_timeout),
                            ("--max-lifetime", settings.max_lifetime)):
            if 0 < given <= stands:
                yield (f"{flag}: {given:g} s is not longer than the {stands:g} s for which a guess "
                       "that a worker is ready must stand: expected more, or fewer "
                       "--min-ready-seconds")
