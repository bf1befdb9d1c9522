"""LibreOffice's help in two languages: paragraphs aligned by the page they stand on and their id.

    <p id="par_id3149052" class="paragraph" dir="auto">Legen Sie die Spaltenbreiten fest ...</p>

Ids are kept by translators, so that the pairs are exact. Pages: /usr/share/libreoffice/help/<language>/text/**/*.html.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from lab.artifacts.files import write_text
from lab.core.errors import DataError
from lab.data.text.pairs import PairDataset, TextPair, one_line, read_lines

FILE = "en-de.tsv"
_BLOCKS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")


class _Paragraphs(HTMLParser):
    """Collects the text of every block that has an id."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: dict[str, str] = {}
        self._block, self._id, self._text = "", "", [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        identifier = dict(attrs).get("id") or ""
        if tag in _BLOCKS and identifier and not self._block:
            self._block, self._id, self._text = tag, identifier, []

    def handle_endtag(self, tag: str) -> None:
        if tag == self._block:
            self.found.setdefault(self._id, one_line("".join(self._text)))
            self._block = ""

    def handle_data(self, data: str) -> None:
        if self._block:
            self._text.append(data)


def paragraphs(html: str) -> dict[str, str]:
    """The text of every paragraph and heading that has an id, white space collapsed."""
    parser = _Paragraphs()
    parser.feed(html)
    parser.close()
    return parser.found


def align(help_folder: Path, source: str, target: str) -> list[tuple[str, str, str]]:
    """(page, source text, target text) of paragraphs both languages have; each pair once, equal texts left out.

    Raises:
        DataError: a language's folder is missing.
    """
    folders = [help_folder / language / "text" for language in (source, target)]
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"there are no help pages at {folder}")
    rows: dict[tuple[str, str], str] = {}
    for page in sorted(folders[0].rglob("*.html")):
        other = folders[1] / page.relative_to(folders[0])
        if not other.is_file():
            continue
        ours, theirs = (paragraphs(path.read_text(encoding="utf-8")) for path in (page, other))
        for identifier, text in ours.items():
            label = theirs.get(identifier, "")
            if text and label and text != label:
                rows.setdefault((text, label), page.relative_to(folders[0]).as_posix())
    return [(page, text, label) for (text, label), page in rows.items()]


def build(help_folder: Path, folder: Path) -> None:
    """Write `FILE` from unpacked packages: page TAB English TAB German. Raises DataError, StorageError."""
    rows = align(help_folder, "en-US", "de")
    write_text(folder / FILE, "".join("\t".join(row) + "\n" for row in rows))


def read(path: Path, *, min_words: int = 1, max_words: int = 1000) -> PairDataset:
    """The pairs that `build` wrote, both sides of `min_words` .. `max_words` words; their group is the page.

    Raises:
        DataError: missing, or a line without three columns.
    """
    pairs, pages = [], []
    for number, line in enumerate(read_lines(path), 1):
        cells = line.split("\t")
        if len(cells) != 3:
            raise DataError(f"{path}:{number} is not understood", got=repr(line[:80]), expected="page TAB en TAB de")
        page, source, target = cells
        if all(min_words <= len(text.split()) <= max_words for text in (source, target)):
            pairs.append(TextPair(source, (target,), f"{page} (line {number})"))
            pages.append(page)
    return PairDataset(pairs, str(path), pages)
