"""From the bytes of a message to values of the target's column types: parsers and apply/convert.c, called directly.

convert_function.c is compiled with the sources it tests, so that hundreds of values need no topic and no worker.
"""

import base64
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
PG_CONFIG = shutil.which("pg_config")

TABLE = r"""
    CREATE TYPE mood as enum ('sad','ok','it''s'); create domain posint as int check (value>0); create domain nn
    as text not null; create domain dn as numeric(6,2); create type comp as (a int, b text); create table t(id int
    primary key, i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8, b bool, n numeric, n2 numeric(10,2), n0
    numeric(10,0), nneg numeric(5,-2), tx text, vc varchar(5), ch char(4), nm name, c1 "char", by bytea, b1
    bit(1), b5 bit(5), b20 bit(20), vb varbit, d date, t6 time, t3 time(3), tz timetz, ts6 timestamp, ts3
    timestamp(3), ts0 timestamp(0), tstz timestamptz, tstz2 timestamptz(2), iv interval, uu uuid, js json, jb
    jsonb, pt point, hs hstore, ia int[], ta text[], na numeric(10,2)[], tsa timestamp[], ba bytea[], ua uuid[],
    jba jsonb[], mo mood, p posint, pn nn, d2 dn, ip inet, r int4range, co comp, mon money, ci citext, xm xml, pa
    posint[], "Mixed ""q" int, lsn pg_lsn, tsv tsvector, x xid, iva interval[], ma mood[])
"""

PLACEHOLDER = "__debezium_unavailable_value"
UNAVAILABLE = "(unavailable)"


@pytest.fixture(scope="module")
def library(scratch):
    """The shared library of convert_function.c."""
    path = scratch / "convert_function.so"
    include = subprocess.run([PG_CONFIG, "--includedir-server"], check=True, capture_output=True, text=True).stdout.strip()
    sources = [Path(__file__).parent / "convert_function.c", *(ROOT / "src/apply").glob("convert*.c"), ROOT / "src/apply/value_text.c",
               *(ROOT / "src/format" / f"{name}.c" for name in ("json_scan", "json_fields", "json_path", "json_parse", "debezium_parse"))]
    # symbolic: its own functions, not those of the preloaded extension
    subprocess.run(["gcc", "-std=gnu99", "-O1", "-g", "-Wall", "-fPIC", "-shared", "-Wl,-Bsymbolic", f"-I{ROOT}/src", f"-I{include}",
                    *map(str, sources), "-o", str(path)], check=True)
    yield path
    path.unlink()


def prepare(database, library, table=True):
    database.q(f"CREATE FUNCTION convert_message(regclass, text, text, bytea, bytea, bytea) RETURNS text[]"
               f" LANGUAGE c AS '{library}'")
    if table:
        database.q("CREATE EXTENSION hstore; CREATE EXTENSION citext; " + TABLE)
    return database


@pytest.fixture(scope="module")
def types_db(cluster, library):
    database = cluster.create_database(extension=False)
    try:
        yield prepare(database, library)
    finally:
        cluster.drop_database(database)


class Convert:
    """Converts single values and gathers what is not as expected."""

    def __init__(self, db, format):
        self.db, self.format, self.failures = db, format, []

    def row(self, key, value, column_types=None, json_null=None, table="t"):
        """Operation and columns of one message."""
        key, value, json_null = (x.encode() if isinstance(x, str) else x for x in (key, value, json_null))
        got = self.db.value("SELECT convert_message(%s::regclass, %s, %s, %s, %s, %s)", table, self.format, column_types,
                            key, value, json_null)
        return got[0], dict(zip(got[1::2], got[2::2]))

    def value(self, column, value, raw=None, ct=None, schema=None, jn=None, source=None):
        """One value; raw: its JSON text, ct: option column_types, schema: of the column, jn: header json_null, source: connector."""
        text = '{"id":1,%s:%s}' % (json.dumps(column), raw if raw is not None else json.dumps(value))
        if self.format == "debezium":
            text = '{"op":"c","after":%s%s}' % (text, ',"source":{"connector":"%s"}' % source if source else "")
        if schema:
            row = {"type": "struct", "field": "after", "fields": [{"type": "int32", "field": "id"}, {**schema, "field": column}]}
            text = '{"schema":%s,"payload":%s}' % (
                json.dumps({"type": "struct", "fields": [row, {"type": "string", "field": "op"}]}), text)
        return self.row('{"id":1}', text, ct, jn)[1][column]

    def eq(self, column, value, expected, **kwargs):
        try:
            got = self.value(column, value, **kwargs)
        except psycopg.Error as e:
            got = f"ERROR {e.sqlstate} {e.diag.message_primary}"
        if got != (None if expected == "NULL" else expected):
            self.failures.append(f"{column} {value!r:.80} {kwargs}: {got!r:.200} instead of {expected!r:.200}")

    def err(self, column, value, sqlstate, text="", **kwargs):
        """An error with this SQLSTATE, that names the column, with this text in message or hint."""
        try:
            got = repr(self.value(column, value, **kwargs))
        except psycopg.Error as e:
            got = f"ERROR {e.sqlstate} {e.diag.message_primary} {e.diag.message_hint}, column {e.diag.column_name}"
            if e.sqlstate == sqlstate and e.diag.column_name == column and text in got:
                return
        self.failures.append(f"{column} {value!r:.80} {kwargs}: {got:.200} instead of {sqlstate} {text}")

    def done(self):
        assert not self.failures, f"{len(self.failures)} failed:\n" + "\n".join(self.failures)


@pytest.fixture
def convert(types_db, request):
    convert = Convert(types_db, getattr(request, "param", "debezium"))
    yield convert
    convert.done()


def typed(type, name=None, **parameters):
    """A field of a Connect schema."""
    return {"type": type, "optional": True, **({"name": name} if name else {}),
            **({"parameters": parameters} if parameters else {})}


def unscaled(value):
    """A Decimal's base64."""
    return base64.b64encode(value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True)).decode()


