"""What the library `tokenizers` runs: a tokenizer.json as it is, and a vocab.txt as albert_pytorch
uses it."""

import contextlib

from ..base import terminal
from ..base.encoding import Encoded, framed, texts
from ..base.errors import UserError, first_line, refusing

# Reaches most of what can fail in a tokenizer: known words, accents, an unknown character.
_PROBE = "Caf\u00e9 \u96fb -- a ``long'' [SEP] 1994,"


class JsonTokenizer:
    """A tokenizer.json, run by the library `tokenizers` as transformers runs it. The name of a
    special token in a text, such as [SEP], becomes that token."""

    ENTRY = "tokenizer.json"
    NAMES = ("tokenizer.json",)

    def __init__(self, data, name="tokenizer.json"):
        """Of the bytes of the file; `name` is in errors. Raises UserError if it is no tokenizer."""
        import tokenizers

        self._name, self._length = name, None
        wrong = f"not a tokenizer that tokenizers {tokenizers.__version__} reads"
        with terminal.silent(), self._errors(wrong):  # a panic writes lines of its own
            self._tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8-sig"))
            self._tokenizer.no_padding()  # the file can ask for either
            self._tokenizer.no_truncation()
            empty = self._tokenizer.encode("").ids
            self._tokenizer.encode(_PROBE)
            self.vocab_size = max(*self._tokenizer.get_vocab().values(), *empty) + 1
        if not empty:
            raise UserError(
                f"{name}: puts no [CLS] and [SEP] around a sentence; save the tokenizer again with "
                "the post-processor that the checkpoint was trained with"
            )

    def encode(self, sentence, max_seq_length=None):
        """Encoded: as the file says, cut to max_seq_length with what it puts around a sentence
        kept. Segment 1 begins with the second text, whatever the file says of segments: that is how
        ALBERT was trained, and transformers 5 writes files that say nothing."""
        with self._errors("cannot tokenise a sentence"):
            if not isinstance(sentence, str):
                return self._encode_pair(*sentence, max_seq_length)
            if max_seq_length != self._length:
                self._length = max_seq_length
                self._tokenizer.no_truncation()
                if max_seq_length is not None:
                    self._tokenizer.enable_truncation(max_seq_length)
            encoding = self._tokenizer.encode(sentence)
        return Encoded(encoding.ids, bool(encoding.overflowing))

    def _encode_pair(self, first, second, max_seq_length):
        """Cut here as the library does it by its longest_first: the library itself keeps what it
        cuts off, each piece of one text with each of the other, which for two books takes all
        memory."""
        if self._length is not None:
            self._length = None
            self._tokenizer.no_truncation()
        encoding = self._tokenizer.encode(first, second)
        ids, known = encoding.ids, encoding.sequence_ids
        cut = max_seq_length is not None and len(ids) > max_seq_length
        if cut:
            lengths = known.count(0), known.count(1)
            keep = max(0, max_seq_length - known.count(None))
            short = min(*lengths, keep // 2)
            kept = (short, keep - short) if lengths[0] <= lengths[1] else (keep - short, short)
            starts = [known.index(i) if i in known else 0 for i in (0, 1)]
            places = [
                place
                for place, text in enumerate(known)
                if text is None or place - starts[text] < kept[text]
            ]
            ids, known = [ids[place] for place in places], [known[place] for place in places]
        # where the second text has no token, its [SEP] is left
        begins = known.index(1) if 1 in known else len(known) - 1
        return Encoded(ids, cut, begins)

    def normalized(self, text):
        """A text as the model of the tokenizer gets it."""
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    @contextlib.contextmanager
    def _errors(self, what):
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library's panics are no Exception
            raise UserError(
                f"{self._name}: {what} ({first_line(error)}); save the tokenizer again, or pip "
                "install the version of tokenizers that wrote it"
            ) from None


# A word that is longer is one [UNK]: albert_pytorch's number, and BERT's.
_LONGEST_WORD = 100


class WordPiece:
    """A vocab.txt as albert_pytorch and BERT use it, by the library `tokenizers`: what Chinese
    ALBERTs have. The name of a special token in a text, such as [SEP], is text; with
    `special_tokens` it becomes that token, as transformers does it. So do `exact_tokens` {token:
    id} in a text as it stands, and `added_tokens` in what is left of it once lower-cased."""

    ENTRY = "vocab.txt"
    NAMES = ("vocab.txt",)
    SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

    def __init__(
        self,
        data,
        name="vocab.txt",
        do_lower_case=True,
        special_tokens=False,
        exact_tokens=None,
        added_tokens=None,
    ):
        """`data`: the bytes of the file, a piece a line; `name` appears in errors. Raises UserError
        if it is no such vocabulary, or where a token cannot have its id."""
        import tokenizers

        with refusing(f"{name}: not UTF-8; copy it again from the checkpoint", UnicodeDecodeError):
            lines = data.decode("utf-8").replace("\r\n", "\n").split("\n")
        while lines and not lines[-1]:
            lines.pop()
        vocab = {piece: number for number, piece in enumerate(lines)}
        missing = [piece for piece in self.SPECIAL if piece not in vocab]
        if missing or vocab["[PAD]"] != 0:
            wrong = f"has no {missing[0]}" if missing else "does not begin with [PAD]"
            raise UserError(
                f"{name}: {wrong}, so it is no WordPiece vocabulary of an ALBERT; use the "
                "checkpoint's own vocab.txt"
            )
        self._special = special_tokens
        self._cls, self._sep = vocab["[CLS]"], vocab["[SEP]"]
        model = tokenizers.models.WordPiece(
            vocab, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD
        )
        self._tokenizer = tokenizers.Tokenizer(model)
        self._tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=do_lower_case)
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        if special_tokens:
            known = [piece for piece in (*self.SPECIAL, "[MASK]") if piece in vocab]
            self._tokenizer.add_special_tokens(known)
        groups = (exact_tokens or {}, False), (added_tokens or {}, True)
        added = [(number, token, kind) for group, kind in groups for token, number in group.items()]
        for number, token, normalized in sorted(added):  # the library numbers them as they come
            self._tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=normalized)])
            if self.token_id(token) != number:
                raise UserError(
                    f"{name}: the added token {token!r} has id {number}, where its files leave "
                    f"room for {self.token_id(token)} only; save the tokenizer as tokenizer.json"
                )
        self.vocab_size = max([len(lines), *(number + 1 for number, _, _ in added)])

    def token_id(self, token):
        """The id of a piece or an added token, or None."""
        return self._tokenizer.token_to_id(token)

    def encode(self, sentence, max_seq_length=None):
        """Encoded, as `framed` says."""
        encode = self._tokenizer.encode
        pieces = [encode(text, add_special_tokens=False).ids for text in texts(sentence)]
        return framed(pieces, self._cls, self._sep, max_seq_length, self._special)
