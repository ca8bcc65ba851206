"""A minimal deploy tool: upgrades one host after the other, and goes on only when a host says that it is done.

    python deploy.py [--timeout SECONDS] RELEASE HOST [HOST ...] [-- OPTION ...]

Each HOST is the control socket of a master on this machine (/run/einhornpy/shop.sock), or words to put before `einhornpy`
("ssh web1"), or both ("ssh web1 /run/einhornpy/shop.sock"). The options behind `--` are those of `einhornpy upgrade`
(-- --canary 1 --hold 5min --judge), for every host. Exit code: 0, or that of the first host that isn't done.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys

REASONS = {
    3: "it is not done", 4: "it is degraded", 5: "it refused the release", 6: "its master stops",
    69: "no master is there", 124: "it was not done in time",
}


def einhornpy(host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one einhornpy command for a host."""
    words = shlex.split(host)
    place = ["-d", words.pop()] if words[-1].startswith("/") else []
    try:
        return subprocess.run([*words, "einhornpy", *arguments, *place], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess([], 127, "", str(error))


def upgrade(host: str, release: str, timeout: float, options: list[str]) -> tuple[int, str]:
    """Upgrade one host; return the exit code of its last answer, and why it isn't done."""
    asked = einhornpy(host, "upgrade", *options, "--no-wait", "--release", release)
    if asked.returncode != 0:
        return asked.returncode, asked.stderr.strip()
    ended = einhornpy(host, "status", "--wait", "--timeout", f"{timeout:g}", "--release", release, "--json")
    try:
        return ended.returncode, json.loads(ended.stdout)["reason"]
    except ValueError:
        return ended.returncode, ended.stderr.strip()


def deploy(release: str, hosts: list[str], timeout: float, options: list[str]) -> int:
    """Upgrade the hosts in order, up to the first that isn't done; later ones stay untouched."""
    for number, host in enumerate(hosts, 1):
        print(f"{host}: upgrading to {release}", flush=True)
        code, why = upgrade(host, release, timeout, options)
        if code != 0:
            untouched = ", ".join(hosts[number:]) or "no host"
            print(f"{host}: {REASONS.get(code, f'exit code {code}')}: {why}; left untouched: {untouched}", file=sys.stderr)
            return code
        print(f"{host}: done", flush=True)
    return 0


if __name__ == "__main__":
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = words[end + 1:]
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--timeout", type=float, default=600.0)
    parser.add_argument("release")
    parser.add_argument("hosts", nargs="+")
    given = parser.parse_args(words[:end])
    # A shell on the other side reads them too.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*", given.release) or not all(shlex.split(host) for host in given.hosts):
        parser.error("a release is letters, digits and _.+@-, and a host isn't empty")
    if not all(re.fullmatch(r"[A-Za-z0-9_.,:=+%@/-]+", option) for option in options):
        parser.error("an option of the upgrade is letters, digits and _.,:=+%@/-")
    sys.exit(deploy(given.release, given.hosts, given.timeout, options))
