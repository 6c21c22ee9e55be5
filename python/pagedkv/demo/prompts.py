"""What the demo asks for unless told: beginnings of docstrings, all behind one system prompt."""

from __future__ import annotations

from pathlib import Path

from pagedkv.models import ModelError

__all__ = ["PROMPTS", "SYSTEM", "read_prompts"]

SYSTEM = "Functions and classes of Python's standard library, each described in a sentence."

PROMPTS = (
    "Return the name of the ",
    "Return a list of ",
    "Return True if the ",
    "Return a string ",
    "Return the number of ",
    "Return an iterator over ",
    "Return the current ",
    "Return a new ",
    "Return the value of ",
    "Return the first ",
    "Return the path ",
    "Return a dictionary ",
    "Return whether ",
    "Return the size of ",
    "Return a tuple ",
    "Return the length of ",
    "Return a copy of ",
    "Return the list of ",
    "Return the full ",
    "Return the directory ",
    "Return True if this ",
    "Return True if path ",
    "Return the type ",
    "Return the default ",
    "Return the time ",
    "Return the module ",
    "Return the source ",
    "Test if ",
    "Get the ",
    "Read ",
    "Send ",
    "Construct ",
)


def read_prompts(path: str | Path) -> list[str]:
    """One prompt a line; empty lines are left out.

    Raises:
        ModelError: there is none.
        OSError: the file cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ModelError(f"[demo.read_prompts] '{path}' holds no prompt; expected one a line")
    return prompts
