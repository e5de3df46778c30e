import foolbox
import numpy as np
import pytest
import torch
from foolbox import PyTorchModel

from foolbox_carescale.attacks.registry import kind_of
from foolbox_carescale.evaluate import (
    AttackConfig,
    DataConfig,
    Evaluation,
    EvaluationWarning,
    ModelConfig,
    diagnostics,
    evaluate,
)
from foolbox_carescale.evaluate.data.sources import load_data
from foolbox_carescale.evaluate.models.loading import load_model
from foolbox_carescale.evaluate.store.folder import RunFolder

LEVEL = 100 / 255  # a grey that 8 bits hold


def images(count=40, spread=0.004):
    """Grey images, half of them a little darker than LEVEL (class 0), half lighter (class 1)."""
    labels = np.arange(count) % 2
    levels = LEVEL + spread * (2 * labels - 1)
    return np.broadcast_to(levels[:, None, None, None], (count, 3, 4, 4)).astype(np.float32), labels


class Brightness(torch.nn.Module):
    """Class 1 where the mean is above LEVEL."""

    def mean(self, x):
        return x.flatten(1).mean(1)

    def forward(self, x):
        above = 10 * (self.mean(x) - LEVEL)
        return torch.stack([-above, above], 1)


def of(module, given=None, training=False):
    model = PyTorchModel(module.eval(), bounds=(0, 1), device="cpu")
    module.train(training)
    return diagnostics.of_model(model, *(given or images()))


def codes(found):
    return [diagnostic.code for diagnostic in found]


def test_a_healthy_model_has_no_diagnostics():
    assert of(Brightness()) == []


def test_the_bundled_model_has_no_diagnostics():
    data = load_data(DataConfig(), 50)
    assert diagnostics.of_model(load_model(ModelConfig())[0], data.images, data.labels) == []


class Wrapped(Brightness):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x))


def test_probabilities_are_reported_and_logits_or_log_probabilities_are_not():
    (diagnostic,) = of(Wrapped(lambda logits: logits.softmax(1)))
    assert diagnostic.code == "probabilities"
    assert "all 40 rows" in diagnostic.message
    assert "drop the softmax" in diagnostic.remedy
    assert of(Wrapped(lambda logits: logits.log_softmax(1))) == []


def test_zero_gradients_are_counted_over_correctly_classified_samples():
    class Rounded(Brightness):
        def mean(self, x):
            rounded = (super().mean(x) * 1000).round() / 1000
            return rounded + 0 * x.flatten(1).mean(1)

    given, labels = images()
    labels[:4] = 1 - labels[:4]  # four that it gets wrong
    (diagnostic,) = of(Rounded(), (given, labels))
    assert diagnostic.code == "gradients"
    assert "zero for 36 of 36" in diagnostic.message


def test_captured_warnings_keep_message_and_remedy_apart_and_are_passed_on():
    given = diagnostics.Diagnostic("model", "weights of a; of b; differ", "give one; or none")
    with (
        pytest.warns(EvaluationWarning, match="differ; give one") as caught,
        diagnostics.capture_warnings() as captured,
    ):
        diagnostics.emit([given, given])
    assert captured == [given]
    assert len(caught) == 1


def test_clean_accuracy_no_better_than_chance_is_reported():
    given, labels = images()
    (diagnostic,) = of(Wrapped(lambda logits: -logits), (given, labels))
    assert diagnostic.code == "clean_accuracy"
    assert "classifies 0 of 40 clean images correctly" in diagnostic.message
    assert "among its 2 classes (labels: 0 to 1)" in diagnostic.message


def test_labels_that_are_shifted_are_named():
    padded = Wrapped(lambda logits: torch.nn.functional.pad(logits, (1, 8), value=-9.0))
    (diagnostic,) = of(padded)
    assert "among its 11 classes" in diagnostic.message
    assert "40 predictions are the label +1" in diagnostic.message


@pytest.mark.parametrize(("count", "reported"), [(3, True), (11, True), (12, False)])
def test_few_samples_are_reported_with_the_width_of_their_interval(tmp_path, count, reported):
    evaluation = Evaluation(
        model=ModelConfig(_target_=f"{__name__}.brightness"),
        data=DataConfig(_target_=f"{__name__}.apart"),
        attacks={"fgm": AttackConfig("L2FastGradientAttack", [0.05])},
        samples=count,
        output=str(tmp_path / "run"),
    )
    found = diagnostics.of_results(evaluate(evaluation))
    assert codes(found) == ["few_samples"] * reported
    assert all(f"only {count} samples" in diagnostic.message for diagnostic in found)


def test_a_few_zero_gradients_are_not_reported():
    class OneRounded(Brightness):
        def mean(self, x):
            weight = torch.ones(len(x))
            weight[0] = 0
            mean = super().mean(x)
            return weight * mean + (1 - weight) * mean.detach()

    assert of(OneRounded()) == []


