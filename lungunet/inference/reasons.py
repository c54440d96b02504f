"""What the counts of a mask say in words: what is there, how much, where, and who sees it.

Owns sentences that a number alone cannot give. Knows counts of pixels, and no picture.
"""

from collections.abc import Mapping, Sequence

from lungunet.errors import listed

Counts = Mapping[str, float]

_WHO = {"threshold": "the threshold", "lungs": "the built-in model"}
_ONE_SIDE = 0.75  # of the pixels, to be worth a look there first
_RATHER = 4  # times as much makes it what happened
_NEARLY_ALL = 20  # times as much: the rest is not worth a word


def put_in_words(
    counts: Counts, asked: Sequence[str], *, slices: Sequence[Counts] = ()
) -> dict[str, str]:
    """Return words for measures, with {} for the value, of a slice or of the sums over a scan.

    Parameters
    ----------
    counts : pixels by name; "NAME left" are those left of the body's middle
    asked : who else was asked
    slices : counts of a scan's slices, to say in which one there is most
    """

    def where(name: str) -> str:
        left = counts[f"{name} left"] / max(counts[name], 1)
        side = "left" if left >= _ONE_SIDE else "right" if left <= 1 - _ONE_SIDE else ""
        place = f", mostly on the {side} of the picture" if side else ""
        if not slices:
            return place
        most = max(range(len(slices)), key=lambda index: slices[index][name])
        return f"{place}, most in slice {most}"

    jumps = [one["area_jump"] for one in slices] or [counts.get("area_jump", 0.0)]
    jump = max(range(len(jumps)), key=lambda index: abs(jumps[index]))
    fuller = "left" if 2 * counts["lung left"] > counts["lung"] else "right"
    said = {
        "left_out": "air within the body is left out, {} of the body" + where("left_out"),
        "bare_air": f"{{}} of the lung is as dark and even as open air{where('bare')}: "
        "pneumothorax, or a large bulla",
        "side_gap": f"the {fuller} of the picture has more lung than the other side, "
        "by {} of the body",
        "area_jump": (f"slice {jump} has " if slices else "")
        + ("less" if jumps[jump] < 0 else "more")
        + " lung than the slices around it, by {} of the largest",
    }
    for word, name in (("threshold", "rule_difference"), ("lungs", "builtin_difference")):
        if word in asked:
            more, less = counts[f"{word} more"], counts[f"{word} less"]
            sees = "more" if more > _RATHER * less else "less"
            kind = f"{word} {sees}"
            seen = f"sees {sees} lung{where(kind)}"
            if max(more, less) <= _RATHER * min(more, less):
                seen = "sees more in places and less in others"
            said[name] = f"{{}} of the lung differs from {_WHO[word]}, which {seen}"
    if asked:
        said["disputed"] = _tell_dispute(
            counts, asked, missing=where("missing"), extra=where("extra")
        )
    return said


def _tell_dispute(counts: Counts, asked: Sequence[str], *, missing: str, extra: str) -> str:
    names = [_WHO[word] for word in asked]
    see = f"{' and '.join(names)} {'see' if len(names) > 1 else 'sees'}"
    alone = f"neither {' nor '.join(names)} sees it"
    if len(names) == 1:
        alone = f"{names[0]} does not see it"
    if not counts["lung"]:
        seen = counts["missing"] / max(counts["body"], 1)
        return f"the mask is empty, and {see} lung: {seen:.1%} of the body{missing}. Draw it in"
    lacks, adds = counts["missing"], counts["extra"]
    if lacks >= _NEARLY_ALL * adds:
        return f"{{}} of the lung is missing from the mask{missing}: {see} it"
    if adds >= _NEARLY_ALL * lacks:
        return f"{{}} of the lung is in the mask alone{extra}: {alone}"
    share = lacks / (lacks + adds)
    alike = missing == extra
    return (
        f"{{}} of the lung is disputed{missing if alike else ''}: {share:.0%} of that is missing "
        f"from the mask, for {see} it{'' if alike else missing}, and {1 - share:.0%} is in the "
        f"mask alone{'' if alike else extra}"
    )


def name_slices(indices: Sequence[int]) -> str:
    """Name slices in order, neighbours together.

    Examples
    --------
    >>> name_slices([3, 4, 5, 9])
    '3 to 5, 9'
    """
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    named = [str(a) if a == b else f"{a} to {b}" for a, b in runs]
    return listed(named, separator=", ")
