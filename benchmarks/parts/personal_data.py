# ruff: noqa: E501 (tables of makers, one a line)
"""Planted personal data: what of it the scrubber finds, by kind, and what it takes for personal data that is none.

    python benchmarks/parts/personal_data.py [--rows 200] [--data DIR] [--json]

Values are made by chance, each kind in the ways in which people write it, and put into sentences, into JSON, and into JSON inside
a string. Recall: the share of values of which nothing is left. Precision: of the placeholders of a kind, those that stand for a
planted value; beside the planted rows the scrubber reads as many of each shape of number or code that is nobody's, and the
text that ships. --data: the texts of a train.csv too.
"""

import argparse
import json
import random
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from parts import texts  # noqa: E402
from retrain import params as params_  # noqa: E402
from retrain.records import read_jsonl  # noqa: E402
from retrain.scrub import Scrubber  # noqa: E402
from retrain.scrub_rules import PLACEHOLDER  # noqa: E402

SENTENCES = (
    "please send it to {}", "{} is what I have, thanks", "my details: {}.", "hi, {}, 26 crates by 10 August", "it was {} ({})",
    "old one {}; the new one comes later", "I wrote «{}» in the form", "{}",
)  # fmt: skip
Make = Callable[[random.Random], str]


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(n))


def letters(rng: random.Random, n: int, of: str = string.ascii_letters + string.digits) -> str:
    return "".join(rng.choice(of) for _ in range(n))


def luhn(body: str) -> str:
    """The body with the digit that makes it a card number."""
    doubled = [int(d) * (2 if i % 2 == 0 else 1) for i, d in enumerate(reversed(body))]
    return body + str(-sum(n - 9 if n > 9 else n for n in doubled) % 10)


def iban(rng: random.Random) -> str:
    account = digits(rng, 18)
    check = 98 - int(account + "131400") % 97  # D and E are 13 and 14
    return f"DE{check:02}{account}"


def grouped(text: str, n: int, glue: str) -> str:
    return glue.join(text[i : i + n] for i in range(0, len(text), n))


def fiscal_code(rng: random.Random) -> str:
    """With its check letter (D.M. 23/12/1976)."""
    body = (
        "RSSMRA" + f"{rng.randrange(40, 99)}" + rng.choice("ABCDEHLMPRST") + f"{rng.randrange(1, 29):02}" + "H" + digits(rng, 3)
    )
    odd = dict(zip(string.digits + string.ascii_uppercase, (*_ODD, *_ODD, *_ODD_REST), strict=True))
    even = dict(zip(string.digits + string.ascii_uppercase, (*range(10), *range(26)), strict=True))
    return body + chr(65 + sum((odd if i % 2 == 0 else even)[c] for i, c in enumerate(body)) % 26)


_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
_ODD_REST = (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)

