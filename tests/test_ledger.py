import pytest

from retrain import ledger
from retrain.errors import IntegrityError, NothingToDo, ParamsError, RejectedError, StaleError

AT = "2026-03-01T00:00:00Z"


def attempt(digest, *, champion, status="passed", audit="2026-03-01T00-00-00Z"):
    return ledger.Attempt(
        at=AT, adapter="support", purpose="improve" if champion else "first", end="2026-03-01T00-00-00Z", dataset="d",
        commit="c" + digest, digest=digest, status=status, promote=status == "passed", audit=audit, champion=champion,
        why="golden lost 4 points",
    )  # fmt: skip


def promoted(entries, digest, version):
    line = ledger.promote_line(entries, digest=digest, version=version, tag=f"support-v{version}", at=AT)
    return [*entries, line]


@pytest.fixture
def two_versions():
    entries = promoted([attempt("aaa", champion=None)], "aaa", 1)
    return promoted([*entries, attempt("bbb", champion="aaa")], "bbb", 2)


def test_what_was_appended_is_what_is_read(tmp_path, two_versions):
    lines = [
        *two_versions,
        ledger.Rollback(at=AT, adapter="support", from_version=2, version=1, digest="aaa", reason="ill: \u2028 and \n too"),
        ledger.Label(at=AT, adapter="support", label="refund_virtual_card", rows=37),
    ]
    for line in lines:
        path = ledger.append(tmp_path, "support", line)
    assert ledger.read(tmp_path, "support") == lines
    assert path.read_bytes().count(b"\n") == len(lines)
    assert ledger.read(tmp_path, "orders") == []


def test_a_line_that_cannot_be_read_is_named_by_file_and_line(tmp_path, two_versions):
    path = ledger.append(tmp_path, "support", two_versions[0])
    good = path.read_text()
    for bad in (
        '{"kind": "attempt"',
        '{"schema":1,"kind":"gift"}',
        good.replace('"schema": 1', '"schema": 99'),
        good.replace('"support"', '"orders"'),
    ):
        path.write_text(good + bad)
        with pytest.raises(IntegrityError, match=r"support\.jsonl:2 "):
            ledger.read(tmp_path, "support")


def test_half_a_line_is_never_written_behind(tmp_path, two_versions):
    path = ledger.append(tmp_path, "support", two_versions[0])
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match="half a line"):
        ledger.append(tmp_path, "support", two_versions[1])
    assert path.read_bytes() == before


def test_the_newest_promotion_serves_and_the_one_before_is_previous(two_versions):
    now = ledger.state(two_versions)
    assert (now.champion.version, now.champion.digest, now.champion.commit) == (2, "bbb", "cbbb")
    assert now.previous.version == 1
    assert now.champion.replaces == 1
    assert ledger.state([]) == ledger.LedgerState(None, None, {}, ())


def test_a_rollback_that_names_no_version_undoes_none(two_versions):
    entries = list(two_versions)
    entries.append(ledger.rollback_line(entries, adapter="support", version=None, reason="slow", at=AT))
    assert ledger.state(entries).champion.version == 1
    with pytest.raises(NothingToDo, match=r"v1 serves again since .* in place of v2 \(slow\): `--to 2` puts that one back"):
        ledger.rollback_line(entries, adapter="support", version=None, reason="slow", at=AT)
    entries.append(ledger.rollback_line(entries, adapter="support", version=2, reason="well again", at=AT))
    assert ledger.state(entries).champion.version == 2


def test_a_rollback_is_from_the_version_that_it_was_decided_on_alone(two_versions):
    line = ledger.rollback_line(two_versions, adapter="support", version=1, reason="ill", at=AT, expected=2)
    assert (line.from_version, line.version) == (2, 1)
    for entries in ([*two_versions, line], promoted([*two_versions, attempt("ccc", champion="bbb")], "ccc", 3)):
        with pytest.raises(StaleError, match=r"support-v[13] serves by now, not v2 which this is about"):
            ledger.rollback_line(entries, adapter="support", version=1, reason="ill", at=AT, expected=2)


def test_only_a_version_that_served_and_does_not_serve_can_come_back(two_versions):
    with pytest.raises(ParamsError, match="7 never served; versions that did: 1, 2"):
        ledger.rollback_line(two_versions, adapter="support", version=7, reason="", at=AT)
    with pytest.raises(NothingToDo, match="support-v2 already serves"):
        ledger.rollback_line(two_versions, adapter="support", version=2, reason="", at=AT)
    with pytest.raises(NothingToDo, match="no champion"):
        ledger.rollback_line([], adapter="support", version=None, reason="", at=AT)
    with pytest.raises(NothingToDo, match="first champion"):
        ledger.rollback_line(two_versions[:2], adapter="support", version=None, reason="", at=AT)


def test_a_second_promoter_hears_which_version_serves_now(two_versions):
    late = [*two_versions[:2], attempt("ccc", champion="aaa"), *two_versions[2:]]
    with pytest.raises(StaleError, match="support-v2 serves now, but ccc was judged against support-v1"):
        promoted(late, "ccc", 3)
    back = [*late, ledger.rollback_line(late, adapter="support", version=1, reason="", at=AT)]
    assert ledger.state(promoted(back, "ccc", 3)).champion.version == 3


def test_promoting_what_serves_is_nothing_to_do(two_versions):
    with pytest.raises(NothingToDo, match="support-v2 already serves"):
        promoted(two_versions, "bbb", 2)


@pytest.mark.parametrize("status", ["failed", "not_evaluated"])
def test_bytes_without_a_passed_verdict_are_refused(two_versions, status):
    with pytest.raises(RejectedError, match=f"is {status}: golden lost 4 points"):
        promoted([*two_versions, attempt("ccc", champion="bbb", status=status)], "ccc", 3)
    with pytest.raises(RejectedError, match="no attempt"):
        promoted(two_versions, "ddd", 3)


def test_a_version_that_changes_its_bytes_is_an_integrity_error(two_versions):
    other = two_versions[1].model_copy(update={"digest": "zzz"})
    with pytest.raises(IntegrityError, match="version 1 two digests"):
        ledger.state([*two_versions, other])
    with pytest.raises(IntegrityError, match="version 2 is bbb in the ledger, not ccc"):
        promoted([*two_versions, attempt("ccc", champion="bbb")], "ccc", 2)


def test_what_was_rolled_back_comes_back_by_a_rollback_alone(two_versions):
    entries = [*two_versions, ledger.rollback_line(two_versions, adapter="support", version=None, reason="rude", at=AT)]
    for again in (entries, [*entries, attempt("bbb", champion="aaa")]):  # a retry, or the same bytes trained again
        with pytest.raises(
            RejectedError, match=r"v2 has served and was rolled back .* \(rude\): `retrain rollback support --to 2`"
        ):
            promoted(again, "bbb", 2)


def test_a_retry_of_one_candidate_is_one_attempt_on_an_audit_file():
    entries = [
        attempt("aaa", champion=None),
        attempt("aaa", champion=None),
        attempt("bbb", champion=None),
        attempt("ccc", champion=None, audit="x"),
    ]
    assert ledger.tried_on(entries, "2026-03-01T00-00-00Z") == ["aaa", "bbb"]
