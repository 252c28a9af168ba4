"""docs/tutorial-logs.md as it stands there: its SQL, its rsyslog configuration, its shell commands."""

import re
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from conftest import wait_until
from test_docs import ROOT

PAGE = (ROOT / "docs/tutorial-logs.md").read_text()


def blocks(language):
    return [text for word, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.S | re.M) if word == language]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def rsyslogd():
    """start(configuration): a private rsyslogd."""
    started = []
    with tempfile.TemporaryDirectory(prefix="ks.", dir="/tmp") as directory:
        def start(configuration):
            conf = Path(directory) / "rsyslog.conf"
            conf.write_text(f'global(workDirectory="{directory}")\n{configuration}')
            log = open(Path(directory) / "log", "wb")
            started.append(subprocess.Popen(["/usr/sbin/rsyslogd", "-n", "-C", "-f", conf, "-i", Path(directory) / "pid"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            log.close()
        yield start
        for process in started:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def test_tutorial(make_db, kafka, rsyslogd):
    db = make_db(extension=False)
    suffix, port = uuid.uuid4().hex[:8], free_port()
    topics = {"logs": f"logs-{suffix}", "app-logs": f"app-logs-{suffix}"}

    def adapt(text):
        text = text.replace("localhost:9092", kafka.bootstrap)
        for name, topic in topics.items():
            text = text.replace(f"'{{{name}}}'", f"'{{{topic}}}'").replace(f"'kafka1', '{name}'", f"'kafka1', '{topic}'")
            text = text.replace(f'topic="{name}"', f'topic="{topic}"')
        return text.replace('port="514"', f'port="{port}" address="127.0.0.1"').replace("-n localhost -P 514", f"-n 127.0.0.1 -P {port}")

    def run(sql):
        return [db.q(s) for s in adapt(sql).split(";\n") if s.strip()]

    setup, subscription, search, reports, keep, json_logs = blocks("sql")
    run(setup)
    run(subscription)
    (conf,) = [b for b in blocks("") if "omkafka" in b]
    rsyslogd(adapt(conf))
    wait_until(lambda: accepts(port), what="rsyslogd to listen")
    (commands,) = blocks("sh")
    subprocess.run(["sh", "-e", "-c", adapt(commands)], check=True, timeout=60)
    db.wait("SELECT count(*) = 3 FROM logs", timeout=60)

    (found,) = run(search)
    assert [(row[2], row[3].strip()) for row in found] == [("sshd", "Failed password for root from 203.0.113.7")]
    backup, errors = run(reports)
    assert [m.strip() for (m,) in backup] == ["disk is full"] and errors == [("backup", 1)]
    assert db.q("SELECT app_name, facility_text, severity, procid, timestamp > now() - interval '1 day' FROM logs ORDER BY 1") == [
        ("backup", "daemon", 3, None, True), ("cron", "user", 6, None, True), ("sshd", "auth", 4, "4711", True)]
    run(keep)
    run(json_logs)
    assert db.q("SELECT level, request_id, first_error, event->'errors' FROM app_logs") == [
        ("error", "r-1", "no such user", [{"message": "no such user"}])]
    assert db.q("TABLE kafka.problems") == []
