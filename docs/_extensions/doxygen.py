"""The C++ reference: runs doxygen, finds what has no comment, and shows a header's contents.

``cpp-header`` names what a header declares, and breathe's directives show each. A warning of
doxygen is one of Sphinx, so that ``-W`` stops at both.
"""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", run)
    app.add_directive("cpp-header", CppHeader)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def run(app: Sphinx, config: Config) -> None:
    """Writes the XML beside the site and tells breathe where it is."""
    doxygen = shutil.which("doxygen")
    if doxygen is None:
        raise ExtensionError("doxygen is missing (Debian: doxygen); expected it on the PATH")
    target = Path(app.outdir).parent / "doxygen"
    target.mkdir(parents=True, exist_ok=True)
    settings = f"@INCLUDE = docs/Doxyfile\nOUTPUT_DIRECTORY = {target}\n"
    done = subprocess.run(
        [doxygen, "-"], input=settings, capture_output=True, text=True, check=False, cwd=ROOT
    )
    for line in done.stderr.splitlines():
        logger.warning("doxygen: %s", line)
    if done.returncode != 0:
        raise ExtensionError(f"doxygen ended with {done.returncode}")
    config.breathe_projects = {"pagedkv": str(target / "xml")}
    for name in undocumented(target / "xml"):
        logger.warning("%s has no comment; expected one line of ///", name)


def undocumented(xml: Path) -> Iterator[str]:
    """Classes, functions and enumerations of the public headers without a comment.

    Members of a class may be known by their names.
    """
    for file in sorted(xml.glob("*.xml")):
        for compound in ElementTree.parse(file).getroot().iter("compounddef"):
            kind, name = compound.get("kind"), compound.findtext("compoundname")
            if kind in ("class", "struct", "union", "concept"):
                if compound.get("prot", "public") == "public" and not has_comment(compound):
                    yield str(name)
            elif kind == "namespace":
                for member in compound.iter("memberdef"):
                    if member.get("kind") in ("function", "enum") and not has_comment(member):
                        yield f"{name}::{member.findtext('name')}"


def has_comment(element: ElementTree.Element) -> bool:
    parts = (element.find("briefdescription"), element.find("detaileddescription"))
    return any("".join(part.itertext()).strip() for part in parts if part is not None)


class CppHeader(SphinxDirective):
    """What a header declares, in its order: ``.. cpp-header:: pagedkv/core/errors.hpp``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        header = self.arguments[0]
        xml = Path(self.config.breathe_projects["pagedkv"])
        described = description_of(xml, header)
        if described is None:
            raise self.error(f"{header}: doxygen has no such header; docs/Doxyfile names them")
        lines = [line for directive in directives(header, described, xml) for line in directive]
        holder = nodes.Element()
        self.state.nested_parse(StringList(lines, header), self.content_offset, holder)
        return list(holder.children)


def description_of(xml: Path, header: str) -> ElementTree.Element | None:
    """The XML of a header; two may have one name in different folders."""
    for file in sorted(xml.glob(f"*{Path(header).name.replace('_', '__').replace('.', '_8')}.xml")):
        described = ElementTree.parse(file).getroot().find("compounddef")
        if described is not None:
            location = described.find("location")
            if location is not None and location.get("file") == header:
                return described
    return None


def directives(header: str, described: ElementTree.Element, xml: Path) -> Iterator[list[str]]:
    """The lines of a directive for each thing that a header declares."""
    found: list[tuple[int, list[str]]] = []
    for inner in [*described.iter("innerclass"), *described.iter("innerconcept")]:
        file, name = xml / f"{inner.get('refid')}.xml", str(inner.text)
        compound = ElementTree.parse(file).getroot().find("compounddef")
        if compound is not None and not nested(name):
            kind = str(compound.get("kind"))
            options = [] if kind == "concept" else ["   :members:", "   :undoc-members:"]
            found.append((line_of(compound), [f".. doxygen{kind}:: {name}", *options, ""]))
    for define in described.iter("memberdef"):
        if define.get("kind") == "define" and has_comment(define):
            name = define.findtext("name", "")
            found.append((line_of(define), [f".. doxygendefine:: {name}", ""]))
    # doxygen describes what is in a namespace there, not at the file.
    for namespace in xml.glob("namespace*.xml"):
        for member in ElementTree.parse(namespace).getroot().iter("memberdef"):
            location = member.find("location")
            if location is not None and location.get("file") == header:
                kind, name = str(member.get("kind")), member.findtext("qualifiedname", "")
                name += parameters(member) if kind == "function" else ""
                found.append((line_of(member), [f".. doxygen{kind}:: {name}", ""]))
    for _, lines in sorted(found):
        yield lines


def nested(name: str) -> bool:
    """Whether it is a class in a class, which the outer one shows."""
    return any(part[:1].isupper() for part in name.split("::")[:-1])


def line_of(element: ElementTree.Element) -> int:
    location = element.find("location")
    return 0 if location is None else int(location.get("line", "0"))


def parameters(function: ElementTree.Element) -> str:
    """The types of its parameters, which tell overloads apart."""
    types = ("".join(p.itertext()) for p in function.iterfind("param/type"))
    return "(" + ", ".join(types) + ")"
