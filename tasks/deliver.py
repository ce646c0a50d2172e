"""Effect deliver: hands one message to one channel, again and again while it is the way that fails."""

import logging
import smtplib
import ssl
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from tasks.cloud.topics import TopicError, publish
from tasks.core.alert import Message, as_slack, as_text, subject
from tasks.credentials import read_secret
from tasks.params import Channel, EmailChannel, SlackChannel, SnsChannel, WebhookChannel

ATTEMPTS, FIRST_SECONDS, MOST_SECONDS = 4, 0.5, 8.0  # between which each wait doubles
TIMEOUT_SECONDS = 10.0  # of each attempt

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
            token = {"authorization": f"Bearer {read_secret(channel.token)}"} if channel.token else {}
            tries(_post, _address(channel.url), message.to_json(), {"idempotency-key": message.id, **token})
        case SlackChannel():
            tries(_post, _address(channel.url), as_slack(message), {})
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


def _post(url: str, document: dict[str, Any], headers: dict[str, str]) -> None:
    try:
        answer = httpx.post(url, json=document, headers=headers, timeout=TIMEOUT_SECONDS)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, ValueError) as error:
        raise DeliveryError(f"its address cannot be used ({type(error).__name__}); expected https://...") from None
    except httpx.HTTPError as error:
        raise PassingError(f"it does not answer ({_words(error, url)})") from None
    if answer.status_code == 429 or answer.status_code >= 500:
        raise PassingError(f"it answers {answer.status_code}")
    if not answer.is_success:
        raise DeliveryError(f"it answers {answer.status_code}: {_words(answer.text, url)}; check address and token")


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


def _words(found: object, secret: str) -> str:
    """What was said, on one line, without the address."""
    return " ".join(str(found).replace(secret, "...").split())[:200] or type(found).__name__


def _text(said: bytes | str) -> str:
    return " ".join((said.decode(errors="replace") if isinstance(said, bytes) else said).split())[:200]
