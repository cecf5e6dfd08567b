"""gRPC through the balancer: every kind of call, statuses in trailers, deadlines, cancels."""

import threading

import grpc
import pytest

from conftest import Grpc


@pytest.fixture(params=["cleartext", "tls", "tls to the endpoint too"])
def channel(request, node):
    host = "grpc-tls.test" if request.param == "tls to the endpoint too" else "grpc.test"
    options = [("grpc.default_authority", host), ("grpc.max_receive_message_length", 1 << 26)]
    if request.param != "cleartext":
        credentials = grpc.ssl_channel_credentials(node.certificate.read_bytes())
        options.append(("grpc.ssl_target_name_override", host))
        made = grpc.secure_channel(f"127.0.0.1:{node.tls}", credentials, options)
    else:
        made = grpc.insecure_channel(f"127.0.0.1:{node.plain}", options)
    with made as channel:
        yield channel


def test_unary_calls_carry_metadata_both_ways(channel):
    answer, call = channel.unary_unary("/t/unary").with_call(b"abc", timeout=10)
    assert answer == b"cba"
    assert dict(call.initial_metadata())["x-initial"] == "1"
    assert dict(call.trailing_metadata())["x-trailing"] == "2"


@pytest.mark.parametrize("size", [0, 1, 16384, 65536, 8 << 20])
def test_messages_of_any_size(channel, size):
    message = b"x" * size
    assert channel.unary_unary("/t/unary")(message, timeout=20) == message


def test_a_status_without_a_body(channel):
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/t/fail")(b"", timeout=10)
    assert raised.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == "not like this: ä"
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/t/none")(b"", timeout=10)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_streams_of_every_direction(channel):
    assert [int(n) for n in channel.unary_stream("/t/count")(b"1000", timeout=20)] == list(range(1000))
    messages = [b"x" * (n % 2000) for n in range(2000)]
    total = channel.stream_unary("/t/total")(iter(messages), timeout=20)
    assert int(total) == sum(map(len, messages))
    assert list(channel.stream_stream("/t/echo")(iter(messages), timeout=20)) == messages


def test_a_conversation_is_not_held_up(channel):
    """Each message waits for the answer to the one before it."""
    heard = threading.Semaphore(1)

    def questions():
        for n in range(200):
            assert heard.acquire(timeout=10)
            yield str(n).encode()

    for n, answer in enumerate(channel.stream_stream("/t/echo")(questions(), timeout=20)):
        assert int(answer) == n
        heard.release()


def test_a_deadline_reaches_the_endpoint(channel):
    Grpc.cancelled.clear()
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/t/hang")(b"", timeout=0.3)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert Grpc.cancelled.wait(10), "the endpoint's call was not cancelled"


def test_many_calls_at_once(channel):
    calls = [channel.unary_unary("/t/unary").future(str(n).encode(), timeout=30) for n in range(500)]
    assert [call.result() for call in calls] == [str(n).encode()[::-1] for n in range(500)]
