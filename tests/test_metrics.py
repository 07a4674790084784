from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dsd.errors import UserError
from dsd.evaluate.bootstrap import bootstrap
from dsd.evaluate.metrics.copying import copy_score
from dsd.evaluate.metrics.diversity import diversity
from dsd.evaluate.metrics.likeness import likeness
from dsd.scales import IdentityScale, follows_prompt


def unit(*shape: int, seed: int = 0, axis: int = -1) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=axis)


def test_an_interval_holds_the_mean_and_shrinks_with_more_subjects():
    few, many = [torch.randn(n, generator=torch.Generator().manual_seed(1)).tolist() for n in (16, 256)]
    small, large = bootstrap(few), bootstrap(many)
    assert small.low < small.mean < small.high
    assert large.high - large.low < (small.high - small.low) / 2


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for _ in range(100):
        estimate = bootstrap(torch.randn(64, generator=generator).tolist())
        covered += estimate.low <= 0 <= estimate.high
    assert 88 <= covered <= 100


def test_repeating_a_subjects_measurement_does_not_narrow_its_interval():
    values = torch.randn(20, generator=torch.Generator().manual_seed(3)).tolist()
    once = bootstrap(values)
    repeated = bootstrap([v for v in values for _ in range(5)], groups=[str(n) for n in range(20) for _ in range(5)])
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, rel=0.1)


def test_equal_input_gives_equal_intervals_and_none_is_an_error():
    assert bootstrap([0.1, 0.4, 0.3]) == bootstrap([0.1, 0.4, 0.3])
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_identity_is_0_for_strangers_and_1_for_the_true_individual():
    references = unit(8, 1, 16)
    same = F.normalize(references + 0.3 * unit(8, 4, 16, seed=1), dim=-1)
    strangers = unit(8, 4, 16, seed=2)
    scale = IdentityScale.of(list(references), list(same), list(strangers))

    def identity(pictures: torch.Tensor) -> torch.Tensor:
        return torch.stack([scale(one, of_one) for one, of_one in zip(references, pictures, strict=True)])

    assert identity(strangers).mean().item() == pytest.approx(0, abs=1e-6)
    assert identity(same).mean().item() == pytest.approx(1, abs=1e-6)
    assert identity(references).min() > identity(same).mean()


def test_an_encoder_that_cannot_tell_individuals_apart_is_an_error():
    features = list(unit(4, 1, 8))
    with pytest.raises(UserError, match="similar"):
        IdentityScale.of(features, [-feature for feature in features], features)


def test_a_prompt_is_followed_only_when_it_scores_above_every_distractor():
    pictures = torch.eye(3)
    sentences = torch.stack([torch.eye(3).roll(-n, 0) for n in range(3)])
    assert follows_prompt(pictures, sentences).all()
    tied = sentences.clone()
    tied[1, 2] = tied[1, 0]
    assert follows_prompt(pictures, tied).tolist() == [True, False, True]


def test_equal_pictures_are_fully_alike_and_not_diverse():
    levels = [unit(5, 8, 9, axis=1), unit(5, 4, 4, axis=1)]
    assert torch.allclose(likeness(levels, levels), torch.ones(5))
    same = [level[:, None].expand(-1, 3, -1, -1) for level in levels]
    assert torch.allclose(diversity(same), torch.zeros(5), atol=1e-6)
    other = [unit(5, 3, 8, 9, axis=2), unit(5, 3, 4, 4, axis=2)]
    assert diversity(other).min() > 0.2


def test_diversity_does_not_depend_on_the_order_of_pictures():
    levels = [unit(4, 3, 8, 9, axis=2)]
    assert torch.allclose(diversity(levels), diversity([level.flip(1) for level in levels]))


def test_the_copy_score_is_0_for_the_truth_and_1_for_the_reference():
    truth = torch.tensor([[0.5, 0.6], [0.4, 0.7]])
    room = 1 - truth.mean()
    assert torch.allclose(copy_score(truth, truth, room), torch.zeros(2, 2))
    assert copy_score(torch.ones(2, 2), truth, room).mean().item() == pytest.approx(1)
    assert (copy_score(truth - 0.1, truth, room) < 0).all()
