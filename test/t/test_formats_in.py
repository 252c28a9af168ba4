"""Formats in: csv, raw, syslog, JSON by paths, Debezium's other connectors and flat events. Good and bad input of each."""

import datetime
import decimal
import json
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest

from conftest import wait_until
from test_subscription import envelope, subscribe, table

UTC = datetime.timezone.utc
D = decimal.Decimal

# a log table: what Kafka knows of a message is the key
META = {"t": "topic", "p": "partition", "o": "offset"}
LOG_KEY = "t text, p int, o bigint, PRIMARY KEY (t, p, o)"


@pytest.fixture
def topic(kafka):
    """Of messages with old timestamps, too."""
    return kafka.create_topic(config={"retention.ms": "-1"})


def rows(db, columns="*", target="t", order="1"):
    return db.q(f"SELECT {columns} FROM {target} ORDER BY {order}")


def read(db, topic, format, options=None, **kwargs):
    subscribe(db, topic, "t", format=format, options=options or {}, **kwargs)
    db.wait_for_subscription("s")


def stopped(db, topic, offset):
    """The error at exactly this message, with nothing of it applied and nothing after it."""
    error = db.wait_state("subscription", "s", "error")["last_error"]
    assert f'topic "{topic}", partition 0, offset {offset}' in error, error
    assert db.value("SELECT next_offset FROM kafka.subscription_position") == offset
    return error


def refused(db, topic, format, options, *words, target="t"):
    with pytest.raises(psycopg.errors.InvalidParameterValue) as e:
        subscribe(db, topic, target, format=format, options=options)
    text = f"{e.value.diag.message_primary} {e.value.diag.message_hint}"
    for word in words:
        assert word in text, text
    return text


# ---- csv

def test_csv_columns_in_order(db, kafka, topic):
    table(db, "id int PRIMARY KEY, v text, n numeric(10,2), ts timestamptz, j jsonb, a int[], doubled int GENERATED ALWAYS AS (id * 2) STORED")
    kafka.produce_many(topic, [
        (None, '1,plain,1.50,2024-02-29 12:00:00+01,"{""a"": [1, null]}","{1,2}"'),
        ("k", '2,"with ""quotes"", commas\nand a line",-7,,,\n3,,NaN,infinity,null,"{}"\r\n4,"",0,,"""text""",\r\n'),
        ("k", b"\xef\xbb\xbf1,\xc3\xa9t\xc3\xa9,,,,"),
    ])
    read(db, topic, "csv")
    utc = datetime.datetime(2024, 2, 29, 11, tzinfo=UTC)
    assert rows(db, "id, v, n::text, ts::text, j, a, doubled") == [
        (1, "été", None, None, None, None, 2),
        (2, 'with "quotes", commas\nand a line', "-7.00", None, None, None, 4),
        (3, None, "NaN", "infinity", None, [], 6),
        (4, "", "0.00", None, "text", None, 8)]
    assert db.value("SELECT j = 'null' FROM t WHERE id = 3")
    kafka.produce_many(topic, [("2", None), ("3", None)])      # the key is the target's, as text
    kafka.produce(topic, '5,x,1,2024-02-29 12:00:00+01,,')
    db.wait_for_subscription("s")
    assert rows(db, "id") == [(1,), (4,), (5,)]
    assert db.value("SELECT ts FROM t WHERE id = 5") == utc
    assert db.value("SELECT rows FROM kafka.subscription_status") == 6


def test_csv_header_and_columns(db, kafka, kafka_topics):
    one, two = kafka_topics
    table(db, "id int PRIMARY KEY, v text, \"Wörld \"\"x\"\"\" text")
    kafka.produce_many(one, [(None, 'v;Wörld "x";id\n~a;b~;c;1\nNULL;~NULL~;2\n'.encode()),
                             (None, "id;v\n3;partial"), (None, "id;v\n")])
    options = {"csv.header": True, "csv.delimiter": ";", "csv.quote": "~", "csv.null": "NULL"}
    read(db, one, "csv", options)
    assert rows(db) == [(1, "a;b", "c"), (2, None, "NULL"), (3, "partial", None)]
    # named by an option, the header skipped; unknown ones left out
    kafka.produce_many(two, [(None, "a\tb\tc\n9\tnine\t?\n10\tten\t?")])
    table(db, "id int PRIMARY KEY, v text", "t2")
    subscribe(db, two, "t2", "s2", format="csv",
              options={"csv.columns": ["id", "v", "nosuch"], "csv.header": True, "csv.delimiter": "\t", "ignore_unknown_columns": True})
    db.wait_for_subscription("s2")
    assert rows(db, target="t2") == [(9, "nine"), (10, "ten")]


@pytest.fixture
def kafka_topics(kafka):
    return kafka.create_topic(), kafka.create_topic()


def test_csv_key_of_the_message(db, kafka, topic):
    """What the line does not have, the message key does."""
    table(db, "id int PRIMARY KEY, v text")
    kafka.produce_many(topic, [("7", "v\nseven"), ("8", "v\neight"), ("7", None)])
    read(db, topic, "csv", {"csv.header": True})
    assert rows(db) == [(8, "eight")]
    kafka.produce(topic, "v\nnine", {"id": 9})
    assert '"id"' in stopped(db, topic, 3)      # the key is text, not JSON
    db.q("""SELECT kafka.alter_subscription('s', '{"key_format": "json"}')""")
    db.wait_for_subscription("s")
    assert rows(db) == [(8, "eight"), (9, "nine")]


def test_csv_many_rows_in_a_message(db, kafka, topic):
    """More rows than the batch was made for; a row of the same key again."""
    table(db, "id int PRIMARY KEY, v text")
    lines = "".join(f"{i},{'x' * (i % 50)}\n" for i in range(20000))
    kafka.produce(topic, lines + "7,again")
    read(db, topic, "csv")
    assert db.one("SELECT count(*), sum(length(v)), (SELECT v FROM t WHERE id = 7) FROM t") == (
        20000, sum(i % 50 for i in range(20000)) - 7 + 5, "again")


