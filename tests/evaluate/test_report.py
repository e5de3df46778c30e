import csv
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from foolbox_carescale.evaluate import (
    AttackConfig,
    Evaluation,
    Results,
    UserError,
    evaluate,
    print_report,
    write_report,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    attacks = {
        "foolbox_noise": AttackConfig("L2AdditiveGaussianNoiseAttack", [2.0, 8.0]),
        "foolbox_pgd": AttackConfig("LinfPGD", [0.01, 0.05], params={"steps": 5}),
        "one_epsilon": AttackConfig("LinfFastGradientAttack", [0.02]),
    }
    output = str(tmp_path_factory.mktemp("runs") / "run")
    return evaluate(Evaluation(attacks=attacks, samples=20, output=output))


def test_the_summary_is_that_of_the_rows(results):
    cells = {(cell.attack, cell.epsilon): cell for cell in results.summary()}
    rows = [
        row
        for row in results.table.to_pylist()
        if (row["attack"], row["epsilon"]) == ("foolbox_noise", 8.0)
    ]
    cell = cells["foolbox_noise", 8.0]
    ratios = [row["norm"] / 8 for row in rows if row["attacked"]]
    assert cell.samples == 20
    assert cell.robust_accuracy == np.mean([row["robust"] for row in rows])
    assert cell.norm_mean == pytest.approx(np.mean(ratios))
    assert cell.norm_min == min(ratios)
    assert cell.loss == pytest.approx(np.mean([row["loss"] for row in rows]))
    assert [c.p for c in results.summary()] == [2, 2, np.inf, np.inf, np.inf]


def test_the_table_shows_clean_and_robust_accuracy_and_norms(results):
    stream = io.StringIO()
    print_report(results, Console(file=stream, width=100))
    text = stream.getvalue()
    assert f"clean accuracy {results.clean_accuracy:.3f}" in text
    for cell in results.summary():
        assert cell.attack in text
        assert f"{cell.epsilon:g}" in text
        assert f"{cell.robust_accuracy:.3f}" in text
        assert f"{cell.norm_mean:.3f}, {cell.norm_min:.3f}" in text


def test_the_report_is_made_from_the_folder_alone(results):
    written = write_report(Results.load(results.folder))
    assert [path.name for path in written] == [
        "summary.csv",
        "curves.png",
        "norms.png",
        "grid.png",
    ]
    with written[0].open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 5
    for path in written[1:]:
        with Image.open(path) as image:
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_a_run_in_which_nothing_could_be_attacked_is_reported_too(tmp_path):
    from foolbox_carescale.evaluate import DataConfig, ModelConfig

    evaluation = Evaluation(
        model=ModelConfig(_target_="tests.evaluate.test_runner.brightness"),
        data=DataConfig(_target_=f"{__name__}.mislabelled"),
        attacks={"pgd": AttackConfig("L2PGD", [1.0])},
        output=str(tmp_path / "run"),
    )
    results = evaluate(evaluation)
    assert results.clean_accuracy == 0
    assert [path.name for path in write_report(results)][-1] == "norms.png"
    print_report(results, Console(file=io.StringIO()))


def mislabelled():
    return np.zeros((2, 3, 4, 4), np.float32), np.array([1, 1])


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no results of a run"):
        Results.load(tmp_path)
