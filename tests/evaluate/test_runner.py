import hashlib
import platform
import re

import foolbox as fb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from torchvision.models import ShuffleNetV2

from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    EvaluationWarning,
    ModelConfig,
    Results,
    UserError,
    evaluate,
    load_evaluation,
)
from foolbox_carescale.evaluate.data.dataset import Source
from foolbox_carescale.evaluate.data.sources import load_data
from foolbox_carescale.evaluate.models.loading import load_model
from foolbox_carescale.evaluate.runner.measures import cross_entropy, perturbation_norms
from foolbox_carescale.evaluate.runner.tasks import IDENTIFIED
from foolbox_carescale.evaluate.runner.worker import Worker
from foolbox_carescale.evaluate.store.folder import RunFolder
from foolbox_carescale.evaluate.store.schema import SCHEMA

ATTACKS = {
    "noise": AttackConfig("L2AdditiveGaussianNoiseAttack", [2.0, 8.0]),
    "pgd": AttackConfig("LinfPGD", [0.03], params={"steps": 5}),
}


def small(output, **changes):
    settings = {"attacks": ATTACKS, "samples": 12, "batch_size": 5, "output": str(output)}
    return Evaluation(**{**settings, **changes})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return evaluate(small(tmp_path_factory.mktemp("runs") / "run", samples=40, batch_size=16))


def rows(results, *, without=("seconds", "setting")):
    table = results.table.drop_columns(list(without))
    keys = [("attack", "ascending"), ("epsilon", "ascending"), ("sample", "ascending")]
    return table.sort_by(keys).to_pylist()


