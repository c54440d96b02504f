"""Shell completion: Typer's, for every verb and option."""

import os
import subprocess
import sys


def complete(*words: str, **environment: str) -> str:
    code = "import sys; from lungunet.cli import main; sys.argv[0] = 'lungunet'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )
    return done.stdout


def test_bash_gets_a_script() -> None:
    # Which shell is asked for, instead of which one started this test.
    script = complete("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "complete -o default -F _lungunet_completion lungunet" in script


def test_verbs_and_options_are_completed() -> None:
    asked = {"_LUNGUNET_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert complete(**asked, COMP_WORDS="lungunet pre").split() == ["prepare", "predict"]
    asked["COMP_CWORD"] = "2"
    assert complete(**asked, COMP_WORDS="lungunet train --enc").split() == ["--encoder"]
