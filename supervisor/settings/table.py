"""The settings. Each is declared once, as a field of `Settings`: flags, parser, default, help,
where it counts, what a reload makes of it (declaring.py).

Flags, environment, file, completion, docs, the planner's policy, the rules of a recipe and the list
of what a reload keeps are made from it. It reads nothing: see sources.py. One that the planner
needs is declared with `counts_in=Counts.POLICY`, and is a field of that name in core's `Policy`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any

from ...shared.frozen import dataclass
from ..core.generation import Preload
from . import parsers
from .declaring import Counts, Reload, Setting, choice, setting, several, switch
from .parsers import AckMode, LogFormat, LogTo, Unsure, WorkerOutput

# Where nothing is known about how a worker says that it is ready, it counts as ready after so many
# seconds, and an old one goes for it when that guess has stood for so many.
GUESSED_ACK_SECONDS, GUESSED_MIN_READY_SECONDS = 1.0, 5.0
# What stands for the root of the releases, and for the name of a generation's.
ROOT, RELEASE = "{root}", "{release}"


def _number(values: Mapping[str, Any]) -> int:
    return 1 if values["einhorn"] else len(os.sched_getaffinity(0))


def _stop_signal(values: Mapping[str, Any]) -> str:
    of_einhorn = values["einhorn"] or values["ack_mode"] is AckMode.MANUAL
    return "SIGUSR2" if of_einhorn else "SIGTERM"


def _command_name(values: Mapping[str, Any]) -> str:
    basename = os.path.basename(values["command"][0])
    return re.sub(r"[^A-Za-z0-9_.@-]", "_", basename).lstrip(".@-")[:64] or "worker"


def _chdir(values: Mapping[str, Any]) -> str:
    return "" if values["releases_root"] is None else f"{ROOT}/releases/{RELEASE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the master was told. Times in seconds, paths absolute. `origin`: setting → where its
    value came from ("default" where nobody gave one). `configuration`: the text of the file."""

    command: tuple[str, ...]
    einhorn: bool = switch(
        False, "--einhorn", reload=Reload.RESTART,
        help="Be Einhorn: one worker by default, asked to leave by USR2, and its upgrade replaces "
             "the master first. The program's name einhorn means this too.")
    number: int = setting(
        _number, "-n", "--number", parse=parsers.whole(1), metavar="N", reload=Reload.RESTART,
        help="How many workers to keep ready. Default: the number of CPUs; 1 with --einhorn.")
    bind: tuple[str, ...] = several(
        "-b", "--bind", parse=parsers.text, metavar="ADDR", reload=Reload.RESTART,
        help="Listen here: HOST:PORT, [V6]:PORT, :PORT, unix:PATH or fd://N, with options after "
             "commas: r (SO_REUSEADDR, always on), n (non-blocking), backlog=N, v6only; and for a "
             "UNIX socket mode=OCTAL, user=USER, group=GROUP. May be given several times.")
    backlog: int = setting(
        2048, "-l", "--backlog", parse=parsers.whole(1, 65535), reload=Reload.RESTART,
        help="How many connections may wait to be accepted, where the address doesn't say.")
    ack_mode: AckMode | float = setting(
        AckMode.AUTO, "-m", "--ack-mode", parse=parsers.ack_mode, metavar="MODE",
        choices=(*AckMode,), reload=Reload.NEXT_GENERATION,
        help="How a worker says that it is ready: manual (Einhorn's ack), notify (READY=1 to "
             "NOTIFY_SOCKET), a number of SECONDS that it must have lived, gunicorn (the command "
             "starts it in the end, whatever it looks like), or auto: gunicorn says so itself, "
             "anything else gets 1 second.")
    max_surge: int = setting(
        1, "--max-upgrade-additional", "--max-surge", parse=parsers.whole(1),
        counts_in=Counts.POLICY, help="How many workers more than N may stand during an exchange.")
    max_unacked: int | None = setting(
        None, "--max-unacked", parse=parsers.whole(1), metavar="N", counts_in=Counts.POLICY,
        help="How many workers may be starting at the same time. Default: as many as there is "
             "room for.")
    ready_timeout: float = setting(
        60.0, "--ready-timeout", parse=parsers.some_seconds, counts_in=Counts.POLICY,
        help="A worker that isn't ready after this long is killed, and its start has failed.")
    min_ready_seconds: float = setting(
        0.0, "--min-ready-seconds", parse=parsers.seconds, counts_in=Counts.POLICY,
        help="A new worker must have been ready for this long before an old one goes. Default: 0, "
             "and 5 where its readiness is a guess.")
    graceful_timeout: float = setting(
        30.0, "-t", "--signal-timeout", "--graceful-timeout", parse=parsers.seconds,
        counts_in=Counts.RECIPE,
        help="A worker asked to go is killed if it is still there after this long.")
    timeout: float = setting(
        0.0, "--timeout", parse=parsers.seconds, counts_in=Counts.RECIPE,
        help="Kill and replace a worker whose last heartbeat is older; 0: never. Default: "
             "gunicorn's own timeout, else 0.")
    max_failures: int = setting(
        3, "--max-failures", parse=parsers.whole(0), counts_in=Counts.POLICY,
        help="An upgrade with this many failed starts goes back; a first start with this many "
             "gives up. 0 and 1 both mean: at the first one.")
    seconds: float = setting(
        1.0, "-s", "--seconds", parse=parsers.seconds, counts_in=Counts.POLICY,
        counts_as="first_delay",
        help="How long to wait after a failed start; half as long again after each further one, "
             "up to 30 s.")
    progress_timeout: float = setting(
        600.0, "--progress-timeout", parse=parsers.seconds, counts_in=Counts.POLICY,
        help="An upgrade that makes no progress for this long goes back; 0: never. Pauses, holds "
             "and draining don't count.")
    judge: bool = switch(
        False, "--judge",
        help="Compare new workers with old ones in each upgrade: a release that fails more, or is "
             "slower, beyond doubt goes back.")
    judge_tolerance: tuple[float, float] = setting(
        (0.5, 1.3), "--judge-tolerance", parse=parsers.tolerance, metavar="POINTS,FACTOR",
        help="By how many percentage points more may fail, and how many times slower it may be. "
             "Default: 0.5,1.3.")
    judge_after: int = setting(
        20, "--judge-after", parse=parsers.whole(0),
        help="So many requests of each worker aren't compared: it is cold.")
    judge_unsure: Unsure = choice(
        Unsure.PASS, "--judge-unsure",
        help="What becomes of a canary of which too little was seen to tell.")
    watch: float = setting(
        600.0, "--watch", parse=parsers.seconds,
        help="How long a judged upgrade that has ended can still go back by itself.")
    max_requests: int = setting(
        0, "--max-requests", parse=parsers.whole(0), counts_in=Counts.RECIPE,
        help="gunicorn only: replace a worker that has served so many requests; 0: never. "
             "Default: gunicorn's own max_requests, else 0.")
    max_requests_jitter: int = setting(
        lambda values: int(values["max_requests"]) // 10, "--max-requests-jitter",
        parse=parsers.whole(0), metavar="N", counts_in=Counts.RECIPE,
        help="Each worker may serve up to this many requests more, drawn at random. Default: "
             "gunicorn's own, else a tenth of max requests.")
    max_lifetime: float = setting(
        0.0, "--max-lifetime", parse=parsers.seconds, counts_in=Counts.RECIPE,
        help="Replace a worker of this age; 0: never.")
    max_lifetime_jitter: float = setting(
        lambda values: float(values["max_lifetime"]) / 10, "--max-lifetime-jitter",
        parse=parsers.seconds, metavar="SECONDS", counts_in=Counts.RECIPE,
        help="Each worker may live up to this much longer, drawn at random. Default: a tenth of "
             "max lifetime.")
    max_memory: int = setting(
        0, "--max-memory", parse=parsers.size, metavar="SIZE", counts_in=Counts.RECIPE,
        help="Replace a worker whose process group uses this much memory; 0: never.")
    max_memory_hard: int = setting(
        0, "--max-memory-hard", parse=parsers.size, metavar="SIZE", counts_in=Counts.RECIPE,
        help="Kill a worker whose process group uses this much memory; 0: never.")
    min_available_memory: int | None = setting(
        None, "--min-available-memory", parse=parsers.size, metavar="SIZE",
        help="Where less is available on the host, a due worker leaves before its replacement is "
             "started. Default: what that worker uses.")
    reload_exit_code: int | None = setting(
        None, "--reload-exit-code", parse=parsers.whole(1, 255, "an exit code"), metavar="CODE",
        counts_in=Counts.POLICY,
        help="A ready worker that exits with this code asks for an upgrade, and its seat is "
             "filled with new code first. Default: none does.")
    on_upgrade_start: str | None = setting(
        None, "--on-upgrade-start", parse=parsers.text, metavar="COMMAND",
        help="Run this shell command before an upgrade; if it fails, the upgrade is refused.")
    on_upgrade_start_first: bool = switch(
        False, "--on-upgrade-start-first", reload=Reload.RESTART,
        help="Run it before the first start too; a start that it refuses exits with 3.")
    on_upgrade_end: str | None = setting(
        None, "--on-upgrade-end", parse=parsers.text, metavar="COMMAND",
        help="Run this shell command when an upgrade is done or superseded.")
    on_upgrade_failed: str | None = setting(
        None, "--on-upgrade-failed", parse=parsers.text, metavar="COMMAND",
        help="Run this shell command when an upgrade went back.")
    on_worker_ready: str | None = setting(
        None, "--on-worker-ready", parse=parsers.text, metavar="COMMAND",
        help="Run this shell command when a worker is ready.")
    on_worker_exit: str | None = setting(
        None, "--on-worker-exit", parse=parsers.text, metavar="COMMAND",
        help="Run this shell command when a worker is gone.")
    hook_timeout: float = setting(
        30.0, "--hook-timeout", parse=parsers.some_seconds,
        help="A hook that takes longer is killed.")
    stop_signal: str = setting(
        _stop_signal, "--stop-signal", parse=parsers.signal_name, metavar="SIGNAL",
        help="What asks a worker to finish and leave. Default: USR2 with -m manual or --einhorn "
             "(as Einhorn does), else TERM.")
    command_name: str = setting(
        _command_name, "-c", "--command-name", parse=parsers.name, metavar="NAME",
        reload=Reload.RESTART,
        help="The master's name, in `ps` and for its control socket. Default: the command's.")
    socket_path: str | None = setting(
        None, "-d", "--socket-path", parse=parsers.path, metavar="PATH", reload=Reload.RESTART,
        help="The control socket. Default: NAME.sock in a private directory (see `einhornpy "
             "list`).")
    socket_mode: int | None = setting(
        None, "--socket-mode", parse=parsers.octal, metavar="OCTAL", reload=Reload.RESTART,
        help="Permission bits of the control socket. Default: 0600; 0660 with --socket-group; "
             "0666 with --user, --group or --observers, since every request is checked against "
             "who sends it.")
    socket_group: str | None = setting(
        None, "--socket-group", parse=parsers.text, metavar="GROUP", reload=Reload.RESTART,
        help="The control socket's group.")
    observers: str | None = setting(
        None, "--observers", parse=parsers.text, metavar="GROUP",
        help="Members of this group may ask whatever only looks, such as status, and nothing else.")
    command_socket_as_fd: bool = switch(
        False, "-g", "--command-socket-as-fd",
        help="Give each worker an open connection to the control socket, as EINHORN_SOCK_FD.")
    lockfile: str | None = setting(
        None, "-f", "--lockfile", parse=parsers.path, metavar="PATH", reload=Reload.RESTART,
        help="The lock on the master's name. Default: NAME.lock beside the control socket.")
    pidfile: str | None = setting(
        None, "-e", "--pidfile", parse=parsers.path, metavar="PATH", reload=Reload.RESTART,
        help="Write the master's pid here.")
    kill_children_on_exit: bool = switch(
        True, "-k", "--kill-children-on-exit", off="--keep-children-on-exit",
        help="If the master dies, its workers leave gracefully (the default).")
    releases_root: str | None = setting(
        None, "--releases-root", parse=parsers.path, metavar="DIR", reload=Reload.NEXT_GENERATION,
        help="Releases are directories in DIR/releases, and DIR/current is a link to the one that "
             "a start runs. {root} and {release} stand for both in the command and in --chdir.")
    releases_fetch: str | None = setting(
        None, "--releases-fetch", parse=parsers.text, metavar="COMMAND",
        help="This shell command puts the release $1 into the empty directory $2.")
    releases_prepare: str | None = setting(
        None, "--releases-prepare", parse=parsers.text, metavar="COMMAND",
        help="This shell command then prepares it there: environments, static files, migrations.")
    releases_resolve: str | None = setting(
        None, "--releases-resolve", parse=parsers.text, metavar="COMMAND",
        help="This shell command prints the release that $1 means now: a branch's revision.")
    releases_timeout: float = setting(
        600.0, "--releases-timeout", parse=parsers.some_seconds,
        help="Each of them is killed if it takes longer.")
    releases_keep: int = setting(
        5, "--releases-keep", parse=parsers.whole(1),
        help="So many proven releases are kept; what is in use always is.")
    chdir: str = setting(
        _chdir, "--chdir", parse=parsers.path, metavar="DIR", reload=Reload.NEXT_GENERATION,
        help="Start workers here. A symbolic link on the way is followed again at every upgrade. "
             "Default: the current directory; with --releases-root, that of the release.")
    env: tuple[tuple[str, str], ...] = several(
        "--env", parse=parsers.pair, metavar="K=V", secret=True, reload=Reload.NEXT_GENERATION,
        help="Add K=V to the workers' environment. May be given several times.")
    drop_env_var: tuple[str, ...] = several(
        "--drop-env-var", parse=parsers.text, metavar="NAME", reload=Reload.NEXT_GENERATION,
        help="Leave this variable out of the environment that an upgrade or a reload restores; "
             "the first workers have it. May be given several times.")
    user: str | None = setting(
        None, "--user", parse=parsers.text, metavar="USER",
        help="Workers are this user, with its groups; the master stays root.")
    group: str | None = setting(
        None, "--group", parse=parsers.text, metavar="GROUP",
        help="Workers have this group. Default: the user's.")
    nice: tuple[int, int | None] | None = setting(
        None, "--nice", parse=parsers.niceness, metavar="MASTER[:WORKER]",
        help="The niceness of the master, and of its workers.")
    rlimit: tuple[tuple[str, int, int], ...] = several(
        "--rlimit", parse=parsers.limit, metavar="NAME=SOFT[:HARD]",
        help="A limit of each worker's, such as nofile=65536. May be given several times.")
    cpu_affinity: str | tuple[int, ...] | None = setting(
        None, "--cpu-affinity", parse=parsers.core_list, metavar="spread|LIST", choices=("spread",),
        help="Each worker runs on one core, by its seat: of all cores (spread), or of a list such "
             "as 0,2,4-7.")
    umask: int | None = setting(
        None, "--umask", parse=parsers.octal, metavar="OCTAL", help="The workers' umask.")
    oom_score_adj: int | None = setting(
        None, "--oom-score-adj", parse=parsers.whole(-1000, 1000), metavar="N",
        help="How gladly the kernel kills a worker when memory runs out, from -1000 to 1000.")
    reexec_as: tuple[str, ...] | None = setting(
        None, "--reexec-as", parse=parsers.words, metavar="COMMAND",
        help="The einhornpy that `reload` execs, as a command line; so does an upgrade that is "
             "asked for in Einhorn's way. Default: the one that runs.")
    warm_up: tuple[str, ...] = several(
        "--warm-up", parse=parsers.request, metavar="PATH|URL",
        help="gunicorn only: before a worker says ready, its app must answer this path, or whole "
             "URL, with 2xx, redirects followed. May be given several times.")
    warm_up_per_worker: bool = switch(
        False, "--warm-up-per-worker",
        help="Warm up each worker, also where its template has been warmed up (--preload).")
    preload: Preload = setting(
        Preload.OFF, "--preload", parse=parsers.preload, metavar="[=warn|strict|auto|off]",
        choices=(*Preload,), alone="warn", reload=Reload.NEXT_GENERATION,
        help="Import the app once, and fork the workers of a generation from there. What isn't "
             "safe to fork is told (warn, as the flag alone), refuses the release (strict), or "
             "lets each worker import the app itself (auto). Default: gunicorn's preload_app, "
             "else off.")
    preload_file: str | None = setting(
        None, "-p", "--preload-file", parse=parsers.path, metavar="FILE",
        reload=Reload.NEXT_GENERATION,
        help="Load this Python file once, and fork the workers from there; each runs its "
             "einhorn_main(), with the command's arguments.")
    release: str | None = setting(
        None, "--release", parse=parsers.release_label, metavar="NAME", reload=Reload.RESTART,
        help="A label for the first generation.")
    labels: tuple[tuple[str, str], ...] = several(
        "--labels", parse=parsers.label, metavar="KEY=VALUE",
        help="A label of this host or task, for logs, status and metrics. May be given several "
             "times.")
    web: str | None = setting(
        None, "--web", parse=parsers.text, metavar="ADDR", reload=Reload.RESTART,
        help="Serve metrics, probes and a page here: HOST:PORT, [V6]:PORT or unix:PATH, by a "
             "process that may only look.")
    web_user: str | None = setting(
        None, "--web-user", parse=parsers.text, metavar="USER",
        help="Who that process is, where the master is root. Default: nobody.")
    web_host: tuple[str, ...] = several(
        "--web-host", parse=parsers.host_name, metavar="NAME",
        help="Answer there to this Host too, where it listens on loopback: what a proxy in front "
             "passes on. May be given several times.")
    statsd: tuple[str, ...] = several(
        "--statsd", parse=parsers.endpoint, metavar="HOST:PORT",
        help="Count deploy events here, by UDP: events.deploy.NAME.started, .done, .refused. May "
             "be given several times.")
    graphite: tuple[str, ...] = several(
        "--graphite", parse=parsers.endpoint, metavar="HOST:PORT",
        help="Send the same to Graphite, by TCP, in its plaintext protocol. May be given several "
             "times.")
    webhook: tuple[str, ...] = several(
        "--webhook", parse=parsers.url, metavar="URL", secret=True,
        help="POST deploy events here, as JSON with a text that Slack shows. May be given several "
             "times.")
    log_format: LogFormat = choice(
        LogFormat.TEXT, "--log-format", help="What a log line looks like.")
    log_to: LogTo = choice(
        LogTo.STDERR, "--log-to", help="Where the log goes; journal is journald, with fields.")
    log_file: str | None = setting(
        None, "--log-file", parse=parsers.path, metavar="PATH",
        help="Append the log to this file instead; USR1 opens it anew.")
    worker_output: WorkerOutput = choice(
        WorkerOutput.INHERIT, "--worker-output",
        help="What workers print goes where ours goes (inherit), or into the log, line by line, "
             "with a prefix or as JSON.")
    quiet: bool = switch(
        False, "-q", "--quiet", reload=Reload.RESTART, help="Log only what needs attention.")
    verbose: bool = switch(
        False, "-v", "--verbose", reload=Reload.RESTART, help="Log details too.")
    origin: Mapping[str, str] = field(default_factory=dict)
    configuration: str | None = None

    def given(self, setting: str) -> bool:
        """Whether somebody gave this setting a value."""
        return self.origin.get(setting, "default") != "default"

    @property
    def guessed_min_ready_seconds(self) -> float:
        """For how many seconds the guess that a worker is ready must stand."""
        return self.min_ready_seconds if self.given(
            "min_ready_seconds") else GUESSED_MIN_READY_SECONDS


# Every setting by its name, in the order of the help.
SETTINGS: Mapping[str, Setting] = {
    each.name: replace(each.metadata["setting"], name=each.name,
                       counts_as=each.metadata["setting"].counts_as or each.name)
    for each in fields(Settings) if each.metadata}
