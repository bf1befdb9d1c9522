"""The text pairs of a configuration: its splits, tokenizers and vocabularies, and its samples as numbers. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lab.artifacts.files import sha256_json
from lab.core.errors import DataError
from lab.core.progress import say
from lab.data.resolve import catalog_entry, resolve
from lab.data.text import cmudict, help_pages, parallel, recordio, tsv
from lab.data.text.pairs import PairDataset
from lab.data.text.tokenizers import Tokenizer, train_sentencepiece
from lab.data.text.vocabulary import END, Vocabulary
from lab.tasks.seq2seq.config import DataConfig, PairFiles, Seq2SeqConfig, TokensConfig

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Side:
    """How one side is cut into tokens and numbered."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary

    def numbers(self, text: str, max_length: int) -> tuple[np.ndarray, bool]:
        """Numbers of a text's tokens, the first `max_length` and </s>; and whether it was longer."""
        numbers = self.vocabulary.encode(self.tokenizer.split(text))
        return np.append(numbers[:max_length], END), len(numbers) > max_length


@dataclass(frozen=True)
class Numbered:
    """Samples as numbers, </s> included; `index` is each one's place in the data set, where several may share it."""

    sources: list[np.ndarray]
    targets: list[np.ndarray]
    index: np.ndarray
    num_cut: dict[str, int]
    """Sources and targets that were cut off."""

    def __len__(self) -> int:
        return len(self.sources)


