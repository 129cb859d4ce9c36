"""The Stable Diffusion policy: the same pictures as stock diffusers, exact replay, loadable results."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from ddpo.config import parse_config
from ddpo.core.kernel import ddim
from ddpo.core.minibatches import shuffled_pairs
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import denoising_step, replay, rollout
from ddpo.core.trajectory import Pairs
from ddpo.evaluation.sampling import draw, draw_to_files, sampling_config
from ddpo.policies import PolicySettings
from ddpo.policies.loading import ModelSource
from ddpo.policies.lora import LoRA
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.runtime.errors import ConfigError, ModelError
from ddpo.training.run import train

CAT, DOG = Prompt("a cat"), Prompt("a dog")
PROMPTS = [CAT, DOG, CAT]


def load(folder, **settings):
    settings = PolicySettings(**({"kernel": partial(ddim, steps=4), "guidance_scale": 3.0} | settings))
    return StableDiffusionPolicy.from_source(ModelSource(name=str(folder)), settings)


def every_pair(trajectory):
    B, L = trajectory.log_prob_BL.shape
    samples, steps = torch.arange(B).repeat_interleave(L), torch.arange(L).repeat(B)
    return Pairs(trajectory, samples, steps, torch.zeros(B))


def stock_pictures(pipeline, prompts, seeds, *, steps=4, guidance_scale=3.0):
    """Return what diffusers itself draws, each picture with a CPU generator of its own, `(B, H, W, 3)` in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    pictures = [
        pipeline(
            prompt.text,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            eta=1.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return np.stack(pictures)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", [{}, {"prediction_type": "v_prediction", "set_alpha_to_one": True}])
def test_draws_the_pictures_of_stock_diffusers(tiny_pipeline, guidance_scale, scheduler):
    folder, seeds = tiny_pipeline(**scheduler), [3, 4, 5]
    ours = draw(load(folder, guidance_scale=guidance_scale), PROMPTS, seeds, batch_size=2)
    stock = StableDiffusionPipeline.from_pretrained(folder)
    theirs = stock_pictures(stock, PROMPTS, seeds, guidance_scale=guidance_scale)
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=2e-5)


def test_an_sd14_style_pndm_scheduler_is_sampled_as_ddim(tmp_path):
    from diffusers import PNDMScheduler
    from tiny_pipeline import build_pipeline

    pipeline = build_pipeline()
    pipeline.scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline.save_pretrained(tmp_path)
    ours = draw(load(tmp_path), PROMPTS, [0, 1, 2], batch_size=3)
    stock = StableDiffusionPipeline.from_pretrained(tmp_path)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config, clip_sample=False)
    theirs = stock_pictures(stock, PROMPTS, [0, 1, 2])
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=2e-5)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("cfg_training", [True, False])
def test_replay_is_exact_before_the_first_update(tiny_pipeline, rank, precision, cfg_training):
    policy = load(tiny_pipeline(), lora=LoRA(rank=rank), precision=precision, cfg_training=cfg_training)
    trajectory = rollout(policy, policy.encode(PROMPTS), [0, 1, 2], batch_size=4)
    pairs = every_pair(trajectory)
    replayed = torch.cat([replay(policy, part).log_prob_N for part in pairs.split(4)])
    error = ((replayed - pairs.log_prob_N) / trajectory.dimensions).exp() - 1
    assert error.abs().max() <= 1e-5
    assert replayed.requires_grad


