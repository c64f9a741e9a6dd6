"""Write tokens.json: digests of the ids that albert_pytorch's own tokenizer gives for SST-2, and ids of awkward sentences.

    python make_tokens.py --upstream DIR --spm 30k-clean.model --data SST-2 --out tokens.json

DIR is lonePatient/albert_pytorch at 46de9ec: as it is (then six must be installed) or with albert.patch applied. Nothing
is tokenised here: rows come from its DataProcessor._read_tsv, pieces and ids from its FullTokenizer, cut rows from its
glue_convert_examples_to_features.
"""

import argparse
import hashlib
import json
import platform
import sys
from pathlib import Path

COMMIT = "46de9ec"
SENTENCE_COLUMN = {"dev.tsv": 0, "test.tsv": 1, "train.tsv": 0}
CUTS = (128, 16)  # no row of SST-2 is as long as 128; 16 cuts most
HOW = {
    "rows": "upstream's _read_tsv (utf-8-sig, csv with tab and no quoting); header dropped; sentence column as it stands, "
            "not stripped: column 0 of dev and train, column 1 of test",
    "ids": "[CLS] a [SEP] of FullTokenizer(do_lower_case=True, spm_model_file=...); `whole` is not cut, `cut_S` is what "
           "glue_convert_examples_to_features(max_seq_length=S) keeps, without its padding",
    "sha256": "over one line per sentence in file order, the ids in decimal with a blank between, then a newline",
}
AWKWARD = (
    "",
    "   ",
    "Plain ASCII, once: UPPER case and Mixed Case.",
    "caf\u00e9 na\u00efve se\u00f1or Zo\u00eb Bj\u00f6rk \u00c5ngstr\u00f6m cafe\u0301",
    "``quoted'' and `single' and \"double\" and 'plain' ones",
    "in 1994, he paid 3,500, then 12,000,000, and left on the 7th, 8, 9,10,",
    "literal [CLS] and [SEP] and [MASK] and <pad> and <unk> in text",
    "it cost \u00a35, \u20ac7 or $9 \u2013 maybe more \u2014 who knows \u2026",
    " tabs\there,  two  blanks \u00a0no-break\u2003em\u3000wide and\r\nline ends \n",
    "\u00e6on \u00f8re \u0142\u00f3d\u017a \u00dfharp \u2603 \U0001d518\U0001d52b\U0001d526 \ufb01ne \u00bd \u00b2, \u2122",
    "ex-wife well-made over-the-top -- non - stop semi-",
    "\u4e2d\u6587\u7535\u5f71 is \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \uff26\uff55\uff4c\uff4c\uff11\uff19\uff19\uff14\uff0c",
    "so good \U0001f600 \U0001f469\u200d\U0001f680 \u2764\ufe0f \U0001f1eb\U0001f1f7 !",
    "\u0130stanbul \u0395\u039b\u039b\u0391\u03a3 \u041c\u043e\u0441\u043a\u0432\u0430 \u05e9\u05dc\u05d5\u05dd \u0663, \u0e44\u0e17\u0e22",
    "zero\u200bwidth soft\u00adhyphen \ufeffbom null\u0000byte bell\u0007 \u2581already \u2581 marked",
    "(a) \"b\" -c. d-e ... (((f))) ... g.h.i. , ; : ! ? % & * / \\ @ # ~ ^ _ = + < > { } |",
    "1,2, v2.0, 1990s, '94, mp3, 3d, x1,y2, 100%, 4,",
)


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--upstream", type=Path, required=True, help="an albert_pytorch tree at 46de9ec")
    flags.add_argument("--spm", type=Path, required=True, help="ALBERT v2's 30k-clean.model")
    flags.add_argument("--data", type=Path, required=True, help="the folder of dev.tsv, test.tsv and train.tsv")
    flags.add_argument("--out", type=Path, default=Path(__file__).with_name("tokens.json"))
    args = flags.parse_args()

    sys.path.insert(0, str(args.upstream.resolve()))
    import sentencepiece
    from model.tokenization_albert import FullTokenizer
    from processors.utils import DataProcessor

    tokenizer = FullTokenizer(vocab_file="", do_lower_case=True, spm_model_file=str(args.spm))
    files = {}
    for name, column in SENTENCE_COLUMN.items():
        rows = DataProcessor._read_tsv(str(args.data / name))[1:]
        sentences = [row[column] for row in rows]
        files[name] = {"sha256_of_file": sha256(args.data / name), "rows": len(sentences),
                       "whole": digest(whole(tokenizer, text) for text in sentences)}
        for length in CUTS:
            files[name][f"cut_{length}"] = digest(cut(tokenizer, sentences, length))
    made = {
        "command": "python tests/golden/make_tokens.py --upstream DIR --spm 30k-clean.model --data SST-2",
        "upstream": f"https://github.com/lonePatient/albert_pytorch at {COMMIT}",
        "tokenization_albert.py": sha256(args.upstream / "model" / "tokenization_albert.py"),
        "spm_sha256": sha256(args.spm),
        "python": platform.python_version(),
        "sentencepiece": sentencepiece.__version__,
    }
    awkward = [{"text": text, "ids": whole(tokenizer, text)} for text in AWKWARD]
    write(args.out, {"made": made, "how": HOW, "files": files}, awkward)


def whole(tokenizer, text):
    return tokenizer.convert_tokens_to_ids(["[CLS]"] + tokenizer.tokenize(text) + ["[SEP]"])


def cut(tokenizer, sentences, length, chunk=1000):
    from processors import InputExample, glue_convert_examples_to_features

    for start in range(0, len(sentences), chunk):  # each feature holds `length` Python ints, three times
        examples = [InputExample(guid=str(start), text_a=text, label="0") for text in sentences[start:start + chunk]]
        for feature in glue_convert_examples_to_features(examples, tokenizer, max_seq_length=length, label_list=["0", "1"],
                                                         output_mode="classification"):
            yield feature.input_ids[:feature.input_len]


def digest(all_ids):
    lines, tokens, longest = hashlib.sha256(), 0, 0
    for ids in all_ids:
        lines.update((" ".join(map(str, ids)) + "\n").encode())
        tokens, longest = tokens + len(ids), max(longest, len(ids))
    return {"sha256": lines.hexdigest(), "tokens": tokens, "longest": longest}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path, head, awkward):
    """JSON with one awkward sentence a line."""
    text = json.dumps(head, indent=2)
    lines = ",\n".join("    " + json.dumps(entry) for entry in awkward)
    path.write_bytes((text[:-2] + ',\n  "awkward": [\n' + lines + "\n  ]\n}\n").encode())


if __name__ == "__main__":
    main()
