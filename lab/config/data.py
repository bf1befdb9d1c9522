"""Where a task's data lies: a data set of the catalog, or files in one of the formats of `lab.data.formats`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.config.base import LabModel


class SplitConfig(LabModel):
    """Where one split lies; a plain path in YAML stands for {path: ...}. docs/DATA.md says what each format reads."""

    path: str
    """The images' folder, the listing or the archive; with mode stream also http(s):// and s3:// addresses, and
    patterns such as shards-{000..009}.tar."""
    labels: Path | None = None
    """idx: the label file; by default the file whose name fits the image file's."""
    images: Path | None = None
    """lst, coco, manifest: the folder that image paths are relative to; by default that of the listing."""
    annotations: Path | None = None
    """sagemaker_json: the folder of .json files; mask_folder: the folder of masks."""
    label_map: Path | None = None
    """mask_folder: JSON that renumbers the masks' values: {"scale": "3"} or {"map": {"0": 5}} (SS-I4)."""
    subset: str | None = None
    """voc: the list below ImageSets to read, e.g. train, val, trainval."""


class DataConfig(LabModel):
    """Either a data set of the catalog (`lab data list`), or files in one of the formats."""

    dataset: str | None = None
    """Name in the catalog; fetched when it is not there."""
    root: Path | None = None
    """Folder of the catalog's data sets; default $LAB_DATA, else ./data."""
    format: str
    train: SplitConfig | None = None
    validation: SplitConfig | None = None
    test: SplitConfig | None = None
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Part of the training samples held out for validation where no `validation` is given."""
    split_seed: int = Field(0, ge=0)
    """Which samples are held out; apart from `seed`, so that runs with other seeds validate on the same ones."""
    num_classes: int | None = Field(None, ge=1)
    """Checked against the data; needed where the files do not tell and classes may be absent (IC-H1, OD-H1, SS-H4)."""
    class_names: tuple[str, ...] | None = None
    """Names in the order of the class indices, where the files have none."""
    mode: Literal["files", "stream"] = "files"
    """stream: read the training split (rec, tar or manifest) in order while training, from a file, http or s3 address,
    in constant memory (SageMaker's pipe mode); validation and test must then be given."""
    num_training_samples: int | None = Field(None, ge=1)
    """stream: samples per epoch, where counting them would need a pass over all shards (IC-H2, OD-H2, SS-H5)."""
    shuffle_buffer: int = Field(1024, ge=1)
    """stream: samples among which the next one is drawn; what bounds the memory."""

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": str(value)} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.dataset is not None and (self.train or self.validation or self.test):
            raise ValueError("give either dataset (catalog) or train/validation/test (files), not both")
        if self.dataset is None and self.train is None:
            raise ValueError("no data: give dataset (a name of the catalog), or format and train (a path)")
        if self.class_names and self.num_classes not in (None, len(self.class_names)):
            raise ValueError(f"num_classes is {self.num_classes}, but class_names has {len(self.class_names)} names")
        return self

    @model_validator(mode="after")
    def _stream_fits(self) -> Self:
        if self.mode == "stream":
            if self.format not in ("rec", "tar", "manifest") or self.train is None:
                raise ValueError("mode: stream reads format rec, tar or manifest from `train`")
            if self.validation is None:
                raise ValueError("mode: stream cannot hold out validation samples: give data.validation")
        return self
