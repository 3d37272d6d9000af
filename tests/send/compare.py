"""Measures one server with callbridge send and with vegeta, in turns, and prints both beside the delays of the server.

Usage: compare.py CALLBRIDGE VEGETA RATE SECONDS
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

APPLICATION = "1400000000"
COMMAND = "Group.CallbackAfterNewMemberJoin"
CONNECTIONS = "256"
RESPONSE = b'{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(RESPONSE)
PERCENTILES = {"p50": ("50th", 0.5), "p90": ("90th", 0.9), "p99": ("99th", 0.99)}
# In seconds; to it comes an exponential one.
SHORTEST_DELAY = 0.005
MEAN_FURTHER_DELAY = 0.010


class Server(asyncio.Protocol):
    """Responds to each POST after a random delay."""

    delays = []

    def connection_made(self, transport):
        self.transport = transport
        self.received = b""

    def data_received(self, data):
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            fields = (line.partition(b":") for line in self.received[:end].split(b"\r\n")[1:])
            length = next(int(value) for name, _, value in fields if name.lower() == b"content-length")
            if len(self.received) < end + 4 + length:
                return
            self.received = self.received[end + 4 + length :]
            delay = SHORTEST_DELAY + random.expovariate(1 / MEAN_FURTHER_DELAY)
            self.delays.append(delay)
            asyncio.get_running_loop().call_later(delay, self.transport.write, HEAD + RESPONSE)


async def output(*command, stdin=None):
    """Runs a command and returns its standard output."""
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stdout, _ = await process.communicate(stdin)
    if process.returncode != 0:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    return stdout


async def with_send(callbridge, url, rate, seconds):
    options = ["--connections", CONNECTIONS, "--rate", rate, "--seconds", seconds, "--json"]
    report = json.loads(
        await output(callbridge, "send", "--url", url, "--sdk-app-id", APPLICATION, "--command", COMMAND, *options)
    )
    return report["rate"], report["errors"], {name: report["latencies_ms"][name] for name in PERCENTILES}


async def with_vegeta(vegeta, url, rate, seconds, folder):
    body = folder / "body"
    body.write_text(json.dumps({"CallbackCommand": COMMAND, "GroupId": "@TGS#1", "NewMemberList": [{"Member_Account": "a"}]}))
    query = f"SdkAppid={APPLICATION}&CallbackCommand={COMMAND}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"
    target = f"POST {url}?{query}\nContent-Type: application/json\n@{body}\n"
    options = ["-rate", rate, "-duration", f"{seconds}s", "-connections", CONNECTIONS, "-max-workers", CONNECTIONS]
    results = await output(vegeta, "attack", "-name", "callbacks", *options, stdin=target.encode())
    report = json.loads(await output(vegeta, "report", "-type", "json", stdin=results))
    errors = report["requests"] - report["status_codes"].get("200", 0)
    return report["rate"], errors, {name: report["latencies"][key] / 1e6 for name, (key, _) in PERCENTILES.items()}


def print_row(who, rate, errors, latencies):
    print(f"{who:<8}{rate:>12.2f}{errors:>8}" + "".join(f"{value:>9.2f}" for value in latencies.values()), flush=True)


async def main(callbridge, vegeta, rate, seconds):
    random.seed(1)
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=1024)
    url = "http://127.0.0.1:{}/".format(server.sockets[0].getsockname()[1])
    print(f"{rate} callbacks a second, {seconds} s, {CONNECTIONS} connections; latencies in ms")
    print(f"{'':<8}{'a second':>12}{'errors':>8}" + "".join(f"{name:>9}" for name in PERCENTILES))
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            ("send", *await with_send(callbridge, url, rate, seconds)),
            ("vegeta", *await with_vegeta(vegeta, url, rate, seconds, Path(folder))),
        ]
    for row in rows:
        print_row(*row)
    if any(row[2] for row in rows):
        sys.exit("callbacks were not answered")
    delays = sorted(Server.delays)
    asked = {name: delays[int(part * len(delays))] * 1e3 for name, (_, part) in PERCENTILES.items()}
    print("server's delays" + " " * 13 + "".join(f"{value:>9.2f}" for value in asked.values()))
    send, vegeta = (row[3] for row in rows)
    ratios = {name: send[name] / vegeta[name] for name in PERCENTILES}
    print("ratio" + " " * 23 + "".join(f"{ratio:>9.3f}" for ratio in ratios.values()))
    if abs(rows[0][1] / float(rate) - 1) > 0.01 or any(abs(ratio - 1) > 0.05 for ratio in ratios.values()):
        sys.exit("the rate is not within 1 % of the asked one, or a percentile not within 5 % of vegeta's")


asyncio.run(main(*sys.argv[1:]))
