"""Effect alert: people are told of a trouble once, reminded of it, and told when it is over, over each channel of params.yaml.

What was told stands in the release store, `monitor/<model>/alerts/`, so that of several machines one speaks.
"""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.cloud.storage import CONFLICTS, Conflict, Missing, Storage, StorageError
from tasks.core.alert import Alert as Alert
from tasks.core.alert import Message, Trouble, file_name, make_message, settled, wanting, weigh
from tasks.core.errors import TidemillError
from tasks.deliver import DeliveryError, deliver
from tasks.params import Alerting, Params
from tasks.releases import open_releases

LEASE = timedelta(minutes=2)  # longer than any channel takes with all its attempts
KEPT = timedelta(days=30)  # that a trouble is remembered for once it is over

log = logging.getLogger("tasks.alert")


@dataclass(frozen=True)
class Told:
    """What became of an alert: the channels that took it, what the others said, and why none was asked, if so."""

    sent: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    silent: str = ""


def raise_alert(workspace: Path, alert: Alert) -> Told:
    """Every channel that is due has the alert, or is named with what it said; the others have it none the less.

    A channel that failed is tried again when the alert is raised again. Where the store does not answer all are told: too often is
    better than never. ParamsError for a params.yaml that is none; else nothing is raised.
    """
    params, storage = _open(workspace)
    least = {name: one.least for name, one in params.alert.channels.items()}
    channels, remind = wanting(least, alert.severity), timedelta(hours=params.alert.remind_hours)
    alert = replace(alert, link=_link(params.alert, workspace, alert.link))
    key, now = _key(params.name, alert.key), datetime.now(UTC)
    try:
        for _ in range(CONFLICTS):
            found, tag = _read(storage, key)
            trouble, due = weigh(found, alert, now, channels, remind, LEASE)
            with suppress(Conflict):
                news = trouble.severity == "info" and not due  # with nobody to tell, it is over as it comes
                tag = _write(storage, key, settled(trouble, (), now, over=True) if news else trouble, tag)
                break
        else:
            return Told(silent="others raise it all the time")
    except (StorageError, TidemillError) as error:
        log.error("the release store does not say who was told of %r, so all are: %s", alert.key, error)
        trouble, _ = weigh(None, alert, now, channels, remind, LEASE)
        return _tell(params, make_message(trouble, params.name, "firing"), channels)
    if not due:
        return Told(silent="it is known already" if channels else "nobody asked to be told of it")
    told = _tell(params, make_message(trouble, params.name, "firing"), due)
    _settle(storage, key, tag, trouble, told.sent, over=False)
    _forget(storage, params.name, now)
    return told


def resolve_alert(workspace: Path, key: str, text: str = "") -> Told:
    """The trouble of that key is over, and everyone who was told of it knows; nothing happens where there is none."""
    params, storage = _open(workspace)
    place, now = _key(params.name, key), datetime.now(UTC)
    try:
        found, tag = _read(storage, place)
        if found is None or found.over:
            return Told(silent="there is no such trouble")
        if found.claimed and datetime.fromisoformat(found.claimed) > now:
            return Told(silent="another process has the word")
        claimed = replace(found, claimed=(now + LEASE).isoformat())
        tag = _write(storage, place, claimed, tag)
    except Conflict:
        return Told(silent="another process has the word")
    except (StorageError, TidemillError) as error:
        log.error("the release store does not say who was told of %r: %s", key, error)
        return Told(silent=str(error))
    to = [name for name in found.told if name in params.alert.channels]
    told = _tell(params, make_message(found, params.name, "resolved", text), to)
    _settle(storage, place, tag, claimed, (), over=bool(told.sent) or not told.failed)
    return told


def open_alerts(workspace: Path) -> list[Trouble]:
    """Every trouble that is not over, the oldest first."""
    params, storage = _open(workspace)
    found = [_read(storage, key)[0] for key in storage.keys(f"{_folder(params.name)}/")]
    return sorted((one for one in found if one and not one.over), key=lambda one: one.since)


