"""Traces: both formats are read, recognised by content, and broken lines are found."""

import json
from pathlib import Path

import pytest

from pagedkv.replay import Request, TraceError, parse_trace, read_trace

DATA = Path(__file__).parent / "data"

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def mooncake(timestamp: object = 0, prompt: object = 10, output: object = 5) -> bytes:
    record = {"timestamp": timestamp, "input_length": prompt, "output_length": output}
    return json.dumps(record).encode() + b"\n"


def azure(time: str = "18:00:00.0000000", prompt: object = 10, output: object = 5) -> bytes:
    return f"2023-11-16 {time},{prompt},{output}\r\n".encode()


def test_a_mooncake_sample_is_read():
    trace = read_trace(DATA / "mooncake_sample.jsonl")
    assert trace.format == "mooncake"
    assert len(trace.requests) == 12
    assert trace.requests[0] == Request(1, 0.0, 6758, 500, tuple(range(14)))
    assert trace.skipped == []


def test_hash_ids_of_any_kind_are_kept_and_none_are_none():
    lines = [mooncake().replace(b"}", b', "hash_ids": [7, "a", -1]}'), mooncake()]
    assert [request.hash_ids for request in parse_trace(lines, "t").requests] == [
        (7, "a", -1),
        None,
    ]


@pytest.mark.parametrize("value", ["7", "[1.5]", "[true]", "[[1]]", '{"0": 1}'])
def test_hash_ids_that_are_no_list_of_ids_break_the_line(value):
    line = mooncake().replace(b"}", f', "hash_ids": {value}}}'.encode())
    trace = parse_trace([mooncake(), line], "t")
    assert [broken.number for broken in trace.skipped] == [2]
    assert trace.skipped[0].reason.endswith("; expected a list of integers or strings")


def test_an_azure_sample_is_read_with_times_since_its_first_request():
    trace = read_trace(DATA / "azure_sample.csv")
    assert trace.format == "azure"
    assert len(trace.requests) == 12
    assert trace.requests[0] == Request(2, 0.0, 4808, 10)
    assert trace.requests[1] == Request(3, 52.0, 3180, 8)