class Brightness(torch.nn.Module):
    """Says 0 for dark images and 1 for bright ones."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


class Failing(torch.nn.Module):
    def forward(self, x):
        raise RuntimeError("mine")


def failing():
    return Failing().eval()


def brightness():
    return Brightness().eval()


def grey():
    levels = np.array([0.1, 0.9, 0.45, 0.9])
    images = np.broadcast_to(levels[:, None, None, None], (4, 3, 4, 4)).astype(np.float32)
    return images, np.array([0, 1, 0, 0])  # the last label is wrong


def test_there_is_a_row_per_setting_and_sample(results):
    assert results.table.schema.equals(SCHEMA)
    assert results.table.num_rows == 3 * 40
    assert {row["attack"] for row in rows(results)} == {"noise", "pgd"}
    assert len({(r["attack"], r["epsilon"], r["sample"]) for r in rows(results)}) == 3 * 40


def test_rows_agree_with_foolbox_itself(results):
    data = load_data(DataConfig(), 40)
    model, _ = load_model(ModelConfig())
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    right = (model(images).argmax(1) == labels).numpy()
    assert results.clean_accuracy == right.mean()
    assert [r["attacked"] for r in rows(results) if r["attack"] == "pgd"] == right.tolist()

    attacked = [r for r in rows(results) if r["attack"] == "pgd" and r["batch"] == 0]
    torch.manual_seed(attacked[0]["seed"])
    chosen = np.flatnonzero(right[:16])
    _, clipped, success = fb.attacks.LinfPGD(steps=5)(
        model, images[chosen], labels[chosen], epsilons=0.03
    )
    kept = [r for r in attacked if r["attacked"]]
    assert [r["success"] for r in kept] == success.tolist()
    norms = perturbation_norms(data.images[chosen], clipped.numpy(), np.inf)
    assert np.allclose([r["norm"] for r in kept], norms, rtol=1e-12)


def test_what_the_model_gets_wrong_is_not_attacked_and_not_robust(tmp_path):
    evaluation = small(
        tmp_path / "run",
        model=ModelConfig(_target_=f"{__name__}.brightness"),
        data=DataConfig(_target_=f"{__name__}.grey"),
        attacks={"fgm": AttackConfig("LinfFastGradientAttack", [0.1])},
        batch_size=3,  # so that the last batch has nothing to attack
    )
    table = rows(evaluate(evaluation))
    assert [r["attacked"] for r in table] == [True, True, True, False]
    assert [r["robust"] for r in table] == [True, True, False, False]
    assert [r["success"] for r in table] == [False, False, True, None]
    assert table[3]["norm"] is None
    assert table[3]["loss"] == table[3]["clean_loss"]
    assert table[2]["norm"] == pytest.approx(0.1, rel=1e-6)
    assert table[2]["norm_over_epsilon"] == pytest.approx(1, rel=1e-6)
    assert all(r["in_bounds"] for r in table[:3])


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tmp_path):
    first = evaluate(small(tmp_path / "a"))
    again = evaluate(small(tmp_path / "b"))
    other = evaluate(small(tmp_path / "c", seed=1))
    assert rows(first) == rows(again)
    assert rows(first) != rows(other)


def test_order_and_company_of_attacks_change_nothing(tmp_path):
    both = evaluate(small(tmp_path / "a"))
    swapped = evaluate(small(tmp_path / "b", attacks=dict(reversed(ATTACKS.items()))))
    alone = evaluate(small(tmp_path / "c", attacks={"noise": ATTACKS["noise"]}))
    assert rows(both) == rows(swapped)
    assert [r for r in rows(both) if r["attack"] == "noise"] == rows(alone)


def test_a_batch_is_decoded_copied_to_the_device_and_classified_once(tmp_path, monkeypatch):
    copied, decoded = [], []
    native, sample = Worker._native, Source.sample

    def counted(self, array):
        copied.append(array)
        return native(self, array)

    monkeypatch.setattr(Worker, "_native", counted)
    monkeypatch.setattr(Source, "sample", lambda self, i: decoded.append(int(i)) or sample(self, i))
    before = []  # what the model is probed with, before the first task

    def follow(progress):
        if progress.setting is None:
            before.append((len(copied), len(decoded)))

    evaluate(small(tmp_path / "run", threads=1), on_progress=follow)
    ((copies, decodes),) = before
    assert len(decoded[decodes:]) == len(set(decoded[decodes:])) == 12
    clean = load_data(DataConfig(), 12).images
    of_clean = [a for a in copied[copies:] if a.ndim == 4 and (a[0] == clean).all((1, 2, 3)).any()]
    assert [len(array) for array in of_clean] == [5, 5, 2]


def test_a_task_of_fgsm_needs_three_forward_passes(tmp_path):
    """The attack's own, the one that judges what it returns, and one for 8-bit images."""
    calls = []

    def count(module, inputs, output):
        if isinstance(module, ShuffleNetV2):
            calls.append(len(output))

    attacks = {"fgsm": AttackConfig("LinfFastGradientAttack", [0.02])}
    begun = []
    with torch.nn.modules.module.register_module_forward_hook(count):
        results = evaluate(
            small(tmp_path / "run", attacks=attacks, batch_size=12, threads=1),
            on_progress=lambda progress: begun.append(len(calls)),
        )
    clean, *passes = calls[begun[0] : begun[1]]
    assert clean == 12
    assert passes == [results.table["attacked"].to_pylist().count(True)] * 3


def test_shards_decode_each_sample_once_and_few_to_identify_the_run(tmp_path, monkeypatch):
    decoded, sample = [], Source.sample
    monkeypatch.setattr(Source, "sample", lambda self, i: decoded.append(int(i)) or sample(self, i))
    changes = {"samples": 200, "batch_size": 10, "attacks": {"noise": ATTACKS["noise"]}}
    for shard in (3, 0, 1, 2):
        evaluate(small(tmp_path / "run", **changes, shard=f"{shard}/4", threads=1))
    diagnosed = 32
    assert len(decoded) == 200 + 4 * IDENTIFIED + diagnosed


