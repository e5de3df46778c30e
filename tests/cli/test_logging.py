import logging
import warnings

import pytest

from foolbox_carescale.cli import main
from foolbox_carescale.evaluate import Evaluation, evaluate
from foolbox_carescale.evaluate.config.types import AttackConfig
from foolbox_carescale.evaluate.diagnostics import Diagnostic, emit
from foolbox_carescale.training.trainer import train
from tests.training import factories


def test_settings_are_logged_when_they_start_and_end(tmp_path, caplog):
    attacks = {"mine": AttackConfig("LinfClipAwarePGD", params={"steps": 2})}
    evaluation = Evaluation(
        attacks=attacks, epsilons={"Linf": [0.02, 0.05]}, samples=6, output=str(tmp_path / "run")
    )
    with caplog.at_level(logging.INFO, "carescale"):
        results = evaluate(evaluation)
    expected = []
    for setting in results.summary():
        name = f"mine, epsilon {setting.epsilon:g}"
        expected += [f"{name}: started", f"{name}: robust accuracy {setting.robust_accuracy:.3f}"]
    logged = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert sorted(logged) == sorted(expected)


def test_epochs_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "carescale"):
        trained = train(factories.training(tmp_path, epochs=2))
    first, *epochs = [record.getMessage() for record in caplog.records]
    assert first == f"training in {tmp_path}: 0 of 2 epochs done"
    assert epochs == [str(epoch) for epoch in trained.epochs]


def test_nothing_is_printed_where_logging_is_not_configured(tmp_path, capsys):
    train(factories.training(tmp_path, epochs=1))
    assert capsys.readouterr() == ("", "")


def test_warnings_are_logged_also_where_filters_hide_them(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        emit([Diagnostic("gradients", "the gradient is zero", "set steps")])
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("carescale", logging.WARNING)
    assert record.getMessage() == "the gradient is zero; set steps"


@pytest.mark.usefixtures("without_figures")
def test_the_command_line_prints_a_warning_once_beside_a_handler_of_the_root_logger(
    tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("samples: 4\nepsilons: {Linf: [0.1]}", encoding="utf-8")
    attack = ["~attacks", "attacks.mine.name=LinfPGD", "attacks.mine.steps=1"]
    assert main(["evaluate", "run.yaml", *attack]) == 0
    assert capsys.readouterr().err.count("there are only 4 samples") == 1
    assert not [record for record in caplog.records if record.name == "carescale"]
    assert logging.getLogger("carescale").propagate
