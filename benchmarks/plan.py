"""Which engines peers.py measures, as plain data, and what they are made from."""

import random
from dataclasses import asdict, dataclass, field
from itertools import groupby, product
from operator import itemgetter

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
SERVED = (SERVER,)  # texts come one at a time, from many callers
SETTINGS = (*BOTH, *SINGLE, *TYPED)


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


FLOAT, ONNX, CPU = ("fp32", "bf16"), ("fp32", "int8"), ("fp32", "bf16", "int8")
FP32, FP16, OWN = ("fp32",), ("fp16",), (readings.DEFAULT,)
SORTED = {"sorted": True, "search": (8, 16)}
OPENVINO = {"sorted": True, "search": (8, 16, 32)}
ONE = {"sorted": True, "batch_size": 1}  # free sizes: what is set up for a service
TWO, MANY = {"sorted": True, "streams": 2}, {"sorted": True, "batch_size": 32}
TYPE = {"typed": True, "batch_size": 32}  # what somebody gets who types what a README says
CUDA = {"device": "cuda", "search": (32, 256, 1024)}
# no streams: the engine's choice
OURS, OURS_ONNX = {"batch_size": 32, "streams": 0}, {"backend": "onnx", "streams": 0}
# Precisions, kind, label, settings, and what differs from an Engine's defaults.
PEERS = (
    (FLOAT, "transformers", "transformers eager {}, padded to 128", BOTH, {"search": (8, 32)}),
    (FLOAT, "transformers", "transformers eager {}, sorted", TEXT, SORTED),
    (FLOAT, "transformers", "torch.compile {}", DENSE, {"compile": True}),
    (ONNX, "onnxruntime", "ONNX Runtime {}, sorted", BOTH, SORTED),
    (CPU, "openvino", "OpenVINO {}, sorted, 1 stream", BOTH, OPENVINO),
    (CPU, "openvino", "OpenVINO {}, sorted, 2 streams", TEXT, {**OPENVINO, **TWO}),
    (FLOAT, "transformers", "transformers eager {}, one", SINGLE, ONE),
    (FLOAT, "transformers", "torch.compile dynamic {}, one", SINGLE, {**ONE, "compile": True}),
    (ONNX, "onnxruntime", "ONNX Runtime {}, one", SINGLE, ONE),
    (CPU, "openvino", "OpenVINO {}, one, exact length", SINGLE, ONE),
    (CPU, "openvino", "OpenVINO {}, one, padded to 8", SINGLE, {**ONE, "multiple": 8}),
    (FP32, "pipeline", "transformers pipeline, batch_size=32", TYPED, TYPE),
    (FP32, "pipeline", "transformers pipeline, batch_size=1", TYPED, {**TYPE, "batch_size": 1}),
    (FP32, "onnxruntime", "ONNX Runtime, batches of 32", TYPED, TYPE),
    (OWN, "openvino", "OpenVINO, batches of 32", TYPED, TYPE),
    (OWN, "ours", "ours as typed", TYPED, TYPE),
    (FP32, "pipeline", "transformers pipeline behind a lock", SERVED, {**ONE, "server": "lock"}),
    (ONNX, "onnxruntime", "ONNX Runtime {} in 2 threads", SERVED, {**TWO, "server": "threads"}),
    (CPU, "openvino", "OpenVINO {}, AsyncInferQueue", SERVED, {**ONE, "server": "queue"}),
    (CPU, "openvino", "OpenVINO {}, AsyncInferQueue of 2", SERVED, {**TWO, "server": "queue"}),
    (CPU, "openvino", "OpenVINO {}, dynamic batcher", SERVED, {**MANY, "server": "batcher"}),
    (CPU, "ours", "ours {}, shared rows", SERVED, {"server": "shared"}),
    (FP16, "transformers", "transformers eager {} cuda", BOTH, CUDA),
    (FP16, "transformers", "transformers sdpa {} cuda", BOTH, {**CUDA, "attention": "sdpa"}),
    (FP16, "transformers", "torch.compile max-autotune {} cuda", DENSE, {**CUDA, "compile": True}),
    (CPU, "ours", "ours {}", (*BOTH, *SINGLE), OURS),
    (CPU, "ours", "ours {}, packed", DENSE, {**OURS, "packed": True}),
    # in int8 ONNX Runtime's own dynamic quantisation of our file
    (ONNX, "ours", "ours ONNX Runtime {}, packed", TEXT, {**OURS_ONNX, "packed": True}),
    (FP16, "ours", "ours {}", (*BOTH, *SINGLE), {**OURS, "device": "cuda"}),
    (FP16, "ours", "ours {}, packed", DENSE, {**OURS, "device": "cuda", "packed": True}),
    (CPU, "ceiling", "ceiling {}", BOTH, {}),
)


def candidates():
    """Every engine that there is, whether this machine can run it or not."""
    for precisions, rows in groupby(PEERS, key=itemgetter(0)):
        for p, (_, kind, label, settings, fields) in product(precisions, rows):
            yield Engine(kind, label.format(p), p, settings, **fields)


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


def examples(args):
    """The Examples of SST-2's dev, labelled as --pth_dir has its classes."""
    names = load(args.pth_dir)[0].named(tasks.SST2).config.label_names
    return datasets.read(args.data_dir).for_model(names)


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


def notes_on_ids(folder, tokenizer, sentences):
    """What is said where the tokenizer that transformers makes of its folder splits sentences
    otherwise than ours."""
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    differing = sum(
        list(theirs(text)["input_ids"]) != list(tokenizer.encode(text, LENGTH).ids)
        for text in sentences
    )
    count = f"{differing} of {len(sentences)} sentences"
    return [f"transformers' tokenizer gives other ids than ours for {count}"] if differing else []


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