class Writing(fb.attacks.LinfFastGradientAttack):
    """Writes into its inputs."""

    def __call__(self, model, inputs, *arguments, **keywords):
        returned = super().__call__(model, inputs, *arguments, **keywords)
        inputs.zero_()
        return returned


def test_an_attack_of_ones_own_that_writes_into_its_inputs_harms_no_other(tmp_path):
    own = AttackConfig(_target_=f"{__name__}.Writing", epsilons=[0.02])
    beside = evaluate(small(tmp_path / "a", attacks={"own": own, **ATTACKS}))
    alone = evaluate(small(tmp_path / "b", attacks=ATTACKS))
    assert [r for r in rows(beside) if r["attack"] != "own"] == rows(alone)
    for row in rows(beside):
        assert row["norm"] is None or row["norm"] <= 1.0001 * row["epsilon"]


class Dropout(Brightness):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(len(x), 2)


def dropout():
    return Dropout().eval()


@pytest.mark.filterwarnings("ignore::foolbox_carescale.evaluate.EvaluationWarning")
def test_a_model_that_draws_numbers_has_the_same_rows_in_any_order(tmp_path):
    changes = {
        "model": ModelConfig(_target_=f"{__name__}.dropout"),
        "data": DataConfig(_target_="tests.evaluate.factories.data"),
    }
    whole = evaluate(small(tmp_path / "a", **changes))
    for shard in (2, 0, 1):
        shards = evaluate(small(tmp_path / "b", **changes, shard=f"{shard}/3"))
    assert rows(shards) == rows(whole)


def test_ours_are_exactly_epsilon_and_inside_the_box(tmp_path):
    attacks = {
        "noise": AttackConfig("ClipAwareGaussianNoise", [4.0], params={"p": 2}),
        "uniform": AttackConfig("ClipAwareUniformNoise", [0.3], params={"p": float("inf")}),
        "pgd": AttackConfig("L1ClipAwarePGD", [8.0], params={"steps": 3}),
    }
    table = [r for r in rows(evaluate(small(tmp_path / "run", attacks=attacks))) if r["attacked"]]
    assert np.allclose([r["norm_over_epsilon"] for r in table], 1, atol=1e-5)
    assert all(r["in_bounds"] and r["library"] == "foolbox_carescale" for r in table)
    # JSON has no infinity
    assert {r["attack_params"] for r in table if r["attack"] == "uniform"} == {'{"p": "inf"}'}


class WithoutGradient(Brightness):
    def forward(self, x):
        return super().forward(x).detach()


def without_gradient():
    return WithoutGradient().eval()


def test_an_error_in_an_attack_is_one_line_that_names_it(tmp_path):
    evaluation = small(
        tmp_path / "run",
        model=ModelConfig(_target_=f"{__name__}.without_gradient"),
        data=DataConfig(_target_=f"{__name__}.grey"),
        attacks={"mine": AttackConfig("L2ClipAwarePGD", [0.1])},
    )
    with pytest.raises(UserError, match=r"^attacks\.mine raises .* gives no gradient.*Square"):
        evaluate(evaluation)


class Overstepping(fb.attacks.LinfFastGradientAttack):
    """Half as far again as it was asked to go."""

    def run(self, model, inputs, criterion, *, epsilon, **kwargs):
        return super().run(model, inputs, criterion, epsilon=1.5 * epsilon, **kwargs)


