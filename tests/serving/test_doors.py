"""Keys and tokens: who gets in, who does not, and that a key is nowhere but with its holder."""

import hmac
import json
import os
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from serving.doors import Bucket, DoorError, Doors, KeyRing, Provider, Scope, load_keys, make_key, save_keys
from serving.request import RequestError
from tests.conftest import ROOT

PREDICT, METRICS = "/v1/models/flights:predict", "/metrics"


def ring(path: Path, *scopes: Scope, expires: str | None = None, per_second: float = 0.0) -> tuple[str, Doors]:
    secret, key = make_key("client", scopes, expires, per_second)
    save_keys(path / "keys.json", [key])
    return secret, Doors(KeyRing(path / "keys.json"), None)


def answer(doors: Doors, path: str, secret: str | None, header: str = "authorization") -> int:
    said = {} if secret is None else {header.encode(): (f"Bearer {secret}" if header == "authorization" else secret).encode()}
    try:
        doors.check(path, said)
    except RequestError as error:
        return 0 if secret and secret in error.detail else error.status
    return 200


def test_key_opens_what_it_is_for_by_either_header_and_nothing_else(tmp_path: Path) -> None:
    secret, doors = ring(tmp_path, "predict")
    assert answer(doors, PREDICT, secret) == answer(doors, PREDICT, secret, "x-api-key") == 200
    assert answer(doors, METRICS, secret) == 403
    assert answer(doors, PREDICT, None) == answer(doors, PREDICT, secret[:-1]) == answer(doors, PREDICT, "") == 401
    assert answer(doors, "/healthz", None) == 200  # probes hold no key
    assert answer(doors, "/", None) == 401


def test_file_holds_no_key_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    secret, _ = ring(tmp_path, "predict")
    assert secret not in (tmp_path / "keys.json").read_text()
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


def test_key_that_has_ended_or_was_taken_out_opens_nothing_more(tmp_path: Path) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    secret, doors = ring(tmp_path, "predict", expires=past)
    assert answer(doors, PREDICT, secret) == 401
    secret, doors = ring(tmp_path, "predict")
    assert answer(doors, PREDICT, secret) == 200
    other, key = make_key("other", ("predict",), None, 0)
    save_keys(tmp_path / "keys.json", [key])
    (tmp_path / "keys.json").touch()
    deadline = time.monotonic() + 5
    while answer(doors, PREDICT, secret) == 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (answer(doors, PREDICT, secret), answer(doors, PREDICT, other)) == (401, 200)
    (tmp_path / "keys.json").write_text("{")  # half written by hand: the keys that were good stay
    time.sleep(1.2)
    assert answer(doors, PREDICT, other) == 200


def test_rate_of_a_key_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, doors = ring(tmp_path, "predict", per_second=5)
    now = [time.monotonic() + 60]  # a clock that stands: a slow machine would let more through
    monkeypatch.setattr("serving.doors.time.monotonic", lambda: now[0])
    assert [answer(doors, PREDICT, secret) for _ in range(7)] == [200] * 5 + [429] * 2
    now[0] += 0.25
    assert [answer(doors, PREDICT, secret) for _ in range(2)] == [200, 429]
    monkeypatch.undo()
    bucket = Bucket(0.1)  # one in ten seconds
    assert bucket.wait() == 0
    assert 9 < bucket.wait() <= 10


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"keys": [{"name": "x"}]}',
        '{"keys": [{"name": "x", "sha256": "00", "scopes": ["predict"]}]}',
        json.dumps({"keys": [{"name": "x", "sha256": "0" * 64, "scopes": ["all"]}]}),
    ],
)
def test_file_that_holds_no_keys_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(DoorError, match=r"keys\.json holds no keys"):
        load_keys(tmp_path / "keys.json")


RSA, EC = RSAKey.generate_key(2048, {"kid": "r"}), ECKey.generate_key("P-256", {"kid": "e"})


@pytest.fixture
def provided(tmp_path: Path) -> Doors:
    public = KeySet([RSA, EC]).as_dict(private=False)
    (tmp_path / "jwks.json").write_text(json.dumps(public))
    return Doors(None, Provider(str(tmp_path / "jwks.json"), "flights", "https://id.example.com"))


def token(key: Any = RSA, algorithm: str = "RS256", **changes: Any) -> str:
    claims = {"sub": "ann", "aud": "flights", "iss": "https://id.example.com", "exp": int(time.time()) + 600, "scope": "predict"}
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key, algorithms=[algorithm])


def test_good_tokens_open_what_their_scopes_say(provided: Doors) -> None:
    assert answer(provided, PREDICT, token()) == 200
    assert answer(provided, PREDICT, token(EC, "ES256")) == 200
    assert answer(provided, METRICS, token()) == 403
    assert answer(provided, METRICS, token(scope="metrics predict")) == 200
    assert answer(provided, PREDICT, token(scope=None)) == 403


@pytest.mark.parametrize(
    "changes",
    [{"exp": 1}, {"exp": None}, {"aud": "other"}, {"aud": None}, {"iss": "https://evil.example.com"}, {"nbf": 4_000_000_000}],
)
def test_token_that_ended_or_is_for_or_of_someone_else_opens_nothing(provided: Doors, changes: dict[str, Any]) -> None:
    assert answer(provided, PREDICT, token(**changes)) == 401


