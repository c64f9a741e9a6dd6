"""examples/serve.py as a process, with many clients."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from helpers import ROOT

from albert_aie import Classifier

CLIENTS, EACH = 32, 32
TEXTS = [f"a {'very ' * (i % 20)}{word} film" for i, word in enumerate(["fine", "dull"] * 50)]


@pytest.fixture
def service(made_by):
    """(its process, its port), ready."""
    pytest.importorskip("fastapi"), pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "examples/serve.py", str(made_by["openvino"]), str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert ask(port, "GET", "/health")[0] == 200
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        yield process, port
    finally:
        process.kill()
        process.wait()


def ask(port, method, path, body=None):
    """(status, JSON) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        given = json.dumps(body), {"content-type": "application/json"}
        connection.request(method, path, *(given if method == "POST" else ()))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.slow
def test_a_thousand_requests_of_32_clients_one_of_which_dies(service, made_by):
    process, port = service
    with Classifier(made_by["openvino"]) as classify:
        wanted = {text: classify(text) for text in TEXTS}
    lost, answered = [], []

    def client(number):
        for i in range(EACH):
            text = TEXTS[(number * 7 + i) % len(TEXTS)]
            if number == 0 and i == EACH // 2:  # it asks, and goes
                with socket.create_connection(("127.0.0.1", port)) as one:
                    one.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n{")
                return
            status, found = ask(port, "POST", "/predict", {"inputs": text})
            best, answer = found[0], wanted[text]
            good = best["label"] == answer.label and abs(best["score"] - answer.probability) < 1e-5
            (answered if status == 200 and good else lost).append(text)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost and len(answered) == (CLIENTS - 1) * EACH + EACH // 2
    status, found = ask(port, "POST", "/predict", {"inputs": TEXTS[:3]})
    assert [one[0]["label"] for one in found] == [wanted[text].label for text in TEXTS[:3]]
    for bad in ({"inputs": 5}, {"text": "a"}, {"inputs": "\ud800"}):
        assert 400 <= ask(port, "POST", "/predict", bad)[0] < 500


@pytest.mark.slow
def test_sigterm_answers_what_was_asked(service):
    """A client that is answered at all is answered in whole; then connections are refused."""
    process, port = service
    statuses = []

    def client():
        statuses.append(ask(port, "POST", "/predict", {"inputs": TEXTS * 20})[0])

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    process.wait(60)
    assert statuses == [200] * 4
