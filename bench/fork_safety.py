"""What preloading does to well-known libraries: which of them einhornpy warns of, and whether they
work in workers that were forked after the import.

    python -m bench.fork_safety [CASE...]

Each case of bench/fork_safety_apps is imported by a template, under a real master with three
gunicorn workers, and asked for answers in all of them at once; then again with the advice of
docs/fork-safety.md followed. The libraries go into .venv-fork-safety. Servers run on loopback:
Debian's redis-server and postgresql, gRPC's and librdkafka's own, and an HTTP server here.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .servers import BIN, ROOT, free_port, stop

APPS = ROOT / "bench" / "fork_safety_apps"
VENV = ROOT / ".venv-fork-safety"
WORKERS, REQUESTS, AT_ONCE = 3, 150, 6
# Seconds: for one answer, until it is late, and for what is to arrive after all of them.
PATIENCE, LATE, ARRIVAL = 12.0, 4.0, 8.0
IMPORTS = "numpy, pandas, scipy.stats, django.db, sqlalchemy, boto3, celery, grpc, requests, httpx"


@dataclass(frozen=True)
class Case:
    """`of`: the distributions that it tries. `arrives`: its tokens are to arrive at the bench, or
    only come back. `advice`: there is one to follow. `orphaned`: the template is killed
    first; `later`: the workers are replaced first, by ones forked some seconds later."""

    name: str
    of: Sequence[str] = ()
    needs: Sequence[str] = ()
    arrives: bool = False
    advice: bool = True
    orphaned: bool = False
    later: bool = False
    requests: int = REQUESTS
    variables: Mapping[str, str] = field(default_factory=dict)
    wrapper: Sequence[str] = ()

    @property
    def module(self) -> str:
        return self.name.split()[0].rstrip(",")


OTEL = ("opentelemetry-sdk", "opentelemetry-exporter-otlp", "opentelemetry-distro")
DATADOG = {"DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
           "DD_REMOTE_CONFIGURATION_ENABLED": "false"}
NEW_RELIC = {"NEW_RELIC_DEVELOPER_MODE": "true", "NEW_RELIC_LICENSE_KEY": "0" * 40,
             "NEW_RELIC_APP_NAME": "case"}
CASES = [
    Case("sentry", ["sentry-sdk"], arrives=True),
    Case("sentry_unused", ["sentry-sdk"], arrives=True, advice=False),
    Case("sentry_monitors", ["sentry-sdk"], arrives=True, advice=False),
    Case("otel", OTEL, arrives=True, advice=False),
    Case("otel_used", OTEL, arrives=True),
    Case("otel_metrics", OTEL, arrives=True, advice=False),
    Case("otel, later", OTEL, arrives=True, advice=False, later=True),
    Case("otel_metrics, later", OTEL, arrives=True, advice=False, later=True),
    Case("otel_logs", OTEL, arrives=True, advice=False),
    Case("otel_grpc", [*OTEL, "grpcio"], ["grpc"], arrives=True),
    Case("otel_instrument", OTEL, arrives=True, advice=False, wrapper=["opentelemetry-instrument"],
         variables={"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                    "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none",
                    "OTEL_BSP_SCHEDULE_DELAY": "500"}),
    Case("ddtrace_auto", ["ddtrace"], arrives=True, advice=False, variables=DATADOG),
    Case("ddtrace_auto, later", ["ddtrace"], arrives=True, advice=False, variables=DATADOG,
         later=True),
    Case("ddtrace_used", ["ddtrace"], arrives=True, advice=False, variables=DATADOG),
    Case("ddtrace_run", ["ddtrace"], arrives=True, advice=False, variables=DATADOG,
         wrapper=["ddtrace-run"]),
    Case("ddtrace_run, later", ["ddtrace"], arrives=True, advice=False, variables=DATADOG,
         wrapper=["ddtrace-run"], later=True),
    Case("newrelic_agent", ["newrelic"], variables=NEW_RELIC),
    Case("newrelic_run", ["newrelic"], advice=False, variables=NEW_RELIC,
         wrapper=["newrelic-admin", "run-program"]),
    Case("prometheus", ["prometheus-client"], advice=False),
    Case("prometheus_server", ["prometheus-client"]),
    Case("prometheus_multiprocess", ["prometheus-client"], advice=False),
    Case("django_db", ["django", "psycopg"], ["postgres"]),
    Case("django_unused", ["django", "psycopg"], ["postgres"], advice=False),
    Case("sqlalchemy_engine", ["SQLAlchemy", "psycopg2-binary"], ["postgres"]),
    Case("sqlalchemy_unused", ["SQLAlchemy", "psycopg2-binary"], ["postgres"], advice=False),
    Case("psycopg3", ["psycopg"], ["postgres"]),
    Case("psycopg3_pool", ["psycopg", "psycopg-pool"], ["postgres"], requests=30),
    Case("psycopg2_connection", ["psycopg2-binary"], ["postgres"]),
    Case("sqlite_connection"),
    Case("redis_pool", ["redis"], ["redis"]),
    Case("redis_single", ["redis"], ["redis"]),
    Case("grpc_channel", ["grpcio"], ["grpc"]),
    Case("grpc_channel without fork support", ["grpcio"], ["grpc"], advice=False,
         variables={"GRPC_ENABLE_FORK_SUPPORT": "0"}),
    Case("grpc_unused", ["grpcio"], ["grpc"], advice=False),
    Case("boto3_client", ["boto3"], advice=False),
    Case("boto3_used", ["boto3"]),
    Case("requests_session", ["requests"]),
    Case("httpx_client", ["httpx"]),
    Case("celery_redis", ["celery", "redis"], ["redis"], arrives=True, advice=False),
    Case("celery_memory", ["celery"], advice=False),
    Case("kafka_python", ["kafka-python"], ["kafka"], requests=30),
    Case("kafka_confluent", ["confluent-kafka"], ["kafka"], requests=30),
    Case("apscheduler_background", ["APScheduler"], arrives=True),
    Case("loguru_enqueue", ["loguru"], arrives=True),
    Case("loguru_enqueue without its template", ["loguru"], arrives=True, orphaned=True),
    Case("resource_tracker without its template", orphaned=True, advice=False),
    Case("structlog_file", ["structlog"], arrives=True),
    Case("queue_listener", arrives=True),
    Case("timer", requests=12),
    Case("executor", requests=12),
    Case("asyncio_loop", requests=60),
    Case("resource_tracker", advice=False),
    Case("numpy_blas", ["numpy"], advice=False),
    Case("numpy_random", ["numpy"]),
    Case("scipy_blas", ["scipy"], advice=False),
    Case("pandas_frame", ["pandas"], advice=False),
]


class CannotRun(Exception):
    """Why a case is skipped."""


class Sink(http.server.ThreadingHTTPServer):
    """Keeps what it is sent, and gives back what it is asked for by /echo/."""

    daemon_threads = True
    request_queue_size = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SinkHandler)
        self.told: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class SinkHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Sink

    def do_GET(self) -> None:
        asked = self.path.removeprefix("/echo/")
        self.answer(asked.encode() if asked != self.path else b"{}")

    def do_PUT(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.headers.get("Content-Encoding") == "gzip":
            with contextlib.suppress(OSError, EOFError, zlib.error):  # as spoilt as it is
                body = gzip.decompress(body)
        self.server.told.append(body)
        self.answer(b"{}")

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Services:
    """What cases talk to; each is started when it is first needed. `variables`: where they are."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.sink = Sink()
        self.variables = {"SINK": self.sink.url}
        self.more_told: Callable[[], bytes] = lambda: b""
        self._started: dict[str, str | None] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def need(self, name: str) -> None:
        if name not in self._started:
            try:
                getattr(self, "_start_" + name)()
                self._started[name] = None
            except (OSError, subprocess.SubprocessError, StopIteration, CannotRun) as error:
                self._started[name] = f"{name} can't be started: {error}"
        why = self._started[name]
        if why is not None:
            raise CannotRun(why)

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.sink.shutdown()

    def told(self) -> bytes:
        """Everything that has arrived anywhere."""
        files = [self.place / "grpc", *self.place.glob("*/structlog")]
        read = [file.read_bytes() for file in files if file.exists()]
        if "REDIS_PORT" in self.variables:
            read.append(subprocess.run(
                ["redis-cli", "-p", self.variables["REDIS_PORT"], "-n", "1", "lrange", "celery",
                 "0", "-1"], capture_output=True, check=True).stdout)
        return b"\n".join([*self.sink.told, *read])

    def _spawn(self, *command: str | Path, out: int | None = None, **more: Any,
               ) -> subprocess.Popen[bytes]:
        with open(self.place / Path(command[0]).name, "wb") as log:
            process = subprocess.Popen(command, stdout=out or log, stderr=log, **more)
        self._processes.append(process)
        return process

    def _start_redis(self) -> None:
        port = free_port()
        self._spawn("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                    "--dir", self.place)
        wait_listening(port)
        self.variables["REDIS_PORT"] = str(port)

    def _start_postgres(self) -> None:
        programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
        if programs is None:
            raise CannotRun("it is not installed")
        port, data = free_port(), self.place / "postgres-data"
        data.mkdir()
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(data, "postgres")
            who["user"] = "postgres"
        subprocess.run([programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"],
                       check=True, stdout=subprocess.DEVNULL, cwd="/", **who)
        self._spawn(programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k",
                    "", "-F", cwd="/", **who)
        wait_listening(port)
        self.variables |= {
            "POSTGRES": f"postgresql://postgres@127.0.0.1:{port}/postgres",
            "POSTGRES_PORT": str(port)}

    def _start_grpc(self) -> None:
        with open(self.place / "grpc", "wb") as out:
            self._spawn(VENV / "bin" / "python", APPS / "grpc_server.py", out=out.fileno())
        self.variables["GRPC"] = "127.0.0.1:" + self._first_line("grpc")

    def _start_kafka(self) -> None:
        with open(self.place / "kafka", "wb") as out:
            self._spawn(VENV / "bin" / "python", APPS / "kafka_server.py", out=out.fileno())
        self.variables["KAFKA"] = self._first_line("kafka")

    def _first_line(self, name: str) -> str:
        deadline = time.monotonic() + 30
        while b"\n" not in (said := (self.place / name).read_bytes()):
            if time.monotonic() > deadline:
                raise CannotRun((self.place / "python").read_text()[-500:])
            time.sleep(0.05)
        return said.splitlines()[0].decode()


def wait_listening(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@dataclass
class Outcome:
    """`findings`: as the master tells them. `works`: what the workers' answers came to."""

    findings: list[dict[str, Any]]
    works: str


def run(case: Case, services: Services, advised: bool) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="case", dir=services.place) as name:
        os.chmod(name, 0o755)
        place, module, port = Path(name), case.module, free_port()
        environment = {
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}", "HOME": name, "XDG_RUNTIME_DIR": name,
            "CASE": module, "PLACE": name, "PORT": str(free_port()), "PYTHONUNBUFFERED": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": services.sink.url,
            "DD_TRACE_AGENT_URL": services.sink.url, "PYTHONDONTWRITEBYTECODE": "1",
            **services.variables, **case.variables, **({"ADVISED": "1"} if advised else {})}
        with open(place / "log", "wb") as log:
            master = subprocess.Popen(
                [BIN / "einhornpy", "-n", str(WORKERS), "-b", f"127.0.0.1:{port}", "-c", "case",
                 "--log-format", "json", "--preload", "--", *case.wrapper, "gunicorn",
                 "serving:wsgi"], cwd=APPS, env=environment, stdout=log, stderr=log)
        try:
            ready = subprocess.run([BIN / "einhornpy", "status", "--wait", "--timeout", "60", "-c",
                                    "case"], env=environment, check=False, capture_output=True)
            said = (place / "log").read_text()
            if ready.returncode != 0:
                return Outcome([], "no worker: " + said[-1500:])
            if case.orphaned:
                status = json.loads(subprocess.run(
                    [BIN / "einhornpy", "status", "--json", "-c", "case"], env=environment,
                    check=True, capture_output=True).stdout)
                os.kill(status["templates"][0]["pid"], signal.SIGKILL)
            if case.later:
                time.sleep(3)
                for index in range(WORKERS):
                    subprocess.run([BIN / "einhornpy", "recycle", "--wait", "-c", "case",
                                    str(index)], env=environment, check=True, capture_output=True)
            findings = [json.loads(line) for line in said.splitlines()
                        if '"not-safe-to-fork"' in line]
            works = judge(case, services, ask(port, case.requests))
            findings += [{"kind": "connection made later", "what": line.split("connection ")[1]}
                         for line in (place / "log").read_text().splitlines()
                         if "Not safe to fork: " in line]
            return Outcome(findings, works)
        finally:
            stop(master)
            if os.environ.get("SHOW_LOGS"):
                print((place / "log").read_text(), file=sys.stderr)


def ask(port: int, requests: int) -> list[tuple[str, int, str]]:
    """Of each request: its token, the worker that answered (0: none did), and what it said. Once
    a few of them have got none, or late, no more are made."""
    late = 0

    def one(_: int) -> tuple[str, int, str] | None:
        nonlocal late
        if late >= AT_ONCE:
            return None
        begun = time.monotonic()
        token = uuid.uuid4().hex
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", "/?" + token)
            answer = json.loads(connection.getresponse().read())
            return token, answer["pid"], answer["said"]
        except (OSError, http.client.HTTPException, ValueError) as error:
            return token, 0, "no answer" if isinstance(error, TimeoutError) else repr(error)
        finally:
            connection.close()
            late += time.monotonic() - begun > LATE

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return [answer for answer in pool.map(one, range(requests)) if answer is not None]


def judge(case: Case, services: Services, answers: Sequence[tuple[str, int, str]]) -> str:
    workers = {pid for _, pid, _ in answers if pid}
    tokens = {token for token, _, _ in answers}
    wrong = [said if said not in tokens else "another request's answer"
             for token, _, said in answers if said != token]
    if wrong:
        words = Counter(each.splitlines()[0][:90] if each else "nothing" for each in wrong)
        told = "; ".join(f"{count}x {said}" for said, count in words.most_common(3))
        return f"NO: {len(wrong)} of {len(answers)} wrong ({told})"
    few = "" if len(workers) == WORKERS else f", by {len(workers)} workers only"
    if case.arrives:
        deadline = time.monotonic() + ARRIVAL
        while missing := [each for each in tokens if each.encode() not in services.told()]:
            if time.monotonic() > deadline:
                return f"NO: {len(missing)} of {len(tokens)} never arrived{few}"
            time.sleep(0.1)
        return f"yes: {len(tokens)} arrived{few}"
    return f"yes: {len(tokens)} right{few}"


def install(distributions: Sequence[str]) -> dict[str, str]:
    """Install what is missing; return the versions of what is there."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    program = ("import sys, importlib.metadata as m\nfor name in sys.argv[1:]:\n"
               "    try: print(name, m.version(name))\n    except m.PackageNotFoundError: pass")

    def there() -> dict[str, str]:
        said = subprocess.run([python, "-c", program, *distributions], check=True, text=True,
                              capture_output=True).stdout
        return dict(line.split() for line in said.splitlines() if " " in line)

    already = there()
    for missing in [each for each in distributions if each not in already]:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        missing], check=False, capture_output=True)
    return there()


def told(findings: Sequence[Mapping[str, Any]]) -> str:
    kinds: dict[tuple[str, str], list[str]] = {}
    for each in findings:
        kinds.setdefault((each["kind"], str(each.get("module"))), []).append(each["what"])
    return "; ".join(f"{len(what)} {kind} in {module}: {what[0]}"
                     for (kind, module), what in kinds.items()) or "nothing"


OVERHEAD = """
import json, os, sys, time
sys.path.insert(0, %r)
from einhornpy.worker import fork_safety
watch = fork_safety.Watch()
if sys.argv[1] == "watched":
    watch.begin()
began = time.perf_counter()
import %s
watch.end()
print(time.perf_counter() - began, len(sys.modules))
"""


def overhead(place: Path) -> str:
    """How much longer a big stack takes to import under the watch; the pair alternates."""
    package = place / "package" / "einhornpy"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copytree(ROOT / "worker", package / "worker")
    seconds: dict[str, list[float]] = {"plain": [], "watched": []}
    modules = "0"
    for number in range(11):
        for name, taken in seconds.items():
            said = subprocess.run(
                [VENV / "bin" / "python", "-c", OVERHEAD % (str(package.parent), IMPORTS), name],
                check=True, capture_output=True, text=True).stdout
            time_taken, modules = said.split()
            if number:  # the first one of each fills caches
                taken.append(float(time_taken))
    plain, watched = (statistics.median(seconds[name]) for name in ("plain", "watched"))
    return (f"importing {IMPORTS} ({modules} modules): {plain:.2f} s, watched {watched:.2f} s, "
            f"{watched / plain:.2f} times as long")


@contextlib.contextmanager
def services_in(place: Path) -> Iterator[Services]:
    services = Services(place)
    try:
        yield services
    finally:
        services.close()


def main() -> None:
    wanted = sys.argv[1:]
    versions = install(["gunicorn", "psycopg-binary",
                        *dict.fromkeys(name for case in CASES for name in case.of)])
    with tempfile.TemporaryDirectory(prefix="bench", dir="/tmp") as name:
        os.chmod(name, 0o755)
        with services_in(Path(name)) as services:
            for case in CASES:
                if wanted and case.module not in wanted:
                    continue
                of = ", ".join(f"{each} {versions.get(each)}" for each in case.of)
                print(f"{case.name}{f' ({of})' if of else ''}", flush=True)
                try:
                    for each in case.of:
                        if each not in versions:
                            raise CannotRun(f"{each} can't be installed")
                    for each in case.needs:
                        services.need(each)
                except CannotRun as why:
                    print(f"    skipped: {why}", flush=True)
                    continue
                outcome = run(case, services, advised=False)
                print(f"    found: {told(outcome.findings)}\n    works: {outcome.works}",
                      flush=True)
                if case.advice:
                    outcome = run(case, services, advised=True)
                    print(f"    advised, found: {told(outcome.findings)}\n"
                          f"    advised, works: {outcome.works}", flush=True)
        if not wanted or "overhead" in wanted:
            print(overhead(Path(name)))


if __name__ == "__main__":
    main()
