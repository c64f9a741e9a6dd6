"""What runs an openvino file: the core alone, without torch."""

import subprocess
import sys

import pytest
import test_serve
from helpers import ROOT, python, refused

WITHOUT = """
import sys
for name in ("torch", "transformers", "safetensors"):
    sys.modules[name] = None
script = __import__(sys.argv[1])
sys.exit(script.main(sys.argv[2:]))
"""


def test_an_openvino_file_is_run_without_what_an_export_needs(made_by, sentences, tmp_path):
    file = f"--aie_model_dir={made_by['openvino']}"
    (tmp_path / "a.txt").write_text("a fine film\ndull\n")
    data = f"--data_dir={sentences}", f"--output_dir={tmp_path}"
    for what in (["--text=a fine film"], [f"--input={tmp_path / 'a.txt'}"], data):
        run = python("-c", WITHOUT, "run_aie_eval", file, *what)
        assert run.code == 0, run.err


def test_where_torch_is_missing_one_sentence_says_how_to_install_it(made_by, tiny, tmp_path):
    file, text = f"--aie_model_dir={made_by['torchscript']}", "--text=a"
    run = python("-c", WITHOUT, "run_aie_eval", file, text)
    assert refused(run, "was compiled for torchscript, which needs torch; pip install torch")
    flags = f"--pth_dir={tiny}", f"--save_dir={tmp_path}", "--backend=openvino"
    run = python("-c", WITHOUT, "export_albert_aie", *flags)
    assert refused(run, "this needs torch; pip install -e .[export]")


@pytest.mark.slow  # makes a venv: pip downloads some 100 MB
def test_the_core_alone_in_a_venv(made_by, sentences, tmp_path):
    """500 MB at most, without torch; an openvino file is run there in every way, and served."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    inside = str(tmp_path / "venv" / "bin" / "python")

    def install(what):
        subprocess.run([inside, "-m", "pip", "install", "-q", what], check=True)

    install(str(ROOT))
    files = (path.lstat() for path in (tmp_path / "venv").rglob("*") if path.is_file())
    size = sum(file.st_size for file in files) / 1e6
    print(f"{size:.0f} MB")
    assert size <= 500 and not list((tmp_path / "venv").rglob("site-packages/torch"))
    file = f"--aie_model_dir={made_by['openvino']}"
    (tmp_path / "a.txt").write_text("a fine film\ndull\n")
    data = f"--data_dir={sentences}", f"--output_dir={tmp_path}"
    for what in (["--text=a fine film"], [f"--input={tmp_path / 'a.txt'}"], data):
        assert subprocess.run([inside, "run_aie_eval.py", file, *what], cwd=ROOT).returncode == 0
    install(f"{ROOT}[serve]")
    with test_serve.serving(made_by["openvino"], inside) as (_, port):
        status, answer = test_serve.ask(port, "POST", "/predict", {"inputs": "a fine film"})
    assert status == 200 and len(answer) == 2
