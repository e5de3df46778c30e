import dataclasses
import importlib
import inspect
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from foolbox import PyTorchModel
from safetensors.torch import load_file, save_file
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from foolbox_carescale.attacks.model import module_of
from foolbox_carescale.evaluate import (
    DataConfig,
    Evaluation,
    EvaluationWarning,
    ModelConfig,
    UserError,
)
from foolbox_carescale.evaluate.config.schema import json_schema
from foolbox_carescale.evaluate.config.validation import read
from foolbox_carescale.evaluate.data.digits import digits
from foolbox_carescale.evaluate.data.sources import load_data
from foolbox_carescale.evaluate.models.loading import (
    BUNDLED_WEIGHTS,
    load_model,
    resolve_model,
)
from foolbox_carescale.evaluate.models.weights import read_state
from foolbox_carescale.evaluate.runner.resolve import resolve, view_of


class Mean(torch.nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        return x.flatten(1).mean(1, keepdim=True) * torch.arange(float(self.classes))


def training_model(classes=10):
    return Mean(classes).train()


def not_a_model():
    return 3


def predictions(model, images):
    return model(torch.from_numpy(images)).argmax(1).numpy()


def test_the_bundled_model_is_at_least_97_percent_right_on_digits_it_never_saw():
    model, config = load_model(ModelConfig())
    images, labels, index = digits("test")
    assert not set(index) & set(digits("train")[2])
    assert config.weights == "bundled"
    assert np.mean(predictions(model, images) == labels) >= 0.97
    assert BUNDLED_WEIGHTS.stat().st_size <= 2_000_000


def test_normalisation_is_inside_the_model_so_that_bounds_stay_0_and_1():
    model, config = load_model(ModelConfig())
    assert tuple(model.bounds) == (0, 1)
    assert config.mean == config.std == [0.5, 0.5, 0.5]


def test_weights_from_a_safetensors_file_and_from_a_state_dict_agree(tmp_path):
    torch.manual_seed(0)
    from torchvision.models import mobilenet_v3_small

    state = mobilenet_v3_small(num_classes=5).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    images = digits()[0][:8]
    outputs = []
    for file in ("w.safetensors", "w.pt"):
        config = ModelConfig("mobilenet_v3_small", str(tmp_path / file), num_classes=5)
        outputs.append(load_model(config)[0](torch.from_numpy(images)))
    assert torch.equal(*outputs)


def test_weights_may_have_any_name_and_none_that_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(load_file(BUNDLED_WEIGHTS), "~.pth")
    images = torch.from_numpy(digits()[0][:2])
    own, _ = load_model(ModelConfig(weights="~.pth", mean=[0.5] * 3, std=[0.5] * 3))
    bundled, _ = load_model(ModelConfig(weights="bundled"))
    assert torch.equal(own(images), bundled(images))
    for name in ("~no_such_user/w.pth", f"{'x' * 5000}.pth"):
        with pytest.raises(UserError, match="is no such file"):
            load_model(ModelConfig(weights=name))


def test_a_weight_file_that_could_run_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    bare, saved = tmp_path / "bare.pt", tmp_path / "saved.pt"
    bare.write_bytes(pickle.dumps(Payload()))
    torch.save({"weight": Payload()}, saved)
    for path in (bare, saved):
        with pytest.raises(UserError, match="refused because it could run code"):
            load_model(ModelConfig(weights=str(path)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_damaged_weight_file_is_one_line(tmp_path, ending):
    whole, path = tmp_path / f"whole.{ending}", tmp_path / f"w.{ending}"
    state = load_file(BUNDLED_WEIGHTS)
    save_file(state, whole) if ending == "safetensors" else torch.save(state, whole)
    content = whole.read_bytes()
    generator, refused = np.random.default_rng(0), []
    header = 3000
    for number in range(30):
        damaged = bytearray(content)
        if number % 3:
            for place in generator.integers(0, header, 20):
                damaged[place] = generator.integers(256)
        else:
            del damaged[generator.integers(len(content)) :]
        path.write_bytes(damaged)
        try:
            load_model(ModelConfig(weights=str(path)))
        except UserError as error:
            refused.append(str(error))
    assert len(refused) >= 10
    assert all(line.startswith("model.weights: ") for line in refused)


@pytest.mark.parametrize(
    "note",
    [
        "no JSON", "[]", "null", '{"num_classes": "ten"}', '{"num_classes": Infinity}',
        '{"mean": 3}', '{"mean": []}', '{"mean": [NaN, 0, 0]}', '{"std": ["a"]}', "[" * 10**5,
    ],
)  # fmt: skip
def test_a_weight_files_note_that_cannot_be_read_is_one_line(tmp_path, note):
    path = tmp_path / "w.safetensors"
    save_file(load_file(BUNDLED_WEIGHTS), path, metadata={"carescale": note})
    with pytest.raises(UserError, match="save it without the metadata 'carescale'"):
        load_model(ModelConfig(weights=str(path)))


def test_a_state_dict_has_names(tmp_path):
    torch.save({1: torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_model(ModelConfig(weights=str(tmp_path / "w.pt")))


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """Where torchvision looks for the files of SqueezeNet's weights before it downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = SqueezeNet1_1_Weights.DEFAULT
    path = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    network = squeezenet1_1()
    torch.save(network.state_dict(), path)
    return path, network.eval()


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.DEFAULT"])
def test_named_weights_bring_mean_std_size_and_interpolation(downloaded, name):
    evaluation = Evaluation(
        model=ModelConfig("squeezenet1_1", name), data=DataConfig("foolbox/imagenet"), samples=2
    )
    run, data = resolve(evaluation)
    assert run.model.weights == "IMAGENET1K_V1"
    assert (run.data.size, run.data.resize, run.data.interpolation) == (224, 256, "bilinear")
    assert data.shape == (3, 224, 224)
    assert data.class_names[:2] == ["tench", "goldfish"]
    model, config = load_model(run.model)
    preset = SqueezeNet1_1_Weights.DEFAULT.transforms()
    assert (config.mean, config.std) == (preset.mean, preset.std)
    assert config.num_classes == 1000
    images = torch.from_numpy(data.batch([0, 1]).images)
    mean, std = (torch.tensor(v)[:, None, None] for v in (preset.mean, preset.std))
    expected = downloaded[1]((images - mean) / std)
    assert torch.allclose(model(images), expected, atol=1e-5)


def test_the_config_has_the_last_word_on_size_and_interpolation(downloaded):
    data = DataConfig("foolbox/imagenet", size=64, interpolation="bicubic")
    evaluation = Evaluation(ModelConfig("squeezenet1_1", "DEFAULT"), data, samples=1)
    run, loaded = resolve(evaluation)
    assert loaded.shape == (3, 64, 64)
    assert (run.data.resize, run.data.interpolation) == (None, "bicubic")


def test_another_size_keeps_the_interpolation_of_the_weights():
    view = view_of(DataConfig(size=64), ModelConfig("swin_t", "DEFAULT"))
    assert (view.size, view.resize, view.interpolation) == (64, None, "bicubic")
    own = DataConfig(size=64, resize=80, interpolation="nearest")
    assert view_of(own, ModelConfig("swin_t", "DEFAULT")) == own


def test_weights_for_other_classes_than_the_datas_are_warned_about(downloaded):
    evaluation = Evaluation(ModelConfig("squeezenet1_1", "DEFAULT"), samples=1)
    with pytest.warns(EvaluationWarning, match="have 1000 classes, but digits has 10"):
        resolve(evaluation)


def test_a_downloaded_file_that_could_run_code_is_refused(downloaded, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"weight": Payload()}, downloaded[0])
    with pytest.raises(UserError, match=r"squeezenet1_1-.*\.pth is not a plain PyTorch state dict"):
        load_model(ModelConfig("squeezenet1_1", "DEFAULT"))
    assert not (tmp_path / "ran").exists()


def test_a_weight_file_has_the_classes_of_the_data_unless_it_says_otherwise(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "w.pth"
    torch.save(squeezenet1_1(num_classes=7).state_dict(), path)
    data = DataConfig("FakeData", params={"size": 3, "image_size": [3, 64, 64], "num_classes": 7})
    labels = DataConfig(_target_=f"{__name__}.labels_up_to_6")
    for source in (data, labels):
        run, _ = resolve(Evaluation(ModelConfig("squeezenet1_1", str(path)), source))
        assert run.model.num_classes == 7
        load_model(run.model)
    untrained = ModelConfig("squeezenet1_1", weights=None)
    assert resolve(Evaluation(untrained, labels))[0].model.num_classes == 7
    bundled = ModelConfig(weights="bundled")
    assert resolve(Evaluation(bundled, labels))[0].model.num_classes == 10


def labels_up_to_6():
    return np.zeros((2, 3, 64, 64), np.float32), np.array([0, 6])


def test_auto_takes_the_weights_that_fit_the_data(downloaded):
    for data, classes, weights in (("digits", 10, "bundled"), ("imagenet", 1000, "IMAGENET1K_V1")):
        config = resolve_model(ModelConfig(), data=data, num_classes=classes)
        assert config.weights == weights


def test_a_resolved_run_is_the_same_when_it_is_resolved_again(downloaded):
    evaluation = Evaluation(
        ModelConfig("squeezenet1_1", "DEFAULT"), DataConfig("foolbox/imagenet"), samples=1
    )
    once, data = resolve(evaluation)
    twice, again = resolve(once)
    assert once == twice
    assert np.array_equal(data.batch([0]).images, again.batch([0]).images)


@pytest.mark.parametrize("name", ["os.system", "torch.load", "get_model"])
def test_a_models_name_reaches_torchvisions_classifiers_only(name):
    with pytest.raises(UserError, match="torchvision has no classifier"):
        load_model(ModelConfig(name, None))


@pytest.mark.parametrize("name", ["../resnet18", "google/vit-base-patch16-224", "/etc/passwd"])
def test_a_models_name_begins_with_a_library_that_is_known(name):
    with pytest.raises(UserError, match="valid: 'hf', 'robustbench', 'timm', 'torchvision'"):
        load_model(ModelConfig(name, None))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 0.1), ("autocast", 0.1), ("float16", 0.02)]
)
def test_other_types_compute_nearly_the_same_and_keep_float32_outside(dtype, tolerance):
    images = torch.from_numpy(digits()[0][:16])
    expected = load_model(ModelConfig())[0](images)
    model, config = load_model(ModelConfig(dtype=dtype))
    images.requires_grad_()
    logits = model(images)
    assert logits.dtype == torch.float32
    assert config.dtype == dtype
    error = (logits - expected).abs().max() / expected.abs().max()
    assert 0 < error < tolerance
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.dtype == torch.float32
    assert gradient.abs().max() > 0


def test_a_network_that_no_weights_fit_stays_untrained_and_says_so():
    with pytest.warns(EvaluationWarning, match="resnet18 has no weights for digits"):
        _, config = load_model(ModelConfig("resnet18"))
    assert config.weights is None
    assert config.num_classes == 10


def test_a_model_of_ones_own_in_training_mode_is_set_to_eval_with_a_warning():
    target = f"{__name__}.training_model"
    with pytest.warns(EvaluationWarning, match="training mode"):
        model, _ = load_model(ModelConfig(_target_=target, params={"classes": 3}))
    assert model(torch.ones(2, 3, 4, 4)).shape == (2, 3)


def test_a_foolbox_model_in_training_mode_is_set_to_eval_with_a_warning():
    # Foolbox says so too, and leaves it so
    with pytest.warns(UserWarning, match="Call the eval"), pytest.warns(EvaluationWarning):
        model, _ = load_model(ModelConfig(_target_=f"{__name__}.foolbox_training_model"))
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(model(images), model(images))  # no dropout any more


def foolbox_training_model():
    network = torch.nn.Sequential(torch.nn.Dropout(0.5), Mean()).train()
    return PyTorchModel(network, bounds=(0, 1))


def test_a_part_that_was_left_in_training_mode_is_noticed():
    with pytest.warns(EvaluationWarning, match="training mode"):
        load_model(ModelConfig(_target_=f"{__name__}.half_training_model"))


def half_training_model():
    network = torch.nn.Sequential(torch.nn.Dropout(0.5), Mean()).eval()
    network[0].train()
    return network


def test_a_function_may_return_a_tensorflow_model():
    tf = pytest.importorskip("tensorflow")
    model, _ = load_model(ModelConfig(_target_=f"{__name__}.tensorflow_model"))
    assert model(tf.ones((2, 3, 4, 4))).shape == (2, 10)


def tensorflow_model():
    import tensorflow as tf
    from foolbox import TensorFlowModel

    def logits(x):
        return tf.reduce_mean(x, (1, 2, 3))[:, None] * tf.range(10.0)

    return TensorFlowModel(logits, bounds=(0, 1))


def test_foolbox_models_keep_their_framework_and_get_bounds_0_and_1():
    jax = pytest.importorskip("jax")
    model, _ = load_model(ModelConfig(_target_=f"{__name__}.jax_model"))
    assert tuple(model.bounds) == (0, 1)
    logits = model(jax.numpy.full((2, 3, 4, 4), 0.5))
    assert np.allclose(logits[:, 1], 127.5)


def jax_model():
    import jax.numpy as jnp
    from foolbox import JAXModel

    def logits(x):
        return x.reshape(len(x), -1).mean(1, keepdims=True) * jnp.arange(10.0)

    return JAXModel(logits, bounds=(0, 255))


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (ModelConfig("resnet81"), "did you mean 'resnet18'"),
        (ModelConfig("fasterrcnn_resnet50_fpn"), "torchvision has no classifier"),
        (ModelConfig("resnet18", "bundled"), "the bundled ones are shufflenet_v2_x0_5's"),
        (ModelConfig("resnet18", "IMAGENET1K_V9"), "did you mean 'IMAGENET1K_V1'?"),
        (ModelConfig("resnet18", "no/such.pt"), "'no/such.pt' is no such file"),
        (ModelConfig("resnet18", str(BUNDLED_WEIGHTS)), "does not fit resnet18"),
        (ModelConfig("resnet18", __file__), "is not a plain PyTorch state dict"),
        (ModelConfig("resnet18", None, params={"widht": 3}), "unexpected keyword argument"),
        (ModelConfig("resnet18", None, num_classes=-1), "torchvision cannot build resnet18"),
        (ModelConfig(mean=[1.0, 2.0]), "model.mean, model.std"),
        (ModelConfig(std=[0.0, 0.0, 0.0]), "positive ones as std"),
        (ModelConfig(_target_="no.such"), "there is no module 'no'"),
        (ModelConfig(_target_="os.getcwdd"), "did you mean 'getcwd'"),
        (ModelConfig(_target_=f"{__name__}.jax_model", dtype="bfloat16"), "set them there"),
        (ModelConfig(_target_=f"{__name__}.not_a_model"), "returned int"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(config, line):
    with pytest.raises(UserError) as caught:
        load_model(config)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import no_such_module_at_all", "importing .* No module named 'no_such_module_at_all'"),
        ("raise ValueError('mine')", "raises ValueError: mine .broken_model.py, line 1."),
        ("def make():\n    return 1 / 0", "raises ZeroDivisionError: .* .broken_model.py, line 2."),
        ("def make(a):\n    return 0", r"missing a required argument: 'a'; its signature is \(a\)"),
    ],
)
def test_an_error_inside_the_users_own_module_is_one_line(tmp_path, monkeypatch, text, line):
    (tmp_path / "broken_model.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_model", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=line) as caught:
        load_model(ModelConfig(_target_="broken_model.make"))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def configurable(num_classes=1000, name="a", mean=(0.0,)):
    return Remembering(num_classes, name, mean).eval()


class Remembering(Mean):
    def __init__(self, classes, name, mean):
        super().__init__(classes)
        self.given = {"num_classes": classes, "name": name, "mean": mean}


def takes_any(width=1, **given):
    return Remembering(given.get("num_classes", 1000), given.get("name", "a"), (0.0,)).eval()


@pytest.mark.parametrize("function", ["configurable", "takes_any"])
def test_a_target_gets_the_keys_of_the_config_that_it_takes(function):
    target = f"{__name__}.{function}"
    config = read(ModelConfig, {"_target_": target, "num_classes": 7, "name": "b"})
    model, _ = load_model(config)
    assert model(torch.rand(2, 3, 4, 4)).shape == (2, 7)
    assert module_of(model).given["name"] == "b"
    assert load_model(ModelConfig(_target_=target))[0](torch.rand(2, 3, 4, 4)).shape == (2, 1000)


def test_a_mean_that_a_target_takes_is_not_applied_again():
    given = ModelConfig(_target_=f"{__name__}.configurable", mean=[0.5], num_classes=4)
    model, config = load_model(given)
    assert module_of(model).given["mean"] == [0.5]
    assert config.mean is None
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(model(images), Mean(4)(images))
    any_of_them = ModelConfig(_target_=f"{__name__}.takes_any", mean=[0.5], num_classes=4)
    assert torch.allclose(load_model(any_of_them)[0](images), Mean(4)(images - 0.5))


def data_of_size(size, classes=None, root=None):
    return np.zeros((2, 3, size, size), np.float32), np.arange(2)


def test_data_of_ones_own_get_the_keys_of_the_config_that_they_take():
    data = load_data(DataConfig(_target_=f"{__name__}.data_of_size", size=6, root="here"))
    assert data.images.shape == (2, 3, 6, 6)
    given = DataConfig(_target_=f"{__name__}.data_of_size", size=6, classes=[1])
    with pytest.raises(UserError, match=r"data\.classes: .* write data\.params\.classes"):
        load_data(given)
    given.params = {"classes": 3}
    assert load_data(given).labels.tolist() == [1]


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            ModelConfig(_target_=f"{__name__}.training_model", num_classes=4),
            r"model\.num_classes: .*training_model has no argument of this name",
        ),
        (
            ModelConfig(
                _target_=f"{__name__}.configurable", num_classes=4, params={"num_classes": 5}
            ),
            r"model\.num_classes: is 4, but model\.params\.num_classes is 5; give one",
        ),
    ],
)
def test_a_key_beside_a_target_that_nothing_reads_is_one_line(config, line):
    with pytest.raises(UserError, match=line):
        load_model(config)


@dataclasses.dataclass
class Output:
    scores: torch.Tensor
    loss: torch.Tensor | None = None


class Returning(Mean):
    def __init__(self, change):
        super().__init__(5)
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x))


OUTPUTS = {
    "tuple": lambda y: (y, None),
    "list": lambda y: [y],
    "mapping": lambda y: {"logits": y, "features": y + 1},
    "attribute": lambda y: types.SimpleNamespace(logits=y, features=y),
    "dataclass": lambda y: Output(y),
    "bfloat16": lambda y: y.bfloat16(),
    "float16": lambda y: y.half(),
    "float64": lambda y: y.double(),
}


def returning(kind):
    return Returning(OUTPUTS[kind]).eval()


@pytest.mark.parametrize("kind", OUTPUTS)
def test_logits_are_found_in_what_a_model_returns(kind):
    config = ModelConfig(_target_=f"{__name__}.returning", params={"kind": kind})
    model, _ = load_model(config)
    images = torch.rand(2, 3, 4, 4)
    logits = model(images)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, Mean(5)(images), rtol=0.01)


def two_tensors():
    return Returning(lambda y: (y, y + 1)).eval()


def a_map():
    return Returning(lambda y: y[:, :, None]).eval()


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("two_tensors", r"returns a tuple with 2 tensors \(0: \(2, 5\), 1: \(2, 5\)\)"),
        ("a_map", r"returns a tensor of shape \(2, 5, 1\); return logits"),
    ],
)
def test_outputs_that_hold_no_logits_are_one_line(function, line):
    model, _ = load_model(ModelConfig(_target_=f"{__name__}.{function}"))
    with pytest.raises(UserError, match=line):
        model(torch.rand(2, 3, 4, 4))


def linear(dtype="float32", compiled=False):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5)).eval()
    network = network.to(getattr(torch, dtype))
    return torch.compile(network, backend="eager") if compiled else network


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_a_target_may_hold_weights_of_any_type(dtype):
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    expected = linear()(images)
    model, _ = load_model(ModelConfig(_target_=f"{__name__}.linear", params={"dtype": dtype}))
    logits = model(images)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=0.05)
    assert torch.autograd.grad(logits.sum(), images)[0].abs().max() > 0


def test_a_target_may_be_compiled():
    images = torch.rand(2, 3, 4, 4)
    params = {"compiled": True}
    model, _ = load_model(ModelConfig(_target_=f"{__name__}.linear", params=params))
    assert torch.allclose(model(images), linear()(images), atol=1e-6)


class WithoutLength(Mean):
    def __len__(self):
        return 0


def without_length():
    return WithoutLength(4).eval()


def test_a_target_may_have_the_length_0():
    model, _ = load_model(ModelConfig(_target_=f"{__name__}.without_length"))
    assert model(torch.rand(2, 3, 4, 4)).shape == (2, 4)


def of_timm():
    model = Mean().eval()
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    return model


def test_a_mean_that_weights_expect_and_nobody_gives_is_warned_about(downloaded):
    config = ModelConfig(_target_=f"{__name__}.of_timm")
    with pytest.warns(EvaluationWarning, match=r"missing, though .*of_timm expect \[0.5, 0.5, 0.5"):
        load_model(config)
    load_model(dataclasses.replace(config, mean=[0.5] * 3, std=[0.25] * 3))
    file = ModelConfig("squeezenet1_1", str(downloaded[0]), num_classes=1000)
    with pytest.warns(EvaluationWarning, match=r"missing, though .*squeezenet1_1 expect \[0.485"):
        load_model(file)


def hugging_face():
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ViTForImageClassification(
        ViTConfig(**sizes, intermediate_size=16, image_size=8, patch_size=4, num_labels=6)
    ).eval()


def test_a_model_of_transformers_returns_its_logits():
    pytest.importorskip("transformers")
    model, _ = load_model(ModelConfig(_target_=f"{__name__}.hugging_face"))
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 6)


def test_a_model_of_timm_gets_its_number_of_classes():
    pytest.importorskip("timm")
    given = {"_target_": "timm.create_model", "model_name": "resnet10t", "num_classes": 6}
    with pytest.warns(EvaluationWarning, match="training mode|mean and model.std are missing"):
        model, _ = load_model(read(ModelConfig, given))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 6)


@pytest.mark.parametrize(
    ("taken", "other"), [("model", "model_ema"), ("model", "net"), ("state_dict", "state_dict_ema")]
)
def test_of_several_networks_in_a_file_it_is_said_which_one_is_read(tmp_path, taken, other):
    one, two = ({"weight": torch.full((2,), value)} for value in (1.0, 2.0))
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    for held in (two, {"state_dict": two}):
        torch.save({"optimizer": optimizer, other: held, taken: one}, tmp_path / "w.pt")
        line = f"w.pt holds weights in '{taken}' and in '{other}'; '{taken}' is read; save the"
        with pytest.warns(EvaluationWarning, match=line) as said:
            state = read_state(tmp_path / "w.pt")
        assert len(said) == 1
        assert state["weight"].tolist() == [1.0, 1.0]
    torch.save({"optimizer": optimizer, taken: one}, tmp_path / "w.pt")
    assert read_state(tmp_path / "w.pt")["weight"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_a_state_dict_are_opened_and_prefixes_left_out(tmp_path, key, prefix, caplog):
    state = load_file(BUNDLED_WEIGHTS)
    path = tmp_path / "w.pt"
    torch.save({"epoch": 3, key: {prefix + name: value for name, value in state.items()}}, path)
    with caplog.at_level("INFO", "carescale"):
        read_back = read_state(path)
    assert read_back.keys() == state.keys()
    said = [record for record in caplog.records if "left out" in record.message]
    assert len(said) == bool(prefix)


class Wrapper(torch.nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.model = Wrapper(depth - 1) if depth else torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.model(x.flatten(1))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_weights_fit_a_module_in_which_a_prefix_is_its_own(tmp_path, depth, prefix):
    state, path = Wrapper(depth).state_dict(), tmp_path / "w.pt"
    torch.save({prefix + name: value for name, value in state.items()}, path)
    target = ModelConfig(_target_=f"{__name__}.Wrapper", params={"depth": depth}, weights=str(path))
    model, _ = load_model(target)
    held = module_of(model).state_dict()
    assert all(torch.equal(held[name], state[name]) for name in state)
    assert held.keys() == state.keys()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_files_that_are_no_weights_for_a_known_reason_are_called_that(tmp_path, kind):
    state = load_file(BUNDLED_WEIGHTS)
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    cases = {"is empty": b"", "is a Git LFS pointer": pointer, "is cut off": content[:200_000]}
    for line, damaged in cases.items():
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=line):
            load_model(ModelConfig(weights=str(path)))


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(device):
    with pytest.raises(UserError, match=f"device: '{device}' cannot be used"):
        load_model(ModelConfig(), device=device)


def test_weights_that_torchvision_would_download_are_named_when_there_is_no_network(monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr("os.path.exists", lambda path: False)
    with pytest.raises(UserError, match="could not be downloaded"):
        load_model(ModelConfig("resnet18", "DEFAULT"))


def test_every_key_of_the_config_is_documented():
    described = json_schema("model")["properties"]
    for name in inspect.signature(ModelConfig).parameters:
        assert described[name]["description"]
