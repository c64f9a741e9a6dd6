"""report.html: its figures by hand, its text escaped, and the pages of real runs."""

import re
import shutil
import sys

import numpy
import pytest
from helpers import refused

from albert_aie.base.errors import UserError
from albert_aie.data.datasets import Examples
from albert_aie.data.tasks import SST2
from albert_aie.report import page, plots
from albert_aie.run.classifier import softmax
from benchmarks import cells, sweep_page

EVIL = '<script>alert("x")</script><b>&amp;'
NAN = float("nan")


def examples(labels, sentences=None, classes=SST2.classes):
    sentences = sentences or [f"text {i}" for i in range(len(labels))]
    return Examples(SST2, "dev.tsv", sentences, labels, list(range(len(labels))), classes)


def test_the_calibration_error_by_hand():
    """15 bins: 0.5 lies in the 8th, 0.61 and 0.65 in the 10th, 0.99 and 1 in the 15th. Gaps: 0.5,
    |0.5 - 0.63| and |1 - 0.995|, of 1, 2 and 2 of five sentences."""
    confidence = numpy.array([0.5, 0.61, 0.65, 0.99, 1.0])
    bins, error = page.calibration(confidence, numpy.array([True, True, False, True, True]))
    assert [count for *_, count in bins] == [1, 2, 2]
    assert [mean for mean, *_ in bins] == pytest.approx([0.5, 0.63, 0.995])
    assert [share for _, share, _ in bins] == [1, 0.5, 1]
    assert error == pytest.approx((1 * 0.5 + 2 * 0.13 + 2 * 0.005) / 5)
    bins, error = page.calibration(numpy.zeros(0), numpy.zeros(0, bool))
    assert bins == [] and numpy.isnan(error)


LOGITS = numpy.array([[2, 0], [0, 1], [0, 3], [NAN, 0], [4, 0], [0, 0.5]], numpy.float32)
LABELS = [0, 0, 0, 1, 1, 1]


def test_the_confusion_matrix_by_hand():
    made = page.confusion(LOGITS, examples(LABELS))
    assert made["classes"] == ["negative", "positive", "none"]
    assert [(name, [n for n, _ in row]) for name, row in made["rows"]] == [
        ("negative", [1, 2, 0]),
        ("positive", [1, 1, 1]),
    ]
    assert [share for _, share in made["rows"][0][1]] == pytest.approx([1 / 3, 2 / 3, 0])
    three = page.confusion(LOGITS, examples(LABELS, classes=("negative", "positive", "neutral")))
    assert [name for name, _ in three["rows"]] == ["negative", "positive"]  # none is labelled so


def test_the_calibration_error_of_an_evaluation_leaves_out_what_was_not_scored(monkeypatch):
    """The fourth of six has no finite logits. Confidences .8808 and .6225 are right, .7311, .9526
    and .9820 wrong; the last two share a bin."""
    monkeypatch.setattr(page.plots, "picture", lambda *given: given)
    monkeypatch.setattr(page, "lines", lambda *_, **__: [])
    monkeypatch.setattr(page, "render", lambda **page: page)
    made = page.of_evaluation({"task": "SST-2", "random_weights": False}, LOGITS, examples(LABELS))
    ((_, said, _, bins),) = [plot for plot in made["plots"] if plot[0] == "Reliability"]
    wrong = 0.7311 + 0.9526 + 0.9820
    assert said.startswith(f"expected calibration error {(0.1192 + wrong + 0.3775) / 5:.3f}")
    assert sum(count for *_, count in bins) == 5


def test_the_most_confident_errors_first(monkeypatch):
    correct = numpy.array([True, False, False, False, False, True])
    made = page.confident_errors(softmax(LOGITS), correct, examples(LABELS))
    assert [(e["index"], e["prediction"], e["label"]) for e in made] == [
        (4, "negative", "positive"),
        (2, "positive", "negative"),
        (1, "positive", "negative"),
    ]
    assert [e["probability"] for e in made] == ["0.9820", "0.9526", "0.7311"]
    monkeypatch.setattr(page, "WORST", 1)
    assert len(page.confident_errors(softmax(LOGITS), correct, examples(LABELS))) == 1


def outside(text):
    """What a page would load from elsewhere."""
    return re.findall(r'(?:src|href)="(?!#)[^"]*"|url\((?!#)[^)]*\)|@import', text)