BAD_CSV = {
    "too few fields": (b"9", ["1 field", "2 columns"]),
    "too many fields": (b"1,x\n9,y,z", ["3 fields", "2 columns"]),
    "unterminated quote": (b'1,x\n9,"y', ["line 2", "unterminated"]),
    "quote inside": (b'9,y"z"', ["line 1", "quote"]),
    "behind a quote": (b'9,"y"z', ["line 1", "quoted field"]),
    "wrong type": (b"1,x\nnine,y", ['"id"', "nine"]),
    "null key": (b"1,x\n,y", ['"id"', "null"]),
    "invalid utf-8": (b"9,a\xff", ["UTF-8", "byte 3"]),
    "nul": (b"9,a\0b", ['"v"', "null character"]),
    "utf-16": ("9,y".encode("utf-16"), ["UTF-8"]),
    "too long": (b"9,123456", ['"v"', "too long"]),
    "empty": (b"", ["empty message"]),
    "empty line between": (b"1,x\n\n2,y", ["1 field"]),
    "tombstone without key": (None, ["neither key nor value"]),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_csv_bad(db, kafka, topic, case):
    value, words = BAD_CSV[case]
    table(db, "id int PRIMARY KEY, v varchar(5)")
    kafka.produce_many(topic, [(None, "5,good\n6,good"), (None, value), (None, "7,after")])
    subscribe(db, topic, "t", format="csv")
    error = stopped(db, topic, 1)
    for word in words:
        assert word in error, error
    assert rows(db) == [(5, "good"), (6, "good")]


BAD_HEADERS = {"unknown column": (b"id,nosuch\n1,2", '"nosuch" does not exist'), "empty name": (b"id,\n1,2", "no name"),
               "twice": (b"id,id\n1,2", "twice"), "count": (b"id,v\n1", "1 fields"), "quote": (b'"id\n1', "unterminated")}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_csv_bad_header(db, kafka, topic, case):
    value, word = BAD_HEADERS[case]
    table(db)
    kafka.produce(topic, value)
    subscribe(db, topic, "t", format="csv", options={"csv.header": True})
    assert word in stopped(db, topic, 0)


def test_csv_database_encoding(make_db, kafka, topic):
    """A database that is not UTF-8: text is converted, what it cannot hold is an error that names the column."""
    db = make_db(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    db.create_server(kafka)
    table(db, 'id int PRIMARY KEY, "größe" text')
    kafka.produce_many(topic, [(None, "id|größe\n1|é".encode()), (None, "id|größe\n2|€".encode())])
    subscribe(db, topic, "t", format="csv", options={"csv.header": True, "csv.delimiter": "|"})
    error = stopped(db, topic, 1)
    assert '"größe"' in error
    assert rows(db) == [(1, "é")]


# ---- raw

def test_raw_bytes_and_text(db, kafka, kafka_topics):
    one, two = kafka_topics
    everything = bytes(range(256))
    table(db, "k bytea PRIMARY KEY, v bytea")
    kafka.produce_many(one, [(b"\x00\xff", everything), (b"", b""), (b"gone", b"x"), (b"gone", None)])
    read(db, one, "raw")
    assert rows(db) == [(b"", b""), (b"\x00\xff", everything)]
    # text, with another column beside it that has a default
    table(db, "k text PRIMARY KEY, value text, at timestamptz DEFAULT '2020-01-01'", "t2")
    kafka.produce_many(two, [("a", "ä"), ("b", ""), ("a", "second")])
    subscribe(db, two, "t2", "s2", format="raw")
    db.wait_for_subscription("s2")
    assert rows(db, "k, value", "t2") == [("a", "second"), ("b", "")]
    kafka.produce(two, b"\xff", "c")
    error = db.wait_state("subscription", "s2", "error")["last_error"]
    assert '"value"' in error and "UTF-8" in error and "offset 3" in error
    assert rows(db, "k", "t2") == [("a",), ("b",)]


def test_raw_typed(db, kafka, topic):
    """The value is the text of a value of the column's type."""
    table(db, "id int PRIMARY KEY, doc jsonb")
    kafka.produce_many(topic, [("1", '{"a": [1.50, "x"]}'), ("2", "null")])
    read(db, topic, "raw")
    assert db.q("SELECT id, doc::text FROM t ORDER BY 1") == [(1, '{"a": [1.50, "x"]}'), (2, "null")]
    kafka.produce(topic, "{", "3")
    error = stopped(db, topic, 2)
    assert '"doc"' in error and "json" in error


def test_raw_log_table(db, kafka):
    """Topic, partition and offset are the key: null keys, null values, everything has a row of its own."""
    topic = kafka.create_topic(partitions=2, config={"retention.ms": "-1"})
    db.q(f"CREATE TABLE t (payload bytea, k text, ts timestamptz, ms bigint, h jsonb, {LOG_KEY})")
    for i in range(6):
        kafka.produce(topic, None if i == 4 else f"v{i}", None if i % 2 else "key", partition=i % 2, timestamp=1700000000123 + i,
                      headers=[("a", b"x"), ("b", None), ("c", b"\xff"), ("a", "ü".encode())] if i == 0 else None)
    read(db, topic, "raw", {"metadata_columns": {**META, "k": "key", "ts": "timestamp", "ms": "timestamp", "h": "headers"}})
    got = rows(db, "p, o, payload, k, ms, h", order="p, o")
    assert got == [
        (0, 0, b"v0", "key", 1700000000123, [["a", "x"], ["b", None], ["c", {"base64": "/w=="}], ["a", "ü"]]),
        (0, 1, b"v2", "key", 1700000000125, None), (0, 2, None, "key", 1700000000127, None),
        (1, 0, b"v1", None, 1700000000124, None), (1, 1, b"v3", None, 1700000000126, None), (1, 2, b"v5", None, 1700000000128, None)]
    assert db.value("SELECT bool_and(t = %s AND ts = to_timestamp(ms / 1000.0)) FROM t", topic)
    assert rows(db, "ts", order="p, o")[0] == (datetime.datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC),)


def test_raw_big(db, kafka, topic):
    db.q(f"CREATE TABLE t (payload bytea, {LOG_KEY})")
    big = bytes(range(256)) * 3000
    kafka.produce_many(topic, [(None, big), (None, b"\0"), (None, big[::-1])])
    read(db, topic, "raw", {"metadata_columns": META})
    assert [bytes(v) for (v,) in rows(db, "payload", order="o")] == [big, b"\0", big[::-1]]


def test_raw_column(db, kafka, topic):
    table(db, "id text PRIMARY KEY, a text, b text")
    kafka.produce(topic, "x", "k")
    subscribe(db, topic, "t", format="raw")
    error = stopped(db, topic, 0)
    assert "raw.column" in error or "which column" in error
    db.q("""SELECT kafka.alter_subscription('s', '{"raw.column": "b"}')""")
    db.wait_for_subscription("s")
    assert rows(db) == [("k", None, "x")]
    # paused, so that no worker with the former options takes the message
    db.q("SELECT kafka.pause_subscription('s')")
    db.wait_state("subscription", "s", "paused")
    kafka.produce(topic, "x", "k")
    db.q("""SELECT kafka.alter_subscription('s', '{"raw.column": "c"}')""")
    db.q("SELECT kafka.resume_subscription('s')")
    assert '"c" does not exist' in stopped(db, topic, 1)


def test_raw_without_key(db, kafka, topic):
    table(db, "id text PRIMARY KEY, v bytea")
    kafka.produce(topic, "x")
    subscribe(db, topic, "t", format="raw")
    assert '"id"' in stopped(db, topic, 0)


# ---- metadata columns

def test_metadata_as_part_of_the_key(db, kafka, kafka_topics):
    """Rows of several topics in one table; a delete finds its own."""
    table(db, "source text, id int, v text, seen bigint, PRIMARY KEY (source, id)")
    for topic in kafka_topics:
        kafka.produce_many(topic, [({"id": 1}, {"id": 1, "v": "x", "source": "ignored"}), ({"id": 2}, {"id": 2, "v": "y"})])
    options = {"metadata_columns": {"source": "topic", "seen": "offset"}}
    read(db, list(kafka_topics), "json", options)
    assert rows(db, order="1, 2") == [(t, i + 1, "xy"[i], i) for t in sorted(kafka_topics) for i in range(2)]
    kafka.produce(kafka_topics[0], None, {"id": 1})
    db.wait_for_subscription("s")
    assert (kafka_topics[0], 1) not in rows(db, "source, id") and db.value("SELECT count(*) FROM t") == 3


def test_metadata_debezium_log(db, kafka, topic):
    """Each event a row of its own, by offset: a history of the source's table."""
    db.q(f"CREATE TABLE t (id int, v text, raw jsonb, {LOG_KEY})")
    events = [({"id": 1}, envelope("c", after={"id": 1, "v": "a"})), ({"id": 1}, envelope("u", after={"id": 1, "v": "b"})),
              ({"id": 1}, envelope("d", before={"id": 1})), ({"id": 1}, None), (None, envelope("t")), ({"id": 1}, envelope("c", after={"id": 1, "v": "c"}))]
    kafka.produce_many(topic, events)
    read(db, topic, "debezium", {"metadata_columns": {**META, "raw": "value"}})
    assert rows(db, "o, id, v, raw", order="o") == [(i, 1, v, events[i][1]) for i, v in ((0, "a"), (1, "b"), (5, "c"))]


def test_metadata_bad(db, kafka, topic):
    table(db, "id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id) STORED")
    refused(db, topic, "raw", {"metadata_columns": {"v": "offsets"}}, "metadata_columns", "offsets", "headers")
    refused(db, topic, "raw", {"metadata_columns": {"v": 1}}, "metadata_columns")
    subscribe(db, topic, "t", options={"metadata_columns": {"w": "offset"}})
    assert '"w"' in db.wait_state("subscription", "s", "error")["last_error"]
    db.q("""SELECT kafka.alter_subscription('s', '{"metadata_columns": {"g": "offset"}}')""")
    wait_until(lambda: '"g"' in db.state("subscription", "s")["last_error"])
    db.q("""SELECT kafka.alter_subscription('s', '{"metadata_columns": {"v": "headers"}}')""")
    kafka.produce(topic, {"id": 1}, headers=[("a", "b")])
    db.wait_for_subscription("s")
    assert rows(db, "v") == [('[["a", "b"]]',)]
    db.q("ALTER TABLE t ADD i smallint")
    db.q("SELECT kafka.pause_subscription('s')")
    db.wait_state("subscription", "s", "paused")
    db.q("""SELECT kafka.alter_subscription('s', '{"metadata_columns": {"i": "topic"}}')""")
    kafka.produce(topic, {"id": 2})
    db.q("SELECT kafka.resume_subscription('s')")
    assert '"i"' in stopped(db, topic, 1)


# ---- syslog

SYSLOG = ("facility int, severity smallint, facility_text text, severity_text text, timestamp timestamptz, hostname text, "
          f"app_name text, procid text, msgid text, structured_data jsonb, message text, {LOG_KEY}")
AT = 1697061600000      # 2023-10-11 22:00:00 UTC


def syslog(db, kafka, topic, messages, options=None, ddl=SYSLOG, timestamp=AT):
    db.q(f"CREATE TABLE t ({ddl})")
    for m in messages:
        kafka.produce(topic, m, timestamp=timestamp)
    read(db, topic, "syslog", {"metadata_columns": META, **(options or {})})


def when(*args):
    return datetime.datetime(*args, tzinfo=UTC)


def test_syslog_5424(db, kafka, topic):
    """The examples of RFC 5424, 6.5, and its corners."""
    syslog(db, kafka, topic, [
        b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed for lonvick on /dev/pts/8",
        "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.",
        '<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="Application"'
        ' eventID="1011"] An application event log entry...',
        '<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="Application"'
        ' eventID="1011"][examplePriority@32473 class="high"]',
        "<0>1 - - - - - -", "<191>1 - - - - - - \n",
        r'95 <13>1 - h a p m [x a="\"q\" \\ \] \n" ip="1.1.1.1" ip="2.2.2.2"][timeQuality] two' + "  spaces \u00fc\u20ac\r\n",
    ])
    utc = when(2003, 10, 11, 22, 14, 15, 3000)
    event = {"iut": "3", "eventSource": "Application", "eventID": "1011"}
    assert rows(db, "facility, severity, timestamp, hostname, app_name, procid, msgid, structured_data, message", order="o") == [
        (4, 2, utc, "mymachine.example.com", "su", None, "ID47", None, "'su root' failed for lonvick on /dev/pts/8"),
        (20, 5, when(2003, 8, 24, 12, 14, 15, 3), "192.0.2.1", "myproc", "8710", None, None, "%% It's time to make the do-nuts."),
        (20, 5, utc, "mymachine.example.com", "evntslog", None, "ID47", {"exampleSDID@32473": event}, "An application event log entry..."),
        (20, 5, utc, "mymachine.example.com", "evntslog", None, "ID47",
         {"exampleSDID@32473": event, "examplePriority@32473": {"class": "high"}}, None),
        (0, 0, None, None, None, None, None, None, None), (23, 7, None, None, None, None, None, None, ""),
        (1, 5, None, "h", "a", "p", "m", {"x": {"a": '"q" \\ ] \\n', "ip": ["1.1.1.1", "2.2.2.2"]}, "timeQuality": {}},
         "two  spaces ü€")]
    assert rows(db, "facility_text, severity_text", order="o")[:2] == [("auth", "crit"), ("local4", "notice")]


def test_syslog_3164(db, kafka, topic):
    """RFC 3164's examples, and what is met in the wild; the year is that nearest to the record's time."""
    syslog(db, kafka, topic, [
        "<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
        "<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
        "<165>Aug 24 05:34:00 CST 1987 mymachine myproc[10]: %% It's time",
        "<34>Use the BFG!",
        "<86>Dec 31 23:59:59.123456 host sshd[12]: session opened",
        "<14>Oct  1 2019 01:02:03: %ASA-6-1: text",
        "<30>2023-10-11T22:14:15.5+02:00 host systemd[1]: Started.",
        "Oct 11 22:14:15 host kernel: [    0.0] boot",
        "<13>Oct 11 22:14:15 su: no host",
        "<13>Oct 11 22:14:15 host http://x/ is no tag",
        "<13>Oct 11 22:14:15 host",
        "<13>Feb 29 01:00:00 host a: leap",
    ], timestamp=1704103200000)     # 2024-01-01 10:00:00 UTC
    got = rows(db, "facility, severity, timestamp, hostname, app_name, procid, message", order="o")
    t = when(2023, 10, 11, 22, 14, 15)
    assert got == [
        (4, 2, t, "mymachine", "su", None, "'su root' failed for lonvick on /dev/pts/8"),
        (1, 5, when(2024, 2, 5, 17, 32, 18), "10.0.0.99", None, None, "Use the BFG!"),
        (20, 5, when(2023, 8, 24, 5, 34), "CST", None, None, "1987 mymachine myproc[10]: %% It's time"),
        (4, 2, None, None, None, None, "Use the BFG!"),
        (10, 6, when(2023, 12, 31, 23, 59, 59, 123456), "host", "sshd", "12", "session opened"),
        (1, 6, when(2019, 10, 1, 1, 2, 3), None, "%ASA-6-1", None, "text"),
        (3, 6, when(2023, 10, 11, 20, 14, 15, 500000), "host", "systemd", "1", "Started."),
        (None, None, t, "host", "kernel", None, "[    0.0] boot"),
        (1, 5, t, None, "su", None, "no host"),
        (1, 5, t, "host", None, None, "http://x/ is no tag"),
        (1, 5, t, None, None, None, "host"),
        (1, 5, when(2024, 2, 29, 1), "host", "a", None, "leap")]


def test_syslog_time_zone(db, kafka, topic):
    syslog(db, kafka, topic, ["<13>Jul  1 12:00:00 h a: summer", "<13>Dec  1 12:00:00 h a: winter",
                              "<13>1 2023-07-01T12:00:00Z h a - - -"], {"syslog.time_zone": "Europe/Berlin"})
    assert rows(db, "timestamp", order="o") == [(when(2023, 7, 1, 10),), (when(2023, 12, 1, 11),), (when(2023, 7, 1, 12),)]
    refused(db, topic, "syslog", {"syslog.time_zone": "Nowhere/Else"}, "syslog.time_zone", "Nowhere/Else")
    for zone in ("12", "BC", "pm", "Mon", "+", "+99", "UTC UTC", "'"):
        refused(db, topic, "syslog", {"syslog.time_zone": zone}, "syslog.time_zone", zone)
    db.q("SELECT kafka.pause_subscription('s')")
    db.wait_state("subscription", "s", "paused")
    for zone in ("+05:30", "-0800", "CET", "Z", "America/New_York"):
        db.q("SELECT kafka.alter_subscription('s', %s::jsonb)", json.dumps({"syslog.time_zone": zone}))
    db.q("""SELECT kafka.alter_subscription('s', '{"syslog.time_zone": "+05:30"}')""")
    kafka.produce(topic, "<13>Jul  1 12:00:00 h a: offset", timestamp=AT)
    db.q("SELECT kafka.resume_subscription('s')")
    db.wait_for_subscription("s")
    assert rows(db, "timestamp", order="o")[-1] == (when(2023, 7, 1, 6, 30),)
    assert db.q("SELECT 1") == [(1,)]


def test_syslog_some_columns_and_key(db, kafka, topic):
    """A target has the columns it wants; the message key can be its key, and a null value a delete."""
    db.q("CREATE TABLE t (id text PRIMARY KEY, message text, severity text)")
    kafka.produce_many(topic, [("a", "<13>1 - h a - - - one"), ("b", "<12>1 - h a - - - two"), ("a", None)])
    read(db, topic, "syslog")
    assert rows(db) == [("b", "two", "4")]


BAD_SYSLOG = {
    "garbage": (b"hello", ["neither a priority nor a time"]),
    "priority": (b"<192>1 - - - - - -", ["<191>"]),
    "no priority number": (b"<>1 - - - - - -", ["priority"]),
    "open priority": (b"<13", ["priority"]),
    "version": (b"<13>2 - - - - - -", ["version"]),
    "time": (b"<13>1 2023-13-01T00:00:00Z - - - - -", ["time", "byte 6"]),
    "no seconds": (b"<13>1 2023-12-01T00:00Z - - - - -", ["time"]),
    "short": (b"<13>1 - h a", ["process id"]),
    "no structured data": (b"<13>1 - h a - - hello", ["structured data"]),
    "open element": (b'<13>1 - h a - - [x a="1" hello', ["="]),
    "open value": (b'<13>1 - h a - - [x a="1\\"] hello', ["unterminated"]),
    "element twice": (b"<13>1 - h a - - [x][x]", ["twice"]),
    "behind structured data": (b"<13>1 - h a - - [x]y", ["space"]),
    "no such day": (b"<13>Feb 30 00:00:00 h a: b", ["date"]),
    "octet count": (b"99 <13>1 - h a - - -", ["octet count"]),
    "utf-8": (b"<13>1 - h a - - - \xff", ["UTF-8", "byte 18"]),
    "nul": (b"<13>1 - h a - - - a\0b", ['"message"', "null character"]),
    "nul in structured data": (b'<13>1 - h a - - [x y="a\0b"]', ['"structured_data"']),
    "json": (b'{"msg": 1}', ["priority"]),
    "empty": (b"", ["empty message"]),
    "line end": (b"\n", ["empty message"]),
}


@pytest.mark.parametrize("case", BAD_SYSLOG)
def test_syslog_bad(db, kafka, topic, case):
    value, words = BAD_SYSLOG[case]
    db.q(f"CREATE TABLE t ({SYSLOG})")
    for m in (b"<13>1 - h a - - - good", value, b"<13>1 - h a - - - after"):
        kafka.produce(topic, m, timestamp=AT)
    subscribe(db, topic, "t", format="syslog", options={"metadata_columns": META})
    error = stopped(db, topic, 1)
    for word in words:
        assert word in error, error
    assert rows(db, "message") == [("good",)]


def test_syslog_lenient(db, kafka, topic):
    """Nothing fails: each is a row, what is no syslog as text, bytes that cannot be stored as U+FFFD."""
    bad = [value for value, _ in BAD_SYSLOG.values()] + [b"\xff\0\xfe" * 1000]
    syslog(db, kafka, topic, bad, {"syslog.lenient": True})
    got = dict(zip(BAD_SYSLOG, rows(db, "severity, message", order="o")))
    assert db.value("SELECT count(*) FROM t") == len(bad)
    assert got["garbage"] == (None, "hello") and got["empty"] == (None, "") and got["json"] == (None, '{"msg": 1}')
    assert got["nul"] == (5, "a\ufffdb") and got["utf-8"] == (5, "\ufffd")
    assert rows(db, "message", order="o")[-1] == ("\ufffd" * 3000,)


# ---- rsyslog itself

RSYSLOG = """
module(load="imptcp")
module(load="omkafka")
global(workDirectory="{dir}" preserveFQDN="on")
template(name="json" type="list" option.jsonf="on") {{
    property(outname="at" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="severity" name="syslogseverity" format="jsonf" datatype="number")
    property(outname="tag" name="syslogtag" format="jsonf")
    property(outname="text" name="msg" format="jsonf" position.from="2")
}}
action(type="omkafka" broker=["{broker}"] topic="{syslog}" template="RSYSLOG_SyslogProtocol23Format"
       confParam=["socket.timeout.ms=10000", "queue.buffering.max.ms=5"])
action(type="omkafka" broker=["{broker}"] topic="{forward}" template="RSYSLOG_ForwardFormat" confParam=["queue.buffering.max.ms=5"])
action(type="omkafka" broker=["{broker}"] topic="{json}" template="json" confParam=["queue.buffering.max.ms=5"])
input(type="imptcp" path="{dir}/socket")
"""


class Rsyslog:
    """A private rsyslogd; what is sent to its socket goes to Kafka."""

    def __init__(self, directory, configuration):
        self.directory = directory
        (directory / "rsyslog.conf").write_text(configuration)
        self.log = open(directory / "rsyslog.log", "wb")
        self.process = subprocess.Popen(
            ["/usr/sbin/rsyslogd", "-n", "-C", "-f", directory / "rsyslog.conf", "-i", directory / "rsyslog.pid"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until((directory / "socket").exists, what="rsyslogd to listen")

    def send(self, *lines):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.connect(str(self.directory / "socket"))
            s.sendall(b"".join(line + b"\n" for line in lines))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


@pytest.fixture
def rsyslog(tmp_path, kafka):
    # a socket's path is short
    with tempfile.TemporaryDirectory(prefix="ks.", dir="/tmp") as directory:
        topics = {name: kafka.create_topic(config={"retention.ms": "-1"}) for name in ("syslog", "forward", "json")}
        server = Rsyslog(Path(directory), RSYSLOG.format(dir=directory, broker=kafka.bootstrap, **topics))
        server.topics = topics
        try:
            yield server
        finally:
            server.stop()


def test_rsyslog(db, rsyslog):
    """rsyslog's omkafka with the templates for RFC 5424, for forwarding, and for JSON."""
    for name in ("syslog", "forward", "json"):
        ddl = SYSLOG if name != "json" else f"at timestamptz, host text, severity int, tag text, text text, {LOG_KEY}"
        db.q(f"CREATE TABLE {name} ({ddl})")
        subscribe(db, rsyslog.topics[name], name, name, format="json" if name == "json" else "syslog",
                  options={"metadata_columns": META})
    rsyslog.send(b"<34>1 2023-10-11T22:14:15.003Z web1 su 42 ID47 [a b=\"c\"] first", b"<165>Oct 11 22:14:16 web2 app[7]: second \xc3\xa4")
    rsyslog.send(*(b"<13>1 2023-10-11T22:14:17Z web3 load - - - line %d" % i for i in range(500)))
    for name in rsyslog.topics:
        db.wait(f"SELECT count(*) = 502 FROM {name}", timeout=60)
    utc = when(2023, 10, 11, 22, 14, 15, 3000)
    assert rows(db, "facility, severity, timestamp, hostname, app_name, procid, msgid, structured_data, ltrim(message)",
                "syslog WHERE hostname = 'web1'") == [(4, 2, utc, "web1", "su", "42", "ID47", {"a": {"b": "c"}}, "first")]
    second = db.one("SELECT facility, severity, hostname, app_name, procid, ltrim(message), date_part('month', timestamp) FROM syslog "
                    "WHERE hostname = 'web2'")
    assert second == (20, 5, "web2", "app", "7", "second ä", 10)
    assert db.value("SELECT count(DISTINCT ltrim(message)) FROM syslog WHERE app_name = 'load'") == 500
    assert rows(db, "facility, severity, timestamp, hostname, app_name, procid, ltrim(message)",
                "forward WHERE hostname = 'web1'") == [(4, 2, utc, "web1", "su", "42", "first")]
    assert db.one("SELECT at, host, severity, tag, text FROM json WHERE host = 'web2'")[1:] == ("web2", 5, "app[7]:", "second ä")
    assert db.q("SELECT * FROM kafka.problems") == []


# ---- JSON by paths

def test_paths(db, kafka, topic):
    table(db, "id int PRIMARY KEY, city text, first text, second text, amount numeric, tags jsonb, odd text, doc jsonb, plain text")
    doc = {"id": 1, "plain": "p", "address": {"city": "Bergen", "zip": "5003"}, "items": [{"sku": "a"}, {"sku": "b", "n": [1.50]}],
           "a.b": {"c \"d\"": {"é": "odd"}}}
    kafka.produce_many(topic, [({"id": 1}, doc), ({"id": 2}, {"id": 2, "items": {"0": "no array"}, "address": "no object"}),
                               ({"id": 3}, {"id": 3, "address": {"city": "first"}, "address": {"city": None}, "items": []})])
    kafka.produce(topic, '{"id":4,"address":{"city":"gone"},"items":[{"sku":"x"}],"address":{}}', {"id": 4})
    read(db, topic, "json", {"paths": {
        "city": "address.city", "first": "$.items[0].sku", "second": "items[1].sku", "amount": "items[1].n[0]", "tags": "items[1]",
        "odd": '"a.b"."c \\"d\\"".é', "doc": "$"}})
    got = rows(db, "id, city, first, second, amount::text, tags, odd, plain")
    assert got == [(1, "Bergen", "a", "b", "1.5", {"sku": "b", "n": [1.5]}, "odd", "p"),
                   (2,) + (None,) * 7, (3,) + (None,) * 7, (4, None, "x") + (None,) * 5]
    assert db.value("SELECT doc FROM t WHERE id = 1") == doc


def test_paths_members_and_keys(db, kafka, topic):
    """A path's member is no column itself; others still are; a column's path wins over a member of its name."""
    table(db, "id int PRIMARY KEY, a text, b text")
    kafka.produce_many(topic, [(None, {"key": {"id": 7}, "a": "mine", "b": "not this", "deep": {"b": "this"}})])
    read(db, topic, "json", {"paths": {"id": "key.id", "b": "deep.b"}})
    assert rows(db) == [(7, "mine", "this")]
    kafka.produce(topic, {"key": {"id": 8}, "other": 1})
    assert '"other" does not exist' in stopped(db, topic, 1)


def test_paths_of_arrays(db, kafka, topic):
    """Messages that are no objects, where a path begins with an element."""
    table(db, "id int PRIMARY KEY, v text")
    kafka.produce_many(topic, [(None, [1, {"v": "x"}]), (None, [2])])
    read(db, topic, "json", {"paths": {"id": "[0]", "v": "$[1].v"}})
    assert rows(db) == [(1, "x"), (2, None)]
    kafka.produce(topic, {"id": 3})
    assert '"id"' in stopped(db, topic, 2)


@pytest.mark.parametrize("path", ["", ".", "a..b", "a.", "a[", "a[]", "a[x]", "a[-1]", "a[1", "a b", '"a', "$a", "$.", "a]", "[99999999999]",
                                  "a." * 64 + "a"])
def test_paths_bad(db, kafka, topic, path):
    table(db)
    refused(db, topic, "json", {"paths": {"v": path}}, "paths", '"v"')


def test_paths_bad_messages(db, kafka, topic):
    table(db, "id int PRIMARY KEY, n int")
    kafka.produce_many(topic, [({"id": 1}, '{"id": 1, "a": {"n": 1}}'), ({"id": 2}, '{"id": 2, "a": {"n": 1]}')])
    subscribe(db, topic, "t", options={"paths": {"n": "a.n"}})
    assert "JSON at byte 22" in stopped(db, topic, 1)
    for i, (value, words) in enumerate([('{"id": 3, "a": {"n": "many"}}', ['"n"', "many"]), ("[1]", ["not a JSON object"]),
                                        (b'{"id": 3, "a": {"n": "\xff"}}', ["UTF-8"]), ('{"id": 3, "a": {"n": {"x": 1}}}', ['"n"'])]):
        db.q("SELECT kafka.seek_subscription('s', %s)", json.dumps({topic: {"0": i + 2}}))
        kafka.produce(topic, value, {"id": 3})
        wait_until(lambda: f"offset {i + 2} " in db.state("subscription", "s")["last_error"])
        error = stopped(db, topic, i + 2)
        for word in words:
            assert word in error, error
    assert rows(db) == [(1, 1)]


# ---- Debezium's other connectors: events as its documentation shows them

def wrapped(fields, payload):
    """The form with schemas; fields: of the row, (name, schema)."""
    row = [{**schema, "optional": True, "field": name} for name, schema in fields]
    return {"schema": {"type": "struct", "optional": False, "name": "x.Envelope", "fields": [
        {"type": "struct", "fields": row, "optional": True, "name": "x.Value", "field": "before"},
        {"type": "struct", "fields": row, "optional": True, "name": "x.Value", "field": "after"},
        {"type": "struct", "fields": [{"type": "string", "optional": False, "field": "connector"}], "optional": False, "field": "source"},
        {"type": "string", "optional": False, "field": "op"}, {"type": "int64", "optional": True, "field": "ts_ms"}]}, "payload": payload}


def keyed(name, type, value):
    return {"schema": {"type": "struct", "name": "x.Key", "optional": False, "fields": [{"field": name, "type": type, "optional": False}]},
            "payload": {name: value}}


MYSQL = {"version": "3.2.0.Final", "connector": "mysql", "name": "mysql-server-1", "ts_ms": 1465491411815, "ts_us": 1465491411815000,
         "ts_ns": 1465491411815000000, "snapshot": "false", "db": "inventory", "table": "customers", "server_id": 223344, "gtid": None,
         "file": "mysql-bin.000003", "pos": 484, "row": 0, "thread": 7, "query": "UPDATE customers SET first_name='Anne Marie' WHERE id=1004"}
ORACLE = {"version": "3.2.0.Final", "connector": "oracle", "name": "server1", "ts_ms": 1520085154000, "txId": "6.28.807", "scn": "2122185",
          "commit_scn": "2122185", "rs_id": "001234.00012345.0124", "ssn": 1, "redo_thread": 1, "user_name": "user", "snapshot": "false",
          "row_id": "AAASgjAAMAAAACnAAA"}


@pytest.mark.parametrize("schemas", [False, True])
def test_debezium_mysql(db, kafka, topic, schemas):
    table(db, "id int PRIMARY KEY, first_name text, active boolean, since timestamp(3), seen timestamptz, born date, at time, "
              "balance numeric(10,2), big numeric(20,0), flags bit(5), kind text, doc jsonb, year int, photo bytea")
    fields = [("id", {"type": "int32"}), ("first_name", {"type": "string"}), ("active", {"type": "int16"}),
              ("since", {"type": "int64", "name": "io.debezium.time.Timestamp", "version": 1}),
              ("seen", {"type": "string", "name": "io.debezium.time.ZonedTimestamp", "version": 1}),
              ("born", {"type": "int32", "name": "io.debezium.time.Date"}), ("at", {"type": "int64", "name": "io.debezium.time.MicroTime"}),
              ("balance", {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "2"}}),
              ("big", {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "0"}}),
              ("flags", {"type": "bytes", "name": "io.debezium.data.Bits", "parameters": {"length": "5"}}),
              ("kind", {"type": "string", "name": "io.debezium.data.EnumSet", "parameters": {"allowed": "a,b"}}),
              ("doc", {"type": "string", "name": "io.debezium.data.Json"}), ("year", {"type": "int32", "name": "io.debezium.time.Year"}),
              ("photo", {"type": "bytes"})]
    row = {"id": 1004, "first_name": "Anne", "active": 1, "since": 1529476623000, "seen": "2018-06-20T13:37:03Z", "born": 17702,
           "at": 3723000001, "balance": "AeJA", "big": "AP//////////", "flags": "FQ==", "kind": "a,b", "doc": '{"a": 1}', "year": 2018,
           "photo": "AP8="}
    events = [{"op": "c", "before": None, "after": row}, {"op": "u", "before": row, "after": {**row, "first_name": "Anne Marie"}}]
    gone = {"op": "d", "before": row, "after": None}
    for event in (*events, gone):
        event.update(source=MYSQL, ts_ms=1465491411807, transaction=None)
    key = keyed("id", "int32", 1004) if schemas else {"id": 1004}
    make = (lambda e: wrapped(fields, e)) if schemas else (lambda e: e)
    kafka.produce_many(topic, [(key, make(e)) for e in events])
    read(db, topic, "debezium")
    assert rows(db, "id, first_name, active, since::text, seen, born::text, at::text, balance::text, big::text, flags::text, kind, doc, year, photo") == [
        (1004, "Anne Marie", True, "2018-06-20 06:37:03", when(2018, 6, 20, 13, 37, 3), "2018-06-20", "01:02:03.000001", "1234.56",
         str(2**64 - 1), "10101", "a,b", {"a": 1}, 2018, b"\0\xff")]
    kafka.produce_many(topic, [(key, make(gone)), (key, None)])
    db.wait_for_subscription("s")
    assert rows(db) == []


@pytest.mark.parametrize("schemas", [False, True])
def test_debezium_oracle(db, kafka, topic, schemas):
    """Names are upper case there; DATE has a time."""
    table(db, '"ID" bigint PRIMARY KEY, "FIRST_NAME" text, "HIRED" date, "AT" timestamp(6), "ZONED" timestamptz, "AMOUNT" numeric(10,2), '
              '"ANY_NUMBER" numeric, "SPAN" interval, "RAW_DATA" bytea')
    fields = [("ID", {"type": "int64"}), ("FIRST_NAME", {"type": "string"}), ("HIRED", {"type": "int64", "name": "io.debezium.time.Timestamp"}),
              ("AT", {"type": "int64", "name": "io.debezium.time.MicroTimestamp"}),
              ("ZONED", {"type": "string", "name": "io.debezium.time.ZonedTimestamp"}),
              ("AMOUNT", {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "2"}}),
              ("ANY_NUMBER", {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "fields": [
                  {"type": "int32", "field": "scale"}, {"type": "bytes", "field": "value"}]}),
              ("SPAN", {"type": "int64", "name": "io.debezium.time.MicroDuration"}), ("RAW_DATA", {"type": "bytes"})]
    row = {"ID": 1004, "FIRST_NAME": "Anne", "HIRED": 1532044800000, "AT": 1532044800123456, "ZONED": "2018-07-20T05:06:07.891+02:00",
           "AMOUNT": "AeJA", "ANY_NUMBER": {"scale": 1, "value": "+w=="}, "SPAN": 93784000000, "RAW_DATA": "AP8="}
    event = {"op": "c", "before": None, "after": row, "source": ORACLE, "ts_ms": 1520085154000, "transaction": None}
    key = keyed("ID", "int64", 1004) if schemas else {"ID": 1004}
    kafka.produce(topic, wrapped(fields, event) if schemas else event, key)
    subscribe(db, topic, "t", format="debezium")
    if not schemas:
        error = stopped(db, topic, 0)
        assert '"HIRED"' in error and "cannot tell" in error
        assert "column_types" in db.cluster.log()
        db.q("""SELECT kafka.alter_subscription('s', '{"column_types": {"HIRED": "timestamp(3)"}}')""")
    db.wait_for_subscription("s")
    assert rows(db, '"ID", "FIRST_NAME", "HIRED"::text, "AT"::text, "ZONED", "AMOUNT", "ANY_NUMBER", "SPAN"::text, "RAW_DATA"') == [
        (1004, "Anne", "2018-07-20", "2018-07-20 00:00:00.123456", when(2018, 7, 20, 3, 6, 7, 891000), D("1234.56"), D("-0.5"),
         "26:03:04", b"\0\xff")]


