"""What a user names as a checkpoint -> its folder: a local one, or one fetched by its hub id."""

import contextlib
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from ..base.errors import UserError, first_line, refusing, some
from ..text import find_tokenizer
from . import weights


def find(source):
    """Path of the folder that holds config.json. Raises UserError, which says what is there."""
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            check_whole(path)
        return path
    if path.exists():
        raise UserError(
            f"{path}: is a file; --pth_dir wants the folder that holds config.json and the weights"
        )
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(source)):
        return _from_hub(str(source))
    raise UserError(
        f"{path}: no such folder; --pth_dir wants albert_pytorch's output folder, a Hugging Face "
        'folder or hub id (README, "The real job"), or demo/checkpoint of this repository'
    )


def check_whole(folder):
    """Raises UserError for the folders that users take for a checkpoint's and that are not."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: holds a LoRA adapter, not a whole model; merge it into its base model "
            "(merge_and_unload), save that, and give its folder"
        )
    for what, pattern in (
        ("checkpoints of a training run", "checkpoint-*/config.json"),
        ("a model of the Hugging Face cache", "snapshots/*/config.json"),
        ("the Hugging Face cache", "models--*/snapshots/*/config.json"),
        ("the Hugging Face cache", "hub/models--*/snapshots/*/config.json"),
    ):
        folders = sorted(str(config.parent) for config in folder.glob(pattern))
        if folders:
            raise UserError(f"{folder}: holds {what}; give the one that you mean ({some(folders)})")


def _from_hub(name):
    message = f"{name}: no such folder; to fetch it as a hub id, pip install transformers"
    with refusing(message, ImportError):
        from transformers.utils import cached_file
    offline = not _hub_answers()

    def fetch(*file_names):
        """Path of the first of these files that the hub has. Raises UserError if it has none."""
        for file_name in file_names:
            try:
                return Path(cached_file(name, file_name, local_files_only=offline))
            # offline, unknown or forbidden: all reach us so
            except (OSError, ValueError, RuntimeError) as error:
                reason = first_line(error)
        raise UserError(
            f"{name}: no such folder here, and as a hub id {file_names[0]} could not be fetched "
            f"({reason}); download the model and give its folder"
        )

    config = fetch("config.json")
    for names in find_tokenizer.NAMES:
        with contextlib.suppress(UserError):  # --tokenizer may name a file
            fetch(*names)
    for shard in weights.files(fetch(*weights.NAMES))[1:]:
        fetch(shard.name)
    return config.parent


def _hub_answers():
    """Whether the hub's host can be reached; without this the library retries for half a minute."""
    from huggingface_hub import constants

    if getproxies().keys() & {"https", "all"}:
        return True
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname, host.port or 443), timeout=5).close()
    except OSError:
        return False
    return True
