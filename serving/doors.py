"""Who may ask for what: keys, kept by their hash alone, and JSON Web Tokens of a provider; each with scopes, a rate and an end."""

import hashlib
import json
import math
import secrets
import threading
import time
from base64 import b64decode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from serving.request import RequestError

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

Scope = Literal["predict", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
OPEN = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})  # for probes, which hold no key
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]  # no secrets
LEEWAY = 60  # seconds that two clocks may differ by
JWKS_SECONDS = 300  # for which a provider's keys are not asked for again
MARK = "tm_"  # begins every key, so that scanners for secrets know one


class DoorError(Exception):
    """Keys or a provider's keys that cannot be used; the message says why."""


@dataclass(frozen=True)
class Key:
    """A key of the file: `sha256` of it, never itself; `expires` in ISO form or None; requests a second, 0 for no limit."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    expires: str | None = None
    per_second: float = 0.0

    @property
    def ended(self) -> bool:
        return self.expires is not None and datetime.fromisoformat(self.expires) <= datetime.now(UTC)


@dataclass
class Bucket:
    """How many requests a holder has left (a token bucket of one second's worth, at least one)."""

    rate: float
    left: float = field(init=False)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = max(1.0, self.rate)

    def wait(self) -> float:
        """0 and one less, or the seconds until there is one."""
        now = time.monotonic()
        self.left = min(max(1.0, self.rate), self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) / self.rate


def load_keys(path: Path) -> list[Key]:
    """The keys of the file; DoorError when it is none."""
    try:
        document = json.loads(path.read_text())
        keys = [Key(**{**one, "scopes": tuple(one["scopes"])}) for one in document["keys"]]
        for key in keys:
            if strange := sorted(set(key.scopes) - set(SCOPES)):
                raise ValueError(f"key {key.name!r} has the scopes {strange}; there are {list(SCOPES)}")
            if len(key.sha256) != 64 or (key.expires and datetime.fromisoformat(key.expires).tzinfo is None):
                raise ValueError(f"key {key.name!r} needs the sha256 of a key, and a time zone where it expires")
            if not 0 <= key.per_second < math.inf:
                raise ValueError(f"key {key.name!r} is good for {key.per_second} requests a second; expected 0 (no limit) or more")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DoorError(f"{path} holds no keys: {error}; `python -m serving.keys` writes it") from error
    return keys


def save_keys(path: Path, keys: Iterable[Key]) -> None:
    """The file holds these keys, for its owner alone to read."""
    aside = path.with_name(f".{path.name}.partial")
    aside.touch(mode=0o600)
    aside.write_text(json.dumps({"keys": [asdict(key) for key in keys]}, indent=1) + "\n")
    aside.replace(path)


def make_key(name: str, scopes: tuple[Scope, ...], expires: str | None, per_second: float) -> tuple[str, Key]:
    """A new key, which is nowhere else, and what is kept of it: 256 random bits need no slow hash."""
    secret = f"{MARK}{secrets.token_urlsafe(32)}"
    return secret, Key(name, hash_of(secret), scopes, expires, per_second)


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyRing:
    """The keys of a file, read again when it changes: to rotate one, add the new one, move the clients, take the old one out."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.keys = {key.sha256: key for key in load_keys(path)}
        self.seen = path.stat().st_mtime_ns
        self.looked = time.monotonic()

    def find(self, secret: str) -> Key | None:
        """The key, unless it is unknown or has ended."""
        with self.lock:
            if time.monotonic() - self.looked > 1:
                self.looked = time.monotonic()
                self._look_again()
        key = self.keys.get(hash_of(secret))
        return None if key is None or key.ended else key

    def _look_again(self) -> None:
        try:
            if (changed := self.path.stat().st_mtime_ns) != self.seen:
                self.keys, self.seen = {key.sha256: key for key in load_keys(self.path)}, changed
        except (OSError, DoorError):  # half written or gone for a moment: those that were good stay
            return


class Provider:
    """Tokens of an identity provider, checked by its public keys (JWKS), audience and issuer."""

    def __init__(self, jwks: str, audience: str, issuer: str | None) -> None:
        """DoorError when the keys, behind a URL or in a file, cannot be had."""
        from joserfc import jwt  # 0.2 s at the start of a service, of which most take no tokens

        self.jwks, self.lock = jwks, threading.Lock()
        self.keys, self.at = self._fetch(), time.monotonic()
        wanted: dict[str, Any] = {"exp": {"essential": True}, "aud": {"essential": True, "value": audience}}
        if issuer is not None:
            wanted["iss"] = {"essential": True, "value": issuer}
        self.claims = jwt.JWTClaimsRegistry(leeway=LEEWAY, **wanted)

    def find(self, token: str) -> Key | None:
        """What the token allows, as a key of its subject's name; None for one that is not good."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        for fresh in (False, True):
            keys = self._current(fresh)
            try:
                found = jwt.decode(token, keys, algorithms=ALGORITHMS)
                self.claims.validate(found.claims)
                said = found.claims.get("scope", found.claims.get("scp", ""))
            except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):  # forged in some odd way
                continue  # once more with keys that are not older than a few seconds: the provider may have new ones
            scopes = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
            allowed = tuple(scope for scope in SCOPES if scope in scopes)
            return Key(f"token of {str(found.claims.get('sub', ''))[:100]}", hash_of(token), allowed)
        return None

    def _current(self, fresh: bool) -> "KeySet":
        # Whoever comes while they are fetched takes those that are there: forged tokens and a slow provider must not keep
        # holders of good ones waiting.
        if time.monotonic() - self.at > (10 if fresh else JWKS_SECONDS) and self.lock.acquire(blocking=False):
            try:
                self.at = time.monotonic()
                with suppress(DoorError):  # a provider that does not answer: its last keys stay good
                    self.keys = self._fetch()
            finally:
                self.lock.release()
        return self.keys

    def _fetch(self) -> "KeySet":
        import httpx
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        try:
            if "://" in self.jwks:
                document = httpx.get(self.jwks, timeout=5, follow_redirects=True).raise_for_status().json()
            else:
                document = json.loads(Path(self.jwks).read_text())
            return KeySet.import_key_set(document)
        except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError, JoseError) as error:
            raise DoorError(f"no keys at {self.jwks}: {type(error).__name__}: {error}") from error