# ---- flat events, as ExtractNewRecordState leaves them

def test_flat(db, kafka, topic):
    table(db, "id int PRIMARY KEY, v text, __op text")
    kafka.produce_many(topic, [
        ({"id": 1}, {"id": 1, "v": "a", "__deleted": "false", "__op": "c", "__table": "t", "__lsn": 5, "__source_ts_ms": 7}),
        ({"id": 2}, {"id": 2, "v": "b", "__deleted": "false", "__op": "r"}), ({"id": 3}, {"id": 3, "v": "c"}),
        ({"id": 1}, {"id": 1, "v": "aa", "__deleted": "false", "__op": "u"}),
        ({"id": 2}, {"id": 2, "v": None, "__deleted": "true", "__op": "d"}), ({"id": 3}, None),
        ({"id": 4}, {"id": 4, "v": "d", "__deleted": False}), ({"id": 5}, {"id": 5, "v": "e"}), ({"id": 5}, {"id": 5, "__deleted": True}),
    ])
    read(db, topic, "debezium", {"flat": True})
    assert rows(db) == [(1, "aa", "u"), (4, "d", None)]
    kafka.produce(topic, {"id": 6, "other": 1}, {"id": 6})
    assert '"other" does not exist' in stopped(db, topic, 9)


def test_flat_with_schemas(db, kafka, topic):
    table(db, "id int PRIMARY KEY, at timestamp, n numeric")
    schema = {"type": "struct", "optional": False, "name": "x.Value", "fields": [
        {"type": "int32", "field": "id"}, {"type": "int64", "name": "io.debezium.time.Timestamp", "field": "at"},
        {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "2"}, "field": "n"},
        {"type": "string", "field": "__deleted"}]}
    flat = lambda **row: {"schema": schema, "payload": row and {"at": 1529476623000, "n": "AeJA", "__deleted": "false", **row} or None}
    kafka.produce_many(topic, [(keyed("id", "int32", 1), flat(id=1)), (keyed("id", "int32", 2), flat(id=2)),
                               (keyed("id", "int32", 1), flat(id=1, __deleted="true")), (keyed("id", "int32", 3), flat(id=3)),
                               (keyed("id", "int32", 3), flat())])
    read(db, topic, "debezium", {"flat": True})
    assert rows(db, "id, at::text, n::text") == [(2, "2018-06-20 06:37:03", "1234.56")]


