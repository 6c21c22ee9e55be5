"""Request traces: what a request is, and the readers of the two file formats.

`mooncake`: JSON lines with `timestamp` (ms), `input_length` and `output_length` (tokens), and
`hash_ids`, which say what prompts share.
`azure`: CSV with `TIMESTAMP` (date and time), `ContextTokens` and `GeneratedTokens`.
The format is recognised by the file's content, never by its name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from pagedkv.replay.errors import TraceError

__all__ = ["BrokenLine", "Request", "Trace", "parse_trace", "read_trace"]

# Longer than any context: what is beyond is a damaged number.
MAX_LENGTH = 2**31 - 1

# Whole milliseconds stay exact in a float up to here.
MAX_TIMESTAMP_MS = 2**53

AZURE_COLUMNS = ("timestamp", "contexttokens", "generatedtokens")


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it arrives (ms) and how many tokens it reads and writes."""

    number: int
    """Line of the trace, or the ordinal in a workload that was made; both count from 1."""
    timestamp_ms: float
    input_length: int
    output_length: int
    hash_ids: tuple[int | str, ...] | None = None
    """One id a block of the prompt: equal ids after equal ids are equal tokens. None: not told."""

    @property
    def total_length(self) -> int:
        """Tokens that the request holds when it ends."""
        return self.input_length + self.output_length


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that holds no request, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival (equal timestamps in the order of the file)."""

    name: str
    format: str
    requests: list[Request]
    skipped: list[BrokenLine] = field(default_factory=list)


def read_trace(path: str | Path, *, limit: int | None = None, strict: bool = False) -> Trace:
    """Read the first `limit` requests (all of them by default) of a trace file.

    Broken lines are collected in `Trace.skipped`; with `strict` the first one raises.
    Raises `TraceError`, in one line, for a file that cannot be opened or is neither format.
    """
    try:
        with Path(path).open("rb") as lines:
            return parse_trace(lines, str(path), limit=limit, strict=strict)
    except OSError as error:
        raise TraceError(
            f"[replay.read_trace] cannot read '{path}': {error.strerror or error}; "
            "expected a readable trace file"
        ) from error


def parse_trace(
    lines: Iterable[bytes], name: str, *, limit: int | None = None, strict: bool = False
) -> Trace:
    """Read a trace from raw lines; `read_trace` says how. A trace of no lines has no requests."""
    parser: LineParser | None = None
    requests: list[Request] = []
    skipped: list[BrokenLine] = []
    for number, raw in enumerate(lines, start=1):
        if limit is not None and len(requests) >= limit:
            break
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not line:
                continue
            if parser is None:
                parser = _recognise(line)
                if line == parser.header:
                    continue
            requests.append(parser.parse(number, line))
        except (ValueError, RecursionError) as error:
            skipped.append(BrokenLine(number, _reason(error)))
            if strict and parser is not None:
                break
    if skipped and parser is None:
        raise TraceError(
            f"[replay.read_trace] '{name}' is in no known format (line {skipped[0].number}: "
            f"{skipped[0].reason}); expected JSON lines with timestamp, input_length, "
            "output_length, or CSV with TIMESTAMP, ContextTokens, GeneratedTokens"
        )
    if skipped and strict:
        broken = skipped[0]
        raise TraceError(f"[replay.read_trace] '{name}' line {broken.number}: {broken.reason}")
    requests = parser.on_clock(requests) if parser is not None else []
    requests.sort(key=lambda request: request.timestamp_ms)
    return Trace(name, parser.format if parser is not None else "empty", requests, skipped)


class LineParser(Protocol):
    """One format's reader of lines."""

    format: str
    header: str | None
    """The line that names the columns, where there is one."""

    def parse(self, number: int, line: str) -> Request:
        """The line's request; ValueError says what is wrong with it."""

    def on_clock(self, requests: list[Request]) -> list[Request]:
        """The requests with timestamps of 0 or more."""


