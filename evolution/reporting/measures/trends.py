"""Straight-line trends of noisy series, with errors that allow for slow drifts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MIN_POINTS = 6  # fewest generations from which a trend is read
_MOST_DRIFT = 0.9  # largest correlation of neighbours that is allowed for


@dataclass(frozen=True, slots=True)
class Trend:
    """A line fitted by least squares.

    Attributes:
        points: Number of known values.
        slope: Change per generation.
        start: Fitted value at the first point.
        end: Fitted value at the last point.
        standard_error: Of ``change``, from the residuals; widened by sqrt((1 + r) / (1 - r)) where
            neighbouring residuals correlate with r > 0, because such points tell less.
    """

    points: int
    slope: float
    start: float
    end: float
    standard_error: float

    @property
    def change(self) -> float:
        """Fitted value at the last point less that at the first."""
        return self.end - self.start

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of ``change``, by Student's distribution."""
        return student(self.points - 2) * self.standard_error

    @property
    def rises(self) -> bool:
        """Whether the 95 % interval of the change is above 0."""
        return self.change - self.margin > self._rounding

    @property
    def falls(self) -> bool:
        """Whether the 95 % interval of the change is below 0."""
        return self.change + self.margin < -self._rounding

    @property
    def _rounding(self) -> float:
        """What floating point alone can make of a constant series."""
        return 1e-9 * (abs(self.start) + abs(self.end) + 1e-3)

    def __str__(self) -> str:
        error = f" ± {self.standard_error:.2g}" if self.standard_error > self._rounding else ""
        return f"{self.change:+.3g}{error}"


def trend(generations: Sequence[int], values: ArrayLike) -> Trend | None:
    """Fit a line; None below `MIN_POINTS` known values.

    Args:
        generations: Numbers of the generations, [G].
        values: Their values, [G]; those that are not finite are left out.
    """
    y = np.asarray(values, np.float64)
    known = np.isfinite(y)
    x, y = np.asarray(generations, np.float64)[known], y[known]
    if len(x) < MIN_POINTS:
        return None
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    residuals = y - y.mean() - slope * centred
    squares = float(residuals @ residuals)
    error = math.sqrt(squares / (len(x) - 2) / float(centred @ centred))
    if squares > 1e-18 * float(y @ y):
        drift = min(max(float(residuals[1:] @ residuals[:-1]) / squares, 0.0), _MOST_DRIFT)
        error *= math.sqrt((1 + drift) / (1 - drift))
    start = float(y.mean() + slope * centred[0])
    end = float(y.mean() + slope * centred[-1])
    return Trend(len(x), slope, start, end, error * float(x[-1] - x[0]))


def student(freedom: int) -> float:
    """Return Student's two-sided 95 % quantile.

    By Cornish and Fisher's expansion of the normal one; for four degrees of freedom and more it
    is within 2 %.
    """
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
