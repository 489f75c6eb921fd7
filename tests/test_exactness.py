"""The engine's shortcuts change nothing: features and gradients against `slow_clip`, and against open_clip's own.

Everything is compared norm-wise in float64, to 1e-10; in fp32 (against the reference in float64) features to 1e-5 and
gradients to 1e-3, per factor.
"""

from __future__ import annotations

import copy
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import open_clip
import pytest
import slow_clip
import torch
from conftest import tiny_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmlop import backbone as backbones
from mmlop.backbone import Backbone, wrap
from mmlop.encode import Packing, encode_image, encode_text
from mmlop.errors import MmlopError
from mmlop.features import CHUNK, frozen_text, image_features, prompted_text, prompted_tokens
from mmlop.losses import Consistency, correct_drift, loss_terms, unit
from mmlop.prompts import Factors, compose

# A token each, known to mini-CLIP too.
WORDS = ["cat", "tree", "king", "red", "blue", "ring", "x", "sun", "star", "two", "left", "large"]
WRITTEN = ("Boeing 747-400", "café", "a very long name for a class of small furry animals")  # several tokens a word
TEMPLATES = ("a photo of a {}.", "a small {}.", "the {}.")
SHORTCUTS = (slow_clip.PREFIX, slow_clip.PADDING, slow_clip.LAST_BLOCK)

small = pytest.mark.parametrize("exact", ["tiny", "mini"], indirect=True)
big = pytest.mark.parametrize(
    "exact", ["ViT-B-16-quickgelu", pytest.param("ViT-L-14", marks=pytest.mark.slow)], indirect=True
)


