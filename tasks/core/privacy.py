"""Personal columns: which look like it, and what becomes of those that are decided on."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PSEUDONYM_LENGTH = 32  # hexadecimal digits: 128 bits, so that two values share one in no table
LEAST_SHARE = 0.6  # of the present values that must look like it
SAMPLE = 2000  # values of a column that are looked at
TEXT = 2000  # characters of a text in which an address is looked for

Coarsening = Literal["day", "month", "year"] | int


@dataclass(frozen=True)
class Guard:
    """What was decided on the columns of one source; `key` is bytes of a secret and is never shown."""

    drop: frozenset[str] = frozenset()
    pseudonymise: frozenset[str] = frozenset()
    coarsen: tuple[tuple[str, Coarsening], ...] = ()
    keep: frozenset[str] = frozenset()
    key: bytes = b""

    @property
    def decided(self) -> frozenset[str]:
        return self.drop | self.pseudonymise | self.keep | {column for column, _ in self.coarsen}

    @property
    def changes(self) -> bool:
        """Whether some column's values must not be shown or written as they came."""
        return bool(self.drop or self.pseudonymise or self.coarsen)

    def __repr__(self) -> str:
        return f"Guard({sorted(self.decided)})"


def pseudonym(key: bytes, value: str) -> str:
    """The keyed hash that stands for the value: HMAC-SHA256 (RFC 2104), in hexadecimal, cut."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:PSEUDONYM_LENGTH]


# Names that promise a person's data, as whole words of the column's name; each blank may be left out.
_NAMES = {
    "a person's name": ("first name|last name|full name|surname|forename|given name|family name|maiden name|middle name"
                        "|customer name|user name|passenger name|patient name|employee name|contact name|nickname"
                        "|vorname|nachname|prenom|apellidos?"),
    "an e-mail address": "e mail|e mail address|mail address",
    "a telephone number": "phone|telephone|tel|mobile|cell phone|phone (number|no|nr)|fax|telefon",
    "an address": "street|address|addr|home address|postal address|address line",
    "a date of birth": "birth date|date of birth|dob|birth day|geburtsdatum|date de naissance|fecha de nacimiento",
    "an identity number": "ssn|social security|social security number|passport|passport number|national id|tax id"
    "|driver licen[cs]e|iban|nhs number|nino|national insurance number",
    "a card number": "credit card|card number|cc number|pan",
    "a network address": "ip|ip address|mac address|client ip|remote addr",
    "a postcode": "post code|zip|zip code|postal code|plz|postleitzahl",
}  # fmt: skip
# What is told about such a thing, not the thing itself: email_count, PhoneService, has_phone.
_ABOUT = (
    "count|opt|model|type|kind|brand|os|provider|domain|plan|service|lines?|sent|opened|clicks?|verified|valid|flag|length|rate"
)
_WHETHER = "has|have|is|num|no of|number of|n|valid|verified"
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")
_EMAIL_INSIDE = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+\.[A-Za-z]{2,}")
_PHONE = re.compile(r"(\+|00)\d[\d ()/.-]{6,18}\d|\(\d{3}\) ?\d{3}[- ]?\d{4}|\d{3}[-. ]\d{3}[-. ]\d{4}")
_IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
_SSN = re.compile(r"\d{3}-\d{2}-\d{4}")


def find_personal(columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Columns that look personal, with the reason in words; of each column some present values, as text."""
    found = {}
    for name, values in columns.items():
        if reason := _by_name(name) or _by_values(values[:SAMPLE]):
            found[name] = reason
    return found


def undecided(found: Collection[str], guard: Guard) -> list[str]:
    """Of the columns that look personal, those that params.yaml does not mention, in their order."""
    return [column for column in found if column not in guard.decided]


def _by_name(name: str) -> str | None:
    # "customerEmail", "customer_email" and "Customer E-Mail" are the same words.
    words = re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)).strip().lower()
    for kind, pattern in _NAMES.items():
        loose = pattern.replace(" ", " ?")
        if re.search(rf"(^|\s)({loose})($|\s(?!({_ABOUT})\b))", words) and not re.match(rf"({_WHETHER}) ({loose})\b", words):
            return f"its name promises {kind}"
    return None


def _by_values(values: Sequence[str]) -> str | None:
    kinds: dict[str, Callable[[str], bool]] = {
        "e-mail addresses": lambda value: bool(_EMAIL.fullmatch(value)),
        "telephone numbers": lambda value: bool(_PHONE.fullmatch(value)),
        "IBANs": lambda value: bool(_IBAN.fullmatch(value)) and _is_iban(value),
        "social security numbers": lambda value: bool(_SSN.fullmatch(value)),
        "card numbers": _is_card,
        "network addresses": _is_ip,
    }
    if not values:
        return None
    least = LEAST_SHARE * len(values)
    counts = {kind: sum(map(test, values)) for kind, test in kinds.items()}
    if max(counts.values()) >= least:
        return f"its values look like {max(counts, key=lambda kind: counts[kind])}"
    if sum(map(any, ((test(value) for test in kinds.values()) for value in values))) >= least:
        return f"its values look like {' or '.join(kind for kind, count in counts.items() if count)}"
    if sum(bool(_EMAIL_INSIDE.search(value[:TEXT])) for value in values) >= least:
        return "its texts hold e-mail addresses"
    return None


def _is_iban(value: str) -> bool:
    """ISO 13616's check digits."""
    return int("".join(str(int(letter, 36)) for letter in value[4:] + value[:4])) % 97 == 1


def _is_card(value: str) -> bool:
    """16 digits, perhaps in groups, whose last is Luhn's check digit (ISO/IEC 7812)."""
    digits = re.sub(r"[ -]", "", value)
    if not re.fullmatch(r"[3-6]\d{13,18}", digits) or not re.fullmatch(r"[\d -]+", value):
        return False
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "." in value or ":" in value
