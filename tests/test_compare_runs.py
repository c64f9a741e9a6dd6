"""benchmarks/compare_runs.py: on tables worked out by hand, and on real runs."""

import hashlib
import json
import shutil
import sys

import numpy
import pytest
from helpers import Run, flags, read_results, refused

import run_aie_eval
from albert_aie.cli import console
from benchmarks import compare_runs


@pytest.fixture
def compared(capfd):
    def run(*arguments):
        capfd.readouterr()
        code = console.main(compare_runs.parse_args, compare_runs.run, list(map(str, arguments)))
        return Run(code, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    "old, new, p",
    [
        ("1" * 6, "0" * 6, 2 / 64),  # 0 of 6 coins
        ("1" + "0" * 5, "0" + "1" * 5, 2 * (1 + 6) / 64),  # 1 of 6
        ("1" * 2 + "0" * 10, "0" * 2 + "1" * 10, 2 * (1 + 12 + 66) / 4096),  # 2 of 12
        ("110" * 9, "110" * 9, 1),
        ("10", "01", 1),
    ],
)
def test_p_of_the_exact_mcnemar_test_by_hand(old, new, p):
    old, new = (numpy.array([c == "1" for c in side]) for side in (old + "10", new + "10"))
    only_old, only_new, found = compare_runs.mcnemar(old, new)
    assert found == pytest.approx(p, abs=1e-12)
    assert (only_old, only_new) == (int((old > new).sum()), int((new > old).sum()))


def run_of(*shapes, slots=0, **more):
    """What eval.json says of batches: (batches, rows, tokens, p50) of each shape."""
    names = ("batches", "batch_size", "max_seq_length")
    listed = [
        {**dict(zip(names, each)), "slots": slots, "forward_ms": {"p50": each[3]}}
        for each in shapes
    ]
    return {"shapes": listed, "latency_ms": {"p50": 10.0, "p99": 20.0}, **more}


BATCHES = (2, 8, 64, 1), (2, 4, 128, 1)


@pytest.mark.parametrize(
    "shapes, slots", [(BATCHES, 4), (((3, 8, 64, 1), (1, 4, 128, 1)), 0), (BATCHES, 0)]
)
def test_the_interval_of_a_speed(shapes, slots):
    """Twice as fast in every batch: no spread where batches are paired, which they are where the
    shapes agree, some where they are not. With one batch on each side there is none."""
    old = run_of(*BATCHES, latencies_ms=[10.0, 30.0, 20.0, 40.0])
    new = run_of(*shapes, slots=slots, latencies_ms=[5.0, 15.0, 10.0, 20.0])
    low, high = found = compare_runs.spread(old, new, 2.0)
    if (shapes, slots) == (BATCHES, 0):
        assert found == pytest.approx((2.0, 2.0))
    else:
        assert 0.8 < low < 1.5 and 2.7 < high < 5
    for run in (old, new):
        run["latencies_ms"] = [10.0]
    assert compare_runs.spread(old, new, 1.0) == (1.0, 1.0)


@pytest.mark.parametrize(
    "old, new, line",
    [
        ([(4, 8, 64, 5)], [(4, 8, 64, 6)], "p50 10.0 -> 10.0, p99 20.0 -> 20.0 ms a batch"),
        (
            [(4, 8, 64, 5.0), (1, 4, 128, 7.0)],
            [(2, 4, 128, 8.0), (3, 8, 64, 6.0), (1, 1, 64, 1.0)],
            "p50 5.0 -> 6.0 ms a batch of 8 x 64\np50 7.0 -> 8.0 ms a batch of 4 x 128",
        ),
        ([(4, 8, 64, 5)], [(4, 32, 128, 6)], "of batches of unlike shapes: not compared"),
    ],
)
def test_latencies_are_those_of_the_same_shape(old, new, line):
    assert compare_runs.latency(run_of(*old), run_of(*new)) == line


def test_runs_whose_rows_were_made_otherwise_say_so(
    evaluated, compiled, sentences, evaluate, compared
):
    old, new = evaluated
    given = {"aie_model_dir": compiled, "data_dir": sentences, "output_dir": old, "padded": True}
    assert evaluate(**given, label_map="0=positive,1=negative").code == 0
    run = compared(old, new)
    assert run.code == 0 and "rows: padded -> chosen" in run.out, run.out
    assert "classes: ['positive', 'negative'] -> ['negative', 'positive']" in run.said
    assert "shapes: 3 of 4 x 32 -> " in run.said


