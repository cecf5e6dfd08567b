"""WebSockets of a real client and a real server, with their extensions."""

import asyncio
import ssl

import pytest
import websockets


def connect(node, secure, **options):
    context = None
    if secure:
        context = ssl.create_default_context(cafile=str(node.certificate))
    scheme, port = ("wss", node.tls) if secure else ("ws", node.plain)
    uri = f"{scheme}://ws.test/" if secure else "ws://ws.test/"
    return websockets.connect(uri, host="127.0.0.1", port=port, ssl=context, max_size=1 << 26, proxy=None, **options)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_come_back(node, secure, compression):
    async def run():
        async with connect(node, secure, compression=compression) as socket:
            assert bool(socket.protocol.extensions) == bool(compression)
            for message in ["", "text ä", b"\x00\xff", b"x" * 65536, "y" * (4 << 20)]:
                await socket.send(message)
                assert await asyncio.wait_for(socket.recv(), 20) == message
            # A message in fragments, with a ping between them.
            await socket.send([b"one", b"two", b"three"])
            assert await asyncio.wait_for(socket.recv(), 20) == b"onetwothree"
            await asyncio.wait_for(await socket.ping(), 10)

    asyncio.run(run())


def test_close_codes_pass_both_ways(node):
    async def run():
        async with connect(node, False) as socket:
            await socket.send("close me")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), 10)
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "as you wish")
        async with connect(node, False) as socket:
            await socket.close(3001, "mine")
            assert (socket.close_code, socket.close_reason) == (3001, "mine")

    asyncio.run(run())


def test_many_at_once(node):
    async def one(n):
        async with connect(node, n % 2 == 0) as socket:
            for m in range(20):
                await socket.send(f"{n} {m}")
                assert await asyncio.wait_for(socket.recv(), 20) == f"{n} {m}"

    async def run():
        await asyncio.gather(*(one(n) for n in range(200)))

    asyncio.run(run())
