"""What a deployed model needs, in numpy: signature, preprocessing, the search, postprocessing. No torch.

Shape letters: N sources, S source tokens, T target tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lab.core.errors import ArtifactError, DataError
from lab.core.signature import Signature, TensorSpec
from lab.data.preprocess import from_manifest
from lab.data.text.tokenizers import Tokenizer
from lab.data.text.vocabulary import BEGIN, END, PAD, Vocabulary
from lab.tasks.seq2seq.inputs import EXTENSIONS, load_inputs
from lab.tasks.seq2seq.responses import (
    ACCEPTS,
    Answer,
    Source,
    Translation,
    read_request,
    respond,
    to_record,
    write_response,
)
from lab.tasks.seq2seq.search import Call, SearchOptions, search

__all__ = [
    "ACCEPTS",
    "EXTENSIONS",
    "LOOP_OPTIONS",
    "MIN_AGREEMENT",
    "OPTIONS",
    "agreement",
    "aligned",
    "draw",
    "generate",
    "inputs_per_call",
    "load_inputs",
    "postprocess",
    "preprocess",
    "read_request",
    "respond",
    "rows_per_input",
    "scorer",
    "signature",
    "to_record",
    "write_response",
]

OPTIONS = ()
LOOP_OPTIONS = ("beam_size", "n_best", "length_penalty", "max_length")
"""Options of `generate` that a command may set."""
MIN_AGREEMENT = 0.98
"""Two engines round differently: now and then another of two equally probable outputs wins."""

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Preprocessing:
    """From a text to the network's input, and how to search; the manifest's "preprocessing".

    `source` and `target` are tokenizers as dictionaries. The target's vocabulary are the manifest's labels. Sources end
    with </s>, which `max_source_length` does not count.
    """

    source: Mapping[str, Any]
    target: Mapping[str, Any]
    source_vocabulary: tuple[str, ...]
    max_source_length: int
    max_target_length: int
    beam_size: int = 5
    length_penalty: float = 1.0
    max_length_factor: float = 2.0

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Raises ArtifactError on unknown or missing fields."""
        required = ("source", "target", "source_vocabulary", "max_source_length", "max_target_length")
        return from_manifest(cls, data, required)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the manifest."""
        return asdict(self) | {"source_vocabulary": list(self.source_vocabulary)}

    @property
    def source_tokenizer(self) -> Tokenizer:
        return _tokenizer(tuple(self.source.items()))

    @property
    def target_tokenizer(self) -> Tokenizer:
        return _tokenizer(tuple(self.target.items()))

    @property
    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self.source_vocabulary)


@lru_cache(maxsize=8)
def _tokenizer(fields: tuple[tuple[str, Any], ...]) -> Tokenizer:
    try:
        return Tokenizer(**dict(fields))
    except TypeError as error:
        raise ArtifactError("the tokenizer is not understood", got=error) from error


vocabulary_of = lru_cache(maxsize=8)(Vocabulary)
"""The vocabulary of tokens, made once. Raises DataError when they are none."""


def signature() -> Signature:
    """Of the whole: numbers of source tokens, </s> included, padded with 0 -> the best outputs (see `search`)."""
    return Signature(
        inputs=(
            TensorSpec("source", "int64", ("batch", "source_length")),
            TensorSpec("source_lengths", "int64", ("batch",)),
        ),
        outputs=(
            TensorSpec("tokens", "int64", ("batch", "n_best", "target_length")),
            TensorSpec("scores", "float32", ("batch", "n_best")),
            TensorSpec("attention", "float32", ("batch", "target_length", "source_length")),
        ),
    )


def inputs_per_call(preprocessing: Mapping[str, Any]) -> int | None:
    """How many sources `preprocess` takes at most: any number."""
    return None


def rows_per_input(preprocessing: Mapping[str, Any]) -> dict[str, int]:
    """Rows of each function that one source needs."""
    return {"encode": 1, "step": Preprocessing.of(preprocessing).beam_size}


def numbers_of(source: Source, options: Preprocessing, name: str) -> np.ndarray:
    """Numbers of a source's tokens, cut off at max_source_length and ended by </s>: int64 [length].

    Raises:
        DataError: an empty source, or numbers that are in no vocabulary.
    """
    vocabulary = options.vocabulary
    if isinstance(source, str):
        numbers = vocabulary.encode(options.source_tokenizer.split(source))
    else:
        numbers = np.asarray(source, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(vocabulary)):
            known = f"0 .. {len(vocabulary) - 1}"
            raise DataError(f"{name} has a number that is no token", got=numbers.tolist()[:20], expected=known)
        numbers = numbers[np.cumsum(numbers == END) == 0]
        numbers = numbers[(numbers != PAD) & (numbers != BEGIN)]
    if not len(numbers):
        raise DataError(f"{name} is empty", got=repr(source), expected="at least one token")
    return np.append(numbers[: options.max_source_length], END)


def preprocess(inputs: Sequence[Source], preprocessing: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Texts, or arrays of token numbers, to the program's inputs, one row each.

    Tokens that are not known become <unk> and sources that are too long are cut off; `postprocess` says so.

    Raises:
        DataError: an empty source; says which.
        ArtifactError: the preprocessing is not understood.
    """
    options = Preprocessing.of(preprocessing)
    rows = [numbers_of(source, options, f"source {index + 1}") for index, source in enumerate(inputs)]
    lengths = np.asarray([len(row) for row in rows], np.int64)
    source = np.zeros((len(rows), int(lengths.max(initial=1))), np.int64)
    for index, row in enumerate(rows):
        source[index, : len(row)] = row
    return {"source": source, "source_lengths": lengths}


