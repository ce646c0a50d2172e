"""What is told to people when something needs them: when a channel is due, and how a message reads there."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]
Status = Literal["firing", "resolved", "test"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
WORDS: dict[Status, str] = {"firing": "", "resolved": "Resolved: ", "test": "Test: "}
SLACK_HEADER, SLACK_TEXT = 150, 3000  # characters that Slack takes of a header and of a section
LONGEST_SUBJECT = 180  # characters of a mail's subject


@dataclass(frozen=True)
class Alert:
    """Something that somebody should know. The same key is the same trouble, which is told once until it is over.

    An alert of severity info is no trouble: it is told and over. `link` is a report, as a URL or as a path of the workspace.
    """

    key: str
    title: str
    text: str
    severity: Severity
    link: str = ""


@dataclass(frozen=True)
class Trouble:
    """An alert that was raised, as the store remembers it; times are ISO 8601, UTC."""

    key: str
    title: str
    text: str
    severity: Severity
    link: str
    since: str
    seen: str  # when it was raised the last time
    times: int
    told: Mapping[str, str] = field(default_factory=dict)  # by channel, when that took it the last time
    claimed: str | None = None  # until then a process has the word
    over: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Trouble":
        """TypeError or ValueError for what `to_json` did not write."""
        found = cls(**document)
        if found.severity not in SEVERITIES or not isinstance(found.times, int) or not isinstance(found.told, Mapping):
            raise ValueError(f"severity {found.severity!r}, raised {found.times!r}, told {found.told!r}")
        for when in (found.since, found.seen, *found.told.values(), *(one for one in (found.claimed, found.over) if one)):
            if datetime.fromisoformat(when).tzinfo is None:
                raise ValueError(f"time {when!r} without a zone")
        return found


@dataclass(frozen=True)
class Message:
    """What a channel is handed. The same id is the same message, sent again as its first way may have failed."""

    id: str
    status: Status
    model: str
    key: str
    title: str
    text: str
    severity: Severity
    link: str
    since: str
    times: int

    @property
    def thread(self) -> str:
        """The same for all messages of one trouble."""
        return hashlib.sha256(f"{self.model}\0{self.key}\0{self.since}".encode()).hexdigest()[:32]

    @property
    def headline(self) -> str:
        """Its first line, without what could break a header."""
        return " ".join(f"{WORDS[self.status]}{self.title}".split())

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, **asdict(self)}


def file_name(key: str) -> str:
    """A name for the key that can stand in a store: its letters, and a hash that tells it from keys that read alike."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", key).strip("-.")[:60]
    return f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"


def wanting(least: Mapping[str, Severity], severity: Severity) -> list[str]:
    """The channels that take alerts of that severity; `least` is what each takes at least."""
    return [name for name, one in least.items() if SEVERITIES.index(severity) >= SEVERITIES.index(one)]


def weigh(
    found: Trouble | None, alert: Alert, now: datetime, channels: Iterable[str], remind: timedelta, lease: timedelta
) -> tuple[Trouble, list[str]]:
    """What the store shall remember once the alert is raised, and the channels that are told of it now.

    These are all of a trouble that is new, that was over, or that grew worse; of one that is known those that were last told
    `remind` ago, or could not be. While another process has the word none is; it has it for `lease` at most.
    """
    time = now.isoformat()
    if found is None or (found.over and not _is_repeated(found, alert, now, remind)):
        fresh = Trouble(alert.key, alert.title, alert.text, alert.severity, alert.link, since=time, seen=time, times=0)
    else:
        fresh = replace(found, title=alert.title, text=alert.text, severity=alert.severity, link=alert.link)
        if SEVERITIES.index(alert.severity) > SEVERITIES.index(found.severity):
            fresh = replace(fresh, told={}, claimed=None)
    fresh = replace(fresh, seen=time, times=fresh.times + 1)
    if fresh.claimed and datetime.fromisoformat(fresh.claimed) > now:
        return fresh, []
    due = [name for name in channels if name not in fresh.told or now - datetime.fromisoformat(fresh.told[name]) >= remind]
    return replace(fresh, claimed=(now + lease).isoformat() if due else None), due


def _is_repeated(found: Trouble, alert: Alert, now: datetime, remind: timedelta) -> bool:
    """Whether it is a piece of news, over as soon as it was told, that comes again too soon."""
    return alert.severity == "info" == found.severity and now - datetime.fromisoformat(found.seen) < remind


def settled(trouble: Trouble, told: Iterable[str], now: datetime, *, over: bool) -> Trouble:
    """The trouble once these channels took its message."""
    time = now.isoformat()
    return replace(
        trouble,
        told={**trouble.told, **dict.fromkeys(told, time)},
        claimed=None,
        over=time if over or trouble.severity == "info" else None,
    )


def make_message(trouble: Trouble, model: str, status: Status, text: str = "") -> Message:
    """What is said of the trouble; `text` takes the place of its own."""
    mark = f"{trouble.key}\0{trouble.since}\0{status}\0{trouble.times}"
    return Message(
        id=hashlib.sha256(mark.encode()).hexdigest()[:32],
        status=status,
        model=model,
        key=trouble.key,
        title=trouble.title,
        text=text or trouble.text,
        severity=trouble.severity,
        link=trouble.link,
        since=trouble.since,
        times=trouble.times,
    )


def as_slack(message: Message) -> dict[str, Any]:
    """The message as Slack's incoming webhooks take it (api.slack.com/reference/block-kit), and Mattermost's."""
    facts = [f"*{message.model}*", message.severity if message.status == "firing" else message.status, f"since {_minute(message)}"]
    text = _escape(message.text)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(message.headline, SLACK_HEADER)}},
        {"type": "section", "text": {"type": "mrkdwn", "text": _cut(text, SLACK_TEXT) or " "}},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": " · ".join(facts)}]},
    ]
    if message.link:
        where = f"<{_escape(message.link)}|Report>" if "://" in message.link else f"Report: `{_escape(message.link)}`"
        blocks.insert(2, {"type": "section", "text": {"type": "mrkdwn", "text": where}})
    return {"text": _escape(f"[{message.model}] {message.headline}"), "blocks": blocks}


def as_text(message: Message) -> str:
    """The message as plain text, for mail and the like."""
    lines = [message.text]
    if message.link:
        lines += ["", f"Report: {message.link}"]
    lines += ["", f"model {message.model}, {message.severity}, {message.status}, since {_minute(message)}, raised {message.times}x"]
    return "\n".join([*lines, f"key: {message.key}"])


def subject(message: Message) -> str:
    """The line that a mail begins with."""
    kind = message.severity.upper() if message.status == "firing" else message.status
    return _cut(f"[{message.model}] {kind}: {' '.join(message.title.split())}", LONGEST_SUBJECT)


def _minute(message: Message) -> str:
    return f"{message.since[:16].replace('T', ' ')} UTC"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
