"""The manual says what the code says: docs/options.md, docs/reference.md and the README's SQL."""

import os
import re
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from conftest import _run, wait_until

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs/reference.md").read_text()


def sections(level="###"):
    """Text of each section of reference.md by its heading."""
    parts = re.split(rf"^{level} (.+)$", REFERENCE, flags=re.M)
    return {name.strip(): re.split(r"^#+ ", body, flags=re.M)[0] for name, body in zip(parts[1::2], parts[2::2])}


def missing(names, text=REFERENCE):
    return [name for name in names if f"`{name}`" not in text]


def test_options(db):
    env = dict(os.environ, PGHOST="127.0.0.1", PGPORT=str(db.cluster.port), PGUSER="postgres", PGDATABASE=db.name)
    written = subprocess.run([ROOT / "docs/generate.sh", "--print"], env=env, stdin=subprocess.DEVNULL,
                             capture_output=True, text=True)
    assert written.returncode == 0, written.stderr
    assert written.stdout == (ROOT / "docs/options.md").read_text(), "run docs/generate.sh and commit docs/options.md"


def test_functions(db):
    found = sections()
    functions = db.q("SELECT proname, proargnames, proallargtypes IS NULL FROM pg_proc "
                     "WHERE pronamespace = 'kafka'::regnamespace")
    assert [name for name, _, _ in functions if f"kafka.{name}" not in found] == []
    for name, arguments, _ in functions:
        words = set(re.findall(r"\w+", found[f"kafka.{name}"]))
        assert name in words
        # kafka.list_acls returns what it takes
        assert [argument for argument in arguments or [] if argument not in words] == [], name
    # and none that is not there
    views = [row[0] for row in db.q("SELECT relname FROM pg_class WHERE relnamespace = 'kafka'::regnamespace "
                                    "AND relkind = 'v'")]
    names = {name for name, _, _ in functions} | set(views)
    assert [heading for heading in found if heading.startswith("kafka.") and heading[6:] not in names] == []


def test_signatures(db):
    """Arguments, their types and defaults, as PostgreSQL has them."""
    found = sections()
    for name, signature in db.q(
            "SELECT proname, pg_get_function_arguments(oid) FROM pg_proc WHERE pronamespace = 'kafka'::regnamespace"):
        given = [a for a in re.split(r", (?=(?:OUT |INOUT )?\"?\w+\"? [a-z])", signature) if a and not a.startswith("OUT ")]
        given = [re.sub(r"'::\w+\b", "'", a.replace("INOUT ", "").replace(" DEFAULT ", " = ")) for a in given]
        given = [re.sub(r"NULL::[\w ]+(\[\])?|'(-1)'::integer", lambda m: m.group(2) or "NULL", a) for a in given]
        given = [re.sub(r"= '00:00:30'(::interval)?", "= '30s'", a).replace("'-1'", "-1") for a in given]
        assert f"`{name}({', '.join(given)})" in found[f"kafka.{name}"], name


def test_views_and_tables(db):
    found = sections()
    for relation, kind, columns in db.q(
            "SELECT relname, relkind::text, array_agg(attname::text ORDER BY attnum) FROM pg_class "
            "JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped "
            "WHERE relnamespace = 'kafka'::regnamespace AND relkind IN ('v', 'r') GROUP BY 1, 2"):
        if kind == "v":
            text = found[f"kafka.{relation}"]
        else:
            lines = [line for line in REFERENCE.splitlines() if line.startswith(f"| `kafka.{relation}` |")]
            assert len(lines) == 1, relation
            text = lines[0]
        assert missing(columns, text) == [], relation


def test_parameters(db):
    parameters = [row[0] for row in db.q("SELECT name FROM pg_settings WHERE name LIKE 'pg_kafka_sync.%'")]
    assert parameters and missing(parameters) == []


