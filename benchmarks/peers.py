#!/usr/bin/env python
"""Us and our peers on the same weights and sentences, in interleaved rounds of one run.

    python benchmarks/peers.py --demo --data_dir ../shared/data/SST-2

Two settings: `dense`, one forward of full rows of 128 tokens at batch 1, 8 and 32; and `end_to_end`, SST-2 dev from text to
logits. Each engine lives in a process of its own and works alone; a round visits all in random order, those of one precision
and batch size next to each other. Rates are medians over the rounds, ratios are paired within a round, their 95 % interval
is a bootstrap over the rounds. Accuracy and label flips (against a peer in fp32 that ran all rows) stand beside every speed.
Exit code 1 if an engine failed, 2 for wrong input.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from tables import BASE, tables  # noqa: E402

from albert_aie import UserError  # noqa: E402

PADDED_SHARE = 8  # transformers' engines see every 8th sentence: they take minutes for all, padded ones the same for each


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pth_dir", help="checkpoint (see export_albert_aie.py)")
    add("--demo", action="store_true", help="take --pth_dir from this repository's demo/")
    add("--data_dir", required=True, help="GLUE's SST-2 with train.tsv, which int8 is calibrated on")
    add("--rounds", type=int, default=6, help="end to end; fewer than 6 give no 95 %% interval (default: %(default)s)")
    add("--dense_rounds", type=int, default=12, help="of the dense setting (default: %(default)s)")
    add("--rows", type=int, help="take the first N rows of dev (default: all)")
    add("--batch_sizes", type=int, nargs="+", default=[1, 8, 32], help="of the dense setting (default: 1 8 32)")
    add(
        "--seconds",
        type=float,
        default=1,
        help="of repeated forwards that a dense reading is the median of (default: %(default)s)",
    )
    add("--settings", nargs="+", choices=("dense", "end_to_end"), default=["dense", "end_to_end"])
    add("--engines", nargs="+", metavar="WORD", help="only engines whose label has one of these words in it")
    add("--precisions", nargs="+", choices=("fp32", "bf16", "fp16", "int8"), help="only these (default: what runs here)")
    add("--output", default="outputs/bench.json", help="every reading (default: %(default)s)")
    args = parser.parse_args(argv)
    args.pth_dir = args.pth_dir or (str(ROOT / "demo" / "checkpoint") if args.demo else None)
    return args


def main(argv=None):
    args = parse_args(argv)
    try:
        return run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run(args):
    from albert_aie import tasks

    if not args.pth_dir:
        raise UserError("name the checkpoint with --pth_dir, or take the embedded one with --demo")
    if min(args.rounds, args.dense_rounds, 1 if args.rows is None else args.rows) < 1:
        raise UserError("--rounds, --dense_rounds and --rows must be 1 or more")
    names = load(args.pth_dir)[0].named().config.label_names
    examples = tasks.read(args.data_dir).for_model(names)
    sentences, labels = examples.sentences[: args.rows], examples.labels[: args.rows]
    here = machine()
    print(
        f"machine     {here['cpu']}, {here['cores']} cores, load {here['load']:.2f}; torch {here['torch']}; CUDA {here['cuda']}"
    )
    if here["load"] > 0.5:
        print("note        the machine is not quiet: read the ratios, not the rates")
    with tempfile.TemporaryDirectory() as folder:
        specs, notes = engines(args, Path(folder))
        for note in notes:
            print(f"note        {note}")
        workers = [Worker(spec) for spec in specs]
        try:
            failed = [f"{w.label}: {w.error}" for w in workers if w.error]
            workers = [w for w in workers if not w.error]
            result = measure(args, workers, sentences, labels)
        finally:
            for worker in workers:
                worker.close()
    failed += result.pop("failed")
    report = {"machine": here, "notes": notes, "failed": failed, **result, **constants(args, sentences)}
    print(tables(report))
    for line in failed:
        print(f"FAILED      {line}")
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote       {output}")
    return 1 if failed else 0


def machine():
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {}
    for name in ("transformers", "openvino", "onnxruntime", "nncf"):
        try:
            versions[name] = __import__("importlib.metadata", fromlist=["version"]).version(name)
        except Exception:
            versions[name] = None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "cuda": cuda,
        "python": platform.python_version(),
        "versions": versions,
    }


def engines(args, folder):
    """(specs of every engine that can run here, notes on those that cannot)."""
    import torch

    from albert_aie import backends
    from albert_aie.backends import openvino

    cuda = torch.cuda.is_available()
    bf16 = not openvino._not_importable() and "BF16" in openvino._capabilities()
    usable = ["fp32"] + (["bf16"] if bf16 else []) + ["int8"] + (["fp16"] if cuda else [])
    wanted = args.precisions or usable
    notes = (
        [] if bf16 or "bf16" not in (args.precisions or ["bf16"]) else ["bf16: this CPU has no bf16 instructions, not measured"]
    )
    if not cuda:
        notes.append("no CUDA device: the engines for one were not measured")
    wanted = [precision for precision in wanted if precision in usable]
    specs = []

    def add(kind, label, precision, settings, **spec):
        if precision in wanted and set(settings) & set(args.settings):
            if not args.engines or any(word in label for word in args.engines):
                specs.append({"kind": kind, "label": label, "precision": precision, "settings": settings, **spec})

    both, text_only, dense_only = ["dense", "end_to_end"], ["end_to_end"], ["dense"]
    common = {"pth_dir": args.pth_dir, "sorted": True, "batch_size": 8}
    for precision in ("fp32", "bf16"):
        padded = BASE.replace("fp32", precision)
        add("transformers", padded, precision, both, **{**common, "sorted": False, "search": {"batch_size": [8, 32]}})
        sizes = {"batch_size": [8, 16]}
        add("transformers", f"transformers eager {precision}, sorted", precision, text_only, **common, search=sizes)
        add("transformers", f"torch.compile {precision}", precision, dense_only, **{**common, "sorted": False}, compile=True)
    for precision in ("fp32", "int8"):
        add("onnxruntime", f"ONNX Runtime {precision}, sorted", precision, both, **common, search={"batch_size": [8, 16]})
    for precision in ("fp32", "bf16", "int8"):
        spec = {**common, "calibration": calibration(args) if precision == "int8" and precision in wanted else None}
        for streams in (1, 2):
            label = f"OpenVINO {precision}, sorted, {streams} stream{'s' * (streams > 1)}"
            settings = both if streams == 1 else text_only
            add("openvino", label, precision, settings, **spec, streams=streams, search={"batch_size": [8, 16, 32]})
    if cuda:
        fp16 = {**common, "sorted": False, "device": "cuda", "search": {"batch_size": [32, 256, 1024]}}
        add("transformers", "transformers eager fp16 cuda", "fp16", both, **fp16, attention="eager")
        add("transformers", "transformers sdpa fp16 cuda", "fp16", both, **fp16, attention="sdpa")
        add("transformers", "torch.compile max-autotune fp16 cuda", "fp16", dense_only, **fp16, compile=True)
    for precision in ("fp32", "bf16", "int8", "fp16"):
        target = ("torchscript", "cuda") if precision == "fp16" else ("openvino", "cpu")
        if backends.get(target[0]).unavailable(target[1]):
            continue
        files = [(b, 128, [], dense_only, f"ours {precision}, plain, batch {b}", 1) for b in args.batch_sizes]
        # our small search: the shape of the packed rows and the streams
        shapes = ((8, 128, 1, both), (8, 64, 1, text_only), (8, 64, 2, text_only), (3, 64, 2, text_only))
        for batch_size, length, streams, settings in shapes:
            label = f"ours {precision}, packed {batch_size} x {length}, {streams} stream{'s' * (streams > 1)}"
            files.append((batch_size, length, ["--pack"], settings, label, streams))
        for batch_size, length, flags, settings, label, streams in files:
            before = len(specs)
            add("ours", label, precision, settings, streams=streams, batch_size=batch_size)
            if len(specs) > before:
                try:
                    specs[-1]["file"] = export(args, folder, batch_size, length, precision, target, flags)
                except UserError as error:
                    notes.append(f"{label} not measured: {error}")
                    specs.pop()
    if not args.engines:
        for precision in ("fp32", "bf16", "int8"):
            add("ceiling", f"ceiling {precision}", precision, both)
    return specs, notes


def calibration(args):
    """256 id lists of training sentences, for the peers' int8; ours takes its own (export_albert_aie.py)."""
    from engines import LENGTH, load

    from albert_aie import tasks

    _, tokenizer = load(args.pth_dir)
    long = [s for s in tasks.read(args.data_dir, "train").sentences if len(s.split()) >= 10]
    return [tokenizer.encode(sentence, LENGTH)[0] for sentence in random.Random(0).sample(long, min(256, len(long)))]


