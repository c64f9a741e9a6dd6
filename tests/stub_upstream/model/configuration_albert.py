class AlbertConfig:
    def __init__(self, vocab_size_or_config_json_file, **sizes):
        self.vocab_size = vocab_size_or_config_json_file
        self.__dict__.update(sizes)
