"""The command line: thin verbs over the public API, and the only place that prints.

Verbs import what they need when they run, so that ``lungunet --help`` costs Typer and no torch.
"""

import errno
import os
import sys
import warnings
from typing import NoReturn, TextIO

# How often PyTorch's threads on Linux look whether they may go on before they sleep. By default 15
# times as often, and meanwhile they keep the core from whatever they wait for: beside two busy
# programs training on two cores took three times as long. On a machine of its own this costs 3 %.
_SPINS = "20000"


def main() -> None:
    """Run the command line; the entry point of the ``lungunet`` script."""
    from lungunet.cli import console
    from lungunet.cli.app import app
    from lungunet.errors import LungUNetError

    warnings.showwarning = _show_warning
    console.be_quiet(False)  # where one process runs several commands
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # before torch is imported
    # Slices are worked on side by side; else each of these threads would wake all of OpenCV's, for
    # a fraction of a millisecond. Before it is imported: in a forked process it cannot be changed.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    try:
        app()
    except LungUNetError as err:
        _stop(str(err))
    except OSError as err:
        if err.filename is not None:
            _stop(f"{err.filename}: {err.strerror}. Check the path and who may use it.")
        if err.errno == errno.ENOSPC:  # what is printed goes to a file
            _stop(f"{err.strerror}. Make room.")
        raise  # about no path of the user's
    finally:
        console.close_warnings()


def _stop(text: str) -> NoReturn:
    from lungunet.cli.wording import in_options

    print(f"lungunet: {in_options(text)}", file=sys.stderr)  # noqa: T201
    sys.exit(1)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show ours as one line like an error; those of other libraries as Python does."""
    from lungunet.errors import LungUNetWarning

    if issubclass(category, LungUNetWarning):
        from lungunet.cli import console
        from lungunet.cli.wording import in_options

        console.show_warning(in_options(str(message)))
        return
    text = warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=file or sys.stderr)
