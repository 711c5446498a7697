"""A proxy that is unkind to each client once in every way that matters: drops the answer to a paid request, breaks off an event
stream, breaks off a download, and spoils one. It writes down what it saw."""

import socket
import threading

# In this order for each kind of request; then it lets everything pass.
UNKINDNESS = {"ask": ["drop"], "follow": ["break off"], "fetch": ["break off", "spoil"]}


class Cutter:
    def __init__(self, upstream_port):
        self.upstream = ("127.0.0.1", upstream_port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.begin()
        threading.Thread(target=self.serve, daemon=True).start()

    def begin(self, on_ask=lambda: None):
        """Starts anew for the next client. `on_ask` runs before its first request for a picture is passed on."""
        self.left = {kind: list(acts) for kind, acts in UNKINDNESS.items()}
        self.heads = {kind: [] for kind in UNKINDNESS}
        self.on_ask = on_ask

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.carry, args=(client,), daemon=True).start()

    def carry(self, client):
        with client, socket.create_connection(self.upstream) as upstream:
            head, rest = read_head(client)
            if head is None:
                return
            kind = kind_of(head)
            act = self.left[kind].pop(0) if kind and self.left[kind] else None
            if kind:
                self.heads[kind].append(headers_of(head))
            if act == "drop":
                self.on_ask()
            # One request on each connection, so that every one is seen.
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            upstream.sendall(b"\r\n".join([*lines, b"connection: close"]) + b"\r\n\r\n" + rest)
            threading.Thread(target=pump, args=(client, upstream), daemon=True).start()
            try:
                self.answer(client, upstream, act)
                # Closing alone would wait for the thread that still reads from it.
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def answer(self, client, upstream, act):
        if act is None:
            pump(upstream, client)
            return
        whole = b""
        # An event stream is cut as soon as there is an event; everything else when all of it is here.
        while piece := upstream.recv(65536):
            whole += piece
            if act == "break off" and b"text/event-stream" in whole and b"\n\n" in whole.partition(b"\r\n\r\n")[2]:
                client.sendall(whole[: whole.index(b"\n\n", whole.index(b"\r\n\r\n") + 4) + 2])
                return
        if act == "break off":
            client.sendall(whole[: len(whole) // 2])
        elif act == "spoil":
            client.sendall(whole[:-1] + bytes([whole[-1] ^ 1]))


def pump(source, sink):
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def read_head(client):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            return None, b""
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def kind_of(head):
    method, path = head.split(b" ", 2)[:2]
    if method == b"POST" and path == b"/generate":
        return "ask"
    if path.endswith(b"/events"):
        return "follow"
    return "fetch" if b"/images/" in path else None


def headers_of(head):
    pairs = (line.split(":", 1) for line in head.decode().split("\r\n")[1:])
    return {name.lower(): value.strip() for name, value in pairs}