@pytest.mark.parametrize("convert", ["json", "debezium"], indirect=True)
def test_either_format(convert):
    eq, err = convert.eq, convert.err
    eq('i2', 32767, '32767')
    eq('i2', -32768, '-32768')
    err('i2', 32768, '22003')
    err('i2', 300000, '22003')
    err('i4', 2147483648, '22003')
    eq('i8', None, '9223372036854775807', raw='9223372036854775807')
    err('i8', None, '22003', raw='9223372036854775808')
    eq('i4', None, '100', raw='1e2')
    eq('i4', None, '1', raw='1.0')
    err('i4', 1.5, '22P02', 'not an integer')
    eq('i4', '12', '12')
    err('i4', 'x', '22P02')
    err('i4', True, '42804')
    err('i4', {"a": 1}, '42804')
    err('i4', [1], '42804')
    eq('i4', None, 'NULL')
    eq('o', 4294967295, '4294967295')
    err('o', 4294967296, '22003')
    eq('f4', None, '1.1', raw='1.1')
    eq('f8', None, '0.1', raw='0.1')
    eq('f8', 'NaN', 'NaN')
    eq('f8', '-Infinity', '-Infinity')
    err('f8', None, '22003', raw='1e400')
    eq('f8', None, '1.7976931348623157e+308', raw='1.7976931348623157e308')
    eq('f4', None, '3.4028235e+38', raw='3.4028235E38')
    err('f4', None, '22003', raw='1e39')
    eq('f8', None, '-0', raw='-0.0')
    eq('f8', None, '5e-324', raw='4.9E-324')
    eq('b', True, 't')
    eq('b', False, 'f')
    eq('b', 't', 't')
    err('b', 'maybe', '22P02')
    eq('n', None, '1.50', raw='1.50')
    eq('n', None, '12345678901234567890.123456789', raw='12345678901234567890.123456789')
    eq('n2', None, '1.50', raw='1.5')
    eq('n2', None, '1.24', raw='1.235')
    err('n2', None, '22003', raw='123456789.5')
    eq('n2', None, '99999999.99', raw='99999999.99')
    err('n2', None, '22003', raw='99999999.995')
    eq('nneg', None, '12300', raw='12345')
    eq('n', 'NaN', 'NaN')
    eq('n', None, '1000', raw='1e3')
    eq('n0', None, '3', raw='2.5')
    eq('n', None, '0', raw='-0')
    eq('tx', 'héllo\n"x"', 'héllo\n"x"')
    eq('tx', 12, '12')
    eq('tx', True, 'true')
    eq('tx', {"a": [1]}, '{"a": [1]}')
    err('tx', 'a\x00b', '22P05')
    eq('tx', '', '')
    eq('vc', 'abcde', 'abcde')
    eq('vc', 'äöüßé', 'äöüßé')
    err('vc', 'abcdef', '22001')
    eq('vc', 'abcde  ', 'abcde')
    err('vc', 123456, '22001')
    eq('ch', 'ab', 'ab  ')
    err('ch', 'abcde', '22001')
    eq('nm', 'x'*63, 'x'*63)
    err('nm', 'x'*64, '22001')
    eq('c1', 'x', 'x')
    eq('uu', '00112233-4455-6677-8899-AABBCCDDEEFF', '00112233-4455-6677-8899-aabbccddeeff')
    eq('uu', '{00112233445566778899aabbccddeeff}', '00112233-4455-6677-8899-aabbccddeeff')
    err('uu', 'zz', '22P02')
    eq('tstz', '2020-01-01T00:00:00.123456Z', '2020-01-01 00:00:00.123456+00')
    eq('tstz', '2020-01-01 02:00:00+02', '2020-01-01 00:00:00+00')
    eq('tstz2', '2020-01-01T00:00:00.126Z', '2020-01-01 00:00:00.13+00')
    eq('tstz', 'infinity', 'infinity')
    eq('tstz', '-infinity', '-infinity')
    eq('tstz', '+12345-01-01T00:00:00Z', '12345-01-01 00:00:00+00')
    eq('tstz', '-0043-03-15T00:00:00Z', '0044-03-15 00:00:00+00 BC')
    eq('tstz', '0044-03-15 00:00:00+00 BC', '0044-03-15 00:00:00+00 BC')
    err('tstz', '2020-13-01T00:00:00Z', '22008')
    err('tstz', 'x', '22007')
    err('tstz', 5, '42804', 'column_types' if convert.format == 'debezium' else 'text')
    eq('tstz', '294276-12-31 23:59:59.999999+00', '294276-12-31 23:59:59.999999+00')
    err('tstz', '+294277-01-01T00:00:00Z', '22008')
    eq('mo', 'it\'s', 'it\'s')
    err('mo', 'bad', '22P02')
    eq('p', 5, '5')
    err('p', -5, '23514')
    err('pn', None, '23502')
    eq('pn', 'x', 'x')
    eq('d2', None, '12.35', raw='12.345')
    eq('ip', '10.0.0.0/8', '10.0.0.0/8')
    eq('r', '[1,5)', '[1,5)')
    eq('co', '(1,x)', '(1,x)')
    eq('ci', 'AbC', 'AbC')
    eq('lsn', '1/A', '1/A')
    eq('tsv', "'a':1", "'a':1")
    eq('x', 123, '123')
    eq('tz', '07:04:56.789012Z', '07:04:56.789012+00')
    eq('xm', '<a/>', '<a/>')
    eq('ia', [1, 2, None], '{1,2,NULL}')
    eq('ia', [[1, 2], [3, 4]], '{{1,2},{3,4}}')
    eq('ia', [], '{}')
    err('ia', [[1], [2, 3]], '2202E')
    err('ia', [1, [2]], '2202E')
    err('ia', [[1], 2], '2202E')
    eq('ia', '{1,2}', '{1,2}')
    eq('ta', ['a"b', 'NULL', None, ''], '{"a\\"b","NULL",NULL,""}')
    eq('pa', [1, 2], '{1,2}')
    err('pa', [1, -2], '23514')
    eq('ia', [[[[[[1]]]]]], '{{{{{{1}}}}}}')
    err('ia', [[[[[[[1]]]]]]], '54000')
    eq('ma', ['ok', 'sad'], '{ok,sad}')
    eq('hs', {"a": "1", "b": None, "c\"": "x\\y"}, '"a"=>"1", "b"=>NULL, "c\\""=>"x\\\\y"')
    eq('hs', '"a"=>"1"', '"a"=>"1"')
    eq('js', {"a": 1}, '{"a": 1}')
    eq('jb', {"b": 1, "a": [1, 2]}, '{"a": [1, 2], "b": 1}')
    eq('jb', 5, '5')
    eq('jb', [1], '[1]')
    eq('jb', True, 'true')
    eq('jb', None, 'NULL')


