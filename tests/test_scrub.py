"""Personal data and secrets become placeholders: every field, JSON inside strings, the same value the same name."""

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain import params as params_
from retrain import recognisers
from retrain.errors import ParamsError
from retrain.recognisers import Finder
from retrain.scrub import Scrubber
from retrain.scrub_rules import PATTERNS, Scrub
from retrain.spellings import ordinary

RULES = params_.load().scrub
SCRUBBER = Scrubber(RULES)
SECRETS = {
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "GitHub": "ghp_" + "aB3" * 12,
    "GitHub, fine-grained": "github_pat_11ABCDEFG0" + "x1Y2" * 10,
    "GitLab": "glpat-" + "aB3_x" * 4,
    "Slack": "xoxb-123456789012-abcdefABCDEF",
    "OpenAI": "sk-proj-" + "Ab1_" * 10,
    "Anthropic": "sk-ant-api03-" + "Ab1-" * 10,
    "Google": "AIza" + "Sy_-1" * 7,
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "Stripe": "sk_live_" + "4eC39HqLyjWD",
    "Hugging Face": "hf_" + "aBcD" * 9,
    "PEM": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
    "PEM, cut off": "-----BEGIN PRIVATE KEY-----\nMIIEow",
}


def scrubbed(**row: Any) -> dict[str, Any]:
    (found,) = SCRUBBER([row])
    assert found.row is not None, found.why
    return found.row


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("write to ann@example.com", "write to <EMAIL_1>"),
        ("call +49 30 901820 or (202) 555-0143", "call <PHONE_1> or <PHONE_2>"),
        ("card 4111 1111 1111 1111.", "card <CREDIT_CARD_1>."),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN <IBAN_1>"),
        ("from 10.1.2.3, 2001:db8::8a2e:370:7334", "from <IP_1>, <IP_2>"),
        ("SSN 123-45-6781, NINO AB 12 34 56 C", "SSN <US_SSN_1>, NINO <UK_NINO_1>"),
        ("postgres://bob:s3cret@db/x and https://db/x", "postgres://<SECRET_1>@db/x and https://db/x"),
        ("Authorization: Bearer abcdef0123456789xyz", "Authorization: Bearer <SECRET_1>"),
        ("DB_PASSWORD=correcthorse", "DB_PASSWORD=<SECRET_1>"),
        ("password: hunter2!, thanks", "password: <SECRET_1>, thanks"),
    ],
)
def test_what_is_found_becomes_a_placeholder_and_nothing_around_it_changes(text: str, told: str) -> None:
    assert scrubbed(prompt=text) == {"prompt": told}


@pytest.mark.parametrize("kind", SECRETS)
def test_keys_of_well_known_services_are_found(kind: str) -> None:
    assert scrubbed(prompt=f"use {SECRETS[kind]}") == {"prompt": "use <SECRET_1>"}


def test_question_and_answer_of_a_row_agree_however_the_value_is_written() -> None:
    row = scrubbed(prompt="ship to Bob@Example.com, tel 020 7946 0123", response='{"to":"bob@example.com","tel":"02079460123"}')
    assert row == {"prompt": "ship to <EMAIL_1>, tel <PHONE_1>", "response": '{"to":"<EMAIL_1>","tel":"<PHONE_1>"}'}


def test_json_inside_strings_is_searched_at_any_depth_and_keeps_its_bytes() -> None:
    arguments = json.dumps({"to": "ann@example.com", "n": 3, "note": "caf\u00e9"})
    messages = json.dumps([{"role": "assistant", "tool_calls": [{"function": {"name": "mail", "arguments": arguments}}]}])
    row = scrubbed(messages=messages)
    assert row["messages"] == messages.replace("ann@example.com", "<EMAIL_1>")


def test_json_that_hides_what_it_says_behind_escapes_is_searched_too() -> None:
    hidden = r'{"to": "ann\u0040example.com", "at": "https:\/\/bob:s3cret@db"}'
    assert scrubbed(metadata=hidden)["metadata"] == r'{"to": "<EMAIL_1>", "at": "https://<SECRET_1>@db"}'


