"""A minimal deploy tool: upgrades one host after the other, and goes on only when a host says that it is done.

    python deploy.py RELEASE HOST [HOST ...]

Each HOST is the control socket of a master. On real hosts each command would go through ssh; the exit codes stay the same.
"""

import subprocess
import sys

TIMEOUT = 600
REASONS = {
    3: "it is not done", 4: "it is degraded", 5: "it refused the release", 6: "its master stops",
    69: "no master is there", 124: f"it was not done within {TIMEOUT} s",
}


def einhornpy(host: str, *arguments: str) -> int:
    return subprocess.run(["einhornpy", *arguments, "-d", host], stdout=subprocess.DEVNULL, check=False).returncode


def deploy(release: str, hosts: list[str]) -> int:
    """Upgrade the hosts in order; return 0, or the exit code of the first that isn't done. Later ones stay untouched."""
    for number, host in enumerate(hosts, 1):
        print(f"{host}: upgrading to {release}", flush=True)
        code = einhornpy(host, "upgrade", "--no-wait", "--release", release)
        if code == 0:
            code = einhornpy(host, "status", "--wait", "--timeout", str(TIMEOUT), "--release", release)
        if code != 0:
            left = len(hosts) - number
            print(f"{host}: {REASONS.get(code, f'exit code {code}')}; {left} hosts left untouched", file=sys.stderr)
            return code
        print(f"{host}: done", flush=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: deploy.py RELEASE HOST [HOST ...]")
    sys.exit(deploy(sys.argv[1], sys.argv[2:]))
