"""Configuration of sequence to sequence. Row ids (S2S-..) refer to Amazon SageMaker's hyperparameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.config.base import LabModel
from lab.config.run import RunConfig
from lab.data.text.vocabulary import MAX_SIZE


class PairFiles(LabModel):
    """Where one split lies; a plain path in YAML stands for {path: ...}."""

    path: Path
    """The source lines (parallel), or the file with both sides."""
    target: Path | None = None
    """parallel: the target lines."""


class DataConfig(LabModel):
    """Either a data set of the catalog (`lab data list`), or files in one of the formats."""

    dataset: Literal["cmudict", "libreoffice-help"] | None = None
    root: Path | None = None
    """Folder of the catalog's data sets; default $LAB_DATA, else ./data."""
    format: Literal["parallel", "tsv", "recordio", "cmudict"] = "tsv"
    """parallel: two text files; tsv: source TAB target [TAB more right targets]; recordio: SageMaker's channels
    (S2S-I1 .. I4); cmudict: a pronouncing dictionary."""
    train: PairFiles | None = None
    validation: PairFiles | None = None
    test: PairFiles | None = None
    validation_size: float = Field(0.05, gt=0)
    """What is held out of the training data where no `validation` is given: a number of sources, or a share below 1."""
    test_size: float = Field(0.0, ge=0)
    """The same for the test split of one file; 0: no test split. By source text, or where the format knows one, by
    larger units (libreoffice-help: by page), so that no answer of a test source is seen in training."""
    split_seed: int = Field(0, ge=0)
    """Which ones are held out; apart from `seed`, so that runs with other seeds validate on the same ones."""
    source_vocabulary: Path | None = None
    """recordio: vocab.src.json; default: the one beside the training file."""
    target_vocabulary: Path | None = None
    stress: bool = False
    """cmudict: keep the stress of vowels; published results are without."""
    words: str = ".+"
    """cmudict: words to keep, as a regular expression for the whole word."""
    min_words: int = Field(1, ge=1)
    """libreoffice-help: leave out pairs with a side of fewer words."""
    max_words: int = Field(1000, ge=1)
    """libreoffice-help: or of more."""
    max_source_length: int = Field(100, ge=1)
    """Longer sources are cut off after so many tokens; how many were is printed (S2S-H24)."""
    max_target_length: int = Field(100, ge=1)
    """The same for training targets; also the longest output (S2S-H25)."""

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        files = [part for part in (self.train, self.validation, self.test) if part is not None]
        if self.dataset is not None and files:
            raise ValueError("give either dataset (catalog) or train/validation/test (files), not both")
        if self.dataset is None and self.train is None:
            raise ValueError("no data: give dataset (a name of the catalog), or format and train (a path)")
        if any((part.target is None) == (self.format == "parallel") for part in files):
            raise ValueError("format parallel needs path and target of each split, the others path alone")
        if self.test is not None and self.test_size:
            raise ValueError("test_size holds out a test split where there is none: leave it out beside test")
        return self


class TokensConfig(LabModel):
    """How one side is cut into tokens, and which of them are known."""

    kind: Literal["char", "word", "sentencepiece"] = "word"
    """word: at white space."""
    lowercase: bool = False
    max_size: int = Field(MAX_SIZE, ge=1)
    """The most tokens, beside the four special ones (S2S-I5); SentencePiece: with them."""
    min_count: int = Field(1, ge=1)
    """char, word: rarer ones are unknown (S2S-I5)."""
    model_type: Literal["unigram", "bpe"] = "unigram"
    """sentencepiece."""


