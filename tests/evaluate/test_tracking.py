import importlib.util

import pytest

from foolbox_carescale.evaluate import (
    AttackConfig,
    Evaluation,
    EvaluationWarning,
    TrackingConfig,
    UserError,
    evaluate,
)
from foolbox_carescale.evaluate.tracking import check_tracking, track

ATTACKS = {"pgd": AttackConfig("LinfPGD", [0.01, 0.03], params={"steps": 2})}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return evaluate(Evaluation(attacks=ATTACKS, samples=6, output=str(folder)))


def tracked_by(**tracking):
    return Evaluation(attacks=ATTACKS, samples=6, tracking=TrackingConfig(**tracking))


@pytest.fixture
def client(mlflow_store, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts of a store without a server
    return mlflow.MlflowClient(mlflow_store)


def runs(client, experiment):
    experiment = client.get_experiment_by_name(experiment)
    return client.search_runs([experiment.experiment_id])


def test_mlflow_holds_parameters_a_curve_per_attack_and_the_files(results, client, mlflow_store):
    track(results, tracked_by(name="mlflow", uri=mlflow_store, run_name="mine"))
    (run,) = runs(client, "carescale")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "mine"
    assert run.data.params["attacks.pgd.steps"] == "2"
    assert run.data.params["samples"] == "6"
    assert run.data.metrics["clean_accuracy"] == results.clean_accuracy
    curve = client.get_metric_history(run.info.run_id, "robust_accuracy/pgd")
    expected = {round(c.epsilon * 1e6): c.robust_accuracy for c in results.summary()}
    assert {m.step: m.value for m in curve} == expected
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {path.name for path in results.folder.iterdir()} <= files
    assert {"report.html", "config.yaml", "results"} <= files


def test_a_run_is_reported_to_mlflow_once_and_completed_after_a_failure(
    results, client, mlflow_store, monkeypatch
):
    import mlflow

    evaluation = tracked_by(name="mlflow", uri=mlflow_store, experiment="disk full")

    def full(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, "log_artifacts", full)
        with pytest.warns(EvaluationWarning, match=r"mlflow failed \(no space left\)"):
            track(results, evaluation)
    for _ in range(2):
        track(results, evaluation)
    (run,) = runs(client, "disk full")
    assert run.info.status == "FINISHED"
    curve = client.get_metric_history(run.info.run_id, "robust_accuracy/pgd")
    assert [metric.step for metric in curve] == [10_000, 30_000]


def test_tensorboard_holds_a_curve_per_attack_and_the_config(results, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second time there is nothing to do
        track(results, tracked_by(name="tensorboard", folder=str(tmp_path)))
    (file,) = (tmp_path / results.folder.name).iterdir()
    events = EventAccumulator(str(file)).Reload()
    curve = events.Scalars("robust_accuracy/pgd")
    assert [(event.step, event.value) for event in curve] == [
        (round(setting.epsilon * 1e6), pytest.approx(setting.robust_accuracy))
        for setting in results.summary()
    ]
    assert events.Scalars("clean_accuracy")[0].value == pytest.approx(results.clean_accuracy)
    (text,) = events.Tensors("config/text_summary")
    assert b"steps: 2" in text.tensor_proto.string_val[0]


def test_tensorboards_files_are_in_the_run_folder_unless_said_otherwise(tmp_path):
    pytest.importorskip("tensorboard")
    evaluation = tracked_by(name="tensorboard")
    evaluation.output = str(tmp_path / "run")
    evaluate(evaluation)
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_a_failure_of_tracking_is_a_warning_and_loses_no_results(tmp_path):
    pytest.importorskip("mlflow")
    evaluation = tracked_by(name="mlflow", uri="nonsense://nowhere")
    evaluation.output = str(tmp_path / "run")
    with pytest.warns(EvaluationWarning, match="tracking: mlflow failed"):
        results = evaluate(evaluation)
    assert results.table.num_rows == 2 * 6


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_one_line_before_the_run(name, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda module: None if module == name else find(module)
    )
    evaluation = tracked_by(name=name)
    evaluation.output = str(tmp_path / "run")
    with pytest.raises(UserError, match=rf"needs {name}; run: pip install '.*\[{name}\]'"):
        evaluate(evaluation)
    assert not (tmp_path / "run").exists()


def test_nothing_is_tracked_by_default(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_tracking(Evaluation().tracking)
    track(results, Evaluation())
    assert list(tmp_path.iterdir()) == []


def test_shards_are_tracked_when_the_last_of_them_has_ended(tmp_path):
    pytest.importorskip("tensorboard")
    evaluation = tracked_by(name="tensorboard")
    evaluation.output, evaluation.batch_size = str(tmp_path / "run"), 3
    for shard, tracked in (("0/2", False), ("1/2", True)):
        evaluation.shard = shard
        evaluate(evaluation)
        assert (tmp_path / "run" / "tensorboard").exists() == tracked