@pytest.mark.parametrize("convert", ["json"], indirect=True)
def test_json(convert):
    eq, err = convert.eq, convert.err
    eq('jb', 'abc', '"abc"')
    eq('js', None, '"a\\u0041"', raw='"a\\u0041"')
    eq('js', None, '"\\u0000"', raw='"\\u0000"')
    err('jb', None, '22P05', raw='"\\u0000"')
    eq('jb', None, 'null', jn='["jb"]')
    eq('js', None, 'null', jn='["js"]')
    eq('tx', None, 'NULL', jn='["tx"]')
    eq('js', None, '{"b":1,  "a" :2}', raw='{"b":1,  "a" :2}')
    eq('by', '\\x00ff', '\\x00ff')
    eq('d', '2020-02-29', '2020-02-29')
    eq('d', '0044-03-15 BC', '0044-03-15 BC')
    eq('d', 'infinity', 'infinity')
    err('d', 18262, '42804')
    eq('d', '5874897-12-31', '5874897-12-31')
    err('d', '2021-02-29', '22008')
    eq('t6', '12:34:56.789', '12:34:56.789')
    eq('t6', '24:00:00', '24:00:00')
    eq('ts6', '2020-01-01 00:00:00.1', '2020-01-01 00:00:00.1')
    eq('ts3', '2020-01-01 00:00:00.1236', '2020-01-01 00:00:00.124')
    eq('ts0', '2020-01-01 00:00:00.5', '2020-01-01 00:00:01')
    eq('ts6', '0001-01-01 00:00:00 BC', '0001-01-01 00:00:00 BC')
    eq('ts6', 'infinity', 'infinity')
    eq('iv', '1 year 2 mons -3 days +04:05:06.789', '1 year 2 mons -3 days +04:05:06.789')
    eq('b5', '10101', '10101')
    eq('vb', '', '')
    err('b5', '101', '22026')
    eq('mon', '-$1,234.50', '-$1,234.50')
    eq('pt', '(1.5,-2)', '(1.5,-2)')
    eq('n', 'Infinity', 'Infinity')
    eq('na', '{1.50,NULL}', '{1.50,NULL}')
    eq('ba', '{"\\\\x00"}', '{"\\\\x00"}')
    eq('jba', '{"{\\"a\\": 1}"}', '{"{\\"a\\": 1}"}')
    eq('tx', '__debezium_unavailable_value', '__debezium_unavailable_value')


