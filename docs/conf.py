"""Settings of the documentation; scripts/build_docs.py builds it."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import gradembed

project = "gradembed"
author = "The gradembed authors"
version = release = gradembed.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"gradembed {release}"
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False
html_math_renderer = "mathml"

# A name in single backticks is a public name: one that does not exist is an error.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [("py:(class|exc)", ".*")]  # types and errors of other projects, whose pages are elsewhere
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = napoleon_attr_annotations = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

CODE = re.compile(r"``.*?``|`[^`]*`")
EMPHASIS = re.compile(r"\*\*\w.*?\w\*\*|(?<![\w*])\*\w[^*]*\*(?![\w*])")


def plain(_app: object, what: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Keep |x| and * in docstrings from being read as markup, and the colons of properties as types."""
    for i, line in enumerate(lines):
        if not re.match(r"\s*(>>>|\.\.\.|\* |\*+\w+:)", line):
            kept = [(m.start(), m.end()) for pattern in (CODE, EMPHASIS) for m in pattern.finditer(line)]
            lines[i] = re.sub(
                r"[|*]|(?<=\w)_(?=: )",  # the last, of attributes such as embedding_
                lambda m, kept=kept: m[0] if any(a <= m.start() < b for a, b in kept) else "\\" + m[0],
                line,
            )
    if what == "property":
        lines.insert(0, "")


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find names that a docstring gives without the package's, and attributes by way of their class.

    Returns:
        A link, or nothing if there is no such name.
    """
    if node.get("refdomain") != "py" or node["reftype"] != "obj":
        return None
    target = node.get("reftarget", "").removeprefix("gradembed.")
    homes = [
        gradembed,
        *(thing for name in gradembed.__all__ if isinstance(thing := getattr(gradembed, name), ModuleType)),
    ]
    for home in homes:
        owner, _, attribute = target.removeprefix(f"{home.__name__.rpartition('.')[2]}.").partition(".")
        if owner in home.__all__:
            known = getattr(home, owner)
            has_it = attribute in getattr(known, "__dataclass_fields__", ()) or not attribute
            where = f"{home.__name__}.{owner}" + ("" if has_it else f".{attribute}")
            domain = env.get_domain("py")
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", where, node, content)
    return None


def skip(_app: object, _what: str, name: str, _thing: object, _skip: bool, _options: object) -> bool | None:
    """Leave out what scikit-learn adds to every estimator for its pipelines.

    Returns:
        True for such names.
    """
    return True if re.fullmatch(r"(get|set)(_\w+)?_(request|routing|metadata_routing)", name.split(".")[-1]) else None


def formula(self: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers draw by themselves: no script, no network.

    Raises:
        SkipNode: Always; it tells docutils that the formula is written.
    """
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Add the above to Sphinx.

    Returns:
        That pages may be read and written in parallel.
    """
    from sphinx.domains.python import PyObject

    for field in PyObject.doc_field_types:
        field.label = "Attributes" if field.name == "variable" else field.label
    app.add_html_math_renderer("mathml", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.connect("autodoc-process-docstring", plain, priority=400)  # before napoleon's
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
