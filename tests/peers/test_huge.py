"""Bodies of a gigabyte go through in constant memory, whatever is spoken on either side."""

import subprocess

import pytest

from conftest import HUGE
from test_curl import curl

# What may lie in windows, buffers and the allocator's hands.
MIB = 1 << 20
MORE = 48 * MIB
PATIENT = ("--max-time", "150")


class Memory:
    """The most that the node's process has held since this was made."""

    def __init__(self, node):
        self.folder = f"/proc/{node.process.pid}"
        self.before = self.field("VmRSS")
        with open(f"{self.folder}/clear_refs", "w") as clear:
            clear.write("5")

    def field(self, name):
        with open(f"{self.folder}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{name}:"))

    def grown(self):
        return self.field("VmHWM") - self.before


@pytest.mark.parametrize("way, pool", [("http1", "nginx"), ("h2c", "nginx"), ("h2", "nginx-tls2"), ("h2c", "nghttpd")])
def test_a_huge_download_takes_no_memory(node, way, pool):
    memory = Memory(node)
    size = curl(node, way, f"{pool}.test", "/huge", *PATIENT, "-o", "/dev/null", "-w", "%{size_download}")
    assert int(size) == HUGE
    assert memory.grown() < MORE, f"{memory.grown() // MIB} MiB more"


@pytest.mark.parametrize("way, pool", [("http1", "demo-h1"), ("h2c", "demo-h2"), ("h2", "demo-h1")])
def test_a_huge_upload_takes_no_memory(node, files, way, pool):
    memory = Memory(node)
    answer = curl(node, way, f"{pool}.test", "/upload", *PATIENT, "-X", "POST", "-T", str(files / "huge"))
    assert f"{HUGE}" in answer.decode(), answer
    assert memory.grown() < MORE, f"{memory.grown() // MIB} MiB more"


def test_readers_that_do_not_keep_up_take_their_windows_and_no_more(node):
    """Sixteen clients that take a megabyte a second of what comes at once."""
    memory = Memory(node)
    command = ["curl", "-sS", "--http2-prior-knowledge", "-o", "/dev/null", "--limit-rate", "1M", "--max-time", "4"]
    command += ["--resolve", f"nghttpd.test:{node.plain}:127.0.0.1", f"http://nghttpd.test:{node.plain}/huge"]
    slow = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(16)]
    # 28: the time is over.
    assert [process.wait(30) for process in slow] == [28] * 16
    assert memory.grown() < MORE, f"{memory.grown() // MIB} MiB more"
