"""Every text format: what is read, what is written is read again, and what is wrong is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from lab.core.errors import DataError
from lab.data.text import cmudict, help_pages, parallel, recordio, tsv
from lab.data.text.pairs import PairDataset, TextPair, read_lines
from lab.data.text.vocabulary import Vocabulary


def texts(dataset: PairDataset) -> list[tuple[str, tuple[str, ...]]]:
    return [(dataset[index].input, dataset[index].label) for index in range(len(dataset))]


def dataset_of(*rows: tuple[str, tuple[str, ...]]) -> PairDataset:
    return PairDataset([TextPair(source, labels, "x") for source, labels in rows], "made here")


def test_parallel_leaves_out_blank_sides_and_counts_them(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("one two\n\n three \nfour\n")
    with gzip.open(tmp_path / "a.de.gz", "wt") as file:
        file.write("eins zwei\nnichts\ndrei\n   \n")
    found = parallel.read(tmp_path / "a.en", tmp_path / "a.de.gz")
    assert texts(found) == [("one two", ("eins zwei",)), ("three", ("drei",))]
    assert (found.num_skipped, found[1].name) == (2, f"{tmp_path / 'a.en'}:3")


def test_parallel_files_of_different_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("eins\n")
    with pytest.raises(DataError, match=r"2 lines.*1 lines"):
        parallel.read(tmp_path / "a", tmp_path / "b")


def test_parallel_round_trip_writes_a_line_per_target(tmp_path: Path) -> None:
    parallel.write(tmp_path / "s", tmp_path / "t", dataset_of(("a b", ("A", "B C")), ("c\u2028d", ("D",))))
    assert texts(parallel.read(tmp_path / "s", tmp_path / "t")) == [("a b", ("A",)), ("a b", ("B C",)), ("c d", ("D",))]


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes("a\u2028b\x0cc\r\nd".encode())
    assert read_lines(tmp_path / "x") == ["a\u2028b\x0cc", "d"]


@pytest.mark.parametrize("content", [b"\xff\xfe\xfa", b"\x1f\x8b broken"])
def test_files_that_are_no_text_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("x.gz" if content[0] == 0x1F else "x.txt")
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_lines(path)
    with pytest.raises(DataError, match="no text file"):
        read_lines(tmp_path / "missing.txt")


def test_tsv_keeps_every_reference(tmp_path: Path) -> None:
    rows = dataset_of(("tomato", ("T AH M EY", "T AH M AA")), ("a", ("AH",)))
    tsv.write(tmp_path / "x.tsv", rows)
    assert texts(tsv.read(tmp_path / "x.tsv")) == texts(rows)


def test_tsv_names_a_line_without_a_target(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tb\n\nc\n")
    with pytest.raises(DataError, match=r"x\.tsv:3 has one column"):
        tsv.read(tmp_path / "x.tsv")


def test_cmudict_groups_pronunciations_and_drops_stress(tmp_path: Path) -> None:
    path = tmp_path / "cmudict.dict"
    path.write_text(
        ";;; a comment\naalborg AO1 L B AO0 R G # place, danish\naalborg(2) AA1 L B AA0 R G\n"
        "READ R EH1 D\nread(2) R IY1 D\nrecord R IH0 K AO1 R D\nrecord(2) R IH1 K AO0 R D\n"
    )
    plain, stressed = cmudict.read(path), cmudict.read(path, stress=True)
    assert texts(plain) == [
        ("aalborg", ("AO L B AO R G", "AA L B AA R G")),
        ("read", ("R EH D", "R IY D")),
        ("record", ("R IH K AO R D",)),
    ]
    assert stressed[2].label == ("R IH0 K AO1 R D", "R IH1 K AO0 R D")
    cmudict.write(tmp_path / "again", stressed)
    assert texts(cmudict.read(tmp_path / "again", stress=True)) == texts(stressed)


def test_cmudict_names_a_line_that_is_no_entry(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("abc AH0 B\nabc\n")
    with pytest.raises(DataError, match="d:2 is no entry"):
        cmudict.read(tmp_path / "d")
    with pytest.raises(DataError, match="one word per entry"):
        cmudict.write(tmp_path / "e", dataset_of(("two words", ("AH",))))


PAGE = """<html><head><title>no id</title></head><body><p>none</p><h1 id="hd_1">{title}</h1>
<p id="par_1" class="x"><a name="y"></a>{first} <span>&amp; {second}</span>
more.</p><p id="par_{extra}">only here</p><p id="par_2">Same</p></body></html>"""


def test_help_pages_align_by_page_and_id(tmp_path: Path) -> None:
    for language, words in (("en-US", ("Title", "one", "two", 8)), ("de", ("Titel", "eins", "zwei", 9))):
        page = tmp_path / language / "text" / "sub" / "a.html"
        page.parent.mkdir(parents=True)
        page.write_text(PAGE.format(title=words[0], first=words[1], second=words[2], extra=words[3]))
    (tmp_path / "en-US" / "text" / "alone.html").write_text(PAGE)
    help_pages.build(tmp_path, tmp_path)
    found = help_pages.read(tmp_path / help_pages.FILE)
    assert texts(found) == [("Title", ("Titel",)), ("one & two more.", ("eins & zwei more.",))]
    assert texts(help_pages.read(tmp_path / help_pages.FILE, min_words=2)) == texts(found)[1:]
    with pytest.raises(DataError, match="no help pages"):
        help_pages.align(tmp_path, "en-US", "fr")


def test_recordio_round_trip_is_byte_equal(tmp_path: Path) -> None:
    rows = dataset_of(("a b c", ("X Y", "Z")), ("c", ("Y",)))
    source = Vocabulary.build([["a", "b", "c", "c"]])
    target = Vocabulary.build([["X", "Y", "Y", "Z"]])
    recordio.write(tmp_path / "train.rec", rows, source, target)
    found = recordio.read(tmp_path / "train.rec")
    assert texts(found) == [("a b c", ("X Y",)), ("a b c", ("Z",)), ("c", ("Y",))]
    (tmp_path / "again").mkdir()
    recordio.write(tmp_path / "again" / "train.rec", found, *recordio.vocabularies(tmp_path / "train.rec"))
    for name in ("train.rec", recordio.SOURCE_VOCABULARY, recordio.TARGET_VOCABULARY):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_recordio_says_what_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no vocabulary at .*vocab\.src\.json"):
        recordio.read(tmp_path / "train.rec")
    words = Vocabulary.build([["a"]])
    recordio.write(tmp_path / "train.rec", dataset_of(("a", ("a",))), words, words)
    content = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(content[:-3])
    with pytest.raises(DataError, match="damaged or truncated"):
        recordio.read(tmp_path / "train.rec")
    (tmp_path / "train.rec").write_bytes(recordio.frame_numbers([4], [9]))
    with pytest.raises(DataError, match=r"train\.rec\[0\] has a token that is not in the vocabulary"):
        recordio.read(tmp_path / "train.rec")


def test_records_without_a_target_are_requests(tmp_path: Path) -> None:
    (tmp_path / "r.rec").write_bytes(recordio.frame_numbers([4, 5], []) + recordio.frame_numbers([6], []))
    with (tmp_path / "r.rec").open("rb") as file:
        found = list(recordio.read_numbers(file, "r"))
    assert [(source.tolist(), target.tolist()) for source, target in found] == [([4, 5], []), ([6], [])]


def test_splits_hold_out_whole_groups_whatever_the_order() -> None:
    pairs = [TextPair(f"s{number}", (f"t{number}",), str(number)) for number in range(40)]
    pages = [str(number // 4) for number in range(40)]
    rest, test = PairDataset(pairs, "x", pages).held_out(3, 7, "test")
    assert (len(rest), len(test)) == (28, 12)
    groups = {int(test[index].name) // 4 for index in range(12)}
    assert not groups & {int(rest[index].name) // 4 for index in range(28)}
    order = np.random.default_rng(0).permutation(40)
    shuffled = PairDataset([pairs[i] for i in order], "x", [pages[i] for i in order])
    assert {pair[0] for pair in texts(shuffled.held_out(3, 7, "test")[1])} == {pair[0] for pair in texts(test)}
    assert {pair[0] for pair in texts(shuffled.held_out(3, 8, "test")[1])} != {pair[0] for pair in texts(test)}
    with pytest.raises(DataError, match="cannot be divided"):
        rest.held_out(7, 0, "validation")