def test_an_attack_that_oversteps_epsilon_is_measured_and_reported(tmp_path):
    attacks = {
        "own": AttackConfig(_target_=f"{__name__}.Overstepping", epsilons=[0.02]),
        "fgm": AttackConfig("LinfFastGradientAttack", [0.02]),
        "ours": AttackConfig("L2ClipAwareGaussianNoise", [0.5]),
        "ddn": AttackConfig("DDNAttack", [0.5], params={"steps": 3}),
    }
    with pytest.warns(EvaluationWarning) as caught:
        run = evaluate(small(tmp_path / "run", attacks=attacks))
    (message,) = [str(w.message) for w in caught if "longer than epsilon" in str(w.message)]
    assert re.search(r"by up to (49\.\d\d|50\.00)% \(own, Linf 0\.02\)", message)
    table = [r for r in rows(run) if r["attacked"]]
    for r in table:
        assert r["norm"] <= r["epsilon"] * (1 + 1e-5)
        if r["attack"] != "ddn":
            expected = r["norm"] if r["attack"] != "own" else 1.5 * r["epsilon"]
            assert r["returned_norm"] == pytest.approx(expected, rel=1e-4)
    assert {r["returned_norm"] for r in table if r["attack"] == "ddn"} == {None}


def test_the_stage_of_an_ensemble_that_broke_a_sample_is_in_its_row(tmp_path):
    params = {"steps": 4, "queries": 5}
    attacks = {
        "aa": AttackConfig("L2ClipAwareAutoAttack", [0.05, 5.0], params=params),
        "again": AttackConfig("L2ClipAwareAutoAttack", [5.0], params=params, repeat=2),
        "pgd": AttackConfig("L2ClipAwarePGD", [5.0], params={"steps": 2}),
    }
    table = rows(evaluate(small(tmp_path / "run", attacks=attacks)))
    stages = {"minimum-norm", "apgd-t1", "pgd-margin1", "square"}
    for r in table:
        broken = r["attack"] != "pgd" and r["attacked"] and not r["robust"]
        assert (r["broken_by"] in stages) if broken else r["broken_by"] is None
    assert any(r["broken_by"] for r in table)
    assert any(r["robust"] for r in table)


def test_no_stage_broke_a_sample_that_is_judged_robust(tmp_path, monkeypatch):
    names = "foolbox_carescale.evaluate.runner.worker._broken_by"
    monkeypatch.setattr(names, lambda stages, samples: np.full(samples, "square", object))
    params = {"attacks": ["square"], "queries": 1}
    aa = {"aa": AttackConfig("L2ClipAwareAutoAttack", [1.0], params=params)}
    table = rows(evaluate(small(tmp_path / "run", attacks=aa)))
    for r in table:
        broken = r["attacked"] and not r["robust"]
        assert r["broken_by"] == ("square" if broken else None)
    assert any(r["robust"] for r in table)


def test_repeats_are_foolboxs(tmp_path):
    attacks = {
        "once": AttackConfig("L2AdditiveGaussianNoiseAttack", [12.0]),
        "often": AttackConfig("L2AdditiveGaussianNoiseAttack", [12.0], repeat=10),
    }
    once, often = evaluate(small(tmp_path / "run", attacks=attacks)).summary()
    assert often.robust_accuracy <= once.robust_accuracy


def test_a_jax_model_runs_is_reproducible_and_its_version_is_recorded(tmp_path):
    jax = pytest.importorskip("jax")
    model = ModelConfig(_target_="tests.evaluate.test_models.jax_model")
    runs = [evaluate(small(tmp_path / name, model=model, samples=24)) for name in "ab"]
    assert rows(runs[0]) == rows(runs[1])
    config = (runs[0].folder / "config.yaml").read_text(encoding="utf-8")
    first = config.partition("\n")[0]
    assert first.startswith(f"# python {platform.python_version()}, foolbox-carescale ")
    assert f", jax {jax.__version__}" in first


def test_progress_is_told_before_the_first_task_and_after_each(tmp_path):
    seen = []
    evaluate(small(tmp_path / "run"), on_progress=seen.append)
    assert [p.done for p in seen] == list(range(3 * 3 + 1))
    assert {p.total for p in seen} == {9}
    assert seen[0].setting is None
    assert seen[-1].setting.label == "pgd"