def test_forged_tokens_open_nothing(provided: Doors) -> None:
    good = token()
    head, body, signature = good.split(".")
    other = RSAKey.generate_key(2048, {"kid": "r"})
    assert answer(provided, PREDICT, token(other)) == 401
    assert answer(provided, PREDICT, f"{encode({'alg': 'none'})}.{body}.") == 401
    assert answer(provided, PREDICT, f"{head}.{body[:-2]}AA.{signature}") == 401
    # The public key taken for a shared secret, as when the algorithm is believed that the token names.
    signed = f"{encode({'alg': 'HS256', 'kid': 'r'})}.{body}"
    code = hmac.digest(RSA.as_pem(private=False), signed.encode(), "sha256")
    assert answer(provided, PREDICT, f"{signed}.{urlsafe_b64encode(code).decode().rstrip('=')}") == 401


def encode(part: Any) -> str:
    return urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_provider_without_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text("{}")
    with pytest.raises(DoorError, match="no keys at"):
        Provider(str(tmp_path / "jwks.json"), "flights", None)


def test_odd_tokens_are_refused_and_break_nothing(provided: Doors) -> None:
    _, body, signature = token().split(".")
    heads: list[Any] = [[], "x", 1, None, {"alg": ["RS256"]}, {"alg": {}}, {"alg": None}, {"alg": "RS256", "kid": ["r"]}]
    heads += [
        {"alg": "RS256", "kid": {}},
        {"alg": "RS256", "crit": ["x"]},
        {"alg": "RS256", "b64": False},
        {"alg": "RS256", "kid": "x"},
    ]
    for head in heads:
        assert answer(provided, PREDICT, f"{encode(head)}.{body}.{signature}") == 401, head
    deep = urlsafe_b64encode(b"[" * 30_000).decode().rstrip("=")
    for odd in (f"{deep}.{body}.{signature}", f"{body}.{deep}.{signature}", "..", "a.b.c", "\xff.\xff.\xff", "é.é.é"):
        assert answer(provided, PREDICT, odd) == 401
    forged = ECKey.generate_key("P-256", {"kid": "r"})  # another key by the name of one that is good
    assert answer(provided, PREDICT, token(forged, "ES256")) == 401
    for claims in ({"exp": "x"}, {"exp": [1]}, {"aud": {}}, {"nbf": "x"}, {"iss": ["x"]}):
        assert answer(provided, PREDICT, token(**claims)) == 401, claims
    assert answer(provided, PREDICT, token(scope={"predict": 1})) == 403


def test_provider_that_hangs_keeps_no_holder_of_a_good_token_waiting(tmp_path: Path) -> None:
    public = json.dumps(KeySet([RSA, EC]).as_dict(private=False))
    (tmp_path / "jwks.json").write_text(public)
    provider = Provider(str(tmp_path / "jwks.json"), "flights", "https://id.example.com")
    (tmp_path / "jwks.json").unlink()
    os.mkfifo(tmp_path / "jwks.json")  # which nobody writes to: reading it takes for ever
    provider.at -= 1000
    doors = Doors(None, provider)
    first = threading.Thread(target=answer, args=(doors, PREDICT, token()), daemon=True)
    first.start()
    time.sleep(0.2)
    started = time.monotonic()
    assert answer(doors, PREDICT, token()) == 200
    assert answer(doors, PREDICT, token(scope=None)) == 403
    assert time.monotonic() - started < 2
    (tmp_path / "jwks.json").write_text(public)
    first.join(10)
    assert not first.is_alive()


@pytest.mark.parametrize(
    "words",
    [["--days", "0"], ["--days", "-1"], ["--days", "nan"], ["--days", "1e12"], ["--per-second", "-3"], ["--per-second", "nan"]],
)
def test_key_of_no_end_or_rate_that_could_be_meant_is_not_made(tmp_path: Path, words: list[str]) -> None:
    """`--days 0` would else make a key that never ends, and a rate of nan one without a limit."""
    keys = tmp_path / "keys.json"
    command = [sys.executable, "-m", "serving.keys", "--keys", str(keys), "add", "shop", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, keys.exists()) == (2, "", False)
    assert f"argument {words[0]}: invalid" in done.stderr


@pytest.mark.parametrize("rate", [-3.0, float("nan"), float("inf"), "5"])
def test_file_with_a_rate_that_is_none_is_refused(tmp_path: Path, rate: Any) -> None:
    save_keys(tmp_path / "keys.json", [make_key("client", ("predict",), None, rate)[1]])
    with pytest.raises(DoorError):
        KeyRing(tmp_path / "keys.json")


def test_rate_that_was_changed_in_the_file_holds(tmp_path: Path) -> None:
    secret, key = make_key("client", ("predict",), None, 1)
    save_keys(tmp_path / "keys.json", [key])
    doors = Doors(KeyRing(tmp_path / "keys.json"), None)
    assert [answer(doors, PREDICT, secret) for _ in range(2)] == [200, 429]
    save_keys(tmp_path / "keys.json", [replace(key, per_second=50)])
    assert doors.keys is not None
    doors.keys.looked = 0.0
    assert [answer(doors, PREDICT, secret) for _ in range(20)] == [200] * 20
