"""The sections of a report, one after the other."""

from __future__ import annotations

from gradembed.report._interference import write_interference
from gradembed.report._overview import write_overview, write_settings
from gradembed.report._page import Page
from gradembed.report._request import Request
from gradembed.report._tree import write_tree
from gradembed.report._units import write_units


def page_of(request: Request) -> Page:
    """Measure, and write down what was found.

    Returns:
        The page.
    """
    page = Page(request.options["title"] or f"Report on a trained {type(request.model).__name__}")
    shapes = write_overview(page, request)
    layers = write_interference(page, request)
    write_tree(page, request, layers, shapes)
    write_units(page, request, layers, shapes)
    write_settings(page, request)
    return page