def test_flat_of_whom(db, kafka, topic):
    """Without a schema the values mean what the connector's do: somebody must say which."""
    table(db, "id int PRIMARY KEY, at timestamp, d date")
    kafka.produce(topic, {"id": 1, "at": 1529476623000000, "d": 17702}, {"id": 1})
    subscribe(db, topic, "t", format="debezium", options={"flat": True})
    assert '"at"' in stopped(db, topic, 0)
    assert "source.connector" in db.cluster.log()
    db.q("""SELECT kafka.alter_subscription('s', '{"source.connector": "postgresql"}')""")
    db.wait_for_subscription("s")
    assert rows(db, "at::text, d::text") == [("2018-06-20 06:37:03", "2018-06-20")]
    # the message itself knows it better
    kafka.produce(topic, {"id": 2, "at": 1529476623000, "__connector": "mysql"}, {"id": 2})
    assert '"at"' in stopped(db, topic, 1)
    db.q("""SELECT kafka.alter_subscription('s', '{"column_types": {"at": "io.debezium.time.Timestamp"}}')""")
    db.wait_for_subscription("s")
    assert rows(db, "at::text")[1] == ("2018-06-20 06:37:03",)


BAD_FLAT = {"deleted": ({"id": 1, "__deleted": "maybe"}, "__deleted"), "op": ({"id": 1, "__op": "x"}, "__op"),
            "no object": ([1], "not a JSON object"), "json": (b'{"id":1,', "JSON"), "empty": (b"", "empty message"),
            "no key": ({"v": "x", "__deleted": "true"}, '"id"'), "utf-8": (b'{"id":1,"v":"\xff"}', "UTF-8")}