def test_debezium(convert):
    eq, err = convert.eq, convert.err
    P = PLACEHOLDER
    U = UNAVAILABLE
    eq('d', 18262, '2020-01-01')
    eq('d', -1, '1969-12-31')
    eq('d', 2147483647, 'infinity')
    eq('d', -2147483648, '-infinity')
    eq('d', -2147472692, 'infinity')
    err('d', -2147472000, '22008')
    eq('d', '2020-01-01', '2020-01-01')
    eq('t6', 45296789012, '12:34:56.789012')
    eq('t3', 45296789, '12:34:56.789')
    err('t6', 86400000001, '22008')
    err('t6', -1, '22008')
    eq('t6', 86400000000, '24:00:00')
    eq('ts6', 1577836800123456, '2020-01-01 00:00:00.123456')
    eq('ts3', 1577836800123, '2020-01-01 00:00:00.123')
    eq('ts0', -1000, '1969-12-31 23:59:59')
    eq('ts6', 9223372036854775807, 'infinity')
    eq('ts3', 9223372036825200000, 'infinity')
    eq('ts3', -9223372036832400000, '-infinity')
    err('ts3', 9223372036825200001, '22008')
    eq('ts6', '2020-01-01 00:00:00', '2020-01-01 00:00:00')
    err('ts6', 1.5, '22P02')
    eq('ts6', 1577836800123, '2020-01-01 00:00:00.123', ct='{"ts6":"timestamp(3)"}')
    eq('tstz', 1577836800123, '2020-01-01 00:00:00.123+00', ct='{"tstz":"timestamp(3)"}')
    eq('tx', 1577836800123, '2020-01-01 00:00:00.123', ct='{"tx":"timestamp(3)"}')
    eq('tx', 18262, '2020-01-01', ct='{"tx":"date"}')
    eq('d', 1577836800123, '2020-01-01', ct='{"d":"timestamp(3)"}')
    eq('iv', 37091106789000, '10303:05:06.789')
    eq('iv', 'P1Y2M3DT4H5M6.789S', '1 year 2 mons 3 days 04:05:06.789')
    eq('iv', 'P0Y0M-3DT-4H-5M-6.5S', '-3 days -04:05:06.5')
    eq('n2', 'AeJA', '1234.56')
    eq('n2', '+w==', '-0.05')
    eq('n2', 'AA==', '0.00')
    eq('n2', '12.50', '12.50')
    eq('n2', '-12.50', '-12.50')
    eq('n2', 12.5, '12.50')
    eq('n2', 'NaN', 'NaN')
    eq('n2', 'NAN', 'NaN')
    err('n2', 'f////////w==', '22003')
    err('n0', '123', '22P02', 'column_types')
    err('n0', '-123', '22P02', 'column_types')
    eq('n0', 'ew==', '123')
    eq('n0', '123', '123', ct='{"n0":"text"}')
    eq('n0', '1234', '1234', ct='{"n0":"text"}')
    err('n2', 'AeJ@', '22P02')
    err('n', 'AeJA', '42804', 'numeric(10,2)')
    eq('n', 'AeJA', '123.456', ct='{"n":"numeric(12,3)"}')
    eq('n', {"scale": 1, "value": "+w=="}, '-0.5')
    eq('n', {"value": "ZA==", "scale": 0}, '100')
    eq('n2', {"scale": 3, "value": "BA=="}, '0.00')
    eq('n', {"scale": -2, "value": "ZA=="}, '10000')
    err('n', {"scale": 1}, '22P02')
    err('n', {"scale": 20000, "value": "ZA=="}, '22003')
    eq('n', 'POSITIVE_INFINITY', 'Infinity')
    eq('n', 'NEGATIVE_INFINITY', '-Infinity')
    eq('n', 'Infinity', 'Infinity')
    eq('n', 'NAN', 'NaN')
    eq('nneg', 'ew==', '12300')
    eq('mon', '/w==', '-$0.01')
    eq('mon', 'AeJA', '$1,234.56')
    eq('mon', 12.5, '$12.50')
    eq('mon', '12.50', '$12.50')
    eq('by', 'AP8=', '\\x00ff')
    eq('by', '-_8=', '\\xfbff')
    eq('by', '', '\\x')
    err('by', 'zz', '22P02', 'column_types')
    eq('by', '00ff', '\\x00ff', ct='{"by":"text"}')
    eq('by', '\\x00ff', '\\x00ff')
    eq('tx', 'AP8=', '\\x00ff', ct='{"tx":"bytea"}')
    eq('b1', True, '1')
    eq('b1', False, '0')
    eq('b5', 'FQ==', '10101')
    eq('b5', '', '00000')
    eq('b5', 'AQ==', '00001')
    err('b5', 'QA==', '22026')
    eq('vb', 'BQ==', '101')
    eq('vb', '', '' )
    eq('vb', 'AA==', '0')
    eq('b20', 'AQAP', '1111'+'0'*15+'1')
    eq('jb', '{"a": 1}', '{"a": 1}')
    eq('js', '"s"', '"s"')
    eq('jb', 'null', 'null')
    err('jb', '{bad', '22P02')
    eq('jba', ['{"a":1}', None], '{"{\\"a\\": 1}",NULL}')
    eq('pt', {"x": 1.5, "y": -2.0, "wkb": "AQEA", "srid": None}, '(1.5,-2)')
    eq('pt', {"x": "NaN", "y": "Infinity"}, '(NaN,Infinity)')
    err('pt', {"x": 1}, '22P02')
    eq('hs', '{"a":"1","b":null}', '"a"=>"1", "b"=>NULL')
    eq('hs', '{}', '')
    eq('na', ["AeJA", None, "+w=="], '{1234.56,NULL,-0.05}')
    eq('tsa', [0, 1000000], '{"1970-01-01 00:00:00","1970-01-01 00:00:01"}')
    eq('ba', ["AP8=", ""], '{"\\\\x00ff","\\\\x"}')
    eq('iva', [3600000000], '{01:00:00}')
    eq('na', [["AA=="], ["AQ=="]], '{{0.00},{0.01}}')
    eq('tx', P, U)
    eq('by', base64.b64encode(P.encode()).decode(), U)
    eq('by', P.encode().hex(), U)
    eq('ta', None, U, raw='["%s"]'%P)
    eq('ia', None, U, raw='['+','.join(str(b) for b in P.encode())+']')
    eq('ua', None, U, raw='["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]')
    eq('hs', '{"%s":"%s"}'%(P, P), U)
    eq('ba', None, U, raw='["%s"]'%base64.b64encode(P.encode()).decode())
    eq('jb', P, U)
    eq('n', P, U)


def test_debezium_decimals(convert):
    sys.set_int_max_str_digits(0)
    for value in (0, -1, 255, 256, -256, 2**63 - 1, -2**63, 2**63, -2**63 - 1, 2**64, -2**64, 10**18, 10**19, -10**27, 10**131071):
        convert.eq("n", {"scale": 0, "value": unscaled(value)}, str(value))
    convert.err("n", {"scale": 0, "value": unscaled(2**600000)}, "22003")
    chance = random.Random(3)
    for _ in range(200):
        value = chance.randint(-10**chance.randint(1, 300), 10**chance.randint(1, 300))
        scale = chance.randint(0, 40)
        digits = str(abs(value)).rjust(scale + 1, "0")
        text = digits[:-scale] + "." + digits[-scale:] if scale else digits
        convert.eq("n", {"scale": scale, "value": unscaled(value)}, ("-" if value < 0 else "") + text)


