"""The experiments run in their short form, and measure what they say."""

import csv
import re
from pathlib import Path

import pytest

from experiments.training import epsilon, eta_gradient, jax_example, speed, universal


def rows_of(module, folder):
    module.main(["--quick", "--output", str(folder)])
    (path,) = folder.glob("*.csv")
    text = path.with_suffix(".md").read_text()
    assert "Measured 20" in text
    if "](" in text:
        assert path.with_suffix(".png").stat().st_size < 200_000
    with path.open() as file:
        return list(csv.DictReader(file))


def test_epsilon_is_realised_by_ours_only(tmp_path):
    rows = rows_of(epsilon, tmp_path)
    assert {row["attack"] for row in rows} == set(epsilon.PAIRS)
    for row in rows:
        least, most = float(row["least"]), float(row["most"])
        if row["library"] == "ours":
            assert (least, most) == pytest.approx((1, 1), abs=1e-4)
        else:
            assert most < 0.95


@pytest.mark.nightly
def test_the_three_gradients_differ_in_training_and_share_their_start(tmp_path):
    rows = rows_of(eta_gradient, tmp_path)
    exact, detached, naive = (
        [r for r in rows if r["way"] == way] for way in ("exact", "detached", "naive")
    )
    assert {float(r["in_training"]) for r in exact + detached if r["in_training"]} == {1.0}
    assert all(float(r["in_training"]) < 0.95 for r in naive if r["in_training"])
    for e, d in zip(exact, detached, strict=True):
        assert e["cross_entropy"] != d["cross_entropy"]
    assert all(0.5 < float(r["cosine_detached"]) < 0.999 for r in exact if r["cosine_detached"])


@pytest.mark.nightly
def test_universal_perturbations_have_exactly_the_norm_they_are_reported_at(tmp_path):
    rows = rows_of(universal, tmp_path)
    assert {(row["kind"], row["p"]) for row in rows} == {
        (kind, p) for kind in ("per image", "universal") for p in ("1.5", "2")
    }
    for row in rows:
        norms = float(row["least_norm"]), float(row["most_norm"])
        assert norms == pytest.approx((1, 1), abs=1e-4)
    sparse, dense = (float(r["holding_90"]) for r in rows if r["kind"] == "per image")
    assert sparse < dense


def test_speed_compares_the_operator_with_none_and_with_the_official_code(tmp_path):
    rows = rows_of(speed, tmp_path)
    assert {row["operator"] for row in rows} == {"none", "ours", "official"}
    assert all(float(row["seconds"]) > 0 for row in rows)


@pytest.mark.nightly
def test_the_jax_example_trains_on_each_recipe():
    check_example(jax_example)


@pytest.mark.nightly
def test_the_keras_example_trains_on_each_recipe():
    from experiments.training import keras_example  # TensorFlow is slow to import

    check_example(keras_example)


def check_example(example):
    results = example.main(["--quick"])
    assert list(results) == list(example.RECIPES)
    assert all(found["clean"] > 0.7 for found in results.values())
    assert results["adversarial"]["adversarial"] > results["clean"]["adversarial"] + 0.05


def test_the_lines_in_the_documentation_run():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 5
    namespace = {}
    for block in blocks:
        exec(compile(block, "docs/training.md", "exec"), namespace)
    noisy, images = namespace["noisy"], namespace["images"]
    assert (noisy - images).abs().flatten(1).sum(1).min() > 1
    attacked = (namespace["attacked"] - images).abs().max()
    assert attacked.item() == pytest.approx(8 / 255, rel=1e-4)
