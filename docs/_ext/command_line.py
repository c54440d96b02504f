"""Write the reference of the command line from the application, at each build: never stale."""

import typer
from sphinx.application import Sphinx

from lungunet.cli.app import app as application

_PAGE = "reference/cli"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what is called with the text of every page before it is parsed."""
    app.connect("source-read", _append)
    return {"parallel_read_safe": True}


def _append(app: Sphinx, page: str, source: list[str]) -> None:
    if page == _PAGE:
        source[0] += "\n" + "\n".join(render_verb(name) for name in verbs())


def verbs() -> list[str]:
    """List the verbs in the order of ``lungunet --help``."""
    return list(typer.main.get_command(application).commands)


def render_verb(name: str) -> str:
    """Return the section of one verb as Markdown."""
    verb = typer.main.get_command(application).commands[name]
    context = typer.Context(verb, info_name=f"lungunet {name}")
    records = [param.get_help_record(context) for param in verb.get_params(context)]
    records = [record for record in records if record and "--help" not in record[0]]
    arguments = [head.split(" <")[0] for head, _ in records if not head.startswith("-")]
    usage = " ".join(["lungunet", name, *arguments, "[OPTIONS]"])
    parts = [f"## {name}\n", f"```text\n{usage}\n```\n", (verb.help or "").strip() + "\n"]
    parts += [f"`{head}`\n: {_plain(text)}\n" for head, text in records]
    return "\n".join(parts)


def _plain(text: str) -> str:
    # Brackets would be read as links.
    return text.strip().replace("[", "\\[") or "See above."
