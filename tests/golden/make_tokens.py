"""Write tokens.json: ids that the real albert_pytorch tokenizer makes. Run once, with an upstream
checkout:

    python tests/golden/make_tokens.py --upstream albert_pytorch --spm 30k-clean.model --data SST-2

`--upstream` is lonePatient/albert_pytorch at 46de9ec (patched, or with six installed). For each
file of SST-2: the number of sentences and tokens, and the sha256 of one line of ids, blank between,
per sentence: [CLS] a [SEP], uncut.
"""

import argparse
import hashlib
import json
import platform
import sys
from pathlib import Path

import sentencepiece

TRICKY = [
    "In 1994, he made 2,000 films, 3",
    "``quoted'' and \"straight\"",
    "café naïve Ångström ﬁn",
    "[CLS] and [MASK] [SEP]",
    "costs £5 – or €6",
    "tabs \t and   blanks \n",
    "ex-wife well-made",
    "MiXeD CASE",
    "電影 很好",
    "😀 smile",
    "",
    "1,",
    "a1,b2,",
    "wait...what?! (yes)",
    "`single` 'quotes'",
    "x²,",
]


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--upstream", "--spm", "--data"):
        parser.add_argument(flag, required=True)
    args = parser.parse_args()
    sys.path.insert(0, args.upstream)
    from model.tokenization_albert import FullTokenizer
    from processors.utils import DataProcessor

    tokenizer = FullTokenizer(vocab_file=None, do_lower_case=True, spm_model_file=args.spm)

    def ids(text):
        return tokenizer.convert_tokens_to_ids(["[CLS]"] + tokenizer.tokenize(text) + ["[SEP]"])

    files = {}
    for split, column in (("dev", 0), ("test", 1), ("train", 0)):
        rows = [
            ids(line[column])
            for line in DataProcessor._read_tsv(str(Path(args.data) / f"{split}.tsv"))[1:]
        ]
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        files[split] = {
            "sentences": len(rows),
            "tokens": sum(map(len, rows)),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
    result = {
        "made_by": "tests/golden/make_tokens.py with lonePatient/albert_pytorch at 46de9ec",
        "python": platform.python_version(),
        "sentencepiece": sentencepiece.__version__,
        "spm_sha256": hashlib.sha256(Path(args.spm).read_bytes()).hexdigest(),
        "files": files,
        "tricky": [{"text": text, "ids": ids(text)} for text in TRICKY],
    }
    path = Path(__file__).with_name("tokens.json")
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
