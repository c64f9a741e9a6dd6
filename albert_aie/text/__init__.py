"""Texts as token ids, by the tokenizer that a checkpoint was trained with."""

__all__ = ["find_tokenizer", "sentencepiece_model", "tokenizer_file"]
