"""What `make docs` adds to mkdocs: the README as the front page, docs/README.md as navigation, and files beside docs/.

A page links to files of the repository (`../examples/trip.py`), so that the links work there. On the site such a file is a
page of its own, under `repository/`.
"""

from __future__ import annotations

import base64
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from sagalog.cli.targets import load_saga
from sagalog.diagram import outline, svg

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from flowchart import Flowchart  # noqa: E402  (beside this file, which mkdocs loads by its path)

ROOT = Path(__file__).parents[1]
FRONT, CONTENTS = "index.md", "README.md"
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)((?:#[^)\s]*)?\))")
CODE = re.compile(r"```.*?^```", re.M | re.S)
LANGUAGES = {".py": "python", ".yml": "yaml", ".json": "json", ".sh": "sh", ".toml": "toml"}
NOT_PAGES = {".png", ".svg", ".gz", ".css"}

NAMES = re.compile(r"<!-- names: ([^\n]+) -->\n(.*?)<!-- end of names -->", re.S)

WHOLE = re.compile(r"(`sagalog diagram (\S+)`\s+draws:\n\n)```mermaid\n.*?```", re.S)

Navigation = list[dict[str, Any]]


def navigation(contents: str) -> Navigation:
    """Return the navigation that docs/README.md lists: a tab for each heading, a page for each item or file."""
    tabs: Navigation = [{"Sagalog": [FRONT, "contents.md"]}]
    for title, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", contents, re.M | re.S):
        pages = re.findall(r"^- \[(.+?)\]\(([^)]+)\)", section, re.M)
        if not pages:
            folder = ROOT / "docs" / section.partition("](")[2].partition(")")[0]
            pages = [(_title(page), f"{folder.name}/{page.name}") for page in sorted(folder.glob("*.md"))]
        tabs.append({title: [{name: target} for name, target in pages]})
    return tabs


def _title(page: Path) -> str:
    return page.read_text().partition("\n")[0].removeprefix("# ")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the navigation from docs/README.md."""
    config.nav = navigation((ROOT / "docs" / CONTENTS).read_text())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put in the front page, the contents, and each file of the repository that a page links to."""
    contents = files.get_file_from_path(CONTENTS)
    assert contents is not None
    files.remove(contents)
    _add(files, config, FRONT, (ROOT / "README.md").read_text(), "README.md")
    _add(files, config, "contents.md", contents.content_string, "docs/README.md")
    waiting = [*files.documentation_pages()]
    while waiting:
        file = waiting.pop()
        origin = _origin(file)
        for target in _targets(file.content_string):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
            source = _on_site(path)
            if source is None or files.get_file_from_path(source) is not None or not (ROOT / path).is_file():
                continue
            text = (ROOT / path).read_text()
            if not path.endswith(".md"):
                text = f"# {path}\n\n````{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n````\n"
            elif not text.startswith("# "):
                text = f"# {path}\n\n{text}"
            waiting.append(_add(files, config, source, text, path, hidden=True))
    return files


def _add(files: Files, config: MkDocsConfig, source: str, text: str, origin: str, *, hidden: bool = False) -> File:
    inclusion = InclusionLevel.NOT_IN_NAV if hidden else InclusionLevel.UNDEFINED
    file = File.generated(config, source, content=text, inclusion=inclusion)
    _ORIGINS[source] = origin
    files.append(file)
    return file


_ORIGINS: dict[str, str] = {}


def _origin(file: File) -> str:
    """Return where the text of a page stands in the repository."""
    return _ORIGINS.get(file.src_uri, f"docs/{file.src_uri}")


def _targets(text: str) -> list[str]:
    return [target for _, target, _ in LINK.findall(CODE.sub("", text))]


def _on_site(path: str) -> str | None:
    """Return the page for a path in the repository, or None if it is no page: a picture, or a folder."""
    if path == "README.md":
        return FRONT
    if path == "docs/README.md":
        return "contents.md"
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        return inside if path.endswith(".md") or Path(path).suffix in NOT_PAGES else f"repository/{path}.md"
    if not (ROOT / path).is_file():
        return None
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their targets are on the site, and draw the small flowcharts."""
    origin = posixpath.dirname(_origin(page.file))
    here = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(origin, match[2]))
        if (ROOT / path).is_dir():  # design/, tests/
            if (ROOT / path / "README.md").is_file():
                path = f"{path}/README.md"
            elif path == "docs/design":
                path = "docs/README.md"
            else:
                raise PluginError(f"{_origin(page.file)} links to the folder {path}: link to a file")
        source = _on_site(path)
        return match[0] if source is None else f"{match[1]}{posixpath.relpath(source, here or '.')}{match[3]}"

    markdown = NAMES.sub(_in_full, markdown)
    parts = re.split(r"(```.*?^```|````.*?^````)", markdown, flags=re.M | re.S)
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return re.sub(
        r"```mermaid\n(.*?)```",
        lambda found: Flowchart(found[1]).svg(),
        WHOLE.sub(_picture, "".join(parts)),
        flags=re.S,
    )


def _picture(match: re.Match[str]) -> str:
    """Return the picture that `sagalog diagram --svg` writes, where the repository shows Mermaid for a whole saga."""
    found = base64.b64encode(svg(outline(load_saga(match[2]))).encode()).decode()
    return f'{match[1]}<img alt="{match[2]}" src="data:image/svg+xml;base64,{found}">'


def _in_full(match: re.Match[str]) -> str:
    """Return a table of names with links, and below it each of them with its signature and whole docstring."""
    table = re.sub(r"^\| `([\w.]+)`", r"| [`\1`][\1]", match[2], flags=re.M)
    return "\n".join([table, *(f"::: {name}\n" for name in match[1].split())])


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let the search on files from a disk use our copy of its shim, and refuse what another host would have to give."""
    up = posixpath.relpath("iframe-worker.js", posixpath.dirname(page.url) or ".")
    output = output.replace("https://unpkg.com/iframe-worker/shim", up)
    fetched = re.findall(r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="(https?:[^"]+)"', output)
    if fetched:
        raise PluginError(f"{page.file.src_uri} fetches from another host: {fetched[0]}")
    return output
