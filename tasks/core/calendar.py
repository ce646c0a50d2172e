"""Times as numbers: seconds since 1970 without a zone, and where they stand in the day, the week and the year."""

import math
import re
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

DAY, YEAR = 86_400, 31_556_952  # seconds; the year is the Gregorian mean, 365.2425 days
# What a request may send, and what the graph reads: digits at fixed places, a fraction of a second is not looked at.
PATTERN = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?Z?"
CYCLES = 7  # numbers that `cycles` makes of a time
_TIME = re.compile(PATTERN)


def parse_time(text: str) -> float:
    """Seconds since 1970-01-01 of an ISO 8601 date or time; ValueError says what is expected."""
    if not _TIME.fullmatch(text):
        raise ValueError("expected a date or time such as 2013-07-04 or 2013-07-04T18:30:00")
    try:
        when = datetime.fromisoformat(text.removesuffix("Z").partition(".")[0])
    except ValueError as error:
        raise ValueError(f"no such date or time: {error}") from error
    return when.replace(tzinfo=UTC).timestamp()


def format_time(seconds: float) -> str:
    """The time as ISO 8601, to the second; a midnight as its date alone."""
    when = datetime.fromtimestamp(math.floor(seconds), UTC)
    return f"{when:%Y-%m-%d}" if seconds % DAY == 0 else f"{when:%Y-%m-%dT%H:%M:%S}"


def cycles(seconds: NDArray[np.float64], holidays: NDArray[np.int64]) -> NDArray[np.float32]:
    """[row, CYCLES]: sine and cosine of the hour, of the weekday and of the season, and whether nobody works that day.

    `holidays` are days since 1970; a Saturday or Sunday counts as one. A missing time gives zeros.
    """
    missing = np.isnan(seconds)
    known = np.where(missing, 0.0, seconds)
    days = np.floor(known / DAY)
    weekday = (days + 3.0) % 7.0  # 1970-01-01 was a Thursday; Monday is 0
    phases = [2 * np.pi * (known / DAY - days), 2 * np.pi * weekday / 7.0, 2 * np.pi * (known / YEAR - np.floor(known / YEAR))]
    free = (weekday >= 5.0) | np.isin(days.astype(np.int64), holidays)
    columns = [wave(phase) for phase in phases for wave in (np.sin, np.cos)]
    features = np.stack([*columns, free.astype(np.float64)], axis=1)
    return np.where(missing[:, None], 0.0, features).astype(np.float32)
