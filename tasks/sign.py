"""Effect sign: a bundle is vouched for by a key from the outside, in the OpenSSF model-signing format, by its own library."""

from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tasks import params
from tasks.core.errors import ParamsError
from tasks.core.signature import HASHES, SignatureError, load_public_key
from tasks.credentials import read_secret
from tasks.releases import SIGNATURE, Releases

REMEDY = "`openssl ecparam -name prime256v1 -genkey -noout` writes one"


def find_signature(workspace: Path, values: params.Release, releases: Releases, bundle: Path, version: str) -> bytes | None:
    """The signature that the version shall get; None where it needs no other one than it has, and where none is wanted.

    A version that is in the store and vouched for needs no private key. ParamsError when the key cannot be used.
    """
    if values.sign is None:
        return None
    trusted = read_public_key(workspace, values.verify) if values.verify else None
    if releases.is_signed(version, trusted):
        return None
    private = read_key(workspace, values.sign, "release.sign")
    public = public_key(private)
    if trusted is not None and load_public_key(trusted).public_numbers() != load_public_key(public).public_numbers():
        raise ParamsError("release.verify is not the public key of release.sign: a release would be refused; correct either")
    return sign(bundle, private)


def sign(bundle: Path, private_key: bytes) -> bytes:
    """The signature over all files of the folder, as `model_signing verify key` takes it."""
    from model_signing import hashing, signing  # 2 s that only a signature needs

    with TemporaryDirectory() as folder:  # of this user alone
        path, key = Path(folder) / SIGNATURE, Path(folder) / "key.pem"
        key.touch(mode=0o600)
        key.write_bytes(private_key)
        listed = hashing.Config().set_ignored_paths(paths=[bundle / SIGNATURE], ignore_git_paths=False)
        signing.Config().set_hashing_config(listed).use_elliptic_key_signer(private_key=key).sign(bundle, path)
        return path.read_bytes()


def public_key(private_key: bytes) -> bytes:
    """The public key, in PEM, of a private one; ParamsError, which quotes nothing of it, when it is none to sign with."""
    try:
        key = load_pem_private_key(private_key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ParamsError(f"release.sign is no private key in PEM without a password; {REMEDY}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in HASHES:
        raise ParamsError(
            "release.sign is no EC key on P-256, P-384 or P-521; `openssl ecparam -name prime256v1 -genkey -noout` writes one"
        )
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_public_key(workspace: Path, reference: str) -> bytes:
    """The public key of release.verify, in PEM; ParamsError when it is none."""
    pem = read_key(workspace, reference, "release.verify")
    try:
        load_public_key(pem)
    except SignatureError as error:
        raise ParamsError(f"release.verify: {error}") from error
    return pem


def read_key(workspace: Path, reference: str, what: str) -> bytes:
    """The content of a secret, or of a file, whose path is meant from the workspace; ParamsError when it cannot be read."""
    if reference.startswith(("env:", "prefect:")):
        return read_secret(reference).encode()
    try:
        return (workspace / reference).expanduser().read_bytes()
    except OSError as error:
        raise ParamsError(f"{what}: {reference} cannot be read ({error.strerror}); name a file in PEM, or env:NAME") from error
