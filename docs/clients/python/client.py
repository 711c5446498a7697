"""Asks an Easel gateway for a picture, follows the task to its end, fetches the pictures, and takes the webhook.

    pip install standardwebhooks
    EASEL_URL=http://127.0.0.1:8080 EASEL_API_KEY=… python client.py "a little cat"

Every call may break off at any moment and is then made again: the idempotency key makes one task of all of them, the last
event's number goes on where the stream broke off, and a picture counts when its SHA-256 is right. A service needs either the
stream or the webhook; this shows both.
"""

import hashlib
import http.client
import http.server
import json
import os
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

GATEWAY = os.environ.get("EASEL_URL", "http://127.0.0.1:8080")
KEY = os.environ.get("EASEL_API_KEY")
# Where this program takes webhooks; the gateway must be allowed to reach it (net.allow_private).
HOOK_PORT = int(os.environ.get("HOOK_PORT", "9000"))
TRIES = 8
# Above the gateway's heartbeat of 15 s: a stream that is silent for longer is dead.
PATIENCE_S = 45
ENDS = ("task.succeeded", "task.failed", "task.canceled")


class Refused(Exception):
    """The gateway's problem document: asking again will not help."""


class Spoiled(Exception):
    """Bytes that are not the ones the task speaks of."""


def insist(call):
    """Calls until there is an answer. Safe for all that is called here, the idempotency key included."""
    for attempt in range(TRIES):
        try:
            return call()
        except urllib.error.HTTPError as answer:
            if answer.code not in (408, 429) and answer.code < 500:
                raise Refused(answer.read().decode()) from None
            failure, pause = answer, float(answer.headers.get("retry-after") or 2)
        except (OSError, http.client.HTTPException, Spoiled) as broken:
            failure, pause = broken, min(0.2 * 2**attempt, 5)
        print(f"{failure!r}; again in {pause} s", file=sys.stderr)
        time.sleep(pause)
    raise SystemExit(f"gave up after {TRIES} tries")


def gateway(path, body=None, **headers):
    """One request to the gateway; the answer is still to be read."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if KEY:
        headers["authorization"] = f"Bearer {KEY}"
    if body is not None:
        headers["content-type"] = "application/json"
        body = json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(GATEWAY + path, body, headers), timeout=PATIENCE_S)


def read(path, body=None, **headers):
    with gateway(path, body, **headers) as answer:
        return json.load(answer)


def events(path, seen):
    """The events after number `seen`, as they come."""
    with gateway(path, accept="text/event-stream", last_event_id=seen) as stream:
        event = {}
        for line in stream:
            line = line.decode().rstrip("\r\n")
            name, _, value = line.partition(":")
            if not line and event:
                yield event
                event = {}
            elif name:
                event[name] = value.removeprefix(" ")


def follow(task):
    """The task when it has ended."""
    path, seen = f"/tasks/{task['id']}", "0"

    def listen():
        nonlocal seen
        for event in events(path + "/events", seen):
            seen = event["id"]
            print(event["event"])
            if event["event"] in ENDS:
                return json.loads(event["data"])
        # Broken off, or all was seen before: the task itself says which.
        ended = read(path)
        if ended["finished_at"] is None:
            raise ConnectionError("the stream ended before the task did")
        return ended

    return insist(listen)


def fetch(image):
    """A picture's bytes. Its link is signed: the key stays at home."""
    with urllib.request.urlopen(image["url"], timeout=PATIENCE_S) as answer:
        picture = answer.read()
    if hashlib.sha256(picture).hexdigest() != image["sha256"]:
        raise Spoiled(image["url"])
    return picture


def take_webhooks(secret):
    """Listens; the queue gives each letter once, after its signature was found right."""
    letters, seen, check = queue.Queue(), set(), Webhook(secret)

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                # Over the bytes as they came. Refuses what is older than five minutes, too.
                letter = check.verify(body, {name.lower(): value for name, value in self.headers.items()})
            except WebhookVerificationError as forged:
                print(f"refused a webhook: {forged}")
                self.send_response(400)
            else:
                # Delivered at least once: what was seen is acknowledged and dropped.
                if (letter_id := self.headers["webhook-id"]) not in seen:
                    seen.add(letter_id)
                    letters.put(letter)
                self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", HOOK_PORT), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return letters


def main(prompt):
    letters = take_webhooks(insist(lambda: read("/webhooks/secret"))["secret"])
    request = {
        "prompt": prompt,
        "model": "flux-schnell",
        "webhook": {"url": f"http://127.0.0.1:{HOOK_PORT}/"},
    }
    # Made once per picture wanted, and kept with it: after a restart the same key finds the same task.
    order = str(uuid.uuid4())
    task = follow(insist(lambda: read("/generate", request, idempotency_key=order)))
    if task["status"] != "succeeded":
        raise SystemExit(f"{task['status']}: {json.dumps(task['error'])}")
    for image in task["images"]:
        picture = insist(lambda: fetch(image))
        name = f"{task['id']}-{image['index']}.{image['media_type'].split('/')[1]}"
        with open(name, "wb") as file:
            file.write(picture)
        print(f"{name}: {len(picture)} bytes, SHA-256 as told")
    while (letter := letters.get(timeout=60))["data"]["task"]["id"] != task["id"]:
        pass
    print(f"webhook {letter['type']}, signature verified; the task cost ${task['cost']['actual_usd']}")


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]) or "a little cat")
    except Refused as problem:
        raise SystemExit(f"refused: {problem}")