def test_gradients_that_are_not_finite_are_reported():
    class Root(Brightness):
        def mean(self, x):
            dark = (0 * x).square().sqrt().flatten(1).mean(1)  # 0, with the derivative inf * 0
            return super().mean(x) + dark

    (diagnostic,) = of(Root())
    assert diagnostic.code == "gradients"
    assert "not finite for 40 of 40" in diagnostic.message


def test_a_model_without_gradients_has_no_diagnostics():
    assert of(Wrapped(torch.Tensor.detach)) == []


def test_overflow_in_half_precision_is_reported():
    (diagnostic,) = of(Wrapped(lambda logits: (logits * 1e7).half()))
    assert diagnostic.code == "overflow"
    assert "40 of 40" in diagnostic.message
    assert "float16" in diagnostic.message


def by_batch(relative, dtype):
    """A model whose logits depend on the number of images, rounded to a dtype and cast back."""
    return Wrapped(
        lambda logits: (logits * (1 + relative * (len(logits) < 40))).to(dtype).to(logits.dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_half_precision_is_no_dependence_on_the_batch_also_after_a_cast(dtype):
    assert of(by_batch(0.01, dtype)) == []
    assert codes(of(by_batch(0.01, torch.float32))) == ["batch_dependence"]
    assert codes(of(by_batch(0.5, dtype))) == ["batch_dependence"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "autocast"])
def test_the_bundled_model_in_half_precision_has_no_diagnostics(dtype):
    data = load_data(DataConfig(), 50)
    model, _ = load_model(ModelConfig(dtype=dtype))
    assert diagnostics.of_model(model, data.images, data.labels, batch_size=7) == []


def test_half_precision_without_overflow_is_healthy():
    assert of(Wrapped(lambda logits: logits.half())) == []
    assert of(Wrapped(lambda logits: logits.bfloat16())) == []


def test_a_random_model_is_reported():
    torch.manual_seed(0)
    found = of(Wrapped(lambda logits: logits + torch.randn_like(logits) / 100))
    assert codes(found) == ["nondeterministic"]


def test_training_mode_is_reported_by_its_flag_and_by_its_effect():
    torch.manual_seed(0)
    normalised = torch.nn.Sequential(torch.nn.BatchNorm2d(3), Brightness())
    assert codes(of(normalised, training=True)) == ["training", "batch_dependence"]
    assert codes(of(torch.nn.Sequential(torch.nn.Dropout(), Brightness()), training=True)) == [
        "training",
        "nondeterministic",
    ]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_models_of_other_frameworks_are_diagnosed_too(backend):
    module = pytest.importorskip(backend)
    if backend == "jax":
        softmax, stack = module.nn.softmax, module.numpy.stack
        wrap = foolbox.JAXModel
    else:
        softmax, stack = module.nn.softmax, module.stack
        wrap = foolbox.TensorFlowModel

    def model(x):
        mean = x[:, 0, 0, 0]
        return stack([LEVEL - mean, mean - LEVEL], 1)

    assert diagnostics.of_model(wrap(model, bounds=(0, 1)), *images()) == []
    found = diagnostics.of_model(wrap(lambda x: softmax(model(x)), bounds=(0, 1)), *images())
    assert codes(found) == ["probabilities"]


# ---- of results: real runs of models that are made to look robust, or attacks that fail


def grey():
    return images()


def apart():
    return images(spread=0.02)


def brightness():
    return Brightness().eval()


class Masked(Brightness):
    """Its gradient points away from the other class."""

    def mean(self, x):
        mean = super().mean(x)
        return 2 * mean.detach() - mean


def masked():
    return Masked().eval()


class Band(Brightness):
    """Class 1 in a narrow band of brightness only: steps across it go unpunished."""

    def forward(self, x):
        above = 10 * (0.03 - (super().mean(x) - LEVEL - 0.05).abs())
        return torch.stack([-above, above], 1)


def band():
    return Band().eval()


def dark():
    given, _ = images(spread=0.0)
    return given, np.zeros(len(given), int)


def run(tmp_path, model, attacks, data="grey"):
    evaluation = Evaluation(
        model=ModelConfig(_target_=f"{__name__}.{model}"),
        data=DataConfig(_target_=f"{__name__}.{data}"),
        attacks=attacks,
        samples=None,
        output=str(tmp_path / "run"),
    )
    results = evaluate(evaluation)
    stored = RunFolder(results.folder).read_warnings()
    found = diagnostics.of_results(results)
    assert diagnostics.from_dicts(stored) == found
    return found


def test_plausible_results_have_no_diagnostics(tmp_path):
    attacks = {
        "noise": AttackConfig("L2AdditiveUniformNoiseAttack", [0.05, 0.1]),
        "fgm": AttackConfig("L2FastGradientAttack", [0.05, 0.1, 0.2]),
        "pgd": AttackConfig("L2ClipAwarePGD", [0.05, 0.1, 0.2], params={"steps": 5}),
    }
    assert run(tmp_path, "brightness", attacks, data="apart") == []


def test_robust_accuracy_that_rises_with_epsilon_is_reported_once(tmp_path):
    attacks = {"fgsm": AttackConfig("LinfFastGradientAttack", [0.01, 0.05, 0.3])}
    with pytest.warns(EvaluationWarning) as said:
        (diagnostic,) = run(tmp_path, "band", attacks, data="dark")
    assert diagnostic.code == "non_monotonic"
    assert "from 0.000 at Linf 0.05 to 1.000 at 0.3 (40 samples)" in diagnostic.message
    assert [str(warning.message) for warning in said] == [str(diagnostic)]


def test_a_stronger_attack_that_does_worse_than_a_simpler_one_is_reported(tmp_path):
    attacks = {
        "noise": AttackConfig("LinfAdditiveUniformNoiseAttack", [0.3], repeat=30),
        "pgd": AttackConfig("LinfPGD", [0.3], params={"steps": 5}),
    }
    with pytest.warns(EvaluationWarning):
        found = run(tmp_path, "masked", attacks)
    # Foolbox's noise takes the largest value for the largest magnitude
    assert codes(found) == ["oversteps_epsilon", "weaker_than_simpler"]
    assert "(noise, Linf 0.3)" in found[0].message
    diagnostic = found[1]
    assert diagnostic.message.startswith("pgd (gradient) leaves robust accuracy 1.000 at Linf 0.3")
    assert "noise (noise)" in diagnostic.message


def test_an_attack_that_does_much_worse_with_more_gradients_is_reported(tmp_path):
    attacks = {
        "slow": AttackConfig(
            "LinfPGD", [0.02], params={"steps": 20, "abs_stepsize": 1e-7, "random_start": False}
        ),
        "quick": AttackConfig("LinfPGD", [0.02], params={"steps": 4}),
    }
    with pytest.warns(EvaluationWarning):
        (diagnostic,) = run(tmp_path, "brightness", attacks)
    assert diagnostic.code == "underperforms"
    assert diagnostic.message.startswith("slow leaves robust accuracy 1.000")


def test_robust_samples_at_an_unreachable_epsilon_are_reported(tmp_path):
    attacks = {
        "pgd": AttackConfig("L2PGD", [0.01, 10.0], params={"steps": 3, "random_start": False})
    }
    with pytest.warns(EvaluationWarning):
        reach, robust = run(tmp_path, "masked", attacks)
    assert (reach.code, robust.code) == ("unreachable_epsilon", "reaches_everything")
    assert "for 40 of 40 perturbations (pgd, L2 10)" in reach.message
    assert "40 of 40 samples are still robust at L2 10" in robust.message


def half():
    """In float16 the logits of images that an attack has moved are above 65504."""

    def overflowing(logits):
        return torch.where(logits.abs() > 0.1, logits * 1e7, logits).half().float()

    return Wrapped(overflowing).eval()


def test_overflow_under_attack_only_is_counted(tmp_path):
    attacks = {"fgsm": AttackConfig("LinfFastGradientAttack", [0.001, 0.05])}
    with pytest.warns(EvaluationWarning, match="compute in float32") as said:
        found = run(tmp_path, "half", attacks)
    assert codes(found) == ["overflow"]
    assert "the logits of 40 of 40 perturbed images are not finite (fgsm, Linf 0.05)" in str(found)
    assert len(said) == 1


def not_a_number():
    return Wrapped(lambda logits: logits * np.nan).eval()


def test_overflow_that_an_attack_would_warn_of_is_said_by_the_run_alone(tmp_path):
    evaluation = Evaluation(
        model=ModelConfig(_target_=f"{__name__}.not_a_number"),
        data=DataConfig(_target_=f"{__name__}.grey"),
        attacks={"pgd": AttackConfig("L2ClipAwarePGD", [0.1], params={"steps": 1})},
        output=str(tmp_path / "run"),
    )
    with pytest.warns(
        EvaluationWarning, match=r"the logits of 40 (of 40|clean) images are"
    ) as said:
        evaluate(evaluation)
    assert [str(one.message) for one in said if "finite" in str(one.message)] == [
        "the logits of 40 of 40 images are not finite (they are float32); compute in float32, scale"
        " the logits down, or look for 0/0 and log(0)",
        "the logits of 40 clean images are not finite (sample 0; 1; 2 and 37 more), so their"
        " predictions mean nothing; look at these images; compute in float32, or look for 0/0 and"
        " log(0)",
    ]


def many():
    made, labels = images(1000)
    made = made.copy()
    made[700] = 0.9
    return made, labels


def bright_overflows():
    return Wrapped(lambda logits: torch.where(logits.abs() > 1, np.inf, logits)).eval()


def test_overflow_of_a_clean_image_that_was_not_tried_first_is_found(tmp_path):
    attacks = {"fgsm": AttackConfig("LinfFastGradientAttack", [0.001, 0.002])}
    with pytest.warns(EvaluationWarning, match="look at these images"):
        (found,) = run(tmp_path, "bright_overflows", attacks, data="many")
    assert found.code == "overflow"
    assert found.message.startswith("the logits of 1 clean images are not finite (sample 700)")


class Overshoot(foolbox.attacks.LinfFastGradientAttack):
    def run(self, model, inputs, criterion, **kwargs):
        return super().run(model, inputs, criterion, **kwargs) - 0.6

    def __call__(self, model, inputs, criterion, *, epsilons, **kwargs):
        points = [self.run(model, inputs, criterion, epsilon=e) for e in epsilons]
        return points, points, torch.ones(len(points), len(inputs))


def test_images_outside_the_bounds_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(foolbox.attacks, "Overshoot", Overshoot, raising=False)
    with pytest.warns(EvaluationWarning):
        found = run(tmp_path, "brightness", {"over": AttackConfig("Overshoot", [0.1])})
    assert codes(found) == ["bounds", "oversteps_epsilon"]
    assert found[0].message.startswith("40 of 40 images that an attack returned were outside")


def close():
    return images(spread=0.0005)


def test_adversarial_examples_that_quantisation_undoes_are_counted(tmp_path):
    attacks = {"fgsm": AttackConfig("LinfFastGradientAttack", [0.001])}
    with pytest.warns(EvaluationWarning):
        (diagnostic,) = run(tmp_path, "off_by_little", attacks, data="close")
    assert diagnostic.code == "rounding"
    assert diagnostic.message.startswith("20 of 40 adversarial examples are no longer adversarial")


def test_a_minimum_norm_attack_may_end_so_near_the_boundary_that_quantisation_undoes_it(tmp_path):
    attacks = {"nearest": AttackConfig("LinfClipAwareMinimumNorm", [0.001], params={"steps": 5})}
    assert run(tmp_path, "off_by_little", attacks, data="close") == []


def off_by_little():
    """A hair above LEVEL, to which the images are rounded: class 0."""
    return Wrapped(lambda logits: logits - torch.tensor([-0.001, 0.001])).eval()


def sorted_by_class():
    given, labels = images()
    order = np.argsort(labels, kind="stable")
    return given[order], labels[order]


class OneSided(Brightness):
    """Without a gradient at images of class 1."""

    def mean(self, x):
        mean = super().mean(x)
        return torch.where(mean > LEVEL, mean.detach() + 0 * mean, mean)


def one_sided():
    return OneSided().eval()


def test_small_batches_of_sorted_data_hide_no_class(tmp_path):
    evaluation = Evaluation(
        model=ModelConfig(_target_=f"{__name__}.one_sided"),
        data=DataConfig(_target_=f"{__name__}.sorted_by_class"),
        attacks={"fgsm": AttackConfig("LinfFastGradientAttack", [0.001])},
        batch_size=3,
        output=str(tmp_path / "run"),
    )
    with pytest.warns(EvaluationWarning, match="is zero for 16 of 32 clean images"):
        evaluate(evaluation)


def test_warnings_of_the_model_loader_are_stored_too(tmp_path):
    evaluation = Evaluation(
        model=ModelConfig(_target_=f"{__name__}.Brightness"),
        data=DataConfig(_target_=f"{__name__}.grey"),
        attacks={"fgsm": AttackConfig("LinfFastGradientAttack", [0.001])},
        output=str(tmp_path / "run"),
    )
    with pytest.warns(EvaluationWarning, match="training mode"):
        evaluate(evaluation)
    stored = RunFolder(tmp_path / "run").read_warnings()
    assert [("training mode" in diagnostic["message"]) for diagnostic in stored] == [True]


def test_classes_of_attacks_have_a_kind():
    kinds = {
        "L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack": "noise",
        "L1ClipAwareLaplaceNoise": "noise",
        "L1MomentumIterativeFastGradientMethod": "gradient",
        "MIFGSM": "gradient",
        "LinfClipAwareAPGD": "gradient",
        "L2FastGradientAttack": "single gradient",
        "LinfClipAwareFGM": "single gradient",
        "L2ClipAwareAutoAttack": "ensemble",
        "DDNAttack": "minimum norm",
        "BoundaryAttack": None,
        "a.module.OfAUser": None,
    }
    assert {name: kind_of(name) for name in kinds} == kinds