def test_words_of_the_code():
    """States, wait events, and the properties that are allowed or refused."""
    sources = {path: path.read_text() for path in (ROOT / "src").glob("*/*.c")}
    events = {event for text in sources.values() for event in re.findall(r'"(Kafka[A-Z]\w+)"', text)}
    worker = sources[ROOT / "src/control/worker.c"]
    states = re.findall(r'\[KS_STATE_\w+\] = "(\w+)"', worker)
    properties = sources[ROOT / "src/kafka/properties.c"]
    allowed = re.findall(r'^\t\{"([\w.]+)", [A-Z_ |]+\},$', properties, flags=re.M)
    reserved = re.findall(r'"([\w.]+)"', re.search(r"reserved\[\] = \{(.*?)\n\};", properties, flags=re.S).group(1))
    assert len(events) > 5 and len(states) > 5 and len(allowed) > 20 and len(reserved) > 20
    text = sections("##")
    assert missing(events, text["Wait events"]) == []
    assert missing(states, text["States"]) == []
    assert missing(allowed + reserved, text["Properties"]) == []


def test_links():
    """Links between the pages lead somewhere."""
    pages = {path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
    for page, text in pages.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"\w+://", target):
                continue
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            assert other.exists(), f"{page.name}: {target}"
            if anchor:
                heads = [re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-")
                         for h in re.findall(r"^#+ (.+)$", pages[other], flags=re.M)]
                heads += re.findall(r'<a name="([^"]+)">', pages[other])
                assert anchor in heads, f"{page.name}: {target}"


def test_readme_sql(make_db, kafka):
    """The quick start, as it stands there."""
    block = re.search(r"```sql\n(-- where rows are written\n.*?)```", (ROOT / "README.md").read_text(), flags=re.S).group(1)
    prefix = f"shop{uuid.uuid4().hex[:8]}"
    block = block.replace("localhost:9092", kafka.bootstrap).replace("=> 'shop'", f"=> '{prefix}'")
    block = block.replace("{shop.public.orders}", f"{{{prefix}.public.orders}}")
    writing, reading = block.split("-- where rows are read\n")
    assert prefix in writing and prefix in reading
    source, target = make_db(extension=False), make_db(extension=False)
    for database, script in ((source, writing), (target, reading)):
        for statement in script.split(";\n"):
            if statement.strip():
                database.q(statement)
    source.q("INSERT INTO orders VALUES (1, 7, 19.90); UPDATE orders SET amount = 20.10")
    wait_until(lambda: [tuple(map(str, row)) for row in target.q("TABLE orders")] == [("1", "7", "20.10")], timeout=60)
    assert target.q("TABLE kafka.problems") == source.q("TABLE kafka.problems") == []


