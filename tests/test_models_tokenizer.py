"""Tokenizers: bytes without a package, the rest by one, and the choice between the two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagedkv.errors import UnsupportedError
from pagedkv.models import DOCSTRINGS, ByteTokenizer, ModelError, load_tokenizer, read_config

BOS, EOS = 256, 257
CONFIG = read_config(DOCSTRINGS)


def shipped() -> ByteTokenizer:
    tokenizer = load_tokenizer(DOCSTRINGS, CONFIG)
    assert isinstance(tokenizer, ByteTokenizer)
    return tokenizer


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_text_of_bytes_is_its_utf8_and_comes_back(system: str, prompt: str) -> None:
    tokens = shipped().encode(system, prompt)
    before = [BOS, *system.encode(), EOS] if system else []
    assert tokens == [*before, BOS, *prompt.encode()]
    assert shipped().decode(tokens) == system + prompt


def test_special_tokens_have_no_text_and_broken_utf8_is_shown_as_such() -> None:
    assert shipped().decode([0x41, EOS, BOS, 0x42, 999]) == "AB"
    assert shipped().decode([0xC3]) == "\ufffd"
    assert shipped().decode([0xC3, 0xA9]) == "é"


def test_what_came_as_no_utf8_goes_in_as_it_was() -> None:
    argument = b"\xff\x41".decode("utf-8", "surrogateescape")
    assert shipped().encode("", argument) == [BOS, 0xFF, 0x41]


def test_a_byte_vocabulary_needs_256_different_ids() -> None:
    with pytest.raises(ModelError, match="1 different ids; expected 256"):
        ByteTokenizer([3] * 256, None, None)


def folder_with(tmp_path: Path, **changes: Any) -> Path:
    raw = json.loads((DOCSTRINGS / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**raw, **changes}))
    return tmp_path


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}},
        {"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}},
        {"model": {"type": "Unigram", "vocab": []}},
    ],
)
def test_any_other_vocabulary_wants_the_package_and_says_so_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'pagedkv\[tokenizers\]'"):
        load_tokenizer(folder_with(tmp_path, **changes), CONFIG)


def test_a_missing_or_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json; expected one beside"):
        load_tokenizer(tmp_path, CONFIG)
    (tmp_path / "tokenizer.json").write_text("[1]")
    with pytest.raises(ModelError, match="holds a list"):
        load_tokenizer(tmp_path, CONFIG)


def test_the_package_reads_the_shipped_vocabulary_alike() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is missing")
    theirs = tokenizers.Tokenizer.from_file(str(DOCSTRINGS / "tokenizer.json"))
    text = "Return the number of bytes, été.\n\t\x00\x7f\u00ad"
    assert theirs.encode(text).ids == shipped().encode("", text)[1:]
    assert theirs.decode(list(text.encode())) == shipped().decode(list(text.encode())) == text
    assert theirs.encode("a<eos>").ids == [0x61, EOS]


def test_merged_tokens_are_read_by_the_package(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is missing")
    raw = json.loads((DOCSTRINGS / "tokenizer.json").read_text())
    raw["model"]["vocab"]["th"] = 258
    raw["model"]["merges"] = ["t h"]
    tokenizer = load_tokenizer(folder_with(tmp_path, model=raw["model"]), CONFIG)
    assert not isinstance(tokenizer, ByteTokenizer)
    tokens = tokenizer.encode("a", "the")
    assert tokens == [0x61, 0x0A, 0x0A, 258, 0x65]
    assert tokenizer.decode([*tokens, EOS]) == "a\n\nthe"
    assert tokenizer.encode("", "the") == [258, 0x65]
    assert tokenizer.encode("", "a\udcff") == [0x61, *"\ufffd".encode()]


def test_a_vocabulary_that_the_package_refuses_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is missing")
    with pytest.raises(ModelError, match=r"tokenizer\.json' is refused by tokenizers"):
        load_tokenizer(folder_with(tmp_path, model={"type": "Nonsense"}), CONFIG)
