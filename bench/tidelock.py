"""Tidelock for the referee: one node, a fleet of one, its pool written in the configuration.

BENCH_TIDELOCK names another binary. Access log off, metrics on; nothing else is switched off.
"""

import os

LABEL = "tidelock"
HERE = os.path.dirname(os.path.abspath(__file__))


def binary(c):
    return c.find("tidelock", os.path.join(HERE, "..", "target", "release", "tidelock"))


def admin(c):
    return f"127.0.0.1:{c.port + 9}"


def files(c):
    tls = f'tls = {{ certificate = "{c.cert}", key = "{c.key}" }}' if c.tls else ""
    protocol = "h2c" if c.upstream == "h2c" else "http1"
    endpoints = "\n".join(
        f'[[initial.pools.endpoints]]\nname = "b{i}"\naddress = "127.0.0.1:{p}"' for i, p in enumerate(c.all_backends)
    )
    return {
        "tidelock.toml": f"""
[node]
name = "bench"
data_dir = "{c.dir}/data"
workers = {c.workers}

[admin]
listen = "{admin(c)}"

[access_log]
format = "off"

[[listeners]]
address = "127.0.0.1:{c.port}"
{tls}

[[initial.pools]]
name = "bench"
spec = {{ protocol = "{protocol}" }}

{endpoints}

[[initial.routes]]
name = "all"
spec = {{ pool = "bench", affinity = {{ kind = "app-cookie", name = "session" }} }}
"""
    }


def command(c):
    return [binary(c), "serve", "--config", f"{c.dir}/tidelock.toml"]


def version(c):
    return [binary(c), "--version"]


def switch(c):
    """A backend leaves by a drain, and comes back by its cancellation."""
    for i, p in enumerate(c.all_backends):
        verb = "undrain" if p in c.backends else "drain"
        try:
            c.run([binary(c), "--api", f"http://{admin(c)}", "endpoint", verb, "bench", f"b{i}"])
        except Exception:
            # "undrain" of an endpoint that is active is refused; nothing has changed then.
            if verb == "drain":
                raise