@pytest.mark.parametrize("case", BAD_FLAT)
def test_flat_bad(db, kafka, topic, case):
    value, word = BAD_FLAT[case]
    table(db)
    kafka.produce(topic, value)
    subscribe(db, topic, "t", format="debezium", options={"flat": True})
    assert word in stopped(db, topic, 0)


# ---- other modes, queries

@pytest.mark.parametrize("format", ["csv", "syslog", "raw"])
def test_append(db, kafka, topic, format):
    """Tables without a key, with every line of every message."""
    messages = {"csv": ("a,1\nb,2", "a,1"), "syslog": ("<13>1 - h a - - - x", "<13>1 - h a - - - x"), "raw": ("x", "x")}[format]
    ddl = {"csv": "v text, n int", "syslog": "message text, hostname text", "raw": "v bytea"}[format]
    db.q(f"CREATE TABLE t ({ddl}, o bigint)")
    kafka.produce_many(topic, [("k", m) for m in messages] + [("k", None)])
    read(db, topic, format, {"metadata_columns": {"o": "offset"}}, mode="append")
    assert rows(db) == {"csv": [("a", 1, 0), ("a", 1, 1), ("b", 2, 0)], "syslog": [("x", "h", 0), ("x", "h", 1)],
                        "raw": [(b"x", 0), (b"x", 1)]}[format]


