"""Text to tokens and back: by character, by word (white space), or by SentencePiece.

A SentencePiece model is kept inside the specification, compressed and in base64, so that the manifest is all that a
deployed model needs. Its normalisation is done here (NFKC), because the table that SentencePiece would embed for it is
larger than all the pieces.
"""

from __future__ import annotations

import base64
import io
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from lab.core.errors import ArtifactError, DataError, MissingToolError
from lab.data.text.pairs import one_line
from lab.data.text.vocabulary import SPECIALS, Vocabulary

Kind = Literal["char", "word", "sentencepiece"]


@dataclass(frozen=True)
class Tokenizer:
    """How a text is cut into tokens. `model` is SentencePiece's, zlib-compressed, in base64."""

    kind: Kind
    lowercase: bool = False
    model: str = ""

    def split(self, text: str) -> list[str]:
        """The tokens of a text; none for one of white space alone."""
        text = self._normalised(text)
        if self.kind == "char":
            return list(text)
        if self.kind == "word":
            return text.split()
        pieces: list[str] = self._processor.encode(text, out_type=str)
        return pieces

    def join(self, tokens: Sequence[str]) -> str:
        """The text of tokens: without spaces (char), with spaces (word), or as SentencePiece joins its pieces."""
        if self.kind == "sentencepiece":
            return "".join(tokens).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip()
        return ("" if self.kind == "char" else " ").join(tokens)

    def _normalised(self, text: str) -> str:
        text = one_line(unicodedata.normalize("NFKC", text) if self.kind == "sentencepiece" else text)
        return text.lower() if self.lowercase else text

    @cached_property
    def _processor(self) -> Any:
        try:
            return _library().SentencePieceProcessor(model_proto=zlib.decompress(base64.b64decode(self.model)))
        except (ValueError, RuntimeError, zlib.error) as error:
            raise ArtifactError("the SentencePiece model is damaged", got=error) from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the manifest."""
        return asdict(self)


def train_sentencepiece(
    texts: Iterable[str], size: int, model_type: Literal["unigram", "bpe"], *, lowercase: bool = False
) -> tuple[Tokenizer, Vocabulary]:
    """A SentencePiece model of at most `size` pieces, the special tokens among them, and its vocabulary.

    Deterministic: one thread, no sampling of sentences (Kudo and Richardson 2018; Sennrich et al. 2016 for bpe).

    Raises:
        DataError: the texts hold too few different characters or pieces.
        MissingToolError: sentencepiece is not installed.
    """
    plain = Tokenizer("sentencepiece", lowercase)
    sentences, written = [plain._normalised(text) for text in texts], io.BytesIO()
    library = _library()
    try:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=written,
            vocab_size=size,
            model_type=model_type,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            character_coverage=1.0,
            num_threads=1,
            pad_id=0, unk_id=1, bos_id=2, eos_id=3,
            pad_piece=SPECIALS[0], unk_piece=SPECIALS[1], bos_piece=SPECIALS[2], eos_piece=SPECIALS[3],
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise DataError("SentencePiece cannot be trained on these texts", got=error) from error
    model = base64.b64encode(zlib.compress(written.getvalue(), 9)).decode()
    tokenizer = Tokenizer("sentencepiece", lowercase, model)
    processor = tokenizer._processor
    return tokenizer, Vocabulary([processor.id_to_piece(number) for number in range(processor.vocab_size())])


def _library() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingToolError("this model cuts texts with SentencePiece", hint="pip install 'lab[text]'") from error
    return sentencepiece