def test_schemas(convert):
    eq, err, S = convert.eq, convert.err, typed
    eq('ts6', 1577836800123, '2020-01-01 00:00:00.123', schema=S('int64', 'io.debezium.time.Timestamp'))
    eq('ts3', 1577836800123456, '2020-01-01 00:00:00.123', schema=S('int64', 'io.debezium.time.MicroTimestamp'))
    eq('ts6', 1577836800123456789, '2020-01-01 00:00:00.123456', schema=S('int64', 'io.debezium.time.NanoTimestamp'))
    eq('ts6', -1, '1969-12-31 23:59:59.999999', schema=S('int64', 'io.debezium.time.NanoTimestamp'))
    eq('ts6', -1000, '1969-12-31 23:59:59.999999', schema=S('int64', 'io.debezium.time.NanoTimestamp'))
    eq('ts6', -1001, '1969-12-31 23:59:59.999998', schema=S('int64', 'io.debezium.time.NanoTimestamp'))
    eq('tx', 1577836800123, '2020-01-01 00:00:00.123', schema=S('int64', 'io.debezium.time.Timestamp'))
    eq('tstz', 1577836800123, '2020-01-01 00:00:00.123+00', schema=S('int64', 'org.apache.kafka.connect.data.Timestamp'))
    eq('t6', 1000, '00:00:01', schema=S('int32', 'io.debezium.time.Time'))
    eq('t3', 1000000, '00:00:01', schema=S('int64', 'io.debezium.time.MicroTime'))
    eq('tx', 1000, '00:00:01', schema=S('int32', 'io.debezium.time.Time'))
    eq('n', 'AeJA', '123.456', schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="3"))
    eq('n2', 'AeJA', '123.46', schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="3"))
    eq('tx', 'AeJA', '123.456', schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="3"))
    eq('f8', 'AeJA', '123.456', schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="3"))
    eq('i4', 'AeJA', '123456', schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="0"))
    err('n', '1.5', '22P02', schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="3"))
    eq('n2', '1234', '1234.00', schema=S('string'))
    eq('n0', '1234', '1234', schema=S('string'))
    eq('n', 'POSITIVE_INFINITY', 'Infinity', schema=S('string'))
    eq('n2', None, '12.50', raw='12.5', schema=S('double'))
    eq('b5', 'FQ==', '10101', schema=S('bytes', 'io.debezium.data.Bits', length="5"))
    eq('vb', 'BQ==', '101', schema=S('bytes', 'io.debezium.data.Bits', length="2147483647"))
    eq('by', 'AP8=', '\\x00ff', schema=S('bytes'))
    eq('by', 'AP8=', '\\x00ff', schema=S('string'))
    eq('by', '00ff', '\\x00ff', schema=S('string'), ct='{"by":"text"}')
    eq('jb', '{"a": 1}', '{"a": 1}', schema=S('string', 'io.debezium.data.Json'))
    eq('hs', '{"a":"1"}', '"a"=>"1"', schema=S('string', 'io.debezium.data.Json'))
    eq('hs', {"a": "1"}, '"a"=>"1"', schema=S('map'))
    eq('iv', 3600000000, '01:00:00', schema=S('int64', 'io.debezium.time.MicroDuration'))
    eq('iv', 'P0Y0M1DT0H0M0S', '1 day', schema=S('string', 'io.debezium.time.Interval'))
    eq('na', ["AeJA"], '{123.46}', schema=dict(type='array', items=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="3")))
    eq('ia', [1], '{1}', schema=dict(type='array', items=S('int32')))
    eq('tsa', [1000], '{"1970-01-01 00:00:01"}', schema=dict(type='array', items=S('int64', 'io.debezium.time.Timestamp')))
    eq('tx', [1], '[1]', schema=dict(type='array', items=S('int32')))
    eq('pt', {"x": 1, "y": 2}, '(1,2)', schema=S('struct', 'io.debezium.data.geometry.Point'))
    eq('d', 18262, '2020-01-01', schema=S('int32', 'org.apache.kafka.connect.data.Date'))
    err('d', 18262, '42804', schema=S('int32'))
    eq('tz', '07:04:56Z', '07:04:56+00', schema=S('string', 'io.debezium.time.ZonedTime'))
    eq('ts6', '2020-01-01T00:00:00+02:00', '2019-12-31 22:00:00', schema=S('string', 'io.debezium.time.ZonedTimestamp'))
    eq('tx', '2020-01-01T00:00:00Z', '2020-01-01 00:00:00+00', schema=S('string', 'io.debezium.time.ZonedTimestamp'))
    eq('mo', 'ok', 'ok', schema=S('string', 'io.debezium.data.Enum', allowed="sad,ok"))
    eq('i8', 5, '5', schema=S('int64'))


def test_mysql(convert):
    """Values of Debezium's MySQL connector with its default modes; what a type means there is not what it means here."""
    S = typed
    def eq(*args, **kwargs):
        for source in ("mysql", "mariadb"):
            convert.eq(*args, source=source, **kwargs)
    def err(*args, **kwargs):
        convert.err(*args, source="mysql", **kwargs)
    # TINYINT(1), BOOLEAN, BIT
    eq('b', 1, 't')
    eq('b', 0, 'f')
    err('b', 2, '22P02')
    eq('b', True, 't')
    eq('b1', True, '1')
    eq('b5', 'FQ==', '10101')
    eq('i4', 'FQ==', '21', schema=S('bytes', 'io.debezium.data.Bits', length="5"))
    eq('n', '//////////8=', '18446744073709551615', schema=S('bytes', 'io.debezium.data.Bits', length="64"))
    err('i8', '//////////8=', '22003', schema=S('bytes', 'io.debezium.data.Bits', length="64"))
    err('by', 'FQ==', '42804', schema=S('bytes', 'io.debezium.data.Bits', length="5"))
    # DATETIME is milliseconds up to three digits, then microseconds; only the precision tells
    eq('ts3', 1529476623123, '2018-06-20 06:37:03.123')
    eq('ts0', 1529476623000, '2018-06-20 06:37:03')
    err('ts6', 1529476623000, '42804', 'column_types')
    eq('ts6', 1529476623000, '2018-06-20 06:37:03', ct='{"ts6":"timestamp(3)"}')
    eq('ts6', 1529476623000123, '2018-06-20 06:37:03.000123', ct='{"ts6":"timestamp(6)"}')
    eq('ts6', 1529476623000, '2018-06-20 06:37:03', schema=S('int64', 'io.debezium.time.Timestamp'))
    eq('ts6', 1529476623000, '2018-06-20 06:37:03', ct='{"ts6":"io.debezium.time.Timestamp"}')
    eq('ts6', 1529476623000000123, '2018-06-20 06:37:03', ct='{"ts6":"io.debezium.time.NanoTimestamp"}')
    err('ts3', 1529476623000000, '42804', 'column_types')     # microseconds: the year 50000 is in no database
    err('tsa', [1529476623000], '42804', 'column_types')
    eq('ts6', '2018-06-20T06:37:03Z', '2018-06-20 06:37:03', schema=S('string', 'io.debezium.time.IsoTimestamp'))
    # TIMESTAMP
    eq('tstz', '2018-06-20T13:37:03Z', '2018-06-20 13:37:03+00')
    eq('ts6', '2018-06-20T13:37:03Z', '2018-06-20 13:37:03', schema=S('string', 'io.debezium.time.ZonedTimestamp'))
    err('tstz', 1529476623000, '42804', 'column_types')
    # DATE, TIME (microseconds whatever its precision, and not only of a day), YEAR
    eq('d', 17702, '2018-06-20')
    eq('t6', 3723000001, '01:02:03.000001')
    eq('t3', 3723000000, '01:02:03')
    eq('iv', -3020399000000, '-838:59:59')
    eq('iv', 3020399000000, '838:59:59', schema=S('int64', 'io.debezium.time.MicroTime'))
    err('t6', 3020399000000, '22008', schema=S('int64', 'io.debezium.time.MicroTime'))
    eq('i4', 2018, '2018', schema=S('int32', 'io.debezium.time.Year'))
    err('d', 2018, '42804', schema=S('int32', 'io.debezium.time.Year'))
    # DECIMAL and BIGINT UNSIGNED, precise, as text, as double; of money nobody knows the scale
    eq('n2', 'AeJA', '1234.56')
    err('n', 'AeJA', '42804', 'column_types')
    eq('n', 'AeJA', '123.456', ct='{"n":"numeric(12,3)"}')
    eq('n', 'AeJA', '123.456', schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="3"))
    eq('n2', '123.45', '123.45')
    eq('n2', None, '123.45', raw='123.45')
    err('mon', 'AeJA', '42804', 'column_types')
    eq('n', unscaled(2**64 - 1), '18446744073709551615', ct='{"n":"numeric(20,0)"}')
    eq('n', unscaled(2**64 - 1), '18446744073709551615', schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="0"))
    # ENUM, SET, JSON, BLOB, geometry
    eq('mo', 'ok', 'ok', schema=S('string', 'io.debezium.data.Enum', allowed="sad,ok"))
    eq('tx', 'a,b', 'a,b', schema=S('string', 'io.debezium.data.EnumSet', allowed="a,b,c"))
    eq('jb', '{"a": 1.50}', '{"a": 1.50}')
    eq('jb', '{"a": 1.50}', '{"a": 1.50}', schema=S('string', 'io.debezium.data.Json'))
    eq('by', 'AP8=', '\\x00ff')
    eq('by', 'AP8=', '\\x00ff', schema=S('bytes'))
    eq('pt', {"x": 1, "y": 2, "wkb": "AQ==", "srid": None}, '(1,2)')
    err('pt', {"wkb": "AQ==", "srid": 4326}, '42804', schema=S('struct', 'io.debezium.data.geometry.Geometry'))
    eq('jb', {"wkb": "AQ==", "srid": 4326}, '{"wkb": "AQ==", "srid": 4326}', schema=S('struct', 'io.debezium.data.geometry.Geometry'))