PERSONAL: dict[str, Make] = {
    "email": lambda r: f"{letters(r, 6, string.ascii_lowercase)}{r.choice(('', '.x', '+shop', '_9'))}@{r.choice(('example.com', 'mail.example.org', 'firma.de', 'EXAMPLE.CO.UK', 'mail.internal', 'office.local'))}".replace("@", r.choice(("@", "@", "@", "\uff20", "%40"))),
    "phone": lambda r: r.choice((
        f"+49 30 {digits(r, 7)}", f"+4915{r.choice('12')}{digits(r, 8)}", f"0161 496 0{digits(r, 3)}", f"(202) 555-01{digits(r, 2)}",
        f"415-555-01{digits(r, 2)}", f"+44 20 7946 0{digits(r, 3)}", f"020 7946 0{digits(r, 3)}", f"+33 1 42 68 {digits(r, 2)} {digits(r, 2)}",
        f"+91 98{digits(r, 8)}", f"0049 30 {digits(r, 7)}",
    )),
    "credit_card": lambda r: grouped(luhn(r.choice(("4", "51", "55")).ljust(2, "0") + digits(r, 13)), 4, r.choice((" ", "-", "", "\u00a0", "."))),
    "iban": lambda r: r.choice((iban(r), grouped(iban(r), 4, " "), iban(r).lower(), grouped(iban(r), 4, "\u00a0"))),
    "crypto": lambda r: r.choice(("1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq")),
    "ip": lambda r: r.choice((".".join(str(r.randrange(1, 255)) for _ in range(4)), f"2001:db8::{letters(r, 4, '0123456789abcdef')}:1")),
    "mac": lambda r: grouped(letters(r, 12, "0123456789ABCDEF"), 2, r.choice(":-")),
    "us_ssn": lambda r: f"{r.randrange(100, 665)}-{r.randrange(10, 99)}-{r.randrange(1000, 9999)}",
    "us_itin": lambda r: f"9{digits(r, 2)}-7{digits(r, 1)}-{digits(r, 4)}",
    "uk_nino": lambda r: r.choice(("AB {} {} {} C", "JG{}{}{}A")).format(*(digits(r, 2) for _ in range(3))),
    "it_fiscal_code": fiscal_code,
}  # fmt: skip
SECRETS: dict[str, Make] = {
    "AWS key id": lambda r: "AKIA" + letters(r, 16, string.ascii_uppercase + string.digits),
    "GitHub token": lambda r: r.choice(("ghp_", "gho_", "ghs_")) + letters(r, 36),
    "GitLab token": lambda r: "glpat-" + letters(r, 20),
    "Slack token": lambda r: f"xoxb-{digits(r, 12)}-{letters(r, 24)}",
    "sk- key": lambda r: r.choice(("sk-", "sk-proj-", "sk-ant-api03-")) + letters(r, 20) + "7" + letters(r, 20),
    "Google key": lambda r: "AIza" + letters(r, 35),
    "JWT": lambda r: f"eyJ{letters(r, 17)}.eyJ{letters(r, 30)}.{letters(r, 43)}",
    "Stripe key": lambda r: r.choice(("sk_live_", "rk_test_", "pk_live_")) + letters(r, 24),
    "PEM key": lambda r: f"-----BEGIN PRIVATE KEY-----\n{letters(r, 64)}\n{letters(r, 20)}\n-----END PRIVATE KEY-----",
    "password in a URL": lambda r: f"postgres://app:{letters(r, 10)}@db.example.com/x",
    "bearer token": lambda r: f"Authorization: Bearer {letters(r, 20)}5{letters(r, 9)}",
    "password: ...": lambda r: f"password: {letters(r, 5)}{digits(r, 3)}",
    "password, letters alone": lambda r: f"password: {letters(r, 9, string.ascii_lowercase)}",
    "PASSWORD=...": lambda r: f"DB_PASSWORD={letters(r, 9, string.ascii_lowercase)}",
}
WHOSE = {"password in a URL": r":(\w+)@", "bearer token": r"(\w+)$", "password: ...": r" (\w+)$",
         "password, letters alone": r" (\w+)$", "PASSWORD=...": r"=(\w+)$"}  # fmt: skip
NOBODYS: dict[str, Make] = {
    "order number, 4 to 9 digits": lambda r: f"order {digits(r, r.randrange(4, 10))}",
    "order number, 10 digits": lambda r: f"order {digits(r, 10)}",
    "parcel number, 12 or 20 digits": lambda r: f"parcel {digits(r, r.choice((12, 20)))}",
    "parcel number, 16 digits": lambda r: f"parcel {digits(r, 16)}",
    "reference": lambda r: r.choice((f"ref {r.randrange(1, 9)}-{digits(r, 4)}", f"SEA-{digits(r, 3)}", f"KANT-{digits(r, 1)}")),
    "product code": lambda r: letters(r, 3, string.ascii_uppercase) + digits(r, 5) + r.choice(("", "-B", "/2")),
    "date or time": lambda r: r.choice((f"2026-08-{r.randrange(10, 31)}", f"{r.randrange(1, 31)}.08.2026", f"08/{r.randrange(10, 31)}/26", "12:30", f"10 August 2026, {r.randrange(10, 18)}:00")),
    "amount": lambda r: r.choice((f"{digits(r, 2)}.50 EUR", f"1,{digits(r, 3)}.00", f"$ {digits(r, 3)}.99", f"{digits(r, 2)} x {digits(r, 3)}")),
    "address": lambda r: f"{r.randrange(1, 99)} Loom Street, {digits(r, 5)} Berlin",
    "UUID": lambda r: "-".join(letters(r, n, "0123456789abcdef") for n in (8, 4, 4, 4, 12)),
    "version": lambda r: r.choice((f"v{r.randrange(1, 9)}.{r.randrange(9)}.{r.randrange(9)}", f"version 10.15.{r.randrange(9)}.{r.randrange(9)}")),
    "code": lambda r: r.choice(("std::vector", "a::b", f"{r.randrange(10, 24)}::{r.randrange(10, 60)}", f"2024.03.{r.randrange(10, 30)}.{r.randrange(10, 24)}")),
}  # fmt: skip