def export(args, folder, batch_size, length, precision, target, flags):
    """Path of the file that export_albert_aie.py writes; made once."""
    name = f"{precision}_{batch_size}_{length}{'_packed' if flags else ''}"
    found = list((folder / name).glob("*.pt"))
    if not found:
        command = [sys.executable, str(ROOT / "export_albert_aie.py"), f"--batch_size={batch_size}", f"--precision={precision}"]
        command += [f"--max_seq_length={length}"]
        command += [f"--pth_dir={args.pth_dir}", f"--data_dir={args.data_dir}", f"--save_dir={folder / name}", *flags]
        done = subprocess.run([*command, f"--backend={target[0]}", f"--device={target[1]}"], capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: ") if done.stderr else "export failed")
        found = list((folder / name).glob("*.pt"))
    return str(found[0])


class Worker:
    """An engine in a process of its own; `ask` has it do one thing and waits."""

    def __init__(self, spec):
        self.spec, self.label, self.settings = spec, spec["label"], spec["settings"]
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, spec), daemon=True)
        self.process.start()
        other.close()
        self.error, self.load_seconds = None, None
        self.load_seconds = self.ask()

    def ask(self, *command):
        """The answer, or None with `error` set."""
        try:
            if command:
                self.pipe.send(command)
            kind, answer = self.pipe.recv()
        except (EOFError, OSError):
            kind, answer = "error", f"its process ended with exit code {self.process.exitcode}"
        if kind == "error":
            self.error = answer
            return None
        return answer

    def close(self):
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()


