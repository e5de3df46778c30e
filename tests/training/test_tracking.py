"""A training is reported while it runs, and a resumed one where it was reported before."""

import signal
import sys

import pytest

from foolbox_carescale.evaluate import EvaluationWarning
from foolbox_carescale.evaluate.config.types import TrackingConfig
from foolbox_carescale.training.loop import Loop
from foolbox_carescale.training.trainer import train
from tests import backends
from tests.training import factories

NAMES = {"lr", "loss", "accuracy", "perturbed_loss", "perturbed_accuracy"}


class TensorBoard:
    """What its event files hold."""

    def __init__(self, folder):
        pytest.importorskip("tensorboard")
        self.config, self.path = TrackingConfig("tensorboard", folder=str(folder)), folder

    def told(self, name="loss"):
        """Steps and values, in the order in which they were written."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = []
        for file in sorted(self.path.glob("*/events.*"), key=lambda file: file.stat().st_mtime):
            events = EventAccumulator(str(file)).Reload()
            if name in events.Tags()["scalars"]:
                found += [(event.step, event.value) for event in events.Scalars(name)]
        return found

    def runs(self):
        return ["FINISHED"] if list(self.path.iterdir()) else []


class Mlflow:
    """What its store holds."""

    def __init__(self, folder, store):
        import mlflow

        self.client = mlflow.MlflowClient(store)
        self.experiment = str(folder)
        self.config = TrackingConfig("mlflow", uri=store, experiment=self.experiment)

    def _runs(self):
        experiment = self.client.get_experiment_by_name(self.experiment)
        return self.client.search_runs([experiment.experiment_id]) if experiment else []

    def told(self, name="loss"):
        found = [self.client.get_metric_history(run.info.run_id, name) for run in self._runs()]
        return [(metric.step, metric.value) for history in found for metric in history]

    def runs(self):
        return [run.info.status for run in self._runs()]


@pytest.fixture(params=["tensorboard", "mlflow"])
def tracker(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts of a store without a server
    if request.param == "tensorboard":
        return TensorBoard(tmp_path / "events")
    return Mlflow(tmp_path / "events", request.getfixturevalue("mlflow_store"))


def test_each_epoch_is_told_before_the_next_one_ends(tracker, tmp_path, monkeypatch):
    seen, original = [], Loop._measure

    def measured(self):
        seen.append([step for step, _ in tracker.told()])
        original(self)

    monkeypatch.setattr(Loop, "_measure", measured)
    trained = train(factories.training(tmp_path / "run", tracking=tracker.config))
    assert seen == [[], [1], [1, 2]]
    assert tracker.runs() == ["FINISHED"]
    for name in NAMES:
        told = tracker.told(name)
        assert [step for step, _ in told] == [1, 2, 3]
        assert told[2][1] == pytest.approx(getattr(trained.epochs[2], name))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("tracker", backends.by_day(["mlflow"], ["tensorboard"]), indirect=True)
def test_a_killed_training_resumes_in_the_same_run_and_logs_no_step_twice(
    tracker, tmp_path, processes
):
    changes = {"tracking": tracker.config, "epochs": 20}
    child = processes.Process(
        target=factories.run_until_killed, args=(5, tmp_path / "run"), kwargs=changes
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    before = tracker.told()
    trained = train(factories.training(tmp_path / "run", **changes))
    assert [step for step, _ in before] == [1, 2, 3, 4, 5]
    assert tracker.runs() == ["FINISHED"]
    for name in NAMES:
        assert [step for step, _ in tracker.told(name)] == list(range(1, 21))
    losses = [epoch.loss for epoch in trained.epochs]
    assert [value for _, value in tracker.told()] == pytest.approx(losses, rel=1e-6)
    assert tracker.told()[: len(before)] == before
    train(factories.training(tmp_path / "run", **changes))  # nothing left to do, nor to tell
    assert len(tracker.told()) == 20
    assert tracker.runs() == ["FINISHED"]


def test_a_torn_event_is_told_again(tmp_path):
    tracker = TensorBoard(tmp_path / "events")
    training = factories.training(tmp_path / "run", tracking=tracker.config)
    train(training)
    (file,) = (tmp_path / "events").glob("*/events.*")
    file.write_bytes(file.read_bytes()[:-10])  # the last event, of a process that was killed
    assert [step for step, _ in tracker.told("perturbed_accuracy")] == [1, 2]
    train(training)
    for name in NAMES:
        assert [step for step, _ in tracker.told(name)] == [1, 2, 3]


def test_mlflow_is_told_how_a_training_ended(tmp_path, monkeypatch, mlflow_store):
    monkeypatch.chdir(tmp_path)
    tracker = Mlflow(tmp_path, mlflow_store)
    training = factories.training(tmp_path / "run", tracking=tracker.config)
    original = Loop._measure

    def interrupted(self):
        if self.epoch == 1:
            raise KeyboardInterrupt
        original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_measure", interrupted)
        with pytest.raises(KeyboardInterrupt, match="resumes from the last checkpoint"):
            train(training)
    assert tracker.runs() == ["KILLED"]
    train(training)
    assert tracker.runs() == ["FINISHED"]
    (run,) = tracker._runs()
    assert run.data.params["recipe.name"] == "clean"
    files = {file.path for file in tracker.client.list_artifacts(run.info.run_id)}
    assert {"weights.safetensors", "history.csv", "config.yaml"} <= files


def test_another_training_in_a_folder_that_was_emptied_is_another_run(
    tmp_path, monkeypatch, mlflow_store
):
    monkeypatch.chdir(tmp_path)
    tracker = Mlflow(tmp_path, mlflow_store)
    for seed in (0, 1):
        train(factories.training(tmp_path / "run", epochs=1, seed=seed, tracking=tracker.config))
        (tmp_path / "run").rename(tmp_path / f"run{seed}")
    assert tracker.runs() == ["FINISHED", "FINISHED"]


def test_events_of_another_training_are_not_mixed_with_new_ones(tmp_path):
    tracker = TensorBoard(tmp_path / "events")
    train(factories.training(tmp_path / "run", epochs=1, tracking=tracker.config))
    before = tracker.told()
    (tmp_path / "run").rename(tmp_path / "old")
    with pytest.warns(EvaluationWarning, match=r"events.run holds another run; set output or"):
        train(factories.training(tmp_path / "run", epochs=1, seed=1, tracking=tracker.config))
    assert tracker.told() == before


def test_a_tracker_that_fails_stops_no_training(tmp_path):
    pytest.importorskip("mlflow")
    nowhere = TrackingConfig("mlflow", uri="nonsense://nowhere")
    with pytest.warns(EvaluationWarning) as caught:
        trained = train(factories.training(tmp_path, tracking=nowhere))
    assert len(trained.epochs) == 3
    during, after = (str(warning.message) for warning in caught)
    assert "nothing is lost: everything is logged at the end of the run" in during
    assert "Run the same command again to repeat only the tracking" in after
