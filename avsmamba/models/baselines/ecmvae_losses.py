"""ECMVAE's Gaussians, and the losses on its latents: divergences, mutual information, difference."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_0, counts, limits, one_of
from avsmamba.models.batch import at
from avsmamba.registry import MODELS

VISUAL, AUDIO, SHARED = 0, 1, 2  # the latents' order in every tensor here


def single(x: Tensor) -> Tensor:
    """Return autocast's numbers of 16 bits as float32, others unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Gaussian(NamedTuple):
    """Normal distributions of independent numbers: `mean` and `log_variance`, both `(..., d)`."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return the sample of standard normal `noise` `(..., d)`."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


class Latents(NamedTuple):
    """The latents of N frames.

    Attributes:
        distribution: of z_v, z_a and z_c, `(N, 3, d)`.
        samples: `(N, 3, d)`.
        joined: s_v and s_a, `(N, 2, d)`.
    """

    distribution: Gaussian
    samples: Tensor
    joined: Tensor


class Normal(NamedTuple):
    """Mean and logarithm of the standard deviation, both `(..., d)`."""

    mean: Tensor
    log_std: Tensor

    def log_density(self, z: Tensor) -> Tensor:
        """Return the logarithm of the joint density `(...,)` of d numbers."""
        scaled = (z - self.mean) * (-self.log_std).exp()
        return -(0.5 * scaled.square() + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


def kl_divergence(q: Normal, p: Normal) -> Tensor:
    """Return KL(q || p), `(...,)`, the sum over the d numbers."""
    ratio = (2 * (q.log_std - p.log_std)).exp()
    distance = (q.mean - p.mean).square() * (-2 * p.log_std).exp()
    return (0.5 * (ratio + distance - 1) + p.log_std - q.log_std).sum(-1)


def js_divergence(q: Normal, p: Normal, z_q: Tensor, z_p: Tensor) -> Tensor:
    """Estimate the Jensen-Shannon divergence `(...,)` from one sample of each distribution, `(..., d)`.

    Half of log q - log m at q's sample plus half of log p - log m at p's, with m the mixture of both.
    """

    def above_mixture(own: Normal, other: Normal, z: Tensor) -> Tensor:
        density = own.log_density(z)
        return density - torch.logaddexp(density, other.log_density(z)) + math.log(2)

    return 0.5 * (above_mixture(q, p, z_q) + above_mixture(p, q, z_p))


def difference(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean square of the product `(d, d)` of two latents over N frames, 0 where they are orthogonal.

    As in domain separation networks (Bousmalis et al., 2016): each latent `(N, d)` is centred over the frames, then its
    rows are divided by their norms, through which there is no gradient.
    """

    def rows(z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        return centred / (centred.detach().norm(dim=1, keepdim=True) + 1e-6)

    return single(rows(first).T @ rows(second)).square().mean()


@MODELS.register_module()
class ECMVAELoss(nn.Module):
    """ECMVAE's losses on latents: KL and JS divergence of posterior and prior, mutual information, difference.

    KL(q || p) of z_v and z_a and JS(q, p) of z_c, of the labelled frames, summed over the d numbers. The mutual
    information of s_v and s_a has the lower bound -(mu - m)^2 / (2 exp(logvar)), summed over `mi_dims` numbers, with mu
    and logvar = tanh(Linear(s_v)) and m = tanh(Linear(s_a)); it is maximised, of prior and posterior. `difference`
    separates z_c from z_v and from z_a, in prior and posterior. All are means over frames but the last, whose sum over
    the frames of a batch is squared.

    Args:
        dims: d.
        mi_dims: numbers that are compared for the mutual information.
        latent_weight: of the KL and JS divergences.
        mi_weight: of the mutual information.
        difference_weight: of the difference.
        scale: standard deviation in the divergences, 'intended' (exp(logvar / 2), that of the samples) or 'released'
            (exp(logvar), the public code).
    """

    @limits(
        **counts("dims", "mi_dims"),
        **dict.fromkeys(("latent_weight", "mi_weight", "difference_weight"), AT_LEAST_0),
        scale=one_of(("intended", "released")),
    )
    def __init__(
        self,
        dims: int = 16,
        mi_dims: int = 6,
        latent_weight: float = 0.01,
        mi_weight: float = 0.001,
        difference_weight: float = 0.001,
        scale: str = "intended",
    ):
        super().__init__()
        self.latent_weight, self.mi_weight, self.difference_weight = latent_weight, mi_weight, difference_weight
        self.factor = 0.5 if scale == "intended" else 1.0
        self.visual, self.audio = nn.Linear(dims, 2 * mi_dims), nn.Linear(dims, mi_dims)

    def forward(self, prior: Latents, posterior: Latents, labelled: Tensor) -> dict[str, Tensor]:
        """Compute the losses by name.

        Args:
            prior: of N frames.
            posterior: of the M labelled ones among them, at least one.
            labelled: their M indices, on the CPU.
        """
        q, z_q = self.normal(posterior.distribution), posterior.samples
        p, z_p = Normal(*(at(labelled, x) for x in self.normal(prior.distribution))), at(labelled, prior.samples)

        def of(normal: Normal, latent: int) -> Normal:
            return Normal(normal.mean[:, latent], normal.log_std[:, latent])

        kl = sum(kl_divergence(of(q, i), of(p, i)).mean() for i in (VISUAL, AUDIO))
        js = js_divergence(of(q, SHARED), of(p, SHARED), z_q[:, SHARED], z_p[:, SHARED]).mean()
        apart = [difference(z[:, i], z[:, SHARED]) for z in (prior.samples, z_q) for i in (VISUAL, AUDIO)]
        information = self.information(prior.joined) + self.information(posterior.joined)
        return {
            "loss_kl": self.latent_weight * kl,
            "loss_js": self.latent_weight * js,
            "loss_mi": -self.mi_weight * information,
            "loss_difference": self.difference_weight * torch.stack(apart).sum(),
        }

    def normal(self, distribution: Gaussian) -> Normal:
        """Return mean and standard deviation as the divergences read them."""
        return Normal(distribution.mean, self.factor * distribution.log_variance)

    def information(self, joined: Tensor) -> Tensor:
        """Return the lower bound of the mutual information of s_v and s_a, `(N, 2, d)`; at most 0."""
        mean, log_variance = single(self.visual(joined[:, VISUAL])).tanh().chunk(2, -1)
        heard = single(self.audio(joined[:, AUDIO])).tanh()
        return -0.5 * ((mean - heard).square() * (-log_variance).exp()).sum(-1).mean()
