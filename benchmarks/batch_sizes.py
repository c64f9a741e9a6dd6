#!/usr/bin/env python
"""Export and evaluate one file per batch size, with the two scripts, and print the table of the README.

    python benchmarks/batch_sizes.py --demo --data_dir ../shared/data/SST-2 --backend openvino --precision fp32

Flags that this script does not know go to export_albert_aie.py (--pack, --graph, --soc_version, ...). Exit code 1 if
predictions differ between batch sizes in fp32, or the exit code of a script that failed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--data_dir", required=True, help="GLUE's SST-2")
    parser.add_argument("--device_id", type=int, help="number of the Ascend card, for both scripts")
    args, export_flags = parser.parse_known_args()

    print("| batch | rows scored | accuracy | forward, samples/s | end to end, samples/s | p50, ms a batch | p99, ms a batch |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    predictions = set()
    with tempfile.TemporaryDirectory() as folder:
        for batch_size in args.batch_sizes:
            report = measure(Path(folder), batch_size, args, export_flags)
            rate, latency = report["samples_per_second"], report["latency_ms"]
            a = report.get("accuracy")
            accuracy = f"{100 * a['value']:.2f} % ({a['correct']}/{a['total']})" if a else "none"
            print(
                f"| {batch_size} | {report['rows_scored']} of {report['rows_total']} | {accuracy} | {rate['forward']:.2f} "
                f"| {rate['end_to_end']:.2f} | {latency['p50']:.0f} | {latency['p99']:.0f} |",
                flush=True,
            )
            lines = (Path(folder) / "predictions.tsv").read_text(encoding="utf-8").splitlines()
            predictions.add(tuple(line.split("\t")[1] for line in lines))
            made_on = f"{report['backend']} on {report['device']}, {report['precision']}, {report['threads']} threads"
    print(f"\n{made_on}, length {args.max_seq_length}; predictions {'identical' if len(predictions) == 1 else 'DIFFER'}")
    return 1 if len(predictions) > 1 and report["precision"] == "fp32" else 0


def measure(folder, batch_size, args, export_flags):
    """eval.json of one batch size."""
    shape = [f"--batch_size={batch_size}", f"--max_seq_length={args.max_seq_length}"]
    both = [f"--data_dir={args.data_dir}", *([] if args.device_id is None else [f"--device_id={args.device_id}"])]
    script(["export_albert_aie.py", *shape, f"--save_dir={folder}", *export_flags, *both])
    (file,) = folder.glob("*.pt")
    script(["run_aie_eval.py", f"--aie_model_dir={file}", f"--output_dir={folder}", *both])
    file.unlink()
    return json.loads((folder / "eval.json").read_text(encoding="utf-8"))


def script(command):
    done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], capture_output=True, text=True)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        sys.exit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