def test_oracle(convert):
    """Values of Debezium's Oracle connector with its default modes."""
    S = typed
    def eq(*args, **kwargs):
        convert.eq(*args, source="oracle", **kwargs)
    def err(*args, **kwargs):
        convert.err(*args, source="oracle", **kwargs)
    # NUMBER, NUMBER(p,s), FLOAT, BINARY_DOUBLE
    for column, text in (('n', '-0.5'), ('n2', '-0.50'), ('f8', '-0.5'), ('tx', '-0.5')):
        eq(column, {"scale": 1, "value": "+w=="}, text, schema=S('struct', 'io.debezium.data.VariableScaleDecimal'))
    eq('n', {"scale": 0, "value": "ZA=="}, '100')
    eq('i8', {"scale": 0, "value": "ZA=="}, '100', schema=S('struct', 'io.debezium.data.VariableScaleDecimal'))
    eq('n2', 'AeJA', '1234.56')
    eq('i8', 1234567890123, '1234567890123')
    eq('n', unscaled(10**37), str(10**37), schema=S('bytes', 'org.apache.kafka.connect.data.Decimal', scale="0"))
    eq('f8', None, '1.5', raw='1.5')
    # DATE has a time, and is milliseconds; TIMESTAMP(0-3), (4-6), (7-9)
    err('d', 1532044800000, '42804', 'column_types')
    err('d', 86400000, '42804', 'column_types')
    eq('d', 1532044800000, '2018-07-20', ct='{"d":"timestamp(3)"}')
    eq('d', 1532044800000, '2018-07-20', schema=S('int64', 'io.debezium.time.Timestamp'))
    eq('ts0', 1532044800000, '2018-07-20 00:00:00')
    eq('ts6', 1532044800000, '2018-07-20 00:00:00', schema=S('int64', 'io.debezium.time.Timestamp'))
    eq('ts6', 1532044800123456, '2018-07-20 00:00:00.123456', schema=S('int64', 'io.debezium.time.MicroTimestamp'))
    eq('ts6', 1532044800123456789, '2018-07-20 00:00:00.123456', schema=S('int64', 'io.debezium.time.NanoTimestamp'))
    err('ts6', 1532044800123456, '42804', 'column_types')
    eq('ts6', 1532044800123456, '2018-07-20 00:00:00.123456', ct='{"ts6":"timestamp"}')
    eq('tstz', '2018-07-20T05:06:07.891+02:00', '2018-07-20 03:06:07.891+00', schema=S('string', 'io.debezium.time.ZonedTimestamp'))
    eq('tstz', '2018-07-20T05:06:07.891Z', '2018-07-20 05:06:07.891+00')
    # INTERVAL, also as text, and as older versions wrote it
    eq('iv', -110451600000000, '-30681:00:00')
    eq('iv', None, '-30681:00:00', raw='-1.104516E14', schema=S('double', 'io.debezium.time.MicroDuration'))
    eq('iv', None, '00:00:01', raw='1000000.0')
    err('iv', None, '22P02', raw='1000000.5')
    eq('iv', 'P-3Y-6M0DT0H0M0S', '-3 years -6 mons', schema=S('string', 'io.debezium.time.Interval'))
    # RAW and BLOB, placeholder
    eq('by', 'AP8=', '\\x00ff', schema=S('bytes'))
    eq('tx', PLACEHOLDER, UNAVAILABLE)
    eq('xm', '<a/>', '<a/>', schema=S('string', 'io.debezium.data.Xml'))


@pytest.mark.parametrize("source", ["sqlserver", "db2", "vitess", ""])
def test_other_connectors(convert, source):
    """Nothing is guessed."""
    def eq(*args, **kwargs):
        convert.eq(*args, source=source or "?", **kwargs)
    def err(*args, **kwargs):
        convert.err(*args, source=source or "?", **kwargs)
    for column, type in (('d', 'date'), ('t6', 'time(7)'), ('t3', 'time(3)'), ('ts3', 'timestamp(3)'), ('ts6', 'timestamp(6)'), ('iv', 'interval')):
        err(column, 5, '42804', 'source.connector')
        eq(column, None, 'NULL')
    err('mon', 'AeJA', '42804', 'column_types')
    eq('d', 17702, '2018-06-20', ct='{"d":"date"}')
    eq('ts6', 1529476623000, '2018-06-20 06:37:03', ct='{"ts6":"org.apache.kafka.connect.data.Timestamp"}')
    eq('t6', 3723000001000, '01:02:03.000001', ct='{"t6":"io.debezium.time.NanoTime"}')
    eq('n2', 'AeJA', '1234.56')
    eq('i4', 5, '5')
    eq('tstz', '2018-06-20T13:37:03Z', '2018-06-20 13:37:03+00')


