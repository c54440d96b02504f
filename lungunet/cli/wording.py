"""From what the library calls a thing to what the command line calls it.

Messages of the library name arguments, as ``overwrite=True`` or ``batch_size``; whoever typed a
command wants to read ``--overwrite`` and ``--batch-size``.
"""

import re
import shlex
import sys
from typing import Any

_CALLED_OTHERWISE = {
    "refine=False": "raw=True",
    "out=None": "in_place=True",
    "mask_codec": "mask_labels",
}
_CODEC = re.compile(r"\b(mask_)?codec=LabelCodec\.parse\(('[^']*')\)")
_VALUE = r"""('[^']*'|"[^"]*"|[^\s;()'"]*[^\s;()'".,:])"""


def in_options(text: str) -> str:
    """Return a message with the arguments that it names as options of the verb that runs."""
    if ".toml: " in text:  # about a file, in which settings are called as in Python
        return text
    options = _options()
    if "labels" in options:
        text = _CODEC.sub(lambda found: f"{found[1] or ''}labels={found[2]}", text)
    for ours, theirs in _CALLED_OTHERWISE.items():
        text = text.replace(ours, theirs)
    known = "|".join(options)
    if not known:
        return text

    def typed(found: re.Match[str]) -> str:
        on, off = options[found[1]]
        value = found[2].strip("'\"")
        if value in ("True", "False"):
            return on if value == "True" else off or f"no {on}"
        return f"{on} {shlex.quote(value)}"

    text = re.sub(rf"(?<![\w.'/-])({known})={_VALUE}", typed, text)
    # What is read in errors.csv too names the option behind the argument: here once is enough.
    text = re.sub(r"(--[\w-]+(?: \w+)?) \('lungunet \.\.\. \1'\)", r"\1", text)
    joined = "|".join(name for name in options if "_" in name)  # such are no words of English
    if not joined:
        return text
    return re.sub(rf"(?<![\w.'/-])({joined})(?![\w=.(-])", lambda found: options[found[1]][0], text)


def _options() -> dict[str, tuple[str, str]]:
    """Return the options of the verb: by argument, how each is typed, and how its contrary."""
    import typer

    from lungunet.cli.app import app

    verbs: Any = typer.main.get_command(app)
    verb = next((verbs.commands[word] for word in sys.argv[1:] if word in verbs.commands), None)
    return {
        option.name: (option.opts[0], (option.secondary_opts or [""])[0])
        for option in (verb.params if verb else ())
        if option.param_type_name == "option"
    }
