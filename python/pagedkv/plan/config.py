"""A Hugging Face config.json, read field by field: what is wrong is named with its field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagedkv.plan.errors import PlanError

__all__ = ["ModelConfig", "config_path", "read_config"]

# Where models of several parts keep their language model.
TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")

# What of the whole holds for its parts, unless they say otherwise.
OUTER = ("dtype", "torch_dtype", "model_type")

# What is asked for can be computed with; a damaged number is not taken for a model.
LARGEST = 2**31 - 1


@dataclass
class ModelConfig:
    """The fields of a configuration, by type, with defaults of the model's class."""

    where: str
    values: Mapping[str, Any]
    defaults: Mapping[str, int] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)

    @property
    def model_type(self) -> str:
        """The name of the architecture."""
        return self.text("model_type")

    def has(self, *names: str) -> bool:
        """Whether one of these fields is there and says something."""
        return any(self.values.get(name) is not None for name in names)

    def number(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """The first of these fields that is there, else the default of the class, else `default`.
        A default is noted as an assumption. Raises `PlanError` for what is no integer of `least`
        or more."""
        value = self.optional_number(*names, least=least)
        if value is not None:
            return value
        if default is None:
            raise self.error(f"{names[0]} is missing; expected an integer, {least} or more")
        self._assume_default(names[0], default)
        return default

    def optional_number(self, *names: str, least: int = 1) -> int | None:
        """The same, or None where nothing says how many; a null in the file is that."""
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise self.error(f"{name} is {value!r:.40}; expected an integer, {least} or more")
            if not least <= value <= LARGEST:
                raise self.error(f"{name} is {value!r:.40}; expected {least} to {LARGEST}")
            return value
        for name in names:
            if name in self.defaults and name not in self.values:
                value = self.defaults[name]
                self._assume_default(name, value)
                return value
        return None

    def text(self, name: str) -> str:
        """A field that must be a text."""
        value = self.values.get(name)
        if not isinstance(value, str) or not value:
            given = "missing" if value is None else repr(value)
            raise self.error(f"{name} is {given:.40}; expected a text")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """A field that is true or false. A default is noted as an assumption."""
        value = self.values.get(name)
        if value is None:
            self._assume_default(name, str(default).lower())
            return default
        if not isinstance(value, bool):
            raise self.error(f"{name} is {value!r:.40}; expected true or false")
        return value

    def texts(self, *names: str) -> list[str] | None:
        """A list of texts, or None where no field is there."""
        return self._list(names, str, "texts")

    def numbers(self, *names: str) -> list[int] | None:
        """A list of integers, or None where no field is there."""
        return self._list(names, int, "integers")

    def part(self, name: str) -> ModelConfig | None:
        """A field that is itself an object of fields, or None where it is not there."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(f"{name} is {value!r:.40}; expected a JSON object")
        return ModelConfig(f"{self.where}: {name}", value, {}, self.assumptions)

    def error(self, message: str) -> PlanError:
        """An error about this file."""
        return PlanError(f"{self.where}: {message}")

    def assume(self, sentence: str) -> None:
        """Note what was taken for granted, once."""
        if sentence not in self.assumptions:
            self.assumptions.append(sentence)

    def _assume_default(self, name: str, value: object) -> None:
        given = "null" if name in self.values else "not"
        self.assume(f"{name} is {given} in the file: {value}, the default of the class")

    def _list(self, names: tuple[str, ...], kind: type, what: str) -> list[Any] | None:
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if not isinstance(value, list) or not all(type(item) is kind for item in value):
                raise self.error(f"{name} is {value!r:.40}; expected a list of {what}")
            return value
        return None


def config_path(source: str | Path) -> Path:
    """The file itself, or the `config.json` of a folder."""
    path = Path(source)
    return path / "config.json" if path.is_dir() else path


def read_config(source: str | Path | Mapping[str, Any]) -> ModelConfig:
    """The configuration in a file, in the `config.json` of a folder, or in a mapping.

    Of a model of several parts (images, sound) the part that makes text. Raises `PlanError`.
    """
    where = "[plan.read_config]"
    if isinstance(source, Mapping):
        return _text_part(f"{where} the configuration", source)
    if not isinstance(source, str | Path):
        raise PlanError(
            f"{where} the configuration is {source!r:.40}; expected a path or a mapping of fields"
        )
    path = config_path(source)
    where = f"{where} '{path}'"
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PlanError(
            f"{where} cannot be read: {error.strerror or error}; expected a config.json, or the "
            "folder that holds one"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where} is not JSON ({error}); expected a config.json") from error
    if not isinstance(values, dict):
        raise PlanError(f"{where} is a JSON {type(values).__name__}; expected one JSON object")
    return _text_part(where, values)


def _text_part(where: str, values: Mapping[str, Any]) -> ModelConfig:
    """The innermost text model, with what only the outer one says of dtype and name."""
    for name in TEXT_PARTS:
        inner = values.get(name)
        if isinstance(inner, Mapping):
            outer = {key: values[key] for key in OUTER if values.get(key) is not None}
            missing = {key: value for key, value in outer.items() if inner.get(key) is None}
            return _text_part(where, {**inner, **missing})
    return ModelConfig(where, values)