def test_the_format_is_recognised_by_content_not_by_name(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_bytes(mooncake())
    assert read_trace(path).format == "mooncake"


def test_a_byte_order_mark_and_crlf_are_no_part_of_a_trace():
    assert len(parse_trace([b"\xef\xbb\xbf" + HEADER, azure()], "t").requests) == 1
    line = b"\xef\xbb\xbf" + mooncake().replace(b"\n", b"\r\n")
    assert parse_trace([line], "t").requests == [Request(1, 0.0, 10, 5)]


def test_blank_lines_are_counted_but_hold_nothing():
    trace = parse_trace([b"\n", mooncake(), b"  \r\n", mooncake()], "t")
    assert [request.number for request in trace.requests] == [2, 4]
    assert trace.skipped == []


def test_requests_are_sorted_by_time_and_equal_times_keep_their_order():
    lines = [mooncake(50), mooncake(0), mooncake(50), mooncake(25)]
    numbers = [request.number for request in parse_trace(lines, "t").requests]
    assert numbers == [2, 4, 1, 3]


def test_an_azure_row_before_the_first_one_starts_the_clock():
    trace = parse_trace([HEADER, azure("18:00:01.5"), azure("18:00:00.25")], "t")
    assert [(r.number, r.timestamp_ms) for r in trace.requests] == [(3, 0.0), (2, 1250.0)]


def test_azure_columns_are_found_by_name_in_any_order():
    lines = [b"GeneratedTokens,TIMESTAMP,ContextTokens,x\n", b"7,2024-05-10 00:00:00+00:00,9,1\n"]
    assert parse_trace(lines, "t").requests == [Request(2, 0.0, 9, 7)]


def test_azure_rows_without_a_header_are_read_in_the_usual_order():
    assert parse_trace([azure(prompt=9, output=7)], "t").requests == [Request(1, 0.0, 9, 7)]


def test_a_request_may_generate_nothing():
    assert parse_trace([mooncake(output=0)], "t").requests == [Request(1, 0.0, 10, 0)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"timestamp": 0,\n', "not JSON"),
        (b"[1, 2]\n", "expected one JSON object"),
        (b'{"timestamp": 0, "input_length": 3}\n', "output_length is missing"),
        (mooncake(prompt=0), "input_length is 0"),
        (mooncake(prompt=-4), "input_length is -4"),
        (mooncake(prompt=2.5), "input_length is 2.5"),
        (mooncake(prompt="3"), "input_length is '3'"),
        (mooncake(prompt=True), "input_length is True"),
        (mooncake(prompt=2**31), "input_length is 2147483648"),
        (mooncake(output=-1), "output_length is -1"),
        (mooncake(timestamp=-1), "timestamp is -1"),
        (mooncake(timestamp=float("nan")), "timestamp is nan"),
        (mooncake(timestamp=10**400), "timestamp is 1000"),
        (mooncake(timestamp=None), "timestamp is None"),
        (b"\xff\xfe{\n", "not UTF-8"),
        (b'{"a":' + b"[" * 100_000 + b"\n", "nested too deeply"),
    ],
)
def test_a_broken_json_line_is_skipped_with_its_number_and_reason(line, reason):
    trace = parse_trace([mooncake(), line, mooncake()], "t")
    assert len(trace.requests) == 2
    assert [broken.number for broken in trace.skipped] == [2]
    assert reason in trace.skipped[0].reason
    assert len(trace.skipped[0].reason) < 200


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2023-11-16 18:00:00,10\n", "2 columns"),
        (b"yesterday,10,5\n", "TIMESTAMP is 'yesterday'"),
        (azure(prompt="many"), "ContextTokens is 'many'"),
        (azure(prompt=0), "ContextTokens is 0"),
        (azure(prompt="\u0663"), "expected an integer"),
        (azure(output=-1), "GeneratedTokens is -1"),
        (azure(output=""), "GeneratedTokens is ''"),
        (azure(output="1.5"), "GeneratedTokens is '1.5'"),
    ],
)
def test_a_broken_csv_line_is_skipped_with_its_number_and_reason(line, reason):
    trace = parse_trace([HEADER, azure(), line, azure()], "t")
    assert len(trace.requests) == 2
    assert [broken.number for broken in trace.skipped] == [3]
    assert reason in trace.skipped[0].reason


def test_strict_reading_refuses_the_first_broken_line():
    lines = [mooncake(), b"{\n", mooncake(prompt=0)]
    with pytest.raises(TraceError, match=r"^\[replay.read_trace\] 't' line 2: not JSON"):
        parse_trace(lines, "t", strict=True)
    with pytest.raises(TraceError, match=r"line 1: "):
        parse_trace([b"garbage\n", mooncake()], "t", strict=True)


def test_broken_lines_before_the_first_request_are_skipped_too():
    trace = parse_trace([b"garbage\n", mooncake(prompt=0), mooncake()], "t")
    assert [broken.number for broken in trace.skipped] == [1, 2]
    assert len(trace.requests) == 1


def test_a_limit_stops_reading_after_so_many_requests():
    trace = parse_trace([mooncake(), b"{\n", mooncake(), b"{\n", mooncake()], "t", limit=2)
    assert [request.number for request in trace.requests] == [1, 3]
    assert [broken.number for broken in trace.skipped] == [2]


@pytest.mark.parametrize("lines", [[], [b"\n"], [HEADER]])
def test_a_trace_without_requests_is_empty_not_wrong(lines):
    assert parse_trace(lines, "t").requests == []


def test_a_file_in_no_known_format_is_one_clear_line(tmp_path):
    path = tmp_path / "photo.jsonl"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10)
    with pytest.raises(TraceError, match="no known format") as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", [True, False])
def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path, missing):
    path = tmp_path / "none.jsonl" if missing else tmp_path
    with pytest.raises(TraceError, match=r"^\[replay.read_trace\] cannot read ") as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)
