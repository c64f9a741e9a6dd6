"""The two commands on input that is right."""

import json
import os
import re
import shutil

import pytest
import torch
from helpers import ROOT, flags, python, read_results, write_checkpoint

from albert_aie import backends
from albert_aie.albert import fused, graph
from albert_aie.base.errors import UserError
from albert_aie.cli import console
from albert_aie.run.evaluate import logits_in_fresh_process
from benchmarks import random_weights

SMALL = {"batch_size": 4, "max_seq_length": 32}
FILE = "albert_seq32_bs4.pt"  # of that shape


def shape(batch_size, seq):
    return {"batch_size": batch_size, "max_seq_length": seq}


def relative(run):
    """The relative error that a comparison printed."""
    return float(run.out.split("relative ")[1].split()[0])


@pytest.mark.parametrize("engine", ["torchscript", "openvino"])
@pytest.mark.parametrize("layout", ["upstream", "hf"])
def test_export_compare_and_evaluate(
    tmp_path, tiny, tiny_hf, sentences, export, evaluate, engine, layout
):
    given = {"pth_dir": {"upstream": tiny, "hf": tiny_hf}[layout], "data_dir": sentences}
    given["compare_cpu"] = True
    target = {"backend": engine, "precision": "fp32", **SMALL}
    run = export(save_dir=tmp_path, fresh=layout == "hf", **given, **target)
    assert run.code == 0, run.err
    assert f"{engine} on cpu (asked for)" in run.said
    assert "compare_cpu PASS" in run.out and "label flips 0 (gate 0)" in run.out
    before = sorted(os.listdir(sentences))
    run = evaluate(aie_model_dir=tmp_path / FILE, output_dir=tmp_path / "out", **given)
    assert run.code == 0, run.err
    assert "11 of 11 sentences scored, 0 truncated" in run.out
    assert "precision fp32 (read back)" in run.out
    report, (header, *rows) = read_results(tmp_path / "out")
    assert header == "index prediction label logit_negative logit_positive sentence".split()
    right = sum(row[1] == row[2] for row in rows)
    assert report["accuracy"]["correct"] == right
    assert report["accuracy"]["total"] == len(rows) == 11
    assert f"{right / 11:.4f} ({right}/11)" in run.out
    assert report["rows"] == "chosen" and report["positions"] < 11 * 32
    assert sum(each["batches"] for each in report["shapes"]) == report["batches"]
    assert report["precision"] == "fp32"
    seconds = report["seconds"]
    assert seconds["end_to_end"] >= seconds["forward"] + seconds["tokenize"]
    assert report["manifest"]["versions"]["torch"] == torch.__version__
    assert sorted(os.listdir(sentences)) == before  # nothing is cached beside the data


def test_the_test_split_gives_predictions_without_accuracy(tmp_path, compiled, evaluate):
    (tmp_path / "test.tsv").write_text("index\tsentence\n7\ta fine film .\n9\tdull\n")
    given = {"aie_model_dir": compiled, "data_dir": tmp_path, "split": "test"}
    run = evaluate(output_dir=tmp_path / "out", **given)
    assert run.code == 0 and "accuracy    none: the split has no labels" in run.out
    report, rows = read_results(tmp_path / "out")
    assert "accuracy" not in report and [row[0] for row in rows] == ["index", "7", "9"]


def test_random_weights_measure_speed_only(tmp_path, tiny, sentences, export, evaluate):
    folder = tmp_path / "random"
    given = ["--architecture", str(tiny), "--output_dir", str(folder)]
    assert console.main(random_weights.parse_args, random_weights.run, given) == 0
    given = {"pth_dir": folder, "compare_cpu": True}
    run = export(data_dir=sentences, save_dir=tmp_path, **given, **SMALL)
    assert run.code == 0 and "compare_cpu PASS" in run.out
    assert "random weights: this file measures speed" in run.err
    run = evaluate(aie_model_dir=tmp_path / FILE, data_dir=sentences)
    assert "accuracy    none: the file holds random weights" in run.out


def test_truncation_is_counted(tmp_path, tiny, sentences, export, evaluate):
    export(pth_dir=tiny, save_dir=tmp_path, backend="torchscript", **shape(4, 8))
    run = evaluate(aie_model_dir=tmp_path / "albert_seq8_bs4.pt", data_dir=sentences)
    truncated = int(run.out.split(" truncated")[0].split()[-1])
    assert 0 < truncated < 11


