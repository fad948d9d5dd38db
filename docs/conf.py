"""Sphinx configuration: ``sphinx-build -W -b html docs site``."""

from __future__ import annotations

import warnings
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util.docutils import SphinxDirective

import ase_knncalc
from ase_knncalc.cli.app import commands

# joblib and others warn on import of what autodoc touches; Sphinx's own warnings are errors (-W).
warnings.filterwarnings("ignore")

project = "ase_knncalc"
author = copyright = "the authors of ase_knncalc"
version = release = ase_knncalc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

# Attributes of several classes bear one name; a docstring that lists its own means no other.
suppress_warnings = ["ref.python"]
autodoc_typehints = "none"  # shapes and units are in the docstrings, in words
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"ase_knncalc {release}"
html_copy_source = False
# Equations are MathML, which browsers draw themselves: the pages need no network.
html_math_renderer = "mathml"


def _inline(translator: Any, node: Any) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(translator: Any, node: Any) -> None:
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


class Commands(SphinxDirective):
    """All commands of the program with their options, from the program itself."""

    def run(self) -> list[nodes.Node]:
        """Sections of one command each."""
        sections: list[nodes.Node] = []
        for name, one in commands().items():
            section = nodes.section(ids=[f"knncalc-{name}"], names=[f"knncalc {name}"])
            section += nodes.title(text=f"knncalc {name}")
            text, _, example = (one.help or "").partition("Example: ")
            section += nodes.paragraph(text=text.strip())
            section += nodes.literal_block(text=example.strip(), language="sh")
            items = nodes.definition_list()
            for parameter in one.params:
                if parameter.name == "help":
                    continue
                flags = ", ".join([*parameter.opts, *parameter.secondary_opts])
                label = flags if flags.startswith("-") else flags.upper()
                help_text = getattr(parameter, "help", None) or ""
                default = parameter.default
                if default not in (None, False, "", ()) and not callable(default):
                    help_text += f" Default: {default}."
                item = nodes.definition_list_item()
                item += nodes.term("", "", nodes.literal(text=label))
                item += nodes.definition("", nodes.paragraph(text=help_text.strip()))
                items += item
            section += items
            sections.append(section)
        return sections


def setup(app: Any) -> None:
    """Register the renderer of equations and the directive for commands."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.add_directive("knncalc-commands", Commands)
