"""What mkdocs calls: README is the front page of the documentation, CONTRIBUTING its last.

Both stand at the root of the repository, where their links begin with ``docs/``; links of pages to them begin
with ``../``. Here each is what it is called among the pages.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OF_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"(\]\(|(?:src|href|srcset)=\")([^)\"#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the repository's root."""
    from mkdocs.structure.files import File

    for name, page in OF_ROOT.items():
        text = (ROOT / name).read_text()
        files.append(File.generated(config, page, content=_LINK.sub(_among_pages, text)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page to the repository's root."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    to_top = "../" * page.file.src_uri.count("/")
    for name, other in OF_ROOT.items():
        markdown = markdown.replace(f"]({up}{name}", f"]({to_top}{other}")
    return markdown


def _among_pages(link: re.Match[str]) -> str:
    target = OF_ROOT.get(link[2], link[2].removeprefix("docs/"))
    return link[1] + target
