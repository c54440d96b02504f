"""The error tree is the one that its docstring draws."""

import re

import lungunet.errors as errors


def test_the_tree_is_as_drawn() -> None:
    drawn = re.findall(r"^    ([|+\- ]*)(\w+Error)(?:\((\w+)\))?", errors.__doc__ or "", re.M)
    parents: list[type] = []
    found = {name for name in vars(errors) if name.endswith("Error")}
    assert {name for _, name, _ in drawn} == found
    for indent, name, builtin in drawn:
        depth = len(indent) // 4
        error = getattr(errors, name)
        parents[depth:] = [error]
        if depth:
            assert parents[depth - 1] in error.__bases__
        if builtin:
            assert builtin in {base.__name__ for base in error.__mro__}


def test_listed_caps_at_eight() -> None:
    assert errors.listed([str(i) for i in range(8)], separator=" ") == "0 1 2 3 4 5 6 7"
    assert errors.listed([str(i) for i in range(9)], separator=" ").endswith("7 and 1 more")
