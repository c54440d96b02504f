"""Turn the NumPy sections of a docstring into reStructuredText.

Not napoleon: our type slot holds shapes, dtypes, units and whole clauses, which it would take for
the names of classes. Types stand in the signature, where they are links.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from sphinx.application import Sphinx

_LISTS = ("Parameters", "Returns", "Yields", "Raises")
_SECTIONS = (*_LISTS, "References", "Examples")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the converter with autodoc."""
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-process-signature", mend_signature)
    return {"parallel_read_safe": True}


def mend_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    text: str | None,
    back: str,
) -> tuple[str | None, str]:
    """Write a default that is made anew each time as dots: <factory> is no Python to parse."""
    return text and text.replace("<factory>", "..."), back


def convert(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list) -> None:
    """Replace ``lines`` in place; the signature is that of autodoc's event."""
    converted: list[str] = []
    for title, body in _sections(lines):
        if title in _LISTS:
            converted += _field(title, body)
        elif title:
            converted += ["", f".. rubric:: {title}", "", *body, ""]
        else:
            converted += body
    lines[:] = converted


def _sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    title, body = "", []
    for line, under in pairwise([*lines, ""]):
        if line in _SECTIONS and under == "-" * len(line):
            yield title, body
            title, body = line, []
        elif not (title and not body and set(line) == {"-"}):
            body.append(line)
    yield title, body


def _field(title: str, body: list[str]) -> list[str]:
    """Render a section as a field that lists its entries."""
    rendered = ["", f":{title}:"]
    for head, text in _entries(body):
        if title == "Parameters":
            first, text = _parameter(head, text)
        elif title == "Raises":
            first = ", ".join(f":exc:`{error}`" for error in head.split(", "))
        else:
            name, colon, about = head.partition(" : ")
            first = f"**{name}** : {about}" if colon else head
        rendered += [f"    - {first}", "", "      " + " ".join(text), ""]
    return rendered


def _parameter(head: str, text: list[str]) -> tuple[str, list[str]]:
    """Return the first clause of a parameter, and what is said beyond it."""
    names, colon, about = head.partition(" : ")
    names = re.sub(r"(\*+)", r"\\\1", names)
    # A clause may go on in the next line; a line that begins anew says more.
    if text and not (colon and text[0][:1].isupper()):
        about, text = " ".join([about, *text]).strip(), []
    return f"**{names}** : {about}" if about else f"**{names}**", text


def _entries(body: list[str]) -> Iterator[tuple[str, list[str]]]:
    head, text = "", []
    for line in body:
        if line and not line.startswith(" "):
            if head:
                yield head, text
            head, text = line, []
        elif line.strip():
            text.append(line.strip())
    if head:
        yield head, text
