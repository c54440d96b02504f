"""Which mask belongs to which image, told by their names alone.

Owns the rules that names follow; touches no file.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lungunet.errors import ConfigError

_OF_MASKS = (
    *("mask", "masks", "seg", "segmentation", "label", "labels", "labelmap"),
    *("lung", "lungs", "lungmask", "lung_mask", "gt", "truth"),
)
_OF_IMAGES = ("", "_0000", "_image", "_img", "_ct", "-image", "-img", "-ct")
_BEFORE_IMAGES = ("", "image_", "img_", "ct_", "image-", "img-", "image", "img")


@dataclass(frozen=True)
class NameRule:
    """How the names of an image and of its mask differ: by what stands around a common part.

    Parameters
    ----------
    image, mask : what stands before and behind it, case not minded; with a / the last folders too

    Examples
    --------
    >>> rule = NameRule.parse("*_0000=*")
    >>> rule.common("case_7_0000", rule.image), rule.common("case_7", rule.mask)
    ('case_7', 'case_7')
    >>> rule = NameRule.parse("ct/*=seg/*")
    >>> rule.common("ann/ct/1", rule.image), rule.common("ann/seg/1", rule.mask)
    ('ann/1', 'ann/1')
    """

    image: tuple[str, str] = ("", "")
    mask: tuple[str, str] = ("", "")

    @classmethod
    def parse(cls, text: str) -> "NameRule":
        """Read the notation of ``--names``: ``*=*_mask`` pairs a.tif with a_mask.png.

        Raises
        ------
        ConfigError
            When each side of the = does not hold one star.
        """
        sides = [side.strip() for side in text.split("=")]
        if len(sides) != 2 or any(side.count("*") != 1 for side in sides):
            raise ConfigError(
                "write IMAGE=MASK with a star for what they share, as *=*_mask where a.tif has "
                "a_mask.png, *_0000=* where case_0000.nii.gz has case.nii.gz, or ct/*=seg/* where "
                "ann/ct/1.tif has ann/seg/1.png.",
                where=f"names '{text}'",
            )
        image, mask = (tuple(side.split("*")) for side in sides)
        return cls((image[0], image[1]), (mask[0], mask[1]))

    def __str__(self) -> str:
        """Return the notation that :meth:`parse` reads."""
        return f"{'*'.join(self.image)}={'*'.join(self.mask)}"

    @property
    def tells_masks(self) -> bool:
        """Whether a name says by itself that it is one of a mask."""
        return self.mask != ("", "")

    @staticmethod
    def common(name: str, around: tuple[str, str]) -> str | None:
        """Return the part of a name that image and mask share; None where it is named otherwise."""
        before, behind = around
        parts = name.split("/")
        at = max(0, len(parts) - 1 - (before + behind).count("/"))
        folder, last = "/".join(parts[:at]), "/".join(parts[at:])
        folded = last.casefold()
        if not (folded.startswith(before.casefold()) and folded.endswith(behind.casefold())):
            return None
        part = last[len(before) : len(last) - len(behind)]
        return f"{folder}/{part}" if part and folder else part or None


def usual_rules() -> Iterator[NameRule]:
    """Yield how people name masks beside those that are called like their images."""
    words = [f"{mark}{word}" for mark, word in product("_-. ", _OF_MASKS)]
    for behind, word in product(_OF_IMAGES, ("", *words)):
        yield NameRule(("", behind), ("", word))
    heads = [f"{word}{mark}" for mark, word in product("_- ", _OF_MASKS)] + [
        "mask",
        "label",
        "seg",
    ]
    for before, head in product(_BEFORE_IMAGES, heads):
        yield NameRule((before, ""), (head, ""))


Named = tuple[str, Path]
"""A name, with folders before it where it lies in one, and the file."""


def match_names(
    images: Sequence[Named], masks: Sequence[Named], rule: NameRule
) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pair what has one common part by a rule.

    Returns name, image and mask of each pair, sorted by name, and in words what has no partner, or
    too many.
    """
    of: dict[str, tuple[list[Named], list[Named]]] = defaultdict(lambda: ([], []))
    problems = []
    for side, (named, around) in enumerate(((images, rule.image), (masks, rule.mask))):
        for name, path in named:
            # Macs write e and its accent as two letters, others as one.
            common = rule.common(unicodedata.normalize("NFC", name), around)
            if common is None:
                problems.append(f"{path}: not called {'*'.join(around)}")
            else:
                of[common][side].append((name, path))
    pairs = []
    for common, (of_image, of_mask) in sorted(of.items()):
        if len(of_image) == len(of_mask) == 1:
            pairs.append((of_image[0][0], of_image[0][1], of_mask[0][1]))
            continue
        problems += [f"{path}: no mask of that stem" for _, path in of_image if not of_mask]
        problems += [f"{path}: no image of that stem" for _, path in of_mask if not of_image]
        for named in (of_image, of_mask):
            if len(named) > 1:
                both = " and ".join(str(path) for _, path in named)
                problems.append(f"{common}: {both} share a stem")
    return pairs, problems