def serve(pipe, spec):
    """The other side of Worker: builds the engine, then answers until the pipe closes."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads must not take time from the engine that is measured
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.stdout = sys.stderr = open(os.devnull, "w")
    try:
        import engines

        start = time.perf_counter()
        engine = engines.make(spec)
        pipe.send(("ok", time.perf_counter() - start))
        while True:
            command, *rest = pipe.recv()
            if command == "set":
                for name, value in rest[0].items():
                    setattr(engine, name, value)
                answer = None
            elif command == "flops":
                answer = engine.flops(rest[0])
            elif command == "dense":
                # repeated, for a forward of one row is short, and the machine is shared
                answer, start = [engine.dense(rest[0])], time.perf_counter()
                while time.perf_counter() - start < rest[1]:
                    answer.append(engine.dense(rest[0]))
                answer = statistics.median(answer)
            elif command == "memory":
                answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            else:
                start = time.perf_counter()
                logits = engine.sentences(rest[0])
                answer = (time.perf_counter() - start, logits.argmax(1).tolist())
            pipe.send(("ok", answer))
    except EOFError:
        pass
    except BaseException as error:
        reason = traceback.format_exception_only(type(error), error)[-1].strip().splitlines()[0][:300]
        pipe.send(("error", reason))


def measure(args, workers, sentences, labels):
    """{"end_to_end": {label: readings}, "dense": {label: {batch: [seconds]}}, "failed": [...]}"""
    from engines import LENGTH
    from tqdm import tqdm

    texts = {w.label: sentences[::PADDED_SHARE] if w.spec["kind"] == "transformers" else sentences for w in workers}
    failed = []

    def check(worker):
        if worker.error and worker in workers:
            workers.remove(worker)
            failed.append(f"{worker.label}: {worker.error}")

    for worker in list(workers):  # the small search, on every 4th sentence; it warms up as well
        best = None
        for batch_size in worker.spec.get("search", {}).get("batch_size", []):
            if "end_to_end" in worker.settings:
                worker.ask("set", {"batch_size": batch_size})
                part = texts[worker.label][::4]
                worker.ask("sentences", part[: 2 * batch_size])
                answer = worker.ask("sentences", part)
                if answer and (best is None or answer[0] < best[0]):
                    best = (answer[0], batch_size)
        if best:
            worker.ask("set", {"batch_size": best[1]})
            worker.spec["batch_size"] = best[1]
        check(worker)

    result = {"dense": {}, "dense_flops": {}, "end_to_end": {}, "failed": failed}
    order = random.Random(0)
    for setting in args.settings:
        plan = [(w, b) for w in workers if setting in w.settings for b in (args.batch_sizes if setting == "dense" else [None])]
        plan = [(w, b) for w, b in plan if b is None or w.spec["kind"] != "ours" or w.spec["batch_size"] == b]
        plan = [(w, b) for w, b in plan if w.spec["kind"] != "ceiling" or b in (None, args.batch_sizes[0])]
        for worker, batch_size in plan:
            if setting == "dense" or worker.spec["kind"] == "ours":
                worker.ask(*(("dense", batch_size, args.seconds) if setting == "dense" else ("sentences", sentences[:64])))
        rounds = args.dense_rounds if setting == "dense" else args.rounds
        steps = tqdm(total=rounds * len(plan), desc=setting, disable=None, leave=False)
        for _ in range(rounds):
            # what is compared stands close together in time, for the machine's speed drifts
            order.shuffle(plan)
            turn = {(w.spec["precision"], b): order.random() for w, b in plan}
            plan.sort(key=lambda step: turn[step[0].spec["precision"], step[1]])
            for worker, batch_size in plan:
                steps.update()
                if worker.error:
                    continue
                if setting == "dense":
                    seconds = worker.ask("dense", batch_size, args.seconds)
                    if seconds is not None and seconds == seconds:
                        result["dense"].setdefault(worker.label, {}).setdefault(str(batch_size), []).append(seconds)
                elif worker.spec["kind"] == "ceiling":
                    entry = result["end_to_end"].setdefault(worker.label, {"seconds": []})
                    entry["seconds"].append(worker.ask("dense", 0, args.seconds))
                else:
                    answer = worker.ask("sentences", texts[worker.label])
                    if answer:
                        entry = result["end_to_end"].setdefault(worker.label, {"seconds": [], "rows": len(texts[worker.label])})
                        entry["seconds"].append(answer[0])
                        entry["predictions"] = answer[1]
                check(worker)
        steps.close()
    for worker in workers:
        entry = result["end_to_end"].get(worker.label)
        if entry:
            lengths = token_lengths(args, texts[worker.label])
            entry.update(flops=worker.ask("flops", lengths), memory=worker.ask("memory"), load=worker.load_seconds)
            entry["batch_size"] = worker.spec.get("batch_size")
        for batch_size in result["dense"].get(worker.label, {}):
            flops = worker.ask("flops", [LENGTH] * int(batch_size))
            result["dense_flops"].setdefault(worker.label, {})[batch_size] = flops
    score(result["end_to_end"], labels)
    result["workers"] = [{k: v for k, v in w.spec.items() if k not in ("calibration", "file")} for w in workers]
    return result


def constants(args, sentences):
    """What the tables quote: the nominal FLOPs of a row of LENGTH tokens, and how many sentences a packed row of it holds."""
    from engines import LENGTH, load

    from albert_aie.batching import pack
    from albert_aie.graph import flops_per_row

    rows = pack(token_lengths(args, sentences), LENGTH, LENGTH // 8)
    nominal = flops_per_row(vars(load(args.pth_dir)[0].config), LENGTH)
    return {"nominal_flops_per_row": nominal, "sentences_per_row": len(sentences) / len(rows)}


def token_lengths(args, texts):
    from engines import LENGTH, load

    _, tokenizer = load(args.pth_dir)
    return [len(tokenizer.encode(text, LENGTH)[0]) for text in texts]


def score(readings, labels):
    """Accuracy, and flips against the fp32 reference (any engine that computes transformers in fp32 on all rows)."""
    whole = [
        entry for label, entry in readings.items() if "fp32, sorted" in label and len(entry.get("predictions", [])) == len(labels)
    ]
    reference = whole[0]["predictions"] if whole else None
    for entry in readings.values():
        if "predictions" not in entry:
            continue
        share = labels if entry["rows"] == len(labels) else labels[::PADDED_SHARE]
        entry["correct"] = sum(a == b for a, b in zip(entry["predictions"], share))
        wanted = reference if reference is None or entry["rows"] == len(labels) else reference[::PADDED_SHARE]
        entry["flips"] = None if wanted is None else sum(a != b for a, b in zip(entry["predictions"], wanted))


if __name__ == "__main__":
    sys.exit(main())
