"""The interface of albert_pytorch's tokenizer; what it does is ours."""

from pathlib import Path

from albert_aie.text.sentencepiece_model import SentencePiece


class FullTokenizer:
    def __init__(self, vocab_file, do_lower_case=True, spm_model_file=None):
        self.tokenizer = SentencePiece(Path(spm_model_file).read_bytes())

    def tokenize(self, text):
        return self.tokenizer.encode(text)[0][1:-1]

    def convert_tokens_to_ids(self, tokens):
        return [{"[CLS]": 2, "[SEP]": 3}.get(token, token) for token in tokens]
