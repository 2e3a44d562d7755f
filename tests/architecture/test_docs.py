"""The documentation is built as it is published: strictly, with every link and without a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_FETCHED = re.compile(
    r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=[\"']?(https?:)?//[^>]*>", re.I
)


def test_links_of_readme_and_contributing_lead_somewhere_in_the_repository() -> None:
    """As GitHub shows them; the site is checked by mkdocs itself."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        targets = [link for link in _LINK.findall(text) if "://" not in link]
        assert [link for link in targets if not (page.parent / link).exists()] == [], page


@pytest.mark.slow
def test_the_pages_are_built_strictly_and_fetch_nothing(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="make docs installs mkdocs-material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    # a proxy that is not there: nothing is reached while the pages are built
    away = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=away)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    for page in pages:
        assert _FETCHED.findall(page.read_text()) == [], page
    front = (tmp_path / "index.html").read_text()
    assert 'href="data.html"' in front
    assert 'src="demo.png"' in front
    assert (tmp_path / "demo.png").is_file()
    python = (tmp_path / "python.html").read_text()
    assert "hard negatives: the most similar wrong categories" in python
    assert "slate" in front, "there is a dark page too"
