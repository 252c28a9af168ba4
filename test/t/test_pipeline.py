"""Tables to topics to tables: what comes out is what went in, whatever it is."""

import uuid

import pytest

from conftest import Cluster, wait_until
from pipelines import same_rows

# Type -> values, from the edges of what it holds. Every type gets an array column too.
VALUES = {
    "bool": ["t", "f"],
    "bytea": [r"\x", r"\x00ff7f80", r"\x5c5c"],
    '"char"': ["a", r"\377", ""],
    "name": ["", 'a "quoted" name', "ü" * 31],
    "int2": ["-32768", "32767", "0"],
    "int4": ["-2147483648", "2147483647"],
    "int8": ["-9223372036854775808", "9223372036854775807", "9007199254740993"],
    "float4": ["NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e+38", "0.1"],
    "float8": ["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e+308", "0.1", "123456789012345680"],
    "numeric": ["NaN", "Infinity", "-Infinity", "0", "0.00", "1e-130", "-1" + "0" * 200, "1234567890123456789012345678901234567890.000000000012345", "12345678901234567890.0012300", "1e20000"],
    "numeric(10,2)": ["NaN", "99999999.99", "-0.01", "0"],
    "numeric(5,-2)": ["1234500", "-99900"],
    "money": ["-92233720368547758.08", "92233720368547758.07", "0.01"],
    "text": ["", "ünïcödé 日本語 🙂", "\x01\x1f\x7f \\ \" / \b\f\n\r\t", "null", "true", "__debezium", "x" * 20000],
    "varchar(5)": ["", "ab   ", "日本語日本"],
    "bpchar(5)": ["a", "", "日本"],
    "bpchar": ["a  ", ""],
    "date": ["4713-01-01 BC", "5874897-12-31", "infinity", "-infinity", "1970-01-01", "0001-01-01"],
    "time": ["00:00:00", "24:00:00", "23:59:59.999999"],
    "timetz": ["00:00:00+15:59:59", "24:00:00-15:59", "12:34:56.789012+00"],
    "timestamp": ["4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999", "infinity", "-infinity", "1969-12-31 23:59:59.999999"],
    "timestamptz": ["4713-01-02 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "infinity", "-infinity", "2020-02-29 12:00:00.000001+05:45"],
    "timestamp(3)": ["2020-01-01 00:00:00.123", "infinity"],
    "interval": ["0", "-178000000 years", "178000000 years", "1 mon -1 day 00:00:00.000001", "-1 mon +2 days -03:00", "1 year 2 mons 3 days 04:05:06.7"],
    "interval day to second(2)": ["3 days 04:05:06.78"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "json": ["null", "1.50", '{"b": 1,  "a": [null, "\\u00e9 \\\\ \\" é", 1e400, {}], "b": 2}', '"text"', "[1 ,\n2]", "true"],
    "jsonb": ["null", "1.50", '{"b": [null, "\\u00e9 \\\\ \\" é", 12345678901234567890123.4567890, {}], "a": {}}', '"text"', "[]", "false", '""'],
    "jsonpath": ['$."a"[*] ? (@ > 1)', 'strict $'],
    "xml": ["<a b=\"c\">&lt;é</a>", ""],
    "bit(5)": ["00000", "10101"],
    "bit": ["0", "1"],
    "varbit": ["", "1", "10101010101010101"],
    "inet": ["0.0.0.0/0", "10.1.2.3/8", "255.255.255.255", "::ffff:1.2.3.4/128", "2001:db8::1/64"],
    "cidr": ["10.0.0.0/8", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(NaN,Infinity)", "(-0,1e-300)", "(1.1,2.2)"],
    "line": ["{1,-1,0}"],
    "lseg": ["[(1,2),(3,4)]"],
    "box": ["(3,4),(1,2)"],
    "path": ["[(1,2),(3,4)]", "((1,2),(3,4))"],
    "polygon": ["((1,2),(3,4),(5,6))"],
    "circle": ["<(1,2),3>"],
    "tsvector": ["", "'a':1A 'fat':2B,4C 'it''s':3 'b'"],
    "tsquery": ["", "'fat' & ( 'rat' | !'cat' ) <2> 'x':*A"],
    "oid": ["0", "4294967295"],
    "xid": ["4294967295"],
    "xid8": ["18446744073709551615"],
    "cid": ["4294967295"],
    "tid": ["(4294967295,65535)", "(0,1)"],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF"],
    "pg_snapshot": ["10:20:10,14,15"],
    "txid_snapshot": ["10:20:10,14,15"],
    "int2vector": ["1 2 3", ""],
    "oidvector": ["1 2 3", ""],
    "refcursor": ["cursor <1>"],
    "regclass": ["pg_class", "-"],
    "regproc": ["pg_catalog.now", "-"],
    "regprocedure": ["pg_catalog.abs(integer)"],
    "regoper": ["pg_catalog.||/", "0"],
    "regoperator": ["pg_catalog.+(integer,integer)"],
    "regtype": ["integer", "character varying[]", "-"],
    "regrole": ["postgres"],
    "regnamespace": ["pg_catalog"],
    "regconfig": ["simple"],
    "regdictionary": ["simple"],
    "regcollation": ['"C"'],
    "aclitem": ["postgres=r*w/postgres"],
    "int4range": ["empty", "(,)", "[1,10)", "[-2147483648,2147483647)"],
    "int8range": ["empty", "[-9223372036854775808,)"],
    "numrange": ["empty", "(1.10,2.200]", "(,NaN]"],
    "tsrange": ["empty", '["2020-01-01 00:00:00",infinity]'],
    "tstzrange": ["empty", '["2020-01-01 00:00:00+00","2021-01-01 00:00:00+00")', "(,)"],
    "daterange": ["empty", "[2020-01-01,infinity)"],
    "int4multirange": ["{}", "{[1,2),[5,)}"],
    "int8multirange": ["{(,)}"],
    "nummultirange": ["{[1.10,2.20]}"],
    "tsmultirange": ["{}"],
    "tstzmultirange": ['{["2020-01-01 00:00:00+00",)}'],
    "datemultirange": ["{[2020-01-01,2021-01-01)}"],
}

# pg_type's base and range types that no table should or could hold.
NOT_STORED = {"pg_node_tree", "gtsvector", "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary",
              "pg_brin_minmax_multi_summary"}


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def array_of(values, first=-1):
    """An array literal of the values and a NULL: in two dimensions, or one that begins at first."""
    quoted = ['"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' for v in values] + ["NULL"]
    if len(quoted) % 2 == 0:
        half = len(quoted) // 2
        return "{{" + ",".join(quoted[:half]) + "},{" + ",".join(quoted[half:]) + "}}"
    return f"[{first}:{len(quoted) + first - 1}]={{" + ",".join(quoted) + "}"


def make_types_table(db):
    """Table types: a column and an array column of every type, a row for each of the longest list of values."""
    columns = [f'"c{i}" {t}' for i, t in enumerate(VALUES)]
    # arrays of box have a delimiter of their own
    arrays = {i: t for i, t in enumerate(VALUES) if t not in ("box",)}
    db.q(f"CREATE TABLE types (id int PRIMARY KEY, {', '.join(columns)}, "
         + ", ".join(f'"a{i}" {t}[]' for i, t in arrays.items()) + ")")
    return arrays


def fill_types_table(db, arrays, first, last, without={}, array_start=-1):
    """Inserts rows first to last - 1, without the values that a format cannot carry."""
    edges = [[v for v in values if v not in without.get(t, ())] for t, values in VALUES.items()]
    longest = max(map(len, edges))
    for row in range(longest):
        if not first <= row < last:
            continue
        names, values = ["id"], [str(row)]
        for i, edge in enumerate(edges):
            if row < len(edge):
                names.append(f'"c{i}"')
                values.append(literal(edge[row]))
        if row == 0 or row == longest - 1:
            for i in arrays:
                names.append(f'"a{i}"')
                values.append(literal(array_of(edges[i], array_start) if row == 0 else "{}"))
        db.q(f"INSERT INTO types ({', '.join(names)}) VALUES ({', '.join(values)})")
    return longest


ODD = r'''
CREATE SCHEMA "Odd ""Schema";
CREATE TABLE "Odd ""Schema"."Ta ble-Ä" ("dropped first" int, "Id" int, "ke""y\" text, "drop me" int, "Value" int,
    twice int GENERATED ALWAYS AS ("Value" * 2) STORED, n int GENERATED ALWAYS AS IDENTITY,
    d int GENERATED BY DEFAULT AS IDENTITY, "select" text DEFAULT 'default', "drop me too" text,
    PRIMARY KEY ("ke""y\", "Id"));
ALTER TABLE "Odd ""Schema"."Ta ble-Ä" DROP COLUMN "drop me", DROP COLUMN "dropped first";
ALTER TABLE "Odd ""Schema"."Ta ble-Ä" ADD COLUMN "late" text DEFAULT 'of late', DROP COLUMN "drop me too";
CREATE TYPE mood AS ENUM ('sad', 'o''k', 'hap"py', 'ünï {},\');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN moods AS mood[];
CREATE TYPE inner_t AS (a int, b text);
CREATE TYPE outer_t AS (i inner_t, l inner_t[], m mood, p positive, t timestamptz, f float8, n numeric);
CREATE DOMAIN checked AS inner_t CHECK ((value).a > 0);
CREATE TYPE floatrange AS RANGE (subtype = float8, multirange_type_name = floatranges);
CREATE TABLE own_types (m mood, p positive, c outer_t, ms mood[], mm moods, ps positive[], cs outer_t[], ck checked, r floatrange,
    rs floatranges, k inner_t, PRIMARY KEY (m, p));
'''

ODD_ROWS = r'''
INSERT INTO "Odd ""Schema"."Ta ble-Ä" ("Id", "ke""y\", "Value", "select") VALUES
    ({0} + 1, 'a', 1, NULL), ({0} + 2, 'ä "quoted" \', NULL, DEFAULT), ({0} + 3, '', -5, '');
INSERT INTO own_types VALUES
    ('sad', {0} + 1, ROW(ROW(1, 'x,"y"(\)'), ARRAY[ROW(2, NULL)::inner_t, NULL], 'o''k', 5, '2020-01-01 00:00:00+02', 'NaN', 'Infinity'),
     '{{sad,"hap\"py",NULL,"ünï {{}},\\"}}', '{{{{sad}},{{o''k}}}}', '{{1,2,NULL}}', ARRAY[NULL, ROW(NULL,NULL,NULL,NULL,NULL,NULL,NULL)::outer_t],
     ROW(1, ''), '[0.1,Infinity)', '{{[0.1,0.2),(1e300,)}}', ROW(NULL, 'k')),
    ('ünï {{}},\', {0} + 2, NULL, '{{}}', NULL, '{{}}', '{{}}', NULL, 'empty', '{{}}', ROW(NULL, NULL));
'''


class Setting:
    """A source whose tables are published by p, and a target with a subscription for each."""

    TABLES = ["types", '"Odd ""Schema"."Ta ble-Ä"', "own_types", "wide"]

    def __init__(self, make_db, kafka, format, **fill_options):
        self.kafka, self.format, self.fill_options = kafka, format, fill_options
        self.source, self.target = make_db(), make_db()
        for db in (self.source, self.target):
            db.create_server(kafka)
            self.arrays = make_types_table(db)
            db.q(ODD)
            db.q("CREATE TABLE wide (id int PRIMARY KEY, " + ", ".join(f'"Column {i}" {("int", "text", "numeric(12,4)", "timestamptz")[i % 4]}' for i in range(499)) + ")")

    def fill(self, first, last):
        fill_types_table(self.source, self.arrays, first, last, **self.fill_options)
        self.source.q(ODD_ROWS.format(first * 10))
        self.source.q("INSERT INTO wide SELECT g, " + ", ".join(("g + %d", "'t%d' || g", "%d.5 + g", "to_timestamp(%d + g)")[i % 4] % i for i in range(499))
                      + f" FROM generate_series({first * 10}, {first * 10} + 20) g")

    def publish(self, snapshot="initial", options="{}"):
        self.source.q("CREATE PUBLICATION pub FOR TABLE " + ", ".join(self.TABLES))
        self.source.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => %s, snapshot => %s, options => %s::jsonb)",
                      self.format, snapshot, options)

    def subscribe(self):
        for i, table in enumerate(self.TABLES):
            topic = self.source.value("SELECT topic FROM kafka.publisher_tables WHERE relation = %s::regclass", table)
            self.target.q("SELECT kafka.create_subscription(%s, 'kafka', %s, %s::regclass, format => %s)", f"s{i}", [topic], table, self.format)

    def settle(self):
        self.source.wait_for_publisher("p", 20)
        for i in range(len(self.TABLES)):
            self.target.wait_for_subscription(f"s{i}", 20)

    def check(self):
        self.settle()
        for db in (self.source, self.target):
            # names depend on it, and bytes are what counts
            db.q("SET search_path = pg_catalog")
        wrong = []
        for table in self.TABLES:
            name = table if table.startswith('"') else f"public.{table}"
            columns = [c for (c,) in self.source.q("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum", name)]
            order = [c for (c,) in self.source.q("SELECT attname FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey) WHERE attrelid = %s::regclass ORDER BY 1", name)]
            quoted = ['"' + c.replace('"', '""') + '"' for c in columns]
            query = f"SELECT {', '.join(q + '::text' for q in quoted)} FROM {name} ORDER BY {', '.join(chr(34) + c.replace(chr(34), chr(34) * 2) + chr(34) + '::text' for c in order)}"
            a, b = self.source.q(query), self.target.q(query)
            assert len(a) == len(b), f"{table}: {len(a)} rows, {len(b)} arrived"
            for row_a, row_b in zip(a, b):
                for column, value_a, value_b in zip(columns, row_a, row_b):
                    if value_a != value_b:
                        wrong.append(f"{table}.{column}: {value_a!r:.200} came out as {value_b!r:.200}")
        for db in (self.source, self.target):
            db.q("RESET search_path")
        assert not wrong, "\n".join(wrong[:40])


def test_every_type_is_covered(db):
    known = {t.split("(")[0].strip('"') for t in VALUES} | {"interval"}
    types = {t for (t,) in db.q("SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND left(typname, 1) <> '_'")}
    assert types - known - NOT_STORED == set()


def change_everything(db):
    db.q("UPDATE types SET " + ", ".join(f"c{i} = NULL" for i in range(0, len(VALUES), 2)) + " WHERE id = 0")
    db.q("UPDATE types SET id = 1000 WHERE id = 2")
    db.q("""UPDATE "Odd ""Schema"."Ta ble-Ä" SET "ke""y\\" = "ke""y\\" || 'new', "Value" = 77 WHERE "Id" = 1""")
    db.q("""UPDATE own_types SET p = p + 100, m = 'o''k' WHERE p = 1""")
    db.q("""DELETE FROM "Odd ""Schema"."Ta ble-Ä" WHERE "Id" = 2""")
    db.q("DELETE FROM types WHERE id = 1")
    db.q("DELETE FROM own_types WHERE p = 2")
    db.q('UPDATE wide SET "Column 498" = NULL')


def round_trip(s, options="{}"):
    """Snapshot, inserts, updates and deletes of every kind of column end up in the targets as they were."""
    s.fill(0, 4)
    s.publish(options=options)
    s.source.wait_for_publisher("p", 20)
    s.subscribe()
    s.check()
    s.fill(4, 100)
    s.check()
    change_everything(s.source)
    s.check()


def test_round_trip_json(make_db, kafka):
    round_trip(Setting(make_db, kafka, "json"))


# What Debezium's encodings cannot carry (see regress format_debezium) or carry as an equal value: zeros behind the point,
# the zone of a timetz, the units of an interval.
NOT_IN_DEBEZIUM_STRINGS = {"timestamp": ["294276-12-31 23:59:59.999999"], "timetz": ["00:00:00+15:59:59", "24:00:00-15:59"]}
NOT_IN_DEBEZIUM = {
    **NOT_IN_DEBEZIUM_STRINGS, "numeric": ["NaN", "Infinity", "-Infinity", "0.00", "12345678901234567890.0012300"], "numeric(10,2)": ["NaN"],
    "interval": [v for v in VALUES["interval"] if v != "0"], "interval day to second(2)": VALUES["interval day to second(2)"],
}


def test_round_trip_debezium(make_db, kafka):
    round_trip(Setting(make_db, kafka, "debezium", without=NOT_IN_DEBEZIUM, array_start=1))


def test_round_trip_debezium_strings(make_db, kafka):
    round_trip(Setting(make_db, kafka, "debezium", without=NOT_IN_DEBEZIUM_STRINGS, array_start=1),
               options='{"decimal.handling.mode": "string", "interval.handling.mode": "string",'
                       ' "time.precision.mode": "adaptive_time_microseconds"}')


@pytest.mark.parametrize("format", ["json", "debezium"])
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_other_encodings(make_db, kafka, encoding, format):
    """Text of a database in another encoding is UTF-8 on the wire and comes out right; what is not UTF-8 is refused."""
    source, latin, utf8 = (make_db(options=f"ENCODING '{e}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0") for e in (encoding, encoding, "UTF8"))
    for db in (source, latin, utf8):
        db.create_server(kafka)
        db.q("SET client_encoding = UTF8")
        db.q('CREATE TABLE t (id text PRIMARY KEY, "Größe" text, a text[], j jsonb)')
    source.q("CREATE PUBLICATION pub FOR TABLE t")
    source.q("INSERT INTO t VALUES ('schlüssel', 'ä\u00f6', '{ü,\"ß\"}', '{\"ö\": \"é\"}')".replace("\\u00f6", "ö"))
    source.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => %s)", format)
    source.wait_for_publisher("p", 20)
    source.q("INSERT INTO t VALUES ('zwö', 'ÿ', '{}', '\"ñ\"')")
    source.q("UPDATE t SET \"Größe\" = 'çà' WHERE id = 'zwö'")
    source.wait_for_publisher("p", 20)
    topic = source.value("SELECT topic FROM kafka.publisher_tables")
    rows = kafka.consume(topic)
    assert rows[0].json_key == {"id": "schlüssel"}
    row = rows[0].json if format == "json" else rows[0].json["after"]
    assert row["Größe"] == "äö"
    for db in (latin, utf8):
        db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', format => %s)", [topic], format)
        db.wait_for_subscription("s", 20)
        same_rows(source, db, "t")
    if encoding == "LATIN1":
        # a character that the target's encoding does not have: an error that names the column, nothing garbled
        after = {"id": "x", "Größe": "漢字", "a": [], "j": None}
        kafka.produce(topic, after if format == "json" else {"before": None, "after": after, "op": "c", "source": {}, "ts_ms": 1}, {"id": "x"})
        error = latin.wait_state("subscription", "s", "error")["last_error"]
        assert "Größe" in error and "LATIN1" in error, error
        utf8.wait_for_subscription("s", 20)
        assert utf8.value("""SELECT "Größe" FROM t WHERE id = 'x'""") == "漢字"
    else:
        source.q(r"INSERT INTO t VALUES ('bad', E'\377', NULL, NULL)")
        error = source.wait_state("publisher", "p", "error")["last_error"]
        assert "Größe" in error and "UTF-8" in error, error


