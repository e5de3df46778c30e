"""Noise at exactly epsilon: as a transform, in data-loader workers, from a network."""

import math
import os
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from foolbox_carescale.evaluate.data.digits import digits
from foolbox_carescale.training import ExactNoise, NoiseGenerator


def images(count=8):
    return torch.from_numpy(digits("test")[0][:count])


def sizes(a, b, p=2.0):
    return torch.linalg.vector_norm((a - b).flatten(1), ord=p, dim=1).numpy()


def test_noise_has_the_asked_norm_after_the_clip():
    for distribution in ["gaussian", "uniform", "laplace"]:
        for p, eps in [(1.0, 40.0), (2.0, 5.0), (math.inf, 0.4)]:
            x = images()
            noisy = ExactNoise(eps, p, distribution)(x)
            assert noisy.min() >= 0
            assert noisy.max() <= 1
            assert sizes(noisy, x, p) == pytest.approx(np.full(8, eps), rel=1e-5)


def test_each_image_of_a_batch_draws_its_own_epsilon_from_the_range():
    torch.manual_seed(0)
    x = images(64)
    norms = sizes(ExactNoise((1.0, 3.0))(x), x)
    assert norms.min() >= 1 - 1e-5
    assert norms.max() <= 3 + 1e-5
    assert norms.std() == pytest.approx(2 / math.sqrt(12), rel=0.2)


def test_bounds_per_channel_hold():
    upper = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    noisy = ExactNoise(40.0, bounds=(torch.zeros_like(upper), upper))(images())
    assert sizes(noisy, images()) == pytest.approx(np.full(8, 40.0), rel=1e-5)
    assert noisy.amax((0, 2, 3)).tolist() == pytest.approx([1, 2, 3])


def test_epsilon_follows_a_distribution():
    torch.manual_seed(0)
    x = images(64)
    norms = sizes(ExactNoise(torch.distributions.LogNormal(0.0, 0.1))(x), x)
    assert np.log(norms).mean() == pytest.approx(0.0, abs=0.05)
    assert np.log(norms).std() == pytest.approx(0.1, rel=0.3)
    with pytest.raises(ValueError, match=r"eps: expected finite numbers >= 0, got .*-"):
        ExactNoise(torch.distributions.Normal(-5.0, 0.1))(x)


def test_transform_in_a_pipeline_perturbs_the_image_and_passes_the_rest():
    pixels = (images(1)[0] * 255).to(torch.uint8)
    sample = {
        "image": tv_tensors.Image(pixels),
        "mask": tv_tensors.Mask(torch.ones(32, 32)),
        "boxes": tv_tensors.BoundingBoxes([[0, 0, 9, 9]], format="XYXY", canvas_size=(32, 32)),
        "label": 7,
    }
    to_floats = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
    done = v2.Compose([v2.ToImage(), to_floats, ExactNoise(2.0)])(sample)
    assert type(done["image"]) is tv_tensors.Image
    change = done["image"].as_subclass(torch.Tensor) - pixels / 255
    assert change.norm().item() == pytest.approx(2.0, rel=1e-5)
    assert torch.equal(done["mask"], sample["mask"])
    assert torch.equal(done["boxes"], sample["boxes"])
    assert done["label"] == 7


def test_leading_dimensions_are_kept_and_each_frame_has_its_epsilon():
    video = tv_tensors.Video(images(6).reshape(2, 3, 3, 32, 32))
    noisy = ExactNoise(2.0)(video)
    assert noisy.shape == video.shape
    assert sizes(noisy.reshape(6, -1), video.reshape(6, -1)) == pytest.approx(
        np.full(6, 2.0), rel=1e-5
    )


class Noisy(Dataset):
    def __init__(self):
        self.images, self.noise = images(4), ExactNoise(3.0)

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.noise(self.images[0])  # the same image: what differs is the noise


def check_epochs(workers, start=None):
    def epoch():
        torch.manual_seed(0)
        loader = DataLoader(Noisy(), num_workers=workers, multiprocessing_context=start)
        return torch.cat(list(loader))

    Noisy()[0]  # loads what the workers would each load
    first, again = epoch(), epoch()
    assert torch.equal(first, again)
    assert sizes(first, images(1)) == pytest.approx(np.full(4, 3.0), rel=1e-5)
    assert len({row.numpy().tobytes() for row in first}) == 4


