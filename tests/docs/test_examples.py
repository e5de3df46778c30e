"""The programs of docs/examples.md run and show what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_example_is_shown_and_tested():
    page = (ROOT / "docs" / "examples.md").read_text()
    for path in (ROOT / "experiments" / "examples").glob("[a-z]*.py"):
        assert f"python -m experiments.examples.{path.stem}" in page
        assert f'--8<-- "experiments/examples/{path.stem}.py"' in page
        assert f"test_{path.stem}" in globals()


def test_operator():
    for framework in ("torch", "jax", "tensorflow"):
        pytest.importorskip(framework)
    from experiments.examples import operator

    slopes = [*operator.main().values()]
    assert len(slopes) == 4
    assert slopes == pytest.approx([slopes[0]] * 4, rel=1e-3)


@pytest.mark.nightly
def test_operator_in_a_process_of_its_own():
    for framework in ("torch", "jax", "tensorflow"):
        pytest.importorskip(framework)
    # it matters which framework comes first
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "experiments.examples.operator"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    slopes = [float(line.split("=")[1]) for line in done.stdout.splitlines()]
    assert len(slopes) == 4
    assert slopes == pytest.approx([slopes[0]] * 4, rel=1e-3)


def test_torchvision_model(tmp_path):
    from experiments.examples import torchvision_model

    robust = torchvision_model.main(["--output", str(tmp_path / "picture.png")])
    assert set(robust) == {"L1", "L2", "Linf"}
    assert max(robust.values()) <= 0.25
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_evaluate_model(tmp_path, capsys):
    pytest.importorskip("duckdb")
    from experiments.examples import evaluate_model

    robust = evaluate_model.main(["--output", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    for (attack, epsilon), accuracy in robust.items():
        assert attack in printed
        assert accuracy <= robust["noise", epsilon]
    assert robust["clip_aware_pgd", 0.6] <= robust["foolbox_pgd", 0.6]
    assert "missed" in printed


def test_train_with_noise():
    from experiments.examples import train_with_noise

    accuracy = train_with_noise.main(["--epochs", "8"])
    assert accuracy["noise"] > accuracy["clean"] > 0.3