def test_fields_that_are_named_like_secrets_and_numbers_in_json_are_replaced() -> None:
    row = scrubbed(metadata='{"apiKey": "x", "phone": 2025550143, "n": 7, "max_tokens": 512}')
    assert row["metadata"] == '{"apiKey": "<SECRET_1>", "phone": "<PHONE_1>", "n": 7, "max_tokens": 512}'


def test_placeholders_that_a_text_has_already_keep_their_meaning_and_scrubbing_twice_changes_nothing() -> None:
    row = scrubbed(prompt="<EMAIL_1> and ann@example.com, password: <SECRET_1>")
    assert row == {"prompt": "<EMAIL_1> and <EMAIL_2>, password: <SECRET_1>"}
    assert scrubbed(**row) == row


def test_each_row_counts_for_itself_and_says_how_much_was_found() -> None:
    rows = SCRUBBER([{"a": "ann@x.org bob@x.org"}, {"a": "bob@x.org", "n": 3, "none": None}])
    assert [row.row for row in rows] == [{"a": "<EMAIL_1> <EMAIL_2>"}, {"a": "<EMAIL_1>", "n": 3, "none": None}]
    assert [dict(row.found) for row in rows] == [{"email": 2}, {"email": 1}]


def test_what_is_remembered_of_texts_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"a": f"{i}@x.org", "b": '{"to": "ann@x.org", "n": 5}', "c": "ann@x.org"} for i in range(6)]
    often = SCRUBBER(rows)
    monkeypatch.setattr("retrain.scrub.REMEMBERED", 2)
    assert SCRUBBER(rows) == often
    assert often[3].row == {"a": "<EMAIL_1>", "b": '{"to": "<EMAIL_2>", "n": 5}', "c": "<EMAIL_2>"}


def test_without_kinds_nothing_is_replaced() -> None:
    off = Scrubber(RULES.model_copy(update={"kinds": ()}))
    assert off([{"a": "ann@example.com"}])[0].row == {"a": "ann@example.com"}


def test_a_pattern_of_ones_own_is_a_kind_of_its_own() -> None:
    own = Scrubber(Scrub.model_validate({**RULES.model_dump(), "patterns": {"customer": r"C-\d{4}"}}))
    assert own([{"a": "C-1234, c-1234"}])[0].row == {"a": "<CUSTOMER_1>, c-1234"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("scrub.kinds=[emial]", "did you mean 'email'"),
        ("scrub.kinds=[person]", "only a spaCy model finds"),
        ("scrub.patterns={c: '('}", "no regular expression"),
        ("scrub.patterns={c: 'x*'}", "matches an empty text"),
        ("scrub.patterns={email: x}", "is the name of a kind"),
    ],
)
def test_rules_that_cannot_work_are_refused_with_the_fix(change: str, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        params_.load(overrides=[change])


@pytest.mark.parametrize(
    ("change", "told"), [({"regions": ("XX",)}, "no known region"), ({"model": "absent"}, "not installed")]
)
def test_what_only_presidio_can_tell_is_refused_when_it_is_first_needed(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        Scrubber(RULES.model_copy(update=change))([{"a": "ann@example.com"}])


LONG = "a1B2" * 8


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"token={LONG}", LONG),
        (f"token: {LONG}, ok", LONG),
        ('{"token": "abcdefgh12345678"}', "abcdefgh12345678"),
        (f"Authorization: Token {'0a' * 20}", "0a" * 20),
        ("Cookie: sessionid=ab12cd34; theme=dark", "sessionid=ab12cd34; theme=dark"),
        ('{"Cookie": "sessionid=ab12cd34"}', "sessionid=ab12cd34"),
        ("pw: hunter2!", "hunter2!"),
        ("user ann pass: hunter2", "hunter2"),
        ("my password was Hunter2!x", "Hunter2!x"),
        ('{"password": {"value": "hunter"}}', "hunter"),
        ('{"password": ["one", "two"]}', "two"),
        ('{"password": [["one", null], {"n": 7}], "n": 8}', "7"),
        ('{"name": "Authorization", "value": "Basic YW5uOnB3"}', "Basic YW5uOnB3"),
        ('sent {"password":"hunter"} to it', "hunter"),
        ('{"password":"hunter"}\n{"password":"other"}', "other"),
        ('{"dbPassword": "hunter", "a": 1}', "hunter"),
        (f"gsk_{LONG}", f"gsk_{LONG}"),
        (f"xai-{LONG}", f"xai-{LONG}"),
        (f"pplx-{LONG}", f"pplx-{LONG}"),
        (f"r8_{LONG}", f"r8_{LONG}"),
        (f"nvapi-{LONG}", f"nvapi-{LONG}"),
        (f"dapi{'0a' * 16}", "0a" * 16),
        (f"shpat_{'0a' * 16}", "0a" * 16),
        (f"SK{'0a' * 16}", "0a" * 16),
        (f"key-{'0a' * 16}", "0a" * 16),
        (f"ATATT3{LONG}", LONG),
        (f"NRAK-{LONG}", LONG),
        (f"lin_api_{LONG}", LONG),
        (f"ntn_{LONG}", LONG),
        (f"EAAA{LONG}", LONG),
        (f"hvs.{LONG}", LONG),
        (f"PMAK-{LONG}", LONG),
        (f"doo_v1_{'0a' * 32}", "0a" * 32),
        (f"https://a.blob.core.windows.net/x?sv=1&sig={LONG}%3D", LONG),
    ],
)
def test_secrets_that_are_told_by_their_name_or_form_are_found(text: str, secret: str) -> None:
    told = scrubbed(prompt=text)["prompt"]
    assert secret not in told
    assert "<SECRET_1>" in told
    assert scrubbed(prompt=told)["prompt"] == told


