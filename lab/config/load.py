"""YAML file + dotted overrides -> a checked configuration; errors name the file, the line and the nearest key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lab.core.errors import ConfigError
from lab.core.tables import nearest

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]
MAX_KEYS = 100_000
"""Aliases of aliases can stand for billions in a few lines."""


class Source:
    """A YAML document with the line of every key, plus overrides that were given as `key=value`."""

    def __init__(self, data: dict[str, Any], lines: dict[KeyPath, str]) -> None:
        self.data = data
        self.lines = lines

    def where(self, path: KeyPath) -> str:
        """The closest known position of a key: "file.yaml:12" or "override optimizer.name=..."."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return self.lines.get((), "configuration")


def read_source(path: Path, overrides: Sequence[str] = ()) -> Source:
    """Read a YAML mapping and apply overrides such as `train.epochs=3` or `model.pretrained=true`.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, a key given twice, or a malformed override.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file at {path}", hint=_near_file(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a configuration", got=error) from error
    source = parse_source(text, str(path))
    for override in overrides:
        _apply(source, override)
    return source


def parse_source(text: str, name: str) -> Source:
    """Parse YAML text; `name` stands for the file in messages. Raises ConfigError."""
    lines: dict[KeyPath, str] = {(): name}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(node, yaml.MappingNode):
            _collect_lines(node, (), name, lines)
        data = yaml.safe_load(text)
    except RecursionError as error:
        raise ConfigError(f"{name} is nested too deeply, or in itself") from error
    except (ValueError, OverflowError) as error:  # a date that is none, a number beyond all bounds
        raise ConfigError(f"{name} holds a value that is none", got=error) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line} is not valid YAML", got=getattr(error, "problem", error)) from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{name} is not a configuration",
            got="empty file" if node is None else node.tag,
            expected="a mapping of keys",
        )
    return Source(data, lines)


def _collect_lines(node: yaml.Node, path: KeyPath, name: str, lines: dict[KeyPath, str]) -> None:
    if len(lines) > MAX_KEYS:
        raise ConfigError(f"{name} has too many keys and values", expected=f"{MAX_KEYS} at most", hint="fewer aliases")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            position = f"{name}:{key.start_mark.line + 1}"
            if here in lines:
                raise ConfigError(f"{position}: key '{_dotted(here)}' is given twice", got=f"first at {lines[here]}")
            lines[here] = position
            _collect_lines(value, here, name, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = f"{name}:{value.start_mark.line + 1}"
            _collect_lines(value, (*path, index), name, lines)


def _apply(source: Source, override: str) -> None:
    key, separator, raw = override.partition("=")
    path = tuple(key.strip().split("."))
    if not separator or not all(path):
        raise ConfigError(f"override '{override}' is malformed", expected="key=value, e.g. train.epochs=3")
    try:
        value = yaml.safe_load(raw) if raw else None
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{override}' has a value that is not YAML", got=raw) from error
    place = source.data
    for part in path[:-1]:
        nested = place.get(part)
        place[part] = nested = dict(nested) if isinstance(nested, dict) else {}
        place = nested
    place[path[-1]] = value
    source.lines[path] = f"override {override}"


def build(source: Source, model: type[Model]) -> Model:
    """Check a source against a model.

    Raises:
        ConfigError: every problem in one message, each with its position, what was got and what was expected.
    """
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        problems = [_explain(item, source, model) for item in error.errors()]
        count = len(problems)
        raise ConfigError(
            f"the configuration has {count} problem{'s' if count > 1 else ''}\n" + "\n".join(problems)
        ) from None


def _explain(item: Any, source: Source, model: type[BaseModel]) -> str:
    path: KeyPath = tuple(item["loc"])
    where, key = source.where(path), _dotted(path)
    if item["type"] == "extra_forbidden":
        siblings = _fields_at(model, path[:-1])
        close = nearest(str(path[-1]), siblings)
        hint = f"did you mean '{_dotted((*path[:-1], close))}'?" if close else f"known here: {', '.join(siblings)}"
        return f"  {where}: unknown key '{key}'; {hint}"
    if item["type"] == "missing":
        return f"  {where}: '{key}' is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    return (
        f"  {where}: '{key}' = {item['input']!r}: {message[:1].lower()}{message[1:]}"
        if path
        else f"  {where}: {message}"
    )


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Field names of the model nested at `path` (through Optional, unions and lists)."""
    found: list[type[BaseModel]] = [model]
    for part in path:
        if isinstance(part, int):
            continue
        found = [
            sub for m in found if part in m.model_fields for sub in _models_in(m.model_fields[part].annotation)
        ] or found
    return list(dict.fromkeys(name for m in found for name in m.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _near_file(path: Path) -> str | None:
    folder = path.parent
    close = nearest(path.name, [p.name for p in folder.glob("*.y*ml")]) if folder.is_dir() else None
    return f"did you mean {folder / close}?" if close else None


def to_yaml(config: BaseModel) -> str:
    """The resolved configuration as YAML that loads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