class TestGuidanceInterval:
    INTERVAL = (0.25, 0.5)  # of four steps the second alone

    def test_draws_the_pictures_of_stock_diffusers_with_a_changing_scale(self, tiny_pipeline):
        def rescale(pipeline, step, time, tensors):
            pipeline._guidance_scale = 3.0 if step + 1 == 1 else 1.0 + 1e-9  # 1 itself changes the number of rows
            return tensors

        folder = tiny_pipeline()
        ours = draw(load(folder, guidance_interval=self.INTERVAL), PROMPTS, [3, 4, 5], batch_size=2)
        stock = StableDiffusionPipeline.from_pretrained(folder)
        call = partial(stock, callback_on_step_end=rescale)
        call.set_progress_bar_config = stock.set_progress_bar_config
        theirs = stock_pictures(call, PROMPTS, [3, 4, 5], guidance_scale=1.0 + 1e-9)
        np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=2e-5)
        everywhere = draw(load(folder), PROMPTS, [3, 4, 5], batch_size=2)
        assert not torch.allclose(ours, everywhere, atol=1e-3)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_replay_is_exact_though_its_batches_mix_guided_and_other_steps(self, tiny_pipeline, precision):
        policy = load(tiny_pipeline(), guidance_interval=self.INTERVAL, precision=precision)
        trajectory = rollout(policy, policy.encode(PROMPTS), [0, 1, 2], batch_size=3)
        for pairs in every_pair(trajectory).split(3):
            assert torch.equal(replay(policy, pairs).log_prob_N, pairs.log_prob_N)

    def test_steps_outside_need_one_row_a_sample(self, tiny_pipeline):
        policy, rows = load(tiny_pipeline(), guidance_interval=self.INTERVAL), []
        policy.network.register_forward_pre_hook(lambda network, arguments: rows.append(len(arguments[0])))
        trajectory = rollout(policy, policy.encode(PROMPTS), [0, 1, 2], batch_size=3)
        assert rows == [3, 6, 3, 3]
        rows.clear()
        [minibatch] = shuffled_pairs(trajectory, torch.zeros(3), number=1, generator=torch.Generator())
        for pairs in minibatch.split(3):
            replay(policy, pairs)
        assert rows == [3, 6, 3, 3]  # pairs of one step lie together

    def test_noisier_times_than_the_first_step_are_guided_with_it(self, tiny_pipeline):
        # Regression trains at any time of the forward process, not at the sampler's steps alone.
        policy = load(tiny_pipeline(), guidance_interval=(0, 0.5))
        assert policy.kernel.time(torch.tensor([0])) < 999
        x, embeddings = torch.randn(2, *policy.sample_shape), policy.encode([CAT, CAT])
        noisy, clean = torch.full((2,), 999), torch.full((2,), 1)
        guided = load(tiny_pipeline()).predict(x, noisy, embeddings, guided=True)
        assert torch.equal(policy.predict(x, noisy, embeddings, guided=True), guided)
        alone = policy.predict(x, clean, embeddings, guided=False)
        assert torch.equal(policy.predict(x, clean, embeddings, guided=True), alone)

    def test_an_interval_without_a_step_is_refused(self, tiny_pipeline):
        with pytest.raises(ConfigError, match=r"guidance_interval: it holds none of the 4 steps; widen it"):
            load(tiny_pipeline(), guidance_interval=(0.51, 0.6))


def test_cfg_training_false_keeps_the_density_and_holds_the_unconditional_branch_fixed(tiny_pipeline):
    # guided = w cond + (1 - w) uncond: with the second term held fixed, the gradient is that of w cond alone.
    gradients = []
    for cfg_training in (True, False):
        policy = load(tiny_pipeline(), cfg_training=cfg_training)
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        denoising_step(policy, x, torch.tensor([0, 1]), policy.encode([CAT, DOG])).mean.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
        policy.pipeline.unet.zero_grad()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditional = load(tiny_pipeline(), guidance_scale=1.0)
    gaussian = denoising_step(conditional, x, torch.tensor([0, 1]), conditional.encode([CAT, DOG]))
    (3.0 * gaussian.mean).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in conditional.parameters()])
    torch.testing.assert_close(gradients[1], expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-2)


