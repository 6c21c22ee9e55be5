"""The directive ``command-line``: the commands of ``pagedkv`` and their options.

They are read from the parser itself, so that the page names what the program takes.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from pagedkv.cli.app import _parser


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class CommandLine(SphinxDirective):
    """A section for each command."""

    def run(self) -> list[nodes.Node]:
        lines = [line for parser in commands() for line in section(parser)]
        holder = nodes.section()
        holder.document = self.state.document
        nested_parse_with_titles(self.state, StringList(lines, "command line"), holder)
        return list(holder.children)


def commands() -> list[argparse.ArgumentParser]:
    """Every command, in the order in which ``pagedkv --help`` has them."""
    parser = _parser()
    choices = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [command for action in choices for command in action.choices.values()]


def section(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A command as reStructuredText."""
    yield from [parser.prog, "~" * len(parser.prog), "", f".. program:: {parser.prog}", ""]
    usage = parser.format_usage().removeprefix("usage: ")
    yield from [".. code-block:: text", "", *indented(usage), ""]
    yield from literal_or_text(parser.description or "")
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
        for action in actions:
            if isinstance(action, argparse._HelpAction):
                continue
            yield from option(action)
    yield from literal_or_text(parser.epilog or "")


def option(action: argparse.Action) -> Iterator[str]:
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None and action.metavar is None:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    value = "" if action.nargs == 0 else f" {metavar}"
    names = [f"{name}{value}" for name in action.option_strings] or [metavar]
    text = (action.help or "") % {**vars(action), "prog": "pagedkv"}
    yield from [f".. option:: {', '.join(names)}", "", *indented(escaped(text)), ""]


def literal_or_text(text: str) -> Iterator[str]:
    """Text with a layout of its own stays as it is; the rest is a paragraph."""
    for paragraph in filter(None, text.strip().split("\n\n")):
        if any(line.startswith("  ") for line in paragraph.splitlines()):
            yield from [".. code-block:: text", "", *indented(paragraph), ""]
        else:
            yield from [*escaped(paragraph).splitlines(), ""]


def indented(text: str) -> list[str]:
    return ["   " + line for line in text.strip("\n").splitlines()]


def escaped(text: str) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", text)