def scale_ffn(monkeypatch, factor):
    """From now on a fused graph has another FFN weight than its checkpoint."""
    real = graph.build

    def build(checkpoint, *rest):
        module = real(checkpoint, *rest)
        module.ffn_w.mul_(factor)
        return module

    monkeypatch.setattr(graph, "build", build)


@pytest.mark.parametrize("factor, code", [(1.0, 0), (1.05, 1), (float("nan"), 1)])
def test_a_comparison_passes_or_fails_by_both_scripts_and_is_written_as_json(
    tmp_path, tiny, sentences, export, evaluate, monkeypatch, factor, code
):
    scale_ffn(monkeypatch, factor)
    given = {"pth_dir": tiny, "data_dir": sentences, "prefix_dir": tmp_path, "compare_cpu": True}
    files = tmp_path / "export.json", tmp_path / "evaluate.json"
    target = {"save_dir": tmp_path, "backend": "torchscript", "precision": "fp32", **SMALL}
    runs = [export(compare_output=files[0], **given, **target)]
    runs += [evaluate(aie_model_dir=tmp_path / FILE, compare_output=files[1], **given)]
    for run, file in zip(runs, files):
        assert run.code == code, run.err
        assert ("compare_cpu PASS" in run.out, "compare_cpu FAIL" in run.out) == (not code, code)
        told = json.loads(file.read_text(), parse_constant=pytest.fail)  # no NaN: strict JSON
        assert told["passed"] is (code == 0) and told["allowed_flips"] == 0
        assert told["sentences"] == 11 and told["precision"] == "fp32"
        assert told["reference"] == "transformers' ALBERT, eager fp32"
        assert f"label flips {told['flips']} (gate 0)" in run.said
        accuracies = "{value:.4f} compiled, {reference_value:.4f} reference".format(**told)
        assert accuracies in run.said
        numbers = [told[name] for name in ("relative", "max_abs", "mean_abs", "worst_cosine")]
        if factor != factor:
            assert numbers == [None] * 4 and "relative nan (gate 1e-04)" in run.said
            continue
        assert f"relative {numbers[0]:.2e} (gate 1e-04)" in run.said
        assert (numbers[0] > 1e-4) == (code == 1)
        assert numbers[1] >= numbers[2] > 0 and 0.9 < numbers[3] < 1 + 1e-9


@pytest.mark.parametrize("engine", ["torchscript", "openvino"])
@pytest.mark.parametrize("wrong", ["Rows", "FusedAlbert"])
def test_the_published_program_is_held_to_the_gate_too(
    tmp_path, tiny, sentences, export, monkeypatch, wrong, engine
):
    """Of a file whose chosen rows, or whose program for torch.jit.load, computes something else."""
    methods = {"Rows": "rows_and_places", "FusedAlbert": "forward"}
    real = getattr(fused.FusedAlbert, methods[wrong])

    def shifted(self, ids, mask, types):
        return real(self, ids, mask, 1 - types)

    monkeypatch.setattr(fused.FusedAlbert, methods[wrong], shifted)
    told = tmp_path / "it.json"
    given = {"pth_dir": tiny, "data_dir": sentences, "compare_cpu": True, "compare_output": told}
    run = export(save_dir=tmp_path, backend=engine, precision="fp32", **given, **SMALL)
    assert run.code == 1 and run.out.count("compare_cpu PASS") == 1, run.out + run.err
    assert run.out.count("compare_cpu FAIL") == 1 and not json.loads(told.read_text())["passed"]
    each = {one["rows"]: one["passed"] for one in json.loads(told.read_text())["comparisons"]}
    published = "torch.jit.load, batch 4 x 32 tokens"
    assert each == {"chosen rows": wrong != "Rows", published: wrong == "Rows"}


def test_bf16_is_computed_in_bf16_and_passes_its_own_gate(
    tmp_path, tiny, sentences, export, evaluate
):
    given = {"data_dir": sentences, "backend": "torchscript", "precision": "bf16"}
    run = export(pth_dir=tiny, save_dir=tmp_path, compare_cpu=True, **given, **SMALL)
    assert "compare_cpu PASS" in run.out and run.code == 0
    assert 1e-4 < relative(run) < 2e-2
    run = evaluate(aie_model_dir=tmp_path / FILE, data_dir=sentences)
    assert "precision bf16 (read back)" in run.out


