"""A proxy in front of a broker that knows one request of Kafka's protocol from another: for faults at a certain one."""

import socket
import struct
import threading

PRODUCE, FETCH, LIST_OFFSETS = 0, 1, 2


class Proxy:
    """
    Clients that begin here stay here: in what the broker answers, its own address is replaced.  answered(api, version,
    frame), if given, returns the frames that are passed on instead of an answer; it is called for one at a time.
    """

    def __init__(self, kafka, answered=None):
        self._broker = self._address(kafka.bootstrap)
        self._answered = answered
        self._lock = threading.Lock()
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.bootstrap = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _address(bootstrap):
        host, port = bootstrap.split(":")
        return host, int(port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._lock:
            sockets, self._sockets = [*self._sockets, self._listener], None
        for s in sockets:
            self._end(s)

    @staticmethod
    def _end(s):
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        s.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
                broker = socket.create_connection(self._broker)
            except ConnectionRefusedError:
                self._end(client)
                continue
            except OSError:
                return
            with self._lock:
                if self._sockets is None:
                    return
                self._sockets += [client, broker]
            asked = {}
            for body in (self._requests, self._answers):
                threading.Thread(target=self._run, args=(body, client, broker, asked), daemon=True).start()

    def _run(self, body, client, broker, asked):
        try:
            body(client, broker, asked)
        except OSError:
            pass
        finally:
            self._end(client)
            self._end(broker)

    @staticmethod
    def _frames(s):
        def take(size):
            data = bytearray()
            while len(data) < size:
                part = s.recv(size - len(data))
                if not part:
                    raise ConnectionResetError
                data += part
            return bytes(data)
        while True:
            yield take(struct.unpack(">i", take(4))[0])

    @staticmethod
    def _pass(s, frame):
        s.sendall(struct.pack(">i", len(frame)) + frame)

    def _requests(self, client, broker, asked):
        for frame in self._frames(client):
            api, version, correlation = struct.unpack(">hhi", frame[:8])
            asked[correlation] = (api, version)
            self._pass(broker, frame)

    def _answers(self, client, broker, asked):
        names = [host.encode() + struct.pack(">i", port) for host, port in (self._broker, self._address(self.bootstrap))]
        for frame in self._frames(broker):
            api, version = asked.pop(struct.unpack(">i", frame[:4])[0])
            if api not in (PRODUCE, FETCH):
                frame = frame.replace(*names)
            frames = [frame]
            if self._answered:
                with self._lock:
                    frames = self._answered(api, version, frame)
            for frame in frames:
                self._pass(client, frame)


def with_error(frame, version, topic, partition, error):
    """An answer to LIST_OFFSETS with an error (its number) for the topic's only partition."""
    name = topic.encode()
    count = b"\x02" if version >= 6 else struct.pack(">i", 1)
    place = frame.index(name + count + struct.pack(">i", partition)) + len(name) + len(count) + 4
    return frame[:place] + struct.pack(">h", error) + frame[place + 2:]