def test_columns(convert):
    """Columns are found by their names, whatever these are and in whatever order they come."""
    assert convert.row(None, '{"op":"c","after":{"id":1,"Mixed \\"q":5,"i4":7}}') == ("c", {"id": "1", 'Mixed "q': "5", "i4": "7"})
    assert convert.row(None, '{"op":"c","after":{"i4":7,"nope":1,"\\u0069d":1}}') == ("c", {"i4": "7", "id": "1"})
    for types, sqlstate in (('{"nope":"int"}', "42703"), ('{"tx":"nope"}', "42704"), ('{"tx":1}', "22023"), ("[]", "22023"), ('{"tx":', "22023")):
        with pytest.raises(psycopg.Error) as e:
            convert.row(None, '{"op":"c","after":{"id":1}}', types)
        assert e.value.sqlstate == sqlstate


def test_many_columns(types_db):
    convert = Convert(types_db, "json")
    types_db.q("CREATE TABLE wide (" + ", ".join(f"c{i} int" for i in range(500)) + ")")
    types_db.q("ALTER TABLE wide DROP COLUMN c7")
    names = [f"c{i}" for i in range(500) if i != 7]
    random.Random(1).shuffle(names)
    op, got = convert.row(None, json.dumps({name: int(name[1:]) for name in names} | {"c7": 1}), table="wide")
    assert got == {name: name[1:] for name in names}


def test_keys(types_db):
    for format, key in (("debezium", '{"id":5}'), ("debezium", "5"), ("json", '"5"'), ("json", "5"),
                        ("debezium", '{"schema":{"type":"int32"},"payload":5}'),
                        ("debezium", '{"schema":{"type":"struct","fields":[{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal",'
                                     '"parameters":{"scale":"0"},"field":"id"}]},"payload":{"id":"BQ=="}}')):
        assert Convert(types_db, format).row(key, None) == ("d", {"id": "5"})


def test_other_encodings(cluster, library):
    """UTF-8 is converted to the database's encoding, column names too; what that lacks is an error."""
    latin = prepare(cluster.create_database(extension=False, options="ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"), library, False)
    ascii = prepare(cluster.create_database(extension=False, options="ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"), library, False)
    try:
        latin.q('CREATE TABLE t (id int, "größe" text, vc varchar(5), jb jsonb, ta text[], js json)')
        convert = Convert(latin, "json")
        assert convert.row(None, '{"größe":"é\\u00e8","vc":"äöüßé","jb":{"é":"\\u00e9"},"ta":["é"],"js":"é"}') == (
            "u", {"größe": "éè", "vc": "äöüßé", "jb": '{"é": "é"}', "ta": "{é}", "js": '"é"'})
        for column, value in (("größe", '"€"'), ("größe", '"\\u20ac"'), ("jb", '"€"'), ("js", '"€"'), ("jb", '"\\u20ac"')):
            with pytest.raises(psycopg.Error) as e:
                convert.row(None, '{"id":1,"%s":%s}' % (column, value))
            assert e.value.sqlstate in ("22P05", "0A000"), str(e.value)
            assert e.value.diag.column_name == column
        assert convert.row(None, '{"größe":"x"}', '{"größe":"varchar(3)"}')[1] == {"größe": "x"}

        ascii.q('CREATE TABLE t (id int, tx text)')
        assert ascii.value("SELECT (convert_message('t', 'json', NULL, NULL, %s, NULL))[3] = %s", b'{"tx":"\\u20ac"}', "€")
    finally:
        cluster.drop_database(latin)
        cluster.drop_database(ascii)


# ---- there and back: what our encoders print is what the table holds

