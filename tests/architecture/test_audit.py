"""The audit tells a finding from silence: the real pip-audit, a database of advisories on loopback."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tools.audit import main

ADVISORY = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "aliases": ["CVE-2026-0001"],
    "summary": "anybody may do anything",
    "affected": [
        {
            "package": {"name": "leaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.3"}]}],
        }
    ],
}


class _Advisories(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(405)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"vulns": [ADVISORY]} if asked["package"]["name"] == "leaky" else {}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Advisories)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def audit(folder: Path, database: str, pins: str, accepted: str = "") -> int:
    (folder / "pins.txt").write_text(pins)
    (folder / "accepted.toml").write_text(f"[accepted]\n{accepted}")
    files = ["--constraints", str(folder / "pins.txt"), "--exceptions", str(folder / "accepted.toml")]
    return main([*files, "--database", database])


def test_a_finding_fails_with_what_mends_it(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(tmp_path, database, "leaky==1.2\nsound==3\n") == 1
    told = capsys.readouterr()
    assert told.err == "error: audit: leaky 1.2: CVE-2026-0001, fixed in 1.3\n"
    assert told.out == ""


def test_an_accepted_finding_passes_and_a_needless_exception_is_named(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted = '"CVE-2026-0001" = "the leaking part is not used"\n"GHSA-gone" = "long ago"\n'
    assert audit(tmp_path, database, "leaky==1.2\n", accepted) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "audit: GHSA-gone is no finding any more; take it out of accepted.toml"
    assert last == "audit: nothing known about 1 packages that is not accepted"


def test_an_exception_needs_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, "http://127.0.0.1:9", "leaky==1.2\n", '"GHSA-x" = " "\n') == 1
    assert "GHSA-x is accepted without a reason" in capsys.readouterr().err


def test_without_a_network_it_says_so_and_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as reserved:  # bound and not listening: a connection is refused
        reserved.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        assert audit(tmp_path, nobody, "leaky==1.2\n") == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.count("\n") == 1
    assert told.out.startswith("audit: skipped, the database of advisories cannot be reached (")


def test_a_report_that_does_not_come_is_no_pass(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(tmp_path, database, "leaky>=1.2\n") == 1  # not pinned: pip-audit refuses the file
    assert "error: audit: pip-audit gave no report" in capsys.readouterr().err
