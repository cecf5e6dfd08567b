"""Echoes through WebSockets of the demo's endpoint: the part of the load for pgo.sh that h2load cannot give.

    websockets.py PORT HOST MESSAGES
"""

import socket
import struct
import sys

CONNECTIONS = 16
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
BINARY, MASKED = 0x82, 0x80


def frame(payload):
    """A client's; the mask of zeros leaves the payload as it is."""
    size = len(payload)
    length = bytes([MASKED | size]) if size < 126 else bytes([MASKED | 126]) + struct.pack(">H", size)
    return bytes([BINARY]) + length + bytes(4) + payload


class WebSocket:
    def __init__(self, port, host):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()
        )
        self.read = b""
        head = self.until(head_end)
        if not head.startswith(b"HTTP/1.1 101 "):
            sys.exit(f"websockets: refused: {head.splitlines()[0]}")

    def until(self, end):
        """What was read up to the place that `end` finds in it."""
        while not (at := end(self.read)):
            more = self.socket.recv(1 << 16)
            if not more:
                sys.exit("websockets: the connection has ended")
            self.read += more
        taken, self.read = self.read[:at], self.read[at:]
        return taken

    def echo(self, payload):
        """Waits for it. The endpoint's ticks, which are texts, come between."""
        while (answer := self.until(frame_end))[0] != BINARY:
            pass
        if not answer.endswith(payload):
            sys.exit("websockets: that is no echo")


def head_end(read):
    return read.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in read else 0


def frame_end(read):
    """Where a server's frame ends; 0 when it is not all there."""
    if len(read) < 4:
        return 0
    size, head = read[1], 2
    if size == 126:
        size, head = struct.unpack(">H", read[2:4])[0], 4
    return head + size if len(read) >= head + size else 0


def main(port, host, messages):
    sockets = [WebSocket(port, host) for _ in range(CONNECTIONS)]
    # Sizes as of chats, LiveView's diffs, and now and then a page.
    sizes = [20, 130, 130, 400, 1_500, 130, 6_000, 60]
    for turn in range(messages // CONNECTIONS):
        payload = b"x" * sizes[turn % len(sizes)]
        for websocket in sockets:
            websocket.socket.sendall(frame(payload))
        for websocket in sockets:
            websocket.echo(payload)
    print(f"pgo:   {messages // CONNECTIONS * CONNECTIONS} messages echoed")


main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