def test_the_page_of_an_evaluation(compiled, tmp_path, sentences, evaluate):
    """All text escaped, nothing loaded, every printed line there."""
    rows = (sentences / "dev.tsv").read_text(encoding="utf-8").splitlines()
    folder, file = tmp_path / "evil", tmp_path / "report.html"
    folder.mkdir()
    rows += [f"{EVIL} {i}\t{i % 2}" for i in range(20)]
    (folder / "dev.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    run = evaluate(aie_model_dir=compiled, data_dir=folder, report=file)
    assert run.code == 0 and str(file) in run.out, run.err
    text = file.read_text(encoding="utf-8")
    assert len(text) < 1e6 and outside(text) == [] and text.count("<script>") == 1
    assert EVIL not in text and "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in text
    for words in ("Latency", "Tokens in a row", "Reliability", "Confusion matrix", "p99"):
        assert words in text
    for name, line in re.findall(r"^(\w+) +(\S.*)$", run.out, re.MULTILINE):
        assert f"<dt>{name}</dt>" in text or name == "wrote", name
        assert line.split()[-1] in text or name == "wrote", line
    assert text.count("<svg") == 3 and "#010203" not in text and "currentColor" in text


def test_the_page_of_an_evaluation_that_was_compared(compiled, tmp_path, tiny, sentences, evaluate):
    file = tmp_path / "report.html"
    given = {"aie_model_dir": compiled, "data_dir": sentences, "pth_dir": tiny, "compare_cpu": True}
    assert evaluate(report=file, **given).code == 0
    assert "<dt>compare_cpu</dt><dd>PASS</dd>" in file.read_text(encoding="utf-8")


def test_a_page_without_labels_has_no_errors(compiled, tmp_path, evaluate):
    file = tmp_path / "report.html"
    run = evaluate(aie_model_dir=compiled, text="a fine film", report=file)
    assert run.code == 0, run.err
    text = file.read_text(encoding="utf-8")
    assert "Latency" in text and "confident errors" not in text and "Reliability" not in text


def test_what_no_page_can_be_is_refused_before_the_work(compiled, sentences, evaluate, monkeypatch):
    given = {"aie_model_dir": compiled, "data_dir": sentences}
    run = evaluate(report="report.pdf", **given)
    assert refused(run, "--report report.pdf", "ends in .html") and run.out == ""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = evaluate(report="report.html", **given)
    assert refused(run, "--report: needs matplotlib; pip install") and run.out == ""
    with pytest.raises(UserError, match="needs matplotlib"):
        page.check("a.html")
    page.check(None)


def evaluation(precision, batch_size, length, speed, value, padding=0.5):
    return {
        "precision": precision,
        "sentences_total": 10,
        "max_seq_length": length,
        "batch_size": batch_size,
        "shapes": [{"batch_size": batch_size, "max_seq_length": length, "slots": 0, "batches": 5}],
        "padding": padding,
        "positions": 5 * batch_size * length,
        "metrics": {"accuracy": value},
        "latency_ms": {"p50": 1000 * batch_size / speed},
        "samples_per_second": {"end_to_end": speed, "forward": speed + 1},
        "backend": "openvino",
        "accuracy": {"value": value, "correct": 8, "total": 10},
    }


def swept():
    """A sweep of two precisions, padded and chosen rows, two batch sizes, one of them failed."""
    results = []
    for precision, speed, value in (("fp32", 20, 0.8), ("int8", 30, 0.79)):
        for rows in ("padded", "chosen"):
            for batch_size in (1, 8):
                cell = [precision, rows, 64, batch_size]
                each = [evaluation(precision, batch_size, 64, speed + i, value) for i in (0, 2)]
                comparison = {"passed": True, "reference_value": 0.8, "sentences": 10}
                results.append({"cell": cell, "evaluations": each, "comparison": comparison})
    results[-1] = {"cell": ["int8", "chosen", 64, 8], "error": f"no memory {EVIL}"}
    machine = {"cpu": "EPYC", "cores": 2, "platform": "Linux"}
    machine["packages"] = {"torch": "2", "x": None}
    return {"machine": machine, "command": ["sweep.py", EVIL], "settings": {}, "results": results}


def table_of(everything):
    done = [(cells.Cell(*result["cell"]), result) for result in everything["results"]]
    return cells.table(done, cells.WHOLE)


def test_the_page_of_a_sweep():
    everything = swept()
    text = sweep_page.of_sweep(everything, table_of(everything))
    assert outside(text) == [] and EVIL not in text and text.count("<svg") == 4
    assert text.count("<tr><td>") == 7 and "int8 chosen 64 8" in text and "no memory" in text
    for words in ("fp32 padded 64", "int8 chosen 64", "batch size, rows", "sentences a second"):
        assert words in text
    nothing = {**everything, "results": everything["results"][-1:]}
    assert "<svg" not in sweep_page.of_sweep(nothing, table_of(nothing))


def test_what_the_plots_of_a_sweep_show():
    """Medians of repetitions against the batch size; the gates at 0.8 less what each may lose."""
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots(1, 2)
    done = [result for result in swept()["results"] if "error" not in result]
    sweep_page.throughput(axes[0], done)
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes[0].get_lines()}
    assert drawn["fp32 padded 64"] == [[1, 21], [8, 21]] and drawn["int8 chosen 64"] == [[1, 31]]
    styles = {
        line.get_label(): (line.get_color(), line.get_marker(), line.get_linestyle())
        for line in axes[0].get_lines()
    }
    assert len(set(styles.values())) == len(styles) == 4
    sweep_page.tradeoff(axes[1], done)
    gates = sorted(line.get_ydata()[0] for line in axes[1].get_lines())
    assert gates == pytest.approx([0.8 - 0.005, 0.8 - 1e-4])
    points = [tuple(xy) for mark in axes[1].collections for xy in mark.get_offsets().tolist()]
    assert (20.0, 0.8) in points and (32.0, 0.79) in points and len(points) == 14


