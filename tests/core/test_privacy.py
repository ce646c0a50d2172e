"""Personal columns: what looks like one, what does not, and the pseudonym."""

import hashlib
import hmac

import pytest

from tasks.core.privacy import Guard, find_personal, pseudonym, undecided


@pytest.mark.parametrize(
    "name",
    [
        "email", "E-Mail", "customer_email_address", "customerEmail", "phone", "Phone Number", "first_name", "LastName", "surname",
        "ssn", "date_of_birth", "birthDate", "DOB", "street", "home_address", "ip", "client_ip", "IBAN", "passport", "zip_code",
        "postcode", "credit_card", "lastname", "dateofbirth", "emailaddress", "tel", "user_email", "zipcode",
        "geburtsdatum",
    ],
)  # fmt: skip
def test_name_that_promises_a_person_is_found(name: str) -> None:
    assert "its name promises" in find_personal({name: ["x"]})[name]


@pytest.mark.parametrize(
    "name",
    [
        "name", "carrier", "tailnum", "dest", "origin", "ship", "tip", "description", "zipper", "model", "manufacturer",
        "phenotype", "dewp", "precipitation", "average_daily_rate", "panel", "company", "lead_time", "stories", "personality",
        "email_count", "email_opt_in", "PhoneService", "phone_model", "has_phone", "hotel", "email_domain", "num_email",
    ],
)  # fmt: skip
def test_harmless_name_is_not_found(name: str) -> None:
    assert find_personal({name: ["some", "words", "12", "3.5"]}) == {}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["ann@example.com", "bob.b@mail.example.org", "x"], "e-mail addresses"),
        (["+49 30 1234567", "(212) 555-0100", "212-555-0101"], "telephone numbers"),
        (["DE89370400440532013000", "GB29NWBK60161331926819"], "IBANs"),
        (["123-45-6789", "987-65-4321"], "social security numbers"),
        (["4111 1111 1111 1111", "5500-0000-0000-0004"], "card numbers"),
        (["192.168.0.1", "2001:db8::1"], "network addresses"),
        (["ann@example.com", "+49 30 1234567"], "e-mail addresses or telephone numbers"),
    ],
)
def test_values_that_look_personal_are_found_under_any_name(values: list[str], words: str) -> None:
    assert find_personal({"x1": values}) == {"x1": f"its values look like {words}"}


def test_address_inside_a_text_is_found() -> None:
    notes = ["call back at ann@example.com, please", "Bob <bob@example.com>", "nothing"]
    assert find_personal({"notes": notes}) == {"notes": "its texts hold e-mail addresses"}


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["2013-01-01", "2013-01-02"],
        ["1234567890123", "4111111111111112", "6011000000000000"],  # digits without Luhn's check digit
        ["12", "13", "14"],
        ["1.5", "2.5"],
        ["DE00370400440532013000", "GB00NWBK60161331926819"],
        ["a@b", "@handle", "x"],
        ["N14228", "N24211"],
        ["10:30", "11:45"],
    ],
)
def test_ordinary_values_are_not_found(values: list[str]) -> None:
    assert find_personal({"x1": values}) == {}


def test_decided_columns_are_not_asked_about_again() -> None:
    found = {"email": "why", "phone": "why", "zip": "why", "ip": "why", "ssn": "why"}
    guard = Guard(frozenset({"email"}), frozenset({"phone"}), (("zip", 2),), frozenset({"ip"}))
    assert undecided(found, guard) == ["ssn"]


def test_pseudonym_is_keyed_and_stable() -> None:
    assert pseudonym(b"k", "ann") == hmac.new(b"k", b"ann", hashlib.sha256).hexdigest()[:32]
    assert pseudonym(b"k", "ann") != pseudonym(b"l", "ann")
    assert pseudonym(b"k", "ann") != pseudonym(b"k", "Ann")


def test_guard_shows_no_key() -> None:
    assert "secret" not in repr(Guard(pseudonymise=frozenset({"a"}), key=b"secret"))
