"""What a person waits for before anything happens: ``lungunet --help`` and ``import lungunet``.

``--help`` is held against ``import typer``, which it cannot do without; ``import lungunet`` against
a bare interpreter. All four run in turns, in processes of their own. Prints a table; ``--out``
writes it as JSON too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lungunet.data.files import write_text

BARE, PACKAGE, TYPER, HELP = "bare python", "import lungunet", "import typer", "lungunet --help"
COMMANDS = {
    BARE: ("-c", "pass"),
    PACKAGE: ("-c", "import lungunet"),
    TYPER: ("-c", "import typer"),
    HELP: ("-m", "lungunet", "--help"),
}


def seconds(arguments: tuple[str, ...]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="write JSON here")
    args = parser.parse_args()

    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for name, command in COMMANDS.items():
        seconds(command)  # the first one compiles, and fills the disk's cache
        taken[name].clear()
    for _ in range(args.repeats):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    median_ms = {name: statistics.median(times) * 1000 for name, times in taken.items()}
    # Of each turn the difference, then their median: a machine that slows down slows both.
    pairs = zip(taken[PACKAGE], taken[BARE], strict=True)
    above_bare_ms = statistics.median(ours - bare for ours, bare in pairs) * 1000
    ratios = [ours / theirs for ours, theirs in zip(taken[HELP], taken[TYPER], strict=True)]
    help_per_typer = statistics.median(ratios)

    for name, value in median_ms.items():
        print(f"{name:<16} {value:7.1f} ms")
    print(f"\nimport lungunet above bare python: {above_bare_ms:.1f} ms (at most 5)")
    print(f"lungunet --help per import typer:  {help_per_typer:.2f} (at most 3)")
    if args.out:
        result = {
            "median_ms": median_ms,
            "import_above_bare_ms": above_bare_ms,
            "help_per_typer": help_per_typer,
        }
        write_text(args.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
