"""Which engines peers.py measures, as plain data, and what they are made from."""

import random
from dataclasses import asdict, dataclass, field
from itertools import product

import torch

from albert_aie import backends
from albert_aie.albert import checkpoint
from albert_aie.albert.references import transformers_model
from albert_aie.base.errors import UserError
from albert_aie.data import datasets, tasks
from benchmarks import host, readings
from benchmarks.readings import PRECISIONS

LENGTH = 128
ROW = 64  # of compiled packed rows: SST-2 dev's longest sentence has 60 tokens
BOTH, TEXT, DENSE = ("dense", "end_to_end"), ("end_to_end",), ("dense",)
SINGLE, TYPED = ("one_at_a_time",), ("as_typed",)
SERVER = "Server"  # of loadgen.py
SETTINGS = (*BOTH, *SINGLE, *TYPED)
STREAMS = {1: "1 stream", 2: "2 streams"}


@dataclass
class Engine:
    """What is set up, and in which settings it is measured. `label` is for people: nothing is
    decided by its words, but for what a user asks for with --engines."""

    kind: str  # transformers, pipeline, onnxruntime, openvino, ours or ceiling
    label: str
    precision: str
    settings: tuple
    sorted: bool = False  # batches of sorted sentences, padded to their longest; else to LENGTH
    typed: bool = False  # by its own defaults: in the file's order, padded to a batch's longest
    packed: bool = False  # rows of several sentences: dense, or as compiled
    backend: str = ""  # of ours, where it is not the usual one
    batch_size: int = 8
    multiple: int = 1  # sorted sentences are padded to the next multiple of this
    streams: int = 1
    device: str = "cpu"
    attention: str = "eager"
    compile: bool = False
    server: str = ""  # servers.SERVERS: what answers texts that come at random times
    search: tuple = ()  # batch sizes of which the best is taken end to end
    made_from: dict = field(default_factory=dict)  # pth_dir, calibration, file

    def fields(self):
        """What bench.json holds of it."""
        private = ("settings", "search", "made_from", "server")
        return {key: value for key, value in asdict(self).items() if key not in private}


def candidates():
    """Every engine that there is, whether this machine can run it or not."""
    for p in ("fp32", "bf16"):
        eager = f"transformers eager {p}"
        yield Engine("transformers", f"{eager}, padded to {LENGTH}", p, BOTH, search=(8, 32))
        yield Engine("transformers", f"{eager}, sorted", p, TEXT, sorted=True, search=(8, 16))
        yield Engine("transformers", f"torch.compile {p}", p, DENSE, compile=True)
    for p in ("fp32", "int8"):
        label = f"ONNX Runtime {p}, sorted"
        yield Engine("onnxruntime", label, p, BOTH, sorted=True, search=(8, 16))
    for p, streams in product(("fp32", "bf16", "int8"), (1, 2)):
        label = f"OpenVINO {p}, sorted, {STREAMS[streams]}"
        common = {"sorted": True, "streams": streams, "search": (8, 16, 32)}
        yield Engine("openvino", label, p, BOTH if streams == 1 else TEXT, **common)
    yield from singles()
    yield from as_typed()
    yield from servers()
    gpu = {"precision": "fp16", "device": "cuda", "search": (32, 256, 1024)}
    for attention in ("eager", "sdpa"):
        label = f"transformers {attention} fp16 cuda"
        yield Engine("transformers", label, settings=BOTH, attention=attention, **gpu)
    label = "torch.compile max-autotune fp16 cuda"
    yield Engine("transformers", label, settings=DENSE, compile=True, **gpu)
    for p in ("fp32", "bf16", "int8", "fp16"):
        yield from ours(p)
    for p in ("fp32", "bf16", "int8"):
        yield Engine("ceiling", f"ceiling {p}", p, BOTH)


def singles():
    """One sentence at a time, with free sizes: what is set up for a service."""
    common = {"settings": SINGLE, "sorted": True, "batch_size": 1}
    for p in ("fp32", "bf16"):
        yield Engine("transformers", f"transformers eager {p}, one", precision=p, **common)
        label = f"torch.compile dynamic {p}, one"
        yield Engine("transformers", label, precision=p, compile=True, **common)
    for p in ("fp32", "int8"):
        yield Engine("onnxruntime", f"ONNX Runtime {p}, one", precision=p, **common)
    for p, multiple in product(("fp32", "bf16", "int8"), (1, 8)):
        padded = "exact length" if multiple == 1 else f"padded to {multiple}"
        label = f"OpenVINO {p}, one, {padded}"
        yield Engine("openvino", label, precision=p, multiple=multiple, **common)


def as_typed():
    """What somebody gets who types what each README says, and no more."""
    common = {"settings": TYPED, "typed": True}
    for size in (32, 1):
        label = f"transformers pipeline, batch_size={size}"
        yield Engine("pipeline", label, "fp32", batch_size=size, **common)
    yield Engine("onnxruntime", "ONNX Runtime, batches of 32", "fp32", batch_size=32, **common)
    label = "OpenVINO, batches of 32"
    yield Engine("openvino", label, readings.DEFAULT, batch_size=32, **common)
    yield Engine("ours", "ours as typed", readings.DEFAULT, batch_size=32, **common)