class Corpus:
    """Everything that a configuration says of its data; read when first needed."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        self.config = config
        self.data = config.data

    # ---- splits --------------------------------------------------------------------------------------------------

    @cached_property
    def _given(self) -> PairDataset:
        """Everything given for training, before anything is held out."""
        data = self.data
        if data.dataset is None:
            assert data.train is not None  # DataConfig checks it
            return self._read(data.train)
        folder = resolve(data.dataset, data.root)
        file = folder / catalog_entry(data.dataset).splits["train"][0]
        if data.dataset == "libreoffice-help":
            return help_pages.read(file, min_words=data.min_words, max_words=data.max_words)
        return _matching(cmudict.read(file, stress=data.stress), data)

    def _read(self, files: PairFiles) -> PairDataset:
        data = self.data
        if data.format == "parallel":
            assert files.target is not None  # DataConfig checks it
            return _checked(parallel.read(files.path, files.target))
        if data.format == "recordio":
            assert data.train is not None
            found = recordio.read(files.path, *self._vocabulary_files)
        elif data.format == "cmudict":
            found = _matching(cmudict.read(files.path, stress=data.stress), data)
        else:
            found = tsv.read(files.path)
        return _checked(found)

    @cached_property
    def _divided(self) -> dict[SplitName, PairDataset]:
        data, rest = self.data, self._given
        found: dict[SplitName, PairDataset] = {}
        if data.test is not None:
            found["test"] = self._read(data.test)
        elif data.test_size:
            rest, found["test"] = rest.held_out(data.test_size, data.split_seed, "test")
        if data.validation is not None:
            found["validation"] = self._read(data.validation)
        else:
            rest, found["validation"] = rest.held_out(data.validation_size, data.split_seed, "validation")
        return found | {"train": rest}

    def has(self, split: SplitName) -> bool:
        return split != "test" or self.data.test is not None or bool(self.data.test_size)

    def get(self, split: SplitName) -> PairDataset:
        """Raises DataError when there is no such split or it cannot be read."""
        if not self.has(split):
            raise DataError("the configuration names no test data", hint="set data.test or data.test_size")
        return self._divided[split]

    @property
    def final(self) -> Literal["validation", "test"]:
        """The split of final figures and pictures."""
        return "test" if self.has("test") else "validation"

    # ---- tokens --------------------------------------------------------------------------------------------------

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """Source and target, learnt from the training split alone; of format recordio the given vocabularies."""
        config = self.config
        if self.data.dataset is None and self.data.format == "recordio":
            words = Tokenizer("word")
            source, target = (Side(words, vocabulary) for vocabulary in recordio.vocabularies(*self._recordio_files))
            return source, target
        if config.shared_vocabulary:
            shared = _learnt([*self._texts("source"), *self._texts("target")], config.source)
            return shared, shared
        return _learnt(self._texts("source"), config.source), _learnt(self._texts("target"), config.target)

    @property
    def _vocabulary_files(self) -> tuple[Any, Any]:
        """Those given, else those beside the training file, whose numbers count for every split."""
        path, source, target = self._recordio_files
        folder = path.parent
        return source or folder / recordio.SOURCE_VOCABULARY, target or folder / recordio.TARGET_VOCABULARY

    @property
    def _recordio_files(self) -> tuple[Any, Any, Any]:
        assert self.data.train is not None
        return self.data.train.path, self.data.source_vocabulary, self.data.target_vocabulary

    def _texts(self, side: Literal["source", "target"]) -> Iterator[str]:
        train = self.get("train")
        for index in range(len(train)):
            yield from [train[index].input] if side == "source" else train[index].label

    # ---- samples -------------------------------------------------------------------------------------------------

    @cached_property
    def training(self) -> Numbered:
        """Every source with each of its targets."""
        train = self.get("train")
        numbered = self._numbered(
            [(index, label) for index in range(len(train)) for label in train[index].label], train
        )
        for side, count in numbered.num_cut.items():
            if count:
                limit = getattr(self.data, f"max_{side}_length")
                say(
                    f"cut off {count} of {len(numbered)} training {side}s after {limit} tokens (data.max_{side}_length)"
                )
        return numbered

    def evaluation(self, split: Literal["validation", "test"]) -> Numbered:
        """Every source with the first of its targets, in the data set's order."""
        dataset = self.get(split)
        return self._numbered([(index, dataset[index].label[0]) for index in range(len(dataset))], dataset)

    def _numbered(self, rows: Sequence[tuple[int, str]], dataset: PairDataset) -> Numbered:
        (source, target), data = self.sides, self.data
        sources = [source.numbers(dataset[index].input, data.max_source_length) for index, _ in rows]
        targets = [target.numbers(label, data.max_target_length) for _, label in rows]
        for (numbers, _), (index, _) in zip(sources, rows, strict=True):
            if len(numbers) < 2:
                raise DataError(f"{dataset[index].name} has no source token", got=repr(dataset[index].input))
        num_cut = {"source": sum(cut for _, cut in sources), "target": sum(cut for _, cut in targets)}
        places = np.asarray([index for index, _ in rows], np.int64)
        return Numbered([numbers for numbers, _ in sources], [numbers for numbers, _ in targets], places, num_cut)

    def card(self) -> dict[str, Any]:
        """Name, licence, sizes and digests of all splits, vocabularies and what was cut off; JSON-able."""
        data, (source, target) = self.data, self.sides
        names: list[SplitName] = [name for name in ("train", "validation", "test") if self.has(name)]
        splits = {
            name: {"source": (part := self.get(name)).source, "num_samples": len(part), "digest": part.digest}
            for name in names
        }
        card: dict[str, Any] = {
            "name": data.dataset or str(data.train.path if data.train else ""),
            "source": splits["train"]["source"],
            "digest": sha256_json({name: part["digest"] for name, part in splits.items()}),
            "format": catalog_entry(data.dataset).format if data.dataset else data.format,
            "splits": splits,
            "num_skipped": self._given.num_skipped,
            "vocabulary": {"source": len(source.vocabulary), "target": len(target.vocabulary)},
            "num_training_pairs": len(self.training),
            "num_cut": self.training.num_cut,
        }
        if data.dataset is not None:
            entry = catalog_entry(data.dataset)
            card |= {"license": entry.license, "homepage": entry.homepage}
        return card


def _checked(dataset: PairDataset) -> PairDataset:
    if not len(dataset):
        raise DataError(f"{dataset.source} holds no pair", got=f"{dataset.num_skipped} with a blank side")
    if dataset.num_skipped:
        say(f"left out {dataset.num_skipped} pairs of {dataset.source} with a blank side")
    return dataset


def _matching(dataset: PairDataset, data: DataConfig) -> PairDataset:
    """Those words of a dictionary that fit data.words."""
    try:
        pattern = re.compile(data.words)
    except re.error as error:
        raise DataError("data.words is no regular expression", got=f"{data.words!r}: {error}") from error
    kept = [index for index in range(len(dataset)) if pattern.fullmatch(dataset[index].input)]
    return dataset if len(kept) == len(dataset) else dataset.subset(kept, f"words {data.words}")


def _learnt(texts: Iterator[str] | Sequence[str], options: TokensConfig) -> Side:
    if options.kind == "sentencepiece":
        return Side(*train_sentencepiece(texts, options.max_size, options.model_type, lowercase=options.lowercase))
    tokenizer = Tokenizer(options.kind, options.lowercase)
    return Side(tokenizer, Vocabulary.build(map(tokenizer.split, texts), options.max_size, options.min_count))
