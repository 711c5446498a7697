"""Programs under test as children: started, waited for, ended. Shared by the scripts beside this file."""

import contextlib
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request

PATIENCE = 60


def free_port():
    """A free port below those that the system gives to outgoing connections: it stays free until the child has it."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


@contextlib.contextmanager
def running(command, ready):
    """Runs a program from the moment that it says `ready` or, when that is an address, that it answers there."""
    told = not ready.startswith("http")
    child = subprocess.Popen(command, stdout=subprocess.PIPE if told else None, text=True)
    try:
        if told:
            while ready not in (line := child.stdout.readline()):
                assert line, f"{command[:2]} did not start"
        else:
            until = time.monotonic() + PATIENCE
            while not answers(ready):
                assert child.poll() is None and time.monotonic() < until, f"{command[:2]} did not start"
                time.sleep(0.1)
        yield child
    finally:
        child.terminate()
        child.wait(PATIENCE)


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE):
            return True
    except (urllib.error.URLError, OSError):
        return False
