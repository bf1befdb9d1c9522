"""Options of a batch transform, named and limited as SageMaker's CreateTransformJob (EP-60..EP-68)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lab.config.base import LabModel
from lab.serve.transform.jsonpath import parse

SplitType = Literal["None", "Line", "RecordIO"]
CSV, JSON, RECORDIO = "text/csv", "application/json", "application/x-recordio-protobuf"
LINES_TYPES = ("application/jsonlines", "application/x-jsonlines", "application/jsonl")
MEBIBYTE = 1024 * 1024
MAX_TOTAL_MB = 100


def media_type(content_type: str) -> str:
    """Without parameters, lower case."""
    return content_type.partition(";")[0].strip().lower()


class TransformConfig(LabModel):
    """One job."""

    content_type: str = "application/json"
    accept: str = ""
    """Empty: the model's default."""
    split_type: SplitType = "None"
    """How a file falls into records. None: the file is one."""
    batch_strategy: Literal["MultiRecord", "SingleRecord"] = "MultiRecord"
    """MultiRecord: as many records per request as fit within the payload."""
    assemble_with: Literal["None", "Line"] = "None"
    """What stands between answers in the output: nothing, or a line break."""
    max_payload_mb: int = Field(6, ge=0, le=100)
    """Largest request; 0: no limit."""
    max_concurrent_transforms: int = Field(1, ge=1)
    max_retries: int = Field(3, ge=0, le=3)
    """After failures that are not the record's own fault."""
    timeout_s: int = Field(600, ge=1, le=3600)
    """For one request to a model elsewhere; a model in this process cannot be interrupted."""
    input_filter: str = Field("$", max_length=63)
    output_filter: str = Field("$", max_length=63)
    join_source: Literal["None", "Input"] = "None"
    compression: Literal["None", "Gzip"] = "None"
    """Of the input files."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_payload_mb * self.max_concurrent_transforms > MAX_TOTAL_MB:
            raise ValueError(f"max_payload_mb x max_concurrent_transforms may be {MAX_TOTAL_MB} at most")
        if self.batch_strategy == "SingleRecord" and self.split_type == "None":
            raise ValueError("SingleRecord needs a split_type: without one a file is a single record anyway")
        parse(self.input_filter)
        parse(self.output_filter)
        if self.processes and media_type(self.content_type) not in (CSV, JSON, *LINES_TYPES):
            raise ValueError(f"filters and joins are for CSV and JSON, not for {self.content_type}")
        if self.processes and self.split_type == "RecordIO":
            raise ValueError("filters and joins are for CSV and JSON, not for RecordIO")
        return self

    @property
    def processes(self) -> bool:
        """Whether records are taken apart at all."""
        return (self.input_filter, self.output_filter, self.join_source) != ("$", "$", "None")

    @property
    def max_payload_bytes(self) -> int | None:
        return self.max_payload_mb * MEBIBYTE or None


def recommended_split(content_type: str) -> SplitType:
    """What suits a content type (EP-67)."""
    kind = media_type(content_type)
    if kind in (CSV, *LINES_TYPES):
        return "Line"
    return "RecordIO" if kind == RECORDIO else "None"


def recommended_assembly(accept: str) -> Literal["None", "Line"]:
    """Lines stay lines (EP-67)."""
    return "Line" if media_type(accept) in (CSV, *LINES_TYPES) else "None"