class Doors:
    """Lets a request through, or says with which error it is refused."""

    def __init__(self, keys: KeyRing | None, provider: Provider | None) -> None:
        self.keys, self.provider = keys, provider
        self.buckets: dict[str, Bucket] = {}

    @property
    def locked(self) -> bool:
        """Whether anyone is asked for anything."""
        return self.keys is not None or self.provider is not None

    def check(self, path: str, headers: dict[bytes, bytes]) -> str | None:
        """The name of the key that lets the request through, if it needs one.

        RequestError 401 without a good key or token, 403 without the scope, 429 above its rate.
        """
        if not self.locked or path in OPEN:
            return None
        secret = headers.get(b"x-api-key", b"").decode("latin-1")
        kind, _, bearer = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if not secret and kind.lower() == "bearer":
            secret = bearer.strip()
        if not secret and kind.lower() == "basic":  # what a browser asks a person for: a key as the password
            with suppress(ValueError):
                secret = b64decode(bearer.strip(), validate=True).decode("latin-1").partition(":")[2]
        if not secret:
            raise RequestError(401, "no key: send it as `Authorization: Bearer KEY`, `X-API-Key: KEY` or the password of Basic")
        key = self.keys.find(secret) if self.keys else None
        if key is None and self.provider and secret.count(".") == 2:
            key = self.provider.find(secret)
        if key is None:
            raise RequestError(401, "this key or token is not known, has ended, or is for someone else")
        needed = scope_of(path)
        if needed not in key.scopes:
            raise RequestError(403, f"this key may {' and '.join(key.scopes) or 'do nothing'}; {path[:100]} needs {needed}")
        if key.per_second:
            bucket = self.buckets.get(key.sha256)
            if bucket is None or bucket.rate != key.per_second:
                bucket = self.buckets[key.sha256] = Bucket(key.per_second)
            if wait := bucket.wait():
                raise RequestError(429, f"more than {key.per_second:g} requests a second", retry_after=math.ceil(wait))
        return key.name


def scope_of(path: str) -> Scope:
    """What the path is guarded by."""
    if path.endswith(":refresh"):
        return "admin"
    return "metrics" if path == "/metrics" or path.endswith(("/live", "/history")) else "predict"
