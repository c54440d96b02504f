"""What several threads change for a while is as it was when the last is out, and theirs alone."""

import logging
import pickle
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lungunet.process_wide import across_threads, ignored_warnings, muted_logger

LOUD = ["loud"]


@across_threads
@contextmanager
def hushed(word: str = "hushed") -> Iterator[str]:
    before = LOUD[:]
    LOUD[:] = [word]
    try:
        yield word
    finally:
        LOUD[:] = before


def in_a_thread(work: object, *args: object) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work, *args).result()  # type: ignore[arg-type]


@contextmanager
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said


class TestAcrossThreads:
    def test_the_last_out_puts_back_what_the_first_in_found(self) -> None:
        first, second = hushed(), hushed()
        assert first.__enter__() == second.__enter__() == "hushed"
        in_a_thread(first.__exit__, None, None, None)  # the first in is not the last out
        assert LOUD == ["hushed"]
        second.__exit__(None, None, None)
        assert LOUD == ["loud"]

    def test_blocks_may_be_nested_and_left_by_an_error(self) -> None:
        with hushed():
            with pytest.raises(KeyError), hushed():
                raise KeyError
            assert LOUD == ["hushed"]
        assert LOUD == ["loud"]

    def test_what_cannot_be_entered_is_tried_again(self) -> None:
        tries = []

        @across_threads
        @contextmanager
        def broken() -> Iterator[None]:
            tries.append(1)
            if len(tries) == 1:
                raise KeyError
            yield

        with pytest.raises(KeyError), broken():
            pass
        with broken():
            assert len(tries) == 2

    def test_other_arguments_are_apart(self) -> None:
        with hushed("a") as a, hushed("b") as b:
            assert (a, b, LOUD) == ("a", "b", ["b"])
        assert LOUD == ["loud"]

    def test_a_logger_gets_its_level_back_from_the_last(self) -> None:
        logger = logging.getLogger("lungunet.tests.muted")
        first, second = (muted_logger(logger.name, logging.ERROR) for _ in range(2))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert logger.level == logging.ERROR
        second.__exit__(None, None, None)
        assert logger.level == logging.NOTSET


class TestIgnoredWarnings:
    def test_they_are_those_of_this_thread(self) -> None:
        with recorded() as said, ignored_warnings():
            warnings.warn("mine", stacklevel=1)
            in_a_thread(warnings.warn, "of another")
        assert [str(one.message) for one in said] == ["of another"]

    def test_they_may_begin_in_a_certain_way(self) -> None:
        with recorded() as said, ignored_warnings("Encoder .* tokens"):
            warnings.warn("Encoder has no tokens", stacklevel=1)
            warnings.warn("no Encoder has tokens", stacklevel=1)
        assert [str(one.message) for one in said] == ["no Encoder has tokens"]

    def test_after_an_inner_block_the_outer_goes_on(self) -> None:
        with recorded() as said, ignored_warnings():
            with ignored_warnings("only this"):
                pass
            warnings.warn("anything", stacklevel=1)
        assert not said

    def test_an_error_made_of_a_warning_is_none_in_the_block(self) -> None:
        with ignored_warnings():
            warnings.warn("odd", stacklevel=1)
        with pytest.raises(UserWarning, match="odd"):
            warnings.warn("odd", stacklevel=1)

    def test_the_list_of_filters_is_the_same_afterwards(self) -> None:
        home, before = warnings.filters, list(warnings.filters)
        with ignored_warnings(), ignored_warnings():
            assert len(warnings.filters) == len(before) + 1
        assert warnings.filters is home
        assert list(home) == before

    def test_nothing_stays_where_another_block_overlaps(self) -> None:
        before, ours, theirs = list(warnings.filters), ignored_warnings(), warnings.catch_warnings()
        ours.__enter__()
        theirs.__enter__()
        ours.__exit__(None, None, None)
        assert list(warnings.filters) == before
        ours = ignored_warnings()
        ours.__enter__()
        theirs.__exit__(None, None, None)
        ours.__exit__(None, None, None)
        assert list(warnings.filters) == before

    def test_what_was_said_once_is_not_said_again(self) -> None:
        def say() -> None:
            warnings.warn("once for this place", stacklevel=1)

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("default")
            say()
            with ignored_warnings():
                pass
            say()
        assert len(said) == 1

    def test_filters_can_be_sent_to_another_process(self) -> None:
        with ignored_warnings():
            sent = pickle.loads(pickle.dumps(list(warnings.filters)))
        assert sent[0][0] == "ignore"
        assert not sent[0][1].match("")

    def test_many_threads_lose_no_warning_of_each_other(self) -> None:
        def ignore() -> None:
            while not done.is_set():
                with ignored_warnings():
                    warnings.warn("ignored", stacklevel=1)

        done, before = threading.Event(), list(warnings.filters)
        with recorded() as said, ThreadPoolExecutor(3) as pool:
            for _ in range(3):
                pool.submit(ignore)
            for _ in range(3000):
                warnings.warn("seen", stacklevel=1)
            done.set()
        assert [str(one.message) for one in said] == ["seen"] * 3000
        assert list(warnings.filters) == before
