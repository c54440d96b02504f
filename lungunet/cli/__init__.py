"""The command line: thin verbs over the public API, and the only place that prints.

Verbs import what they need when they run, so that ``lungunet --help`` costs Typer and no torch.
"""

import sys


def main() -> None:
    """Run the command line; the entry point of the ``lungunet`` script."""
    from lungunet.cli.app import app
    from lungunet.errors import LungUNetError

    try:
        app()
    except LungUNetError as err:
        print(f"lungunet: {err}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
