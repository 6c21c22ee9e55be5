"""The documentation site: ``.ci/docs`` builds it, every warning an error."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import pagedkv

project = "pagedkv"
author = "the pagedkv developers"
copyright = author
release = version = pagedkv.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "breathe",
    "command_line",
    "doxygen",
]
exclude_patterns = ["_*"]
nitpicky = True

# Pages are Markdown that a code host shows as well; links to headings have the host's anchors.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"pagedkv {release}"
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

default_role = "code"
smartquotes = False  # two dashes are an option of a command
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_docstring_signature = True
autoclass_content = "both"
autodoc_default_options = {"members": True, "inherited-members": False}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

breathe_default_project = "pagedkv"
breathe_domain_by_extension = {"hpp": "cpp"}
cpp_maximum_signature_line_length = 80

# What others document, and what a signature names but no page explains.
nitpick_ignore_regex = [
    ("py:class", r"(numpy|collections|pathlib|torch|transformers|types|typing)\..*"),
    ("py:class", r"(NDArray|ndarray|ArrayLike|DTypeLike|Figure|integer|float\d+|u?int\d+)"),
    ("py:class", r"pagedkv\.ops\.(arrays|data)\.\w+"),  # type variables and aliases
    ("py:class", r"pagedkv\.replay\.storage\.S"),
    ("cpp:identifier", r"(pagedkv|pagedkv::cpu|cpu|detail(::.*)?)"),  # namespaces
    ("cpp:identifier", r"(std(::.*)?|Byte|kAll|PAGEDKV_VERSION)"),
    ("cpp:identifier", r"(Backend|Executor)"),  # breathe does not register concepts by this role
]


def shorten(
    app: Sphinx, what: str, name: str, obj: object, options: object, text: str | None, returns: str
) -> tuple[str, str] | None:
    """Signatures as a reader writes them, not as the extension module has them."""

    def short(part: str) -> str:
        part = re.sub(DTYPE_LIKE, r"\1DTypeLike | None", part)
        part = re.sub(ARRAY_LIKE, r"\1ArrayLike", part)
        part = re.sub(ND_ARRAY, r"NDArray[\7]", part)
        part = re.sub(r"\(self(: [\w.]+)?(, )?", "(", part)
        if not name.startswith("pagedkv.plan."):  # which has a Batch of its own
            part = re.sub(r"(?<![\w.])Batch\b", "pagedkv.Batch", part)
        for long, plain in PLAIN_TYPES.items():
            part = part.replace(long, plain)
        return part

    return None if text is None else (short(text), short(returns or ""))


DTYPE_LIKE = r"(dtype: )[^=]*_dtype_like[^=]*(?= =)"
ARRAY_LIKE = r"(values: ).*_array_like.*_NestedSequence\[[^\]]*\]"
ND_ARRAY = (
    r"~?(numpy\.)?ndarray\[~?(typing\.)?(tuple\[)?(~?typing\.)?Any(, \.\.\.\])?, "
    r"~?(numpy\.)?dtype\[([\w.~]+)(\[[\w.~]+\])?\]\]"
)
PLAIN_TYPES = {
    ": ~typing.Any": "",
    ": typing.Any": "",
    ": Any": "",
    "pagedkv._core.": "pagedkv.",
    "collections.abc.": "",
    "numpy.typing.": "",
    "numpy.integer[typing.Any]": "integer",
    "numpy.": "",
    "typing.SupportsFloat | typing.SupportsIndex": "float",
    "typing.SupportsIndex": "int",
    "typing.": "",
}


def unite(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Napoleon takes what stands before a colon in the first line of a property for its type."""
    if what in ("attribute", "property") and lines and lines[-1].startswith(":type: "):
        lines[0] = f"{lines.pop().removeprefix(':type: ')}: {lines[0]}"


def setup(app: Sphinx) -> None:
    for module in ("attention", "data"):  # an overload says no more than the function's own line
        analyzer = ModuleAnalyzer.for_module(f"pagedkv.ops.{module}")
        analyzer.analyze()
        analyzer.overloads.clear()
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-docstring", unite, priority=900)