def test_a_gate_is_drawn_of_each_reference_and_of_the_same_sentences_only():
    """Two lengths can have two references. One of fewer sentences (--compare_rows) says nothing of
    these points; one of 0 is a value. Without a comparison the sweep's own fp32 of that length is
    the reference."""
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots(1, 2)
    done = [result for result in swept()["results"] if result["cell"][0] == "fp32"]
    changes = {"reference_value": 0.7}, {"reference_value": 0}, {"sentences": 9}
    for result, change in zip(done, changes):
        result["comparison"].update(change)
    sweep_page.tradeoff(axes[0], done[:3])
    gates = sorted(line.get_ydata()[0] for line in axes[0].get_lines())
    assert gates == pytest.approx([-1e-4, 0.7 - 1e-4])
    int8 = [result for result in swept()["results"] if result["cell"][0] == "int8"][:2]
    done[3]["cell"][2] = 128  # fp32 of another length is another reference
    done[3]["evaluations"][0]["metrics"] = {"accuracy": 0.6}
    for result in (*done, *int8):
        result.pop("comparison", None)
    sweep_page.tradeoff(axes[1], [*done[2:], *int8])
    gates = sorted(line.get_ydata()[0] for line in axes[1].get_lines())
    assert gates == pytest.approx([0.6 - 1e-4, 0.8 - 0.005, 0.8 - 1e-4])
    int8[0]["cell"][2] = int8[1]["cell"][2] = 256
    sweep_page.tradeoff(axes[1], int8)
    assert len(axes[1].get_lines()) == len(gates)


def test_the_bars_of_padding_add_up_to_the_row():
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    plots.padding(axes, [("padded", evaluation("fp32", 1, 64, 1, 1, padding=0.75))])
    tokens, empty = (bars.patches[0] for bars in axes.containers)
    assert (tokens.get_width(), empty.get_x(), empty.get_width()) == (16, 16, 48)


@pytest.mark.slow
def test_a_page_in_a_browser(tmp_path):
    """No error on the console, a click sorts, a second one turns the order round, and HTML in a
    text is text."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install it")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("needs a browser: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(driver)
    everything = swept()
    file = tmp_path / "report.html"
    file.write_text(sweep_page.of_sweep(everything, table_of(everything)), encoding="utf-8")
    with webdriver.Chrome(options=options, service=service) as chrome:
        chrome.get(file.as_uri())
        find = chrome.find_elements

        def column(number):
            return [e.text for e in find("css selector", f"tbody td:nth-child({number})")]

        before = column(8)  # of milliseconds, 381.8 before and after 32.3
        button = find("css selector", "thead button")[7]
        button.click()
        assert column(8) == sorted(before, key=float) != before
        button.click()
        assert column(8) == sorted(before, key=float, reverse=True)
        assert EVIL in chrome.find_element("tag name", "body").text
        assert chrome.get_log("browser") == []
