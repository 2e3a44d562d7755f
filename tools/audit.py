"""Known vulnerabilities of the pinned packages: `make audit`, a part of `make lint`.

pip-audit asks the open database of advisories (OSV) about every line of constraints.txt. Where the database
cannot be reached that is said in one line and nothing fails: a check of style must work without a network.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATABASE = "https://api.osv.dev/v1/query"
KNOCK_SECONDS = 5.0
AUDIT_SECONDS = 600.0


@dataclass(frozen=True)
class Finding:
    """One advisory about one pinned package; it has several names (GHSA, CVE, PYSEC)."""

    package: str
    version: str
    names: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        cure = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no fixed version yet"
        return f"{self.package} {self.version}: {self.names[0]}, {cure}"


def reachable(database: str) -> str:
    """Why the database cannot be asked, "" where it can: any answer of HTTP is one."""
    try:
        with urllib.request.urlopen(database, timeout=KNOCK_SECONDS):
            return ""
    except urllib.error.HTTPError as error:  # it takes POST only
        return f"answers {error.code}" if error.code >= 500 else ""
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """The advisories in pip-audit's JSON report."""
    return [
        Finding(one["name"], one["version"], (found["id"], *found["aliases"]), tuple(found["fix_versions"]))
        for one in report["dependencies"]
        for found in one.get("vulns", ())
    ]


def read_exceptions(file: Path) -> dict[str, str]:
    """Accepted advisories with their reasons; ValueError for one without."""
    accepted = tomllib.loads(file.read_text()).get("accepted", {})
    for name, reason in accepted.items():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"{name} is accepted without a reason")
    return accepted


def judge(found: Sequence[Finding], accepted: Mapping[str, str]) -> tuple[list[Finding], list[str]]:
    """The findings that nobody accepted, and the exceptions that nothing needs any more."""
    known = {name for finding in found for name in finding.names}
    open_ones = [finding for finding in found if not accepted.keys() & set(finding.names)]
    return open_ones, sorted(accepted.keys() - known)


def ask(constraints: Path, database: str) -> Mapping[str, Any] | str:
    """pip-audit's report on the pinned packages, or why there is none."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(constraints), "--no-deps"]
    command += ["--disable-pip", "--vulnerability-service", "osv", "--osv-url", database]
    command += ["--format", "json", "--aliases", "on", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_SECONDS)
        report: Mapping[str, Any] = json.loads(done.stdout)
        return report
    except subprocess.TimeoutExpired:
        return f"no answer within {AUDIT_SECONDS:.0f} s"
    except ValueError:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit the pinned packages; 1 where a finding is neither mended nor accepted."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description=main.__doc__)
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--exceptions", type=Path, default=ROOT / "tools" / "audit-exceptions.toml")
    parser.add_argument("--database", default=DATABASE, help="address that answers OSV's queries")
    chosen = parser.parse_args(arguments)
    try:
        accepted = read_exceptions(chosen.exceptions)
    except (OSError, ValueError) as error:
        return _fail(f"{chosen.exceptions.name}: {error}")
    if reason := reachable(chosen.database):
        print(f"audit: skipped, the database of advisories cannot be reached ({reason})")
        return 0
    report = ask(chosen.constraints, chosen.database)
    if isinstance(report, str):
        return _fail(f"pip-audit gave no report ({report})")
    open_ones, stale = judge(findings(report), accepted)
    for name in stale:
        print(f"audit: {name} is no finding any more; take it out of {chosen.exceptions.name}")
    for finding in open_ones:
        _fail(str(finding))
    if not open_ones:
        print(f"audit: nothing known about {len(report['dependencies'])} packages that is not accepted")
    return 1 if open_ones else 0


def _fail(text: str) -> int:
    print(f"error: audit: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
