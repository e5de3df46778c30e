"""The commands of README and docs, as they are written, page by page.

What takes seconds runs as it stands, in a folder with small files of the names that the pages use.
An evaluation or a training of a full-sized model runs up to its config: through the argument
parser and everything that ``--print-config`` does. Commands of other programs, and those that
need the network, are named here with what runs them instead.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from foolbox_carescale.cli import main
from foolbox_carescale.cli.parser import parse
from foolbox_carescale.evaluate import AttackConfig, DataConfig, Evaluation, ModelConfig, evaluate
from tests.docs.test_code import BLOCK, ROOT, files_of

pytestmark = pytest.mark.usefixtures("without_figures")

SHELL = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(carescale [^`]+)`")

NETWORK = {
    "carescale verify --clean sent.npz --adversarial sent.npz --labels sent.npz --eps 0.5"
    " --norm L2 --model resnet50 --robust-accuracy 0.42 --output check":
    "the weights of resnet50; tests/evaluate/test_verification.py gives a model of its own",
}  # fmt: skip
ELSEWHERE = {
    "git clone": "the network", "cd": "into that",
    "pip install": "the network; the extras are compared with pyproject.toml below",
    "pre-commit install": "changes the checkout",
    "ruff check": ".ci/run", "ruff format": ".ci/run", "mypy": ".ci/run", "lint-imports": ".ci/run",
    "pytest": "this run", "coverage": "experiments/coverage.py", "mkdocs serve": "never ends",
    "ENVIRONMENT=/tmp/lowest": ".ci/versions, in the nightly workflow",
    "python -m experiments.examples": "tests/docs/test_examples.py",
}  # fmt: skip
CONFIGS = re.compile(r"carescale (evaluate|train)\b")
CHEAP = re.compile(r"carescale evaluate (my|mine)\.yaml(?!.*executor[.=])")
COMPOSED = set()
ON_A_RUN = ("docs/howto/pandas.md", "docs/howto/paper.md")  # their Python reads runs/mine


def pages():
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found if SHELL.search(path.read_text())]


def commands(text):
    """The words of each command: of several in a line, of one in several lines."""
    for block in SHELL.findall(text):
        read = ""
        for line in block.replace("\\\n", " ").splitlines():
            read += line + "\n"
            try:
                words = shlex.split(read, comments=True)
            except ValueError:  # a quotation goes on in the next line
                continue
            read = ""
            while "&&" in words:
                yield words[: words.index("&&")]
                words = words[words.index("&&") + 1 :]
            if words:
                yield words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of the names that the pages use."""
    path = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (path / "photos" / kind).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / "photos" / kind / f"{i}.png")
    clean = rng.uniform(0.2, 0.8, (4, 3, 8, 8)).astype(np.float32)
    np.save(path / "x.npy", clean)
    np.save(path / "x_adv.npy", clean + np.float32(8 / 255) * rng.choice([-1, 1], clean.shape))
    (path / "experiments").symlink_to(ROOT / "experiments")
    attacks = {
        "pgd": AttackConfig("LinfClipAwarePGD", params={"steps": 1}),
        "minimum_norm": AttackConfig("LinfClipAwareMinimumNorm", params={"steps": 4}),
        "l2_minimum_norm": AttackConfig("L2ClipAwareMinimumNorm", params={"steps": 4}),
    }
    tiny = Evaluation(
        ModelConfig(_target_="tests.evaluate.test_runner.brightness"),
        DataConfig(_target_="tests.evaluate.factories.data"),
        attacks=attacks,
        epsilons={"Linf": [4 / 255, 8 / 255], "L2": [0.1]},
        samples=6,
    )
    (path / "my.yaml").write_text(tiny.to_yaml())
    (path / "imagenet.yaml").write_text("defaults: [{model: resnet50}, {data: imagenet}]\n")
    tiny.output = str(path / "runs" / "mine")
    evaluate(tiny)
    for name in ("a", "b", "other", "standard", "robust"):
        shutil.copytree(path / "runs" / "mine", path / "runs" / name)
    for name in ("train", "noisy"):  # as far as a config is made from it
        (path / "runs" / name).mkdir()
        (path / "runs" / name / "train.json").write_text("{}")
        (path / "runs" / name / "config.yaml").write_text("model: {}\ndata: {}\n")
        save_file({"w": clean}, path / "runs" / name / "weights.safetensors")
    return path


@pytest.fixture
def _inside(folder, tmp_path, monkeypatch):
    """A copy of the folder as working directory."""
    shutil.copytree(folder, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path / "work")
    answers = {"Model": "mine.model", "Data,": "photos", "Epsil": ""}
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answers[question[:5]])
    monkeypatch.setenv("SCRATCH", str(tmp_path / "work" / "runs"))
    shutil.copytree(folder / "runs" / "mine", tmp_path / "work" / "runs" / "imagenet")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "32")


@pytest.mark.usefixtures("_inside")
@pytest.mark.parametrize("page", pages())
def test_commands_of_a_page_run(page, capsys):
    text = (ROOT / page).read_text()
    for name, content in files_of(text):
        Path(name).write_text(content)
    for words in commands(text):
        target = words[words.index(">") + 1] if ">" in words else None
        words = words[: words.index(">")] if target else words
        if words[1:3] == ["evaluate", "mine.yaml"]:  # another run than the one that is there
            shutil.rmtree("runs/mine")
        capsys.readouterr()
        run([os.path.expandvars(word) for word in words])
        if target:
            Path(target).write_text(capsys.readouterr().out)
    names = {}
    for code in BLOCK.findall(text) if page in ON_A_RUN else ():
        exec(compile(code, page, "exec"), names)


def run(words):
    line = " ".join(words)
    if words[0] == "srun":
        run(words[1:])
    elif words[:2] == ["python", "-c"]:
        subprocess.run([sys.executable, *words[1:]], check=True)
    elif line in NETWORK:
        parse(words[1:])
    elif words[0] == "carescale":
        composed = CONFIGS.match(line) and not CHEAP.match(line)
        if composed and line in COMPOSED:  # on another page
            return
        COMPOSED.add(line)
        assert main([*words[1:], *(["--print-config"] if composed else [])]) == 0, line
    elif not any(line.startswith(start) for start in ELSEWHERE):
        assert words[:2] == ["python", "-m"], f"nothing runs {line!r}"
        module = importlib.util.find_spec(words[2])
        assert module is not None, line
        main_of = module.origin.replace("__init__.py", "__main__.py")
        for option in (word for word in words[3:] if word.startswith("--")):
            assert f'"{option}"' in Path(main_of).read_text(), line


def test_commands_inside_sentences_are_understood():
    for page in pages():
        for command in INLINE.findall((ROOT / page).read_text()):
            words = shlex.split(command)[1:]
            reads = ("compare", "report", "verify")  # which want folders or files
            named = words[0] in reads and not any("/" in word for word in words)
            if not named and "..." not in command:
                parse(words)


def test_extras_that_are_installed_exist():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in pages():
        text = (ROOT / page).read_text()
        for extras in re.findall(r"(?:\.|foolbox-carescale)\[([\w,]+)\]", text):
            assert {*extras.split(",")} <= project["optional-dependencies"].keys()