BF16 = {"backend": "openvino", "precision": "bf16", "compare_cpu": True}


def needs_openvino_bf16():
    openvino = pytest.importorskip("albert_aie.backends.openvino")
    if openvino.unavailable("cpu") or "BF16" not in openvino.capabilities():
        pytest.skip("OpenVINO computes in bf16 only where the CPU has the instructions")


def test_openvino_computes_in_bf16_and_passes_its_gate(tmp_path, tiny, sst2, export, evaluate):
    needs_openvino_bf16()
    given = {"pth_dir": tiny, "data_dir": sst2, "compare_rows": 200}
    run = export(save_dir=tmp_path, **given, **BF16, **shape(8, 64))
    assert run.code == 0 and "200 sentences" in run.out and "compare_cpu PASS" in run.out, run.out
    assert 1e-4 < relative(run) < 2e-2
    (file,) = tmp_path.glob("*.pt")
    run = evaluate(aie_model_dir=file, data_dir=sst2)
    assert "precision bf16 (read back)" in run.out


def test_long_sentences_keep_their_positions_in_openvino_bf16(tmp_path, tiny, export):
    """Positions are counted inside a packed graph, and bf16 has no whole number between 256 and
    258."""
    needs_openvino_bf16()
    words = "a fine film that never once grows dull or makes less sense than it must"
    lines = [f"{' '.join([words] * n)}\t1" for n in (20, 3, 22, 1, 18)]
    (tmp_path / "dev.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    given = {"pth_dir": tiny, "data_dir": tmp_path, "save_dir": tmp_path}
    run = export(**given, **BF16, **shape(1, 512))
    assert run.code == 0 and relative(run) < 2e-2, run.out


def test_a_comparison_whose_process_was_killed_is_not_a_failed_one(compiled):
    class Killer:
        def __reduce__(self):
            return os._exit, (9,)

    target = backends.Target("torchscript", "cpu", "fp32")
    with pytest.raises(UserError, match="ended with exit code 9"):
        with logits_in_fresh_process([compiled], target, [Killer()]) as answer:
            answer()


BARE = """
import sys, torch
program = torch.jit.load(sys.argv[1])
ones = torch.ones(4, 32, dtype=torch.long)
logits = program(ones, ones, 0 * ones)
assert logits.shape == (4, 2) and logits.dtype == torch.float32
assert "albert_aie" not in sys.modules
"""


def test_a_compiled_file_opens_with_bare_torch(tmp_path, compiled):
    run = python("-c", BARE, compiled, cwd=tmp_path)
    assert run.code == 0, run.err


@pytest.fixture(scope="module")
def printed(tmp_path_factory, tiny, sentences):
    """Both scripts as processes that print all they can; stdout and stderr are no terminal."""
    folder = tmp_path_factory.mktemp("printed")
    given = flags(pth_dir=tiny, data_dir=sentences, compare_cpu=True)
    target = flags(save_dir=folder, precision="fp32", **SMALL)
    exported = python(ROOT / "export_albert_aie.py", *given, *target)
    file = flags(aie_model_dir=folder / "albert_seq32_bs4.pt", output_dir=folder)
    return exported, python(ROOT / "run_aie_eval.py", *given, *file)


def test_results_are_on_stdout_and_nothing_is_on_stderr_where_that_is_no_terminal(printed):
    exported, evaluated = printed
    for run in printed:
        assert run.code == 0 and run.err == "", run.err
        assert "compare_cpu PASS" in run.out
    begin = [line[:12].rstrip() for line in exported.out.splitlines()]
    assert {"backend", "checkpoint", "compiled", "wrote", "reference", "difference"} <= {*begin}
    begin = [line[:12].rstrip() for line in evaluated.out.splitlines()]
    assert {"file", "data", "accuracy", "throughput", "latency"} <= {*begin}
    assert {"wrote", "reference", "difference"} <= {*begin}


def test_a_line_of_stdout_has_at_most_80_columns_unless_it_holds_a_path(printed):
    for run in printed:
        for line in run.out.splitlines():
            assert len(line) <= 80 or re.search(r" \.{0,2}/\S", line), line


PUBLISHED_EXPORT = ["--batch_size=32", "--max_seq_length=128", "--compare_cpu"]
PUBLISHED_EVALUATION = """
./run_aie_eval.py
--aie_model_dir=../albert_seq128_bs32.pt
--model_type=SST
--model_name_or_path=./prev_trained_model/albert_base_v2
--task_name=SST-2
--data_dir=./dataset/SST-2
--spm_model_file=./prev_trained_model/albert_base_v2/30k-clean.model
--output_dir=./outputs/SST-2/
--do_lower_case
--max_seq_length=128
--batch_size=32
""".split()


def fill(tree, tiny, sentences):
    """Puts checkpoint, vocabulary and data in albert_pytorch's own places."""
    outputs, vocabulary = tree / "outputs" / "SST-2", tree / "prev_trained_model" / "albert_base_v2"
    shutil.copytree(sentences, tree / "dataset" / "SST-2")
    shutil.copytree(tiny, outputs)
    vocabulary.mkdir(parents=True)
    shutil.move(str(outputs / "30k-clean.model"), str(vocabulary))
    shutil.copy(ROOT / "run_aie_eval.py", tree)
    return outputs


def test_the_published_command_line_runs_in_an_upstream_tree(tmp_path, tiny, sentences):
    """As in the published README: the script copied into the tree, started from there, every flag
    as it stands."""
    tree = tmp_path / "albert_pytorch"
    outputs = fill(tree, tiny, sentences)
    env = {"PYTHONPATH": ""}
    run = python(ROOT / "export_albert_aie.py", *PUBLISHED_EXPORT, cwd=tmp_path, env=env)
    assert run.code == 0, run.err
    before = sorted(os.listdir(outputs))
    run = python(*PUBLISHED_EVALUATION, cwd=tree, env=env)
    assert run.code == 0, run.err
    assert "11 of 11 sentences scored" in run.out and run.err == ""
    assert sorted(os.listdir(outputs)) == sorted([*before, "eval.json", "predictions.tsv"])


@pytest.mark.upstream
def test_the_published_command_line_runs_in_the_real_patched_tree(
    tmp_path, tiny, sentences, patched_tree
):
    """Clone, patch, checkpoint and data in upstream's own places; the graph is upstream's."""
    tree = shutil.copytree(patched_tree, tmp_path / "albert_pytorch")
    fill(tree, tiny, sentences)
    command = [ROOT / "export_albert_aie.py", *PUBLISHED_EXPORT, "--graph=upstream"]
    run = python(*command, cwd=tmp_path)
    assert run.code == 0, run.err
    assert "albert_pytorch in" in run.said and "upstream graph" in run.said
    run = python(*PUBLISHED_EVALUATION, cwd=tree)
    assert run.code == 0 and "11 of 11 sentences scored" in run.out, run.err


def test_auto_says_what_it_took_and_why(monkeypatch):
    absent = backends.Unavailable("no card", "buy one")
    monkeypatch.setattr(backends.get("aie"), "unavailable", lambda device: absent)
    broken = backends.Unavailable("no OpenVINO", "install it", broken=True)
    monkeypatch.setattr(backends.get("openvino"), "unavailable", lambda device: broken)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    *taken, why = backends.pick()
    assert taken == ["torchscript", "cpu"]
    assert why.startswith("not aie on npu: no card; ")
    assert why.endswith("; not openvino on cpu: no OpenVINO: install it")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backends.pick()[:2] == ("torchscript", "cuda")
    monkeypatch.setattr(backends.get("aie"), "unavailable", lambda device: None)
    assert backends.pick()[:2] == ("aie", "npu")
    assert backends.pick("torchscript", "cpu") == ("torchscript", "cpu", "asked for")


def test_one_row_is_enough(tmp_path, compiled, evaluate):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n \t1\n")  # a blank one is [CLS] [SEP]
    run = evaluate(aie_model_dir=compiled, data_dir=tmp_path)
    assert run.code == 0 and "1 of 1 sentences scored" in run.out


@pytest.mark.slow
def test_base_architecture_with_the_real_vocabulary(tmp_path, albert_files, sst2, export):
    config = json.loads((albert_files / "config.json").read_text())
    folder = write_checkpoint(tmp_path / "base", config, spm=albert_files / "30k-clean.model")
    given = {"data_dir": sst2, "backend": "torchscript", "compare_cpu": True, "compare_rows": 16}
    run = export(pth_dir=folder, save_dir=tmp_path, **given, **shape(8, 64))
    assert run.code == 0 and "compare_cpu PASS" in run.out
    size = (tmp_path / "albert_seq64_bs8.pt").stat().st_size
    assert size <= 1.3 * (folder / "pytorch_model.bin").stat().st_size
