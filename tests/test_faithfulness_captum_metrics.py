"""Infidelity in slow loops, sensitivity as Captum's own on the compared map."""

import captum.metrics
import numpy as np
import pytest
import torch
from captum.attr import Saliency
from conftest import BY_NAME, fit_quietly, training_batches
from pixel_models import SIZES, batch, generator, linear_model, refused

from captum_hrcam import HRCAM
from captum_hrcam.faithfulness import infidelity, sensitivity_max


class TestCaptumMetrics:
    def test_infidelity_is_the_slow_mean_square(self):
        model, (x, maps) = linear_model((6, 7), channels=3), batch((6, 7), channels=3)
        target = [0, 2, 1]
        drawn = []

        def perturb(images):
            shift = torch.randn(images.shape, generator=generator(9), dtype=images.dtype)
            drawn.append(shift)
            return shift, images - shift

        model.requires_grad_(False)
        for normalize in (False, True):
            drawn.clear()
            given = infidelity(
                model, x, maps, target, perturb_func=perturb, samples=4, normalize=normalize
            )
            for i, c in enumerate(target):
                said, told = [], []
                for shift in drawn:
                    said.append(float((shift[i].mean(0) * maps[i, 0]).sum()))
                    told.append(float((model(x[i : i + 1]) - model((x - shift)[i : i + 1]))[0, c]))
                said, told = np.array(said), np.array(told)
                scale = (said @ told) / (said @ said) if normalize else 1
                assert given[i] == pytest.approx(np.mean((scale * said - told) ** 2))

    @pytest.mark.parametrize("size", SIZES)
    def test_summed_gradient_has_no_infidelity_on_a_linear_model(self, size):
        model, (x, maps) = linear_model(size), batch(size)
        gradient = model[1].weight[1].reshape(1, 2, *size).sum(1, keepdim=True).expand_as(maps)
        assert (infidelity(model, x, gradient, 1, normalize=False) < 1e-20).all()
        assert (infidelity(model, x, 5 * gradient, 1) < 1e-12).all()  # whatever its scale
        assert (infidelity(model, x, 5 * gradient, 1, normalize=False) > 1e-3).all()
        assert (infidelity(model, x, maps, 1) > 1e-4).all()

    def test_zero_map_is_as_unfaithful_as_the_change_is_large(self):
        model, (x, maps) = linear_model((6, 7)), batch((6, 7))
        zero = torch.zeros_like(maps)
        given = infidelity(model, x, zero, 1)
        np.testing.assert_allclose(given, infidelity(model, x, zero, 1, normalize=False))
        assert (given > 0).all()

    def test_sensitivity_is_captums_on_the_compared_map(self):
        case = BY_NAME["vgg2d"]
        model, x = case.model().eval(), case.images()
        method, draw = Saliency(model), generator(4)

        def nearby(images):
            return images + 0.05 * (2 * torch.rand(images[:1].shape, generator=draw) - 1)

        def summed(images, target):
            images = images[0] if isinstance(images, tuple) else images
            return (method.attribute(images, target).sum(1, keepdim=True),)

        expected = captum.metrics.sensitivity_max(
            summed, x, nearby, n_perturb_samples=3, max_examples_per_batch=4, target=[0, 1, 2, 0]
        )
        given = sensitivity_max(method, x, [0, 1, 2, 0], radius=0.05, samples=3, seed=4)
        np.testing.assert_allclose(given, expected.numpy(), rtol=1e-5)

    def test_sensitivity_of_an_image_is_its_own_whatever_the_batch(self):
        def tripled(inputs, **_):
            return 3 * inputs

        x = torch.rand(4, 1, 6, 7, generator=generator(1)) * torch.tensor([1.0, 5, 0.2, 9]).reshape(
            4, 1, 1, 1
        )
        given = sensitivity_max(tripled, x, 0, radius=0.02, samples=20)
        # |3 e| / |3 x| with e uniform in -r..r: the root mean square of e is r / sqrt(3)
        expected = 0.02 / 3**0.5 * 42**0.5 / x.flatten(1).norm(dim=1)
        np.testing.assert_allclose(given, expected.numpy(), rtol=0.35)

    def test_sensitivity_of_a_map_that_ignores_the_image_is_zero(self):
        ramp = torch.arange(42.0).reshape(1, 1, 6, 7)
        given = sensitivity_max(
            lambda inputs, **_: ramp.expand(len(inputs), 1, 6, 7), batch((6, 7))[0], 1
        )
        assert given.tolist() == [0, 0, 0]

    def test_run_on_hrcam(self):
        case = BY_NAME["vgg3d"]
        hrcam = fit_quietly(HRCAM(case.model(), case.layers), training_batches(case))
        x = case.images()
        far = sensitivity_max(hrcam, x, 1, radius=0.5)
        near = sensitivity_max(hrcam, x, 1, radius=1e-3)
        assert (near > 0).all()
        assert (near < far).all()
        assert infidelity(hrcam.forward_func, x, hrcam.attribute(x, 1), 1).shape == (4,)

    def test_options_of_infidelity_are_refused(self):
        for samples in (0, 1):  # one is no test of a map that is scaled by it
            refused(infidelity, ValueError, f"samples: got {samples}", samples=samples)
        refused(infidelity, ValueError, "noise: got 0", noise=0)

    def test_bad_input_of_sensitivity_is_refused(self):
        x, _ = batch((6, 7))
        with pytest.raises(TypeError, match="expected a Captum attribution"):
            sensitivity_max("Saliency", x, 1)
        for options in ({"radius": 0}, {"samples": 0}):
            with pytest.raises(ValueError, match=f"{next(iter(options))}: got 0"):
                sensitivity_max(lambda inputs, **_: inputs, x, 1, **options)