def test_query_over_syslog(db, kafka, topic):
    """Only what is grave, in a table of its own."""
    db.q("CREATE TABLE alarms (host text, severity int, text text, at timestamptz, sd text)")
    kafka.produce_many(topic, [(None, '<8>1 - web1 a - - [x y="z"] down'), (None, "<13>1 - web1 a - - - fine"), (None, "<11>1 - web2 a - - - broken")])
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'syslog')", [topic])
    db.q("""SELECT kafka.add_target('s', 'alarms', $$SELECT after->>'hostname' AS host, (after->>'severity')::int AS severity,
            after->>'message' AS text, ts AS at, after->'structured_data'->'x'->>'y' AS sd FROM batch WHERE (after->>'severity')::int <= 3$$, mode => 'append')""")
    db.wait_for_subscription("s")
    assert rows(db, "host, severity, text, at IS NOT NULL, sd", "alarms") == [
        ("web1", 0, "down", True, "z"), ("web2", 3, "broken", True, None)]


def test_query_over_csv_and_raw(db, kafka, kafka_topics):
    csv, raw = kafka_topics
    db.q("CREATE TABLE c (a text, b numeric); CREATE TABLE r (k text, v text)")
    kafka.produce_many(csv, [(None, "x,1.5\ny,2.5")])
    kafka.produce_many(raw, [("key", "väl"), ("bad", b"\xff")])
    for name, topic, target, query in (("c", csv, "c", "SELECT after->>'column1' AS a, (after->>'column2')::numeric AS b FROM batch"),
                                       ("r", raw, "r", "SELECT key #>> '{}' AS k, after->>'value' AS v FROM batch")):
        db.q("SELECT kafka.create_subscription(%s, 'kafka', %s, format => %s)", name, [topic], {"c": "csv", "r": "raw"}[name])
        db.q("SELECT kafka.add_target(%s, %s::regclass, %s, mode => 'append')", name, target, query)
    db.wait_for_subscription("c")
    assert rows(db, target="c") == [("x", D("1.5")), ("y", D("2.5"))]
    error = db.wait_state("subscription", "r", "error")["last_error"]
    assert "offset 1" in error and '"value"' in error and "UTF-8" in error
    assert rows(db, target="r") == [("key", "väl")]