@pytest.mark.parametrize(
    "text",
    [
        '{"cookie": "chocolate chip"}',
        '{"paid_token": "five credits"}',
        '{"max_access_token": 5}',
        '{"items": [{"password": null}, "hello"]}',
        '{"password": null, "hint": "hello"}',
        '{"password": ["<SECRET_1>"], "items": ["hello"]}',
        '{"name": "Accept", "value": "text/html"}',
        '{"tests": {"pass": "yes"}, "compass": "north"}',
        "private key is RSA-4096",
        "the token: expired. Passwords were changed, pass: all",
        "key-value-store-version-2-final-report",
        "26 crates of ref 48213-2 on 2026-08-10, 10 August, 12:30",
        "order 7-1180, 3 x 0.75 l at 12.50 EUR, sum 1,234.50",
        "I forgot my password: please help, my password is wrong!",
        "task-oriented sk-learn-like-and-very-long-names",
        "the bearer of bad news, the secret is out, key: none",
        "61 Loom Street, flat 3, SEA-901",
    ],
)
def test_what_orders_are_made_of_and_what_is_only_named_like_a_secret_stays(text: str) -> None:
    assert scrubbed(prompt=text) == {"prompt": text}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("iban de89 3704 0044 0532 0130 00", "iban <IBAN_1>"),
        ("IBAN De89370400440532013000", "IBAN <IBAN_1>"),
        ("IBAN DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "IBAN <IBAN_1>"),
        ("card 4111\u00a01111\u00a01111\u00a01111", "card <CREDIT_CARD_1>"),
        ("card 4111 1111\n1111 1111", "card <CREDIT_CARD_1>"),
        ("card 4111.1111.1111.1111", "card <CREDIT_CARD_1>"),
        ("to ann@corp.internal or bob@company.local.", "to <EMAIL_1> or <EMAIL_2>."),
        ('to "ann b"@example.com', "to <EMAIL_1>"),
        ("to ann\uff20example.com", "to <EMAIL_1>"),
        ("?to=ann%40example.com&x=1", "?to=<EMAIL_1>&x=1"),
        ("from 2001:db8::1 and fe80::1", "from <IP_1> and <IP_2>"),
    ],
)
def test_common_spellings_are_found(text: str, told: str) -> None:
    assert scrubbed(prompt=text) == {"prompt": told}


@pytest.mark.parametrize(
    "text",
    [
        "std::vector and a::b, at 10::30",
        "version 10.15.7.1, macOS 10.15.7.1, v1.2.3.4",
        "on 2024.03.05.10 or 2024.03.05",
        "48213377\n48213385\n48213393",
    ],
)
def test_versions_dates_and_code_are_nobodys(text: str) -> None:
    assert scrubbed(prompt=text) == {"prompt": text}


