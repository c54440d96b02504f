"""Lung segmentation in CT: from two folders of slices and masks to a mask you can trust.

Importing this module imports the standard library alone; every public name is fetched from its
module when it is first used (PEP 562). ``__init__.pyi`` says which there are and where they live.
"""

from importlib import import_module


def _read_homes() -> dict[str, str]:
    """Read the stub's lines ``from MODULE import NAME as NAME``: each name and its module."""
    with open(f"{__path__[0]}/__init__.pyi", encoding="utf-8") as stub:  # noqa: PTH123 - start-up
        lines = [line.split() for line in stub]
    return {words[-1]: words[1] for words in lines if words[:1] == ["from"]}


_HOME_OF = _read_homes()

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    """Fetch a public name from its module (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lungunet' has no attribute '{name}'")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
