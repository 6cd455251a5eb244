"""ECMVAE's losses on latents against torch's distributions, numerical integrals and slow sums."""

import math

import pytest
import torch
from torch.distributions import Independent, kl_divergence
from torch.distributions import Normal as TorchNormal

from avsmamba.models.baselines import ECMVAELoss
from avsmamba.models.baselines.ecmvae_losses import Gaussian, Latents, Normal, difference, js_divergence

D, N, LABELLED = 4, 6, [1, 4, 5]


def latents(count):
    distribution = Gaussian(*torch.randn(2, count, 3, D, dtype=torch.float64))
    samples = distribution.sample(torch.randn(count, 3, D, dtype=torch.float64))
    return Latents(distribution, samples, torch.randn(count, 2, D, dtype=torch.float64))


def expected_losses(loss, prior, posterior, factor):
    """Compute all losses frame by frame, with torch's distributions."""

    def normal(latents, n, i):
        mean, log_variance = (x[n, i] for x in latents.distribution)
        return Independent(TorchNormal(mean, (factor * log_variance).exp()), 1)

    kl = js = 0.0
    for m, n in enumerate(LABELLED):
        kl += sum(kl_divergence(normal(posterior, m, i), normal(prior, n, i)) for i in (0, 1))
        q, p = normal(posterior, m, 2), normal(prior, n, 2)
        for own, z in ((q, posterior.samples[m, 2]), (p, prior.samples[n, 2])):
            mixture = 0.5 * (q.log_prob(z).exp() + p.log_prob(z).exp())
            js += 0.5 * (own.log_prob(z) - mixture.log())
    information = total = 0.0
    for part in (prior, posterior):
        for s_v, s_a in part.joined:
            seen, heard = (loss.visual.weight @ s_v + loss.visual.bias).tanh(), loss.audio(s_a).tanh()
            for k in range(len(heard)):
                information -= (seen[k] - heard[k]) ** 2 / (2 * seen[len(heard) + k].exp()) / len(part.joined)
        for i in (0, 1):
            total += slow_difference(part.samples[:, i], part.samples[:, 2])
    count = len(LABELLED)
    return {
        "loss_kl": 0.01 * kl / count,
        "loss_js": 0.01 * js / count,
        "loss_mi": -0.001 * information,
        "loss_difference": 0.001 * total,
    }


def slow_difference(first, second):
    a, b = (z - z.mean(0) for z in (first, second))
    total = 0.0
    for i in range(D):
        for j in range(D):
            product = sum(a[n, i] / a[n].norm() * b[n, j] / b[n].norm() for n in range(len(a)))
            total += product**2 / D**2
    return total


@pytest.mark.parametrize(("scale", "factor"), [("intended", 0.5), ("released", 1.0)])
def test_losses_equal_their_definitions(scale, factor):
    loss = ECMVAELoss(D, 3, scale=scale).double()
    prior, posterior = latents(N), latents(len(LABELLED))
    found = loss(prior, posterior, torch.tensor(LABELLED))
    expected = expected_losses(loss, prior, posterior, factor)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=0, msg=name)


def test_js_estimate_has_the_divergence_as_its_mean():
    """Of one number: against a Riemann sum; equal distributions have 0, distant ones ln 2."""
    q, p = (Normal(*(torch.tensor([x], dtype=torch.float64) for x in pair)) for pair in ((0.3, -0.5), (-0.8, 0.2)))
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)[:, None]
    a, b = q.log_density(x).exp(), p.log_density(x).exp()
    m = (a + b) / 2
    exact = 0.5 * torch.special.xlogy(a, a / m).sum() + 0.5 * torch.special.xlogy(b, b / m).sum()
    exact = exact * (x[1, 0] - x[0, 0])
    z_q, z_p = (n.mean + n.log_std.exp() * torch.randn(40000, 1, dtype=torch.float64) for n in (q, p))
    assert js_divergence(q, p, z_q, z_p).mean() == pytest.approx(exact.item(), abs=0.005)
    assert js_divergence(q, q, z_q, z_q).abs().max() < 1e-15
    far = Normal(q.mean + 1e3, q.log_std)
    assert js_divergence(q, far, z_q, z_q + 1e3).mean() == pytest.approx(math.log(2))


def test_difference_is_zero_of_orthogonal_latents_and_has_no_gradient_through_the_norms():
    first, second = torch.zeros(4, 2), torch.zeros(4, 2)
    first[:, 0], second[:, 1] = torch.tensor([1.0, -1, 1, -1]), torch.tensor([1.0, 1, -1, -1])
    # So large that the norms' 1e-6 vanishes: the rows have exactly 1 or -1, whose sums have no order.
    first, second = 2**20 * first, 2**20 * second
    assert difference(first, second) == 0 and difference(first, first) == 4
    z = torch.randn(5, 3, requires_grad=True)
    other = torch.randn(5, 3)
    difference(z, other).backward()
    # Scaling the centred rows changes nothing, so only without the norms' gradient is this derivative not 0.
    centred = z.detach() - z.detach().mean(0)
    assert (z.grad * centred).sum().abs() > 1e-3
    assert difference(torch.randn(1, 3), torch.randn(1, 3)) == 0


def test_descent_raises_the_mutual_information():
    loss = ECMVAELoss(D, mi_weight=1.0, latent_weight=0.0, difference_weight=0.0).double()
    prior, posterior = latents(N), latents(len(LABELLED))
    before = loss.information(prior.joined)
    assert before < 0
    optimizer = torch.optim.SGD(loss.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        sum(loss(prior, posterior, torch.tensor(LABELLED)).values()).backward()
        optimizer.step()
    assert loss.information(prior.joined) > before


def test_wrong_arguments():
    with pytest.raises(ValueError, match="scale: expected one of"):
        ECMVAELoss(scale="half")
    with pytest.raises(ValueError, match="mi_weight: expected at least 0"):
        ECMVAELoss(mi_weight=-1)
