"""Effect deliver: hands one message to one channel, again and again while it is the way that fails."""

import logging
import smtplib
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from tasks.cloud.topics import TopicError, publish
from tasks.core.alert import Message, as_slack, as_text, subject
from tasks.credentials import read_secret
from tasks.params import Channel, EmailChannel, SlackChannel, SnsChannel, WebhookChannel

ATTEMPTS, FIRST_SECONDS, MOST_SECONDS = 4, 0.5, 8.0  # between which each wait doubles
TIMEOUT_SECONDS = 10.0  # of each attempt
MOST_BYTES = 2048  # of an answer that are read
LEAST_LETTERS = 4  # of what may be a secret

logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every URL, and Slack's are secrets


class DeliveryError(Exception):
    """The channel did not take the message; the text says why, and holds no secret."""


class PassingError(DeliveryError):
    """The same, and another attempt may succeed."""


def deliver(channel: Channel, message: Message) -> None:
    """The channel has the message; DeliveryError after ATTEMPTS, or at once where another attempt would not help.

    ParamsError when the environment lacks a secret of the channel.
    """
    tries = Retrying(
        retry=retry_if_exception_type(PassingError),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=FIRST_SECONDS, max=MOST_SECONDS),
        reraise=True,
    )
    match channel:
        case WebhookChannel():
            token = read_secret(channel.token) if channel.token else ""
            headers = {"idempotency-key": message.id} | ({"authorization": f"Bearer {token}"} if token else {})
            tries(_post, _address(channel.url), message.to_json(), headers, token)
        case SlackChannel():
            tries(_post, _address(channel.url), as_slack(message), {}, "")
        case EmailChannel():
            tries(_mail, channel, message, read_secret(channel.password) if channel.password else None)
        case SnsChannel():
            try:
                publish(channel.topic, subject(message), as_text(message))  # boto3 tries again by itself
            except TopicError as error:
                raise DeliveryError(str(error)) from error


def place(channel: Channel) -> str:
    """Where the channel leads, without a secret."""
    match channel:
        case WebhookChannel() | SlackChannel():
            return channel.url
        case EmailChannel():
            return f"{', '.join(channel.to)} by {channel.host}:{channel.port}"
        case SnsChannel():
            return channel.topic


def _address(url: str) -> str:
    return read_secret(url) if url.startswith(("env:", "prefect:")) else url


def _post(url: str, document: dict[str, Any], headers: dict[str, str], token: str) -> None:
    """The address took the document; of what it answers no more is read than is told, for TIMEOUT_SECONDS at most."""
    secrets = _secrets(url, token)
    try:
        with httpx.stream("POST", url, json=document, headers=headers, timeout=TIMEOUT_SECONDS) as answer:
            said = "" if answer.is_success else _words(_beginning(answer), secrets)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, ValueError) as error:
        raise DeliveryError(f"its address cannot be used ({type(error).__name__}); expected https://...") from None
    except httpx.HTTPError as error:
        raise PassingError(f"it does not answer ({_words(error, secrets) or type(error).__name__})") from None
    if answer.status_code == 429 or answer.status_code >= 500:
        raise PassingError(f"it answers {answer.status_code}")
    if not answer.is_success:
        raise DeliveryError(f"it answers {answer.status_code}{f': {said}' if said else ''}; check address and token")


def _beginning(answer: httpx.Response) -> str:
    """What it says first, as text."""
    said, until = b"", time.monotonic() + TIMEOUT_SECONDS
    with suppress(httpx.HTTPError):  # what came is told
        for part in answer.iter_bytes(1024):
            said += part
            if len(said) > MOST_BYTES or time.monotonic() > until:
                break
    return said.decode(errors="replace")


def _secrets(url: str, token: str) -> list[str]:
    """What must not be told of an address, the longest first: it may say its own path, or the token that it does not like."""
    parts = urlsplit(url)
    known = [url, token, parts.path, parts.query, parts.password or "", *parts.path.split("/"), *parts.query.split("&")]
    known += [value for _, value in parse_qsl(parts.query)]
    return sorted({form for one in known for form in (one, unquote(one)) if len(one) >= LEAST_LETTERS}, key=len, reverse=True)


def _mail(channel: EmailChannel, message: Message, password: str | None) -> None:
    """The server has a mail to all addresses."""
    mail = compose(channel, message)
    context = ssl.create_default_context()
    try:
        if channel.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(channel.host, channel.port, timeout=TIMEOUT_SECONDS, context=context)
        else:
            server = smtplib.SMTP(channel.host, channel.port, timeout=TIMEOUT_SECONDS)
        with server:
            if channel.security == "starttls":
                server.starttls(context=context)
            if channel.user and password:
                server.login(channel.user, password)
            refused = server.send_message(mail)
    except ssl.SSLError as error:
        raise DeliveryError(f"no TLS with {channel.host}: {error.reason or error}; SSL_CERT_FILE may name its authority") from error
    except smtplib.SMTPRecipientsRefused as error:
        raise DeliveryError(f"{channel.host} refuses {', '.join(error.recipients)}") from error
    except smtplib.SMTPAuthenticationError as error:
        raise DeliveryError(f"{channel.host} does not take user {channel.user!r} with that password ({error.smtp_code})") from error
    except smtplib.SMTPResponseException as error:
        kind = PassingError if 400 <= error.smtp_code < 500 else DeliveryError
        raise kind(f"{channel.host} answers {error.smtp_code} {_text(error.smtp_error)}") from error
    except smtplib.SMTPNotSupportedError as error:
        raise DeliveryError(f"{channel.host}: {error}; choose another security for it: starttls, tls or none") from error
    except UnicodeError as error:
        raise DeliveryError(f"{channel.host} cannot be used ({error}); expected the name of a mail server") from error
    except (OSError, smtplib.SMTPException) as error:
        raise PassingError(f"{channel.host}:{channel.port} does not answer ({type(error).__name__}: {error})") from error
    if refused:
        raise DeliveryError(f"{channel.host} refuses {', '.join(refused)}; the others have it")


def compose(channel: EmailChannel, message: Message) -> EmailMessage:
    """The mail; all of one trouble are of one thread."""
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject(message), channel.sender, ", ".join(channel.to)
    domain = channel.sender.rpartition("@")[2]
    mail["Date"] = format_datetime(datetime.now().astimezone())
    mail["Message-ID"] = f"<{message.id}@{domain}>"
    mail["References"] = mail["In-Reply-To"] = f"<{message.thread}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday answers it
    mail.set_content(as_text(message))
    return mail


def _words(found: object, secrets: Sequence[str]) -> str:
    """What was said, on one line, without the secrets."""
    text = str(found)
    for secret in secrets:
        text = text.replace(secret, "...")
    return " ".join(text.split())[:200]


def _text(said: bytes | str) -> str:
    return " ".join((said.decode(errors="replace") if isinstance(said, bytes) else said).split())[:200]