def test_an_epoch_draws_different_noise_at_exactly_epsilon_and_a_seed_repeats_it():
    check_epochs(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_so_do_the_workers_of_a_loader(processes):
    # in a process that has no threads yet, which others of the tests start here and a fork loses
    child = processes.Process(target=check_epochs, args=(2, "fork"))
    child.start()
    child.join()
    assert child.exitcode == 0


def test_settings_that_cannot_be_are_refused():
    for arguments, message in [
        ((-1.0,), r"eps: expected a finite number >= 0, got -1\.0"),
        (((3.0, 1.0),), r"eps: expected \(low, high\) with 0 <= low <= high, got \(3\.0, 1\.0\)"),
        (((0.0, math.inf),), "eps: expected a finite number >= 0, got inf"),
        ((1.0, 2.0, "cauchy"), "distribution: expected one of gaussian, uniform, laplace, got 'c"),
        ((1.0, -2.0), "p: expected a number in"),
    ]:
        with pytest.raises(ValueError, match=message):
            ExactNoise(*arguments)


def test_images_that_cannot_be_perturbed_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"expected a floating tensor .* got torch.uint8 .* v2.To"):
        ExactNoise(1.0)(torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="got PIL; put"):
        ExactNoise(1.0)(v2.functional.to_pil_image(torch.zeros(3, 8, 8)))
    with pytest.raises(ValueError, match=r"x: .* outside the bounds"):
        ExactNoise(1.0)(torch.full((3, 8, 8), 2.0))


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_generated_noise_is_exactly_epsilon_and_learns_to_raise_a_loss(kernel_size):
    torch.manual_seed(0)
    x = images()
    generator = NoiseGenerator(3, 4.0, kernel_size=kernel_size)
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)

    def contrast(z):  # what independent noise has little of: neighbours, channels that agree
        return -(z - x).sum(1).diff(dim=-1).square().sum()

    before = contrast(generator(x)).item()
    for _ in range(30):
        optimizer.zero_grad()
        (-contrast(generator(x))).backward()
        optimizer.step()
    noisy = generator(x).detach()
    assert contrast(noisy).item() > 0.7 * before
    assert sizes(noisy, x) == pytest.approx(np.full(8, 4.0), rel=1e-5)
    assert not torch.equal(noisy, generator(x))  # fresh noise each time


def test_a_new_generator_is_the_noise_itself():
    x = images()
    torch.manual_seed(0)
    generated = NoiseGenerator(3, 4.0, distribution="laplace")(x)
    torch.manual_seed(0)
    _ = NoiseGenerator(3, 4.0)  # draws its weights
    assert torch.equal(generated, ExactNoise(4.0, distribution="laplace")(x))


def test_one_pixel_of_the_generators_input_reaches_as_far_as_its_kernel():
    for kernel_size, reach in ((1, 0), (5, 2)):
        generator = NoiseGenerator(3, 1.0, kernel_size=kernel_size)
        for parameter in generator.parameters():
            torch.nn.init.normal_(parameter)
        z = torch.randn(1, 3, 11, 11)
        other = z.clone()
        other[..., 5, 5] += 1
        moved = (generator.layers(other) - generator.layers(z)).abs().sum(1)[0] > 1e-6
        rows = moved.any(1).nonzero()
        assert moved[5, 5]
        assert (rows.min().item(), rows.max().item()) == (5 - reach, 5 + reach)


def test_generator_gradient_is_that_of_finite_differences():
    torch.manual_seed(1)
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    generator = NoiseGenerator(1, 1.5, hidden=2).double()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter)
    names = [name for name, _ in generator.named_parameters()]

    def run(*parameters):
        torch.manual_seed(0)
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(generator, named, (x,))

    assert torch.autograd.gradcheck(run, tuple(generator.parameters()))


def test_generator_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="kernel_size: expected an odd number >= 1, got 2"):
        NoiseGenerator(3, 1.0, kernel_size=2)
    with pytest.raises(ValueError, match="distribution: expected one of"):
        NoiseGenerator(3, 1.0, distribution="cauchy")
    with pytest.raises(ValueError, match="channels: expected an integer >= 1, got 0"):
        NoiseGenerator(0, 1.0)
    with pytest.raises(ValueError, match="hidden: expected an integer >= 1, got 0"):
        NoiseGenerator(3, 1.0, hidden=0)


def test_images_that_a_generator_is_not_made_for_are_refused_with_the_remedy():
    generator = NoiseGenerator(3, 1.0)
    for wrong in (torch.rand(2, 1, 8, 8), torch.rand(3, 8, 8)):
        with pytest.raises(
            ValueError, match=r"x: expected images of shape \(N, 3, H, W\), got .* m"
        ):
            generator(wrong)
    with pytest.raises(ValueError, match="x: expected a PyTorch tensor, got ndarray"):
        generator(np.zeros((2, 3, 8, 8)))
    with pytest.raises(ValueError, match=r"x: .* outside the bounds"):
        generator(torch.full((2, 3, 8, 8), 2.0))
    large = NoiseGenerator(3, 1.0, kernel_size=17)
    with pytest.raises(ValueError, match=r"8 x 8 pixels are too small .* 17; take at most 15"):
        large(torch.rand(2, 3, 8, 8))
    assert NoiseGenerator(3, 1.0, kernel_size=15)(torch.rand(2, 3, 8, 8)).shape == (2, 3, 8, 8)


def test_the_transform_can_be_sent_to_a_worker_that_is_not_forked():
    noise = pickle.loads(pickle.dumps(ExactNoise((1.0, 2.0), math.inf, "laplace")))
    assert (
        repr(noise) == "ExactNoise(distribution=laplace, eps=(1.0, 2.0), p=inf, bounds=(0.0, 1.0))"
    )
