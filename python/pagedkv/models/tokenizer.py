"""Text to token ids and back: bytes without any package, the rest by Hugging Face's tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pagedkv.errors import UnsupportedError
from pagedkv.models.config import LlamaConfig, read_json
from pagedkv.models.errors import ModelError

__all__ = ["ByteTokenizer", "Tokenizer", "load_tokenizer"]


class Tokenizer(Protocol):
    """What the demo needs of a vocabulary."""

    def encode(self, system: str, prompt: str) -> list[int]:
        """The ids that a text begins with: a system prompt (may be empty), then the prompt."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids; special tokens are left out, what is no UTF-8 becomes U+FFFD."""
        ...


class ByteTokenizer:
    """Each byte is a token, and a text is `bos bytes eos`; a system prompt is a text before."""

    def __init__(self, byte_ids: Sequence[int], bos: int | None, eos: int | None) -> None:
        """`byte_ids[b]` is the id of byte b; `bos` and `eos` stand around a text if there are."""
        if len(set(byte_ids)) != 256:
            raise ModelError(
                f"[models.ByteTokenizer] {len(set(byte_ids))} different ids; expected 256"
            )
        self._ids = list(byte_ids)
        self._bytes = {token: byte for byte, token in enumerate(byte_ids)}
        self._before = [] if bos is None else [bos]
        self._after = [] if eos is None else [eos]

    def encode(self, system: str, prompt: str) -> list[int]:
        """As `Tokenizer.encode`. O(bytes)."""
        texts = [*self._before, *self._encode(prompt)]
        if system:
            texts = [*self._before, *self._encode(system), *self._after, *texts]
        return texts

    def decode(self, tokens: Sequence[int]) -> str:
        """As `Tokenizer.decode`. O(tokens)."""
        return bytes(self._bytes[t] for t in tokens if t in self._bytes).decode("utf-8", "replace")

    def _encode(self, text: str) -> list[int]:
        # Names of files and arguments that were no UTF-8 come as lone surrogates.
        return [self._ids[byte] for byte in text.encode("utf-8", "surrogateescape")]


class _PackageTokenizer:
    """A tokenizer.json that only the tokenizers package understands."""

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise UnsupportedError(
                f"[models.load_tokenizer] '{path}' needs the tokenizers package, which is not "
                "installed; expected pip install 'pagedkv[tokenizers]', or bytes as tokens"
            ) from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing more exact
            raise ModelError(
                f"[models.load_tokenizer] '{path}' is refused by tokenizers ({error}); expected "
                "a tokenizer.json"
            ) from None

    def encode(self, system: str, prompt: str) -> list[int]:
        text = f"{system}\n\n{prompt}" if system else prompt
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return list(self._tokenizer.encode(text).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def load_tokenizer(folder: str | Path, config: LlamaConfig) -> Tokenizer:
    """The tokenizer.json of a Hugging Face folder.

    One whose vocabulary is the 256 bytes and special tokens needs no package.

    Raises:
        ModelError: there is none, or it is broken.
        UnsupportedError: it needs the tokenizers package, which is not installed.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"[models.load_tokenizer] '{folder}' has no tokenizer.json; expected one beside "
            "config.json"
        )
    byte_ids = _byte_ids(read_json(path))
    if byte_ids is None:
        return _PackageTokenizer(path)
    eos = config.eos_token_ids[0] if config.eos_token_ids else None
    return ByteTokenizer(byte_ids, config.bos_token_id, eos)


def _byte_ids(raw: dict[str, Any]) -> list[int] | None:
    """The id of each byte, if the vocabulary is that of bytes and nothing is merged."""
    model, before = raw.get("model"), raw.get("pre_tokenizer")
    if not isinstance(model, dict) or not isinstance(before, dict):
        return None
    plain = raw.get("normalizer") is None and raw.get("post_processor") is None
    if not plain or before.get("type") != "ByteLevel" or before.get("add_prefix_space", True):
        return None
    vocabulary = model.get("vocab")
    if model.get("type") != "BPE" or model.get("merges") != [] or not isinstance(vocabulary, dict):
        return None
    ids = [vocabulary.get(letter) for letter in _byte_letters()]
    return [each for each in ids if type(each) is int] if None not in ids else None


def _byte_letters() -> list[str]:
    """The letter that byte-level vocabularies write each byte as: itself where it is printed."""
    letters = []
    hidden = 0
    for byte in range(256):
        shown = 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE
        letters.append(chr(byte if shown else 256 + hidden))
        hidden += not shown
    return letters