def test_query_over_mysql(db, kafka, topic):
    """Fields of another database's events, typed by a target's columns: nothing is guessed there either."""
    table(db, "id int PRIMARY KEY, at timestamp", "t")
    kafka.produce(topic, {**envelope("c", after={"id": 1, "at": 1529476623000}), "source": MYSQL}, {"id": 1})
    db.q("SELECT kafka.create_subscription('s', 'kafka', %s, format => 'debezium')", [topic])
    db.q("SELECT kafka.add_target('s', 't', $$SELECT (after->>'id')::int AS id, (after->>'at')::timestamp AS at FROM batch$$)")
    assert "cannot tell" in db.wait_state("subscription", "s", "error")["last_error"]
    db.q("""SELECT kafka.alter_subscription('s', '{"column_types": {"at": "io.debezium.time.Timestamp"}}')""")
    db.wait_for_subscription("s")
    assert rows(db, "id, at::text") == [(1, "2018-06-20 06:37:03")]


# ---- options

def test_options_of_other_formats(db, kafka, topic):
    table(db)
    for format, option in (("json", {"csv.header": True}), ("csv", {"paths": {"a": "b"}}), ("json", {"flat": True}),
                           ("csv", {"syslog.lenient": True}), ("syslog", {"raw.column": "v"}), ("raw", {"source.connector": "mysql"})):
        refused(db, topic, format, option, list(option)[0], f"not for {format}")


