"""`ddpo.train` with what people have in their hands: a pipeline, a policy, a list, a function."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tiny_pipeline import build_pipeline

import ddpo
from ddpo.algorithms import DDPOImportanceSampling
from ddpo.config import load_config, parse_config
from ddpo.core.forward_process import VariancePreserving
from ddpo.core.kernel import ddim
from ddpo.media import Array
from ddpo.policies import NetworkPolicy, PolicySettings
from ddpo.policies.lora import LoRA
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.prompts import Prompt, load_prompts
from ddpo.runs.checkpoints import Checkpoints
from ddpo.runtime.errors import ConfigError, DDPOError, ModelError, RewardError
from ddpo.runtime.plugins import reference
from ddpo.training.run import train_or_resume

SMALL = {
    "iterations": 2,
    "samples_per_iteration": 4,
    "updates_per_iteration": 1,
    "batch_size": 4,
    "sampler": {"steps": 3},
    "algorithm": {"name": "ddpo-is", "clip_nats": 1.64},
    "learning_rate": 1e-3,
    "evaluation": {"number": 2, "every": None},
    "device": "cpu",
    "threads": 1,
    "precision": "fp32",
    "quiet": True,
}


def redness(images, prompts, metadata):
    """How red pictures are, (B,)."""
    return images[:, 0].mean((1, 2))


def red_lambda():
    """A reward that has no name to load it by."""
    return lambda images, prompts, metadata: images[:, 0].mean((1, 2))


class Judge:
    """A reward that is an object."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, images, prompts, metadata):
        return [self.weight * float(image.mean()) for image in images]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- a pipeline and a lambda ---


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    """A run on a pipeline in memory towards red pictures by a lambda, the pipeline and the weights it began with."""
    pipeline = build_pipeline()
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        result = ddpo.train(
            model=pipeline,
            prompts=["a cat", "a dog"],
            reward=red_lambda(),
            **SMALL,
        )
        folder = result.folder.path.resolve()
    return result, folder, pipeline, before


def test_a_pipeline_a_list_and_a_lambda_make_a_run(red):
    result, folder, pipeline, before = red
    assert len(result.metrics) == 2
    assert folder.parts[-2:] == ("runs", "lambda")  # named after the reward
    trained = load_file(folder / "model" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(trained[name], value) for name, value in pipeline.unet.state_dict().items())
    assert any(not torch.equal(trained[name], value) for name, value in before.items())
    recorded = load_config(folder / "config.yaml")
    assert recorded.prompts == [{"prompt": "a cat"}, {"prompt": "a dog"}] or recorded.prompts == ["a cat", "a dog"]
    assert (recorded.iterations, recorded.sampler.steps, recorded.guidance_scale) == (2, 3, 5.0)
    assert recorded.reward.startswith("a Python object, ")


def test_the_settings_are_the_papers_and_not_those_of_a_recipe(red):
    recorded = load_config(red[1] / "config.yaml")
    assert (recorded.learning_rate, recorded.advantage.clip, recorded.lora.rank) == (1e-3, 5.0, None)
    assert recorded.samples_per_prompt == 1


def test_a_run_goes_on_with_the_objects_it_began_with(red, tmp_path):
    _, folder, pipeline, _ = red
    with pytest.raises(DDPOError) as raised:
        ddpo.resume(folder, ["iterations=3"], model=pipeline, quiet=True)
    sentence = str(raised.value)
    assert sentence.startswith("reward: the run began with a Python object, ")
    assert sentence.endswith("<lambda>; give it again in Python, ddpo.resume(RUN, reward=...).")
    with pytest.raises(ConfigError, match=r"model: the run began with .*ddpo\.resume\(RUN, model=\.\.\.\)"):
        ddpo.resume(folder, ["iterations=3"], reward=redness, quiet=True)
    again = ddpo.resume(folder, ["iterations=3"], model=build_pipeline(), reward=red_lambda(), quiet=True)
    assert [row["iteration"] for row in again.metrics] == [1, 2, 3]


