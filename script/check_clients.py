"""Runs the example clients against a gateway on simulated providers, behind an unkind proxy. See check-clients.

Each must end well, having bought one picture, kept its right bytes, followed on where the stream broke off, refused every
forged webhook and taken the true one."""

import base64
import datetime
import hashlib
import http.client
import json
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import urllib.request

from standardwebhooks.webhooks import Webhook

from children import PATIENCE, free_port, running
from cutter import Cutter

KEY = secrets.token_hex(24)
GATEWAY = """
[server]
listen = "127.0.0.1:{own}"
public_url = "http://127.0.0.1:{public}"
[[auth.keys]]
name = "clients"
key = "{key}"
[store]
url = "sqlite://{folder}/easel.db"
[blobs]
url = "file://{folder}/pictures"
[net]
allow_private = ["127.0.0.1/32"]
allow_http = true
[log]
level = "warn"
[routing]
default_models = ["flux-schnell"]
[providers.piapi_flux]
kind = "piapi_flux"
base_url = "http://127.0.0.1:{simulator}"
api_key = "simulated"
poll_after_s = 0.5
allow_http_results = true
"""


def read(address, key=None):
    request = urllib.request.Request(address, headers={"authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def post(port, headers, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/", body, {**headers, "content-type": "application/json"})
    return connection.getresponse().status


def forge(port, secret):
    """Letters that a receiver must refuse; the statuses it gave them."""
    body, now = '{"type":"task.succeeded","data":{"task":{"id":"forged"}}}', datetime.datetime.now(datetime.timezone.utc)
    stranger = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

    def letter(signer, at, sent=body, **others):
        signature = Webhook(signer).sign("msg_forged", at, body)
        headers = {"webhook-id": "msg_forged", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
        return post(port, headers | others, sent)

    return {
        "another secret": letter(stranger, now),
        "another body": letter(secret, now, body.replace("forged", "another")),
        "another id": letter(secret, now, **{"webhook-id": "msg_other"}),
        "six minutes old": letter(secret, now - datetime.timedelta(minutes=6)),
        "no signature": letter(secret, now, **{"webhook-signature": ""}),
        "not a time": letter(secret, now, **{"webhook-timestamp": "now"}),
    }


def run(command, folder, around):
    gathered = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        return subprocess.run(command, cwd=folder, env=around, timeout=2 * PATIENCE, text=True, **gathered)
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"{command[0]} did not end; it said:\n{(late.output or b'').decode()}") from None


def check(name, command, base, cutter, simulator, folder):
    prompt, hook = f"a little cat for {name}", free_port()
    secret, statuses = read(f"{base}/webhooks/secret", KEY)["secret"], {}
    cutter.begin(on_ask=lambda: statuses.update(forge(hook, secret)))
    around = {"EASEL_URL": base, "EASEL_API_KEY": KEY, "HOOK_PORT": str(hook)}
    ended = run([*command.split(" "), prompt], folder, os.environ | around)
    said = f"{name} said:\n{ended.stdout}"
    assert ended.returncode == 0, said
    assert not any(cutter.left.values()), f"{name} was spared: {cutter.left}\n{said}"
    assert len(statuses) == 6 and all(400 <= status < 500 for status in statuses.values()), f"{name} took a forgery: {statuses}"
    keys = {head["idempotency-key"] for head in cutter.heads["ask"]}
    assert len(cutter.heads["ask"]) == 2 and len(keys) == 1, f"{name} asked again by another key: {keys}"
    resumed = cutter.heads["follow"][1].get("last-event-id")
    assert resumed and int(resumed) >= 1, f"{name} followed on from {resumed}\n{said}"
    bought = [one for one in read(f"{simulator}/_sim/ledger")["receptions"] if prompt in one["prompt_head"]]
    assert len(bought) == 1, f"{name} bought {len(bought)} pictures"
    kept = [hashlib.sha256(file.read_bytes()).hexdigest() for file in pathlib.Path(folder).glob("*.png")]
    assert kept == [file["sha256"] for file in bought[0]["files"]], f"{name} kept {kept}, {bought[0]['files']} were made"
    assert "signature verified" in ended.stdout, said
    print(f"{name}: one picture bought, its bytes right, resumed after event {resumed}, {len(statuses)} forgeries refused")


def main(easel, *clients):
    assert clients
    own, upstream = free_port(), free_port()
    cutter = Cutter(own)
    base, simulator = f"http://127.0.0.1:{cutter.port}", f"http://127.0.0.1:{upstream}"
    with tempfile.TemporaryDirectory(prefix="easel-clients.") as folder:
        config = pathlib.Path(folder, "easel.toml")
        config.write_text(GATEWAY.format(own=own, public=cutter.port, simulator=upstream, key=KEY, folder=folder))
        simulate = [easel, "simulate", "--listen", f"127.0.0.1:{upstream}"]
        serve = [easel, "serve", "--config", str(config)]
        with running(simulate, "Simulated providers"), running(serve, f"http://127.0.0.1:{own}/healthz"):
            for client in clients:
                name, _, command = client.partition("=")
                place = pathlib.Path(folder, name)
                place.mkdir()
                check(name, command, base, cutter, simulator, place)
    print("the example clients hold what the guide says of them")


main(*sys.argv[1:])
