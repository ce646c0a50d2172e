"""Signatures: what the library of the format wrote is verified without it, and all else is refused with a sentence."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tasks.core.errors import ParamsError
from tasks.core.signature import PAYLOAD_TYPE, SignatureError, encode, verify
from tasks.releases import SIGNATURE, ReleaseError, verify_signature
from tasks.sign import public_key, read_public_key, sign
from tests.test_releases import bundle


def new_key(curve: ec.EllipticCurve | None = None) -> bytes:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


KEY = new_key()
PUBLIC = public_key(KEY)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    folder = bundle(tmp_path / "release", "weights")
    (folder / SIGNATURE).write_bytes(sign(folder, KEY))
    return folder


def refusal(folder: Path, key: bytes = PUBLIC) -> str:
    with pytest.raises(ReleaseError) as refused:
        verify_signature(folder, key)
    said = str(refused.value)
    assert "\n" not in said
    return said


def test_signature_vouches_for_the_bundle_here_and_in_the_library(signed: Path, tmp_path: Path) -> None:
    verify_signature(signed, PUBLIC)
    (tmp_path / "key.pub").write_bytes(PUBLIC)
    command = [
        "-m",
        "model_signing",
        "verify",
        "key",
        "--signature",
        signed / SIGNATURE,
        "--public_key",
        tmp_path / "key.pub",
        signed,
    ]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_other_curves_are_verified_too(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    folder, key = bundle(tmp_path / "release", "weights"), new_key(curve)
    (folder / SIGNATURE).write_bytes(sign(folder, key))
    verify_signature(folder, public_key(key))
    assert "signed by another key" in refusal(folder)


def test_unsigned_bundle_is_refused(tmp_path: Path) -> None:
    assert "is not signed" in refusal(bundle(tmp_path / "release", "weights"))


def test_signature_of_another_key_is_refused(signed: Path) -> None:
    assert "is signed by another key than the one that is trusted" in refusal(signed, public_key(new_key()))


def change(path: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_text("other")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (change("model.tflite"), "model.tflite was changed after it was signed"),
        (change("manifest.json"), "manifest.json was changed after it was signed"),
        (change("saved_model/graph.pb"), "saved_model/graph.pb was changed after it was signed"),
        (change("more.txt"), "more.txt is not signed"),
        (lambda folder: (folder / "lineage.json").unlink(), "lineage.json is missing"),
    ],
)
def test_bundle_that_was_changed_after_signing_is_refused(signed: Path, act: Callable[[Path], object], words: str) -> None:
    act(signed)
    assert words in refusal(signed)


def edited(signed: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((signed / SIGNATURE).read_text())
    change(document)
    (signed / SIGNATURE).write_text(json.dumps(document))


def with_payload(document: dict[str, Any], old: bytes, new: bytes) -> None:
    payload = base64.b64decode(document["dsseEnvelope"]["payload"])
    assert old in payload
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(old, new)).decode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: with_payload(it, b"model.tflite", b"model.tflyte"), "is not by the key that is trusted, or was changed"),
        (lambda it: it["dsseEnvelope"].update(payloadType="text/plain"), "of 'text/plain'; expected one of"),
        (lambda it: it["dsseEnvelope"].update(signatures=[]), "holds 0 signatures"),
        (lambda it: it["dsseEnvelope"]["signatures"][0].update(sig="AAAA"), "is not by the key that is trusted, or was changed"),
        (lambda it: it["dsseEnvelope"]["signatures"][0].update(sig="!"), "is no Sigstore bundle"),
        (lambda it: it["verificationMaterial"].clear(), ""),  # the hint alone is no part of what is vouched for
        (lambda it: it.clear(), "is no Sigstore bundle"),
    ],
)
def test_signature_that_was_changed_is_refused(signed: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    edited(signed, change)
    if words:
        assert words in refusal(signed)
    else:
        verify_signature(signed, PUBLIC)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"\xff\xfe", b'{"dsseEnvelope": 3, "verificationMaterial": 3}'])
def test_file_that_is_no_signature_is_refused(signed: Path, content: bytes) -> None:
    (signed / SIGNATURE).write_bytes(content)
    assert "is no Sigstore bundle" in refusal(signed)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b'{"_type": "https://in-toto.io/Statement/v1", "predicateType": "x", "predicate": {"resources": []}}'],
)
def test_signed_content_that_is_no_list_of_files_is_refused(payload: bytes) -> None:
    """By the right key: the same key may sign other things too."""
    key = ec.generate_private_key(ec.SECP256R1())
    from cryptography.hazmat.primitives.hashes import SHA256

    sig = key.sign(encode(PAYLOAD_TYPE, payload), ec.ECDSA(SHA256()))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(sig).decode()}],
    }
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(SignatureError, match="what is signed is no list of a model's files"):
        verify(json.dumps({"dsseEnvelope": envelope, "verificationMaterial": {}}).encode(), public, {})


def test_key_that_is_none_is_refused_and_never_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")
    )
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in (b"hunter2", locked, other, PUBLIC):
        with pytest.raises(ParamsError, match=r"release\.sign is no") as refused:
            public_key(pem)
        assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("MILL_PUBLIC", PUBLIC.decode())
    assert read_public_key(tmp_path, "env:MILL_PUBLIC") == PUBLIC
    with pytest.raises(ParamsError, match=r"release\.verify: none\.pub cannot be read"):
        read_public_key(tmp_path, "none.pub")
    (tmp_path / "wrong.pub").write_bytes(KEY)
    with pytest.raises(ParamsError, match=r"release\.verify: the public key is none in PEM"):
        read_public_key(tmp_path, "wrong.pub")