# --- what fails


def test_a_recogniser_that_raises_leaves_the_row_without_content_and_the_others_whole(monkeypatch: Any) -> None:
    def raising(text: str) -> list[Any]:
        raise ValueError(text)

    monkeypatch.setattr(SCRUBBER.finder, "recognisers", (recognisers.Recogniser("email", SCRUBBER.finder.gate, raising),))
    bad, good = SCRUBBER([{"a": "ann@example.com"}, {"a": "hello"}])
    assert (bad.row, bad.why) == (None, "the recogniser of email raised ValueError")
    assert good.row == {"a": "hello"}


def test_a_pattern_that_takes_too_long_counts_as_one_that_raised_and_nothing_is_logged(caplog: Any, capfd: Any) -> None:
    slow = {**RULES.model_dump(), "kinds": (), "patterns": {"slow": r"(a|aa)+\d$"}, "seconds": 0.05}
    started = time.process_time()
    (found,) = Scrubber(Scrub.model_validate(slow))([{"a": "a" * 60}])
    assert (found.row, found.why) == (None, "the recogniser of slow took too long")
    assert time.process_time() - started < 5
    assert "aaaa" not in caplog.text + "".join(capfd.readouterr())


def test_what_presidio_cannot_read_is_quoted_in_no_log(caplog: Any, capfd: Any) -> None:
    assert scrubbed(a="DE89 3704 0044 05٣2 0130 00 and XX00AAAAAAAAAAAA")
    assert "3704" not in caplog.text + "".join(capfd.readouterr())


# --- the same as plain Presidio

PIECES = [
    *("ann@example.com", "@", "+49 30 901820", "030 1234", "0049 30 123456", "202-555-0143", "(202) 555 0143", "+1", "011 44"),
    *("4111 1111 1111 1111", "4111-1111", "378282246310005", "DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"),
    *("10.1.2.3", "1.2.3", "::1", "2001:db8::1", "fe80:0:0:0:1:2:3:4", "00:1A:2B:3C:4D:5E", "0012.3456.789A", "123-45-6781"),
    *("912-70-1234", "AB123456C", "AB 12 34 56 C", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "RSSMRA85T10A562S", "26", "8"),
    *("2026-08-10", "65070803M123", "943 476 5919", "046 454 286", "86095742719", "12345678Z", "X1234567L", "44051401359"),
    *(
        "131052-308T",
        "ABCPE1234F",
        "2341 2341 2346",
        "order",
        "x",
        "\u0663\u0663",
        "\uff0b49",
        "/",
        "-",
        ".",
        ":",
        "\n",
        "\u00e4",
    ),
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6), st.integers(0, 10**12).map(str)), max_size=6)
EVERY = Finder(
    RULES.model_copy(update={"kinds": (*PATTERNS, "phone", "secret"), "regions": ("US", "GB", "DE", "FR", "IN", "IT")})
)


@pytest.fixture(scope="module")
def plain() -> Any:
    """The analyzer as Presidio has it, over the same recognisers."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer import predefined_recognizers as known
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    given = [getattr(known, pattern.recogniser)(supported_language="en") for pattern in PATTERNS.values()]
    given.append(known.PhoneRecognizer(supported_regions=("US", "GB", "DE", "FR", "IN", "IT")))
    engine = NoOpNlpEngine([{"lang_code": "en", "model_name": ""}])
    engine.load()
    registry = RecognizerRegistry(recognizers=given, supported_languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=TEXTS, glue=st.sampled_from([" ", "", "-", "\n", " ("]))
def test_no_gate_holds_back_what_plain_presidio_finds(plain: Any, pieces: list[str], glue: str) -> None:
    text = glue.join(pieces)
    found = EVERY(text)
    for one in plain.analyze(text, language="en", score_threshold=recognisers.MIN):
        if ordinary({"IP_ADDRESS": "ip", "PHONE_NUMBER": "phone"}.get(one.entity_type, ""), text, one.start, one.end):
            continue
        assert any(span.start <= one.start and one.end <= span.end for span in found), (text, one)
