"""Tables for papers: the numbers of the runs, in every format."""

import csv
import io
import json

import numpy as np
import pytest

from foolbox_carescale.cli import main
from foolbox_carescale.evaluate.report.aggregate import WORST_CASE, aggregate
from foolbox_carescale.evaluate.report.paper import paper_table
from tests.evaluate import synthetic

NOT_KNOWN = (
    "--epsilons: no attack is known at 0.7, and none looks for minimum norms, which serve every"
    " epsilon; available: L2 at 8/255, 0.5"
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        synthetic.run(folder / "a", model="resnet_50", nearest=[1], epsilons=(8 / 255, 0.5)),
        synthetic.run(folder / "b", model="50%&~^{}", attacks=1, epsilons=(8 / 255, 0.5)),
    ]


@pytest.fixture(scope="module")
def runs(results):
    return aggregate(results)


def accuracies(runs):
    """Robust accuracy by run, attack and epsilon."""
    return {
        (run.name, one.attack, point.epsilon): point.accuracy
        for run in runs
        for one in (*run.series, *run.worst)
        for point in one.points
    }


def test_rows_of_csv_and_json_are_the_robust_accuracies(runs):
    expected = accuracies(runs)
    by_json = json.loads(paper_table(runs, "json"), parse_constant=pytest.fail)
    by_csv = list(csv.DictReader(io.StringIO(paper_table(runs, "csv"))))
    assert len(by_json) == len(by_csv) == len(expected)
    for one, row in zip(by_json, by_csv, strict=True):
        key = one["run"], one["attack"], one["epsilon"]
        assert one["robust_accuracy"] == float(row["robust_accuracy"]) == expected[key]
        assert one["low"] <= one["robust_accuracy"] <= one["high"]
        assert one["norm"] == row["norm"] == "L2"
        assert one["p"] == float(row["p"]) == 2


def test_the_order_of_linf_is_text_in_json(tmp_path):
    runs = aggregate([synthetic.run(tmp_path / "run", p=np.inf, samples=20)])
    found = json.loads(paper_table(runs, "json"), parse_constant=pytest.fail)
    assert {(one["norm"], one["p"]) for one in found} == {("Linf", "inf")}


def test_latex_has_a_row_per_run_and_attack_and_the_lowest_in_bold(runs):
    lines = paper_table(runs, "latex").splitlines()
    assert lines[0] == r"\begin{tabular}{lrlrr}"
    assert lines[2] == r"& & & \multicolumn{2}{c}{$\ell_{2}$} \\"
    assert lines[3] == r"\cmidrule(lr){4-5}"
    assert lines[4] == r"Model & Clean & Attack & 8/255 & 0.5 \\"
    rows = [line for line in lines[6:] if line.endswith(r"\\")]
    expected = accuracies(runs)
    assert len(rows) == len({key[:2] for key in expected})
    assert all(row.count(" & ") == 4 for row in rows)
    assert rows[0].startswith(r"resnet\_50 & ")
    other = next(row for row in rows if row.startswith("50"))
    assert other.startswith(r"50\%\&\textasciitilde{}\textasciicircum{}\{\} & ")
    first = runs[0].name
    for place, epsilon in enumerate((8 / 255, 0.5)):
        own = {attack: value for (run, attack, e), value in expected.items()
               if (run, e) == (first, epsilon) and attack != WORST_CASE}  # fmt: skip
        bold = [row for row in rows[: len(own)] if "textbf" in row.split(" & ")[3 + place]]
        assert len(bold) == sum(value == min(own.values()) for value in own.values())
        assert f"{100 * min(own.values()):.1f}" in bold[0]


def test_markdown_shows_the_same_numbers(runs):
    text = paper_table(runs, "markdown")
    assert text.startswith("| model | clean | attack | L2 8/255 | L2 0.5 |\n|")
    for value in accuracies(runs).values():
        assert f"{100 * value:.1f}" in text


def test_a_model_of_several_runs_is_shown_with_the_name_of_the_run(tmp_path):
    made = [
        synthetic.run(tmp_path / name, attacks=1, epsilons=(0.5,), model=model)
        for name, model in (("a_1", "net"), ("b", "net"), ("c", "other"))
    ]
    runs = aggregate(made)
    rows = [line.split(" | ")[0] for line in paper_table(runs, "markdown").splitlines()]
    assert rows[2:] == ["| net (a\\_1)", "| net (b)", "| other"]
    assert r"net (a\_1) & " in paper_table(runs, "latex")


def test_attacks_and_epsilons_are_chosen_and_a_minimum_norm_attack_is_known_at_each(results, runs):
    found = json.loads(paper_table(runs, "json", ["attack_1", "attack_0"], [0.123, 0.5]))
    shown = [(one["run"], one["attack"], one["epsilon"]) for one in found]
    first, second = (run.name for run in runs)
    assert shown == [
        (first, "attack_1", 0.123),
        (first, "attack_1", 0.5),
        (first, "attack_0", 0.5),
        (second, "attack_0", 0.5),
    ]
    norms = results[0].minimum_norms()["attack_1"].norms
    assert found[0]["robust_accuracy"] == np.mean(norms > 0.123)


def test_the_command_prints_the_table_alone(results, runs, capsys):
    folders = [str(one.folder) for one in results]
    assert main(["report", *folders, "--format", "latex", "--attacks", "attack_0"]) == 0
    assert capsys.readouterr().out == paper_table(runs, "latex", ["attack_0"])
    for arguments, message in (
        (["--format", "latex", "--attacks", "atack_0"], "no run has 'atack_0'; did you mean"),
        (["--format", "csv", "--epsilons", "L1=0.5"], "no attack has the norm 'L1'"),
        (["--format", "csv", "--epsilons", "0.7", "--attacks", "attack_0"], NOT_KNOWN),
        (["--format", "csv", "--epsilons", "L2=0.7", "--attacks", "attack_0"], "8/255, 0.5"),
        (["--attacks", "attack_0"], "--attacks: needs --format"),
        (["--format", "word"], "invalid choice: 'word'"),
    ):
        try:
            code = main(["report", *folders, *arguments])
        except SystemExit as stopped:
            code = stopped.code
        assert code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
