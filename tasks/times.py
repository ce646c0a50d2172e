"""Times that people write."""

from datetime import UTC, datetime

from tasks.core.errors import ParamsError


def parse_time(text: str, what: str) -> datetime:
    """An ISO 8601 time, UTC unless it says otherwise; ParamsError for what is none."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ParamsError(f"{what} {text!r}: expected a time such as 2013-07-04 or 2013-07-04T18:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