def match_by_rule(
    images: Sequence[Named], masks: Sequence[Named], rule: NameRule
) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pair by a rule, with folders; else without, where that leaves nobody alone."""
    pairs, problems = match_names(images, masks, rule)
    if not problems:
        return pairs, problems
    flat = match_names(_without_folders(images), _without_folders(masks), rule)
    return (pairs, problems) if flat[1] else flat


def find_rule(
    images: Sequence[Named], masks: Sequence[Named]
) -> tuple[list[tuple[str, Path, Path]], list[str], NameRule]:
    """Pair by the first rule that leaves nobody alone; where none does, by the most fitting one.

    Alike comes first, with their folders and then without, then the usual endings and beginnings,
    then any that all masks or all images have.
    """
    ways = [(images, masks), (_without_folders(images), _without_folders(masks))]
    best = (*match_names(images, masks, NameRule()), NameRule())
    if not best[1] or not images or not masks:
        return best
    for rule in usual_rules():
        for named in ways:  # most rules do not fit the first names already
            firsts = ((named[0][0][0], rule.image), (named[1][0][0], rule.mask))
            if any(rule.common(name, around) is None for name, around in firsts):
                continue
            pairs, problems = match_names(named[0], named[1], rule)
            if not problems:
                return pairs, problems, rule
            if len(pairs) > len(best[0]):
                best = (pairs, problems, rule)
    for rule in _inferred_rules(images, masks):
        pairs, problems = match_by_rule(images, masks, rule)
        if not problems:
            return pairs, problems, rule
    return best


def folder_rule(named: Sequence[Named]) -> NameRule | None:
    """Return the rule by which files pair that are called alike in two folders side by side.

    Examples
    --------
    >>> paths = [Path("ann/seg/1"), Path("ann/ct/1"), Path("bob/seg/1"), Path("bob/ct/1")]
    >>> str(folder_rule([(str(path), path) for path in paths]))
    'ct/*=seg/*'
    """
    folders = {path.parent.name for path in (Path(name) for name, _ in named)}
    if len(folders) != 2:
        return None
    image, mask = sorted(folders, key=lambda folder: (folder.casefold() in _OF_MASKS, folder))
    rule = NameRule((f"{image}/", ""), (f"{mask}/", ""))
    of_image, of_mask = (
        [item for item in named if rule.common(item[0], around)]
        for around in (rule.image, rule.mask)
    )
    return None if match_names(of_image, of_mask, rule)[1] else rule


def leave_out_masks(
    images: Sequence[Named], masks: Sequence[Named], rule: NameRule | None = None
) -> tuple[list[Named], NameRule | None]:
    """Leave out files among images that are masks of others there, if the rest then pairs better.

    Parameters
    ----------
    rule : how masks are called; None: as people usually do

    Returns
    -------
    images : those that are left
    rule : by which the others are masks; None where none is
    """

    def pair(some: Sequence[Named]) -> tuple[list[tuple[str, Path, Path]], list[str]]:
        return find_rule(some, masks)[:2] if rule is None else match_by_rule(some, masks, rule)

    best, left, by = pair(images), list(images), None
    spelt = [(unicodedata.normalize("NFC", name), path) for name, path in images]
    last = [name.rpartition("/")[2].casefold() for name, _ in spelt]
    rules = [rule] if rule else []
    for each in rules + [usual for usual in usual_rules() if usual.tells_masks]:
        if not best[1]:
            break
        before, behind = (part.casefold() for part in each.mask)
        of_folders = "/" in before + behind
        if not of_folders and not any(n.startswith(before) and n.endswith(behind) for n in last):
            continue
        there = {each.common(name, each.image) for name, _ in spelt} - {None}
        own = [each.common(name, each.mask) in there for name, _ in spelt]
        some = [item for item, is_mask in zip(images, own, strict=True) if not is_mask]
        if not 0 < len(some) < len(images):
            continue
        again = pair(some)
        if len(again[0]) >= len(best[0]) and len(again[1]) < len(best[1]):
            best, left, by = again, some, each
    return left, by


def _inferred_rules(images: Sequence[Named], masks: Sequence[Named]) -> Iterator[NameRule]:
    """Yield an ending and a beginning that all masks, or all images, have, and the others lack."""
    of_images, of_masks = (
        [unicodedata.normalize("NFC", name.rpartition("/")[2]) for name, _ in side]
        for side in (images, masks)
    )
    more, rest = divmod(sum(map(len, of_masks)) - sum(map(len, of_images)), len(of_images))
    if len(of_images) != len(of_masks) or len(of_images) < 2 or rest or not more:
        return
    named = of_masks if more > 0 else of_images
    for end in (named[0][-abs(more) :], named[0][: abs(more)]):
        for around in (("", end), (end, "")):
            fits = all(NameRule.common(name, around) for name in named)
            if fits and any(letter.isalpha() for letter in end):  # 10 is no mask of 1
                yield NameRule(mask=around) if more > 0 else NameRule(image=around)


def _without_folders(named: Sequence[Named]) -> Sequence[Named]:
    return [(name.rpartition("/")[2], path) for name, path in named]
