"""Text data sets of the catalog: files that a package ships, and files made of what it ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.core.errors import DataError
from lab.data.catalog import CATALOG
from lab.data.entry import DebianPackage
from lab.data.resolve import open_dataset
from lab.data.sources import from_folder
from lab.data.text import help_pages
from lab.data.text.catalog import TEXT_ENTRIES


def test_the_catalog_lists_them() -> None:
    assert [CATALOG[entry.name] for entry in TEXT_ENTRIES] == list(TEXT_ENTRIES)
    assert all(len(entry.files) == 1 and entry.files[0].name == entry.splits["train"][0] for entry in TEXT_ENTRIES)


def test_files_are_made_of_what_the_packages_ship(tmp_path: Path) -> None:
    entry = CATALOG["libreoffice-help"]
    assert isinstance(entry.debian, DebianPackage)
    for language, text in (("en-US", "one two"), ("de", "eins zwei")):
        page = tmp_path / "shipped" / language / "text" / "a.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<p id="par_1">{text}</p>')
    from_folder(entry, entry.debian, tmp_path / "shipped", tmp_path / "data")
    found = help_pages.read(tmp_path / "data" / entry.files[0].name)
    assert (found[0].input, found[0].label, len(found)) == ("one two", ("eins zwei",), 1)
    with pytest.raises(DataError, match="no help pages"):
        from_folder(entry, entry.debian, tmp_path / "elsewhere", tmp_path / "data")


def test_a_text_data_set_is_none_of_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotations of this kind"):
        open_dataset("cmudict", "train", tmp_path)
