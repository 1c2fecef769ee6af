"""What is read out of PostgreSQL's log and out of its plans."""

import json

import pytest

from benchmarks.plans import Asked, Plans, asked, page

_SCAN = "Seq Scan on {}  (cost=0.00..9.00 rows=5 width=0) (actual time=0.1..0.2 rows={}.00 loops=1)"
_TABLES = ("batch_results", "event_outbox")


def _line(message: str, detail: str = "", pid: int = 7, application_name: str = "result-aggregator-service") -> str:
    return json.dumps({"pid": pid, "application_name": application_name, "message": message, "detail": detail})


def test_statements_about_the_tables_are_taken_with_their_parameters_and_the_transactions_they_are_in() -> None:
    log = [
        _line("connection received"),
        _line("duration: 0.1 ms  statement: BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'"),
        _line("duration: 0.2 ms  parse s1: SELECT 1 FROM batch_results WHERE batch_id = $1"),
        _line("duration: 0.2 ms  bind s1: SELECT 1 FROM batch_results WHERE batch_id = $1", "Parameters: $1 = 'b'"),
        _line(
            "duration: 1.5 ms  execute s1: SELECT $1\nFROM batch_results WHERE batch_id = $2 FOR UPDATE",
            "Parameters: $1 = NULL, $2 = 'it''s $3 = ''no'''",
        ),
        _line("duration: 0.2 ms  execute s2: SELECT pg_notify('ras_outbox', '')"),
        _line("duration: 0.9 ms  execute s3: WITH a AS (SELECT 1) UPDATE event_outbox SET topic = 't'", pid=8),
        _line("duration: 0.1 ms  statement: COMMIT;"),
        _line("duration: 0.1 ms  statement: SELECT count(*) FROM event_outbox", application_name=""),
    ]
    assert list(asked(log, _TABLES)) == [
        Asked(7, "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'"),
        Asked(
            7,
            "SELECT $1\nFROM batch_results WHERE batch_id = $2 FOR UPDATE",
            "SELECT FROM batch_results",
            ["NULL", "'it''s $3 = ''no'''"],
        ),
        Asked(8, "WITH a AS (SELECT 1) UPDATE event_outbox SET topic = 't'", "UPDATE event_outbox", []),
        Asked(7, "COMMIT;"),
    ]


def test_of_all_runs_the_plan_is_shown_that_read_most_pages_and_a_scan_of_any_is_told() -> None:
    plans = Plans("SELECT 1", "SELECT FROM batch_results")
    large = ["batch_results"]
    plans.add([_SCAN.format("batch_results", 7), "  Buffers: shared hit=3 read=1"], large)
    plans.add(["Index Scan using pk on batch_results", "  Buffers: shared read=9"], large)
    plans.add([_SCAN.format("service_state", 1), "  Buffers: shared hit=2"], large)
    assert (plans.runs, plans.pages, plans.plan[0]) == (3, 9, "Index Scan using pk on batch_results")
    assert plans.scanned == {"batch_results"}


@pytest.mark.parametrize(("rows", "removed", "wasted"), [(30_000, 50_000, False), (10_000, 70_000, True)])
def test_a_scan_for_a_quarter_of_a_table_is_right_and_one_for_less_is_not(
    rows: int, removed: int, wasted: bool
) -> None:
    plans = Plans("SELECT 1", "SELECT FROM batch_results")
    condition = ["  Filter: (user_id = 'u'::text)", f"  Rows Removed by Filter: {removed}"]
    plans.add(["Aggregate", f"  ->  {_SCAN.format('batch_results', rows)}", *condition], large=["batch_results"])
    assert plans.scanned == ({"batch_results"} if wasted else set())


def test_a_page_shows_each_statement_with_its_plan_and_shortens_long_lines() -> None:
    plans = Plans("SELECT  1\nFROM batch_results", "SELECT FROM batch_results")
    plans.add(["Index Scan " + "x" * 300], large=[])
    shown = page([plans], "| table |")
    assert shown.startswith("| table |\n\n### 1. SELECT FROM batch_results\n\nRan 1 times.\n\n```sql\nSELECT 1 FROM")
    assert "x …\n```\n" in shown
    assert max(map(len, shown.splitlines())) <= 150