def untrained(architecture: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = open_clip.create_model(architecture, pretrained=None)
        for name, weight in model.named_parameters():  # as in `tiny_clip`: biases and norms must matter
            if name.endswith("bias") or ".ln_" in name:
                nn.init.normal_(weight, mean=1.0 if name.endswith("weight") else 0.0, std=0.1)
    return model


@pytest.fixture(scope="module")
def exact(request: pytest.FixtureRequest) -> Backbone:
    """A backbone in float64."""
    name: str = request.param
    if name == "mini":
        backbone = backbones.load("mini")
    else:
        backbone = wrap(tiny_clip() if name == "tiny" else untrained(name), name, "random")
    backbone.model.double()
    return backbone


@contextmanager
def in_fp32(backbone: Backbone) -> Iterator[Backbone]:
    """The weights were made in fp32, so that nothing is lost on the way there and back."""
    backbone.model.float()
    try:
        yield backbone
    finally:
        backbone.model.double()


# What is encoded, and what comes of it


@dataclass(frozen=True)
class Case:
    names: tuple[str, ...]
    depth: int
    tokens: int
    rank: int
    shared: bool = True
    sets: int | None = None  # so many prompt sets, one per picture; None is one for all
    seed: int = 0

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def factors(self, backbone: Backbone) -> Factors:
        """Leaves large enough that prompts matter: several times the size of a token's embedding."""
        sets = () if self.sets is None else (self.sets,)
        generator = self.generator

        def leaf(*shape: int, std: float) -> Tensor:
            drawn = torch.randn(*sets, self.depth, *shape, generator=generator, dtype=torch.float64)
            return (drawn * std).requires_grad_()

        ups = ("U",) if self.shared else ("U_vision", "U_text")
        downs = {"V_vision": backbone.vision_width, "V_text": backbone.text_width}
        return {up: leaf(self.tokens, self.rank, std=1.0) for up in ups} | {
            down: leaf(self.rank, width, std=0.1) for down, width in downs.items()
        }

    def pictures(self, backbone: Backbone) -> Tensor:
        side = backbone.preprocessing.size
        return torch.randn(self.sets or 2, 3, side, side, generator=self.generator, dtype=torch.float64)


Encode = Callable[[Backbone, Case, str, Tensor], Tensor]


def engine(backbone: Backbone, case: Case, side: str, prompts: Tensor) -> Tensor:
    if side == "image":
        return encode_image(backbone, case.pictures(backbone), prompts)
    return encode_text(backbone, prompted_tokens(backbone, case.names, case.tokens), prompts)


def reference(backbone: Backbone, case: Case, side: str, prompts: Tensor, shortcut: str | None = None) -> Tensor:
    if side == "image":
        pictures = case.pictures(backbone)
        one_each = prompts if prompts.dim() == 4 else prompts.expand(len(pictures), -1, -1, -1)
        return slow_clip.encode_image(backbone, pictures, one_each, shortcut)
    tokens = padded(backbone, [f"{name}." for name in case.names], case.tokens)
    if prompts.dim() == 3:
        return slow_clip.encode_text(backbone, tokens, prompts, shortcut)
    return torch.stack([slow_clip.encode_text(backbone, tokens, one, shortcut) for one in prompts])


def padded(backbone: Backbone, texts: list[str], n: int = 0) -> Tensor:
    """Token rows [C, context] with n placeholders."""
    return slow_clip.with_placeholders(backbone.tokenize(texts, n), n, backbone.context_length)


def outcome(encode: Encode, backbone: Backbone, case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features of both encoders, and the gradient of a random function of them for every factor."""
    leaves, generator, features = case.factors(backbone), case.generator, {}
    for side in ("text", "image"):  # one after the other, the larger first: the least memory
        vision, text = compose(leaves)
        found = encode(backbone, case, side, text if side == "text" else vision)
        (found * torch.randn(found.shape, generator=generator, dtype=torch.float64)).sum().backward()
        features[side] = found.detach()
    return features, {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def close(found: Tensor, expected: Tensor, tolerance: float, scale: float = 0.0) -> bool:
    """Norm-wise; ``scale`` is what the two are compared with where they cancel to nearly nothing."""
    assert found.shape == expected.shape
    return bool((found - expected).norm() <= tolerance * max(expected.norm().item(), scale))


Outcome = tuple[dict[str, Tensor], dict[str, Tensor]]


def assert_same(found: Outcome, expected: Outcome, tolerance: float = 1e-10, gradients: float | None = None) -> None:
    for side, value in expected[0].items():
        assert close(found[0][side], value, tolerance), side
    # Behind a norm the size of a prompt does not matter, so that for n = r = 1 the gradient of U can vanish.
    largest = max(gradient.norm().item() for gradient in expected[1].values())
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert close(found[1][name], value, gradients or tolerance, scale=1e-3 * largest), name


def class_names(longest: int) -> st.SearchStrategy[tuple[str, ...]]:
    """One to eight names, of one word (which is one token) up to ``longest`` words; mostly short."""
    short = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)
    long = st.integers(1, longest).flatmap(lambda n: st.lists(st.sampled_from(WORDS), min_size=n, max_size=n))
    return st.lists(st.one_of(short, short, long).map(" ".join), min_size=1, max_size=8).map(tuple)


@st.composite
def cases(draw: st.DrawFn, backbone: Backbone) -> Case:
    tokens = draw(st.integers(1, 8))
    return Case(
        names=draw(class_names(backbone.context_length - tokens - 3)),  # SOS, full stop, EOT
        depth=draw(st.integers(1, min(backbone.vision_layers, backbone.text_layers))),
        tokens=tokens,
        rank=draw(st.integers(1, min(tokens, 4))),
        shared=draw(st.booleans()),
        sets=draw(st.none() | st.integers(1, 3)),
        seed=draw(st.integers(0, 2**31)),
    )


def many_names(count: int) -> tuple[str, ...]:
    """Lengths as in ImageNet: most short, the longest 13 words."""
    rng = random.Random(count)
    return tuple(" ".join(rng.choices(WORDS, k=min(13, 1 + int(rng.expovariate(0.4))))) for _ in range(count))


# All shortcuts together


@small
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_features_and_gradients_equal_the_slow_reference(exact: Backbone, data: st.DataObject) -> None:
    case = data.draw(cases(exact))
    assert_same(outcome(engine, exact, case), outcome(reference, exact, case))


@small
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_so_they_do_for_one_class_and_for_a_thousand(exact: Backbone, count: int) -> None:
    case = Case(many_names(count), min(exact.vision_layers, exact.text_layers), tokens=4, rank=2)
    expected = outcome(reference, exact, case)
    assert_same(outcome(engine, exact, case), expected)
    with in_fp32(exact) as rough:
        assert_same(outcome(engine, rough, case), expected, 1e-5, gradients=1e-3)


TWENTY = Case(many_names(17) + WRITTEN, depth=12, tokens=4, rank=1, sets=1)
TWO = Case((" ".join(WORDS), "x"), depth=1, tokens=8, rank=4, shared=False, sets=1)


@pytest.mark.parametrize(
    ("exact", "case"),
    [
        pytest.param("ViT-B-16-quickgelu", TWENTY, id="ViT-B-16, 20 classes, depth 12"),
        pytest.param("ViT-B-16-quickgelu", TWO, id="ViT-B-16, 2 classes, depth 1", marks=pytest.mark.slow),
        pytest.param("ViT-L-14", TWENTY, id="ViT-L-14, 20 classes, depth 12", marks=pytest.mark.slow),
    ],
    indirect=["exact"],
)
def test_so_they_do_for_architectures_in_use(exact: Backbone, case: Case) -> None:
    expected = outcome(reference, exact, case)
    assert_same(outcome(engine, exact, case), expected)
    with in_fp32(exact) as rough:
        assert_same(outcome(engine, rough, case), expected, 1e-5, gradients=1e-3)


def assert_open_clips_own(backbone: Backbone, names: tuple[str, ...], tolerance: float) -> None:
    """Without prompts, and with prompts of no tokens: one set, and two."""
    pictures = Case(names, depth=1, tokens=0, rank=0).pictures(backbone)
    texts = [f"{name}." for name in names]
    with torch.no_grad():
        images = backbone.model.encode_image(pictures.to(backbone.visual.proj.dtype))  # type: ignore[operator]
        classes = backbone.model.encode_text(padded(backbone, texts))  # type: ignore[operator]
        vision, text = torch.zeros(1, 0, backbone.vision_width), torch.zeros(1, 0, backbone.text_width)
        for prompts in (None, vision, vision.expand(2, -1, -1, -1)):
            assert close(encode_image(backbone, pictures, prompts), images, tolerance)
        for prompts in (None, text):
            assert close(encode_text(backbone, backbone.tokenize(texts), prompts), classes, tolerance)
        several = encode_text(backbone, backbone.tokenize(texts), text.expand(2, -1, -1, -1))
        assert close(several, torch.stack([classes, classes]), tolerance)


@small
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_without_prompts_they_are_open_clips_own(exact: Backbone, data: st.DataObject) -> None:
    names = data.draw(class_names(exact.context_length - 3))
    assert_open_clips_own(exact, names, 1e-10)
    with in_fp32(exact) as rough:
        assert_open_clips_own(rough, names, 1e-5)


@big
def test_without_prompts_architectures_in_use_are_open_clips_own(exact: Backbone) -> None:
    assert_open_clips_own(exact, WRITTEN, 1e-10)


@small
@pytest.mark.parametrize("n", [0, 1, 8])
def test_a_name_may_fill_the_context_and_no_more(exact: Backbone, n: int) -> None:
    fits = " ".join(["cat"] * (exact.context_length - n - 3))  # SOS, full stop, EOT
    case = Case(("x", fits), depth=1, tokens=n, rank=min(n, 1))
    prompts = compose(case.factors(exact))[1]
    assert close(engine(exact, case, "text", prompts), reference(exact, case, "text", prompts), 1e-10)
    with pytest.raises(MmlopError, match=f"'{fits} cat.' has .* and {n} prompt tokens .* shorten the class name"):
        prompted_tokens(exact, ["x", f"{fits} cat", "king"], n)


@small
def test_the_whole_loss_and_its_gradients_equal_the_slow_reference(exact: Backbone) -> None:
    case = Case(("cat", "red_tree", "large blue ring", "x"), depth=2, tokens=4, rank=2, sets=None, seed=3)
    weights, labels = Consistency(text=25, image=10, logits=1), torch.tensor([2, 0])
    pictures = case.pictures(exact)

    def terms(leaves: Factors, fast: bool) -> dict[str, Tensor]:
        vision, text = compose(leaves)
        if fast:
            image, frozen = unit(engine(exact, case, "image", vision)), unit(encode_image(exact, pictures))
            anchors = frozen_text(exact, case.names, TEMPLATES)
            classes = prompted_text(exact, prompted_tokens(exact, case.names, case.tokens), text, anchors)
        else:
            spoken = replace(case, names=tuple(name.replace("_", " ") for name in case.names))
            image = unit(reference(exact, spoken, "image", vision))
            frozen = unit(exact.model.encode_image(pictures))  # type: ignore[operator]
            anchors = slow_anchors(exact, spoken.names, TEMPLATES)
            classes = correct_drift(unit(reference(exact, spoken, "text", text)), anchors)
        return loss_terms(image, classes, frozen, anchors, labels, exact.logit_scale, weights)

    results: list[Outcome] = []
    for fast in (True, False):
        leaves = case.factors(exact)
        found = terms(leaves, fast)
        gradients = torch.autograd.grad(found["loss"], list(leaves.values()))
        results.append((found, dict(zip(leaves, gradients, strict=True))))
    assert_same(results[0], results[1])


# Each shortcut by itself


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@small
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_each_shortcut_alone_changes_nothing(exact: Backbone, shortcut: str, data: st.DataObject) -> None:
    """Taken by the slow reference, everything else still done the long way."""

    def shortened(backbone: Backbone, case: Case, side: str, prompts: Tensor) -> Tensor:
        return reference(backbone, case, side, prompts, shortcut)

    case = data.draw(cases(exact))
    assert_same(outcome(shortened, exact, case), outcome(reference, exact, case))


@small
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_prefix_sharing_undone_by_encoding_each_class_by_itself(exact: Backbone, data: st.DataObject) -> None:
    """Also the permutation property: neither the features nor the gradients of a class depend on who is packed with it,
    how many they are, or in which order."""
    case = data.draw(cases(exact))
    order = data.draw(st.permutations(range(len(case.names))))
    text = compose(case.factors(exact))[1].detach().requires_grad_()
    weigh = torch.randn(len(case.names), exact.embed_dim, generator=case.generator, dtype=torch.float64)

    def of(chosen: list[int], counted: list[int]) -> tuple[Tensor, Tensor]:
        """Features of the chosen classes, and the gradient for the prompts from those of them that are counted."""
        features = engine(exact, replace(case, names=tuple(case.names[c] for c in chosen)), "text", text)
        weights = torch.stack([weigh[c] * (c in counted) for c in chosen])
        return features, torch.autograd.grad((features * weights).sum(), text)[0]

    everyone = list(range(len(case.names)))
    features, gradient = of(everyone, everyone)
    permuted, gradient_permuted = of(order, everyone)
    assert close(permuted, features[..., order, :], 1e-10)
    assert close(gradient_permuted, gradient, 1e-10)
    alone = [of([c], [c]) for c in everyone]
    assert close(torch.cat([one for one, _ in alone], dim=-2), features, 1e-10)
    assert close(torch.stack([one for _, one in alone]).sum(dim=0), gradient, 1e-10)
    last = everyone[-1]
    assert close(of(everyone, [last])[1], alone[last][1], 1e-10)


@small
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_what_follows_eot_reaches_nothing(exact: Backbone, data: st.DataObject) -> None:
    case = data.draw(cases(exact))
    text = compose(case.factors(exact))[1]
    tokens = prompted_tokens(exact, case.names, case.tokens)
    rows = nn.functional.pad(tokens, (0, exact.context_length - case.tokens - tokens.shape[1]))
    behind = torch.arange(rows.shape[1]) > rows.argmax(dim=1, keepdim=True)
    noise = torch.randint(1, 49406, rows.shape, generator=case.generator)  # below SOS and EOT
    noisy = torch.where(behind, noise, rows)
    assert torch.equal(encode_text(exact, noisy, text), encode_text(exact, tokens, text))
    if case.sets is None:  # nor in the reference, which does compute it
        placed = slow_clip.with_placeholders(noisy, case.tokens, exact.context_length)
        assert close(slow_clip.encode_text(exact, placed, text), reference(exact, case, "text", text), 1e-12)


@small
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_last_block_undone_by_an_idle_block_behind_it(exact: Backbone, data: st.DataObject) -> None:
    """Behind a block that adds nothing, the real last block has every row to compute."""
    model = copy.deepcopy(exact.model)
    longer = replace(exact, model=model)
    for blocks in (longer.visual.transformer.resblocks, longer.text.transformer.resblocks):
        idle = copy.deepcopy(blocks[-1])
        for projection in (idle.attn.out_proj, idle.mlp.c_proj):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
        blocks.append(idle)
    case = data.draw(cases(exact))
    assert_same(outcome(engine, exact, case), outcome(engine, longer, case))


@small
def test_prompt_sets_do_not_mix(exact: Backbone) -> None:
    """One set per picture and several for the text, each as if it were the only one."""
    case = Case(many_names(5), depth=2, tokens=4, rank=2, sets=3)
    vision, text = compose(case.factors(exact))
    pictures, tokens = case.pictures(exact), prompted_tokens(exact, case.names, case.tokens)
    images, classes = encode_image(exact, pictures, vision), encode_text(exact, tokens, text)
    for one in range(3):
        assert close(images[one], encode_image(exact, pictures[one : one + 1], vision[one])[0], 1e-12)
        assert close(classes[one], encode_text(exact, tokens, text[one]), 1e-12)


@small
def test_a_packing_made_once_serves_every_step(exact: Backbone) -> None:
    names = many_names(5)
    tokens = prompted_tokens(exact, names, 4)
    packing = Packing(tokens, 4)
    for depth, sets in ((2, None), (1, 3), (2, None)):
        text = compose(Case(names, depth, tokens=4, rank=2, sets=sets).factors(exact))[1]
        assert torch.equal(encode_text(exact, packing, text), encode_text(exact, tokens, text))


# Frozen once


@torch.no_grad()
def slow_anchors(backbone: Backbone, names: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
    """Each text by itself, through open_clip's own encoder."""
    rows = []
    for name in names:
        texts = [template.replace("{}", name.replace("_", " ")) for template in templates]
        each = [unit(backbone.model.encode_text(padded(backbone, [text]))) for text in texts]  # type: ignore[operator]
        rows.append(unit(torch.cat(each).mean(dim=0)))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def look_alikes() -> list[Backbone]:
    """The same name and label, but other weights, and the first weights again in fp32."""
    alike = [wrap(tiny_clip(seed), "tiny", "random") for seed in (0, 1, 0)]
    for backbone in alike[:2]:
        backbone.model.double()
    return alike


calls = st.tuples(
    st.integers(0, 2),
    st.lists(st.sampled_from(["cat", "red", "red cat", "red_cat", "cat.", "a cat"]), min_size=1, max_size=4).map(tuple),
    st.sampled_from([("{}.",), ("a {}.",), ("a {}.", "{}."), ("{}.", "a {}."), ("a {}.{}.",), ("a {}.", "a {}.", "{}.")]),
)


@settings(max_examples=25, deadline=None)
@given(asked=st.lists(calls, min_size=2, max_size=8))
def test_frozen_text_is_what_computing_it_again_gives(
    look_alikes: list[Backbone], asked: list[tuple[int, tuple[str, ...], tuple[str, ...]]]
) -> None:
    """Whatever was asked before, of whichever backbone."""
    fresh = [replace(backbone) for backbone in look_alikes]  # nothing known of them yet
    for which, names, templates in asked:
        found = frozen_text(fresh[which], names, templates)
        assert torch.equal(found, frozen_text(fresh[which], names, templates))
        assert close(found.double(), slow_anchors(fresh[which], names, templates).double(), 1e-6 if which == 2 else 1e-10)
        found.zero_()  # the answer is the caller's own


def test_frozen_text_crosses_the_limits_of_a_forward_pass(look_alikes: list[Backbone]) -> None:
    names = tuple(f"{word} {number}" for word in WORDS for number in range(10)) + WRITTEN
    assert len(names) * len(TEMPLATES) > CHUNK
    found = frozen_text(replace(look_alikes[0]), names, TEMPLATES)
    assert close(found, slow_anchors(look_alikes[0], names, TEMPLATES), 1e-10)


def test_frozen_text_of_a_backbone_goes_with_it() -> None:
    """A later backbone may come to lie where an earlier one was; it inherits nothing, and nothing is kept alive."""
    gone = []
    for seed in range(4):
        backbone = wrap(tiny_clip(seed), "tiny", "random")
        assert close(frozen_text(backbone, ["cat"], TEMPLATES), slow_anchors(backbone, ("cat",), TEMPLATES), 1e-6)
        gone.append(weakref.ref(backbone))
        del backbone
    assert all(reference() is None for reference in gone)


def test_frozen_image_features_are_those_of_each_view_by_itself(look_alikes: list[Backbone]) -> None:
    backbone = look_alikes[0]
    views = torch.randint(0, 256, (CHUNK + 3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    together = image_features(backbone, views)
    for one in (0, 1, CHUNK - 1, CHUNK, CHUNK + 2):
        alone = unit(backbone.model.encode_image(backbone.normalise(views[one : one + 1]).double()))  # type: ignore[operator]
        assert close(together[one : one + 1], alone, 1e-10)