def run_tutorial(page, databases, kafka, prefix):
    """Runs the SQL of a page: each block in the database that its first line names. What its last queries returned, in order."""
    results = []
    for name, block in re.findall(r"```sql\n-- in (\w+)\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.S):
        block = block.replace("localhost:9092", kafka.bootstrap).replace("topic_prefix => 'shop", f"topic_prefix => '{prefix}")
        block = re.sub(r"\{shop(\w*)\.public", rf"{{{prefix}\1.public", block)
        for statement in re.sub(r"--.*", "", block).split(";\n"):
            if statement.strip():
                results.append((name, databases[name].q(statement)))
                if "wait_for" in statement:
                    assert results[-1][1] == [(True,)], statement
    return results


def test_tutorial_rebuild(make_db, kafka):
    shop, reports = make_db(extension=False), make_db(extension=False)
    results = run_tutorial("tutorial-rebuild.md", {"shop": shop, "reports": reports}, kafka, f"shop{uuid.uuid4().hex[:8]}")
    assert ("reports", [("Boston", 4500), ("Washington", 500)]) in results
    assert reports.q("SELECT id, customer_id, city, amount FROM orders ORDER BY id") == \
        shop.q("SELECT id, customer_id, city, amount FROM orders ORDER BY id")
    assert results[-1][1] == shop.q("SELECT count(*), sum(amount) FROM orders")
    assert reports.q("TABLE kafka.problems") == []


def test_tutorial_two_way(make_db, kafka):
    crm, website = make_db(extension=False), make_db(extension=False)
    prefix = f"shop{uuid.uuid4().hex[:8]}"
    results = run_tutorial("tutorial-two-way-sync.md", {"crm": crm, "website": website}, kafka, prefix)
    shown = [(name, [tuple(map(str, row)) for row in rows]) for name, rows in results]
    assert ("website", [("Ann", "ann@new.example", "3", "3018.00")]) in shown
    # written back, and then the later change wins on both sides
    assert [rows for name, rows in shown if name == "crm" and rows and len(rows[0]) == 2] == \
        [[("Ann", "ann@new.example")], [("Ann", "ann@newer.example")]]
    assert ("website", [("Ann", "ann@newer.example")]) in shown and ("website", [("0", "1", "0")]) in shown
    assert crm.q("TABLE customer ORDER BY id") == website.q("TABLE customer ORDER BY id")
    assert crm.q("TABLE kafka.problems") == website.q("TABLE kafka.problems") == []


def run_as_psql(page, database, kafka):
    """Runs the SQL of a page as psql does, block by block; the block behind one, if it names no language, is its output."""
    path = ROOT / "docs" / page
    text = path.read_text()
    env = dict(os.environ, PGHOST="127.0.0.1", PGPORT=str(database.cluster.port), PGUSER="postgres", PGDATABASE=database.name,
               PGTZ="UTC", LC_ALL="C.UTF-8")
    blocks = list(re.finditer(r"```sql\n(.*?)```\n(?:```\n(.*?)```\n)?", text, flags=re.S))
    assert blocks
    for block in blocks:
        sql, wanted = block.groups()

        def run():
            done = subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"], env=env, capture_output=True, text=True,
                                  input=sql.replace("localhost:9092", kafka.bootstrap))
            assert done.returncode == 0, f"{sql}\n{done.stderr}"
            return done
        done = run()
        # what a query alone returns may come a moment after what was done before
        deadline = time.monotonic() + 20
        while re.fullmatch(r"SELECT [^;]+;\n", sql) and done.stdout != wanted and time.monotonic() < deadline:
            time.sleep(0.2)
            done = run()
        if os.environ.get("ACCEPT") and wanted is not None:
            text = text.replace(wanted, done.stdout, 1)
        else:
            assert done.stdout == (wanted or ""), f"{sql}\n{done.stdout}"
    if os.environ.get("ACCEPT"):
        path.write_text(text)


def test_tutorial_query_a_topic(make_db, kafka):
    database = make_db(extension=False)
    try:
        run_as_psql("tutorial-query-a-topic.md", database, kafka)
    finally:
        kafka.delete_topic("webshop.orders")
        database.q("DROP OWNED BY reporting; DROP ROLE reporting")


@pytest.mark.parametrize("page", ["tutorial-streaming-etl.md"])
def test_tutorials(page, make_db, kafka):
    """Pages with their results. Each block of SQL in psql, one session; the results that the page shows after it are in its output, in that order."""
    blocks = re.findall(r"^```sql\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", (ROOT / "docs" / page).read_text(), flags=re.S | re.M)
    prefix = f"shop{uuid.uuid4().hex[:8]}"
    script = "\\pset footer off\n"
    for sql, _ in blocks:
        script += re.sub(r"\bshop\b", prefix, sql.replace("localhost:9092", kafka.bootstrap)) + "\n\\echo == next\n"
    db = make_db(extension=False)
    env = dict(os.environ, PGHOST="127.0.0.1", PGPORT=str(db.cluster.port), PGUSER="postgres", PGDATABASE=db.name, PGTZ="UTC",
               PGCLIENTENCODING="UTF8")
    bin = _run(os.environ.get("PG_CONFIG", "/usr/lib/postgresql/15/bin/pg_config"), "--bindir").strip()
    run = subprocess.run([f"{bin}/psql", "-X", "-q"], input=script, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, timeout=300)
    outputs = run.stdout.split("== next\n")
    assert len(outputs) == len(blocks) + 1 and len(blocks) > 2
    for (sql, expected), output in zip(blocks, outputs):
        lines = lambda text: "\n".join(line.rstrip() for line in text.splitlines())
        if "ERROR" not in expected:
            assert "ERROR" not in output, sql + output
        rest = lines(output)
        for part in filter(None, lines(expected).split("\n\n")):
            assert part.strip("\n") in rest, f"{sql}\nexpected:\n{part}\nthere:\n{output}"
            rest = rest.partition(part.strip("\n"))[2]