EDGES = [
    "SELECT 1",
    """SELECT 2, true, '-32768'::int2, -9223372036854775808, 4294967295::oid, 'NaN'::float4, '-Infinity'::float8, 123.456, -0.5, 99999, 12300,
       '-0.01'::numeric::money, B'1', B'10101', B'101', '2024-02-29'::date, '23:59:59.999999'::time, '12:34:56.789'::time(3),
       '2024-01-01 00:00:00.123456'::timestamp, '2024-01-01 00:00:00.5'::timestamp(3), '1969-12-31 23:59:59.5+00'::timestamptz,
       '2024-01-01 00:00:00+00'::timestamptz(0), '26:07:08.9'::interval, '\\x00ff10'::bytea, E'a"b\\\\c\\n\\t\\x01é😀', 'vc', 'ab', '10.0.0.1/8'::inet,
       '{"a": [1, 2]}'::json, '{"b":null,"a":1.50}'::jsonb, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, 'o"k'::mood, '(1.5,-2)'::point,
       '[1,3)'::int4range, '16/B374D848'::pg_lsn, ROW(1, 'x"y')::comp, '{1,NULL,3}'::int[], '{{a,"NULL"},{NULL,""}}'::text[],
       '{1.50,NULL}'::numeric(10,2)[], '{"2020-01-01 00:00:00.5"}'::timestamp[], '{"\\\\x00"}'::bytea[], '{"{\\"a\\": 1}"}'::jsonb[],
       'a=>1, b=>NULL, "q\\"\\\\"=>""'::hstore, 5, 2.5""",
    """SELECT 3, false, 32767::int2, 9223372036854775807, 0::oid, '3.4028235e38'::float4, '5e-324'::float8, 999999999.999, 1e130, -1, -12300,
       '92233720368547758.07'::money, B'0', B'00001', B'1', 'infinity'::date, '24:00:00'::time, '00:00:00'::time(3), 'infinity'::timestamp,
       '-infinity'::timestamp(3), 'infinity'::timestamptz, '-infinity'::timestamptz(0), '-00:00:00.000001'::interval, ''::bytea, '', '', '', '::1'::inet,
       '"s"'::json, '"s"'::jsonb, '00000000-0000-0000-0000-000000000000'::uuid, 'sad'::mood, '(0,-1e300)'::point, 'empty'::int4range, '0/0'::pg_lsn,
       ROW(NULL, '')::comp, '{}'::int[], '{}'::text[], '{0}'::numeric(10,2)[], '{infinity}'::timestamp[], '{}'::bytea[], '{}'::jsonb[], ''::hstore, 1, -9999.99""",
    """SELECT 4, NULL, 0::int2, 0, 1::oid, '-0'::float4, 'Infinity'::float8, 0.001, 1e-130, 0, 0, '-92233720368547758.08'::money, NULL, NULL, B'',
       '4713-01-01 BC'::date, '00:00:00'::time, '23:59:59.999'::time(3), '4713-01-01 00:00:00 BC'::timestamp, '4713-01-01 00:00:00 BC'::timestamp(3),
       '4713-01-01 00:00:00+00 BC'::timestamptz, '0044-03-15 00:00:00+00 BC'::timestamptz(0), '100000:00:00'::interval, NULL, NULL, NULL, NULL, NULL,
       '5'::json, '5'::jsonb, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{-0.01}'::numeric(10,2)[], NULL, NULL, NULL, NULL, NULL, NULL""",
    """SELECT 5, NULL, 0::int2, 0, 1::oid, 1.1::float4, 1.1::float8, -999999999.999, 12345678901234567890123456789, 0, 0, '0'::money, NULL, NULL, NULL,
       '5874897-12-31'::date, NULL, NULL, '24000-12-31 23:59:59.999999'::timestamp, '294276-12-31 23:59:59.999'::timestamp(3),
       '294276-12-31 23:59:59.999999+00'::timestamptz, '294276-12-31 00:00:00+00'::timestamptz(0), NULL, NULL, NULL, NULL, NULL, NULL,
       'null'::json, 'null'::jsonb, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL""",
]

EDGE_TABLE = r"""
    CREATE SCHEMA rt;
    CREATE TYPE mood AS ENUM ('sad', 'o"k'); CREATE TYPE comp AS (a int, b text); CREATE DOMAIN posint AS int CHECK (value > 0);
    CREATE DOMAIN dec AS numeric(6,2);
    CREATE TABLE rt.edges (id int PRIMARY KEY, b bool, i2 int2, i8 int8, o oid, f4 float4, f8 float8, n numeric(12,3), nv numeric, n0 numeric(5),
        nn numeric(5,-2), m money, bit1 bit(1), bit5 bit(5), vb varbit, d date, t time, t3 time(3), ts timestamp, ts3 timestamp(3),
        tstz timestamptz, tstz0 timestamptz(0), iv interval, bin bytea, tx text, vc varchar(10), ch char(4), ip inet, js json, jb jsonb,
        u uuid, mo mood, p point, r int4range, lsn pg_lsn, co comp, ia int[], ta text[], na numeric(10,2)[], tsa timestamp[],
        ba bytea[], jba jsonb[], hs hstore, dom posint, dd dec)
"""


@pytest.mark.parametrize("format,options", [("json", {}), ("debezium", {}), ("debezium", {"schemas": True}),
                                            ("debezium", {"schemas": True, "time.precision.mode": "connect", "decimal.handling.mode": "string",
                                                          "interval.handling.mode": "string", "binary.handling.mode": "base64-url-safe"})])
def test_there_and_back(make_db, library, format, options):
    """Every value of EDGES, through our own output plugin and back, is itself."""
    db = make_db()
    db.q("CREATE EXTENSION hstore")
    prepare(db, library, False)
    db.q(EDGE_TABLE)
    db.q("CREATE PUBLICATION rt FOR TABLES IN SCHEMA rt")
    slot = "rt_" + db.name
    db.q("DO $$ BEGIN IF EXISTS (SELECT FROM pg_settings WHERE name = 'output_plugin_libraries') THEN PERFORM set_config('output_plugin_libraries',"
         " current_setting('output_plugin_libraries') || ', pg_kafka_sync', false); END IF; END $$")
    db.q("SELECT pg_create_logical_replication_slot(%s, 'pg_kafka_sync')", slot)
    db.q("SET TimeZone = 'UTC'")
    for edge in EDGES:
        if options.get("schemas"):
            # a Connect schema knows arrays of one dimension only; milliseconds and the fixed unit lose digits
            edge = edge.replace("'{{a,\"NULL\"},{NULL,\"\"}}'", "'{a,\"NULL\",NULL,\"\"}'")
        db.q("INSERT INTO rt.edges " + edge)
    arguments = ["publication", "rt", "format", format]
    for name, value in options.items():
        arguments += [name, json.dumps(value) if isinstance(value, bool) else value]
    rows = db.q("SELECT data FROM pg_logical_slot_get_changes(%s, NULL, NULL, VARIADIC %s::text[])", slot, arguments)
    assert len(rows) == len(EDGES)
    columns = [c for (c,) in db.q("SELECT attname FROM pg_attribute WHERE attrelid = 'rt.edges'::regclass AND attnum > 0 ORDER BY attnum")]
    expected = {row[0]: dict(zip(columns, row)) for row in db.q(
        "SELECT " + ", ".join(f"CASE WHEN num_nulls({c}) = 0 THEN format('%s', {c}) END" for c in columns) + " FROM rt.edges")}
    convert = Convert(db, format)
    differ = []
    for (data,) in rows:
        fields = data.split("\t")
        json_null = next((f.split("=", 1)[1] for f in fields[3:] if f.startswith("pg_kafka_sync.json_null=")), None)
        op, got = convert.row(fields[1], fields[2], None, json_null, "rt.edges")
        for column, value in expected[got["id"]].items():
            if options.get("time.precision.mode") == "connect" and column in ("t", "ts", "tsa"):
                continue
            if got[column] != value:
                differ.append(f"{got['id']}.{column}: {value!r} came back as {got[column]!r}")
    assert not differ, "\n".join(differ)