def servers():
    """One text at a time from many callers, as services are set up for it."""
    common = {"settings": (SERVER,), "sorted": True}  # a batch is padded to its longest
    label = "transformers pipeline behind a lock"
    yield Engine("pipeline", label, "fp32", server="lock", **{**common, "batch_size": 1})
    for p in ("fp32", "int8"):
        label = f"ONNX Runtime {p} in 2 threads"
        yield Engine("onnxruntime", label, p, server="threads", streams=2, **common)
    for p in ("fp32", "bf16", "int8"):
        label = f"OpenVINO {p}, AsyncInferQueue"
        yield Engine("openvino", label, p, server="queue", streams=2, **common)
        label = f"OpenVINO {p}, dynamic batcher"
        yield Engine("openvino", label, p, server="batcher", batch_size=32, **common)
        yield Engine("ours", f"ours {p}, shared rows", p, server="shared", streams=1, **common)


def ours(precision):
    """The exported file as it is; dense rows are of one sentence, and of several."""
    device = "cuda" if precision == "fp16" else "cpu"
    common = {"device": device, "batch_size": 32, "streams": 0}  # 0: the engine's choice
    yield Engine("ours", f"ours {precision}", precision, (*BOTH, *SINGLE), **common)
    yield Engine("ours", f"ours {precision}, packed", precision, DENSE, packed=True, **common)
    if precision in ("fp32", "int8"):  # int8: ONNX Runtime's own dynamic quantisation of our file
        common = {**common, "batch_size": 8, "packed": True, "backend": "onnx"}
        yield Engine("ours", f"ours ONNX Runtime {precision}, packed", precision, TEXT, **common)


def engines(args, folder):
    """(every Engine that was asked for and runs here, notes on what does not); exports our files
    into `folder`."""
    cannot, chosen, ids = unusable(), [], None
    wanted = args.precision or PRECISIONS
    notes = [note for precision, note in cannot.items() if precision in wanted]
    for engine in candidates():
        named = not args.engines or any(word in engine.label for word in args.engines)
        runs = engine.precision in (*wanted, readings.DEFAULT) and engine.precision not in cannot
        if not named or not runs or not set(engine.settings) & set(args.settings):
            continue
        engine.made_from["pth_dir"] = args.pth_dir
        if engine.kind == "openvino" and engine.precision == "int8":
            engine.made_from["calibration"] = ids = ids or calibration(args)
        try:
            if engine.kind == "ours":
                engine.made_from["file"] = export(args, folder, engine)
            if engine.kind == "pipeline":
                engine.made_from["folder"] = hugging_face_folder(args, folder)
            chosen.append(engine)
        except UserError as error:
            notes.append(f"{engine.label} not measured: {error}")
    return chosen, notes


def unusable():
    """{precision that engines here do not compute in: note}"""
    openvino, notes = backends.get("openvino"), {}
    if openvino.unavailable("cpu") or "BF16" not in openvino.capabilities():
        notes["bf16"] = "bf16: this CPU has no bf16 instructions, not measured"
    if not cuda():
        notes["fp16"] = "no CUDA device: the engines for one were not measured"
    return notes


def cuda():
    """The GPU's name, or None."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def load(pth_dir):
    """(Checkpoint, Tokenizer) of --pth_dir."""
    loaded = checkpoint.load(pth_dir)
    return loaded, loaded.tokenizer.load()


def calibration(args):
    """256 id lists of training sentences, for the peers' int8; ours takes its own."""
    _, tokenizer = load(args.pth_dir)
    long = [s for s in datasets.read(args.data_dir, "train").sentences if len(s.split()) >= 10]
    chosen = random.Random(0).sample(long, min(256, len(long)))
    return [tokenizer.encode(sentence, LENGTH).ids for sentence in chosen]


def hugging_face_folder(args, folder):
    """The checkpoint as transformers' pipeline takes it; made once."""
    place = folder / "hugging_face"
    if not place.is_dir():
        loaded = load(args.pth_dir)[0].named(tasks.SST2)
        model = transformers_model(loaded)
        model.config.id2label = dict(enumerate(loaded.config.label_names))
        model.config.label2id = {name: i for i, name in model.config.id2label.items()}
        model.save_pretrained(place)
        (place / "spiece.model").write_bytes(loaded.tokenizer.data)
    return str(place)


def note_on_ids(folder, tokenizer, sentences):
    """What is said where the tokenizer that transformers makes of its folder splits sentences
    otherwise than ours; None where it does not."""
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    differing = sum(
        list(theirs(text)["input_ids"]) != list(tokenizer.encode(text, LENGTH).ids)
        for text in sentences
    )
    count = f"{differing} of {len(sentences)} sentences"
    return f"transformers' tokenizer gives other ids than ours for {count}" if differing else None


def export(args, folder, engine):
    """Path of the file that export_albert_aie.py writes; made once for all that run it."""
    flags = []
    if not engine.typed:
        usual = "torchscript" if engine.device == "cuda" else "openvino"
        flags += [f"--backend={engine.backend or usual}", f"--device={engine.device}"]
        flags += [f"--precision={'fp32' if engine.backend == 'onnx' else engine.precision}"]
    if engine.backend == "onnx":  # a shape is compiled: that of most of dev's sentences
        flags += ["--pack", f"--batch_size={engine.batch_size}", f"--max_seq_length={ROW}"]
    place = folder / "".join(["ours", *flags])
    if not list(place.glob("*.pt")):
        flags += [f"--pth_dir={args.pth_dir}", f"--data_dir={args.data_dir}", f"--save_dir={place}"]
        done = host.script("export_albert_aie.py", *flags)
        if done["exit_code"]:
            raise UserError(host.reason(done))
    return str(next(place.glob("*.pt")))