class MooncakeParser:
    """Lines of a Mooncake trace, whose timestamps are milliseconds since its own start."""

    format = "mooncake"
    header: str | None = None

    def parse(self, number: int, line: str) -> Request:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError(f"a JSON {type(record).__name__}; expected one JSON object")
        timestamp = _field(record, "timestamp")
        if (
            isinstance(timestamp, bool)
            or not isinstance(timestamp, int | float)
            or not 0 <= timestamp <= MAX_TIMESTAMP_MS
        ):
            raise ValueError(f"timestamp is {timestamp!r:.40}; expected milliseconds, 0 or more")
        return Request(
            number,
            float(timestamp),
            _length("input_length", _field(record, "input_length"), least=1),
            _length("output_length", _field(record, "output_length"), least=0),
            _hash_ids(record.get("hash_ids")),
        )

    def on_clock(self, requests: list[Request]) -> list[Request]:
        return requests


class AzureParser:
    """Lines of an Azure trace, whose clock starts at the earliest request."""

    format = "azure"

    def __init__(self, header: str | None = None) -> None:
        self.header = header
        names = list(AZURE_COLUMNS) if header is None else _column_names(header)
        self._columns = [names.index(name) for name in AZURE_COLUMNS]
        self._origin: datetime | None = None

    def parse(self, number: int, line: str) -> Request:
        cells = _cells(line)
        if len(cells) <= max(self._columns):
            raise ValueError(f"{len(cells)} columns; expected at least {max(self._columns) + 1}")
        time, context, generated = (cells[column].strip() for column in self._columns)
        return Request(
            number,
            self._milliseconds(time),
            _length("ContextTokens", _integer("ContextTokens", context), least=1),
            _length("GeneratedTokens", _integer("GeneratedTokens", generated), least=0),
        )

    def on_clock(self, requests: list[Request]) -> list[Request]:
        earliest = min((request.timestamp_ms for request in requests), default=0.0)
        if earliest == 0.0:
            return requests
        return [replace(r, timestamp_ms=r.timestamp_ms - earliest) for r in requests]

    def _milliseconds(self, text: str) -> float:
        """Time since the first row: small numbers, so that fractions of a step stay exact."""
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"TIMESTAMP is {text!r:.40}; expected YYYY-MM-DD HH:MM:SS.ffffff"
            ) from None
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        if self._origin is None:
            self._origin = time
        return (time - self._origin) / timedelta(milliseconds=1)


def _recognise(line: str) -> LineParser:
    """The parser of a trace that has this line; ValueError when the line is in no format."""
    if line.startswith("{"):
        MooncakeParser().parse(1, line)
        return MooncakeParser()
    if set(AZURE_COLUMNS) <= set(_column_names(line)):
        return AzureParser(line)
    AzureParser().parse(1, line)
    return AzureParser()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8; expected UTF-8 text"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at column {error.colno}); expected one JSON object"
    if isinstance(error, RecursionError):
        return "nested too deeply; expected one flat JSON object"
    return str(error)


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        raise ValueError(f"not CSV ({error}); expected comma-separated columns") from error


def _column_names(line: str) -> list[str]:
    return [cell.strip().lower() for cell in _cells(line)]


def _integer(name: str, text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit()):
        raise ValueError(f"{name} is {text!r:.40}; expected an integer")
    return int(text)


def _field(record: dict[str, Any], name: str) -> object:
    if name not in record:
        raise ValueError(f"{name} is missing; expected timestamp, input_length, output_length")
    return record[name]


def _length(name: str, value: object, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_LENGTH:
        raise ValueError(
            f"{name} is {value!r:.40}; expected an integer number of tokens, {least} or more"
        )
    return value


def _hash_ids(value: object) -> tuple[int | str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) in (int, str) for item in value):
        raise ValueError(f"hash_ids is {value!r:.40}; expected a list of integers or strings")
    return tuple(value)
