"""examples/serve.py as a process, with many clients."""

import asyncio
import contextlib
import http.client
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from helpers import ROOT, python

from albert_aie.run.classifier import Answer

CLIENTS, EACH = 32, 32
TEXTS = [f"a {'very ' * (i % 20)}{word} film" for i, word in enumerate(["fine", "dull"] * 50)]


@pytest.fixture
def service(made_by):
    pytest.importorskip("fastapi"), pytest.importorskip("uvicorn")
    with serving(made_by["openvino"]) as found:
        yield found


@contextlib.contextmanager
def serving(file, interpreter=sys.executable, script="serve.py", port=None):
    """(the process of an example, its port), ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        command = [interpreter, f"examples/{script}", str(file)]
        command += [] if port else [str(free.getsockname()[1])]
        port = port or free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert ask(port, "GET", "/health")[0] == 200
                break
            except (OSError, ValueError, AssertionError):  # Ray answers before it is ready
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        yield process, port
    finally:
        process.send_signal(signal.SIGINT)  # Ray ends what it has started
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
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


@pytest.fixture
def wanted(made_by, tmp_path):
    """{text: (label, probability)} of run_aie_eval.py."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    out = tmp_path / "out.tsv"
    run = [f"--aie_model_dir={made_by['openvino']}", f"--input={tmp_path / 'texts.txt'}"]
    assert python("run_aie_eval.py", *run, f"--output={out}").code == 0
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert [text for *_, text in rows] == TEXTS
    return {text: (label, float(probability)) for label, probability, text in rows}


def is_right(answer, wanted):
    """Whether an answer to one text is run_aie_eval.py's."""
    best, (label, probability) = answer[0], wanted
    return best["label"] == label and abs(best["score"] - probability) < 1e-5


def test_a_port_that_is_none_is_refused_before_the_file_is_loaded():
    pytest.importorskip("fastapi"), pytest.importorskip("uvicorn")
    done = python("examples/serve.py", "gone.pt", "99999", env={"PYTHONPATH": str(ROOT)})
    assert done.code == 2 and done.err.endswith("error: port 99999: must be 0 to 65535\n")


def test_it_compiles_before_it_listens(made_by, monkeypatch):
    pytest.importorskip("fastapi"), pytest.importorskip("uvicorn")
    monkeypatch.syspath_prepend(ROOT / "examples")
    with importlib.import_module("serve").load(made_by["openvino"]) as classify:
        assert classify.runner.streams == 1
        assert {bool(shape.slots) for shape in classify.runner._programs} == {True, False}


SURE, SCORE = Answer("a", 0.75, {"b": 0.25, "a": 0.75}), Answer(None, None, {}, 3.5)
RANKED = [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}]


@pytest.mark.parametrize(
    "inputs, given, answers, wanted",
    [
        ("x", ["x"], [SURE], RANKED),
        (["x"], ["x"], [SURE], RANKED),
        (["x", "y"], [("x", "y")], [SURE], RANKED),
        ([["x"]], ["x"], [SURE], [RANKED]),
        ([["x"], ["y", "z"]], ["x", ("y", "z")], [SURE] * 2, [RANKED] * 2),
        ("x", ["x"], [SCORE], [{"label": "score", "score": 3.5}]),
        ([["x"], ["y"]], ["x", "y"], [SURE, Answer(None, None, {})], None),
    ],
)
def test_predict_takes_and_answers_what_text_embeddings_inference_does(
    inputs, given, answers, wanted, monkeypatch
):
    fastapi = pytest.importorskip("fastapi", reason="pip install .[serve]")
    monkeypatch.syspath_prepend(ROOT / "examples")
    serve = importlib.import_module("serve")

    async def answer(sentences):
        assert sentences == given
        return answers

    (predict,) = (
        route.endpoint
        for route in serve.make_app(SimpleNamespace(answer=answer)).routes
        if route.path == "/predict"
    )
    try:
        assert asyncio.run(predict(serve.Query(inputs=inputs))) == wanted
    except fastapi.HTTPException as error:
        assert wanted is None and error.status_code == 500


@pytest.mark.slow  # a process that serves, and a thousand connections
def test_a_thousand_requests_of_32_clients_one_of_which_dies(service, wanted):
    _, port = service
    lost, answered = [], []

    def client(number):
        for i in range(EACH):
            text = TEXTS[(number * 7 + i) % len(TEXTS)]
            if number == 0 and i == EACH // 2:  # it asks, and goes
                with socket.create_connection(("127.0.0.1", port)) as one:
                    one.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n{")
                return
            status, found = ask(port, "POST", "/predict", {"inputs": text})
            (answered if status == 200 and is_right(found, wanted[text]) else lost).append(text)

    together(client)
    assert not lost and len(answered) == (CLIENTS - 1) * EACH + EACH // 2
    status, found = ask(port, "POST", "/predict", {"inputs": batch(TEXTS)})
    assert len(found) == len(TEXTS) and all(map(is_right, found, map(wanted.get, TEXTS)))
    status, found = ask(port, "POST", "/predict", {"inputs": TEXTS[:1]})
    assert is_right(found, wanted[TEXTS[0]])
    refused = (5, {"a": "\ud800"}, "\ud800", ["a", float("nan")], [], [[]], ["a", "b"], ["a"] * 3)
    for bad in ({"text": "a"}, *({"inputs": inputs} for inputs in refused)):
        assert ask(port, "POST", "/predict", bad)[0] == 422


@pytest.mark.slow  # a process that serves, and a thousand connections
def test_sigterm_half_way_loses_nothing_that_was_asked(service, wanted):
    """What was asked for before is answered in whole; then no connection is made."""
    process, port = service
    answered, refused, wrong, ended = [], [], [], []

    def client(number):
        for i in range(EACH):
            if number == 0 and i == EACH // 2:
                ended.append(time.monotonic())
                process.send_signal(signal.SIGTERM)
            texts = [TEXTS[(number * 7 + i + j) % len(TEXTS)] for j in range(20)]
            asked = time.monotonic()
            try:
                status, found = ask(port, "POST", "/predict", {"inputs": batch(texts)})
            except OSError:
                refused.append(asked)
                return
            good = status == 200 and all(map(is_right, found, map(wanted.get, texts)))
            (answered if good else wrong).append((asked, time.monotonic()))

    together(client)
    # uvicorn ends by the signal itself when all is answered
    assert process.wait(60) == -signal.SIGTERM and not wrong
    # a connection that was made within the last moment may find nobody
    assert min(refused) > ended[0] - 0.1
    assert len([end for begin, end in answered if begin < ended[0] < end]) > CLIENTS // 2
    assert len(answered) > CLIENTS * EACH // 3


@pytest.mark.slow  # starts Ray on this machine; wants ray[serve] beside what the others want
def test_the_same_routes_behind_ray_serve(made_by, wanted):
    pytest.importorskip("ray.serve", reason='pip install "ray[serve]"')
    with serving(made_by["openvino"], script="serve_ray.py", port=8000) as (_, port):  # Ray's own
        status, found = ask(port, "POST", "/predict", {"inputs": batch(TEXTS)})
        assert status == 200 and all(map(is_right, found, map(wanted.get, TEXTS)))
        assert ask(port, "POST", "/predict", {"inputs": 5})[0] == 422


def batch(texts):
    return [[text] for text in texts]


def together(client):
    """client(number) of CLIENTS threads."""
    threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