def generate(
    functions: Mapping[str, Call],
    inputs: Mapping[str, np.ndarray],
    preprocessing: Mapping[str, Any],
    *,
    beam_size: int | None = None,
    n_best: int = 1,
    length_penalty: float | None = None,
    max_length: int | None = None,
    min_length: int = 1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Search the outputs of sources; the result fits `signature().outputs`.

    Args:
        functions: "encode" and "step"; see `search`.
        beam_size: default as configured; 1 is greedy search.
        max_length: of outputs in tokens; default from the configuration and each source's own length.
        seed: the search draws nothing.

    Raises:
        ConfigError: options that do not fit each other.
    """
    configured = Preprocessing.of(preprocessing)
    factor, longest = configured.max_length_factor, configured.max_target_length
    by_length = np.ceil(factor * (inputs["source_lengths"] - 1)).astype(int) + 10
    limit = np.minimum(by_length, longest) if max_length is None else np.full(len(by_length), max_length)
    options = SearchOptions(
        limit_N=limit,
        beam_size=configured.beam_size if beam_size is None else beam_size,
        n_best=n_best,
        length_penalty=configured.length_penalty if length_penalty is None else length_penalty,
        min_length=min_length,
    )
    return search(functions, inputs, options)


def postprocess(
    outputs: Outputs, labels: Sequence[str], inputs: Sequence[Source], preprocessing: Mapping[str, Any]
) -> list[Translation]:
    """One `Translation` per source, its outputs best first.

    Raises:
        DataError: outputs and inputs differ in number, or labels do not fit.
    """
    if len(outputs["tokens"]) != len(inputs):
        raise DataError("outputs and inputs differ in number", got=f"{len(outputs['tokens'])} and {len(inputs)}")
    options, target = Preprocessing.of(preprocessing), vocabulary_of(tuple(labels))
    return [_translation(outputs, row, source, options, target) for row, source in enumerate(inputs)]


def _translation(outputs: Outputs, row: int, source: Source, options: Preprocessing, target: Vocabulary) -> Translation:
    if isinstance(source, str):
        tokens, text = options.source_tokenizer.split(source), source
    else:
        tokens = options.vocabulary.decode(source.tolist())
        text = options.source_tokenizer.join(tokens)
    kept = tokens[: options.max_source_length]
    unknown = options.vocabulary.unknown(kept)
    notes = [f"tokens that are not in the vocabulary: {' '.join(unknown)}"] if unknown else []
    if len(kept) < len(tokens):
        notes.append(f"cut off: {len(kept)} of {len(tokens)} tokens were read")
    answers = []
    for numbers, score in zip(outputs["tokens"][row], outputs["scores"][row], strict=True):
        if score > -np.inf:
            found = target.decode(numbers.tolist())
            text_found = options.target_tokenizer.join(found)
            answers.append(Answer(text_found, tuple(found), numbers[: len(found)], float(score)))
    num_rows = len(answers[0].tokens) if answers else 0
    attention_TS = outputs["attention"][row, :num_rows, : len(kept)]
    return Translation(text, tuple(kept), tuple(answers), attention_TS, tuple(notes))


def draw(source: Source, prediction: Translation, labels: Sequence[str]) -> np.ndarray:
    """The attention as a picture: uint8 HWC, rows are target tokens and columns source tokens."""
    from lab.tasks.seq2seq.heatmap import draw_attention

    return draw_attention(prediction)


def scorer(labels: Sequence[str], preprocessing: Mapping[str, Any], *, scores: Sequence[str] = ()) -> Any:
    """The scores named, or all, over everything given to `update` (`lab.tasks.seq2seq.scoring.Scorer`)."""
    from lab.tasks.seq2seq.scoring import Scorer

    return Scorer(labels, preprocessing, scores)


def agreement(expected: Outputs, actual: Outputs) -> float:
    """Share of the sources for which two engines' best outputs are the same tokens."""
    ours, theirs = (_best_tokens(side["tokens"]) for side in (expected, actual))
    return float(np.mean([np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)])) if ours else 1.0


def _best_tokens(tokens: np.ndarray) -> list[np.ndarray]:
    return [row[row != 0] for row in tokens[:, 0]]


def aligned(expected: Outputs, actual: Outputs) -> tuple[Outputs, Outputs]:
    """Both sides at the longer one's length; sources with different best outputs are zero on both sides.

    A score that differs in the last digits may put another output first; `agreement` counts those.
    """
    length = max(expected["tokens"].shape[2], actual["tokens"].shape[2])
    sides = [_padded(side, length) for side in (expected, actual)]
    other = (sides[0]["tokens"] != sides[1]["tokens"]).any(axis=(1, 2))
    for side in sides:
        for array in side.values():
            array[other] = 0
    return sides[0], sides[1]


def _padded(side: Outputs, length: int) -> dict[str, np.ndarray]:
    missing = length - side["tokens"].shape[2]
    return {
        "tokens": np.pad(side["tokens"], ((0, 0), (0, 0), (0, missing))),
        "scores": np.where(np.isfinite(side["scores"]), side["scores"], 0.0),
        "attention": np.pad(side["attention"], ((0, 0), (0, missing), (0, 0))),
    }