def test_the_speed_of_sentences_one_at_a_time():
    """Of sentences, paired whatever rows they took: 10 to 20 a second."""
    old = {"sentences_per_second": 10.0, "latencies_ms": [80.0, 120.0], "shapes": 1}
    new = {"sentences_per_second": 20.0, "latencies_ms": [40.0, 60.0], "shapes": 2}
    (line,) = compare_runs.speed(old, new)
    assert line == ("10.0 -> 20.0 sentences/s, one at a time, 2.000 times [2.000, 2.000]")


def test_batches_are_not_compared_with_single_sentences(
    evaluated, compiled, sentences, evaluate, compared
):
    old, new = evaluated
    given = {"aie_model_dir": compiled, "data_dir": sentences, "one_at_a_time": True}
    assert evaluate(output_dir=new, **given).code == 0
    assert refused(compared(old, new), "sent whole batches", "sent one sentence at a time")
    assert evaluate(output_dir=old, **given).code == 0
    run = compared(old, new)
    assert run.code == 0 and "ms a sentence" in run.said and "sentences/s, one at a" in run.said


@pytest.fixture(scope="module")
def both_runs(tmp_path_factory, compiled, sentences):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("old", "new"):
        given = {"aie_model_dir": compiled, "data_dir": sentences, "output_dir": folder / name}
        assert run_aie_eval.main(flags(**given)) == 0
    return folder


@pytest.fixture
def evaluated(tmp_path, both_runs):
    """Folders of two runs of one file."""
    return [shutil.copytree(both_runs / name, tmp_path / name) for name in ("old", "new")]


def write_rows(folder, rows, **changed):
    """Other lines of predictions.tsv in a run's folder, which eval.json goes with."""
    path = folder / "predictions.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    edit(folder, predictions_sha256=hashlib.sha256(path.read_bytes()).hexdigest(), **changed)


def edit(folder, **changed):
    """Other keys in a run's eval.json."""
    result, _ = read_results(folder)
    (folder / "eval.json").write_text(json.dumps({**result, **changed}), encoding="utf-8")


def answer(folder, wrong):
    """Let a run give every sentence its label, but for the first `wrong` of them."""
    _, (header, *rows) = read_results(folder)
    other = {"negative": "positive", "positive": "negative"}
    for number, row in enumerate(rows):
        row[1] = other[row[2]] if number < wrong else row[2]
    right = len(rows) - wrong
    accuracy = {"correct": right, "total": len(rows), "value": right / len(rows)}
    write_rows(folder, [header, *rows], accuracy=accuracy)


def test_two_runs_of_one_file_do_not_differ(evaluated, compared):
    run = compared(*evaluated, "--fail_if_worse")
    assert run.code == 0, run.err
    assert "changed     nothing but what was measured" in run.out
    assert "exact McNemar p = 1.0000: no more than chance" in run.said
    assert "0 of 11 predictions differ" in run.out and "verdict     not worse" in run.out
    assert all(len(line) <= 80 for line in run.out.splitlines() if "/" not in line)


def test_accuracy_that_fell_by_more_than_chance(evaluated, compared):
    """All 11 right, then all wrong: p = 2 / 2**11. The other way round it is no loss."""
    old, new = evaluated
    answer(old, wrong=0)
    answer(new, wrong=11)
    run = compared(old, new)
    assert run.code == 0 and "1.0000 (11/11) -> 0.0000 (0/11)" in run.said
    assert "p = 0.0010: more than chance" in run.said
    assert "11 of 11 predictions differ: 11 right in old only, 0 right in new only" in run.said
    assert "verdict worse: accuracy fell by more than chance" in run.said
    assert compared(old, new, "--fail_if_worse").code == 1
    assert compared(new, old, "--fail_if_worse").code == 0
    answer(new, wrong=5)  # which chance explains
    run = compared(old, new, "--fail_if_worse")  # 5 of 5: p = 2 / 32
    assert run.code == 0 and "p = 0.0625: no more than chance" in run.said


def test_what_changed_is_named(evaluated, compared):
    old, new = evaluated
    result, _ = read_results(new)
    edit(new, streams=7, versions={**result["versions"], "torch": "9.9"})
    for folder, *rates, p50, p99, peak in ((old, 25, 40, 40, 70, 4), (new, 50, 20, 80, 90, 5)):
        edit(
            folder,
            samples_per_second=dict(zip(("forward", "end_to_end"), rates)),
            latency_ms={**result["latency_ms"], "p50": p50, "p99": p99},
            peak_memory_bytes=1_000_000 * peak,
        )
    run = compared(old, new)
    assert "streams: 1 -> 7" in run.out and "-> 9.9" in run.out
    assert "forward 25.0 -> 50.0 samples/s, 2.000 times [" in run.said
    assert "end to end 40.0 -> 20.0 samples/s, 0.500 times" in run.said
    assert "p50 40.0 -> 80.0, p99 70.0 -> 90.0 ms a batch" in run.said
    assert "peak 4 -> 5 MB" in run.out


