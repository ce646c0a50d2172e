"""Signatures of bundles in the OpenSSF model-signing format, verified without its library, which a service has no room for.

A Sigstore bundle around a DSSE envelope around an in-toto statement that lists every file with its SHA-256; the subject's digest
is that of all of theirs in order. https://github.com/sigstore/model-transparency, https://github.com/secure-systems-lab/dsse.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
HASHES: dict[str, Callable[[], HashAlgorithm]] = {
    "secp256r1": SHA256,
    "secp384r1": SHA384,
    "secp521r1": SHA512,
}  # by the key's curve


class SignatureError(Exception):
    """The signature does not vouch for the files; the message says why."""


def verify(signature: bytes, public_key: bytes, files: Mapping[str, str]) -> None:
    """The signature is by the owner of the key, in PEM, over exactly the files with these SHA-256; SignatureError otherwise."""
    key = load_public_key(public_key)
    try:
        bundle = json.loads(signature)
        envelope, hint = bundle["dsseEnvelope"], bundle["verificationMaterial"].get("publicKey", {}).get("hint")
        kind, payload = str(envelope["payloadType"]), base64.b64decode(envelope["payload"], validate=True)
        signed = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SignatureError(f"the signature is no Sigstore bundle with a DSSE envelope ({type(error).__name__})") from error
    if hint and hint != hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest():
        raise SignatureError("it is signed by another key than the one that is trusted")
    if kind != PAYLOAD_TYPE or len(signed) != 1:
        raise SignatureError(f"the signature holds {len(signed)} signatures of {kind!r}; expected one of {PAYLOAD_TYPE}")
    try:
        key.verify(signed[0], encode(kind, payload), ec.ECDSA(HASHES[key.curve.name]()))
    except InvalidSignature:
        raise SignatureError("the signature is not by the key that is trusted, or was changed after") from None
    listed = _listed(payload)
    if other := sorted(path for path in listed.keys() | files.keys() if listed.get(path) != files.get(path)):
        how = (
            "is not signed"
            if other[0] not in listed
            else "is missing"
            if other[0] not in files
            else "was changed after it was signed"
        )
        raise SignatureError(f"{other[0]} {how}" + (f" (and {len(other) - 1} more)" if len(other) > 1 else ""))


def load_public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key, on the curve P-256, P-384 or P-521; SignatureError when it is none."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError("the public key is none in PEM; `openssl ec -in private.pem -pubout` writes one") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASHES:
        raise SignatureError("the public key is on no curve for signatures here; expected an EC key on P-256, P-384 or P-521")
    return key


def encode(kind: str, payload: bytes) -> bytes:
    """What DSSE signs: its pre-authentication encoding of a payload and its type."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def _listed(payload: bytes) -> dict[str, str]:
    """SHA-256 by path, of the statement."""
    try:
        statement: dict[str, Any] = json.loads(payload)
        kinds = statement["_type"], statement["predicateType"]
        resources = statement["predicate"]["resources"]
        (subject,) = statement["subject"]
        algorithms = {str(one["algorithm"]) for one in resources}
        listed = {str(one["name"]): str(one["digest"]) for one in resources}
        whole = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
        of_all = subject["digest"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise SignatureError(f"what is signed is no list of a model's files ({type(error).__name__})") from error
    if kinds != (STATEMENT, PREDICATE) or algorithms - {"sha256"} or len(listed) != len(resources) or whole != of_all:
        raise SignatureError("what is signed is no list of a model's files with their SHA-256; sign it again")
    return listed