def test_going_on_is_exact_with_objects_too(here):
    def reward(images, prompts, metadata):
        return images[:, 0].mean((1, 2))

    given = {"prompts": ["a cat", "a dog"], "reward": reward}
    whole = ddpo.train(model=build_pipeline(), output=here / "whole", **given, **SMALL)
    short = ddpo.train(model=build_pipeline(), output=here / "short", **given, **SMALL | {"iterations": 1})
    longer = ddpo.resume(short.folder.path, ["iterations=2"], model=build_pipeline(), reward=reward, quiet=True)
    ours, theirs = (
        load_file(Checkpoints(each.folder.checkpoints).get().folder / "training.safetensors")
        for each in (longer, whole)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_pipeline_of_another_family_is_refused(here):
    class FluxPipeline:
        pass

    with pytest.raises(ModelError, match=r"a FluxPipeline object; ddpo trains StableDiffusionPipeline"):
        ddpo.train(model=FluxPipeline(), reward=redness, **SMALL)
    assert not list(here.iterdir())


def test_something_that_is_no_reward_is_refused_before_the_model_is_loaded(here):
    with pytest.raises(RewardError):
        ddpo.train(model=object(), prompts=["a cat"], reward=lambda images: images, **SMALL)
    with pytest.raises(ConfigError, match=r"iteratoins: unknown key\. Did you mean 'iterations'\?"):
        ddpo.train(model=object(), prompts=["a cat"], reward=redness, iteratoins=3)


# --- rewards and names ---


@pytest.mark.parametrize(
    ("reward", "name"),
    [(redness, "redness"), (Judge(2.0), "Judge"), ({redness: 1, "jpeg-compressibility": 0.5}, "sum")],
)
def test_a_run_is_called_as_its_reward(here, conv, reward, name):
    result = ddpo.train(policy=conv, reward=reward, prompts=("a cat",), **SMALL | {"iterations": 1})
    assert result.folder.path.resolve() == here / "runs" / name
    assert next(iter(result.labels)) == name
    again = ddpo.train(policy=conv, reward=reward, prompts=("a cat",), **SMALL | {"iterations": 1})
    assert again.folder.path.name == f"{name}-2"


def test_a_name_that_is_given_wins(here, conv):
    result = ddpo.train(policy=conv, reward=redness, prompts=["a cat"], name="mine", **SMALL | {"iterations": 1})
    assert result.folder.path.name == "mine"


def test_settings_change_a_configuration_or_recipe(here, conv):
    config = parse_config({key: value for key, value in SMALL.items() if key != "quiet"})
    result = ddpo.train(config, policy=conv, reward=redness, prompts=["a cat"], iterations=1, sampler={"steps": 3},
                        quiet=True)  # fmt: skip
    recorded = load_config(result.folder.config)
    assert (recorded.iterations, recorded.samples_per_iteration, recorded.learning_rate) == (1, 4, 1e-3)


# --- prompts ---


def animals(number=2):
    """Prompts by a function."""
    return [f"animal {index}" for index in range(number)]


@pytest.mark.parametrize(
    ("prompts", "texts"),
    [
        (("a cow", {"prompt": "a pig", "animal": "pig"}), ["a cow", "a pig"]),
        ([Prompt("a cow"), Prompt("a pig", {"tensor": torch.ones(2)})], ["a cow", "a pig"]),
        (animals, ["animal 0", "animal 1"]),
        ({"name": f"{__file__}:animals", "number": 3}, ["animal 0", "animal 1"]),
        (f"{__file__}:animals", ["animal 0", "animal 1"]),
    ],
)
def test_prompts_of_every_kind(here, conv, prompts, texts):
    seen = []

    def reward(images, given, metadata):
        seen.append(given)
        return images.mean((1, 2, 3))

    ddpo.train(policy=conv, reward=reward, prompts=prompts, **SMALL | {"iterations": 1})
    assert seen[0][0] == texts[0]  # the fixed samples come first
    assert {text for batch in seen for text in batch} <= {*texts, "animal 2"}


def test_prompts_that_no_configuration_holds_are_given_again(here, conv):
    prompts = [Prompt("a cow", {"tensor": torch.ones(2)})]
    result = ddpo.train(policy=conv, reward=redness, prompts=prompts, **SMALL | {"iterations": 1})
    with pytest.raises(ConfigError, match=r"prompts: the run began with a Python object, .*RUN, prompts=\.\.\.\)"):
        ddpo.resume(result.folder.path, ["iterations=2"], policy=conv, quiet=True)
    with pytest.raises(ConfigError, match=r"policy: the run began with a Python object, .*RUN, policy=\.\.\.\)"):
        ddpo.resume(result.folder.path, ["iterations=2"], prompts=prompts, quiet=True)
    longer = ddpo.resume(result.folder.path, ["iterations=2"], policy=conv, prompts=prompts, quiet=True)
    assert len(longer.metrics) == 2


# --- policies ---


@pytest.fixture
def conv(conv_policy, ddim_config):
    return conv_policy(ddim_config(), steps=3)


class Points(NetworkPolicy):
    """Draws points in the plane; its defaults are no recipe's."""

    medium = Array()
    defaults = {"prompts": "none", "sampler": {"steps": 4}, "guidance_scale": 1.0}  # noqa: RUF012

    def __init__(self, settings, width=8):
        schedule = VariancePreserving.cosine()
        network = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.SiLU(), torch.nn.Linear(width, 2))
        super().__init__(network, settings.kernel(schedule), schedule, (2,), settings.device)

    def predict(self, x, time_B, conditioning, *, guided):
        return self.network(torch.cat([x, time_B[:, None] / 1000], 1))


