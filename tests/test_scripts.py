"""The two commands on input that is right."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, upstream_tree, write_checkpoint

from albert_aie import UserError, backends, graph
from albert_aie.evaluate import logits_in_fresh_process

ENGINES = [pytest.param("torchscript", id="torchscript"), pytest.param("openvino", id="openvino")]


def shape(batch_size, seq):
    return "--batch_size", batch_size, "--max_seq_length", seq


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["upstream", "hf"])
def test_export_compare_and_evaluate(tmp_path, tiny, tiny_hf, sentences, export, evaluate, engine, layout):
    folder = {"upstream": tiny, "hf": tiny_hf}[layout]
    run = export(
        "--pth_dir",
        folder,
        "--data_dir",
        sentences,
        "--save_dir",
        tmp_path,
        *shape(4, 32),
        "--backend",
        engine,
        "--precision",
        "fp32",
        "--compare_cpu",
    )
    assert run.code == 0, run.err
    assert f"{engine} on cpu (asked for)" in run.out and "compare_cpu PASS" in run.out and "label flips 0 (gate 0)" in run.out
    before = sorted(os.listdir(sentences))
    run = evaluate(
        "--aie_model_dir",
        tmp_path / "albert_seq32_bs4.pt",
        "--data_dir",
        sentences,
        "--output_dir",
        tmp_path / "out",
        "--compare_cpu",
        "--pth_dir",
        folder,
    )
    assert run.code == 0, run.err
    assert "11 of 11 rows scored, 0 truncated" in run.out and "precision fp32 (read back)" in run.out
    report = json.loads((tmp_path / "out" / "eval.json").read_text())
    rows = [line.split("\t") for line in (tmp_path / "out" / "predictions.tsv").read_text().splitlines()]
    assert rows[0] == ["index", "prediction", "label", "logit_negative", "logit_positive", "sentence"]
    right = sum(row[1] == row[2] for row in rows[1:])
    assert report["accuracy"]["correct"] == right and report["accuracy"]["total"] == len(rows) - 1 == 11
    assert f"{right / 11:.4f} ({right}/11)" in run.out
    assert report["batches"] == 3 and report["positions"] == 3 * 4 * 32 and report["precision"] == "fp32"
    assert report["seconds"]["end_to_end"] >= report["seconds"]["forward"] + report["seconds"]["tokenize"]
    assert report["manifest"]["versions"]["torch"] == torch.__version__
    assert sorted(os.listdir(sentences)) == before  # nothing is cached beside the data


def test_predictions_do_not_depend_on_the_batch_size(tmp_path, tiny, sst2, export, evaluate):
    """All 872 rows are scored, whatever the batch size leaves over."""
    seen = set()
    for batch_size in (1, 4, 8, 16, 32, 64):
        assert export("--pth_dir", tiny, "--save_dir", tmp_path, *shape(batch_size, 64), "--backend", "torchscript").code == 0
        run = evaluate(
            "--aie_model_dir", tmp_path / f"albert_seq64_bs{batch_size}.pt", "--data_dir", sst2, "--output_dir", tmp_path
        )
        assert "872 of 872 rows scored" in run.out
        rows = [line.split("\t")[:3] for line in (tmp_path / "predictions.tsv").read_text().splitlines()]
        seen.add(json.dumps(rows))
    assert len(seen) == 1


def test_the_test_split_gives_predictions_without_accuracy(tmp_path, tiny, sentences, export, evaluate):
    export("--pth_dir", tiny, "--save_dir", tmp_path, *shape(4, 32))
    run = evaluate(
        "--aie_model_dir",
        tmp_path / "albert_seq32_bs4.pt",
        "--data_dir",
        sentences,
        "--split",
        "test",
        "--output_dir",
        tmp_path / "out",
    )
    assert run.code == 0 and "accuracy    none: the split has no labels" in run.out
    assert "accuracy" not in json.loads((tmp_path / "out" / "eval.json").read_text())
    assert len((tmp_path / "out" / "predictions.tsv").read_text().splitlines()) == 12


def test_predictions_carry_the_test_splits_own_indices(tmp_path, tiny, export, evaluate):
    (tmp_path / "test.tsv").write_text("index\tsentence\n7\ta fine film .\n9\tdull\n")
    export("--pth_dir", tiny, "--save_dir", tmp_path, *shape(4, 32))
    given = ["--aie_model_dir", tmp_path / "albert_seq32_bs4.pt", "--data_dir", tmp_path, "--split", "test"]
    assert evaluate(*given, "--output_dir", tmp_path / "out").code == 0
    rows = (tmp_path / "out" / "predictions.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["7", "9"]


def test_random_weights_measure_speed_only(tmp_path, tiny, sentences, export, evaluate):
    only_config = tmp_path / "architecture"
    only_config.mkdir()
    shutil.copy(tiny / "config.json", only_config)
    run = export(
        "--pth_dir",
        only_config,
        "--spm_model_file",
        tiny / "30k-clean.model",
        "--random_weights",
        "--save_dir",
        tmp_path,
        "--data_dir",
        sentences,
        *shape(4, 32),
        "--compare_cpu",
    )
    assert run.code == 0 and ", fp32, batch" in run.out and "compare_cpu PASS" in run.out
    run = evaluate("--aie_model_dir", tmp_path / "albert_seq32_bs4.pt", "--data_dir", sentences)
    assert "accuracy    none: the file holds random weights" in run.out


def test_truncation_is_counted(tmp_path, tiny, sentences, export, evaluate):
    export("--pth_dir", tiny, "--save_dir", tmp_path, *shape(4, 8))
    run = evaluate("--aie_model_dir", tmp_path / "albert_seq8_bs4.pt", "--data_dir", sentences)
    truncated = int(run.out.split(" truncated")[0].split()[-1])
    assert 0 < truncated < 11


def test_a_file_that_differs_from_its_checkpoint_fails_the_comparison(tmp_path, tiny, sentences, export, evaluate, monkeypatch):
    real = graph.build

    def build(source, *rest):
        module = real(source, *rest)
        module.ffn_w.mul_(1.05)
        return module

    monkeypatch.setattr(graph, "build", build)
    run = export(
        "--pth_dir",
        tiny,
        "--data_dir",
        sentences,
        "--save_dir",
        tmp_path,
        *shape(4, 32),
        "--compare_cpu",
        "--backend",
        "torchscript",
    )
    assert run.code == 1 and "compare_cpu FAIL" in run.out
    run = evaluate(
        "--aie_model_dir", tmp_path / "albert_seq32_bs4.pt", "--data_dir", sentences, "--compare_cpu", "--pth_dir", tiny
    )
    assert run.code == 1 and "compare_cpu FAIL" in run.out


def test_bf16_is_computed_in_bf16_and_passes_its_own_gate(tmp_path, tiny, sentences, export, evaluate):
    run = export(
        "--pth_dir",
        tiny,
        "--data_dir",
        sentences,
        "--save_dir",
        tmp_path,
        *shape(4, 32),
        "--compare_cpu",
        "--backend",
        "torchscript",
        "--precision",
        "bf16",
    )
    assert "compare_cpu PASS" in run.out and run.code == 0
    relative = float(run.out.split("relative ")[1].split()[0])
    assert 1e-4 < relative < 2e-2
    assert (
        "precision bf16 (read back)" in evaluate("--aie_model_dir", tmp_path / "albert_seq32_bs4.pt", "--data_dir", sentences).out
    )


def needs_openvino_bf16():
    openvino = pytest.importorskip("albert_aie.backends.openvino")
    if openvino._not_importable() or "BF16" not in openvino._capabilities():
        pytest.skip("OpenVINO computes in bf16 only where the CPU has the instructions")


@pytest.mark.parametrize("flags", [[], ["--pack"]])
def test_openvino_computes_in_bf16_and_passes_its_gate(tmp_path, tiny, sst2, export, evaluate, flags):
    needs_openvino_bf16()
    target = ["--backend", "openvino", "--precision", "bf16", "--save_dir", tmp_path]
    run = export("--pth_dir", tiny, "--data_dir", sst2, *target, *shape(8, 64), *flags, "--compare_cpu")
    assert run.code == 0 and "872 rows" in run.out and "compare_cpu PASS" in run.out, run.out
    assert 1e-4 < float(run.out.split("relative ")[1].split()[0]) < 2e-2
    (file,) = tmp_path.glob("*.pt")
    assert "precision bf16 (read back)" in evaluate("--aie_model_dir", file, "--data_dir", sst2).out


def test_long_sentences_keep_their_positions_in_openvino_bf16(tmp_path, tiny, export):
    """Positions are counted inside a packed graph, and bf16 has no whole number between 256 and 258."""
    needs_openvino_bf16()
    words = "a fine film that never once grows dull or makes less sense than it must"
    lines = [f"{' '.join([words] * n)}\t1" for n in (20, 3, 22, 1, 18)]
    (tmp_path / "dev.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    target = ["--backend", "openvino", "--precision", "bf16", "--save_dir", tmp_path, "--compare_cpu", "--pack"]
    run = export("--pth_dir", tiny, "--data_dir", tmp_path, *target, *shape(1, 512))
    assert run.code == 0 and float(run.out.split("relative ")[1].split()[0]) < 2e-2, run.out


def test_a_comparison_whose_process_was_killed_is_not_a_failed_one(tmp_path, tiny, export):
    class Killer:
        def __reduce__(self):
            return os._exit, (9,)

    assert export("--pth_dir", tiny, "--save_dir", tmp_path, *shape(4, 32), "--backend", "torchscript").code == 0
    target = backends.Target("torchscript", "cpu", "fp32")
    with pytest.raises(UserError, match="was killed"):
        logits_in_fresh_process(tmp_path / "albert_seq32_bs4.pt", target, [Killer()])


def test_a_compiled_file_opens_with_bare_torch(tmp_path, tiny, export):
    export("--pth_dir", tiny, "--save_dir", tmp_path, *shape(2, 16), "--backend", "torchscript")
    code = (
        "import torch, sys; m = torch.jit.load(sys.argv[1]); x = torch.ones(2, 16, dtype=torch.long);"
        "y = m(x, x, 0 * x); assert y.shape == (2, 2) and y.dtype == torch.float32; assert 'albert_aie' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "albert_seq16_bs2.pt")], check=True, cwd=tmp_path)


def test_the_published_command_line_runs_in_an_upstream_tree(tmp_path, tiny, sentences, export):
    """As in the published README: the script copied into the tree, started from there, every flag as it stands."""
    tree = tmp_path / "albert_pytorch"
    (tree / "dataset").mkdir(parents=True)
    shutil.copytree(sentences, tree / "dataset" / "SST-2")
    shutil.copytree(tiny, tree / "outputs" / "SST-2")
    (tree / "prev_trained_model" / "albert_base_v2").mkdir(parents=True)
    shutil.move(str(tree / "outputs" / "SST-2" / "30k-clean.model"), str(tree / "prev_trained_model" / "albert_base_v2"))
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run(
        [sys.executable, str(ROOT / "export_albert_aie.py"), "--batch_size=32", "--max_seq_length=128", "--compare_cpu"],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    shutil.copy(ROOT / "run_aie_eval.py", tree)
    before = sorted(os.listdir(tree / "outputs" / "SST-2"))
    done = subprocess.run(
        [
            sys.executable,
            "./run_aie_eval.py",
            "--aie_model_dir=../albert_seq128_bs32.pt",
            "--model_type=SST",
            "--model_name_or_path=./prev_trained_model/albert_base_v2",
            "--task_name=SST-2",
            "--data_dir=./dataset/SST-2",
            "--spm_model_file=./prev_trained_model/albert_base_v2/30k-clean.model",
            "--output_dir=./outputs/SST-2/",
            "--do_lower_case",
            "--max_seq_length=128",
            "--batch_size=32",
        ],
        cwd=tree,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "11 of 11 rows scored" in done.stdout and done.stderr == ""
    assert sorted(os.listdir(tree / "outputs" / "SST-2")) == sorted([*before, "eval.json", "predictions.tsv"])


@pytest.mark.upstream
def test_the_published_command_line_runs_in_the_real_patched_tree(tmp_path, tiny, sentences):
    """Clone, patch, fine-tuned folder and data in upstream's own places; the graph is upstream's."""
    tree = shutil.copytree(upstream_tree(), tmp_path / "albert_pytorch", ignore=shutil.ignore_patterns(".git"))
    with open(ROOT / "albert.patch") as patch:
        subprocess.run(["patch", "-p1", "-s"], cwd=tree, stdin=patch, check=True)
    for source, place in ((sentences, "dataset"), (tiny, "outputs")):
        shutil.copytree(source, tree / place / "SST-2", dirs_exist_ok=True)
    vocabulary = tree / "prev_trained_model" / "albert_base_v2" / "30k-clean.model"
    vocabulary.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny / "30k-clean.model", vocabulary)
    shutil.copy(ROOT / "run_aie_eval.py", tree)
    command = [sys.executable, str(ROOT / "export_albert_aie.py"), "--batch_size=32", "--max_seq_length=128", "--compare_cpu"]
    done = subprocess.run([*command, "--graph=upstream"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "albert_pytorch in" in done.stdout and "upstream graph" in done.stdout, done.stderr
    flags = (
        "--aie_model_dir=../albert_seq128_bs32.pt --model_type=SST --model_name_or_path=./prev_trained_model/albert_base_v2 "
        "--task_name=SST-2 --data_dir=./dataset/SST-2 --spm_model_file=./prev_trained_model/albert_base_v2/30k-clean.model "
        "--output_dir=./outputs/SST-2/ --do_lower_case --max_seq_length=128 --batch_size=32"
    )
    done = subprocess.run([sys.executable, "./run_aie_eval.py", *flags.split()], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0 and "11 of 11 rows scored" in done.stdout, done.stderr


def test_auto_says_what_it_took_and_why(monkeypatch):
    monkeypatch.setattr(backends.get("aie"), "unavailable", lambda device: "no card")
    monkeypatch.setattr(backends.get("openvino"), "unavailable", lambda device: "no OpenVINO")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backends.pick()[:2] == ("torchscript", "cpu")
    assert "aie on npu not: no card" in backends.pick()[2] and "openvino on cpu not: no OpenVINO" in backends.pick()[2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backends.pick()[:2] == ("torchscript", "cuda")
    monkeypatch.setattr(backends.get("aie"), "unavailable", lambda device: "")
    assert backends.pick()[:2] == ("aie", "npu")
    assert backends.pick("torchscript", "cpu") == ("torchscript", "cpu", "asked for")


def test_one_row_is_enough(tmp_path, tiny, export, evaluate):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n \t1\n")  # a blank sentence is [CLS] [SEP]
    assert export("--pth_dir", tiny, "--save_dir", tmp_path, *shape(8, 16)).code == 0
    run = evaluate("--aie_model_dir", tmp_path / "albert_seq16_bs8.pt", "--data_dir", tmp_path)
    assert run.code == 0 and "1 of 1 rows scored" in run.out


def test_base_architecture_with_the_real_vocabulary(tmp_path, albert_files, sst2, export):
    folder = write_checkpoint(
        tmp_path / "base", json.loads((albert_files / "config.json").read_text()), spm=albert_files / "30k-clean.model"
    )
    run = export(
        "--pth_dir",
        folder,
        "--data_dir",
        sst2,
        "--save_dir",
        tmp_path,
        *shape(8, 64),
        "--backend",
        "torchscript",
        "--compare_cpu",
        "--compare_rows",
        16,
    )
    assert run.code == 0 and "compare_cpu PASS" in run.out
    file = tmp_path / "albert_seq64_bs8.pt"
    assert file.stat().st_size <= 1.3 * (folder / "pytorch_model.bin").stat().st_size


def test_the_batch_size_sweep_prints_its_table(tiny, sentences):
    command = [sys.executable, str(ROOT / "benchmarks" / "batch_sizes.py"), "--batch_sizes", "1", "4", "--max_seq_length", "32"]
    flags = ["--data_dir", str(sentences), "--pth_dir", str(tiny), "--backend", "torchscript"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| 1 | 11 of 11 |" in done.stdout and "| 4 | 11 of 11 |" in done.stdout and "predictions identical" in done.stdout
    packed = subprocess.run([*command, *flags, "--pack", "--slots", "3"], capture_output=True, text=True)
    assert packed.returncode == 0 and "| 4 | 11 of 11 |" in packed.stdout, packed.stderr
    failed = subprocess.run([*command, *flags, "--pth_dir", "nowhere"], capture_output=True, text=True)
    assert failed.returncode == 2 and "nowhere: no such folder" in failed.stderr