class EncoderConfig(LabModel):
    """From the source to its memory."""

    kind: Literal["rnn", "cnn"] = "rnn"
    """S2S-H17."""
    cell: Literal["lstm", "gru"] = "lstm"
    """S2S-H39."""
    embed_size: int = Field(512, ge=1)
    """S2S-H28."""
    hidden_size: int = Field(1024, ge=2)
    """Channels of the memory, both directions together (S2S-H42, H13)."""
    num_layers: int = Field(1, ge=1)
    """S2S-H31."""
    directions: Literal["both", "first", "forward"] = "both"
    """rnn: layers that read in both directions: all, the first alone (GNMT), or none."""
    first_residual_layer: int | None = Field(None, ge=2)
    """rnn: from this layer on, outputs are added to inputs (S2S-H41, H43); None: nowhere."""
    embed_dropout: float = Field(0.0, ge=0, lt=1)
    """S2S-H15."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Between layers (cnn: of each layer's input, S2S-H10)."""
    kernel_width: int = Field(3, ge=1)
    """cnn: S2S-H12."""
    activation: Literal["glu", "relu", "softrelu", "sigmoid", "tanh"] = "glu"
    """cnn: S2S-H9."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "rnn" and self.directions != "forward" and self.hidden_size % 2:
            raise ValueError("hidden_size is of both directions together, so it must be even")
        if self.kind == "cnn" and self.kernel_width % 2 == 0:
            raise ValueError("the encoder's kernel_width must be odd")
        return self


class DecoderConfig(LabModel):
    """From the memory to the target, token by token."""

    kind: Literal["rnn", "cnn"] = "rnn"
    """S2S-H14."""
    cell: Literal["lstm", "gru"] = "lstm"
    embed_size: int = Field(512, ge=1)
    """S2S-H29."""
    hidden_size: int = Field(1024, ge=1)
    num_layers: int = Field(1, ge=1)
    """S2S-H30."""
    first_residual_layer: int | None = Field(None, ge=2)
    """rnn: S2S-H41, H43."""
    attention: Literal["dot", "bilinear", "mlp", "fixed"] = "mlp"
    """rnn: S2S-H38. dot and bilinear: Luong et al. 2015, section 3.1; mlp: Bahdanau et al. 2015; fixed: the last source
    token alone, which is seq2seq without attention."""
    attention_size: int | None = Field(None, ge=1)
    """rnn, mlp: hidden units; default hidden_size (S2S-H37)."""
    attention_in_upper_layers: bool = True
    """rnn: the first layer asks, and every further one sees the answer (GNMT, Wu et al. 2016, S2S-H36); off: the last
    layer asks. The same thing with one layer."""
    input_feeding: bool = True
    """rnn: the last attentional state is part of the next input (Luong et al. 2015, section 3.3). Off, the whole target
    is computed at once in training."""
    state_init: Literal["last", "avg", "zero"] = "last"
    """rnn: S2S-H40."""
    embed_dropout: float = Field(0.0, ge=0, lt=1)
    """S2S-H16."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Between layers (cnn: of each layer's input, S2S-H10)."""
    hidden_dropout: float = Field(0.0, ge=0, lt=1)
    """rnn: of state and context before they become the attentional state (S2S-H44)."""
    kernel_width: int = Field(5, ge=2)
    """cnn: S2S-H11."""
    activation: Literal["glu", "relu", "softrelu", "sigmoid", "tanh"] = "glu"
    """cnn."""


class InitConfig(LabModel):
    """Starting weights, as MXNet's initialisers draw them."""

    kind: Literal["xavier", "uniform"] = "xavier"
    """S2S-H48."""
    scale: float = Field(2.34, gt=0)
    """xavier: weights in +-sqrt(scale / units); uniform: in +-scale (S2S-H47)."""
    factor: Literal["in", "out", "avg"] = "in"
    """xavier: units are those of the input, of the output, or their mean (S2S-H49)."""
    recurrent: Literal["orthogonal", "same"] = "orthogonal"
    """Weights from state to state: orthogonal per gate, or like the others."""


class ModelConfig(LabModel):
    """Architecture."""

    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    tie_embeddings: Literal["none", "target", "all"] = "none"
    """target: the output layer's weights are the target embedding (Press and Wolf 2017); all: the source's too."""
    init: InitConfig = InitConfig()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        out_size = self.decoder.embed_size if self.decoder.kind == "cnn" else self.decoder.hidden_size
        if self.tie_embeddings != "none" and self.decoder.embed_size != out_size:
            raise ValueError("tied embeddings need decoder.embed_size equal to decoder.hidden_size")
        if self.tie_embeddings == "all" and self.encoder.embed_size != self.decoder.embed_size:
            raise ValueError("tie_embeddings: all needs encoder.embed_size equal to decoder.embed_size")
        return self


