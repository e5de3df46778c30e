import inspect
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foolbox_carescale.evaluate import EvaluationWarning, ModelConfig, UserError
from foolbox_carescale.evaluate.digits import digits
from foolbox_carescale.evaluate.models import EMBEDDED_WEIGHTS, load_model


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


def test_the_embedded_model_is_at_least_97_percent_right_on_digits_it_never_saw():
    model, config = load_model(ModelConfig())
    images, labels, index = digits("test")
    assert not set(index) & set(digits("train")[2])
    assert config.weights == "embedded"
    assert np.mean(predictions(model, images) == labels) >= 0.97
    assert EMBEDDED_WEIGHTS.stat().st_size <= 2_000_000


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
        (ModelConfig("resnet18", "embedded"), "the embedded ones are shufflenet_v2_x0_5's"),
        (ModelConfig("resnet18", "IMAGENET1K_V9"), "did you mean 'IMAGENET1K_V1'?"),
        (ModelConfig("resnet18", "no/such.pt"), "'no/such.pt' is no such file"),
        (ModelConfig("resnet18", str(EMBEDDED_WEIGHTS)), "does not fit resnet18"),
        (ModelConfig("resnet18", __file__), "is not a plain PyTorch state dict"),
        (ModelConfig("resnet18", None, params={"widht": 3}), "unexpected keyword argument"),
        (ModelConfig(mean=[1.0, 2.0]), "model.mean, model.std"),
        (ModelConfig(std=[0.0, 0.0, 0.0]), "positive ones as std"),
        (ModelConfig(_target_="no.such"), "there is no module 'no'"),
        (ModelConfig(_target_="os.getcwdd"), "did you mean 'getcwd'"),
        (ModelConfig(_target_=f"{__name__}.not_a_model"), "returned int"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(config, line):
    with pytest.raises(UserError) as caught:
        load_model(config)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_inside_the_users_own_module_keeps_its_own_type(tmp_path, monkeypatch):
    (tmp_path / "broken_model.py").write_text("import no_such_module_at_all\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        load_model(ModelConfig(_target_="broken_model.make"))


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
    for name in inspect.signature(ModelConfig).parameters:
        assert name in ModelConfig.__doc__
