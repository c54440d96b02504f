"""What verbs print with: progress bars, tables, short numbers."""

import math
import shlex
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar

import typer

from lungunet.errors import DataError, LungUNetError, counted

T = TypeVar("T")


class Result(Protocol):
    """What jobs yield for each of many items."""

    @property
    def error(self) -> LungUNetError | str | None:
        """Why the item could not be used; None where it could."""
        ...


R = TypeVar("R", bound=Result)
_SHOWN_ALIKE = 3


class _Alike:
    """Lines that differ in whom they are about alone: the first few are shown, the rest counted."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def show(self, text: str, *, kind: str = "") -> None:
        """Print ``WHERE: MESSAGE`` on stderr, or count it; ``kind`` stands before it."""
        alike = kind, text.partition(": ")[2] or text
        self._counts[alike] += 1
        if self._counts[alike] <= _SHOWN_ALIKE:
            warn(f"lungunet: {kind}{text}")

    def close(self) -> None:
        """Say of how many more the same is true, and forget them."""
        for (kind, message), count in self._counts.items():
            if count > _SHOWN_ALIKE:
                warn(f"lungunet: {kind}{count - _SHOWN_ALIKE} more, all alike: {message}")
        self._counts.clear()


_warned = _Alike()


def show_warning(text: str) -> None:
    """Print a warning on stderr; of many that are alike the first few."""
    _warned.show(text)


def close_warnings() -> None:
    """Say how many more warnings were like those that were shown."""
    _warned.close()


def going_on(results: Iterable[R], failed: list[str]) -> Iterator[R]:
    """Yield the results of a job; name what it skipped on stderr, and add that to ``failed``."""
    from lungunet.cli.wording import in_options

    skipped = _Alike()
    try:
        for result in results:
            if result.error is not None:
                failed.append(str(result.error))
                skipped.show(in_options(failed[-1]), kind="skipped ")
            yield result
    finally:
        skipped.close()


def refuse_skipped(failed: Sequence[str], total: int, noun: str) -> None:
    """Let the verb end with 1 where a job skipped something, and say what to do about it all."""
    if not failed:
        return
    fix = " Mend or remove them."
    if all(": no such file. " in why for why in failed):  # of which each line says what to do
        fix = ""
    elif len(failed) < total and all("a mask, no CT slice" in why for why in failed):
        fix = " Masks lie among them: give the slices alone, as 'COHORT/*/img', or a list (.txt)."
    raise DataError(f"{len(failed)} of {counted(total, noun)} skipped.{fix}")


_silent = False


def be_quiet(wanted: bool) -> bool:
    """Let :func:`say` print nothing from here on, and no bar show; or let them again."""
    global _silent
    _silent = wanted
    return wanted


def progress_bar(iterable: Iterable[T], *, desc: str, total: int) -> Iterator[T]:
    """Show a bar with rate and time left on stderr; nothing where that is no terminal."""
    if _silent or sys.stderr is None or not sys.stderr.isatty():
        yield from iterable
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeLeft(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(desc, total=total, rate="")
        for item in iterable:
            yield item
            bar.advance(task)
            speed = bar.tasks[task].speed
            bar.update(task, rate=f"{speed:.1f}/s" if speed else "")


class HeadedProgress:
    """Progress bars with a line above the first: said once work begins, and not before an error."""

    def __init__(self, heading: str) -> None:
        self._heading = heading

    def __call__(self, iterable: Iterable[T], *, desc: str, total: int) -> Iterator[T]:
        """Do what :func:`progress_bar` does."""
        if self._heading:
            say(self._heading)
            self._heading = ""
        return progress_bar(iterable, desc=desc, total=total)


def say(text: str = "") -> None:
    """Print one line on stdout, unless quiet was asked for."""
    if not _silent:
        typer.echo(text)


def say_json(content: Any) -> None:
    """Print JSON alone on stdout."""
    import json

    typer.echo(json.dumps(_plain(content), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """Return None for what is no finite number, however deep."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def warn(text: str) -> None:
    """Print one line on stderr."""
    typer.echo(text, err=True)


def show_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns: the first left, the others right."""
    cells = [list(header), *([short(value) for value in row] for row in rows)]
    show_columns(cells, right=range(1, len(header)))


def show_columns(rows: Sequence[Sequence[str]], *, right: Container[int] = ()) -> None:
    """Print rows of text in columns as wide as their widest cell; ``right`` ends on the right."""
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            pad(cell, width, right=i in right)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        say("  ".join(cells).rstrip())


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill up with spaces, before the text where it shall end on the right."""
    spaces = " " * (width - width_of(text))
    return spaces + text if right else text + spaces


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: a Chinese letter takes two."""
    from rich.cells import cell_len

    return cell_len(text)


def short(value: object, digits: int = 4, *, sign: Literal["", "+"] = "") -> str:
    """Format a cell: few digits for floats, a dash for what is undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:{sign}.{digits}f}" if isinstance(value, float) else str(value)


def command(*words: object) -> str:
    """Return a lungunet command as it is typed, quoted where a path needs it."""
    return shlex.join(["lungunet", *(str(word) for word in words)])


def minutes(seconds: float) -> str:
    """Format a duration: ``45 s``, ``4 min 36 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
