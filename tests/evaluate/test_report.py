import base64
import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import foolbox as fb
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from foolbox_carescale.cli import main
from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    EvaluationWarning,
    ModelConfig,
    ReportConfig,
    Results,
    UserError,
    accuracy_at,
    evaluate,
    load_evaluation,
    plot_curves,
    print_comparison,
    print_report,
    write_report,
)
from foolbox_carescale.evaluate.console import to_json
from foolbox_carescale.evaluate.report import figures
from foolbox_carescale.evaluate.report.aggregate import (
    _worst,
    aggregate,
    config_differences,
    differences,
)
from foolbox_carescale.evaluate.report.curve import extent, steps
from foolbox_carescale.evaluate.report.headline import headline_epsilons
from foolbox_carescale.evaluate.report.page import _finite as finite
from foolbox_carescale.evaluate.report.paper import paper_table
from foolbox_carescale.evaluate.report.pictures import browser
from foolbox_carescale.evaluate.report.tables import summary_markdown
from foolbox_carescale.evaluate.runner.completion import Progress
from foolbox_carescale.evaluate.runner.tasks import make_settings
from foolbox_carescale.evaluate.statistics import wilson
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
    runs = aggregate([results])
    one, other = (figures.save(figures.curves(runs), tmp_path / name)[1] for name in ("a", "b"))
    assert "foolbox_pgd</text>" in one.read_text(encoding="utf-8")
    assert one.read_bytes() == other.read_bytes()


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which take a second."""
    monkeypatch.setattr("foolbox_carescale.evaluate.report._draw", lambda *_: [])


@pytest.mark.usefixtures("undrawn")
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


def test_noise_alone_has_no_worst_case(tmp_path):
    (run,) = aggregate([synthetic.run(tmp_path / "run")])
    assert len(run.worst) == 1
    noise = [
        dataclasses.replace(
            one,
            attack_name="L2AdditiveGaussianNoiseAttack",
            points=[dataclasses.replace(point, values={}) for point in one.points],
        )
        for one in run.series
    ]
    assert _worst(noise) == []
    assert len(_worst([*noise, run.series[0]])) == 1


def test_tables_say_not_attacked_where_no_sample_is_correctly_classified(tmp_path):
    results = synthetic.run(tmp_path / "run", clean=0.0)
    stream = io.StringIO()
    print_report(results, Console(file=stream, width=100))
    runs = aggregate([results])
    papers = [paper_table(runs, form) for form in ("latex", "markdown")]
    # two epsilons of two attacks; of these and their worst case, and at the headline epsilon
    for text, count in (
        (stream.getvalue(), 4),
        (summary_markdown(runs), 7),
        *((t, 6) for t in papers),
    ):
        assert text.count("not attacked") == count


def test_headline_epsilons_are_those_of_the_config_where_they_can_be_had(tmp_path):
    config = "report: {epsilons: {L2: [0.3, 51/255]}}"
    known = synthetic.run(tmp_path / "a", epsilons=(0.2, 0.8), nearest=[1], config=config)
    runs = aggregate([known])
    assert headline_epsilons(runs, 2.0) == [0.2, 0.3]
    found = json.loads(paper_table(runs, "json"))
    assert {one["epsilon"] for one in found if one["attack"] == "attack_1"} == {0.2, 0.3}
    assert {one["epsilon"] for one in found if one["attack"] != "attack_1"} == {0.2}
    unknown = aggregate([synthetic.run(tmp_path / "b", epsilons=(0.2, 0.8), config=config)])
    with pytest.raises(UserError, match=r"^report\.epsilons: .* 0\.3, .*; available: 0\.2, 0\.8$"):
        headline_epsilons(unknown, 2.0)


def test_headline_epsilons_are_checked_before_a_run_and_do_not_identify_it(results):
    asked = Evaluation(attacks={"pgd": AttackConfig("L2PGD")}, report=ReportConfig({"L2": [0.7]}))
    with pytest.raises(UserError, match=r"report\.epsilons: no L2 attack is known at 0\.7"):
        make_settings(asked)
    asked.attacks["nearest"] = AttackConfig("L2ClipAwareMinimumNorm")
    assert make_settings(asked)
    config = results.folder / "config.yaml"
    again = load_evaluation(
        config, [f"output={results.folder}", "report.epsilons.Linf=[0.01,0.05]"]
    )
    assert evaluate(again).complete


@pytest.mark.usefixtures("undrawn")
def test_the_reader_of_a_finished_run_chooses_headline_epsilons(tmp_path, capsys):
    folder = str(tmp_path / "run")
    results = synthetic.run(
        Path(folder), epsilons=(0.2, 0.8), config="report: {epsilons: {L2: [0.2]}}"
    )
    assert main(["report", folder, "--headline", "L2=0.8"]) == 0
    text = (results.folder / "summary.md").read_text(encoding="utf-8")
    assert "  - L2 0.8: robust accuracy" in text
    assert "  - L2 0.2: robust accuracy" not in text
    write_report(results, epsilons={"L2": ["51/255"]})
    assert "  - L2 0.2: robust" in (results.folder / "summary.md").read_text(encoding="utf-8")
    capsys.readouterr()
    for arguments, message in (
        (["L2=0.5"], "report.epsilons: no L2 attack is known at 0.5"),
        (["0.8"], "--headline: 0.8 names no norm; write Linf=8/255"),
        (["L2=0.8", "--format", "csv"], "--headline: is for the page"),
    ):
        assert main(["report", folder, "--headline", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.fixture
def nearest(tmp_path):
    """A fixed-epsilon attack, and a minimum-norm attack that found nothing for some samples."""
    run = synthetic.run(tmp_path / "run", epsilons=(0.2, 0.8), samples=400, nearest=[1])
    return run, run.minimum_norms()["attack_1"]


def test_the_curve_of_a_minimum_norm_attack_has_a_step_at_every_norm(nearest):
    results, found = nearest
    (run,) = aggregate([results])
    fixed, stepped = run.series
    assert fixed.norms is None
    low, high = extent([run], 2.0)
    assert low == max(found.norms[found.norms > 0].min(), 0.2 / 3)
    assert high == 0.8  # no norm is above it
    epsilons, robust = steps(stepped.norms, (low, high), most=1000)
    between = found.norms[(found.norms > low) & (found.norms < high)]
    assert epsilons.tolist() == [low, *sorted(between), high]
    assert robust.tolist() == [(found.norms > epsilon).sum() for epsilon in epsilons]
    few, _ = steps(stepped.norms, (low, high), most=50)
    assert len(few) == 52
    assert set(few) <= set(epsilons)


def test_the_worst_case_counts_minimum_norms_at_the_epsilons_of_other_attacks(nearest):
    results, found = nearest
    (run,) = aggregate([results])
    (worst,) = run.worst
    fixed = {point.epsilon: point.robust for point in run.series[0].points}
    expected = [np.mean(fixed[0.2] & (found.norms > 0.2))]
    expected.append(np.mean(fixed[0.2] & fixed[0.8] & (found.norms > 0.8)))
    assert [point.accuracy for point in worst.points] == expected
    assert np.mean(worst.norms > 0.1) == np.mean(found.norms > 0.1)


def test_quantiles_of_minimum_norms_are_on_the_console_and_in_the_tables(nearest, tmp_path):
    results, found = nearest
    write_report(results)
    low, median, high = (f"{found.quantile(share):.4g}" for share in (0.1, 0.5, 0.9))
    stream = io.StringIO()
    print_report(results, Console(file=stream, width=100))
    line = f"attack_1: median of the minimum norm {median}; 10% {low}, 90% {high}"
    assert line in stream.getvalue()
    markdown = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert rf"| attack\_1 | L2 | {low} | {median} | {high} |" in markdown
    with (tmp_path / "run" / "summary.csv").open(encoding="utf-8") as file:
        written = {row["attack"]: row["minimum_norm_50_percent"] for row in csv.DictReader(file)}
    assert written["attack_0"] == ""
    assert float(written["attack_1"]) == found.quantile(0.5)


def test_a_run_of_minimum_norm_attacks_only_has_no_figure_of_norms(tmp_path):
    results = synthetic.run(tmp_path / "run", attacks=1, nearest=[0])
    assert [path.name for path in write_report(results)][-1] == "curves.svg"


def test_curves_are_plotted_into_axes_of_the_users(tmp_path):
    from matplotlib.figure import Figure

    results = synthetic.run(tmp_path / "run", attacks=2)
    axes = Figure().subplots()
    assert plot_curves(results, ax=axes) is axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    for summary in results.summary():
        drawn = dict(zip(*lines[summary.attack].get_data(), strict=True))
        assert drawn[summary.epsilon] == summary.robust_accuracy
    assert axes.get_ylabel() == "robust accuracy"
    with pytest.raises(UserError, match="norm: no attack has 'l2'; did you mean 'L2'"):
        plot_curves(results, norm="l2", ax=axes)
    with pytest.raises(UserError, match="results: there is none"):
        plot_curves(ax=axes)


def test_robust_accuracy_at_any_epsilon_comes_from_the_stored_norms(nearest, capsys):
    results, found = nearest
    points = accuracy_at(results, [0.5, 0.123])
    assert [(one.attack, one.epsilon) for one in points] == [("attack_1", 0.123), ("attack_1", 0.5)]
    for one in points:
        assert one.robust_accuracy == np.mean(found.norms > one.epsilon)
        assert (one.low, one.high) == wilson(round(400 * one.robust_accuracy), 400)
    assert accuracy_at(results, {"L2": [0.5]}) == points[1:]

    assert main(["report", str(results.folder), "--epsilons", "8/255", "0.123,0.5"]) == 0
    out = capsys.readouterr().out
    for one in accuracy_at(results, [8 / 255, 0.123, 0.5]):
        assert f"{one.robust_accuracy:.3f}" in out
    assert "8/255" in out
    assert "no minimum-norm attacks, known at their own epsilons only: attack_0" in out


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["1/0"], "epsilons: '1/0' is no positive number"),
        (["0"], "epsilons: '0' is no positive number"),
        (["8/"], "epsilons: '8/' is no positive number"),
        (["L2=0.1,inf"], "epsilons: 'inf' is no positive number"),
        (["L1=0.1"], "has the norm 'L1'; valid: 'L2'"),
        (["L2=0.1", "0.2"], "epsilons: name the norm once for each"),
    ],
)
def test_a_wrong_epsilon_is_one_line(nearest, capsys, given, line):
    assert main(["report", str(nearest[0].folder), "--epsilons", *given]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error


def test_epsilons_need_a_minimum_norm_attack(tmp_path, capsys):
    results = synthetic.run(tmp_path / "run")
    assert main(["report", str(results.folder), "--epsilons", "0.1"]) == 2
    assert "has no minimum-norm attack" in capsys.readouterr().err
    results = synthetic.run(tmp_path / "wrong", clean=0.0, nearest=[1])
    assert main(["report", str(results.folder), "--epsilons", "0.1"]) == 2
    assert "nothing was attacked" in capsys.readouterr().err


def test_an_epsilon_that_is_given_twice_is_shown_once(nearest):
    once = accuracy_at(nearest[0], [0.1])
    assert accuracy_at(nearest[0], [0.1, 0.1]) == once


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
    stream = io.StringIO()
    print_comparison([results, results, other], Console(file=stream, width=120))
    lines = stream.getvalue().splitlines()[-2:]
    assert lines[0].endswith("(2): over the same samples, paired")
    assert lines[1].endswith("other (3): of different samples, not paired")


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


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
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


class ReturnsNan(fb.attacks.L2PGD):
    def run(self, *arguments, **keywords):
        return super().run(*arguments, **keywords) * float("nan")


class SearchesNan(fb.attacks.L2DeepFoolAttack):
    def run(self, *arguments, **keywords):
        return super().run(*arguments, **keywords) * float("nan")


@pytest.mark.filterwarnings("ignore::foolbox_carescale.evaluate.EvaluationWarning")
def test_an_attack_that_returns_nan_is_reported_with_black_pictures(tmp_path):
    attacks = {
        name: AttackConfig(_target_=f"{__name__}.{name}", epsilons=[0.5], params={"steps": 1})
        for name in ("ReturnsNan", "SearchesNan")
    }
    run = evaluate(Evaluation(attacks=attacks, samples=12, output=str(tmp_path / "run")))
    assert np.isnan(run.table["norm"].to_numpy()).all()
    write_report(run)
    pictures = browser(aggregate([run]))["runs"][0]["samples"][0]["attacks"]
    for picture in pictures:
        content = base64.b64decode(picture["adversarial"].partition(",")[2])
        assert not np.asarray(Image.open(io.BytesIO(content))).any()


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no results of a run"):
        Results.load(tmp_path)