def try_channels(workspace: Path) -> Told:
    """Every channel has a message that says it is a test, or is named with what it said."""
    params, _ = _open(workspace)
    now = datetime.now(UTC).isoformat()
    link = _link(params.alert, workspace, "reports/data.html")
    text = f"This is what an alert of the model {params.name} looks like. Nothing is wrong, and nothing has to be done."
    trouble = Trouble("test", f"an alert of {params.name}", text, "info", link, now, now, 1)
    return _tell(params, make_message(trouble, params.name, "test"), list(params.alert.channels))


def _open(workspace: Path) -> tuple[Params, Storage]:
    params = Params.load(workspace / "params.yaml")
    return params, open_releases(workspace, params.release.store, params.release.kms_key).storage


def _folder(model: str) -> str:
    return f"monitor/{model}/alerts"


def _key(model: str, key: str) -> str:
    return f"{_folder(model)}/{file_name(key)}"


def _link(params: Alerting, workspace: Path, link: str) -> str:
    """Where people open the report: a path of the workspace below the address that serves its reports, if there is one."""
    if not link or "://" in link:
        return link
    path = Path(link)
    if params.reports is None:
        return str(workspace.resolve() / path)
    inside = path.relative_to(workspace.resolve()) if path.is_absolute() and path.is_relative_to(workspace.resolve()) else path
    return f"{params.reports.rstrip('/')}/{inside.as_posix().removeprefix('reports/')}"


def _read(storage: Storage, key: str) -> tuple[Trouble | None, str | None]:
    """What is remembered under the key, and its tag. What cannot be read counts as nothing, and is written anew."""
    try:
        content, tag = storage.read(key)
    except Missing:
        return None, None
    try:
        return Trouble.from_json(json.loads(content)), tag
    except (ValueError, TypeError) as error:
        log.error("%s/%s cannot be read (%s); it is begun anew", storage.place, key, error)
        return None, tag


def _write(storage: Storage, key: str, trouble: Trouble, tag: str | None) -> str:
    content = json.dumps(trouble.to_json(), indent=1, ensure_ascii=False).encode()
    return storage.create(key, content) if tag is None else storage.replace(key, content, tag)


def _settle(storage: Storage, key: str, tag: str, trouble: Trouble, sent: tuple[str, ...], *, over: bool) -> None:
    """The store remembers who was told; on top of what another process wrote meanwhile."""
    try:
        for _ in range(CONFLICTS):
            with suppress(Conflict):
                _write(storage, key, settled(trouble, sent, datetime.now(UTC), over=over), tag)
                return
            found, now = _read(storage, key)
            if found is None or now is None:
                return
            trouble, tag = found, now
    except StorageError as error:
        log.error("the release store does not remember who was told of %r: %s", trouble.key, error)


def _forget(storage: Storage, model: str, now: datetime) -> None:
    """What was over long ago is not remembered."""
    try:
        for entry in storage.entries(f"{_folder(model)}/"):
            if entry.modified < now - KEPT and (found := _read(storage, entry.key)[0]) and found.over:
                storage.delete(entry.key)
    except StorageError as error:
        log.warning("old alerts stay in the release store: %s", error)


def _tell(params: Params, message: Message, names: list[str]) -> Told:
    """Each channel has the message or is named with what it said; none waits for another."""

    def tell(name: str) -> str:
        try:
            deliver(params.alert.channels[name], message)
        except (DeliveryError, TidemillError) as error:
            log.error("alert %r did not reach %s: %s", message.headline, name, error)
            return str(error)
        return ""

    if not names:
        return Told(silent="nobody asked to be told of it")
    with ThreadPoolExecutor(len(names)) as pool:
        said = dict(zip(names, pool.map(tell, names), strict=True))
    return Told(tuple(name for name, words in said.items() if not words), {name: words for name, words in said.items() if words})
