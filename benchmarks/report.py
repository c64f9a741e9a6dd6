#!/usr/bin/env python
"""What an owner of an Ascend card can send in: one file with the machine, and per batch size the comparison and the
evaluation, or the error.

    python benchmarks/report.py --data_dir ./albert_pytorch/dataset/SST-2 --output ascend_report.json

Flags that this script does not know go to export_albert_aie.py (--pth_dir, --graph, --pack, --soc_version, ...). Exit code
1 if any batch size failed; the report is written all the same.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torch_aie", "mindietorch", "torch_npu", "numpy", "transformers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--data_dir", required=True, help="GLUE's SST-2")
    parser.add_argument("--backend", default="aie", help="(default: %(default)s)")
    parser.add_argument("--device_id", type=int, help="number of the card, for both scripts (default: 0)")
    parser.add_argument("--output", default="ascend_report.json", help="(default: %(default)s)")
    args, export_flags = parser.parse_known_args()

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for batch_size in args.batch_sizes:
            results.append(measure(Path(folder), batch_size, args, export_flags))
            print(summary(results[-1]), flush=True)
            report = {"machine": machine(), "command": sys.argv[1:], "results": results}
            # after each size: what was measured is kept if the next one hangs
            Path(args.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.output}")
    return 1 if any("error" in result for result in results) else 0


def measure(folder, batch_size, args, export_flags):
    """{batch_size, comparison, evaluation} or {batch_size, error, output}: what the two scripts said."""
    shape = [f"--batch_size={batch_size}", f"--max_seq_length={args.max_seq_length}"]
    both = [f"--data_dir={args.data_dir}", *([] if args.device_id is None else [f"--device_id={args.device_id}"])]
    for old in folder.iterdir():
        old.unlink()
    target = ["--compare_cpu", f"--backend={args.backend}", f"--save_dir={folder}"]
    exported = script("export_albert_aie.py", *target, *shape, *both, *export_flags)
    files = list(folder.glob("*.pt"))
    verdict = next((word for word in ("PASS", "FAIL") if f"compare_cpu {word}" in exported.stdout), None)
    if not files or not verdict:  # the comparison did not come to an end: not the same as a failed one
        error = exported.stderr.strip() or f"exit code {exported.returncode}"
        return {"batch_size": batch_size, "error": error, "exit_code": exported.returncode, "output": exported.stdout}
    comparison = {"comparison": verdict, "output": exported.stdout, "stderr": exported.stderr}
    evaluated = script("run_aie_eval.py", f"--aie_model_dir={files[0]}", f"--output_dir={folder}", *both)
    if evaluated.returncode:
        return {"batch_size": batch_size, **comparison, "error": evaluated.stderr.strip()}
    evaluation = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    result = {"batch_size": batch_size, **comparison, "evaluation": evaluation}
    return result if exported.returncode == 0 else {**result, "error": "the comparison failed"}


def script(name, *flags):
    return subprocess.run([sys.executable, str(ROOT / name), *flags], capture_output=True, text=True)


def machine():
    """Platform, versions, and npu-smi's table where there is one."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = importlib.util.find_spec(name)
            versions[name] = f"in {Path(found.origin).parent}" if found and found.origin else None
    tool = shutil.which("npu-smi")
    table = subprocess.run([tool, "info"], capture_output=True, text=True).stdout if tool else None
    return {"platform": platform.platform(), "python": platform.python_version(), "packages": versions, "npu_smi": table}


def summary(result):
    if "evaluation" not in result:
        return f"batch {result['batch_size']}: {result['error']}"
    e = result["evaluation"]
    accuracy = f"{100 * e['accuracy']['value']:.2f} %" if "accuracy" in e else "no accuracy"
    return (
        f"batch {result['batch_size']}: {e['samples_per_second']['forward']:.1f} samples/s forward, {accuracy} "
        f"({e['rows_scored']} of {e['rows_total']} rows), comparison {result['comparison']}"
    )


if __name__ == "__main__":
    sys.exit(main())
