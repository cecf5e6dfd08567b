"""A small HTTP/2 client over a plain socket that can do what a polite one does not: stop in mid-body."""

import socket
import time

import h2.config
import h2.connection
import h2.events


class H2Client:
    def __init__(self, port, host="127.0.0.1", timeout=10):
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.timeout = timeout
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.connection.initiate_connection()
        self.events = []
        self.flush()

    def close(self):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.connection.data_to_send())

    def start(self, method, path, headers=(), end_stream=False):
        stream = self.connection.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "tests"), (":path", path), *headers]
        self.connection.send_headers(stream, fields, end_stream=end_stream)
        self.flush()
        return stream

    def send(self, stream, data, end_stream=False):
        """Sends all of it, waiting for windows as needed; False when the stream ended under it."""
        view = memoryview(data)
        while view:
            room = min(self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size)
            if room <= 0:
                self.receive()
                if self.has_ended(stream):
                    return False
                continue
            chunk, view = view[:room], view[room:]
            self.connection.send_data(stream, chunk.tobytes(), end_stream=end_stream and not view)
            self.flush()
        return True

    def end(self, stream):
        self.connection.end_stream(stream)
        self.flush()

    def reset(self, stream, code):
        self.connection.reset_stream(stream, code)
        self.flush()

    def receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the peer closed the connection")
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.events.append(event)
        self.flush()

    def of(self, stream, kind):
        return [e for e in self.events if isinstance(e, kind) and e.stream_id == stream]

    def has_ended(self, stream):
        return bool(self.of(stream, (h2.events.StreamEnded, h2.events.StreamReset)))

    def response(self, stream):
        """Waits for the end of the response: (status, headers, body, reset code or None)."""
        deadline = time.monotonic() + self.timeout
        while not self.has_ended(stream):
            assert time.monotonic() < deadline, "no response in time"
            self.receive()
        heads = self.of(stream, h2.events.ResponseReceived)
        headers = dict(heads[0].headers) if heads else {}
        body = b"".join(e.data for e in self.of(stream, h2.events.DataReceived))
        resets = self.of(stream, h2.events.StreamReset)
        return int(headers.get(":status", 0)), headers, body, resets[0].error_code if resets else None

    def get(self, path):
        return self.response(self.start("GET", path, end_stream=True))
