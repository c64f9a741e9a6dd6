"""benchmarks/peers.py: its statistics, and a run of two engines on a small checkpoint."""

import json
import random
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import peers  # noqa: E402
import tables  # noqa: E402


def test_the_interval_holds_the_truth_and_narrows():
    generator = random.Random(1)
    noisy = [1.2 * generator.lognormvariate(0, 0.05) for _ in range(40)]
    middle, low, high = tables.interval(noisy)
    assert low < 1.2 < high and low < middle < high
    few = tables.interval(noisy[:5])
    assert few[2] - few[1] > high - low
    assert tables.interval([1.5]) == (1.5, 1.5, 1.5)
    assert tables.paired([1.0, 2.0], [2.0, 3.0]) == [2.0, 1.5]


def test_accuracy_and_flips_are_counted_on_the_rows_that_an_engine_saw():
    labels = [1, 0] * 16
    readings = {
        "transformers eager fp32, sorted": {"rows": 32, "predictions": [1] * 32},
        "transformers eager fp32, padded to 128": {"rows": 4, "predictions": [1, 1, 0, 1]},
        "ceiling fp32": {"seconds": [1.0]},
    }
    peers.score(readings, labels)
    assert readings["transformers eager fp32, sorted"]["correct"] == 16
    padded = readings["transformers eager fp32, padded to 128"]
    assert padded["correct"] == 3 and padded["flips"] == 1


def bench(*flags):
    command = [sys.executable, str(ROOT / "benchmarks" / "peers.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_small_run_end_to_end(tmp_path, tiny, sst2):
    pytest.importorskip("openvino")
    if not hasattr(torch, "float8_e4m3fn"):
        pytest.skip("OpenVINO's converter and transformers' masks do not go together on torch 2.0")
    flags = [
        "--pth_dir",
        tiny,
        "--data_dir",
        sst2,
        "--rows",
        64,
        "--precisions",
        "fp32",
        "--batch_sizes",
        2,
    ]
    flags += ["--rounds", 2, "--dense_rounds", 2]
    engines = ["OpenVINO fp32, sorted, 1 stream", "plain", "packed 8 x 128", "padded"]
    run = bench(*flags, "--seconds", 0, "--engines", *engines, "--output", tmp_path / "bench.json")
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    rows = report["end_to_end"]
    assert {
        "OpenVINO fp32, sorted, 1 stream",
        "ours fp32, packed 8 x 128, 1 stream",
        tables.BASE,
    } <= set(rows)
    for label, entry in rows.items():
        assert len(entry["seconds"]) == 2 and entry["flips"] == 0 and entry["flops"] > 0, label
    assert len({entry["correct"] for entry in rows.values() if entry["rows"] == 64}) == 1
    per_sentence = {label: entry["flops"] / entry["rows"] for label, entry in rows.items()}
    assert per_sentence["ours fp32, packed 8 x 128, 1 stream"] < per_sentence[tables.BASE] / 3
    assert len(report["dense"]["ours fp32, plain, batch 2"]["2"]) == 2
    summary = run.stdout[run.stdout.index("Summary") :]
    assert "| **ours fp32, packed" in summary and "| batch 2 | " in summary
    again = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", tmp_path / "bench.json"],
        capture_output=True,
    )
    assert again.returncode == 0 and again.stdout.decode().strip() in run.stdout
    assert (
        "end to end fp32: ours fp32" in run.stdout and "dense batch 2 fp32: ours fp32" in run.stdout
    )


def test_an_engine_that_fails_is_named_and_the_exit_code_says_so(
    tmp_path, tiny, sst2, monkeypatch, capsys
):
    broken = {
        "kind": "ours",
        "label": "ours broken",
        "settings": ["dense"],
        "precision": "fp32",
        "file": "nowhere.pt",
    }
    monkeypatch.setattr(peers, "engines", lambda args, folder: ([broken], []))
    code = peers.main(
        ["--pth_dir", str(tiny), "--data_dir", str(sst2), "--output", str(tmp_path / "bench.json")]
    )
    assert code == 1 and "FAILED      ours broken: " in capsys.readouterr().out
    assert "nowhere.pt" in json.loads((tmp_path / "bench.json").read_text())["failed"][0]


@pytest.mark.parametrize(
    "flags, words",
    [(["--data_dir", "nowhere", "--demo"], "no such file"), (["--data_dir", "."], "--pth_dir")],
)
def test_wrong_input_is_one_sentence(flags, words):
    run = bench(*flags)
    assert run.returncode == 2 and words in run.stderr and run.stderr.count("\n") == 1


@pytest.mark.parametrize("text", [None, "no json", "[]", "{}"])
def test_tables_of_what_peers_did_not_write_are_refused(tmp_path, text):
    file = tmp_path / "readings.json"
    if text:
        file.write_text(text)
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", file], capture_output=True, text=True
    )
    assert (
        run.returncode == 2
        and "no readings of benchmarks/peers.py" in run.stderr
        and run.stderr.count("\n") == 1
    )


def test_torchscript_options_keep_the_logits(tiny):
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        pytest.skip(
            "torch 2.0 has neither the prepacked linear nor a scale in scaled_dot_product_attention"
        )
    command = [
        sys.executable,
        ROOT / "benchmarks" / "torchscript_options.py",
        "--pth_dir",
        tiny,
        "--rounds",
        "2",
    ]
    flags = ["--batch_size", "2", "--max_seq_length", "16", "--precisions", "fp32"]
    run = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = [line.split(" | ") for line in run.stdout.splitlines() if line.startswith("| fp32")]
    assert len(rows) == 3 and all(float(row[-1].rstrip(" |")) < 1e-5 for row in rows)
    for wrong, words in (
        (["--pth_dir", "nowhere"], "nowhere: no such folder"),
        (["--max_seq_length", "600"], "3 to 512"),
    ):
        run = subprocess.run([*command, *wrong], capture_output=True, text=True)
        assert run.returncode == 2 and words in run.stderr and run.stderr.count("\n") == 1
