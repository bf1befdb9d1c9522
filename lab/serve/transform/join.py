"""Filters and joins (EP-65): part of a record to the model, its answer back beside the record.

CSV rows are arrays of columns: a join appends the answer's columns. JSON objects get the answer as `SageMakerOutput`;
anything else is wrapped with `SageMakerInput`. Numbers of CSV stay the text they were.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from lab.core.errors import DataError
from lab.serve.transform.config import CSV, JSON, LINES_TYPES, TransformConfig, media_type
from lab.serve.transform.jsonpath import parse, select

INPUT_KEY, OUTPUT_KEY = "SageMakerInput", "SageMakerOutput"


def _read(record: bytes, *, is_csv: bool) -> Any:
    try:
        text = record.decode("utf-8")
        return next(csv.reader([text]), []) if is_csv else json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError, csv.Error) as error:
        kind = "CSV" if is_csv else "JSON"
        raise DataError(f"a record is no {kind}", got=f"{record[:60]!r} ({error})") from error


def _write(value: Any, *, is_csv: bool) -> bytes:
    if not is_csv:
        try:
            return json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half of a surrogate pair stays the escape that it was
            return json.dumps(value).encode()
    columns = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else [value]
    cells = [cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False) for cell in columns]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue().encode(errors="replace")


class Joiner:
    """Filters and joins of one job."""

    def __init__(self, config: TransformConfig) -> None:
        self._config = config
        self._input_steps, self._output_steps = parse(config.input_filter), parse(config.output_filter)
        self._is_csv = media_type(config.content_type) == CSV

    def filtered(self, record: bytes) -> bytes:
        """What of a record the model gets. Raises DataError when the filter finds nothing in it."""
        if not self._input_steps:
            return record
        return _write(select(self._input_steps, _read(record, is_csv=self._is_csv)), is_csv=self._is_csv)

    def joined(self, records: Sequence[bytes], answer: bytes, content_type: str) -> bytes:
        """The answer to `records`, joined to them and filtered.

        Raises:
            DataError: the answer is neither CSV nor JSON, or does not have one record for each.
        """
        answers_csv = media_type(content_type) == CSV
        outputs = [_read(part, is_csv=answers_csv) for part in self._parts(answer, content_type)]
        if self._config.join_source == "None":
            return _lines([_write(select(self._output_steps, output), is_csv=answers_csv) for output in outputs])
        if len(outputs) != len(records):
            raise DataError(
                "the answer cannot be joined", got=f"{len(outputs)} records", expected=f"{len(records)} records",
                hint="--strategy SingleRecord asks for one answer at a time",
            )  # fmt: skip
        rows = [self._join(record, output) for record, output in zip(records, outputs, strict=True)]
        return _lines([_write(select(self._output_steps, row), is_csv=self._is_csv) for row in rows])

    def _parts(self, answer: bytes, content_type: str) -> list[bytes]:
        """The records of an answer: lines, or the whole."""
        kind = media_type(content_type)
        if kind in (CSV, *LINES_TYPES):
            return [line for raw in answer.split(b"\n") if (line := raw.rstrip(b"\r"))]
        if kind != JSON:
            raise DataError("filters and joins need an answer in CSV or JSON", got=content_type)
        return [answer]

    def _join(self, record: bytes, output: Any) -> Any:
        given = _read(record, is_csv=self._is_csv)
        if self._is_csv:
            return [*given, *(output if isinstance(output, list) else [output])]
        if isinstance(given, dict):
            return {**given, OUTPUT_KEY: output}
        return {INPUT_KEY: given, OUTPUT_KEY: output}


def _lines(parts: Sequence[bytes]) -> bytes:
    return b"\n".join(parts)