@pytest.mark.parametrize("cfg_training", [True, False])
def test_regression_trains_the_guided_prediction_or_the_conditional_one(tiny_pipeline, cfg_training):
    # eq. 5 with w = 3: 3 eps(x, c) - 2 eps(x); without CFG training eps(x, c) alone (G.1, Figure 8).
    policy = load(tiny_pipeline(), cfg_training=cfg_training)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep_B, prompts, guided = torch.tensor([700, 3]), [CAT, DOG], policy.trains_guidance
    policy.predict(x, timestep_B, policy.encode(prompts), guided=guided).square().mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    unet, conditioning = policy.pipeline.unet, policy.encode(prompts)
    unet.zero_grad()
    conditional = unet(x, timestep_B, conditioning["prompt"]).sample
    expected = conditional
    if cfg_training:
        expected = 3 * conditional - 2 * unet(x, timestep_B, conditioning["negative"]).sample
    torch.testing.assert_close(
        policy.predict(x, timestep_B, conditioning, guided=guided), expected, rtol=1e-4, atol=1e-5
    )
    expected.square().mean().backward()
    reference = torch.cat([p.grad.flatten() for p in policy.parameters()])
    torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_recomputes_and_changes_no_gradient(tiny_pipeline):
    gradients, passes = [], []
    for checkpointing in (False, True):
        policy = load(tiny_pipeline(), gradient_checkpointing=checkpointing)
        trajectory = rollout(policy, policy.encode(PROMPTS), [0, 1, 2], batch_size=3)
        count = []
        policy.pipeline.unet.mid_block.resnets[1].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        replay(policy, every_pair(trajectory)).log_prob_N.sum().backward()
        passes.append(len(count))
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    assert passes == [1, 2]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-3)


def test_only_the_unet_is_trained_and_lora_weights_are_float32(tiny_pipeline):
    full = load(tiny_pipeline())
    assert len(full.parameters()) == len(list(full.pipeline.unet.parameters()))
    adapter = load(tiny_pipeline(), lora=LoRA(rank=2), precision="bf16")
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    frozen = [p for p in adapter.pipeline.unet.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    for part in (full.pipeline.text_encoder, full.pipeline.vae):
        assert not any(p.requires_grad for p in part.parameters())


def test_each_distinct_prompt_is_encoded_once(tiny_pipeline, monkeypatch):
    policy = load(tiny_pipeline())
    calls = []
    encode_prompt = policy.pipeline.encode_prompt
    monkeypatch.setattr(
        policy.pipeline,
        "encode_prompt",
        lambda prompt, *a, **k: calls.append(prompt) or encode_prompt(prompt, *a, **k),
    )
    conditioning = policy.encode(PROMPTS)
    policy.encode([DOG])
    assert sorted(calls) == ["", "a cat", "a dog"]
    assert torch.equal(conditioning["prompt"][0], conditioning["prompt"][2])
    assert not torch.equal(conditioning["prompt"][0], conditioning["prompt"][1])


def trained_run(tiny_config, tmp_path, rank, **changes):
    """Train far enough that the result differs visibly from the base model."""
    config = tiny_config(lora={"rank": rank, "alpha": 2 * rank} if rank else {}, learning_rate=1e-2, **changes)
    return train(config).folder


@pytest.mark.parametrize("rank", [None, 2])
def test_stock_diffusers_loads_the_result_and_draws_what_ddpo_sample_draws(tiny_config, tiny_pipeline, tmp_path, rank):
    folder = trained_run(tiny_config, tmp_path, rank)
    config, weights = sampling_config(str(folder.path), device="cpu")
    files = draw_to_files(config, weights, ["a cat"], number=2, seed=7, output=tmp_path / "pictures")
    ours = np.stack([np.asarray(_open(file)) for file in files]) / 255

    stock = StableDiffusionPipeline.from_pretrained(tiny_pipeline())
    base = stock_pictures(stock, [CAT] * 2, [7, 8], guidance_scale=config.guidance_scale)
    if rank is None:
        stock.unet = UNet2DConditionModel.from_pretrained(folder.model)
    else:
        stock.load_lora_weights(folder.model)
        scaling = {m.scaling["default_0"] for m in stock.unet.modules() if hasattr(m, "scaling") and m.scaling}
        assert scaling == {2.0}  # alpha / rank = 2 r / r is kept
    theirs = stock_pictures(stock, [CAT] * 2, [7, 8], guidance_scale=config.guidance_scale)
    assert np.abs(ours - theirs).max() <= 1 / 255 + 1e-6
    assert np.abs(ours - base).max() > 3 / 255


def _open(file):
    from PIL import Image

    return Image.open(file)


@pytest.mark.parametrize(
    ("prediction_type", "set_alpha_to_one", "rank", "precision"),
    # half of all: any three settings meet in every way, and the fourth takes turns
    [
        (prediction_type, alpha, rank, "bf16" if (prediction_type == "epsilon") ^ alpha ^ (rank is None) else "fp32")
        for prediction_type, alpha, rank in itertools.product(["epsilon", "v_prediction"], [True, False], [None, 2])
    ],
)
def test_every_kind_of_pipeline_trains(tiny_config, prediction_type, set_alpha_to_one, rank, precision):
    config = tiny_config(
        scheduler={"prediction_type": prediction_type, "set_alpha_to_one": set_alpha_to_one},
        lora={"rank": rank},
        precision=precision,
        algorithm={"name": "ddpo-is", "clip_range": 1e-4},
    )
    result = train(config)
    assert len(result.metrics) == 2
    assert all(m["ratio/max_error_at_start"] <= 1e-5 for m in result.metrics)
    assert all(m["gradient_norm"] > 0 for m in result.metrics)


@pytest.mark.parametrize(
    ("name", "message"),
    [("./no-such-folder", "no folder"), ("no such thing", "no folder"), ("a/b/c", "hub id of the form owner/name")],
)
def test_a_model_that_does_not_exist_is_named(name, message):
    with pytest.raises(ModelError, match=message):
        ModelSource(name=name).resolve()


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"model_index\.json"):
        ModelSource(name=str(tmp_path)).resolve()


