#!/bin/sh
# The Pythons beside the oldest one: that the code compiles without a warning, and a fast part of the suite.
# An environment takes minutes and 6 GB, so one is made with --install alone, and used where there is one.
cd "$(dirname "$0")/.." || exit 1
for version in 3.12 3.13; do
    python=
    for each in "$(command -v "python$version")" "$HOME/.pyenv/versions/$version".*/bin/python; do
        if [ -x "$each" ] && "$each" -c '' 2>/dev/null; then python=$each; fi
    done
    if [ -z "$python" ]; then
        echo "Python $version: not on this machine, not tested"
        continue
    fi
    PYTHONPYCACHEPREFIX=build/compiled "$python" -W error -m compileall -q lungunet tests examples || exit 1
    if [ "$1" = --install ]; then
        "$python" -m venv ".venv-$version" || exit 1
        ".venv-$version/bin/python" -m pip install --quiet --editable '.[dev]' || exit 1
    fi
    if [ ! -x ".venv-$version/bin/pytest" ]; then
        echo "Python $version: compiles; 'make test-pythons' makes an environment and runs tests"
        continue
    fi
    ".venv-$version/bin/python" -m pytest -q tests/data/test_codec.py tests/data/test_dataset.py tests/metrics \
        tests/cli/test_options.py tests/cli/test_manners.py tests/training/test_run_folder.py || exit 1
done
