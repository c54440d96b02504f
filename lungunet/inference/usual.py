"""What good masks look like: by each measure of triage the usual limits, and words beyond them.

Knows how nothing is measured.
"""

import math
from dataclasses import dataclass

MOST = 9.0  # no measure counts for more
TOLD_ONLY = 1.2  # makes a mask amber, and no number of such ones red


@dataclass(frozen=True)
class Usual:
    """What good masks look like by one measure.

    Parameters
    ----------
    low, high : limits
    words : for a value beyond them
    ideal : where nothing is to be said
    form : of the numbers in the words
    usual : what to say of the limits; empty says them
    most : strain that it counts for at most; below 3 it makes no mask red by itself
    """

    high: float
    words: str
    low: float = 0.0
    ideal: float = 0.0
    form: str = ".1%"
    usual: str = ""
    most: float = MOST

    def strain(self, value: float) -> float:
        """Return how far a value is from the ideal; at the limit it is 1."""
        if math.isnan(value):  # as of a model that says NaN
            return math.inf
        limit = self.high if value > self.ideal else self.low
        strain = (value - self.ideal) / (limit - self.ideal) if value != self.ideal else 0.0
        return min(strain, self.most)

    def describe(self, value: float, words: str) -> str:
        """Say the value, and what is usual; words without a place for the value say it all."""
        if "{}" not in words:
            return words
        low, high = (format(limit, self.form) for limit in (self.low, self.high))
        limits = f"up to {high}" if self.low == self.ideal else f"{low} to {high}"
        usual = self.usual or f"usually {limits}"
        # Shares are of no less than a small lung, which a wrong mask may exceed many times.
        said = "more than 100%" if "%" in self.form and value > 1 else self._format(value)
        return f"{words.format(said)} ({usual})"

    def _format(self, value: float) -> str:
        """Format a value; one beyond a limit with as many digits as tell it from that."""
        form = self.form
        said = format(value, form)
        while self.strain(value) > 1 and said in (format(self.low, form), format(self.high, form)):
            form = f".{int(form[1]) + 1}{form[-1]}"
            said = format(value, form)
        return said


# Up to 5 % of the lung in dispute is an IoU of 0.95; one who differs alone may by twice that. The
# other limits lie at or above the 98th percentile of good masks of 200 real slices, and above those
# of stacked phantoms. Below that of an ensemble lie nine of ten right masks of patients that its
# models had nothing of, and a fifth of the wrong ones.
USUAL = {
    "disputed": Usual(0.05, "{} of the lung is disputed"),
    "rule_difference": Usual(0.1, "{} of the lung differs from the threshold rule", most=TOLD_ONLY),
    "builtin_difference": Usual(
        0.1, "{} of the lung differs from the built-in model", most=TOLD_ONLY
    ),
    "mirror_difference": Usual(0.05, "{} of the lung changes when the slice is mirrored"),
    "members_difference": Usual(
        0.1, "{} of the lung is between the models of the ensemble, which disagree"
    ),
    "expected_error": Usual(0.05, "{} of the lung is wrong by the model's own probabilities"),
    "outside_body": Usual(0.01, "{} of the lung lies outside the body"),
    # Bowel and stomach hold up to 0.05, two lungs 0.2 and more.
    "left_out": Usual(0.07, "air within the body is left out, {} of the body"),
    "bare_air": Usual(
        0.01, "{} of the lung is as dark and even as open air: pneumothorax, or a large bulla"
    ),
    "scattered": Usual(0.03, "{} of the lung is in parts beyond the two largest"),
    "at_border": Usual(0.01, "{} of the picture's margin is lung"),
    "side_gap": Usual(0.1, "one side has more lung than the other by {} of the body"),
    "mean_hu": Usual(-450, "the lung has {} HU on average", low=-950, ideal=-700, form=".0f"),
    "area_jump": Usual(0.1, "area off by {} of the largest from the slices around"),
    "red_slices": Usual(0.05, "{} of the slices with lung are red"),
    # Of a small child or of a scan that ends in the lungs; gas in the stomach is less.
    "lung_ml": Usual(
        math.inf,
        "{} mL of lung in the whole scan",
        low=150,
        ideal=300,
        form=".0f",
        usual="adults have 1,500 or more",
    ),
}