def upwards(points, prompts, metadata):
    assert points.shape[1:] == (2,)
    return points[:, 1]


POINTS = {key: value for key, value in SMALL.items() if key != "sampler"}


@pytest.mark.parametrize("spec", ["class", "path", "options", "object"])
def test_a_policy_of_ones_own_trains(here, spec):
    policies = {
        "class": Points,
        "path": f"{__file__}:Points",
        "options": {"name": f"{__file__}:Points", "width": 8},
        "object": Points(PolicySettings(partial(ddim, steps=4))),
    }
    result = ddpo.train(policy=policies[spec], reward=upwards, **POINTS)
    assert result.folder.path.name == "upwards"
    recorded = load_config(result.folder.config)
    assert (recorded.prompts, recorded.sampler.steps, recorded.guidance_scale) == ("none", 4, 1.0)
    assert load_file(result.folder.model / "model.safetensors")["0.weight"].shape == (8, 3)
    policy = {} if spec != "object" else {"policy": Points(PolicySettings(partial(ddim, steps=4)))}
    assert len(ddpo.resume(result.folder.path, ["iterations=3"], quiet=True, **policy).metrics) == 3


def test_a_policy_of_ones_own_starts_with_the_same_weights_in_a_repeated_run(here):
    results = [
        ddpo.train(policy=Points, reward=upwards, output=here / name, **POINTS | {"iterations": 1})
        for name in ("first", "second")
    ]
    assert results[0].metrics[0]["reward/mean"] == results[1].metrics[0]["reward/mean"]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (torch.nn.Linear(1, 1), r"policy"),
        (lambda settings: 3, r"lacks kernel, .*; derive it from ddpo\.policies\.NetworkPolicy"),
        (lambda settings: settings.no_such, r"policy raised AttributeError: .*no_such"),
        (f"{__file__}:NoSuch", r"has no 'NoSuch'"),
        (3, r"policy is a int, not a policy"),
    ],
)
def test_what_is_no_policy_is_refused_in_one_sentence(here, policy, message):
    with pytest.raises(ModelError, match=message) as raised:
        ddpo.train(policy=policy, reward=upwards, prompts="none", **SMALL)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(here.iterdir())


def test_a_reward_of_another_medium_is_refused(here):
    with pytest.raises(RewardError, match=r"'jpeg-compressibility' scores samples of the medium 'image', not 'array'"):
        ddpo.train(policy=Points, reward="jpeg-compressibility", **POINTS)
    assert not list(here.iterdir())


# --- what is recorded is what goes on ---


