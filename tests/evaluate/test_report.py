import csv
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    EvaluationWarning,
    ModelConfig,
    Results,
    UserError,
    evaluate,
    print_comparison,
    print_report,
    write_report,
)
from foolbox_carescale.evaluate.console import to_json
from foolbox_carescale.evaluate.report.aggregate import aggregate, config_differences, differences
from foolbox_carescale.evaluate.report.page import _finite as finite
from foolbox_carescale.evaluate.runner.run import Progress
from tests.evaluate import synthetic


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    attacks = {
        "foolbox_noise": AttackConfig("L2AdditiveGaussianNoiseAttack", [2.0, 8.0]),
        "foolbox_pgd": AttackConfig("LinfPGD", [0.01, 0.05], params={"steps": 5}),
        "one_epsilon": AttackConfig("LinfFastGradientAttack", [0.02]),
    }
    output = str(tmp_path_factory.mktemp("runs") / "run")
    return evaluate(Evaluation(attacks=attacks, samples=20, output=output))


def test_the_summary_agrees_with_the_rows(results):
    settings = {(setting.attack, setting.epsilon): setting for setting in results.summary()}
    rows = [
        row
        for row in results.table.to_pylist()
        if (row["attack"], row["epsilon"]) == ("foolbox_noise", 8.0)
    ]
    setting = settings["foolbox_noise", 8.0]
    ratios = [row["norm"] / 8 for row in rows if row["attacked"]]
    assert setting.samples == 20
    assert setting.robust_accuracy == np.mean([row["robust"] for row in rows])
    assert setting.norm_mean == pytest.approx(np.mean(ratios))
    assert setting.norm_min == min(ratios)
    assert setting.loss == pytest.approx(np.mean([row["loss"] for row in rows]))
    assert [c.p for c in results.summary()] == [2, 2, np.inf, np.inf, np.inf]


def test_the_table_shows_clean_and_robust_accuracy_and_norms(results):
    stream = io.StringIO()
    print_report(results, Console(file=stream, width=100))
    text = stream.getvalue()
    assert f"clean accuracy {results.clean_accuracy:.3f}" in text
    for setting in results.summary():
        assert setting.attack in text
        assert f"{setting.epsilon:g}" in text
        assert f"{setting.robust_accuracy:.3f}" in text
        assert f"{setting.norm_mean:.3f}, {setting.norm_min:.3f}" in text


def test_the_report_is_made_from_the_folder_alone(results, tmp_path):
    for name in ("config.yaml", "warnings.json", "results", "examples"):
        (tmp_path / name).symlink_to(results.folder / name)
    written = write_report(Results.load(tmp_path))
    figures = ("curves", "norms", "grid")
    assert [path.name for path in written] == [
        "report.html",
        "summary.md",
        "summary.csv",
        *(f"{name}.{kind}" for name in figures for kind in ("png", "svg")),
    ]
    for name in figures:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
        tree = ElementTree.parse(tmp_path / f"{name}.svg")
        assert tree.getroot().tag.endswith("svg")


def test_figures_keep_text_as_text_and_are_the_same_every_time(results, tmp_path):
    for folder in ("a", "b"):
        write_report(results, output=tmp_path / folder)
    text = (tmp_path / "a" / "curves.svg").read_text(encoding="utf-8")
    assert "foolbox_pgd</text>" in text
    assert text == (tmp_path / "b" / "curves.svg").read_text(encoding="utf-8")


def test_tables_agree_with_the_summary(results, tmp_path):
    write_report(results, output=tmp_path)
    with (tmp_path / "summary.csv").open(encoding="utf-8") as file:
        rows = {(row["attack"], float(row["epsilon"])): row for row in csv.DictReader(file)}
    markdown = (tmp_path / "summary.md").read_text(encoding="utf-8")
    for setting in results.summary():
        row = rows[setting.attack, setting.epsilon]
        low, high = float(row["robust_accuracy_low"]), float(row["robust_accuracy_high"])
        assert float(row["robust_accuracy"]) == setting.robust_accuracy
        assert low <= setting.robust_accuracy <= high
        assert float(row["norm_over_epsilon_mean"]) == pytest.approx(setting.norm_mean)
        assert float(row["loss_mean"]) >= 0
        assert f"{setting.robust_accuracy:.3f} ({low:.3f}–{high:.3f})" in markdown  # noqa: RUF001


def test_the_worst_case_counts_every_attack_at_this_epsilon_and_below(results):
    (run,) = aggregate([results])
    (worst,) = run.worst  # the L2 norm has one attack only
    rows = [row for row in results.table.to_pylist() if row["p"] == np.inf]
    expected = {
        epsilon: np.mean(
            [
                all(r["robust"] for r in rows if r["sample"] == s and r["epsilon"] <= epsilon)
                for s in {r["sample"] for r in rows}
            ]
        )
        for epsilon in (0.01, 0.02, 0.05)
    }
    assert {point.epsilon: point.accuracy for point in worst.points} == expected