def test_what_was_computed_before_an_error_stays(tmp_path):
    def stop(progress):
        if progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(small(tmp_path / "run"), on_progress=stop)
    assert len(RunFolder(tmp_path / "run").stored()) == 4
    summary = Results.load(tmp_path / "run").summary()
    assert [setting.samples for setting in summary] == [10, 5, 5]  # the second batch was begun


def test_the_stored_config_runs_again_with_the_same_result(tmp_path):
    first = evaluate(small(tmp_path / "a"))
    stored = load_evaluation(tmp_path / "a" / "config.yaml", [f"output={tmp_path / 'b'}"])
    assert stored.model.weights == "bundled"
    assert rows(evaluate(stored)) == rows(first)


def test_results_open_as_one_parquet_data_set(results):
    table = pq.read_table(results.folder / "results")
    assert table.num_rows == results.table.num_rows


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": ModelConfig(weights=None, num_classes=7)}, "labels up to 9"),
        ({"model": ModelConfig("alexnet", None)}, "cannot classify images of shape 3x32x32"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_one_line(tmp_path, changes, line):
    with pytest.raises(UserError, match=line):
        evaluate(small(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_an_error_of_a_model_of_ones_own_is_one_line_with_its_place(tmp_path):
    model = ModelConfig(_target_=f"{__name__}.failing")
    line = r"model\._target_: .*failing raises RuntimeError: mine \(test_runner.py, line \d+\)"
    with pytest.raises(UserError, match=line) as caught:
        evaluate(small(tmp_path / "run", model=model))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_rows_identify_the_input_and_hold_all_norms(tmp_path):
    attacks = {"pgd": AttackConfig("L2PGD", [0.5], params={"steps": 5})}
    run = evaluate(small(tmp_path / "run", attacks=attacks, save="adversarial_examples"))
    images = {int(i): x for x, i in zip(*_digits(12), strict=True)}
    kept = {}
    for part in (run.folder / "adversarial_examples").iterdir():
        tensors = load_file(part)
        kept |= dict(zip(tensors["sample"].tolist(), tensors["epsilon=0.5"], strict=True))
    attacked = [row for row in rows(run) if row["attacked"]]
    assert attacked
    for row in attacked:
        x, z = images[row["sample"]], kept[row["sample"]].astype(np.float64)
        moved = np.abs(z - x.astype(np.float64))
        assert row["input_hash"] == hashlib.blake2b(x.tobytes(), digest_size=16).hexdigest()
        assert row["norm_l1"] == pytest.approx(moved.sum(), rel=1e-12)
        assert row["norm_l2"] == row["norm"] == pytest.approx(np.sqrt((moved**2).sum()), rel=1e-12)
        assert row["norm_linf"] == moved.max()
        room = np.maximum(x.astype(np.float64), 1 - x.astype(np.float64))
        assert row["reachable_norm"] == pytest.approx(np.sqrt((room**2).sum()), rel=1e-6)
        # five gradients; and Foolbox asks once more whether it succeeded
        assert (row["forward_passes"], row["backward_passes"]) == (6, 5)


def _digits(count):
    loaded = load_data(DataConfig(), count)
    return loaded.images, loaded.index


def test_an_adversarial_that_rounding_to_8_bits_undoes_is_told_apart(tmp_path):
    evaluation = small(
        tmp_path / "run",
        model=ModelConfig(_target_=f"{__name__}.brightness"),
        data=DataConfig(_target_=f"{__name__}.nearly_bright"),
        attacks={"fgm": AttackConfig("LinfFastGradientAttack", [0.0005, 0.01])},
    )
    table = rows(evaluate(evaluation))
    assert [(r["epsilon"], r["success"], r["quantised_success"]) for r in table] == [
        (0.0005, True, False),
        (0.01, True, True),
    ]


def nearly_bright():
    """Bright; darker by 0.13 / 255 it is dark, but rounds to 128, 128 and 127: bright."""
    levels = np.array([127.65, 127.65, 127.4]) / 255
    return np.broadcast_to(levels[None, :, None, None], (1, 3, 4, 4)).astype(np.float32), [1]


def test_a_minimisation_attack_does_not_depend_on_the_list_of_epsilons(tmp_path):
    def deepfool(*epsilons):
        return {"df": AttackConfig("L2DeepFoolAttack", list(epsilons), params={"steps": 10})}

    both = evaluate(small(tmp_path / "a", attacks=deepfool(0.1, 0.5), samples=6))
    alone = evaluate(small(tmp_path / "b", attacks=deepfool(0.5), samples=6))
    assert len(RunFolder(both.folder).stored()) == 2
    assert [row for row in rows(both) if row["epsilon"] == 0.5] == rows(alone)


def test_a_minimum_norm_attack_serves_every_epsilon(tmp_path):
    attacks = {
        "nearest": AttackConfig("L2ClipAwareMinimumNorm", [0.1, 0.5], params={"steps": 20}),
        "fgm": AttackConfig("L2FastGradientAttack", [0.5]),
    }
    run = evaluate(small(tmp_path / "run", attacks=attacks, samples=40, batch_size=40))
    data, (model, _) = load_data(DataConfig(), 40), load_model(ModelConfig())
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    right = model(images).argmax(1) == labels
    attack = fb.attacks.L2ClipAwareMinimumNorm(steps=20)
    _, (advs,), success = attack(model, images[right], labels[right], epsilons=[None])
    found = perturbation_norms(data.images[right], advs.numpy(), 2)[0]
    found = np.where(success[0].numpy(), found, np.inf)

    by_epsilon = {
        e: [r["minimum_norm"] for r in rows(run) if (r["attack"], r["epsilon"]) == ("nearest", e)]
        for e in (0.1, 0.5)
    }
    assert by_epsilon[0.1] == by_epsilon[0.5]
    assert [norm for norm in by_epsilon[0.1] if norm is not None] == found.tolist()
    assert {r["minimum_norm"] for r in rows(run) if r["attack"] == "fgm"} == {None}

    (nearest,) = run.minimum_norms().values()
    for epsilon in (0.05, 0.2, 0.31, 1.0, 3.0):
        assert nearest.robust(epsilon).sum() == (found > epsilon).sum()
    for setting in run.summary()[:2]:
        assert nearest.robust(setting.epsilon).mean() == setting.robust_accuracy
    median = nearest.quantile(0.5)
    assert nearest.robust(median).mean() <= 0.5 < nearest.robust(median * (1 - 1e-9)).mean()


def test_an_example_that_is_cut_and_still_adversarial_counts_at_its_epsilon(tmp_path):
    params = {"steps": 10, "overshoot": 3.0}
    attacks = {"far": AttackConfig("L2DeepFoolAttack", [0.2, 0.4, 0.8], params=params)}
    run = evaluate(small(tmp_path / "run", attacks=attacks, samples=24))
    (far,) = run.minimum_norms().values()
    assert any(r["success"] and r["minimum_norm"] > r["epsilon"] for r in rows(run))
    for setting in run.summary():
        assert far.robust(setting.epsilon).mean() == setting.robust_accuracy


def test_cross_entropy_is_that_of_torch():
    generator = np.random.default_rng(0)
    logits, labels = 50 * generator.normal(size=(20, 5)), generator.integers(0, 5, 20)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), reduction="none"
    )
    assert np.allclose(cross_entropy(logits, labels), expected)


@pytest.mark.parametrize("p", [0.5, 1, 2, 3, np.inf])
def test_norms_are_taken_in_float64(p):
    clean = np.full((2, 3, 100, 100), 0.5, np.float32)
    perturbed = clean + np.float32(2**-20)
    expected = 2**-20 * (30000 ** (1 / p) if np.isfinite(p) else 1)
    assert np.allclose(perturbation_norms(clean, perturbed, p), expected, rtol=1e-12)