@pytest.mark.parametrize(
    "given",
    [
        {"reward": "jpeg-incompressibility"},
        {"reward": {"name": "jpeg-compressibility", "quality": 50}},
        {"reward": {"jpeg-compressibility": 1, "jpeg-incompressibility": 2}},
        {"reward": {redness: 2, "jpeg-compressibility": 1}},
        {"policy": {"name": f"{__file__}:Points"}, "reward": upwards, "prompts": "none"},
        {"sampler": "ancestral", "algorithm": "rwr", "updates_per_iteration": 2},
    ],
)
def test_a_configuration_that_was_changed_in_python_goes_on_without_a_word(here, conv, given):
    # What `train` puts into the configuration and what `resume` reads from the run folder must be the same settings.
    config = parse_config({key: value for key, value in SMALL.items() if key != "quiet"} | {"iterations": 1})
    policy = {} if "policy" in given else {"policy": conv}
    result = ddpo.train(config, quiet=True, **policy | given)
    assert len(ddpo.resume(result.folder.path, ["iterations=2"], quiet=True, **policy).metrics) == 2


class Gentle(DDPOImportanceSampling):
    """An algorithm of one's own."""

    name: str = "gentle"
    clip_nats: float | None = 0.5
    strength: float = 0.5

    def loss(self, policy, batch):
        loss, metrics = super().loss(policy, batch)
        return self.strength * loss, metrics


@pytest.mark.parametrize("algorithm", [Gentle, Gentle(strength=0.25)])
def test_an_algorithm_is_a_class_or_an_object(here, conv, algorithm):
    settings = {key: value for key, value in SMALL.items() if key != "algorithm"}
    result = ddpo.train(policy=conv, prompts=["a cat"], reward=redness, algorithm=algorithm, **settings)
    recorded = load_config(result.folder.config).algorithm
    assert recorded.name.endswith("test_python.py:Gentle")
    assert recorded.strength == (0.5 if isinstance(algorithm, type) else 0.25)


def test_a_policy_in_place_of_a_model_leaves_no_room_for_a_model(here, conv):
    with pytest.raises(ConfigError, match="takes the place of the model; give one of the two"):
        ddpo.train(policy=conv, model="embedded", reward=redness, prompts=["a cat"], **SMALL)


def test_prompts_with_tensors_or_without_text(here, conv):
    given = [{"prompt": "a cat", "colour": torch.ones(3)}, Prompt("", {"class": 3})]
    result = ddpo.train(policy=conv, prompts=given, reward=redness, **SMALL)
    with pytest.raises(ConfigError, match="prompts: the run began with a Python object"):
        ddpo.resume(result.folder.path, policy=conv, reward=redness, quiet=True)
    classes = ddpo.train(policy=conv, prompts=[Prompt("", {"class": 3})], reward=redness, **SMALL)
    assert load_prompts(load_config(classes.folder.config).prompts).prompts == (Prompt("", {"class": 3}),)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_pipeline_in_half_precision_is_trained_in_float32(dtype):
    policy = StableDiffusionPolicy(build_pipeline().to(dtype), PolicySettings(kernel=partial(ddim, steps=2)))
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}


def test_a_pipeline_that_has_adapters_is_refused():
    pipeline, settings = build_pipeline(), PolicySettings(lora=LoRA(rank=2))
    StableDiffusionPolicy(pipeline, settings)
    with pytest.raises(ModelError, match="has adapters already"):
        StableDiffusionPolicy(pipeline, settings)


def test_what_stands_in_no_file_is_a_python_object():
    space = {"__name__": "notebook"}
    exec("class Points: pass\ndef red(): pass", space)
    assert reference(space["Points"]) == "a Python object, Points"
    assert reference(space["red"]) == "a Python object, red"


def test_a_script_that_trains_when_it_is_imported_is_refused(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import ddpo\ndef red(images, prompts, metadata): return [0.0]\nddpo.train(reward=red)\n")
    with pytest.raises(DDPOError, match=r"script\.py starts a training when it is imported"):
        ddpo.train(reward=f"{script}:red", quiet=True)


def test_the_same_command_leaves_a_run_that_ended_early_as_it_is(tmp_path):
    tree = {key: value for key, value in POINTS.items() if key != "quiet"}
    tree |= {"policy": f"{__file__}:Points", "prompts": "none", "reward": f"{__file__}:upwards"}
    config = parse_config(tree | {"output": tmp_path / "run", "stop_when": ["gradient_norm >= 0"]})
    for _ in range(2):
        assert len(train_or_resume(config, quiet=True).metrics) == 1
    assert len(ddpo.resume(tmp_path / "run", quiet=True).metrics) == 2