def test_origin(make_db, kafka):
    """What a subscription wrote into a published table is not sent back, but with origin any."""
    a, b = make_db(), make_db()
    topics = {}
    for db in (a, b):
        db.create_server(kafka)
        db.q("CREATE TABLE t (id int PRIMARY KEY, v text)")
        db.q("CREATE PUBLICATION pub FOR TABLE t")
        db.q("SELECT kafka.create_publisher('p', 'kafka', 'pub', format => 'json', snapshot => 'never')")
        topics[db] = f"{db.name}.public.t"
    for db, other in ((a, b), (b, a)):
        db.q("SELECT kafka.create_subscription('s', 'kafka', %s, 't', format => 'json')", [topics[other]])
    for i, db in ((1, a), (2, b)):
        db.q("INSERT INTO t VALUES (%s, 'x')", i)
        db.q("UPDATE t SET v = 'y' WHERE id = %s", i)
    for db in (a, b):
        db.wait("SELECT count(*) = 2 FROM t WHERE v = 'y'", timeout=20)
        db.wait_for_publisher("p", 20)
    a.q("DELETE FROM t WHERE id = 2")
    b.wait("SELECT count(*) = 1 FROM t", timeout=20)
    for db in (a, b):
        db.wait_for_publisher("p", 20)
    assert len(kafka.consume(topics[a])) == 3 and len(kafka.consume(topics[b])) == 2, "nothing was echoed"
    # with origin any what b applies goes on, here to a third place
    b.q("""SELECT kafka.drop_publisher('p')""")
    b.q("""SELECT kafka.create_publisher('q', 'kafka', 'pub', format => 'json', snapshot => 'never', topic_prefix => 'any.' || current_database(),
           options => '{"origin": "any"}')""")
    a.q("INSERT INTO t VALUES (3, 'z')")
    b.wait("SELECT true FROM t WHERE id = 3", timeout=20)
    b.wait_for_publisher("q", 20)
    assert [m.json for m in kafka.consume(f"any.{b.name}.public.t")] == [{"id": 3, "v": "z"}]
