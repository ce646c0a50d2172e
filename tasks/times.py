"""Times that people write."""

from datetime import UTC, datetime

from tasks.core.errors import ParamsError

FIRST_YEAR, LAST_YEAR = 1970, 9000


def parse_time(text: str, what: str) -> datetime:
    """An ISO 8601 time, UTC unless it says otherwise; ParamsError for what is none."""
    try:
        when = datetime.fromisoformat(text)
        when = (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ParamsError(f"{what} {text!r}: expected a time such as 2013-07-04 or 2013-07-04T18:00") from None
    if not FIRST_YEAR <= when.year <= LAST_YEAR:
        raise ParamsError(f"{what} {text!r}: expected a time of the years {FIRST_YEAR} to {LAST_YEAR}")
    return when