def planted(value: str, rng: random.Random) -> str:
    text = rng.choice(SENTENCES).replace("({})", "(sorry)").format(value)
    wrap = rng.randrange(4)
    if wrap == 0:
        return json.dumps({"note": text, "n": 3})
    return json.dumps({"arguments": json.dumps({"text": text})}) if wrap == 1 else text


def leaf(text: str) -> str:
    """What a person would read of a text, out of its JSON."""
    while text[:1] == "{":
        data = json.loads(text)
        text = data.get("note") or data.get("arguments") or data["text"]
    return text


def measured(scrubber: Scrubber, rows: int, rng: random.Random) -> dict[str, Any]:
    recall: dict[str, float] = {}
    right, all_ = Counter[str](), Counter[str]()
    for name, make in {**PERSONAL, **SECRETS}.items():
        values = [make(rng) for _ in range(rows)]
        sentences = [planted(value, rng) for value in values]
        found = [leaf(str((one.row or {})["text"])) for one in scrubber({"text": text} for text in sentences)]
        hidden = [
            found_ for pattern in [WHOSE.get(name)] for found_ in (re.search(pattern, v)[1] if pattern else v for v in values)
        ]  # type: ignore[index]
        gone = [value not in text for value, text in zip(hidden, found, strict=True)]
        recall[name] = sum(gone) / rows
        for text, ok in zip(found, gone, strict=True):
            kinds = [kind.lower() for kind, _ in PLACEHOLDER.findall(text)]
            all_.update(kinds)
            right.update(kinds[:1] if ok else [])
    return {"recall": recall, "planted": {kind: [right[kind], n] for kind, n in all_.items()}}


def nobodys(scrubber: Scrubber, rows: int, rng: random.Random) -> dict[str, dict[str, float]]:
    """Of each shape the share of rows that changed, by the kind it was taken for."""
    found: dict[str, dict[str, float]] = {}
    for name, make in NOBODYS.items():
        sentences = [planted(make(rng), rng) for _ in range(rows)]
        kinds = Counter(kind for one in scrubber({"text": text} for text in sentences) for kind in one.found)
        found[name] = {kind: n / rows for kind, n in kinds.most_common()}
    return found


def shipped(data: Path | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows of files, with all their texts."""
    for folder in ("seed", "suites", "traffic"):
        for path in sorted((ROOT / "data" / folder).rglob("*.jsonl")):
            rows = read_jsonl(path)
            asked = [
                {str(i): m["content"] for i, m in enumerate(row["messages"])} if "messages" in row else row for row in rows
            ]
            yield str(path.relative_to(ROOT)), asked
    if data is not None:
        for name in ("train.csv", "test.csv"):
            yield f"{data.name}/{name}", [{"text": row.question} for row in texts.from_csv(data / name)]


def report(rows: int, data: Path | None) -> dict[str, Any]:
    rng = random.Random(7)
    scrubber = Scrubber(params_.load(ROOT).scrub)
    made, shapes = measured(scrubber, rows, rng), nobodys(scrubber, rows, rng)
    false, files = Counter[str](), {}
    for kinds in shapes.values():
        false.update({kind: round(share * rows) for kind, share in kinds.items()})
    for name, rows_of in shipped(data):
        found = [one.found for one in scrubber(rows_of)]
        false.update(kind for one in found for kind in one)
        files[name] = {"rows": len(rows_of), "changed": sum(bool(one) for one in found)}
    precision = {kind: right / (n + false[kind]) for kind, (right, n) in sorted(made["planted"].items())}
    return {"rows": rows, "recall": made["recall"], "precision": precision, "taken_for": shapes, "text": files}


def told(made: dict[str, Any]) -> list[str]:
    lines = [f"{'personal data: ' + name:42} recall {share:6.1%}" for name, share in made["recall"].items()]
    lines += [f"{'placeholder: ' + kind:42} precision {share:6.1%}" for kind, share in made["precision"].items()]
    for name, kinds in made["taken_for"].items():
        lines.append(f"{'nobody’s: ' + name:42} " + (", ".join(f"{s:.1%} {kind}" for kind, s in kinds.items()) or "untouched"))
    return [*lines, *(f"{name:42} {one['changed']} of {one['rows']} rows changed" for name, one in made["text"].items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200, help="of each kind and shape")
    parser.add_argument("--data", type=Path, help="a folder with train.csv and test.csv (text,category)")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.rows < 1:
        parser.error(f"--rows is {asked.rows}, must be at least 1")
    made = report(asked.rows, asked.data)
    print(json.dumps({"schema": 1, **made}) if asked.json else "\n".join(told(made)))


if __name__ == "__main__":
    main()
