"""Write pairs.json: ids and segments that the real albert_pytorch makes of pairs, and of Chinese
text by a vocab.txt. Run once, with an upstream checkout:

    python tests/golden/make_pairs.py --upstream albert_pytorch

`--upstream` is lonePatient/albert_pytorch at 46de9ec (patched, or with six installed). The
sentencepiece model is the demo's; the vocabulary is that of tests/glue_sets.py and is kept in the
file.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SPM = HERE.parent.parent / "demo" / "checkpoint" / "spiece.model"
TEXTS = [
    "iPhone 15 Pro多少钱",
    "Python3.9怎么安装？",
    "喜欢打篮球的男生",
    "上海　南京路，(上海)",
    "CAFÉ naïve 很好",
    "漫画 [SEP] 全集 [MASK]",
    "tabs\tand\u200b zero\u0000 widths\ufffd",
    "a" * 101 + " thefilmthe",
    "電影，很好……！",
    "𠀀 豈 ﷺ １２３ ＡＢＣ",
    "",
    "  \n ",
    "I'm 50% sure: $3.14~",
]
PAIRS = [
    ("a fine film", "dull"),
    ("one two three four five six seven", "one two three"),
    ("one two three", "one two three four five six seven"),
    ("one two three four five", "one two three four five"),
    ("", "dull"),
    ("a fine film", ""),
    ("café in 1994, he", "``great'' fun"),
]
LENGTHS = (4, 5, 8, 9, 64)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True)
    args = parser.parse_args()
    sys.path[:0] = [args.upstream, str(HERE.parent)]
    from glue_sets import vocabulary
    from model.tokenization_albert import FullTokenizer
    from processors import glue_convert_examples_to_features
    from processors.utils import InputExample

    def features(tokenizer, first, second, length):
        example = InputExample(guid="0", text_a=first, text_b=second, label="0")
        (made,) = glue_convert_examples_to_features(
            [example], tokenizer, length, label_list=["0"], output_mode="classification"
        )
        ids, types = (x[: made.input_len] for x in (made.input_ids, made.token_type_ids))
        return {"ids": ids, "second": types.index(1) if 1 in types else None}

    spm = FullTokenizer(vocab_file=None, do_lower_case=True, spm_model_file=str(SPM))
    lines = vocabulary()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        wordpiece = {
            lower: FullTokenizer(vocab_file=str(path), do_lower_case=lower)
            for lower in (True, False)
        }
    result = {
        "made_by": "tests/golden/make_pairs.py with lonePatient/albert_pytorch at 46de9ec",
        "pairs": [
            {"texts": pair, "length": length, **features(spm, *pair, length)}
            for pair in PAIRS
            for length in LENGTHS
        ],
        "vocabulary": lines,
        "wordpiece": [
            {"text": text, "lower": lower, **features(wordpiece[lower], text, None, 512)}
            for text in TEXTS
            for lower in (True, False)
        ],
        "wordpiece_pairs": [
            {"texts": pair, "length": length, **features(wordpiece[True], *pair, length)}
            for pair in zip(TEXTS[:6], TEXTS[1:7])
            for length in (8, 9, 64)
        ],
    }
    path = HERE / "pairs.json"
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