@pytest.mark.parametrize("options, words", [
    ({"csv.delimiter": ",,"}, ["csv.delimiter", ",,"]), ({"csv.delimiter": "é"}, ["csv.delimiter"]),
    ({"csv.delimiter": '"'}, ["csv.delimiter", "csv.quote"]), ({"csv.delimiter": "\n"}, ["csv.delimiter"]),
    ({"csv.null": "a,b"}, ["csv.null"]), ({"csv.columns": []}, ["csv.columns"]), ({"csv.columns": ["a", 1]}, ["csv.columns", "strings"]),
    ({"csv.columns": ["a", "a"]}, ["csv.columns", "twice"]), ({"csv.columns": "a"}, ["csv.columns", "array"]),
    ({"csv.header": "maybe"}, ["csv.header"]), ({"key_format": "xml"}, ["key_format", "bytes"])])
def test_options_bad(db, kafka, topic, options, words):
    table(db)
    refused(db, topic, "csv", options, *words)
    assert db.q("SELECT 1 FROM kafka.subscription") == []
    subscribe(db, topic, "t", format="csv", options={"csv.null": ""})
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        db.q("SELECT kafka.alter_subscription('s', %s::jsonb)", json.dumps(options))


@pytest.mark.parametrize("key_format", ["json", "text", "bytes"])
def test_key_format(db, kafka, topic, key_format):
    """Keys of format json that are no JSON."""
    table(db, "id text PRIMARY KEY, v text")
    key = {"json": '"k1"', "text": "k1", "bytes": "k1"}[key_format]
    kafka.produce_many(topic, [(key, {"v": "x"}), ("5", {"v": "five"}), ("5", None)])
    read(db, topic, "json", {"key_format": key_format})
    assert rows(db) == [("k1", "x")]
    kafka.produce(topic, {"v": "x"}, b"\xff")
    assert "UTF-8" in stopped(db, topic, 3) or key_format == "json"
