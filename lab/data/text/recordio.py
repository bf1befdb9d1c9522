"""SageMaker's seq2seq channels: RecordIO of protobuf records, and vocabularies in JSON (S2S-I1 .. S2S-I4).

A record has two tensors of int32, "source" and "target": numbers of tokens in `vocab.src.json` and `vocab.trg.json`,
without begin and end. Read, the numbers become tokens joined by spaces, so that the rest of the lab need not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lab.artifacts.files import atomic_path
from lab.core.errors import DataError
from lab.data.aialgs import decode_record, encode_record
from lab.data.records import frame, read_record
from lab.data.text.pairs import PairDataset, TextPair
from lab.data.text.vocabulary import Vocabulary

SOURCE, TARGET = "source", "target"
SOURCE_VOCABULARY, TARGET_VOCABULARY = "vocab.src.json", "vocab.trg.json"


def read_numbers(file: BinaryIO, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(source, target) of every record, int64 [length] each; a request's records have no target.

    Raises:
        DataError: a record is damaged, or has no source; names its place.
    """
    offset, index = 0, 0
    while True:
        payload, offset = read_record(file, name, offset)
        if payload is None:
            return
        features = decode_record(payload, f"{name}[{index}]")
        if SOURCE not in features:
            raise DataError(f"{name}[{index}] has no source", got=sorted(features), expected=f"features '{SOURCE}'")
        yield features[SOURCE], features.get(TARGET, np.zeros(0, np.int64))
        index += 1


def frame_numbers(source: Sequence[int] | np.ndarray, target: Sequence[int] | np.ndarray) -> bytes:
    """One framed record."""
    return frame(encode_record({SOURCE: source, TARGET: target}))


def vocabularies(path: Path, source: Path | None = None, target: Path | None = None) -> tuple[Vocabulary, Vocabulary]:
    """Those of a .rec file: the given files, or those beside it. Raises DataError when one is missing (S2S-I1)."""
    return (
        Vocabulary.load(source or path.parent / SOURCE_VOCABULARY),
        Vocabulary.load(target or path.parent / TARGET_VOCABULARY),
    )


def read(path: Path, source_vocabulary: Path | None = None, target_vocabulary: Path | None = None) -> PairDataset:
    """A .rec file with the vocabularies given or beside it; records with an empty side are left out.

    Raises:
        DataError: a file is missing or damaged, or a number is in no vocabulary.
    """
    source_words, target_words = vocabularies(path, source_vocabulary, target_vocabulary)
    pairs, num_skipped = [], 0
    try:
        with path.open("rb") as file:
            for index, (source, target) in enumerate(read_numbers(file, str(path))):
                name = f"{path}[{index}]"
                text, label = _text(source, source_words, name), _text(target, target_words, name)
                pairs += [TextPair(text, (label,), name)] if text and label else []
                num_skipped += not (text and label)
    except FileNotFoundError as error:
        raise DataError(f"there is no .rec file at {path}") from error
    return PairDataset(pairs, str(path), num_skipped=num_skipped)


def _text(numbers: np.ndarray, vocabulary: Vocabulary, name: str) -> str:
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(vocabulary)):
        raise DataError(
            f"{name} has a token that is not in the vocabulary",
            got=f"{numbers.min()} .. {numbers.max()}",
            expected=f"0 .. {len(vocabulary) - 1}",
        )
    return " ".join(vocabulary.decode(numbers.tolist()))


def write(path: Path, dataset: PairDataset, source: Vocabulary, target: Vocabulary) -> None:
    """Write `path` (.rec) and both vocabularies beside it; a source with several targets is written as often.

    Texts are cut at white space. Raises StorageError.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for index in range(len(dataset)):
            pair = dataset[index]
            for label in pair.label:
                file.write(frame_numbers(source.encode(pair.input.split()), target.encode(label.split())))
    source.save(path.parent / SOURCE_VOCABULARY)
    target.save(path.parent / TARGET_VOCABULARY)