def test_runs_without_labels_and_how_far_their_logits_are_apart(
    tmp_path, compiled, evaluate, compared
):
    """Less their mean the logits are (-1, 1) and (1, -1), of norm 2. All a quarter greater: 0.25
    apart. The second turned round: its difference (2, -2) has the norm sqrt(8), sqrt(2) apart. A
    model with its classes in another order has the columns in another order, and nothing else."""
    data = tmp_path / "SST-2"
    data.mkdir()
    data.joinpath("test.tsv").write_text("index\tsentence\n0\tfine\n1\tdull\n", encoding="utf-8")
    for name, logits in (("a", [-1, 1, 3, 1]), ("b", [-1, 1.5, 3.5, 1]), ("c", [-1, 1, 1, 3])):
        given = {"data_dir": data, "split": "test", "output_dir": tmp_path / name}
        assert evaluate(aie_model_dir=compiled, **given).code == 0
        _, (header, *rows) = read_results(tmp_path / name)
        places = [header.index(f"logit_{name}") for name in ("negative", "positive")]
        for row, numbers in zip(rows, zip(logits[::2], logits[1::2])):
            for place, number in zip(places, numbers):
                row[place] = str(float(number))
            row[1] = ("negative", "positive")[numbers[1] > numbers[0]]
        write_rows(tmp_path / name, [header, *rows])
    run = compared(tmp_path / "a", tmp_path / "b")
    assert run.code == 0 and "0 of 2 predictions differ" in run.out and "accuracy" not in run.out
    assert "relative error of the logits 2.50e-01" in run.out
    run = compared(tmp_path / "a", tmp_path / "c")
    assert "1 of 2 predictions differ" in run.out
    assert "relative error of the logits 1.41e+00" in run.out
    _, lines = read_results(tmp_path / "b")
    one, other = (lines[0].index(f"logit_{name}") for name in ("negative", "positive"))
    for line in lines:
        line[one], line[other] = line[other], line[one]
    write_rows(tmp_path / "b", lines)
    assert "relative error of the logits 2.50e-01" in compared(tmp_path / "a", tmp_path / "b").out


def test_fewer_scored_sentences_and_a_metric_without_a_test(evaluated, compared):
    old, new = evaluated
    edit(new, sentences_scored=9)
    run = compared(old, new, "--fail_if_worse")
    assert run.code == 1 and "11 -> 9 of 11 sentences" in run.said
    for folder, value in ((old, 0.9), (new, 0.894)):
        result, _ = read_results(folder)
        result.pop("accuracy")
        result.update(metrics={"pearson": value}, sentences_scored=11)
        (folder / "eval.json").write_text(json.dumps(result), encoding="utf-8")
    run = compared(old, new, "--fail_if_worse")
    assert run.code == 1 and "Pearson     0.9000 -> 0.8940" in run.out
    assert "worse: Pearson fell by more than 0.005" in run.said
    assert compared(new, old, "--fail_if_worse").code == 0
    edit(new, metrics={"pearson": 0.896})
    assert compared(old, new, "--fail_if_worse").code == 0
    edit(new, metrics={"pearson": None})
    run = compared(old, new, "--fail_if_worse")
    assert run.code == 1 and "Pearson     0.9000 -> undefined" in run.out


def test_without_scipy_it_is_one_sentence(compared, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    run = compared(tmp_path, tmp_path)
    assert refused(run, "compare_runs.py: needs scipy; pip install scipy")


def test_runs_that_cannot_be_compared(evaluated, compared, tmp_path):
    old, new = evaluated
    assert refused(compared(old, tmp_path), "eval.json: no such file")
    result, table = read_results(new)[0], (new / "predictions.tsv").read_bytes()
    (new / "predictions.tsv").write_bytes(table.replace(b"negative", b"positive", 1))
    assert refused(compared(old, new), "predictions.tsv: is not of the run that eval.json describ")
    (new / "predictions.tsv").write_bytes(table)
    fewer = {key: result[key] for key in result if key not in ("streams", "machine")}
    for wrong, words in (
        ({**result, "digests": {**result["digests"], "data": "0" * 64}}, "other sentences or labe"),
        ({**result, "schema_version": None}, "schema version None, this program reads 3"),
        (fewer, "eval.json: has no machine, streams; run the evaluation"),
        ([], "eval.json: not what run_aie_eval.py writes"),
    ):
        (new / "eval.json").write_text(json.dumps(wrong), encoding="utf-8")
        assert refused(compared(old, new), words)