class LossConfig(LabModel):
    """Cross entropy over target tokens (S2S-H20)."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    normalization: Literal["tokens", "sentences"] = "tokens"
    """What the sum over tokens is divided by."""


class BatchingConfig(LabModel):
    """How samples become batches; `train.batch_size` counts sentences."""

    bucketing: bool = True
    """Put samples of similar length together (S2S-H5); off: any, padded to the longest of the batch."""
    bucket_width: int = Field(10, ge=1)
    """Lengths that differ by less fall together (S2S-H4); smaller: less padding, less random batches."""
    batch_tokens: int | None = Field(None, ge=1)
    """Fill batches by padded source and target tokens instead of by sentences."""


class SearchConfig(LabModel):
    """How outputs are found, in validation, evaluation and deployment alike."""

    beam_size: int = Field(5, ge=1)
    """S2S-H2; 1 is greedy search."""
    length_penalty: float = Field(1.0, ge=0)
    """alpha of Wu et al. 2016, equation 14: scores are log p / ((5 + length) / 6) ** alpha; 0 is off."""
    max_length_factor: float = Field(2.0, gt=0)
    """Outputs have at most this many tokens per source token, and ten more; never more than max_target_length."""


class MetricsConfig(LabModel):
    """What is measured and what picks the best weights."""

    monitor: Literal["sequence_accuracy", "per", "wer", "bleu", "chrf", "perplexity", "token_accuracy"] = (
        "sequence_accuracy"
    )
    """S2S-H32, the optimized metric. perplexity and token_accuracy are measured with the right target as history
    (teacher forcing), the others on what the search finds."""
    scores: tuple[Literal["sequence_accuracy", "per", "wer", "bleu", "chrf"], ...] = (
        "sequence_accuracy", "per", "wer", "bleu", "chrf",
    )  # fmt: skip
    """Measured on found outputs: exact matches; token errors per reference token; share of sequences with an error; and
    sacrebleu's BLEU and chrF. With several references the nearest counts."""
    sample_size: int = Field(-1, ge=-1)
    """Validation samples that are decoded in each epoch (S2S-H3, bleu_sample_size): -1 all, 0 none."""
    beam_size: int | None = Field(None, ge=1)
    """The beam in those validations; default search.beam_size. The final evaluation always takes that."""

    @model_validator(mode="after")
    def _monitored(self) -> Self:
        forced = self.monitor in ("perplexity", "token_accuracy")
        if not forced and (self.monitor not in self.scores or self.sample_size == 0):
            raise ValueError(f"monitor {self.monitor} needs it in metrics.scores, and a sample_size other than 0")
        return self


class Seq2SeqConfig(RunConfig):
    """The root of configs/seq2seq/*.yaml."""

    task: Literal["seq2seq"] = "seq2seq"
    data: DataConfig
    source: TokensConfig = TokensConfig()
    target: TokensConfig = TokensConfig()
    shared_vocabulary: bool = False
    """One vocabulary (and SentencePiece model) for both sides; that of `source`."""
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    batching: BatchingConfig = BatchingConfig()
    search: SearchConfig = SearchConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _vocabularies_fit(self) -> Self:
        if self.model.tie_embeddings == "all" and not self.shared_vocabulary:
            raise ValueError("tie_embeddings: all needs shared_vocabulary: true")
        if self.shared_vocabulary and self.source != self.target:
            raise ValueError("shared_vocabulary needs equal sections source and target")
        if self.data.format == "recordio" and self.data.dataset is None and not self._cut_at_spaces:
            raise ValueError("format recordio comes cut into tokens: source.kind and target.kind must be word")
        return self

    @property
    def _cut_at_spaces(self) -> bool:
        return all(side.kind == "word" and not side.lowercase for side in (self.source, self.target))
