"""Receives webhooks of `easel demo` and verifies them with the Standard Webhooks library. See verify-webhooks."""

import datetime
import http.server
import json
import queue
import random
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

PATIENCE = 60
letters: "queue.Queue[tuple[str, dict, bytes]]" = queue.Queue()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        letters.put((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port():
    """A free port below those that the system gives to outgoing connections: it stays free until the gateway has it."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def ask(base, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def refused(check, why):
    try:
        check()
    except WebhookVerificationError:
        return
    raise AssertionError(f"it verified although {why}")


def verify(base, receiver, path, secrets, stranger):
    """Asks for a picture and checks the letter that tells of it against each secret."""
    prompt = "ein Kätzchen 🐈 \"quoted\"\n"
    request = {"prompt": prompt, "model": "flux-schnell", "size": "64x64"}
    if path == "/request":
        request["webhook"] = {"url": f"{receiver}{path}"}
    task = ask(base, "POST", "/generate", request)["id"]
    while True:
        at, headers, body = letters.get(timeout=PATIENCE)
        if at == path and json.loads(body)["data"]["task"]["id"] == task:
            break
    for secret in secrets:
        told = Webhook(secret).verify(body, headers)
        assert told["type"] == "task.succeeded" and told["data"]["task"]["prompt"] == prompt, told
    signatures = headers["webhook-signature"].split(" ")
    assert len(signatures) == len(secrets), headers
    check = Webhook(secrets[0])
    refused(lambda: Webhook(stranger).verify(body, headers), "the secret is another")
    refused(lambda: check.verify(body + b" ", headers), "the body is another")
    refused(lambda: check.verify(body, headers | {"webhook-id": "msg_other"}), "the id is another")
    old = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=6)
    refused(lambda: check.verify(body, headers | {"webhook-timestamp": str(int(old.timestamp()))}), "it is old")
    print(f"{path}: {headers['webhook-id']} verifies with {len(secrets)} secret(s), and with nothing else")


def main(easel):
    receiving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiving.serve_forever, daemon=True).start()
    receiver = f"http://127.0.0.1:{receiving.server_port}"
    listen = f"127.0.0.1:{free_port()}"
    base = f"http://{listen}"
    with tempfile.TemporaryDirectory(prefix="easel-verify.") as folder:
        command = [easel, "demo", "--listen", listen, "--data-dir", folder]
        gateway = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            # The greeting comes once it serves.
            while f"{base}/docs" not in (line := gateway.stdout.readline()):
                assert line, "the gateway did not start"
            own = ask(base, "GET", "/webhooks/secret")["secret"]
            verify(base, receiver, "/request", [own], stranger="whsec_" + "A" * 43 + "=")
            endpoint = ask(base, "POST", "/webhooks", {"url": f"{receiver}/registered"})
            verify(base, receiver, "/registered", [endpoint["secret"]], stranger=own)
            fresh = ask(base, "POST", f"/webhooks/{endpoint['id']}/rotate")["secret"]
            verify(base, receiver, "/registered", [fresh, endpoint["secret"]], stranger=own)
        finally:
            gateway.terminate()
            gateway.wait(PATIENCE)
    print("webhooks verify with the Python library of the Standard Webhooks specification")


main(sys.argv[1])
