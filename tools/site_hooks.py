"""Hooks of MkDocs: links from docs/ to other files of the repository.

On GitHub they are relative links. On the site they lead to the repository if `repo_url` is set in mkdocs.yml, otherwise
to copies under `repository/` in the site. A link to a missing file is a warning, which is an error for `make docs`.
Markdown within `<details>` is rendered, as on GitHub.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

BRANCH = "main"
COPIES = "repository"
"""The folder of copies in the site."""
LINK = re.compile(r"(?<=\]\()(?P<target>(?:\.\./)+[^)\s#]*)(?P<anchor>#[^)\s]*)?(?=\))")

log = logging.getLogger("mkdocs.hooks.site")


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text with its links out of docs/ and its details rewritten."""
    root = Path(config.docs_dir).parent
    folder = posixpath.join(Path(config.docs_dir).name, posixpath.dirname(page.file.src_uri))

    def rewrite(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, unquote(link["target"])))
        if (root / path).is_relative_to(config.docs_dir):
            return link[0]
        if path.startswith("..") or not (root / path).exists():
            log.warning("%s: the link %s leads to no file of the repository", page.file.src_uri, link["target"])
            return link[0]
        if config.repo_url:
            return f"{config.repo_url.rstrip('/')}/blob/{BRANCH}/{path}{link['anchor'] or ''}"
        return posixpath.relpath(copy_file(root, path, config, files), posixpath.dirname(page.file.dest_uri) or ".")

    return LINK.sub(rewrite, markdown).replace("<details>", '<details markdown="1">')


def copy_file(root: Path, path: str, config: MkDocsConfig, files: Files) -> str:
    """Add a file of the repository to the site; its address in the site."""
    from mkdocs.structure.files import File

    # A browser shows text files, and saves Markdown and scripts.
    address = f"{COPIES}/{path}" if path.endswith((".png", ".svg", ".txt")) else f"{COPIES}/{path}.txt"
    if files.get_file_from_path(address) is None:
        files.append(File.generated(config, address, abs_src_path=str(root / path)))
    return address
