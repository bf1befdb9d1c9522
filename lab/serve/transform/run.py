"""Run a batch transform over files: one output per input, each whole or not there at all (EP-64, EP-66)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lab.artifacts.files import atomic_path
from lab.core.errors import ConfigError, DataError, LabError
from lab.serve.transform.config import TransformConfig
from lab.serve.transform.join import Joiner
from lab.serve.transform.split import body_of, open_input, records_of, requests_of

OUT = ".out"
FIRST_PAUSE_S = 0.5


class ServeFailedError(LabError):
    """A request failed as often as it may."""


@dataclass(frozen=True)
class Reply:
    """A model's answer to one request."""

    body: bytes
    content_type: str


Call = Callable[[bytes], Reply]
"""Answers one request, from any of `max_concurrent_transforms` threads. Raises DataError for a request that is no good
(not tried again), any other LabError or OSError for a failure that may pass."""


@dataclass(frozen=True)
class FileResult:
    """What became of one input file; `error` is empty when `output` was written."""

    source: Path
    output: Path | None
    num_records: int = 0
    error: str = ""


@dataclass(frozen=True)
class Job:
    """Everything one file needs. `sleep` is for tests."""

    config: TransformConfig
    call: Call
    pool: ThreadPoolExecutor
    sleep: Callable[[float], None] = time.sleep

    def transform(self, source: Path, output: Path) -> FileResult:
        """One file; its failure is a result, and leaves no output."""
        num_records = 0
        try:
            with (
                open_input(source, self.config.compression) as file,
                atomic_path(output) as temporary,
                temporary.open("wb") as out,
            ):
                for records, answer in self._answers(file, source.name):
                    out.write(answer)
                    num_records += len(records)
        except (LabError, OSError) as error:
            what = error.message() if isinstance(error, LabError) else str(error)
            return FileResult(source, None, num_records, " ".join(line.strip() for line in what.splitlines()))
        return FileResult(source, output, num_records)

    def _answers(self, file: BinaryIO, name: str) -> Iterator[tuple[list[bytes], bytes]]:
        """(records, what to write) per request, in the file's order, so many at a time as the job allows."""
        joiner = Joiner(self.config)
        waiting: deque[tuple[list[bytes], Future[Reply]]] = deque()
        try:
            config = self.config
            found = records_of(file, name, config.split_type, config.max_payload_bytes)
            for records in requests_of(found, config, name):
                body = body_of([joiner.filtered(record) for record in records], config.split_type)
                waiting.append((records, self.pool.submit(self._tried, body)))
                if len(waiting) > config.max_concurrent_transforms:
                    yield self._taken(joiner, waiting.popleft())
            while waiting:
                yield self._taken(joiner, waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()

    def _taken(self, joiner: Joiner, pair: tuple[list[bytes], Future[Reply]]) -> tuple[list[bytes], bytes]:
        records, reply = pair[0], pair[1].result()
        body = joiner.joined(records, reply.body, reply.content_type) if self.config.processes else reply.body
        if self.config.assemble_with == "Line":
            body = body.rstrip(b"\r\n") + b"\n"
        return records, body

    def _tried(self, body: bytes) -> Reply:
        """One request, again after a failure that may pass, with pauses that double."""
        for attempt in range(self.config.max_retries + 1):
            try:
                return self.call(body)
            except DataError:
                raise
            except (LabError, OSError) as error:
                if attempt == self.config.max_retries:
                    raise ServeFailedError(f"a request failed {attempt + 1} times", got=error) from error
                self.sleep(FIRST_PAUSE_S * 2**attempt)
        raise AssertionError("the loop returns or raises")


def transform(
    sources: Sequence[tuple[Path, Path]], output_dir: Path, config: TransformConfig, call: Call,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[FileResult]:  # fmt: skip
    """Transform files in order; the job has failed when any result has an error, and the others are kept.

    Args:
        sources: (file, path relative to what was asked for), as `find_sources` gives them.
        output_dir: gets `<relative path>.out` of each.

    Raises:
        ConfigError: two files would have the same output.
    """
    outputs = [output_dir / relative.with_name(relative.name + OUT) for _, relative in sources]
    if len(set(outputs)) != len(outputs):
        twice = next(str(path) for path in outputs if outputs.count(path) > 1)
        raise ConfigError("two inputs have the same name", got=twice, hint="transform their folders one at a time")
    with ThreadPoolExecutor(config.max_concurrent_transforms, thread_name_prefix="transform") as pool:
        job = Job(config, call, pool, sleep)
        for (source, _), output in zip(sources, outputs, strict=True):
            yield job.transform(source, output)


def find_sources(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Files as named, and all below folders, with the path that is kept in the output folder.

    Raises:
        DataError: a path that is not there, or no file at all.
    """
    found: list[tuple[Path, Path]] = []
    for path in paths:
        if path.is_file():
            found.append((path, Path(path.name)))
        elif path.is_dir():
            found += [(file, file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file()]
        else:
            raise DataError("there is no such input", got=path)
    if not found:
        raise DataError("no input file was found", got=", ".join(map(str, paths)))
    return found
