"""Raw mask values on disk (255) to class indices (1), and back.

Owns the label map and nothing else: no files, no tensors.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from lungunet.data.kinds import check_kind, make_plain
from lungunet.errors import ConfigError, DataError, LabelError, counted, listed

IGNORE = 255
"""Stands in a mask of classes where a pixel counts nowhere; class indices end at 254."""

_UNKNOWN = IGNORE  # in the lookup table, too: the two are told apart by their raw values
_MAX_CLASSES = 255
_LOBES = 5  # up to here the values of a mask can all be lung: lungs, sides and lobes
MANY_VALUES = 16
SMEAR = 24  # how far JPEG and anti-aliasing push most values off the true one
_NOT_IN_FILE_NAMES = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f\ud800-\udfff]')
_RAW_RANGE = np.iinfo(np.int32)  # what the integer formats that OpenCV reads can hold


@dataclass(frozen=True)
class LabelCodec:
    """A strict map between raw mask values and class indices ``0..C-1``.

    Parameters
    ----------
    classes : raw value -> class index; every index from 0 to C-1 must occur, C is 2 to 255.
        :data:`IGNORE` as an index is no class: such pixels count in no loss and no score
    raw_values : class index -> the raw value that a predicted mask gets. May be left out where the
        map is one-to-one; a map that merges raw values cannot decode without it.
    names : one name per class, for messages and tables
    threshold : for masks with smeared values (JPEG, anti-aliasing): raw values from here on are
        class 1, smaller ones class 0. Two classes only.
    other : class of every raw value that the map does not name, as of all organs but the lung, or
        :data:`IGNORE`; None refuses such values

    Raises
    ------
    ConfigError
        When the map has gaps, or its parts disagree.

    Examples
    --------
    >>> codec = LabelCodec({0: 0, 255: 1})
    >>> codec.encode(np.array([[0, 255]], np.uint8))
    array([[0, 1]], dtype=uint8)
    >>> codec.decode(np.array([[0, 1]]))
    array([[  0, 255]], dtype=uint8)
    """

    classes: Mapping[int, int]
    raw_values: Mapping[int, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    threshold: int | None = None
    other: int | None = None

    def __post_init__(self) -> None:
        """Complete what follows from the map, and refuse what contradicts it."""
        make_plain(self)
        check_kind("classes", self.classes, Mapping, "Give {0: 0, 255: 1}, raw value to class.")
        classes = {int(raw): int(index) for raw, index in sorted(self.classes.items())}
        for raw in classes:
            if not _RAW_RANGE.min <= raw <= _RAW_RANGE.max:
                raise ConfigError(
                    f"label codec: raw value {raw} does not fit 32 bits, no mask can hold it. "
                    "Check the map."
                )
        n = self._count_classes(classes, self.other)
        raw_values = {int(index): int(raw) for index, raw in self.raw_values.items()}
        kept = {raw: index for raw, index in classes.items() if index != IGNORE}
        if not raw_values and len(kept) == n:
            raw_values = {index: raw for raw, index in kept.items()}
        if raw_values and sorted(raw_values) != list(range(n)):
            raise ConfigError(
                f"label codec: {len(raw_values)} raw values are declared for {n} classes. "
                "Declare one value per class."
            )
        for index, raw in raw_values.items():
            if classes.get(raw) != index:
                raise ConfigError(
                    f"label codec: class {index} is to be written as {raw}, but the map reads "
                    f"{raw} as class {classes.get(raw)}. Declare a value that the map reads as "
                    f"{index}."
                )
        names = tuple(self.names) or _default_names(n)
        if len(names) != n:
            raise ConfigError(f"label codec: {len(names)} names for {n} classes. Name each class.")
        self._check_names(names)
        if self.threshold is not None and (n != 2 or self.other is not None or kept != classes):
            more = "" if self.other is None else " and a class for other values"
            more += "" if kept == classes else " and values to ignore"
            raise ConfigError(
                f"label codec: a threshold parts two classes, the map has {n}{more}. Leave one out."
            )
        for name, value in (("classes", classes), ("raw_values", raw_values), ("names", names)):
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        """Hash what the maps hold: a dict itself has no hash."""
        return hash((tuple(self.classes.items()), self.names, self.threshold, self.other))

    @staticmethod
    def _check_names(names: tuple[str, ...]) -> None:
        """Refuse names that could not stand in file names, or would write one file for two."""
        for name in names:
            if not name.strip() or _NOT_IN_FILE_NAMES.search(name):
                raise ConfigError(
                    f"label codec: class name {name!r} is empty or cannot be part of a file name. "
                    'Leave out slashes, control characters and any of : * ? " < > |.'
                )
            if names.count(name) > 1:
                raise ConfigError(f"label codec: two classes are named {name!r}. Rename one.")

    @staticmethod
    def _count_classes(classes: dict[int, int], other: int | None) -> int:
        indices = sorted({*classes.values(), *([] if other is None else [other])} - {IGNORE})
        named = listed([str(index) for index in indices], separator=", ")
        if indices != list(range(len(indices))) or not 2 <= len(indices) <= _MAX_CLASSES:
            raise ConfigError(
                f"label codec: class indices are {named}. "
                f"Use every index from 0 upwards, 2 to {_MAX_CLASSES} of them."
            )
        return len(indices)

    @property
    def n_classes(self) -> int:
        """How many classes there are, background included."""
        return len(self.names)

    @property
    def can_decode(self) -> bool:
        """Whether every class has one raw value to be written as."""
        return bool(self.raw_values)

    @property
    def is_named(self) -> bool:
        """Whether somebody named the classes."""
        return self.names != _default_names(self.n_classes)

    @property
    def ignores(self) -> bool:
        """Whether there are pixels that count nowhere."""
        return IGNORE in (*self.classes.values(), self.other)

    @property
    def for_prediction(self) -> "LabelCodec":
        """The codec of predicted masks: 0/255 for lung against background, else this one.

        A prediction answers for every pixel: nothing is ignored in it.
        """
        if self.n_classes == 2:
            return replace(LUNG_CODEC, names=self.names) if self.is_named else LUNG_CODEC
        if not self.ignores:
            return self
        kept = {raw: index for raw, index in self.classes.items() if index != IGNORE}
        return replace(self, classes=kept, other=None if self.other == IGNORE else self.other)

    @property
    def for_truth(self) -> "LabelCodec":
        """The codec of masks that are written anew to be trained on.

        As :attr:`for_prediction`, and what is ignored is written too: as 128 between 0 and 255.
        """
        codec = self.for_prediction
        if not self.ignores:
            return codec
        raw = 128 if self.n_classes == 2 else self.ignored_value
        return replace(codec, classes={**codec.classes, raw: IGNORE})

    @property
    def ignored_value(self) -> int:
        """The raw value that an ignored pixel is written as."""
        named = [raw for raw, index in self.classes.items() if index == IGNORE]
        return (named or [raw for raw in range(255, -1, -1) if raw not in self.classes])[0]

    def encode(
        self, raw: np.ndarray, where: str = "mask", *, argument: str = "codec"
    ) -> np.ndarray:
        """Map raw values to class indices.

        Parameters
        ----------
        raw : (..., H, W) of any integer dtype or bool; with a threshold, True is class 1
        where : what a message calls this mask
        argument : what a message calls this codec, for whoever passes another one

        Returns
        -------
        (..., H, W) uint8

        Raises
        ------
        LabelError
            When a value is not in the map; names value, count and first position.
        DataError
            When it is CT.
        """
        is_bool = np.asarray(raw).dtype == np.bool_
        raw = _integers(raw, where)
        if raw.dtype != np.uint8 and raw.size:  # by now it holds a value that eight bits do not
            self._refuse_ct(raw, where)
        if self.threshold is not None:
            return (raw >= (1 if is_bool else self.threshold)).astype(np.uint8)
        if raw.dtype == np.uint8 and self._lung_alone is not None and raw.size:
            inside = np.asarray(raw == self._lung_alone)
            # Comparing and counting take a fraction of the look-up's time.
            above = cv2.countNonZero(np.ascontiguousarray(raw).reshape(1, -1))
            if np.count_nonzero(inside) != above:
                raise self._unknown(raw, where, argument)
            return inside.view(np.uint8)
        if raw.dtype == np.uint8 and self._table is not None:
            indices = _look_up(raw, self._table)
            # One pass over uint8 costs a tenth of the look-up: being strict is nearly free.
            if self.other is None and raw.size and indices.max() == _UNKNOWN:
                self._refuse_unknown(raw, indices, where, argument)
            return indices
        keys = np.array(list(self.classes), np.int64)
        values = np.array(list(self.classes.values()), np.uint8)
        at = np.searchsorted(keys, raw).clip(max=len(keys) - 1)
        known = keys[at] == raw
        if self.other is not None:
            return np.where(known, values[at], np.uint8(self.other))
        if not known.all():
            raise self._unknown(raw, where, argument)
        return np.asarray(values[at])

    def _refuse_unknown(
        self, raw: np.ndarray, indices: np.ndarray, where: str, argument: str
    ) -> None:
        if not self.ignores or not np.isin(raw[indices == _UNKNOWN], list(self.classes)).all():
            raise self._unknown(raw, where, argument)

    def decode(self, indices: np.ndarray, where: str = "prediction") -> np.ndarray:
        """Map class indices to raw values.

        Parameters
        ----------
        indices : (..., H, W) of any integer dtype or bool, values 0..C-1, and :data:`IGNORE` where
            the codec knows it
        where : what a message calls this array

        Returns
        -------
        (..., H, W) uint8
            uint16 or int32 where a raw value does not fit eight bits.

        Raises
        ------
        ConfigError
            When the map merges raw values and no value per class was declared.
        LabelError
            When an index is not a class.
        """
        if not self.can_decode:
            raise ConfigError(
                f"several raw values share a class, so a class cannot be "
                f"written back. Declare one value per class: '{self}:{self._suggest_values()}'.",
                where=f"label codec {self}",
            )
        indices = _integers(indices, where)
        # What is not uint8 by now holds a value below 0 or above 255.
        if indices.size and (indices.dtype != np.uint8 or indices.max() >= self.n_classes):
            unknown = (indices < 0) | (indices >= self.n_classes)
            wrong = indices[unknown & (indices != IGNORE) if self.ignores else unknown]
            if wrong.size:
                raise LabelError(
                    f"class index {wrong[0]} ({wrong.size} pixels) is not one of 0 to "
                    f"{self.n_classes - 1}. Use the codec that the classes were made with.",
                    where=where,
                )
        if self._lung_alone is not None:
            return np.multiply(indices.astype(np.uint8, copy=False), np.uint8(self._lung_alone))
        values = np.array([self.raw_values[i] for i in range(self.n_classes)], np.int32)
        if self.ignores:  # in the last place of the table
            gap = np.zeros(IGNORE - len(values), np.int32)
            values = np.concatenate([values, gap, [np.int32(self.ignored_value)]])
        for dtype in (np.uint8, np.uint16):
            if values.min() >= 0 and values.max() <= np.iinfo(dtype).max:
                values = values.astype(dtype)
                break
        table = np.zeros(256, values.dtype)
        table[: values.size] = values
        return _look_up(indices.astype(np.uint8, copy=False), table)

    @cached_property
    def _lung_alone(self) -> int | None:
        """The raw value of lung, where masks hold 0 and that alone, in eight bits."""
        if self.ignores or self.other is not None or list(self.classes.values()) != [0, 1]:
            return None
        background, lung = self.classes
        return lung if background == 0 and lung <= 255 else None

    @cached_property
    def _table(self) -> np.ndarray | None:
        if min(self.classes) < 0 or max(self.classes) > 255:
            return None
        table = np.full(256, _UNKNOWN if self.other is None else self.other, np.uint8)
        table[list(self.classes)] = list(self.classes.values())
        return table

    def _refuse_ct(self, raw: np.ndarray, where: str) -> None:
        """Refuse a slice or a scan in the place of a mask that does not fit.

        Labels are alike from pixel to pixel, smeared ones but for their edges; CT has noise.
        """
        plane = raw.reshape(-1, *raw.shape[-2:])
        plane = plane[len(plane) // 2].astype(np.int64)
        far = np.min([np.abs(plane - value) > SMEAR for value in self.classes], axis=0)
        alike = (plane[..., 1:] == plane[..., :-1])[far[..., 1:]]
        many = len(np.unique(plane)) > MANY_VALUES
        if many and far.mean() > 0.1 and alike.size and alike.mean() < 0.5:
            raise DataError(
                f"values from {raw.min()} to {raw.max()}, as CT has and no mask. Give the mask in "
                "its place; maybe slices and masks are swapped.",
                where=where,
            )

    def _unknown(self, raw: np.ndarray, where: str, argument: str) -> LabelError:
        self._refuse_ct(raw, where)
        unknown = np.argwhere(~np.isin(raw, list(self.classes)))
        first = tuple(int(i) for i in unknown[0])
        value = int(raw[first])
        others = len(unknown) - int((raw == value).sum())
        at = f"row {first[-2]}, column {first[-1]}" if len(first) == 2 else f"index {first}"
        known = listed(
            [f"{value} ({self._name(index)})" for value, index in self.classes.items()],
            separator=", ",
        )
        return LabelError(
            f"{where}: mask value {value} ({counted(len(unknown) - others, 'pixel')}, first at {at}"
            + (f"; other unknown values in {counted(others, 'pixel')}" if others else "")
            + f") is not one of {known}. Pass a codec that maps it "
            f"({suggest_codec(raw, self, argument=argument)}), or fix the file."
        )

    def _name(self, index: int) -> str:
        return "ignored" if index == IGNORE else self.names[index]

    def _suggest_values(self) -> str:
        return ",".join(
            str(next(raw for raw, index in self.classes.items() if index == wanted))
            for wanted in range(self.n_classes)
        )

    @classmethod
    def parse(
        cls, text: str, *, threshold: int | None = None, names: Sequence[str] = ()
    ) -> "LabelCodec":
        """Read the notation of ``--labels``.

        ``0,255`` numbers the raw values in order; ``0,3=1,4=1`` names the class where it is not
        the next one; ``0,10=1,11=1,*=0`` says what all other values are; ``0,1,255=ignore`` leaves
        pixels out of every loss and score; ``0,3=1,4=1,5=2:0,3,5`` adds the raw value that each
        class is written as; ``>=128`` is for masks with smeared values.

        Parameters
        ----------
        threshold : as behind ``>=``, where ``text`` names the raw values that are written
        names : one per class, background first

        Examples
        --------
        >>> LabelCodec.parse("0,3=1,4=1:0,3").decode(np.array([0, 1]))
        array([0, 3], dtype=uint8)

        Raises
        ------
        ConfigError
            When the text does not follow the notation.
        """
        text = text.strip()
        if text.startswith(">="):
            if threshold is not None:
                raise ConfigError(f"labels '{text}' and threshold {threshold}: give one of them.")
            return cls(LUNG_CODEC.classes, names=tuple(names), threshold=_threshold(text))
        head, _, tail = text.partition(":")
        classes: dict[int, int] = {}
        other = None
        try:
            for item in head.split(","):
                raw, _, index = item.partition("=")
                if raw.strip() == "*" and other is None:
                    other = _class_index(index)
                    continue
                if int(raw) in classes:
                    raise ConfigError(
                        f"{int(raw)} appears twice. Name it once.", where=f"labels '{text}'"
                    )
                next_one = len({*classes.values()} - {IGNORE})
                classes[int(raw)] = _class_index(index) if index else next_one
            raw_values = {i: int(raw) for i, raw in enumerate(tail.split(","))} if tail else {}
        except ConfigError:
            raise
        except ValueError as err:
            raise ConfigError(
                "not a list of whole numbers. "
                "Write raw values in class order, as in 0,255 or 0,3=1,4=1 or 0,10=1,*=0 or "
                "0,1,255=ignore, or '>=128' alone.",
                where=f"labels '{text}'",
            ) from err
        return cls(classes, raw_values, tuple(names), threshold, other)

    def __str__(self) -> str:
        """Return the notation that :meth:`parse` reads (without names; a threshold alone)."""
        if self.threshold is not None:
            return f">={self.threshold}"

        def written(raw: object, index: int) -> str:
            return f"{raw}={'ignore' if index == IGNORE else index}"

        others = [] if self.other is None else [written("*", self.other)]
        kept = [index for index in self.classes.values() if index != IGNORE]
        if kept == list(range(self.n_classes)):
            values = [
                written(raw, index) if index == IGNORE else str(raw)
                for raw, index in self.classes.items()
            ]
            return ",".join([*values, *others])
        head = ",".join([*(written(raw, index) for raw, index in self.classes.items()), *others])
        tail = ",".join(str(self.raw_values[i]) for i in sorted(self.raw_values))
        return f"{head}:{tail}" if tail else head

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; :meth:`from_dict` reads them."""
        return {
            "classes": {str(raw): index for raw, index in self.classes.items()},
            "raw_values": {str(index): raw for index, raw in self.raw_values.items()},
            "names": list(self.names),
            "threshold": self.threshold,
            **({} if self.other is None else {"other": self.other}),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "LabelCodec":
        """Rebuild a codec from :meth:`to_dict`.

        Raises
        ------
        ConfigError
            When something is missing or of the wrong kind.
        """
        try:
            classes = {int(raw): int(index) for raw, index in stored["classes"].items()}
            raw_values = {int(index): int(raw) for index, raw in stored["raw_values"].items()}
            names = tuple(str(name) for name in stored["names"])
            threshold = None if stored["threshold"] is None else int(stored["threshold"])
            other = None if stored.get("other") is None else int(stored["other"])
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as err:
            raise ConfigError(
                f"label codec: stored as {stored!r}, which is incomplete. Store what to_dict gives."
            ) from err
        return cls(classes, raw_values, names, threshold, other)


def is_lung(classes: np.ndarray) -> np.ndarray:
    """Return where a mask of classes shows lung, bool: any class above 0, and no ignored pixel."""
    return np.asarray((classes > 0) & (classes != IGNORE))


def say_no_lung(masks: int, codec: LabelCodec) -> str:
    """Say that masks, so many, hold no lung: mostly they are read otherwise than they are coded."""
    of = "the mask" if masks == 1 else f"any of {masks} masks"
    return f"no lung in {of}, read as {codec}. Look at the label coding: which values are lung."


def looks_inverted(classes: np.ndarray) -> bool:
    """Whether a mask of classes, (..., H, W), has lung where background lies.

    That is on most of the picture, and on most of its margin.
    """
    lung = is_lung(classes)
    sides = lung[..., 0, :], lung[..., -1, :], lung[..., 0], lung[..., -1]
    margin = np.concatenate([side.ravel() for side in sides])
    return bool(lung.mean() > 0.5 and margin.mean() > 0.5)


def tell_inverted(count: int, lung: int, codec: LabelCodec, *, argument: str = "codec") -> str:
    """Say of many masks that lung and background look swapped; '' where few look so.

    Parameters
    ----------
    count, lung : how many masks look so, and how many hold lung
    argument : what the message calls the codec
    """
    if 2 * count <= lung:
        return ""
    fix = "turn the masks around"
    if codec.threshold is None and len(codec.classes) == 2 == codec.n_classes:
        background, other = (codec.raw_values[index] for index in (0, 1))
        fix = f"pass {argument}=LabelCodec.parse('{other},{background}')"
    has = "has" if lung == 1 else "have"
    return (
        f"{count} of {counted(lung, 'mask')} with lung {has} it on most of the picture and of its "
        f"margin, as background lies. If lung and background are swapped, {fix}."
    )


def find_sides(codec: LabelCodec) -> tuple[int, int] | None:
    """Return the classes that are named left and right; None where not one of each is.

    Examples
    --------
    >>> find_sides(LabelCodec.parse("0,1,2", names=("background", "right lung", "left lung")))
    (2, 1)
    """
    words = [{*re.findall("[a-z]+", name.lower())} & {"left", "right"} for name in codec.names]
    left, right = (
        [index for index, found in enumerate(words) if found == {side}]
        for side in ("left", "right")
    )
    return (left[0], right[0]) if len(left) == len(right) == 1 else None


def lie_swapped(classes: np.ndarray, left: int = 1, right: int = 2) -> bool:
    """Whether the left lung lies on the patient's right of the right one: at smaller columns.

    Parameters
    ----------
    classes : (..., H, W) as slices are stored, the patient's right at column 0
    left, right : which class is which
    """
    columns = np.arange(classes.shape[-1])
    across = tuple(range(classes.ndim - 1))
    of_left, of_right = ((classes == side).sum(axis=across) for side in (left, right))
    if not (of_left.any() and of_right.any()):
        return False  # a lung that stands alone may lie anywhere
    return bool(np.average(columns, weights=of_left) < np.average(columns, weights=of_right))


def tell_swapped(names: list[str], total: int, codec: LabelCodec) -> str:
    """Say of masks, by name, that classes named left and right lie swapped; '' where none does."""
    sides = find_sides(codec)
    if not names or sides is None:
        return ""
    left, right = (codec.names[side] for side in sides)
    fix = suggest_exchanged(codec, one=sides[0], other=sides[1])
    return (
        f"{listed(names, separator=', ')}: {left} lies on the patient's right and {right} on the "
        f"left in {len(names)} of {counted(total, 'mask')}. If the names are the wrong way round "
        f"in all, exchange the values: {fix}."
    )


def suggest_exchanged(
    codec: LabelCodec, *, one: int = 1, other: int = 2, argument: str = "codec"
) -> str:
    """Return what reads two classes the one for the other, as the argument is written.

    Examples
    --------
    >>> suggest_exchanged(LabelCodec.parse("0,1,2"))
    "codec=LabelCodec.parse('0,2,1')"
    """
    turned = {one: other, other: one}
    indices = (turned.get(index, index) for index in range(codec.n_classes))
    values = ",".join(str(codec.raw_values.get(index, index)) for index in indices)
    return f"{argument}=LabelCodec.parse('{values}')"


def _class_index(text: str) -> int:
    """Read what stands behind the equals sign: a number of a class, or the word ignore."""
    if text.strip() == "ignore":
        return IGNORE
    if int(text) == IGNORE:
        raise ConfigError(f"{IGNORE} is no class. Write ignore.", where=f"labels '...={text}'")
    return int(text)


def parse_names(text: str) -> tuple[str, ...]:
    """Read ``--label-names``: a name per class, background first.

    Examples
    --------
    >>> parse_names("background, left, right")
    ('background', 'left', 'right')
    """
    return tuple(name.strip() for name in text.split(","))


def suggest_codec(raw: np.ndarray, codec: LabelCodec, *, argument: str = "codec") -> str:
    """Return what may read a mask that ``codec`` refuses, as the argument is written.

    Examples
    --------
    >>> suggest_codec(np.array([[0, 3, 4]]), LUNG_CODEC)
    "codec=LabelCodec.parse('0,3=1,4=1')"
    """
    values = np.unique(raw).tolist()
    background, *others = values
    known = {codec.classes.get(value, 0) for value in values} - {0, IGNORE}
    where = ""
    if is_smeared(raw, codec):
        labels = f">={_middle(raw, codec)}"
    elif known and len(codec.classes) > 2:
        head, colon, tail = str(codec).partition(":")  # what is named stays, the rest is not lung
        labels = f"{head},*=0{colon}{tail}"
    elif len(others) > 1 and others[-1] <= _LOBES:
        labels = ",".join([str(background), *(f"{value}=1" for value in others)])
    elif len(others) > 1:
        some = others[: min(2, len(others) - 1)]
        labels = ",".join([str(background), *(f"{value}=1" for value in some), "*=0"])
        of = listed([str(value) for value in others], separator=", ")
        where = f" with =1 for each of {of} that is lung"
    else:
        labels = f"{background},{others[0]}" if others else f"0,{background or 1}"
    return f"{argument}=LabelCodec.parse('{labels}'){where}"


def suggest_codecs(values: Iterable[int], codec: LabelCodec) -> str:
    """Return what may read masks that hold these values together: apart, and as lung alone.

    Examples
    --------
    >>> suggest_codecs([0, 1], LUNG_CODEC)
    "codec=LabelCodec.parse('0,1')"
    """
    texts = [str(value) for value in sorted(values)]
    merged = suggest_codec(np.array([[int(text) for text in texts]]), codec)
    if len(texts) < 3 or "*" in merged or ">=" in merged:
        return merged
    apart = f"codec=LabelCodec.parse('{','.join(texts)}')"
    return f"{apart} for each as a class of its own, {merged} for all as lung"


def is_smeared(raw: np.ndarray, codec: LabelCodec) -> bool:
    """Tell a mask whose edges JPEG or resizing has blurred: two values, and little in between."""
    lowest, highest = int(raw.min()), int(raw.max())
    n, top = len(np.unique(raw)), max(codec.classes)
    if highest - lowest <= 4 * SMEAR or n < 4:
        return False
    between = np.count_nonzero((raw > lowest + SMEAR) & (raw < highest - SMEAR))
    # Of a small lung more is edge than not.
    expected = n > MANY_VALUES and abs(highest - top) <= SMEAR
    return expected or bool(between < np.count_nonzero(raw >= highest - SMEAR))


def _middle(raw: np.ndarray, codec: LabelCodec) -> int:
    """Return the middle of the two values that were smeared, of those of ``codec`` if it can be."""
    lowest, highest = min(codec.classes), max(codec.classes)
    if abs(int(raw.max()) - highest) > SMEAR:
        lowest, highest = int(raw.min()), int(raw.max())
    return (lowest + highest + 1) // 2


def _threshold(text: str) -> int:
    try:
        return int(text.removeprefix(">="))
    except ValueError as err:
        raise ConfigError(
            "no whole number behind >=. Write the raw value from which on pixels are lung, as in "
            ">=128.",
            where=f"labels '{text}'",
        ) from err


def _default_names(n: int) -> tuple[str, ...]:
    if n == 2:
        return ("background", "lung")
    return ("background", *(f"class {i}" for i in range(1, n)))


def _integers(values: np.ndarray, where: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == np.bool_:
        return values.view(np.uint8)
    if not np.issubdtype(values.dtype, np.integer):
        raise LabelError(
            f"dtype {values.dtype}, labels are integers. Convert it, e.g. with astype.", where=where
        )
    if values.dtype != np.uint8 and values.size and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8)
    return values


def _look_up(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    # cv2.LUT is vectorised where numpy's take is not; it knows no arrays of 0 or over 2 axes.
    if not values.size:
        return np.empty(values.shape, table.dtype)
    flat = np.ascontiguousarray(values).reshape(1, -1)
    return np.asarray(cv2.LUT(flat, table)).reshape(values.shape)


LUNG_CODEC = LabelCodec({0: 0, 255: 1})
"""Raw 0 is background, raw 255 is lung."""