def test_runs_are_compared_sample_by_sample_where_they_share_their_inputs(results, tmp_path):
    other = evaluate(
        Evaluation(
            attacks={"foolbox_pgd": AttackConfig("LinfPGD", [0.01, 0.05], params={"steps": 1})},
            samples=20,
            output=str(tmp_path / "other"),
        )
    )
    found = differences(aggregate([results, other]))
    assert [(one.attack, one.epsilon) for one in found] == [
        ("foolbox_pgd", 0.01),
        ("foolbox_pgd", 0.05),
    ]
    for one in found:
        assert one.paired
        assert one.samples == 20
        assert one.value == pytest.approx(one.accuracy - one.base_accuracy)
        assert one.low <= one.value <= one.high
    stream = io.StringIO()
    print_comparison([results, other], Console(file=stream, width=120))
    assert "attacks.foolbox_pgd.steps: 5 | 1" in stream.getvalue()
    assert f"{found[1].value:+.3f}" in stream.getvalue()
    assert "over the same samples, paired" in stream.getvalue()


def test_runs_of_other_samples_are_compared_without_pairs(results, tmp_path):
    other = evaluate(
        Evaluation(
            data=DataConfig(seed=1),
            attacks={"foolbox_pgd": AttackConfig("LinfPGD", [0.05], params={"steps": 5})},
            samples=20,
            output=str(tmp_path / "other"),
        )
    )
    (one,) = differences(aggregate([results, other]))
    assert not one.paired


def test_comparing_runs_that_share_no_attack_is_an_error_of_one_line(results, tmp_path):
    other = synthetic.run(tmp_path / "other")
    with pytest.raises(UserError, match="share no attack at the same epsilon"):
        print_comparison([results, other], Console(file=io.StringIO()))


def test_an_attack_that_one_run_lacks_is_one_config_difference(tmp_path):
    attacks = ["{a: {name: L2PGD, steps: 1}, b: {name: FGM, steps: 2}}", "{a: {name: L2PGD}}"]
    runs = [
        synthetic.run(tmp_path / f"run{i}", config=f"seed: {i}\nattacks: {one}\n")
        for i, one in enumerate(attacks)
    ]
    assert config_differences(aggregate(runs)) == [
        ("seed", ["0", "1"]),
        ("attacks.a.steps", ["1", ""]),
        ("attacks.b", ['"FGM"', ""]),
    ]


def test_the_table_of_differences_has_its_columns_also_where_there_are_none(results, tmp_path):
    other = synthetic.run(tmp_path / "other")
    write_report(results, other, output=tmp_path)
    with (tmp_path / "differences.csv").open(encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert list(reader) == []
        assert {"run", "base", "attack", "value", "beyond_chance"} <= set(reader.fieldnames)


def test_runs_of_the_same_name_get_distinct_names(tmp_path):
    runs = [synthetic.run(tmp_path / place / "run") for place in ("a", "b")]
    assert [run.name for run in aggregate(runs)] == [str(run.folder) for run in runs]
    twice = [run.name for run in aggregate([runs[0], runs[0]])]
    assert twice == [f"{runs[0].folder} ({i})" for i in (1, 2)]


def test_a_report_needs_at_least_one_run():
    with pytest.raises(UserError, match="runs: there is none"):
        write_report()


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(results, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"output: .* cannot be written"):
        write_report(results, output=tmp_path / "file" / "report")


def test_markdown_shows_names_as_they_are(tmp_path):
    results = synthetic.run(tmp_path / "run", model="a|b *c* <i>")
    write_report(results)
    text = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert r"a\|b \*c\* \<i\>" in text


def test_a_run_in_which_nothing_could_be_attacked_is_reported_too(tmp_path):
    evaluation = Evaluation(
        model=ModelConfig(_target_="tests.evaluate.test_runner.brightness"),
        data=DataConfig(_target_=f"{__name__}.mislabelled"),
        attacks={"pgd": AttackConfig("L2PGD", [1.0])},
        output=str(tmp_path / "run"),
    )
    results = evaluate(evaluation)
    assert results.clean_accuracy == 0
    written = write_report(results)
    assert written[-1].name == "norms.svg"
    print_report(results, Console(file=io.StringIO()))
    page = written[0].read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    line = to_json(results, Progress(None, 1, 1), written)
    for text in (data, line):
        json.loads(text, parse_constant=pytest.fail)
    assert json.loads(line)["settings"][0]["norm_mean"] is None


def test_a_number_on_the_page_that_is_not_finite_is_null():
    assert [finite(x) for x in (float("nan"), float("inf"), 0.123456)] == [None, None, 0.123456]


def test_data_other_than_images_are_reported_without_pictures(tmp_path):
    evaluation = Evaluation(
        model=ModelConfig(_target_=f"{__name__}.Rows"),
        data=DataConfig(_target_=f"{__name__}.rows"),
        attacks={"pgd": AttackConfig("L2PGD", [0.1])},
        output=str(tmp_path / "run"),
    )
    with pytest.warns(EvaluationWarning, match="training mode"):
        results = evaluate(evaluation)
    assert results.clean_accuracy == 1
    assert [path.name for path in write_report(results)][-1] == "norms.svg"


class Rows(torch.nn.Module):
    def forward(self, x):
        return x[:, :2] - x[:, 2:4]


def rows():
    return np.tile(np.array([[0.9, 0.1, 0.5, 0.5]], np.float32), (3, 1)), np.zeros(3, int)


def mislabelled():
    return np.zeros((2, 3, 4, 4), np.float32), np.array([1, 1])


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no results of a run"):
        Results.load(tmp_path)
