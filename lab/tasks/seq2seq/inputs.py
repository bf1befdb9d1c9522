"""Files with sources to answer: text, TSV, JSON Lines, JSON and RecordIO, each with one source or many."""

from __future__ import annotations

from pathlib import Path

from lab.core.errors import DataError
from lab.data.text.pairs import read_lines
from lab.tasks.seq2seq.responses import JSON, PROTOBUF, Source, read_request, source_of_line

EXTENSIONS = (".txt", ".tsv", ".jsonl", ".json", ".rec")
_REQUESTS = {".json": JSON, ".rec": PROTOBUF}


def load_inputs(path: Path) -> list[Source | DataError]:
    """The sources of a file; a line that cannot be answered is a DataError in its place.

    .txt: a source per line; .tsv: the first column; .jsonl: {"source": text}; .json, .rec: as in a request.

    Raises:
        DataError: the whole file cannot be read, or there is no source in it.
    """
    suffix = path.suffix.lower()
    if suffix in _REQUESTS:
        try:
            return list(read_request(path.read_bytes(), _REQUESTS[suffix]).inputs)
        except OSError as error:
            raise DataError(f"{path} cannot be read", got=error.strerror) from error
    found = [_source(line, suffix, f"{path}:{number}") for number, line in enumerate(read_lines(path), 1)]
    if not found:
        raise DataError(f"{path} is empty", expected="at least one line")
    return found


def _source(line: str, suffix: str, name: str) -> Source | DataError:
    try:
        text = source_of_line(line, name) if suffix == ".jsonl" else line.split("\t")[0] if suffix == ".tsv" else line
    except DataError as error:
        return error
    return text if text.strip() else DataError(f"{name} is empty", got=repr(line[:80]), expected="a source text")
