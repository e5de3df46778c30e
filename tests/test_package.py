"""What is uploaded: the same bytes from the same tree, complete, and typed for its users."""

import email
import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("build")
pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source distribution, built twice."""
    return [build(tmp_path_factory.mktemp("dist")) for _ in range(2)]


def build(folder):
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.nightly
def test_two_builds_are_the_same_bytes(built):
    digests = [[hashlib.sha256(path.read_bytes()).hexdigest() for path in pair] for pair in built]
    assert digests[0] == digests[1]


def test_wheel_holds_every_file_of_the_package_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0][0]).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "foolbox_carescale"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    wanted = {name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()}
    assert {name for name in names if ".dist-info/" not in name} == wanted
    for kind in (".py", ".yaml", ".safetensors", ".template", ".css", ".js", "py.typed"):
        assert any(name.endswith(kind) for name in wanted)


def test_source_distribution_is_enough_to_test_and_document(built):
    with tarfile.open(built[0][1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("README.md", "LICENSE", "CITATION.cff", "mkdocs.yml", "docs/index.md",
                 "tests/test_package.py", "experiments/quickstart.yaml",
                 "experiments/results/strength.md"):  # fmt: skip
        assert path in names


def test_metadata_say_what_a_stranger_asks(built):
    archive = zipfile.ZipFile(built[0][0])
    (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(archive.read(name))
    assert said["License-Expression"] == "MIT"
    assert said["Requires-Python"] == ">=3.10"
    assert said["Description-Content-Type"] == "text/markdown"
    assert {"evaluate", "jax", "tensorflow", "torch"} <= set(said.get_all("Provides-Extra"))
    labels = [line.partition(",")[0] for line in said.get_all("Project-URL")]
    assert "Paper" in labels
    core = [line for line in said.get_all("Requires-Dist") if "extra ==" not in line]
    assert {line.partition(">")[0] for line in core} == {"foolbox", "eagerpy", "numpy", "numba"}
