"""--json: what other programs read, and nothing beside it."""

import json

import jsonschema
from helpers import EVAL_SCHEMA, python, refused, write_checkpoint

from albert_aie.albert import checkpoint
from albert_aie.artifact import pt_file
from albert_aie.base import machine

SMALL = {"batch_size": 4, "max_seq_length": 32, "backend": "torchscript"}
TIMES = ("samples_per_second", "shapes", "latency_ms", "latencies_ms", "seconds", "machine")
TIMES += ("peak_memory_bytes", "command", "nominal_gflop_per_second")


def test_json_prints_what_eval_json_holds_and_nothing_else(
    compiled, tmp_path, tiny, sentences, evaluate
):
    given = {"aie_model_dir": compiled, "data_dir": sentences}
    run = evaluate(json=True, output_dir=tmp_path, pth_dir=tiny, compare_cpu=True, **given)
    assert run.code == 0, run.err
    told = json.loads(run.out)
    assert told == json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    assert told["comparison"]["passed"] is True and told["comparison"]["sentences"] == 11
    saved, found = pt_file.open_pt(compiled), checkpoint.load(tiny)
    assert told["digests"]["file"] == saved.manifest["sha256"]
    assert told["digests"]["checkpoint"] == found.sha256
    assert told["digests"]["tokenizer"] == found.tokenizer.sha256
    assert f"--aie_model_dir={compiled}" in told["command"]
    assert len(told["latencies_ms"]) == told["batches"] == 1
    assert told["machine"]["cores"] >= 1
    if machine.peak_memory() is not None:  # where the system says it
        assert 30e6 < told["peak_memory_bytes"] < 30e9
    again = json.loads(evaluate(json=True, **given).out)  # without a folder and a comparison
    jsonschema.validate(again, EVAL_SCHEMA)
    rest = {key: value for key, value in told.items() if key not in (*TIMES, "comparison")}
    assert {key: value for key, value in again.items() if key not in TIMES} == rest


def test_json_of_a_failed_comparison(compiled, tmp_path, sentences, evaluate):
    """With another model's weights; only the note about them stands beside it, on stderr."""
    other = write_checkpoint(tmp_path / "other", seed=1)
    given = {"aie_model_dir": compiled, "data_dir": sentences, "pth_dir": other}
    run = evaluate(json=True, compare_cpu=True, output_dir=tmp_path, **given)
    told = json.loads(run.out)
    assert run.code == 1 and told["comparison"]["passed"] is False
    assert run.err.count("\n") == 1 and run.err.startswith("note ")
    assert told == json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))


def test_own_text_with_json(compiled, evaluate):
    """The figures of it, and no answers."""
    run = evaluate(aie_model_dir=compiled, text="a fine film", json=True)
    told = json.loads(run.out)
    assert told["sentences_total"] == 1 and "accuracy" not in told and told["data"] == "--text"
    run = evaluate(aie_model_dir=compiled, text="a fine film", json=True, output="-")
    assert refused(run, "--output -: the figures stand on standard output")


def test_json_in_a_pipe(compiled, sentences):
    """As another program starts it: the first byte is a brace, and so is the last."""
    given = [f"--aie_model_dir={compiled}", f"--data_dir={sentences}", "--json"]
    run = python("run_aie_eval.py", *given)
    assert run.code == 0 and run.out.startswith("{\n") and run.out.endswith("\n}\n")
    jsonschema.validate(json.loads(run.out), EVAL_SCHEMA)