def test_another_kind_of_pipeline_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(ModelError, match="StableDiffusionXLPipeline"):
        load(tmp_path)


def test_an_incomplete_pipeline_is_refused(tiny_pipeline, tmp_path):
    import shutil

    shutil.copytree(tiny_pipeline(), tmp_path / "cut")
    (tmp_path / "cut" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load(tmp_path / "cut")


def test_weights_cut_in_the_middle_are_refused(tiny_pipeline, tmp_path):
    import shutil

    shutil.copytree(tiny_pipeline(), tmp_path / "cut")
    weights = tmp_path / "cut" / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"text_encoder/model.safetensors is damaged"):
        load(tmp_path / "cut")


def test_unmatched_lora_targets_are_refused(tiny_pipeline):
    with pytest.raises(ModelError, match=r"lora\.target_modules"):
        load(tiny_pipeline(), lora=LoRA(rank=2, target_modules=["nothing"]))


def test_guidance_one_trains(tiny_config):
    assert len(train(tiny_config(guidance_scale=1.0)).metrics) == 2


def test_the_hub_id_path_asks_for_revision_and_variant(monkeypatch):
    import diffusers

    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        raise OSError("no such file")

    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "load_config", lambda *a, **k: {"_class_name": "StableDiffusionPipeline"}
    )
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "download", download)
    config = parse_config(
        {"model": {"name": "owner/name", "revision": "main", "variant": "fp16", "local_files_only": True}}
    )
    with pytest.raises(ModelError, match="owner/name cannot be loaded: no such file"):
        StableDiffusionPolicy.from_source(config.model, PolicySettings())
    assert (asked["name"], asked["revision"], asked["variant"]) == ("owner/name", "main", "fp16")
    assert asked["local_files_only"] is True
    assert asked["use_safetensors"] is True
